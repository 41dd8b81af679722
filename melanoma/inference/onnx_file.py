"""Refuses an ONNX file that reaches beyond itself, before an engine opens it. It knows only the file's wire format.

An ONNX file may name other files as the place of its numbers, by any path, and engines read them; it may bring
operators of its own. A bundle's networks do neither.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from melanoma.errors import ModelError

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # the wire types of protocol buffers
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
OWN_OPERATORS = (b"", b"ai.onnx")


def check_onnx(path: Path) -> None:
    """Raise ModelError where the file is missing, is no ONNX file, or reaches beyond itself."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = _beyond(content, 0, len(content), "model")
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(f"{path} cannot be read as an ONNX file: {error}") from error
    if found:
        raise ModelError(f"{path} is refused: it has {found}, and a bundle's network must be whole in itself")


def _beyond(content: mmap.mmap, start: int, end: int, message: str) -> str | None:
    """Name what is to be refused in a message that lies at content[start:end], or None."""
    for field, begin, stop in _fields(content, start, end):
        refused = REFUSED.get((message, field))
        if refused and content[begin:stop] not in OWN_OPERATORS:
            return refused
        inner = WITHIN.get(message, {}).get(field)
        if inner and (found := _beyond(content, begin, stop, inner)):
            return found
    return None


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Walk a message: each field's number and where its value lies; raises ValueError where it is damaged."""
    while start < end:
        tag, start = _varint(content, start)
        kind, begin = tag & 7, start
        if kind == VARINT:
            _, start = _varint(content, start)
        elif kind == LENGTH:
            length, begin = _varint(content, start)
            start = begin + length
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            start += 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if start > end:
            raise ValueError("it ends in the middle of a field")
        yield tag >> 3, begin, start


def _varint(content: mmap.mmap, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
