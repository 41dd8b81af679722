"""Refuses an ONNX file that reaches beyond itself, before an engine opens it; it knows nothing of what one computes.

An ONNX file may name other files as the place of its numbers, by any path, and engines read them; it may bring
operators of its own, or loop; and what it computes of constants alone an engine computes while it opens the file, where
a few hundred bytes can ask for all memory. A bundle's networks do nothing of that.
"""

import mmap
from pathlib import Path

from melanoma.errors import ModelError
from melanoma.protobuf import fields

# the fields of onnx.proto that lead to numbers kept elsewhere or to operators: message, field number, message within
WITHIN = {
    "model": {7: "graph", 8: "operators"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
REFUSED = {
    ("model", 20): "training steps",
    ("model", 25): "functions",
    ("operators", 1): "operators that are not ONNX's own",
    ("node", 7): "operators that are not ONNX's own",
    ("tensor", 13): "numbers kept in another file",
}
OWN_OPERATORS = (memoryview(b""), memoryview(b"ai.onnx"))
# what the networks of `models.backbones` are made of, and their kind: each gives about as much as it takes
OPERATORS = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg", "Abs", "Exp", "Log", "Erf", "Min", "Max"),
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"),
    *("Softmax", "Softplus", "Conv", "MatMul", "Gemm", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"),
    *("BatchNormalization", "LayerNormalization", "InstanceNormalization", "ReduceMean", "ReduceMax", "ReduceSum"),
    *("Cast", "Concat", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Shape", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unsqueeze", "QuantizeLinear"),
}
FLOAT = 1  # ONNX's number for float32
CONSTANT = {"Constant", "DequantizeLinear"}  # may be of constants alone: no larger than what stands in the file


def check_onnx(path: Path) -> None:
    """Raise ModelError where the file is missing, is no ONNX file, or reaches beyond itself."""
    try:
        with path.open("rb") as file:  # mapped, as it may be hundreds of megabytes; unmapped with the last view of it
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        found = _beyond(content, "model") or _strange(content)
    except (OSError, ValueError, IndexError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as an ONNX file: {error}") from error
    if found:
        raise ModelError(f"{path} is refused: it has {found}, as no network of this package")


def _beyond(content: memoryview, message: str) -> str | None:
    """Name what is to be refused in a message, or None."""
    for field, value in fields(content):
        refused = REFUSED.get((message, field))
        if refused and value not in OWN_OPERATORS:
            return refused
        inner = WITHIN.get(message, {}).get(field)
        if inner and isinstance(value, memoryview) and (found := _beyond(value, inner)):
            return found
    return None


def _strange(model: memoryview) -> str | None:
    """Name an operator that no network of this package has, or one that is given constants alone; or None."""
    graphs = [value for field, value in fields(model) if field == 7]
    if len(graphs) != 1:
        return f"{len(graphs)} graphs"
    parts = list(fields(_message(graphs[0])))
    constants = {_text(value, 8) for field, value in parts if field == 5}
    varying = {_text(value, 1) for field, value in parts if field == 11} - constants
    for node in (_message(value) for field, value in parts if field == 1):
        values = list(fields(node))
        given, made = ({bytes(_message(value)) for field, value in values if field == wanted} for wanted in (1, 2))
        operator = _text(node, 4).decode(errors="replace")
        if operator not in OPERATORS | CONSTANT:
            return f"the operator {operator!r:.40}"
        if varying & given:
            varying |= made
        elif operator not in CONSTANT and not (operator == "Cast" and _to_float32(values)):
            return "something to compute of constants alone"
    return None


def _to_float32(node: list[tuple[int, int | memoryview]]) -> bool:
    """Tell whether a Cast gives float32, as of weights kept in float16: at most four times what stands in the file."""
    attributes = [_message(value) for field, value in node if field == 5]
    given = [value for one in attributes if _text(one, 1) == b"to" for field, value in fields(one) if field == 3]
    return bool(given) and set(given) == {FLOAT}


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")  # noqa: TRY004  the file is at fault
    return value


def _text(message: int | memoryview, wanted: int) -> bytes:
    """Read the last field of that number as text: what a parser takes."""
    found = [bytes(_message(value)) for field, value in fields(_message(message)) if field == wanted]
    return found[-1] if found else b""
