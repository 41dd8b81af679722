"""The one decoder: the bytes of an image file become upright uint8 RGB, or are refused with one sentence.

A file is what its first bytes say, whatever its name: JPEG, PNG, WEBP, TIFF, BMP or DICOM. One rule for every
kind of pixel: transparency is laid over white; grey, palette, 1-bit and CMYK become RGB; 16-bit samples are
scaled by their depth; the EXIF orientation is applied once (not inside DICOM, whose viewers ignore it).
Colour profiles are not applied. It knows neither networks nor tables, and keeps no DICOM tag of a patient.
"""

import io
import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from melanoma.errors import DataError, MelanomaError, MissingExtraError
from melanoma.images.contained import MAX_BYTES, MAX_SECONDS, OverLimitError, contained
from melanoma.machine import Budget

if TYPE_CHECKING:  # half of all that a program needs to start is pydicom: imported where a file is DICOM
    from pydicom import Dataset

UInt8Array = npt.NDArray[np.uint8]
Size = tuple[int, int]

MAX_PIXELS = 64_000_000  # width x height; the largest SIIM-ISIC image has 24 million
MIN_SIDE_PX = 16
_TOO_LARGE = f"over {MAX_PIXELS / 1e6:.0f} megapixels: make it smaller first"
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

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
}
# Float and 32-bit samples have no depth to scale by, so their modes are missing here.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L"}
_SUFFIXES = {
    ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".dcm": "DICOM", ".dicom": "DICOM",
    **dict.fromkeys((".jpg", ".jpeg", ".jpe"), "JPEG"), **dict.fromkeys((".tif", ".tiff"), "TIFF"),
}  # fmt: skip
# What is remarked on, where the samples are not RGB of 8 bits
_DEEP = "samples of over 8 bits were scaled to 8"
_NEGATIVE = "a negative (MONOCHROME1) was inverted"
_OF_MODE = {
    "1": "black and white was turned into RGB",
    **dict.fromkeys(("L", "LA", "MONOCHROME1", "MONOCHROME2"), "grey was turned into RGB"),
    **dict.fromkeys(("P", "PA", "PALETTE COLOR"), "a palette was turned into RGB"),
    "CMYK": "CMYK was turned into RGB",
}
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

# All that is kept of a DICOM file: what describes pixels, nothing that describes a person.
_COLOURS = ("Red", "Green", "Blue")
_DICOM_TAGS: list[int | str | tuple[int, int]] = [
    *(
        "Rows",
        "Columns",
        "NumberOfFrames",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
    ),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
    *(
        "RescaleSlope",
        "RescaleIntercept",
        "ModalityLUTSequence",
        "WindowCenter",
        "WindowWidth",
        "VOILUTSequence",
    ),
    *(f"{colour}PaletteColorLookupTable{part}" for colour in _COLOURS for part in ("Descriptor", "Data")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in _COLOURS),
]
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_JPEG_SYNTAXES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # Baseline, Extended
_EXTRA_PACKAGES = {
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{end}" for end in (80, 81)), "pyjpegls"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{end}" for end in (90, 91, 201, 202, 203)), "pylibjpeg-openjpeg"),
}

_AT_ONCE = Budget(MAX_PIXELS)  # pixels that all threads decode at the same time: one may take a gigabyte
_WARNINGS_LOCK = threading.Lock()  # catch_warnings swaps a list that all threads share


class Decoded(NamedTuple):
    """A picture: pixels uint8 (height, width, 3); size as stored, (width, height); remarks: what was done to it."""

    pixels: UInt8Array
    size: Size
    remarks: list[str]


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
    said = _SUFFIXES.get(suffix.lower(), kind)
    misnamed = [] if said == kind else [f"a file was read as {kind}, which it is, and not as {said}, as its name says"]
    with _refusing(kind, name):
        if kind == "DICOM":
            pixels, size, remarks = _decode_dicom(source, at_least_px, name)
            return Decoded(pixels, size, misnamed + remarks)
        image = _opened(source, kind, name)
        size, remarks = image.size, misnamed + _conversions(image)
        if kind == "TIFF":
            with _AT_ONCE.taking(image.width * image.height):
                return Decoded(contained(_tiff_to_rgb, source, name), size, remarks)
        return Decoded(_decoded(image, source, _wanted_size(at_least_px), name), size, remarks)


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
        raise DataError(f"{name} is {_TOO_LARGE}") from error
    except OverLimitError as error:
        limits = f"{MAX_SECONDS:.0f} s or {MAX_BYTES / 2**30:.0f} GiB"
        raise DataError(f"{name} takes over {limits} to decode, or ends its decoder: save it as JPEG") from error
    except Exception as error:
        raise DataError(
            f"{name} is a damaged, incomplete or unusual {kind} file: take a fresh copy or save it again"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
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


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{name} has {width} x {height} pixels, {_TOO_LARGE}")
    if min(width, height) < MIN_SIDE_PX:
        raise DataError(f"{name} has {width} x {height} pixels: each side must have {MIN_SIDE_PX} or more")


class _Bounded(io.BytesIO):
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


# Photographs: Pillow, told which format to expect


def _opened(data: bytes, kind: str, name: str) -> ImageFile.ImageFile:
    with _quiet():
        image = Image.open(_Bounded(data, kind, name), formats=[kind])
        _check_size(*image.size, name)
        if kind == "JPEG" and (scans := _scans(data)) > min(MAX_SCANS, MAX_SCANNED / (image.width * image.height)):
            raise DataError(f"{name} is a JPEG of {scans:,} scans: save it again as a plain JPEG")
        if kind != "JPEG" and getattr(image, "n_frames", 1) > 1:  # a phone's JPEG may carry a small copy of itself
            raise DataError(f"{name} is an animation or has several pages: save one still picture of it")
        if image.mode not in _MODES:
            raise DataError(f"{name} has float or 32-bit samples ({image.mode}): save it with 8 or 16 bits")
        if kind == "PNG":
            image.verify()  # checks every chunk's CRC, and leaves the image unusable
            image = Image.open(_Bounded(data, kind, name), formats=[kind])
    return image


def _tiff_to_rgb(data: bytes, name: str) -> UInt8Array:
    return _decoded(_opened(data, "TIFF", name), data, None, name)


def _scans(data: bytes) -> int:
    octets = np.frombuffer(data, np.uint8)  # four times as quick as bytes.count, and other threads go on
    return int(np.count_nonzero((octets[:-1] == 0xFF) & (octets[1:] == 0xDA)))


def _conversions(image: ImageFile.ImageFile) -> list[str]:
    """Tell what must be done to an opened image's samples to make them RGB of 8 bits."""
    deep = image.mode.startswith("I;16") or any(";16" in str(part) for tile in image.tile for part in tile[1:])
    mode = "L" if image.mode.startswith("I;16") else image.mode
    told = {"transparency was laid over white": image.has_transparency_data, _OF_MODE.get(mode, ""): mode in _OF_MODE}
    return [remark for remark, holds in {**told, _DEEP: deep}.items() if holds]


def _wanted_size(at_least_px: int | None) -> Size | None:
    return (math.ceil(SPARE * at_least_px),) * 2 if at_least_px else None


def _decoded(
    image: ImageFile.ImageFile, data: bytes, size: Size | None, name: str, mode: str | None = None, *, turn: bool = True
) -> UInt8Array:
    """Decode an opened image; `mode` keeps the samples as they are stored, `turn` applies the EXIF orientation."""
    image.draft(mode, size)
    with _AT_ONCE.taking(image.width * image.height):
        # a TIFF warns of odd tags while its orientation is applied, a PNG of an animation behind its pixels; the others
        # need no lock, and are read side by side
        with _quiet() if image.format == "TIFF" or (image.format == "PNG" and b"acTL" in data) else nullcontext():
            image.load()
        _check_whole(image, data, size, name, mode)
        return np.asarray(image) if mode else _to_rgb(_upright(image) if turn else image)


def _check_whole(image: ImageFile.ImageFile, data: bytes, size: Size | None, name: str, mode: str | None) -> None:
    """Refuse a JPEG whose data ends early: libjpeg fills up with mid-grey and Pillow is silent.

    Data put in before the end marker changes such a picture, and is skipped in a whole one.
    """
    if image.format in ("JPEG", "MPO") and _may_be_grey_filled(image):
        end = data.rfind(b"\xff\xd9")
        with _quiet():
            longer = Image.open(io.BytesIO(data[:end] + b"\x55" * 65_536 + data[end:]), formats=["JPEG"])
        longer.draft(mode, size)
        if longer.tobytes() != image.tobytes():
            raise DataError(f"{name} is a damaged JPEG, part of its data is missing: replace it with a fresh copy")


def _may_be_grey_filled(image: Image.Image) -> bool:
    corner = np.array(image.getpixel((image.width - 1, image.height - 1)), np.int64)
    return bool((np.abs(corner - 128) <= 1).all())


def _upright(image: Image.Image) -> Image.Image:
    with _quiet():
        try:
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        except Exception:  # broken metadata says nothing about the pixels
            turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> UInt8Array:
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]  # TIFF also has 12
        return _grey_to_rgb(_to_uint8(np.asarray(image), 0, 2**bits - 1))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _to_uint8(values: npt.NDArray[np.generic], low: float, high: float) -> UInt8Array:
    scaled: npt.NDArray[np.float32] = (values.astype(np.float32) - low) * (255 / (high - low))
    return scaled.round().clip(0, 255).astype(np.uint8)


def _grey_to_rgb(grey: UInt8Array) -> UInt8Array:
    return np.repeat(grey[:, :, None], 3, axis=2)


# DICOM: the JPEG inside goes the way of every JPEG, the rest through pydicom


def _decode_dicom(data: bytes, at_least_px: int | None, name: str) -> Decoded:
    from pydicom.encaps import generate_frames

    with _quiet():  # pydicom reads a value when it is asked for, and only then warns
        dataset = _dicom_header(data, name)
        size = int(dataset.Columns), int(dataset.Rows)
        syntax, interpretation = dataset.file_meta.TransferSyntaxUID, dataset.PhotometricInterpretation
        told = {
            _OF_MODE.get(interpretation, ""): interpretation in _OF_MODE,
            _NEGATIVE: interpretation == "MONOCHROME1",
        }
        remarks = [remark for remark, holds in {**told, _DEEP: dataset.BitsStored > 8}.items() if holds]
        whole_jpeg = syntax in _JPEG_SYNTAXES and dataset.SamplesPerPixel == 3
        if whole_jpeg:
            frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        else:
            _check_readable(dataset, name)
    if not whole_jpeg:
        with _AT_ONCE.taking(size[0] * size[1]):
            if syntax.is_encapsulated:
                return Decoded(contained(_dicom_to_rgb, data, name), size, remarks)
            with _quiet():
                return Decoded(_pixels_to_rgb(dataset, name), size, remarks)
    # pydicom would choose the colour space by the header alone, and gets the ones with an Adobe marker wrong.
    image = _opened(frame, "JPEG", name)
    if image.size != size:
        raise DataError(f"{name} holds a JPEG of another size than its header says: export it again")
    unchanged = interpretation == "RGB" and _colours_unmarked(image)
    mode = "YCbCr" if unchanged else None
    return Decoded(_decoded(image, frame, _wanted_size(at_least_px), name, mode, turn=False), size, remarks)


def _dicom_header(data: bytes, name: str) -> "Dataset":
    from pydicom import dcmread

    if _DEFLATED in data:  # pydicom would inflate it all before anything can be checked
        raise DataError(f"{name} is a deflated DICOM file: save it uncompressed or as JPEG")
    dataset = dcmread(_Bounded(data, "DICOM", name), specific_tags=_DICOM_TAGS)
    if "PixelData" not in dataset:
        raise DataError(f"{name} is a DICOM file without a picture, or cut short: leave it out or take a fresh copy")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise DataError(f"{name} is a DICOM file of {dataset.NumberOfFrames} frames: export one of them")
    _check_size(dataset.Columns, dataset.Rows, name)
    return dataset


def _colours_unmarked(image: Image.Image) -> bool:
    # With neither marker libjpeg takes three components for YCbCr; coarser colour than light proves it right.
    components = getattr(image, "layer", [])
    ids = bytes(component[0] for component in components)
    alike = all(component[1:3] == components[0][1:3] for component in components)
    return alike and ids != b"RGB" and not {"jfif", "adobe"} & image.info.keys()


def _dicom_to_rgb(data: bytes, name: str) -> UInt8Array:
    with _quiet():
        return _pixels_to_rgb(_dicom_header(data, name), name)


def _pixels_to_rgb(dataset: "Dataset", name: str) -> UInt8Array:
    from pydicom.pixels import apply_color_lut, pixel_array

    values = np.asarray(pixel_array(dataset))
    samples = (3,) if dataset.SamplesPerPixel == 3 else ()
    if values.shape != (dataset.Rows, dataset.Columns, *samples):
        raise DataError(f"{name} holds another amount of pixels than its header says: export it again")
    interpretation = dataset.PhotometricInterpretation
    if interpretation == "PALETTE COLOR":
        colours = np.asarray(apply_color_lut(values, dataset))
        return _to_uint8(colours, 0, np.iinfo(colours.dtype).max)
    if values.ndim == 3:
        return _to_uint8(values, 0, 2**dataset.BitsStored - 1)
    grey = _dicom_grey(values, dataset)
    return _grey_to_rgb(255 - grey if interpretation == "MONOCHROME1" else grey)


def _check_readable(dataset: "Dataset", name: str) -> None:
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available and syntax in _EXTRA_PACKAGES:
        raise MissingExtraError(_EXTRA_PACKAGES[syntax], "dicom")
    if not available:
        kind = syntax.name if syntax.name != syntax else "what DICOM has no name for"  # which could be any text
        raise DataError(f"{name} is stored as {kind}, which cannot be read: export it as JPEG or uncompressed")


def _dicom_grey(values: npt.NDArray[np.generic], dataset: "Dataset") -> UInt8Array:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    # The linear window of DICOM PS3.3 C.11.2.1.2 where there is one, else a table, else the whole depth.
    signed = dataset.PixelRepresentation * 2 ** (dataset.BitsStored - 1)
    extremes = np.array([0, 2**dataset.BitsStored - 1]) - signed
    values = apply_modality_lut(values, dataset)
    if dataset.get("WindowCenter") is not None:
        centre, width = (np.atleast_1d(dataset[tag].value)[0] for tag in ("WindowCenter", "WindowWidth"))
        reach = max(float(width) - 1, 1e-6) / 2
        return _to_uint8(values, float(centre) - 0.5 - reach, float(centre) - 0.5 + reach)
    if dataset.get("VOILUTSequence"):
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        return _to_uint8(apply_voi_lut(values, dataset), 0, 2**bits - 1)
    low, high = apply_modality_lut(extremes, dataset)
    return _to_uint8(values, low, high)
