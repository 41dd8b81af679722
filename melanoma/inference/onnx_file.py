"""Refuses an ONNX file that reaches beyond itself, before an engine opens it; it knows nothing of what one computes.

An ONNX file may name other files as the place of its numbers, by any path, and engines read them; it may bring
operators of its own. A bundle's networks do neither.
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


def check_onnx(path: Path) -> None:
    """Raise ModelError where the file is missing, is no ONNX file, or reaches beyond itself."""
    try:
        with path.open("rb") as file:  # mapped, as it may be hundreds of megabytes; unmapped with the last view of it
            found = _beyond(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), "model")
    except (OSError, ValueError, IndexError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as an ONNX file: {error}") from error
    if found:
        raise ModelError(f"{path} is refused: it has {found}, and a bundle's network must be whole in itself")


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
