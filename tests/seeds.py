"""What the fuzzer starts from: sound files of each kind, made by script, and small real ones where they are."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)
from test_decode_dicom import jpeg_dicom, uncompressed_cases, unmarked
from test_sources import TFRECORDS, example, framed, message, of_bytes, of_integers
from zoo import DICOMS, SHARED, dicom, saved, scene, speckled

SMALL_BYTES = 100_000  # of a real file: more inputs a second


def jpegs() -> list[bytes]:
    """Baseline and progressive, each sampling and colour, restarts, orientation, a copy inside, CMYK, real ones."""
    picture, exif = Image.fromarray(speckled(48, 64)), Image.Exif()
    exif[0x0112] = 6
    made = [saved(picture, "JPEG", subsampling=subsampling) for subsampling in (0, 1, 2)]
    made += [saved(picture, "JPEG", progressive=True), saved(picture, "JPEG", keep_rgb=True, restart_marker_blocks=2)]
    made += [saved(picture.convert(mode), "JPEG") for mode in ("L", "CMYK", "YCbCr")]
    made += [saved(picture, "JPEG", exif=exif, icc_profile=bytes(3000), comment="a lesion", optimize=True)]
    made += [saved(picture, "MPO", save_all=True, append_images=[picture]), unmarked(made[0])]
    made += [saved(Image.new("RGB", (64, 48), "grey"), "JPEG")]  # whose end is looked at twice
    return [*made, *_real(sorted((SHARED / "isic/jpeg/train").glob("*.jpg"))[:4])]


def pictures() -> list[bytes]:
    """PNG, WEBP, TIFF and BMP of each kind of pixel and compression that Pillow writes."""
    picture = Image.fromarray(scene())
    deep = Image.fromarray(scene()[:, :, 0].astype(np.uint16) * 257)
    alpha = picture.convert("RGBA")
    made = [saved(picture.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    made += [saved(deep, "PNG"), saved(picture.quantize(8), "PNG", transparency=0), saved(alpha, "WEBP", lossless=True)]
    made += [saved(picture, "WEBP"), saved(picture, "WEBP", save_all=True, append_images=[picture.rotate(90)])]
    for compression in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "group4", "tiff_adobe_deflate"):
        plain = picture.convert("1") if compression == "group4" else picture
        made.append(saved(plain, "TIFF", compression=compression))
    made += [saved(deep, "TIFF"), saved(picture.convert("CMYK"), "TIFF", compression="tiff_lzw")]
    made += [saved(picture, "TIFF", save_all=True, append_images=[picture]), saved(picture, "TIFF", big_tiff=True)]
    return [*made, *(saved(picture.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB"))]


def dicoms() -> list[bytes]:
    """Each photometric interpretation, and each transfer syntax that can be written here."""
    grey, jpeg = scene()[:, :, 0], saved(scene(), "JPEG", subsampling=2)
    deep = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    made = [make() for _, make, _ in uncompressed_cases()]
    made += [dicom(grey.tobytes(), f"MONOCHROME{kind}") for kind in (1, 2)]
    made += [dicom((grey.astype(np.int16) * 16 - 2048).tobytes(), "MONOCHROME2", **deep, PixelRepresentation=1)]
    made += [dicom(np.packbits(grey > 128).tobytes(), "MONOCHROME2", BitsAllocated=1, BitsStored=1, HighBit=0)]
    scaled = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": [100, 5], "WindowWidth": [401, 9]}
    made += [dicom(grey.astype(np.uint16).tobytes(), "MONOCHROME2", **deep, **scaled), *_with_tables(grey)]
    made += [jpeg_dicom(jpeg, colour) for colour in ("RGB", "YBR_FULL", "YBR_FULL_422")]
    made += [jpeg_dicom(saved(Image.fromarray(grey), "JPEG"), "MONOCHROME1"), jpeg_dicom(unmarked(jpeg), "RGB")]
    made += [dicom(encapsulate([jpeg]), "YBR_FULL_422", JPEGExtended12Bit), *_compressed(), *_rewritten()]
    return [*made, *_real(DICOMS)]


def _with_tables(grey: np.ndarray) -> Iterator[bytes]:
    levels = np.arange(256, dtype=np.uint16) * 257
    runs = np.array([0, 1, 0, 1, 255, 65_535], np.uint16)  # a discrete value, then a line to the brightest
    for kind, table in (("", levels), ("Segmented", runs)):
        tables: dict[str, object] = {}
        for colour in ("Red", "Green", "Blue"):
            tables[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            tables[f"{kind}{colour}PaletteColorLookupTableData"] = table.tobytes()
        yield dicom(grey.tobytes(), "PALETTE COLOR", **tables)
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        lookup = Dataset()
        lookup.LUTDescriptor, lookup.LUTData = [256, 0, 16], levels.tobytes()
        lookup.ModalityLUTType = "US"
        lookup["LUTData"].VR = "OW"
        yield dicom(grey.tobytes(), "MONOCHROME2", **{name: [lookup]})


def _compressed() -> Iterator[bytes]:
    deep = (scene()[:, :, 0].astype(np.uint16) * 257).tobytes()
    colour = dicom(scene().tobytes())
    grey = dicom(deep, "MONOCHROME2", BitsAllocated=16, BitsStored=16, HighBit=15)
    for syntax in (RLELossless, JPEGLSLossless):
        for content in (colour, grey):
            dataset = dcmread(io.BytesIO(content))
            dataset.compress(syntax, generate_instance_uid=False)
            yield _written(dataset)
    exact = saved(scene(), "JPEG2000", no_jp2=True, irreversible=False, mct=0)
    tiled = saved(scene(), "JPEG2000", no_jp2=True, tile_size=(16, 16), num_resolutions=3)
    rough = saved(scene(), "JPEG2000", irreversible=True)  # in boxes, its colours turned
    yield dicom(encapsulate([exact]), "RGB", JPEG2000Lossless)
    yield dicom(encapsulate([tiled]), "YBR_RCT", JPEG2000Lossless)
    yield dicom(encapsulate([rough]), "YBR_ICT", JPEG2000)
    yield dicom(encapsulate([scene().tobytes()]), "RGB", "1.2.840.10008.1.2.1.98")


def _rewritten() -> Iterator[bytes]:
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        yield dicom(scene().tobytes(), syntax=syntax)


def _written(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def tfrecords() -> list[bytes]:
    """Records of the competition's features, of every type, and a few real ones."""
    full = message(
        {
            "image": of_bytes(saved(scene(), "JPEG")),
            "image_name": of_bytes(b"ISIC_1"),
            "target": of_integers(1, -1, 300),
            "width": b"\x12\x06\x0a\x04\0\0\x80\x3f",
        }
    )
    made = [framed(example("ISIC_1", "pixels")) * 3, framed(full) + framed(b"") + framed(example("ISIC_2", "more"))]
    real = next(iter(_real([TFRECORDS / "test38-21.tfrec"], 10 * SMALL_BYTES)), b"")
    first = 16 + int.from_bytes(real[:8], "little")
    return [*made, *([real[:first]] if real else [])]


def tables() -> list[bytes]:
    """Each kind of table: of a dataset in both spellings, pairs, sizes, folds, predictions, the archive's, pictures."""
    rows = range(1, 9)
    columns = {
        "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target": (
            "ISIC_{0},IP_{0},male,45.0,torso,nevus,{1},{2}"
        ),
        "isic_id;patient_id;lesion_id;sex;age_approx;anatom_site_general;target": (
            "ISIC_{0};IP_{0};IL_{0};F;85;upper extremity;{2}"
        ),
        "image_name_1,image_name_2": "ISIC_{0},ISIC_1{0}",
        "image_name,width,height": "ISIC_{0},640,480",
        "image_name,patient_id,group,fold": "ISIC_{0},IP_{0},{0},{2}",
        "image_name,patient_id,fold,target,probability,answer": "ISIC_{0},IP_{0},{2},{2},0.{0},{2}",
        "image_name,target": "ISIC_{0},0.1{0}",
        "isic_id,patient_id,lesion_id,sex,age_approx,anatom_site_general,diagnosis_1,diagnosis_2": (
            "ISIC_{0},IP_{0},IL_{0},male,45,torso,{1},Melanoma"
        ),
        "path,age,sex,site": "ISIC_{0}.jpg,4{0},f,torso",
    }
    words = ("benign", "malignant")
    made = ["\n".join([name, *(row.format(at, words[at % 2], at % 2) for at in rows)]) for name, row in columns.items()]
    real = (SHARED / "siim2020" / name for name in ("train.csv", "ISIC_2020_Training_Duplicates.csv"))
    parts = [b"".join(path.read_bytes().splitlines(keepends=True)[:60]) for path in real if path.exists()]
    return [*(text.encode() for text in made), *parts]


def _real(paths: list[Path], most_bytes: int = SMALL_BYTES) -> list[bytes]:
    return [path.read_bytes() for path in paths if path.exists() and path.stat().st_size < most_bytes]
