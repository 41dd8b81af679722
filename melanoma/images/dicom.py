"""DICOM: the JPEG inside goes the way of every JPEG, other pixels through pydicom.

It keeps no tag of a patient, and knows no files.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from melanoma.errors import DataError, MissingExtraError
from melanoma.images.contained import contained
from melanoma.images.photograph import (
    AT_ONCE,
    DEEP,
    OF_MODE,
    Bounded,
    Decoded,
    UInt8Array,
    check_size,
    grey_to_rgb,
    opened,
    pixels_of,
    quiet,
    to_uint8,
    wanted_size,
)

if TYPE_CHECKING:  # half of all that a program needs to start is pydicom: imported where a file is DICOM
    from pydicom import Dataset

NEGATIVE = "a negative (MONOCHROME1) was inverted"
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


def decode_dicom(data: bytes, at_least_px: int | None, name: str) -> Decoded:
    """Decode a DICOM file of one frame.

    at_least_px: as for `decode`. Raises DataError where it is over a limit or cannot be read, MissingExtraError for a
    compression that needs the `dicom` extra; where it is damaged, whatever the libraries raise.
    """
    from pydicom.encaps import generate_frames

    with quiet():  # pydicom reads a value when it is asked for, and only then warns
        dataset = _dicom_header(data, name)
        size = int(dataset.Columns), int(dataset.Rows)
        syntax, interpretation = dataset.file_meta.TransferSyntaxUID, dataset.PhotometricInterpretation
        remarks = _conversions(dataset)
        whole_jpeg = syntax in _JPEG_SYNTAXES and dataset.SamplesPerPixel == 3
        if whole_jpeg:
            frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        else:
            _check_readable(dataset, name)
    if not whole_jpeg:
        with AT_ONCE.taking(size[0] * size[1]):
            if syntax.is_encapsulated:
                return Decoded(contained(_dicom_to_rgb, data, name), size, remarks)
            with quiet():
                return Decoded(_pixels_to_rgb(dataset, name), size, remarks)
    # pydicom would choose the colour space by the header alone, and gets the ones with an Adobe marker wrong.
    image = opened(frame, "JPEG", name)
    if image.size != size:
        raise DataError(f"{name} holds a JPEG of another size than its header says: export it again")
    if image.mode != "RGB":
        raise DataError(f"{name} holds a JPEG of other colours than its header says: export it again")
    unchanged = interpretation == "RGB" and _colours_unmarked(image)
    mode = "YCbCr" if unchanged else None
    return Decoded(pixels_of(image, frame, wanted_size(at_least_px), mode=mode), size, remarks)


def _conversions(dataset: "Dataset") -> list[str]:
    """Tell what must be done to the samples of a file to make them RGB of 8 bits."""
    found, interpretation = [], dataset.PhotometricInterpretation
    if dataset.SamplesPerPixel == 1 and interpretation in OF_MODE:
        found.append(OF_MODE[interpretation])
    if dataset.SamplesPerPixel == 1 and interpretation == "MONOCHROME1":
        found.append(NEGATIVE)
    if int(dataset.get("BitsStored") or 8) > 8:
        found.append(DEEP)
    return found


def _dicom_header(data: bytes, name: str) -> "Dataset":
    from pydicom import dcmread

    if _DEFLATED in data:  # pydicom would inflate it all before anything can be checked
        raise DataError(f"{name} is a deflated DICOM file: save it uncompressed or as JPEG")
    dataset = dcmread(Bounded(data, "DICOM", name), specific_tags=_DICOM_TAGS)
    if "PixelData" not in dataset:
        raise DataError(f"{name} is a DICOM file without a picture, or cut short: leave it out or take a fresh copy")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise DataError(f"{name} is a DICOM file of {dataset.NumberOfFrames} frames: export one of them")
    check_size(dataset.Columns, dataset.Rows, name)
    return dataset


def _colours_unmarked(image: Image.Image) -> bool:
    # With neither marker libjpeg takes three components for YCbCr; coarser colour than light proves it right.
    components = getattr(image, "layer", [])
    ids = bytes(component[0] for component in components)
    alike = all(component[1:3] == components[0][1:3] for component in components)
    return alike and ids != b"RGB" and not {"jfif", "adobe"} & image.info.keys()


def _dicom_to_rgb(data: bytes, name: str) -> UInt8Array:
    with quiet():
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
        return to_uint8(colours, 0, np.iinfo(colours.dtype).max)
    if values.ndim == 3:
        return to_uint8(values, 0, 2**dataset.BitsStored - 1)
    grey = _dicom_grey(values, dataset)
    return grey_to_rgb(255 - grey if interpretation == "MONOCHROME1" else grey)


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
        return to_uint8(values, float(centre) - 0.5 - reach, float(centre) - 0.5 + reach)
    if dataset.get("VOILUTSequence"):
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        return to_uint8(apply_voi_lut(values, dataset), 0, 2**bits - 1)
    low, high = apply_modality_lut(extremes, dataset)
    return to_uint8(values, low, high)
