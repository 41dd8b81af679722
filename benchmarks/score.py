"""Scoring: InceptionResNetV2 at 299 px, bytes to logits, by every stack that can, and by the package's own bundle.

Random weights and random images: the speed depends on neither. Every stack that has Keras' weights is compared with
Keras before it is timed; timm's network is the same one by another hand, with weights of its own.
"""

import argparse
import hashlib
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import turns

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime is imported by any stack
SIZE_PX, IMAGES = 299, 32
FLOAT32, BFLOAT16, INT8 = 1e-3, 0.05, 0.3  # that features may be off by, relative to their spread
FOLDER = Path(tempfile.gettempdir()) / f"melanoma-score-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"
NETWORK, QUANTIZED, PLAIN, FEATURES = (FOLDER / name for name in ("a.onnx", "a.int8.onnx", "plain.onnx", "a.npy"))


def images() -> np.ndarray:
    """Draw the images: uint8 (IMAGES, SIZE_PX, SIZE_PX, 3)."""
    return np.random.default_rng(0).integers(0, 256, (IMAGES, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def network() -> Any:
    """Build Keras' own network on the chosen backend, answering as a bundle does, every number drawn from a seed."""
    from melanoma.config import settings_from
    from melanoma.models.classifier import answering, build_classifier

    sections = {"model": {"backbone": "InceptionResNetV2", "metadata": False}, "images": {"size_px": SIZE_PX}}
    settings = settings_from(sections)
    built = answering(build_classifier(settings.model, settings.images, weights="none", plain=True))
    random = np.random.default_rng(0)
    for weight in built.weights:
        if len(weight.shape) > 1:  # as He et al. start them, so that maps neither vanish nor overflow
            weight.assign(random.normal(0, np.sqrt(2 / np.prod(weight.shape[:-1])), weight.shape))
        elif weight.path.endswith("moving_variance"):
            weight.assign(random.uniform(0.8, 1.2, weight.shape))
        elif weight.path.endswith(("beta", "moving_mean")):
            weight.assign(random.normal(0, 0.1, weight.shape))
    return built


def export() -> None:
    """Write the network by the package, in float32 and int8, and as PyTorch exports it; features.npy comes last."""
    import torch

    from melanoma.training import export as exporting
    from melanoma.training.quantize import quantize_network

    FOLDER.mkdir(exist_ok=True)
    built, pixels = network(), images()
    exporting.write_onnx(NETWORK, built, pixels, None)
    exporting.folded, exporting._simplify = lambda given: given, lambda path: None
    exporting.write_onnx(PLAIN, built, pixels, None)
    quantize_network(QUANTIZED, NETWORK, pixels[:16], None)
    with torch.no_grad():
        np.save(FEATURES, built.predict_on_batch(pixels[:8].astype(np.float32))[2])


def equal(found: Any, tolerance: float) -> None:
    """Refuse to time a stack whose features of the first images are not Keras'."""
    expected = np.load(FEATURES)
    off = float(np.abs(np.asarray(found, np.float32)[:8] - expected).max() / expected.std())
    assert off <= tolerance, f"off by {off} of the features' spread"
    print(f"off by {off:.1e} of the features' spread, {tolerance} allowed")


def ours(engine: str = "auto", precision: str = "auto") -> turns.Stack:
    """Score by the package, from an array that lies on disk as the cache does."""

    def stack(options: argparse.Namespace) -> turns.Work:
        del options
        from melanoma.inference.engine import Engine, choose
        from melanoma.inference.scoring import score

        pixels = np.lib.format.open_memmap(FOLDER / f"{engine}-{precision}.npy", "w+", np.uint8, images().shape)
        pixels[:] = images()
        choice = choose(engine, precision)
        print(choice)
        opened = Engine(QUANTIZED if choice.precision == "int8" else NETWORK, choice)
        equal(
            opened.answer(pixels[:8]).features,
            {"float32": FLOAT32, "bfloat16": BFLOAT16, "int8": INT8}[choice.precision],
        )
        rows = np.arange(len(pixels))
        return lambda: len(score(opened, pixels, rows))

    return stack


def keras_predict(backend: str) -> turns.Stack:
    """Keras' own `predict`, plain layers."""

    def stack(options: argparse.Namespace) -> turns.Work:
        os.environ["KERAS_BACKEND"] = backend
        built, pixels = network(), images().astype(np.float32)
        equal(built.predict_on_batch(pixels[:8])[2], FLOAT32)
        return lambda: len(built.predict(pixels, batch_size=options.batch, verbose=0)[0])

    return stack


def onnxruntime_session(path: Path) -> turns.Stack:
    """ONNX Runtime as its documentation shows it: a session on all cores, a batch at a time."""

    def stack(options: argparse.Namespace) -> turns.Work:
        import onnxruntime

        session, pixels = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), images()
        equal(session.run(["features"], {"image": pixels[:8]})[0], FLOAT32)
        return lambda: sum(
            len(session.run(["logit"], {"image": pixels[start : start + options.batch]})[0])
            for start in range(0, IMAGES, options.batch)
        )

    return stack


def openvino_latency(path: Path, precision: str) -> turns.Stack:
    """OpenVINO with its `LATENCY` hint, a batch at a time."""

    def stack(options: argparse.Namespace) -> turns.Work:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        import openvino

        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        compiled, pixels = openvino.Core().compile_model(path, "CPU", hints), images()
        equal(compiled(pixels[:8])["features"], FLOAT32 if precision == "f32" else BFLOAT16)
        return lambda: sum(
            len(compiled(pixels[start : start + options.batch])["logit"]) for start in range(0, IMAGES, options.batch)
        )

    return stack


def plain_pytorch(precision: str, compiled: bool = False) -> turns.Stack:
    """timm's network in PyTorch, channels last."""

    def stack(options: argparse.Namespace) -> turns.Work:
        import torch
        from timm_network import timm_network

        dtype = getattr(torch, precision)
        built = timm_network().eval().to(dtype).to(memory_format=torch.channels_last)
        called = torch.compile(built) if compiled else built
        pixels = torch.from_numpy(images())

        @torch.inference_mode()
        def work() -> int:
            done = 0
            for start in range(0, IMAGES, options.batch):
                part = pixels[start : start + options.batch].permute(0, 3, 1, 2)  # a view, already channels last
                logits = called(part.to(dtype) / 127.5 - 1)
                done += len(logits)
            assert torch.isfinite(logits).all()
            return done

        return work

    return stack


STACKS: dict[str, turns.Stack] = {
    "melanoma, default engine": ours(),
    "melanoma, ONNX Runtime": ours("onnxruntime", "float32"),
    "melanoma, int8": ours("auto", "int8"),
    "Keras predict on PyTorch, fp32": keras_predict("torch"),
    "Keras predict on TensorFlow, fp32": keras_predict("tensorflow"),
    "ONNX Runtime, as PyTorch exports it, fp32": onnxruntime_session(PLAIN),
    "ONNX Runtime, our export, fp32": onnxruntime_session(NETWORK),
    "OpenVINO LATENCY, our export, fp32": openvino_latency(NETWORK, "f32"),
    "OpenVINO LATENCY, our export, bf16": openvino_latency(NETWORK, "bf16"),
    "PyTorch channels last, fp32": plain_pytorch("float32"),
    "PyTorch channels last, bf16": plain_pytorch("bfloat16"),
    "the same compiled, fp32": plain_pytorch("float32", compiled=True),
    "the same compiled, bf16": plain_pytorch("bfloat16", compiled=True),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the batch."""
    parser.add_argument("--batch", type=int, default=32, help="images at once, of the stacks that are not ours")


if __name__ == "__main__":
    if not FEATURES.exists():  # in a process of its own, whose memory the stacks then have
        process = multiprocessing.get_context("spawn").Process(target=export)
        process.start()
        process.join()
    turns.main(
        STACKS,
        unit="images",
        ours=("melanoma, default engine", "melanoma, int8"),
        description=__doc__,
        arguments=arguments,
    )
