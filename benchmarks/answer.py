"""What answering costs: a cold start, a folder beside the engine's own rate, memory, and equality with Keras.

python benchmarks/answer.py --model RUN --pictures FOLDER [--run RUN]

Cold start: `melanoma predict` on one picture as a process of its own, again and again. Folder: the same command's own
loop from files to answers, in turns with the engines alone on the same pictures, read before; both on all cores.
Memory: the peak of `melanoma predict` on a quarter of the folder and on all of it. Equality, with --run, the run that
the bundle comes from: the bundle's AUC on its held-out images in float32 and in bfloat16.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from turns import machine

from melanoma.config import Settings
from melanoma.errors import MelanomaError
from melanoma.inference.inputs import find_pictures
from melanoma.inference.predict import Picture, Predictor
from melanoma.inference.words import Details

NEVER = ("keras", "torch", "tensorflow", "jax", "pandas", "sklearn")
PROBE = f"""
import resource, sys
from pathlib import Path
from melanoma.cli import main
told = Path(sys.argv.pop())
try:
    main()
finally:
    found = [name for name in {NEVER} if name in sys.modules]
    told.write_text(f"{{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}} {{found}}")
"""


def cold_start(model: str, picture: str, times: int) -> None:
    """Time the command on one picture, after one call that fills the file cache."""
    command, seconds = [sys.executable, "-m", "melanoma", "predict", picture, "--model", model], []
    for _ in range(times + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    told = f"{median(seconds[1:]):.2f} s ({min(seconds[1:]):.2f} to {max(seconds[1:]):.2f})"
    print(f"cold start, one picture: {told}; never imported but found: {probed(model, [picture])[1]}")


def probed(model: str, places: list[str]) -> tuple[int, str]:
    """Return the peak memory of the command in MiB, and what it imported that it should not."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        command = [sys.executable, "-c", PROBE, "predict", *places, "--model", model, str(told)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        memory, imported = told.read_text().split(" ", 1)
    return int(memory), imported


def folder(model: str, place: str, pairs: int) -> None:
    """Time files to answers in turns with the engines alone."""
    items = find_pictures([place])
    predictor = Predictor(model)
    with ThreadPoolExecutor(predictor.threads) as pool:
        pictures = list(pool.map(lambda item: predictor.read(item.name, item.read), items))

    def alone() -> None:
        size, known = predictor.engines[0].batch, Details()
        parts = [pictures[start : start + size] for start in range(0, len(pictures), size)]

        def judged(few: list[Picture]) -> None:
            predictor.judge(few, [known] * len(few))

        with ThreadPoolExecutor(predictor.engines[0].at_once) as pool:
            list(pool.map(judged, parts))

    def answering() -> None:
        for _ in predictor.stream((item.name, item.read, item.details) for item in items):
            pass

    alone()  # warm
    rates = []
    for _ in range(pairs):
        seconds = []
        for work in (answering, alone):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        rates.append([len(items) / one for one in seconds])
    ours, engines = np.median(rates, axis=0)
    ratios = [one / other for one, other in rates]
    print(
        f"{len(items):,} pictures by {predictor.choice}: {ours:.1f} images/s from files, {engines:.1f} by the engines "
        f"alone; ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def memory(model: str, place: str) -> None:
    """Compare the peak for a quarter of the pictures with that for all."""
    paths = [item.name for item in find_pictures([place])]
    for some in (paths[: len(paths) // 4], paths):
        print(f"peak memory, {len(some):,} pictures: {probed(model, some)[0]:,} MiB")


def equality(run: Path) -> None:
    """Compare the AUC of held-out images in both precisions, and how far single probabilities are apart."""
    from sklearn.metrics import roc_auc_score

    from melanoma import pipeline
    from melanoma.inference.bundle import read_bundle
    from melanoma.inference.engine import Choice, Engine, choose
    from melanoma.inference.scoring import score
    from melanoma.runs import open_run

    opened, bundle = open_run(run), read_bundle(run)
    settings = opened.settings()
    prepared = pipeline.reopen(opened, settings)
    try:
        choose("openvino", "bfloat16")
        by = "OpenVINO"
    except MelanomaError as error:
        print(f"{error}: bfloat16 is Keras' own, which PyTorch computes everywhere")
        by = "Keras"
    for network, encoder, path in zip(bundle.description["networks"], bundle.encoders, bundle.networks, strict=True):
        rows = prepared.held_out(network["fold"])
        metadata = encoder.features(rows) if settings.model.metadata else None
        places, images = prepared.cache.rows_of(rows["image_name"]), prepared.cache.images
        found = score(Engine(path, Choice("onnxruntime", "float32")), images, places, metadata)
        if by == "OpenVINO":
            rounded = score(Engine(path, Choice("openvino", "bfloat16")), images, places, metadata)
        else:
            rounded = by_keras(opened.weights(network["fold"]), settings, images[places], metadata)
        areas = [roc_auc_score(rows["target"], values) for values in (found, rounded)]
        print(
            f"fold {network['fold']}: against Keras on {network['largest_difference']['images']} real images, largest "
            f"difference of a probability {network['largest_difference']['probability']:.1e}; AUC of {len(rows):,} "
            f"held-out images {areas[0]:.5f} in float32, {areas[1]:.5f} in bfloat16 by {by}, single probabilities at "
            f"most {np.abs(found - rounded).max():.4f} apart"
        )


def by_keras(weights: Path, settings: Settings, images: np.ndarray, metadata: np.ndarray | None) -> np.ndarray:
    """Return the probabilities of the trained network in mixed bfloat16."""
    from melanoma.models.backend import keras
    from melanoma.models.classifier import build_classifier

    keras.config.set_dtype_policy("mixed_bfloat16")
    features = 0 if metadata is None else metadata.shape[1]
    network = build_classifier(settings.model, settings.images, features, weights="none", plain=True)
    network.load_weights(weights)
    given = images if metadata is None else [images, metadata]
    return np.asarray(network.predict(given, batch_size=64, verbose=0))[:, 0]


def main() -> None:
    """Measure all of it, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a bundle or a run")
    parser.add_argument("--pictures", required=True, help="a folder of pictures")
    parser.add_argument("--run", type=Path, help="the run of the bundle, for equality; needs the train extra")
    parser.add_argument("--times", type=int, default=9, help="cold starts")
    parser.add_argument("--pairs", type=int, default=5, help="turns of the folder")
    given = parser.parse_args()
    os.environ.setdefault("COLUMNS", "200")
    print(machine())
    cold_start(given.model, find_pictures([given.pictures])[0].name, given.times)
    folder(given.model, given.pictures, given.pairs)
    memory(given.model, given.pictures)
    if given.run:
        equality(given.run)


if __name__ == "__main__":
    main()
