"""The zoo: pictures and files, good and bad, that the tests make by script."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.uid import (
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from melanoma.errors import DataError
from melanoma.images.decode import decode

SHARED = Path(__file__).parents[2] / "shared" / "data"
DICOMS = sorted((SHARED / "siim2020" / "dicom").glob("*/*.dcm"))
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")

Pixels = NDArray[np.uint8]


def scene(height: int = 48, width: int = 64) -> Pixels:
    """A smooth picture with no symmetry: what JPEG changes little, and any turn changes much."""
    down, across = np.mgrid[0:height, 0:width]
    red, green = 200 * across / width + 30, 150 * down / height + 60
    return np.stack([red, green, 255 - (red + green) / 2], axis=2).astype(np.uint8)


def speckled(height: int = 240, width: int = 320) -> Pixels:
    noise = np.random.default_rng(0).integers(-40, 40, (height, width, 3))
    return (scene(height, width).astype(int) + noise).clip(0, 255).astype(np.uint8)


def saved(image: Image.Image | Pixels, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def dicom(
    pixels: bytes,
    photometric: str = "RGB",
    syntax: str = ExplicitVRLittleEndian,
    size: tuple[int, int] = (48, 64),
    **tags: object,
) -> bytes:
    """A DICOM file of 8-bit RGB unless `tags` say otherwise, of a patient whose name must never be seen."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName = "Doe^Jane"
    dataset.Rows, dataset.Columns = size
    dataset.SamplesPerPixel = 1 if photometric.startswith(("MONO", "PALETTE")) else 3
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    dataset.add_new("PixelData", "OW" if dataset.BitsAllocated > 8 else "OB", pixels)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def difference(one: Pixels, other: Pixels) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


def refusal(content: bytes) -> str:
    """The sentence that refuses `content`, checked to be one line that names the file and no patient."""
    with pytest.raises(DataError) as caught:
        decode(content, name="lesion.jpg")
    sentence = str(caught.value)
    assert sentence.startswith("lesion.jpg ")
    assert "\n" not in sentence
    assert "Jane" not in sentence
    return sentence
