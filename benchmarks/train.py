"""A training step, InceptionResNetV2 at 299 px: this package, Keras as it comes, and timm's network in plain PyTorch.

    python benchmarks/train.py --batch 8
    python benchmarks/train.py --batch 32 --stacks ours pytorch      # two at a time fit into 24 GB
    python benchmarks/train.py --precision float32

Every stack learns from the same random images with focal loss and Adam. The precision is what the package chooses for
this machine, unless it is given; the notebook's own stack, Keras on TensorFlow, always runs in float32 too.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from turns import NotHere, Work, main

SIZE_PX = 299
Arguments = argparse.Namespace


def data(options: Arguments) -> tuple[Any, Any]:
    """Draw images uint8 (batch, 299, 299, 3) and targets float32 (batch, 1), the first one a melanoma."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (options.batch, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    targets = (random.random((options.batch, 1)) < 0.5).astype(np.float32)
    targets[0] = 1
    return images, targets


def policy(options: Arguments) -> str:
    """Return the Keras dtype policy to time: where none is given, what the package chooses on PyTorch.

    It is asked in a process of its own, since a process has one backend.
    """
    if options.precision:
        return str(options.precision)
    code = "from melanoma.config import TrainSettings; from melanoma.training.train import precision; "
    command = [sys.executable, "-c", code + "print(precision(TrainSettings()))"]
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]


def keras_stack(backend: str, *, plain: bool, only: str | None = None) -> Callable[[Arguments], Work]:
    """Make a stack that trains by Keras on a backend; plain: by Keras' own layers and optimizer."""

    def stack(options: Arguments) -> Work:
        chosen = only or policy(options)
        if importlib.util.find_spec(backend) is None:
            raise NotHere(f"{backend} is not installed; pip install '.[{backend}]'")
        os.environ["KERAS_BACKEND"] = backend
        from melanoma.config import ImageSettings, ModelSettings, TrainSettings
        from melanoma.machine import keep_memory
        from melanoma.models.backend import BACKEND, keras
        from melanoma.models.classifier import build_classifier
        from melanoma.models.losses import focal_loss
        from melanoma.training.train import build_optimizer

        assert backend == BACKEND
        if not plain:
            keep_memory()  # as the package's own training does
        keras.config.set_dtype_policy(chosen)
        settings = ModelSettings(backbone="InceptionResNetV2", weights="none")
        model = build_classifier(settings, ImageSettings(size_px=SIZE_PX), plain=plain)
        optimizer = keras.optimizers.Adam(1e-4) if plain else build_optimizer(TrainSettings(schedule="constant"), 1)
        model.compile(optimizer, focal_loss())
        images, targets = data(options)

        def work() -> int:
            assert np.isfinite(model.train_on_batch(images, targets))
            return len(images)

        return work

    return stack


def pytorch_stack(compiled: bool) -> Callable[[Arguments], Work]:
    """Make a stack of timm's network in plain PyTorch, channels-last, fused Adam, autocast where bfloat16 is asked."""

    def stack(options: Arguments) -> Work:
        import torch
        from timm_network import timm_network

        lower = policy(options).endswith("bfloat16")
        network = timm_network().to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=True)
        forward = torch.compile(network) if compiled else network
        images, targets = (torch.from_numpy(values) for values in data(options))

        def work() -> int:
            with torch.autocast("cpu", torch.bfloat16, enabled=lower):
                logits = forward(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
            entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
            right = torch.exp(-entropy)
            alpha = targets * 0.25 + (1 - targets) * 0.75
            loss = (alpha * (1 - right) ** 2 * entropy).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            assert np.isfinite(loss.item())
            return len(images)

        return work

    return stack


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the batch size and the precision."""
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--precision", choices=["float32", "mixed_bfloat16"], help="default: what the package chooses")


STACKS = {
    "ours": keras_stack("torch", plain=False),
    "pytorch": pytorch_stack(compiled=False),
    "pytorch-compiled": pytorch_stack(compiled=True),
    "keras-torch": keras_stack("torch", plain=True),
    "keras-tensorflow-float32": keras_stack("tensorflow", plain=True, only="float32"),
    "keras-tensorflow": keras_stack("tensorflow", plain=True),
    "keras-jax": keras_stack("jax", plain=True),
}

if __name__ == "__main__":
    main(STACKS, unit="images", ours=["ours"], description="A training step, images a second.", arguments=arguments)
