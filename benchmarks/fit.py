"""The whole training of a fold against its bare steps: what feeding, augmentation, bookkeeping and screen cost.

    python benchmarks/fit.py
    python benchmarks/fit.py --backbone MobileNet_0.75 --size 128 --batch 32 --steps 60

fit: `train_fold` on a memory-mapped cache of random images, the epoch's steps alone (their rate is what it prints).
bare: the same network and optimizer, one batch that lies in memory, augmented or not, over and over.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from turns import Work, main

Arguments = argparse.Namespace


def settings(options: Arguments) -> Any:
    """Return the settings of one short epoch."""
    from melanoma.config import load_settings

    return load_settings(
        "notebook",
        [
            f"images.size_px={options.size}",
            f"model.backbone={options.backbone}",
            "model.weights=none",
            "train.epochs=1",
            f"train.batch_size={options.batch}",
            "train.monitor=val_loss",
        ],
    )


def drawn(options: Arguments, folder: Path) -> tuple[Any, pd.DataFrame]:
    """Make a cache of random images on disk, and its table: enough for the steps, and a batch to validate on."""
    from melanoma.data.cache import Cache

    random = np.random.default_rng(0)
    count = options.batch * (options.steps + 1)
    shape = (count, options.size, options.size, 3)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    for number in range(count):
        images[number] = random.integers(0, 256, shape[1:], dtype=np.uint8)
    images.flush()
    names = [f"image_{number}" for number in range(count)]
    table = pd.DataFrame({"image_name": names, "patient_id": names, "target": np.arange(count) % 2})
    table = table.assign(sex="male", age_years=50.0, site="torso")
    mapped = np.load(folder / "images.npy", mmap_mode="r")
    return Cache(folder, "random", mapped, mapped[:, :64, :64], table[["image_name"]]), table


def fit(options: Arguments) -> Work:
    """Train a fold as `melanoma train` does; the epoch's own clock counts its steps."""
    from melanoma.runs import create_run
    from melanoma.training.train import train_fold

    kept = tempfile.TemporaryDirectory(prefix="melanoma-fit-")
    cache, table = drawn(options, Path(kept.name))
    runs = Path(kept.name) / "runs"
    runs.mkdir()
    held_out, training = table[: options.batch], table[options.batch :]

    def work(kept: object = kept) -> tuple[int, float]:  # the folder lives as long as the work
        run = create_run(runs, f"run-{len(list(runs.iterdir()))}", settings(options))
        train_fold(run, 0, settings(options), training=training, validation=held_out, cache=cache)
        return len(training), len(training) / float(pd.read_csv(run.history(0))["images_per_second"][0])

    return work


def bare(augmented: bool) -> Callable[[Arguments], Work]:
    """Make a stack of steps alone, on one batch in memory."""

    def stack(options: Arguments) -> Work:
        from melanoma.machine import keep_memory
        from melanoma.models.backend import keras
        from melanoma.models.classifier import build_classifier
        from melanoma.models.losses import build_loss
        from melanoma.training.train import _with_augmentation, build_optimizer, precision

        chosen = settings(options)
        keep_memory()
        keras.config.set_dtype_policy(precision(chosen.train))
        model = build_classifier(chosen.model, chosen.images)
        model = _with_augmentation(model, chosen, 0) if augmented else model
        model.compile(build_optimizer(chosen.train, options.steps), build_loss(chosen.loss))
        shape = (options.batch, options.size, options.size, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        targets = (np.arange(options.batch) % 2).astype(np.float32)[:, None]

        def work() -> int:
            for _ in range(options.steps):
                model.train_on_batch(images, targets)
            return options.steps * options.batch

        return work

    return stack


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the network and the epoch."""
    parser.add_argument("--backbone", default="InceptionResNetV2")
    parser.add_argument("--size", type=int, default=299, help="pixels")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--steps", type=int, default=5, help="steps of an epoch")


STACKS = {"fit": fit, "bare steps": bare(augmented=True), "bare steps, not augmented": bare(augmented=False)}

if __name__ == "__main__":
    text = "A fold's training against its bare steps."
    main(STACKS, unit="images", ours=["fit"], description=text, arguments=arguments)
