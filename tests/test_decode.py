"""The decoder against the zoo of bad files, made here by script, and against real DICOM files."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileMetaDataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from melanoma.errors import DataError, MissingExtraError
from melanoma.images import decode as decode_module
from melanoma.images.decode import as_image, decode, original_size

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


# Photographs that are read


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_each_format_gives_the_pixels_that_were_saved(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(saved(scene(), kind, **options))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, scene())


def test_a_jpeg_gives_the_pixels_that_pillow_gives(tmp_path: Path) -> None:
    path = tmp_path / "Läsion 1.jpg"
    path.write_bytes(saved(scene(), "JPEG"))
    with Image.open(path) as image:
        assert np.array_equal(decode(path), np.asarray(image))
    assert difference(decode(path), scene()) < 12


def test_a_file_is_read_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "really_png.jpg").write_bytes(saved(scene(), "PNG"))
    assert np.array_equal(decode(tmp_path / "really_png.jpg"), scene())


def test_transparency_is_laid_over_white() -> None:
    rgba = np.dstack([scene(), np.full((48, 64), 255, np.uint8)])
    rgba[:24, :, 3] = 0
    rgba[24:30, :, 3] = 128
    pixels = decode(saved(Image.fromarray(rgba), "PNG"))
    assert (pixels[:24] == 255).all()
    assert np.array_equal(pixels[30:], scene()[30:])
    halfway = scene()[24:30] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(pixels[24:30] - halfway).max() <= 1


def test_grey_with_transparency_and_palette_with_transparency_are_laid_over_white() -> None:
    alpha = np.repeat(np.array([0, 255], np.uint8), 16)[:, None].repeat(32, axis=1)
    grey = Image.merge("LA", [Image.new("L", (32, 32), 90), Image.fromarray(alpha)])
    pixels = decode(saved(grey, "PNG"))
    assert (pixels[:16] == 255).all()
    assert (pixels[16:] == 90).all()
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.paste(0, (0, 0, 32, 16))
    pixels = decode(saved(palette, "PNG", transparency=0))
    assert (pixels[:16] == 255).all()
    assert (pixels[16:] == (10, 200, 30)).all()


def test_grey_one_bit_palette_and_cmyk_become_rgb() -> None:
    grey = scene()[:, :, 0]
    assert np.array_equal(decode(saved(Image.fromarray(grey), "PNG")), np.dstack([grey] * 3))
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))
    assert np.array_equal(decode(saved(Image.fromarray(stripes).convert("1"), "PNG")), np.dstack([stripes] * 3))
    few = Image.fromarray(scene()).quantize(64)
    assert np.array_equal(decode(saved(few, "PNG")), np.asarray(few.convert("RGB")))
    cmyk = decode(saved(Image.fromarray(scene()).convert("CMYK"), "JPEG", quality=95))
    assert difference(cmyk, scene()) < 12


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_by_their_depth_and_never_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    pixels = decode(saved(Image.fromarray(ramp), kind))
    assert np.array_equal(pixels[:, :, 0], np.rint(ramp / 257).astype(np.uint8))
    assert pixels.min() == 0
    assert pixels.max() == 255


def test_sixteen_bit_colour_png_is_scaled_by_its_depth() -> None:
    wide = (scene().astype(">u2") * 257).tobytes()
    rows = b"".join(b"\0" + wide[start : start + 64 * 6] for start in range(0, len(wide), 64 * 6))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0))
    content += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(decode(content), scene())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_gives_the_upright_pixels(orientation: int, kind: str) -> None:
    lossless = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Pillow turn that undoes each orientation
    upright = Image.fromarray(scene())
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(saved(stored, kind, exif=exif, **lossless))
    assert difference(pixels, decode(saved(upright, kind, **lossless))) <= (3 if kind == "JPEG" else 0)


def test_broken_exif_is_ignored_and_no_warning_leaks_out() -> None:
    content = saved(scene(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff garbage")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert decode(content).shape == (48, 64, 3)
    assert caught == []


def test_threads_may_decode_at_once_and_leave_the_warning_filters_alone() -> None:
    before = list(warnings.filters)
    files = [saved(scene(), kind) for kind in ("JPEG", "PNG", "TIFF")] + [dicom(scene().tobytes())]
    with ThreadPoolExecutor(4) as pool:
        shapes = {pixels.shape for pixels in pool.map(decode, files * 20)}
    assert shapes == {(48, 64, 3)}
    assert list(warnings.filters) == before


def test_a_flat_mid_grey_jpeg_is_not_taken_for_a_damaged_one() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert difference(decode(saved(grey, "JPEG")), grey) <= 1
    assert difference(decode(saved(grey, "JPEG", progressive=True), 16), grey[:32, :32]) <= 1


def test_black_and_white_images_are_read() -> None:
    for level in (0, 255):
        assert (decode(saved(np.full((32, 32, 3), level, np.uint8), "JPEG")) == level).all()


@pytest.mark.parametrize("size", [(48, 64), (700, 500), (1333, 2000), (2000, 1333), (513, 4000)])
@pytest.mark.parametrize("at_least_px", [32, 100, 224])
def test_a_reduced_jpeg_keeps_twice_the_pixels_asked_for(size: tuple[int, int], at_least_px: int) -> None:
    pixels = decode(saved(scene(*size), "JPEG"), at_least_px)
    assert min(pixels.shape[:2]) >= min(2 * at_least_px, *size)
    assert min(pixels.shape[:2]) < max(4 * at_least_px, min(size) + 1) or min(size) >= 32 * at_least_px


def after_resize(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.resize(pixels, (200, 200), interpolation=cv2.INTER_AREA))


def test_a_reduced_jpeg_looks_like_the_full_one_after_the_resize() -> None:
    content = saved(speckled(1600, 2000), "JPEG", quality=90)
    assert decode(content, 200).shape == (400, 500, 3)
    full, reduced = after_resize(decode(content)), after_resize(decode(content, 200))
    assert np.abs(full.astype(int) - reduced).mean() < 1


@needs_shared
def test_real_jpegs_reduced_look_like_the_full_ones_after_the_resize() -> None:
    for path in sorted((SHARED / "isic_originals_cc0").glob("*.jpg"))[:6]:
        full, reduced = after_resize(decode(path)), after_resize(decode(path, 200))
        assert np.abs(full.astype(int) - reduced).mean() < 0.5


def test_the_original_size_is_told_without_decoding() -> None:
    assert original_size(saved(scene(), "JPEG")) == (64, 48)
    assert original_size(saved(scene(), "PNG")) == (64, 48)
    assert original_size(dicom(scene().tobytes())) == (64, 48)
    with pytest.raises(DataError, match="no JPEG"):
        original_size(b"GIF89a")


# Photographs that are refused


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def lying_png(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"<!DOCTYPE html><html>404</html>", id="html"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", id="svg"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", id="eps"),
        pytest.param(b"%PDF-1.7\n", id="pdf"),
        pytest.param(b"SIMPLE  =                    T" + b" " * 2850, id="fits"),
        pytest.param(saved(scene(), "ICO"), id="ico"),
        pytest.param(saved(scene(), "GIF"), id="gif"),
        pytest.param(saved(scene(), "PPM"), id="ppm"),
        pytest.param(b"\0" * 4096, id="zeros"),
    ],
)
def test_what_is_on_no_allow_list_is_refused(content: bytes) -> None:
    assert "no JPEG, PNG, WEBP, TIFF, BMP or DICOM file" in refusal(content)


def test_an_empty_a_missing_and_an_unreadable_path_are_refused(tmp_path: Path) -> None:
    assert "empty" in refusal(b"")
    for path in (tmp_path / "gone.jpg", tmp_path, Path("nul\0.jpg"), tmp_path / ("x" * 300)):
        with pytest.raises(DataError, match="cannot be read"):
            decode(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_a_file_cut_short_is_refused(kind: str) -> None:
    content = saved(speckled(), kind)
    for end in (200, len(content) // 2, len(content) * 9 // 10, -20):
        assert "damaged" in refusal(content[:end])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("lost", [1, 2, 3, 30, 300])
def test_a_jpeg_without_its_last_bytes_is_refused(lost: int, progressive: bool) -> None:
    assert "damaged" in refusal(saved(speckled(), "JPEG", progressive=progressive)[:-lost])


@pytest.mark.parametrize("at_least_px", [None, 32])
@pytest.mark.parametrize("hole", [b"", bytes(1000), b"\xff" * 1000, bytes(range(256)) * 4])
def test_a_jpeg_with_a_hole_is_refused_and_never_grey_filled(hole: bytes, at_least_px: int | None) -> None:
    content = saved(speckled(), "JPEG")
    middle = len(content) // 2
    for rest in (content[middle + 1000 :], content[-2:]):
        with pytest.raises(DataError, match="damaged"):
            decode(content[:middle] + hole + rest, at_least_px)


def test_one_changed_byte_in_a_png_is_refused() -> None:
    content = bytearray(saved(speckled(), "PNG"))
    content[len(content) // 2] ^= 0x10
    assert "damaged" in refusal(bytes(content))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_an_animation_and_a_multi_page_file_are_refused(kind: str) -> None:
    content = saved(scene(), kind, save_all=True, append_images=[Image.fromarray(scene()[::-1])])
    assert "animation or has several pages" in refusal(content)


def test_float_and_32_bit_tiffs_are_refused() -> None:
    assert "float" in refusal(saved(Image.fromarray(scene()[:, :, 0].astype(np.float32)), "TIFF"))
    assert "float" in refusal(saved(Image.fromarray(scene()[:, :, 0].astype(np.int32)), "TIFF"))


def test_a_pixel_bomb_is_refused_before_it_is_decoded() -> None:
    for side in (8001, 12_000, 20_000, 65_535):
        assert "over 64 megapixels" in refusal(lying_png(side, side))
    jpeg = bytearray(saved(scene(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = b"\xff\xff\xff\xff"
    assert "over 64 megapixels" in refusal(bytes(jpeg))


def test_dimensions_that_lie_are_refused() -> None:
    assert "damaged" in refusal(lying_png(500, 400))
    jpeg = bytearray(saved(scene(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = struct.pack(">HH", 3000, 2000)
    assert "damaged" in refusal(bytes(jpeg))


def test_thirty_six_megapixels_pass() -> None:
    assert decode(saved(Image.new("L", (6000, 6000), 200), "JPEG"), 224).shape == (750, 750, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (15, 400), (400, 15)])
def test_an_image_under_sixteen_pixels_is_refused(size: tuple[int, int]) -> None:
    assert "each side must have 16 or more" in refusal(saved(Image.new("RGB", size), "PNG"))
    assert decode(saved(Image.new("RGB", (16, 16)), "PNG")).shape == (16, 16, 3)


def test_a_progressive_jpeg_of_thousands_of_scans_is_refused() -> None:
    content = saved(scene(), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    assert "over 100 scans" in refusal(content[:-2] + content[last:-2] * 3000 + content[-2:])


def test_an_array_passes_through_and_a_path_is_decoded(tmp_path: Path) -> None:
    pixels = scene()
    assert as_image(pixels) is pixels
    (tmp_path / "one.png").write_bytes(saved(pixels, "PNG"))
    assert np.array_equal(as_image(tmp_path / "one.png"), pixels)
    assert np.array_equal(as_image(str(tmp_path / "one.png")), pixels)
    for wrong in (pixels[:, :, 0], pixels.astype(np.float32), pixels[:0], np.dstack([pixels, pixels])):
        with pytest.raises(DataError, match="uint8"):
            as_image(wrong)


# DICOM files that are read


@needs_shared
def test_every_real_dicom_gives_the_pixels_of_the_jpeg_inside() -> None:
    assert len(DICOMS) == 26
    for path in DICOMS:
        dataset = dcmread(path)
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        for at_least_px in (200, None) if dataset.Rows * dataset.Columns < 6_000_000 else (200,):
            with Image.open(io.BytesIO(frame)) as image:
                image.draft(None, (400, 400) if at_least_px else None)
                assert difference(decode(path, at_least_px), np.asarray(image)) <= 1, path.name


@needs_shared
def test_the_dicoms_with_an_adobe_marker_are_not_green() -> None:
    for name in ("ISIC_0076995", "ISIC_0165945"):
        red, green, blue = decode(SHARED / "siim2020/dicom/train" / f"{name}.dcm", 200).mean(axis=(0, 1))
        assert red > green > blue - 40
        assert red > green + 15


def ybr(pixels: Pixels) -> Pixels:
    return np.asarray(convert_color_space(pixels, "RGB", "YBR_FULL"))


def halved(pixels: Pixels) -> bytes:
    """YBR_FULL_422 as DICOM stores it: two brightnesses, then one pair of colours."""
    full = ybr(pixels)
    pairs = np.concatenate([full[:, ::2, :1], full[:, 1::2, :1], full[:, ::2, 1:]], axis=2)
    return np.ascontiguousarray(pairs).tobytes()


def uncompressed_cases() -> list[tuple[str, Callable[[], bytes], int]]:
    pixels = scene()
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes()
    wide = (pixels.astype(np.uint16) * 16 + pixels // 16).tobytes()
    twelve = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    return [
        ("RGB", lambda: dicom(pixels.tobytes()), 0),
        ("planar 1", lambda: dicom(planes, PlanarConfiguration=1), 0),
        ("YBR_FULL", lambda: dicom(ybr(pixels).tobytes(), "YBR_FULL"), 2),
        ("YBR_FULL_422", lambda: dicom(halved(pixels), "YBR_FULL_422"), 4),
        ("12 bits", lambda: dicom(wide, **twelve), 1),
    ]


@pytest.mark.parametrize("case", uncompressed_cases(), ids=lambda case: case[0])
def test_uncompressed_colour_gives_the_same_rgb(case: tuple[str, Callable[[], bytes], int]) -> None:
    _, make, tolerance = case
    assert difference(decode(make()), scene()) <= tolerance


def test_palette_colour_is_looked_up() -> None:
    levels = np.arange(256, dtype=np.uint16) * 257
    index = scene()[:, :, 0]
    tables = {}
    for colour, table in (("Red", levels), ("Green", levels[::-1]), ("Blue", levels // 2)):
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tables[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
    pixels = decode(dicom(index.tobytes(), "PALETTE COLOR", **tables))
    assert difference(pixels, np.dstack([index, 255 - index, index // 2])) <= 1


def test_monochrome1_is_the_negative_of_monochrome2() -> None:
    grey = scene()[:, :, 0]
    positive, negative = (
        decode(dicom(grey.tobytes(), "MONOCHROME2")),
        decode(dicom(grey.tobytes(), "MONOCHROME1")),
    )
    assert np.array_equal(positive, np.dstack([grey] * 3))
    assert np.array_equal(negative, 255 - positive)


@pytest.mark.parametrize(("stored", "signed"), [(16, 0), (12, 0), (16, 1), (12, 1)])
def test_deep_grey_is_scaled_by_its_bits_and_never_clipped(stored: int, signed: int) -> None:
    ramp = np.linspace(0, 2**stored - 1, 48 * 64).reshape(48, 64)
    values = (ramp.astype(int) - signed * 2 ** (stored - 1)).astype(np.int16 if signed else np.uint16)
    tags = {"BitsAllocated": 16, "BitsStored": stored, "HighBit": stored - 1, "PixelRepresentation": signed}
    pixels = decode(dicom(values.tobytes(), "MONOCHROME2", **tags, RescaleSlope=2, RescaleIntercept=-1000))
    assert np.abs(pixels[:, :, 0] - ramp / (2**stored - 1) * 255).max() <= 1
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_a_window_is_applied_after_the_rescaling() -> None:
    values = np.linspace(0, 4095, 48 * 64).astype(np.uint16).reshape(48, 64)
    tags = {
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    pixels = decode(dicom(values.tobytes(), "MONOCHROME2", **tags, WindowCenter=[100, 5], WindowWidth=[401, 9]))
    expected = np.clip(((values - 1024.0) - 99.5) / 400 + 0.5, 0, 1) * 255  # DICOM PS3.3 C.11.2.1.2.1
    assert np.abs(pixels[:, :, 0] - expected).max() <= 1


def test_a_voi_table_is_applied() -> None:
    grey, table = scene()[:, :, 0], Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], np.arange(255, -1, -1, dtype=np.uint16).tobytes()
    table["LUTData"].VR = "OW"
    assert np.array_equal(decode(dicom(grey.tobytes(), "MONOCHROME2", VOILUTSequence=[table]))[:, :, 0], 255 - grey)


def jpeg_dicom(frame: bytes, photometric: str, **tags: object) -> bytes:
    return dicom(encapsulate([frame]), photometric, JPEGBaseline8Bit, **tags)


def unmarked(jpeg: bytes) -> bytes:
    """The JPEG without its JFIF marker."""
    return jpeg[:2] + jpeg[4 + struct.unpack(">H", jpeg[4:6])[0] :]


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
@pytest.mark.parametrize("strip", [False, True])
def test_a_jpeg_inside_dicom_gives_its_own_pixels(photometric: str, strip: bool) -> None:
    jpeg = saved(scene(), "JPEG", subsampling=2)
    assert np.array_equal(decode(jpeg_dicom(unmarked(jpeg) if strip else jpeg, photometric)), decode(jpeg))


def test_an_unmarked_jpeg_of_rgb_inside_dicom_is_left_as_it_is_stored() -> None:
    stored = Image.frombytes("YCbCr", (64, 48), scene().tobytes())  # so that no conversion takes place
    jpeg = unmarked(saved(stored, "JPEG", subsampling=0, quality=100))
    assert difference(decode(jpeg_dicom(jpeg, "RGB")), scene()) <= 3
    assert difference(decode(jpeg_dicom(jpeg, "RGB"), 8), np.asarray(Image.fromarray(scene()).reduce(2))) <= 6
    assert difference(decode(jpeg_dicom(jpeg, "YBR_FULL")), scene()) > 50


def test_an_adobe_marker_inside_dicom_wins_over_the_header() -> None:
    jpeg = saved(scene(), "JPEG", keep_rgb=True, quality=100)
    assert difference(decode(jpeg_dicom(jpeg, "YBR_FULL_422")), scene()) <= 3


def test_exif_inside_dicom_does_not_turn_the_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(jpeg_dicom(saved(scene(), "JPEG", exif=exif), "YBR_FULL_422")).shape == (48, 64, 3)


def test_a_grey_jpeg_inside_dicom_is_read() -> None:
    grey = scene()[:, :, 0]
    jpeg = saved(Image.fromarray(grey), "JPEG")
    for photometric, expected in (("MONOCHROME2", decode(jpeg)), ("MONOCHROME1", 255 - decode(jpeg))):
        assert difference(decode(jpeg_dicom(jpeg, photometric)), expected) <= 1


def test_jpeg_2000_and_run_length_dicoms_are_read() -> None:
    pytest.importorskip("openjpeg")
    codestream = saved(scene(), "JPEG2000", no_jp2=True, irreversible=False, mct=0)
    assert np.array_equal(decode(dicom(encapsulate([codestream]), "RGB", JPEG2000Lossless)), scene())
    dataset = dcmread(io.BytesIO(dicom(scene().tobytes())))
    dataset.compress(RLELossless, scene(), generate_instance_uid=False)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert np.array_equal(decode(buffer.getvalue()), scene())


# DICOM files that are refused


def test_a_compression_that_needs_an_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        is_available = False

    monkeypatch.setattr(decode_module, "get_decoder", lambda syntax: Missing)
    with pytest.raises(MissingExtraError, match=r"pylibjpeg-openjpeg.*melanoma\[dicom\]"):
        decode(dicom(encapsulate([b"\0" * 100]), "RGB", JPEG2000Lossless))


def test_a_compression_that_nothing_reads_is_refused() -> None:
    assert "stored as MPEG2" in refusal(dicom(encapsulate([b"\0" * 100]), "RGB", MPEG2MPML))


def test_a_dicom_without_preamble_is_refused() -> None:
    assert "no JPEG" in refusal(dicom(scene().tobytes())[132:])


def test_a_dicom_without_pixels_is_refused() -> None:
    dataset = dcmread(io.BytesIO(dicom(scene().tobytes())))
    del dataset.PixelData
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert "without a picture" in refusal(buffer.getvalue())
    del dataset.Rows
    dataset.save_as(buffer := io.BytesIO())
    refusal(buffer.getvalue())


def test_a_dicom_with_short_pixels_is_refused() -> None:
    assert "damaged" in refusal(dicom(scene().tobytes()[:-500]))
    whole = dicom(scene().tobytes())
    for end in (200, 500, len(whole) // 2, -10):
        refusal(whole[:end])


def test_a_dicom_cut_inside_its_jpeg_is_refused() -> None:
    whole = jpeg_dicom(saved(speckled(48, 64), "JPEG"), "YBR_FULL_422")
    for end in (len(whole) // 2, len(whole) - 200):
        assert "cut short" in refusal(whole[:end])


def test_a_dicom_that_claims_65535_rows_is_refused_before_it_is_decoded() -> None:
    assert "over 64 megapixels" in refusal(dicom(scene().tobytes(), size=(65_535, 65_535)))
    assert "another size" in refusal(jpeg_dicom(saved(scene(), "JPEG"), "YBR_FULL_422", Rows=4000, Columns=6000))
    assert "16 or more" in refusal(dicom(bytes(3), size=(1, 1)))


def test_a_dicom_of_several_frames_is_refused() -> None:
    assert "2 frames" in refusal(dicom(scene().tobytes() * 2, NumberOfFrames=2))


def test_a_deflated_dicom_is_refused_before_it_is_inflated() -> None:
    assert "deflated" in refusal(dicom(scene().tobytes(), syntax="1.2.840.10008.1.2.1.99"))


def test_a_bomb_of_nested_sequences_is_refused() -> None:
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    whole = dicom(scene().tobytes())
    start = whole.index(struct.pack("<HH", 0x0010, 0x0010))
    assert "damaged" in refusal(whole[:start] + opening * 20_000 + whole[start:])


def test_nothing_of_a_dicom_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    whole = jpeg_dicom(saved(scene(), "JPEG"), "YBR_FULL_422")
    decode(whole)
    refusal(whole[: len(whole) // 2])
    assert caplog.text == ""
