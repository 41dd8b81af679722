"""The decoder against DICOM files, real ones and the zoo's."""

import io
import struct
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    MPEG2MPML,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from zoo import DICOMS, SHARED, Pixels, dicom, difference, needs_shared, refusal, saved, scene, speckled

from melanoma.errors import MissingExtraError
from melanoma.images.decode import decode

# DICOM files that are read


@needs_shared
def test_every_real_dicom_gives_the_pixels_of_the_jpeg_inside() -> None:
    assert len(DICOMS) == 26
    for path in DICOMS:
        dataset = dcmread(path)
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        for at_least_px in (200, None) if dataset.Rows * dataset.Columns < 6_000_000 else (200,):
            with Image.open(io.BytesIO(frame)) as image:
                image.draft(None, (300, 300) if at_least_px else None)
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
    assert difference(decode(jpeg_dicom(jpeg, "RGB"), 16), np.asarray(Image.fromarray(scene()).reduce(2))) <= 6
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

    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda syntax: Missing)
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


def test_odd_values_of_a_dicom_stand_in_no_warning_and_no_refusal() -> None:
    whole = dicom(encapsulate([b"\0" * 100]), "RGB", JPEG2000Lossless)
    odd = whole.replace(JPEG2000Lossless.encode(), b"1.2.Doe^Jane\n".ljust(22))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert "no name for" in refusal(odd)
    assert not told
