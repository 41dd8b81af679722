"""An exported network in int8: standard ONNX that every engine runs, and what it loses is measured, never assumed.

Either all of it is computed in int8, which is quick; or its weights alone are kept so, or in float16, which makes the
file small.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from melanoma.evaluation.metrics import auc
from melanoma.files import replacing
from melanoma.inference.engine import Choice, Engine, Precision, choose
from melanoma.inference.scoring import score

CALIBRATION_IMAGES = 256
SMALL_KERNEL = 2**15  # weights
MUCH_LOST = 0.005  # of AUC, from which on the user is warned
KERNEL_SECOND = ("Conv", "Gemm", "MatMul")  # operators whose second input is a kernel
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


def shrink_network(path: Path, to: Literal["float16", "int8"]) -> None:
    """Keep an exported network's kernels in fewer bits: in float16, or in int8 with a scale for each of their outputs.

    They become float32 again as the file is loaded, so that answers are alike on every machine, as before. In float16 a
    weight is at most 1/2048 of itself away from what it was, in int8 1/254 of its output's largest (Jacob et al. 2018,
    arXiv:1712.05877). Where others go into int8, small kernels go into float16: depthwise ones and those of the first
    layers take little room, and nearly all that int8 loses is theirs.
    """
    import onnx

    model = onnx.load(path)
    graph, nodes, make = model.graph, [], onnx.helper.make_node
    axes = {node.input[1]: _output_axis(node) for node in graph.node if node.op_type in KERNEL_SECOND}
    for tensor in list(graph.initializer):
        weights, axis = onnx.numpy_helper.to_array(tensor), axes.get(tensor.name)
        if axis is None or weights.dtype != np.float32:
            continue
        halved = to == "float16" or weights.size <= SMALL_KERNEL
        if halved:
            kept = {"float16": weights.astype(np.float16)}
        else:
            others = tuple(place for place in range(weights.ndim) if place != axis)
            largest = np.abs(weights).max(axis=others, keepdims=True)
            scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
            kept = {"int8": np.rint(weights / scale).astype(np.int8), "scale": scale.ravel()}
        graph.initializer.remove(tensor)
        tensors = [onnx.numpy_helper.from_array(one, f"{tensor.name}_{name}") for name, one in kept.items()]
        graph.initializer.extend(tensors)
        names = [one.name for one in tensors]
        whole = make("Cast", names, [tensor.name], to=onnx.TensorProto.FLOAT)
        nodes.append(whole if halved else make("DequantizeLinear", names, [tensor.name], axis=axis))
    for node in nodes:
        graph.node.insert(0, node)
    with replacing(path) as aside:
        onnx.save(model, aside)


def _output_axis(node: Any) -> int:
    """Tell which axis of an operator's kernel counts its outputs."""
    outputs_first = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or outputs_first else 1


def measured_loss(
    network: Path,
    quantized: Path,
    images: NDArray[np.uint8],
    rows: NDArray[np.int64],
    *,
    metadata: NDArray[np.float32] | None,
    target: NDArray[np.int64],
    precision: Precision = "int8",
) -> dict[str, Any]:
    """Score held-out images by a network and by its rounded form, and return both AUCs and what is lost.

    precision: in which the rounded form is computed; float32 where only its weights were rounded.
    images, rows, metadata: as for `score`. target: int64 (n,), 0 or 1. An AUC is None where there is only one class.
    """
    exact = score(Engine(network, Choice("onnxruntime", "float32")), images, rows, metadata)
    choice = choose("auto" if precision == "int8" else "onnxruntime", precision)
    rounded = score(Engine(quantized, choice), images, rows, metadata)
    before, after = auc(target, exact), auc(target, rounded)
    return {
        "images": len(rows),
        "auc_float32": before,
        "auc_rounded": after,
        "auc_lost": None if before is None or after is None else before - after,
        "largest_difference": float(np.abs(exact - rounded).max(initial=0)),
    }


def remarks_on(loss: dict[str, Any], fold: int, setting: str) -> list[str]:
    """Say what a fold's network loses by `setting`, as evaluate.storage=int8, as `measured_loss` found it."""
    if loss["auc_lost"] is None:
        return [f"{setting}, fold {fold}: what it loses cannot be told: its held-out images are of one class"]
    found = (
        f"{setting}, fold {fold}: AUC {loss['auc_rounded']:.4f} where float32 has {loss['auc_float32']:.4f}, on "
        f"{loss['images']:,} held-out images; single probabilities differ by up to {loss['largest_difference']:.3f}"
    )
    much = f"this is much: leave {setting} out unless it is worth {loss['auc_lost']:.4f} of AUC"
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
