"""The one decoder: the bytes of an image file become upright uint8 RGB, or are refused with one sentence.

A file is what its first bytes say, whatever its name: JPEG, PNG, WEBP, TIFF, BMP or DICOM. One rule for every
kind of pixel: transparency is laid over white; grey, palette, 1-bit and CMYK become RGB; 16-bit samples are
scaled by their depth; the EXIF orientation is applied once (not inside DICOM, whose viewers ignore it).
Colour profiles are not applied. It knows neither networks nor tables, and keeps no DICOM tag of a patient.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from melanoma.errors import DataError, MelanomaError
from melanoma.images.contained import MAX_BYTES, MAX_SECONDS, OverLimitError
from melanoma.images.dicom import decode_dicom
from melanoma.images.photograph import TOO_LARGE, Decoded, UInt8Array, decode_photograph

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
}
SUFFIXES = {
    ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".dcm": "DICOM", ".dicom": "DICOM",
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"), **dict.fromkeys((".tif", ".tiff"), "TIFF"),
}  # fmt: skip


def decode(source: bytes | Path, at_least_px: int | None = None, name: str = "") -> UInt8Array:
    """Decode an image file to upright RGB.

    source: the file's bytes, or its path; name: what messages call it (default: the path).
    at_least_px: a JPEG may come out smaller, but its shorter side never below SPARE times this many pixels,
    which the resize that follows needs; None decodes in full.
    Returns uint8 (height, width, 3), RGB in [0, 255]; it may be read-only.
    Raises DataError for anything but one whole still image, MissingExtraError for a DICOM compression that
    needs the `dicom` extra.
    """
    return decode_and_tell(source, at_least_px, name).pixels


def decode_and_tell(
    source: bytes | Path, at_least_px: int | None = None, name: str = "", suffix: str | None = None
) -> Decoded:
    """Decode an image file as `decode` does, and tell its size before any reduction, and what was done to its pixels.

    suffix: how the file's name ends, by default how `name` does: a remark says where the content is of another format.
    """
    if isinstance(source, Path):
        source, name = _read(source), name or str(source)
    suffix, name = PurePath(name).suffix if suffix is None else suffix, name or "the image"
    kind = _kind(source, name)
    said = SUFFIXES.get(suffix.lower(), kind)
    misnamed = [] if said == kind else [f"a {kind} file whose name says {said}"]
    with _refusing(kind, name):
        if kind == "DICOM":
            found = decode_dicom(source, at_least_px, name)
        else:
            found = decode_photograph(source, kind, at_least_px, name)
    return found._replace(remarks=misnamed + found.remarks)


def as_image(image: UInt8Array | str | Path, at_least_px: int | None = None) -> UInt8Array:
    """Take an image as an array or as a file: an array passes through, a path is decoded.

    image: uint8 (height, width, 3) RGB, or a path. Returns uint8 (height, width, 3).
    Raises DataError for an array of another shape or type, and as `decode` does.
    """
    if isinstance(image, str | Path):
        return decode(Path(image), at_least_px)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(f"an image is uint8 (height, width, 3), not {image.dtype} {image.shape}: convert it first")
    return image


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be read ({reason}): check the path") from error


def _kind(data: bytes, name: str) -> str:
    if not data:
        raise DataError(f"{name} is empty: replace it with a fresh copy")
    if data[128:132] == b"DICM":
        return "DICOM"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    raise DataError(f"{name} is no JPEG, PNG, WEBP, TIFF, BMP or DICOM file: save it as one of these")


@contextmanager
def _refusing(kind: str, name: str) -> Iterator[None]:
    # The libraries raise nearly every built-in exception on hostile bytes: here, and only here, a bad file.
    try:
        yield
    except MelanomaError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is {TOO_LARGE}") from error
    except OverLimitError as error:
        limits = f"{MAX_SECONDS:.0f} s or {MAX_BYTES / 2**30:.0f} GiB"
        raise DataError(f"{name} takes over {limits} to decode, or ends its decoder: save it as JPEG") from error
    except Exception as error:
        raise DataError(
            f"{name} is a damaged, incomplete or unusual {kind} file: take a fresh copy or save it again"
        ) from error
