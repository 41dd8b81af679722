"""An exported network in int8: standard ONNX that every engine runs, and what it loses is measured, never assumed."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melanoma.evaluation.metrics import auc
from melanoma.files import replacing
from melanoma.inference.engine import Choice, Engine, choose
from melanoma.inference.scoring import score

CALIBRATION_IMAGES = 256
MUCH_LOST = 0.005  # of AUC, from which on the user is warned
# what stands between two convolutions stays in int8 too; the last layers, which cost nothing, stay in float32
IN_INT8 = ["Conv", "Relu", "Clip", "Add", "Concat", "MaxPool", "AveragePool"]


def quantize_network(
    path: Path, network: Path, images: NDArray[np.uint8], metadata: NDArray[np.float32] | None
) -> dict[str, Any]:
    """Write an exported network with int8 weights, a scale a channel, and 8-bit maps, a range a map.

    images: uint8 (n, size_px, size_px, 3) RGB that the network was trained on, and metadata float32 (n, features)
    where used: the ranges are the smallest and largest value that they cause (Jacob et al. 2018, arXiv:1712.05877).
    Returns what was written, for `model.json`.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with replacing(path) as aside, _quiet():
        quantize_static(
            network,
            aside,
            Calibration(images, metadata),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=IN_INT8,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return {"file": path.name, "calibration_images": len(images)}


def measured_loss(
    network: Path,
    quantized: Path,
    images: NDArray[np.uint8],
    rows: NDArray[np.int64],
    *,
    metadata: NDArray[np.float32] | None,
    target: NDArray[np.int64],
) -> dict[str, Any]:
    """Score held-out images by a network and by its int8 form, and return both AUCs and what is lost.

    images, rows, metadata: as for `score`. target: int64 (n,), 0 or 1. An AUC is None where there is only one class.
    """
    exact = score(Engine(network, Choice("onnxruntime", "float32")), images, rows, metadata)
    rounded = score(Engine(quantized, choose(precision="int8")), images, rows, metadata)
    before, after = auc(target, exact), auc(target, rounded)
    return {
        "images": len(rows),
        "auc_float32": before,
        "auc_int8": after,
        "auc_lost": None if before is None or after is None else before - after,
        "largest_difference": float(np.abs(exact - rounded).max(initial=0)),
    }


def remarks_on(loss: dict[str, Any], fold: int) -> list[str]:
    """Say what a fold's network loses by int8, as `measured_loss` found it."""
    if loss["auc_lost"] is None:
        return [f"int8, fold {fold}: what it loses cannot be told, as its held-out images are of one class"]
    found = (
        f"int8, fold {fold}: AUC {loss['auc_int8']:.4f} where float32 has {loss['auc_float32']:.4f}, on "
        f"{loss['images']:,} held-out images; single probabilities differ by up to {loss['largest_difference']:.3f}"
    )
    much = f"this is much: keep evaluate.precision=auto unless speed is worth {loss['auc_lost']:.4f} of AUC"
    return [found, much] if loss["auc_lost"] > MUCH_LOST else [found]


class Calibration:
    """Gives ONNX Runtime one image after the other, as it asks for them."""

    def __init__(self, images: NDArray[np.uint8], metadata: NDArray[np.float32] | None) -> None:
        self.rest = iter(
            {"image": images[[row]]} | ({} if metadata is None else {"metadata": metadata[[row]]})
            for row in range(len(images))
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next image, or None after the last."""
        return next(self.rest, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the advice to simplify the network first, which export has done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
