"""Prepared images to probabilities by one network: the ways to lay a picture down, and their mean."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from melanoma.inference.engine import Batch, Engine
from melanoma.machine import release

Float64Array = NDArray[np.float64]


def sigmoid(logit: NDArray[np.float32]) -> Float64Array:
    """Return the probability that a logit stands for, float64 of the same shape in [0, 1]."""
    return 1 / (1 + np.exp(-logit.astype(np.float64)))


def score(
    engine: Engine,
    images: NDArray[np.uint8],
    rows: NDArray[np.int64],
    metadata: NDArray[np.float32] | None = None,
    *,
    views: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Float64Array:
    """Return the probability of melanoma by one network: float64 (n,) in [0, 1].

    images: uint8 (any, size_px, size_px, 3) RGB, read while others are computed; rows: int64 (n,), which of them;
    metadata: float32 (n, features).
    views: 1, or 8 for the mean logit over the turns by 90 degrees and their mirror images.
    """

    def read(part: slice) -> Batch:
        pixels = np.concatenate(dihedral(images[rows[part]], views))
        release(images)
        return pixels, None if metadata is None else np.tile(metadata[part], (views, 1))

    logits = np.empty(len(rows), np.float32)
    for part, output in engine.stream(read, len(rows)):
        logits[part] = output.logit.reshape(views, -1).mean(axis=0)
        progress(part.stop, len(rows))
    return sigmoid(logits)


def dihedral(images: NDArray[np.uint8], views: int) -> list[NDArray[np.uint8]]:
    """List the first `views` of the eight ways to lay square pictures (batch, side, side, 3) down."""
    turned = [np.rot90(images, quarter, axes=(1, 2)) for quarter in range(4)]
    return [np.ascontiguousarray(view) for view in [*turned, *(view[:, :, ::-1] for view in turned)][:views]]


def laid_back(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lay the maps of `dihedral`'s views, (views, batch, side, side), as the first of them lies."""
    back = [one[:, :, ::-1] if number >= 4 else one for number, one in enumerate(maps)]
    return np.stack([np.rot90(one, -(number % 4), axes=(1, 2)) for number, one in enumerate(back)])
