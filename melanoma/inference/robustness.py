"""Does the answer hold when the picture is laid down another way, or the lamp is turned up? Pictures in, scores out.

A lesion is the same lesion when the camera is turned; an answer that changes then says something of the network only.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from melanoma.inference.engine import Engine
from melanoma.inference.scoring import score

UInt8Array = NDArray[np.uint8]
SLANT_DEGREES = 15.0
LIGHT = 0.1  # share of the brightness

# Each takes and gives uint8 RGB (images, side, side, 3).
CHANGES: dict[str, Callable[[UInt8Array], UInt8Array]] = {
    "turned by 90°": lambda images: np.rot90(images, 1, axes=(1, 2)),
    "turned by 180°": lambda images: np.rot90(images, 2, axes=(1, 2)),
    "turned by 270°": lambda images: np.rot90(images, 3, axes=(1, 2)),
    "turned by 15°": lambda images: np.stack([_slanted(image) for image in images]),
    "mirrored left to right": lambda images: images[:, :, ::-1],
    "mirrored top to bottom": lambda images: images[:, ::-1],
    "10 % brighter": lambda images: _brightened(images, 1 + LIGHT),
    "10 % darker": lambda images: _brightened(images, 1 - LIGHT),
}


def changed_scores(
    engine: Engine, images: UInt8Array, metadata: NDArray[np.float32] | None = None, *, views: int = 1
) -> dict[str, NDArray[np.float64]]:
    """Score pictures as they are, under the name "", and after each of CHANGES.

    images: uint8 (n, size_px, size_px, 3) RGB, n at least 1; metadata: float32 (n, features); views: as for `score`.
    Each answer is float64 (n,) in [0, 1].
    """
    rows = np.arange(len(images))
    found = {"": score(engine, images, rows, metadata, views=views)}
    for name, change in CHANGES.items():
        found[name] = score(engine, np.ascontiguousarray(change(images)), rows, metadata, views=views)
    return found


def _slanted(image: UInt8Array) -> UInt8Array:
    side = image.shape[0]
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), SLANT_DEGREES, 1)
    turned = cv2.warpAffine(image, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, np.uint8)


def _brightened(images: UInt8Array, factor: float) -> UInt8Array:
    table = np.clip(np.arange(256) * factor + 0.5, 0, 255).astype(np.uint8)
    brightened: UInt8Array = table[images]
    return brightened
