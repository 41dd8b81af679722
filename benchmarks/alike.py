"""How far the fast walk is from Keras' own layers: outputs, gradients, and a trained run's AUC in bfloat16.

    python benchmarks/alike.py
    python benchmarks/alike.py --run runs/NAME          # a trained run, on its own held-out images

Differences are norms, relative to the plain network's. In training mode batch normalisation of a random network
magnifies what float32 rounds away, so both are held to the same network in float64 there.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import pandas as pd
import torch
from turns import machine

from melanoma.config import ImageSettings, ModelSettings
from melanoma.data.records import read_dataset
from melanoma.evaluation.metrics import auc
from melanoma.models.backbones import build_backbone
from melanoma.models.backend import keras
from melanoma.models.channels_last import channels_last
from melanoma.models.classifier import build_classifier
from melanoma.prepare import prepare_images
from melanoma.runs import open_run

Arrays = list[np.ndarray]


def main() -> None:
    """Print every difference."""
    parser = argparse.ArgumentParser(description="The fast walk against Keras' own layers.")
    parser.add_argument("--backbone", default="InceptionResNetV2")
    parser.add_argument("--size", type=int, default=299, help="pixels")
    parser.add_argument("--batch", type=int, default=4, help="images")
    parser.add_argument("--run", type=Path, help="a trained run, whose AUC is compared in float32 and bfloat16")
    options = parser.parse_args()
    print(f"machine: {machine()}")
    random_network(options)
    if options.run:
        trained_run(options.run)


def random_network(options: argparse.Namespace) -> None:
    """Compare a network of random weights, with statistics of the images (inference) and of the batch (training)."""
    keras.utils.set_random_seed(0)
    settings = ModelSettings(backbone=options.backbone, weights="none")
    plain = build_backbone(settings, options.size, plain=True)
    start = plain.get_weights()
    images = np.random.default_rng(0).normal(size=(options.batch, options.size, options.size, 3))
    for training in (False, True):
        found = {}
        for name, network in (("plain", plain), ("fast", channels_last(plain))):
            plain.set_weights(start)
            found[name] = _values_and_gradients(network, images, training)
        named = f"{options.backbone} at {options.size} px, {'training' if training else 'inference'}"
        _tell(f"{named}, fast against plain", found["plain"], found["fast"])
        if training:
            keras.config.set_dtype_policy("float64")
            exact = build_backbone(settings, options.size, plain=True)
            keras.config.set_dtype_policy("float32")
            exact.set_weights([weight.astype(np.float64) for weight in start])
            reference = _values_and_gradients(exact, images, training)
            for name, values in found.items():
                _tell(f"{named}, {name} against float64", reference, values)


def _values_and_gradients(network: Any, images: np.ndarray, training: bool) -> tuple[Arrays, Arrays]:
    """Return the output, and the gradients of the images and of every weight, in training but for the biases.

    Most of those are nothing but rounding there: a normalisation takes its convolution's bias out again.
    """
    dtype = network.trainable_weights[0].value.dtype
    given = torch.tensor(images, dtype=dtype, requires_grad=True)
    answer = network(given, training=training)
    pull = torch.tensor(np.random.default_rng(1).normal(size=tuple(answer.shape)), dtype=dtype)
    (answer * pull).sum().backward()
    weights = [weight for weight in network.trainable_weights if not (training and weight.path.endswith("/bias"))]
    gradients = [given.grad.numpy(), *(weight.value.grad.numpy().copy() for weight in weights)]
    network.zero_grad()
    return [answer.detach().numpy()], gradients


def _tell(what: str, expected: tuple[Arrays, Arrays], found: tuple[Arrays, Arrays]) -> None:
    outputs, gradients = (
        [np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in zip(*pair, strict=True)]
        for pair in zip(expected, found, strict=True)
    )
    print(
        f"{what}: output {outputs[0]:.1e}, images' gradient {gradients[0]:.1e}, "
        f"weights' gradients {np.median(gradients):.1e} (median), {max(gradients):.1e} (largest)"
    )


def trained_run(folder: Path) -> None:
    """Print a run's held-out AUC by the plain network in float32, and by the fast one in both precisions."""
    run = open_run(folder)
    settings = run.settings()
    assert not settings.model.metadata, "a run without the metadata tower is wanted"
    known = json.loads(run.data.read_text())
    dataset = read_dataset(Path(known["folder"]))
    held_out = pd.read_csv(run.predictions).query("fold == 0")
    table = dataset.train[dataset.train["image_name"].isin(held_out["image_name"])]
    cache, _ = prepare_images(replace(dataset, test=None), table, settings.images, Path(known["cache"]))
    images = cache.images[cache.rows_of(held_out["image_name"])].astype(np.float32)
    areas = {}
    for name, policy, plain in (
        ("plain, float32", "float32", True),
        ("fast, float32", "float32", False),
        ("fast, bfloat16", "mixed_bfloat16", False),
    ):
        keras.config.set_dtype_policy(policy)
        size = ImageSettings(size_px=settings.images.size_px)
        network = build_classifier(settings.model, size, weights="none", plain=plain)
        network.load_weights(run.weights(0))
        answers = [network.predict_on_batch(images[at : at + 32])[:, 0] for at in range(0, len(images), 32)]
        areas[name] = float(auc(held_out["target"].to_numpy(), np.concatenate(answers)) or np.nan)
    keras.config.set_dtype_policy("float32")
    first = next(iter(areas.values()))
    for name, area in areas.items():
        print(f"{folder.name}, {len(images):,} held-out images, {name}: AUC {area:.5f} ({area - first:+.5f})")


if __name__ == "__main__":
    main()
