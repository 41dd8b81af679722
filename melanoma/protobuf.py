"""The wire format of protocol buffers, which TFRecord examples and ONNX files are written in, one message at a time.

It knows no message's fields. Source: the protocol buffers encoding guide.
"""

from collections.abc import Iterator


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk a message: each field's number, and its value as a number or as the bytes that it is made of, not copied.

    Raises ValueError or IndexError where the message is damaged.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        wire_type = tag & 7
        if wire_type == 0:
            number, at = varint(message, at)
            yield tag >> 3, number
            continue
        if wire_type == 2:
            length, at = varint(message, at)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if at + length > len(message):
            raise ValueError("a field ends after its message")
        yield tag >> 3, message[at : at + length]
        at += length


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read the number at a place: seven bits a byte, the lowest first; returns it and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("a number of more than ten bytes")
