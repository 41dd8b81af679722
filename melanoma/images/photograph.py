"""Photographs: JPEG, PNG, WEBP, TIFF and BMP, within limits, and whole or not at all.

What comes here is known to be of one format. It knows neither files nor DICOM.
"""

import io
import logging
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageFile

from melanoma.errors import DataError
from melanoma.images.contained import contained
from melanoma.machine import Budget

UInt8Array = npt.NDArray[np.uint8]
Size = tuple[int, int]

MAX_PIXELS = 64_000_000  # width x height; the largest SIIM-ISIC image has 24 million
MIN_SIDE_PX = 16
BAND_PIXELS = 4_000_000  # of a large picture that are turned into RGB at once
TOO_LARGE = f"over {MAX_PIXELS / 1e6:.0f} megapixels: make it smaller first"
MAX_SCANS = 100  # a progressive JPEG has about 10; thousands of them cost seconds in a small file
MAX_SCANNED = 1_000_000_000  # pixels times scans: each goes over the whole picture again
# How often a file may be read: so many times, and once more for so many bytes. A header is read bit by bit: that of a
# photograph in some hundred reads, of a DICOM file in three an element; a PNG has a few for each 8 kB of its pixels.
MAX_READS = {"JPEG": (2_000, 2**14), "PNG": (10_000, 2**8), "DICOM": (50_000, 2**14)}
OTHER_READS = 10_000, 2**14
# The JPEG decoder itself halves, quarters or eighths, and what it gives is then shrunk to the size wanted. 31 real
# originals then differ from the full decode by 0.53, 0.38, 0.29 and 0.18 of 255 on average at 128, 224, 299 and 512 px
# (the worst, full of hairs, by 1.9, 1.4, 1.6 and 0.5). Twice the size would give 0.38, 0.22, 0.11 and 0.08 (worst: 1.9,
# 1.4, 0.3, 0.5), but take twice the time for the commonest originals, 6000 x 4000, at 512 px.
SPARE = 1.5
# Float and 32-bit samples have no depth to scale by, so their modes are missing here.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L"}
# What is remarked on, where the samples are not RGB of 8 bits
DEEP = "samples of over 8 bits were scaled to 8"
OF_MODE = {
    "1": "black and white was turned into RGB",
    **dict.fromkeys(("L", "LA", "MONOCHROME1", "MONOCHROME2"), "grey was turned into RGB"),
    **dict.fromkeys(("P", "PA", "PALETTE COLOR"), "a palette was turned into RGB"),
    "CMYK": "CMYK was turned into RGB",
}
_ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 0x0102  # EXIF and TIFF tags
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
AT_ONCE = Budget(MAX_PIXELS)  # pixels that all threads decode at the same time: one may take a gigabyte
_WARNINGS_LOCK = threading.Lock()  # catch_warnings swaps a list that all threads share


class Decoded(NamedTuple):
    """A picture: pixels uint8 (height, width, 3); size as stored, (width, height); remarks: what was done to it."""

    pixels: UInt8Array
    size: Size
    remarks: list[str]


def decode_photograph(data: bytes, kind: str, at_least_px: int | None, name: str) -> Decoded:
    """Decode a file of a kind that Pillow reads.

    at_least_px: as for `decode`. Raises DataError where it is over a limit, or an animation; where it is damaged,
    whatever the libraries raise.
    """
    image = opened(data, kind, name)
    turn = _turn(image)
    size, remarks = image.size, _remarks(image, turn)
    if kind == "TIFF":
        with AT_ONCE.taking(image.width * image.height):
            return Decoded(contained(_tiff_to_rgb, data, name), size, remarks)
    return Decoded(pixels_of(image, data, wanted_size(at_least_px), turn=turn), size, remarks)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries from warning and logging."""
    # What the libraries warn of (odd metadata, large sizes) is either harmless or refused by the checks here,
    # and pydicom's log would quote what it finds odd, a patient's name as well.
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log = logging.getLogger("pydicom")
        before, log.disabled = log.disabled, True
        try:
            yield
        finally:
            log.disabled = before


def check_size(width: int, height: int, name: str) -> None:
    """Raise DataError for too many pixels or too short a side."""
    if width * height > MAX_PIXELS:
        raise DataError(f"{name} has {width} x {height} pixels, {TOO_LARGE}")
    if min(width, height) < MIN_SIDE_PX:
        raise DataError(f"{name} has {width} x {height} pixels: each side must have {MIN_SIDE_PX} or more")


class Bounded(io.BytesIO):
    """A file that may be read some thousand times: one made of a million tiny parts would take minutes to read."""

    def __init__(self, data: bytes, kind: str, name: str) -> None:
        super().__init__(data)
        most, bytes_for_one = MAX_READS.get(kind, OTHER_READS)
        self._left = most + len(data) // bytes_for_one
        self._refusal = f"{name} is a {kind} file of too many parts: save it again"

    def read(self, size: int | None = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise DataError(self._refusal)
        return super().read(size)


def opened(data: bytes, kind: str, name: str) -> ImageFile.ImageFile:
    """Open a file without decoding it; raises DataError where its header is over a limit."""
    with quiet():
        image = Image.open(Bounded(data, kind, name), formats=[kind])
        check_size(*image.size, name)
        if kind == "JPEG" and (scans := _scans(data)) > min(MAX_SCANS, MAX_SCANNED / (image.width * image.height)):
            raise DataError(f"{name} is a JPEG of {scans:,} scans: save it again as a plain JPEG")
        if kind != "JPEG" and getattr(image, "n_frames", 1) > 1:  # a phone's JPEG may carry a small copy of itself
            raise DataError(f"{name} is an animation or has several pages: save one still picture of it")
        if image.mode not in _MODES:
            raise DataError(f"{name} has float or 32-bit samples ({image.mode}): save it with 8 or 16 bits")
        if "transparency" in image.info and image.mode not in ("P", _stored_as(image)):  # Pillow would compare them
            raise DataError(f"{name} has a transparent colour of other than 8 bits: save it with an alpha channel")
        if kind == "PNG":
            image.verify()  # checks every chunk's CRC, and leaves the image unusable
            image = Image.open(Bounded(data, kind, name), formats=[kind])
    return image


def _tiff_to_rgb(data: bytes, name: str) -> UInt8Array:
    return _pixels_of(opened(data, "TIFF", name), data, None, None)  # Pillow turns a TIFF while it loads it


def _scans(data: bytes) -> int:
    octets = np.frombuffer(data, np.uint8)  # four times as quick as bytes.count, and other threads go on
    return int(np.count_nonzero((octets[:-1] == 0xFF) & (octets[1:] == 0xDA)))


def _turn(image: Image.Image) -> Image.Transpose | None:
    with quiet():
        try:
            return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        except Exception:  # broken metadata says nothing about the pixels
            return None


def _remarks(image: ImageFile.ImageFile, turn: Image.Transpose | None) -> list[str]:
    """Tell what must be done to an opened image to make it upright RGB of 8 bits."""
    found = []
    if turn is not None:
        found.append("a picture was turned as its EXIF orientation says")
    if image.has_transparency_data:
        found.append("transparency was laid over white")
    mode = "L" if image.mode.startswith("I;16") else image.mode
    if mode in OF_MODE:
        found.append(OF_MODE[mode])
    if image.mode.startswith("I;16") or _stored_as(image).endswith((";16B", ";16L", ";16N")):
        found.append(DEEP)
    return found


def _stored_as(image: ImageFile.ImageFile) -> str:
    """Give Pillow's word for how samples are stored, "" where a codec gives them as they are used."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments or "")


def wanted_size(at_least_px: int | None) -> Size | None:
    """Return what the JPEG decoder is asked for, which may halve so long as it gives as much."""
    return (math.ceil(SPARE * at_least_px),) * 2 if at_least_px else None


def pixels_of(
    image: ImageFile.ImageFile,
    data: bytes,
    size: Size | None,
    *,
    mode: str | None = None,
    turn: Image.Transpose | None = None,
) -> UInt8Array:
    """Decode an opened image of those bytes; raises whatever the libraries do, or ValueError, where it is not whole.

    size: what a JPEG may be reduced to while it is decoded. mode: keeps the samples of a JPEG as they are stored. turn:
    what makes it upright.
    """
    image.draft(mode, size)
    with AT_ONCE.taking(image.width * image.height):
        return _pixels_of(image, data, mode, turn)


def _pixels_of(image: ImageFile.ImageFile, data: bytes, mode: str | None, turn: Image.Transpose | None) -> UInt8Array:
    if image.format in ("JPEG", "MPO"):
        pixels = _whole_jpeg(image, data)
        if image.mode == "RGB":
            return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))
    if image.format == "TIFF" and _strips_are_missing(image):
        raise ValueError("strips are missing, which would stay black")
    # a TIFF warns of odd tags while its orientation is applied, a PNG of an animation behind its pixels; the others
    # need no lock, and are read side by side
    with quiet() if image.format == "TIFF" or (image.format == "PNG" and b"acTL" in data) else nullcontext():
        image.load()
    if image.format == "PNG" and _may_be_unfilled(image) and _png_is_short(data, image.size):
        raise ValueError("rows are missing, which would stay black")
    if mode:
        return np.asarray(image)
    return _to_rgb(image if turn is None else image.transpose(turn))


def _whole_jpeg(image: ImageFile.ImageFile, data: bytes) -> UInt8Array:
    """Decode by simplejpeg, which raises where libjpeg warns: Pillow is silent then, and what is missing grey.

    Both have the same library and give the same RGB. What Pillow has in another mode is only checked by it.
    """
    width, height = image.size
    colours = {"L": "GRAY", "CMYK": "CMYK"}.get(image.mode, "RGB")
    pixels = np.asarray(simplejpeg.decode_jpeg(data, colours, min_height=height, min_width=width))
    if pixels.shape[:2] != (height, width):
        raise ValueError("its parts do not agree on its size")
    return pixels


def _strips_are_missing(image: ImageFile.ImageFile) -> bool:
    """Tell whether the places of a TIFF's data cover less than the picture."""
    covered = {tile.extents or (0, 0, *image.size) for tile in image.tile}
    return sum((right - left) * (below - top) for left, top, right, below in covered) < image.width * image.height


def _may_be_unfilled(image: Image.Image) -> bool:
    """Tell whether one of the last two rows is blank: when interlaced, the last that is written is the last but one."""
    last = np.asarray(image.crop((0, image.height - 2, image.width, image.height)))
    return not last.any(axis=tuple(range(1, last.ndim))).all()


def _png_is_short(data: bytes, size: Size) -> bool:
    """Tell whether a PNG's data inflates to less than its header says (PNG specification, 3rd edition, 7.2 and 8)."""
    if data[12:16] != b"IHDR":
        return True
    depth, colour, _, _, interlaced = data[24:29]
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    missing = 0
    for left, top, across, down in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(size[0] - left) // across), -(-(size[1] - top) // down)
        missing += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    inflating, pieces = zlib.decompressobj(), _png_pieces(data)
    while missing > 0 and not inflating.eof and (rest := inflating.unconsumed_tail or next(pieces, b"")):
        missing -= len(inflating.decompress(rest, 2**20))
    return missing > 0


def _png_pieces(data: bytes, most: int = 2**16) -> Iterator[bytes]:
    """Give the compressed data of a PNG in pieces: what zlib has not used of one is copied."""
    place = 8
    while place + 8 < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        if kind == b"IDAT":
            for start in range(place + 8, place + 8 + length, most):
                yield data[start : min(start + most, place + 8 + length)]
        place += 12 + length


def _to_rgb(image: Image.Image) -> UInt8Array:
    """Turn any mode into RGB, a large picture band by band: Pillow takes several times its memory for a whole one."""
    rows = max(BAND_PIXELS // image.width, 1)
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]  # TIFF also has 12
    if rows >= image.height:
        return _band_to_rgb(image, bits)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = _band_to_rgb(band, bits)
    return pixels


def _band_to_rgb(image: Image.Image, bits: int) -> UInt8Array:
    if image.mode.startswith("I;16"):
        return grey_to_rgb(to_uint8(np.asarray(image), 0, 2**bits - 1))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def to_uint8(values: npt.NDArray[np.generic], low: float, high: float) -> UInt8Array:
    """Scale values from [low, high] to [0, 255]."""
    scaled: npt.NDArray[np.float32] = (values.astype(np.float32) - low) * (255 / (high - low))
    return scaled.round().clip(0, 255).astype(np.uint8)


def grey_to_rgb(grey: UInt8Array) -> UInt8Array:
    """Give three equal channels."""
    return np.repeat(grey[:, :, None], 3, axis=2)
