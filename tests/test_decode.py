"""The decoder against photographs, good and bad."""

import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mutations import png_chunk
from PIL import Image
from zoo import SHARED, Pixels, dicom, difference, needs_shared, refusal, saved, scene, speckled

from melanoma.errors import DataError
from melanoma.images.decode import as_image, decode, decode_and_tell
from melanoma.images.filters import process
from melanoma.images.photograph import SPARE
from melanoma.images.photograph import _scans as scans
from melanoma.machine import Budget

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
    content = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0))
    content += png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    assert np.array_equal(decode(content), scene())


def test_a_large_picture_is_turned_into_rgb_in_bands_that_give_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "")  # a TIFF is decoded here too
    colour, grey = Image.fromarray(scene()), Image.fromarray(scene()[:, :, 0])
    deep = Image.fromarray(np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16))
    clear, palette = colour.copy(), colour.quantize(16)
    clear.putalpha(grey)
    files = [saved(one, "PNG") for one in (colour, grey, deep, clear, palette, grey.convert("1"), clear.convert("LA"))]
    files += [saved(palette, "PNG", transparency=3), saved(deep, "TIFF"), saved(colour.convert("CMYK"), "JPEG")]
    files += [saved(colour, kind) for kind in ("JPEG", "WEBP", "TIFF", "BMP")]
    whole = [decode(file) for file in files]
    for pixels in (1, 7 * 64):
        monkeypatch.setattr("melanoma.images.photograph.BAND_PIXELS", pixels)
        for file, expected in zip(files, whole, strict=True):
            assert np.array_equal(decode(file), expected)


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


def test_threads_that_wait_for_pixels_and_for_warnings_do_not_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("melanoma.images.photograph.AT_ONCE", Budget(48 * 64))  # one picture at a time
    files = [dicom(scene().tobytes()), saved(scene(), "PNG"), saved(scene(), "TIFF"), saved(scene(), "JPEG")]
    pool = ThreadPoolExecutor(8)
    done = [pool.submit(decode, files[number % 4]) for number in range(80)]
    assert all(one.result(30).shape == (48, 64, 3) for one in done)
    pool.shutdown()


def test_a_flat_mid_grey_jpeg_is_not_taken_for_a_damaged_one() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert difference(decode(saved(grey, "JPEG")), grey) <= 1
    assert difference(decode(saved(grey, "JPEG", progressive=True), 16), grey[:32, :32]) <= 1


def test_black_and_white_images_are_read() -> None:
    for level in (0, 255):
        assert (decode(saved(np.full((32, 32, 3), level, np.uint8), "JPEG")) == level).all()


@pytest.mark.parametrize("size", [(48, 64), (700, 500), (1333, 2000), (2000, 1333), (513, 4000)])
@pytest.mark.parametrize("at_least_px", [32, 100, 224])
def test_a_reduced_jpeg_keeps_spare_pixels_beside_those_asked_for(size: tuple[int, int], at_least_px: int) -> None:
    pixels = decode(saved(scene(*size), "JPEG"), at_least_px)
    spare = SPARE * at_least_px
    assert min(pixels.shape[:2]) >= min(spare, *size)
    assert min(pixels.shape[:2]) < max(2 * spare, min(size) + 1) or min(size) >= 16 * spare


def after_resize(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.resize(pixels, (200, 200), interpolation=cv2.INTER_AREA))


def test_a_reduced_jpeg_looks_like_the_full_one_after_the_resize() -> None:
    content = saved(speckled(1600, 2000), "JPEG", quality=90)
    assert decode(content, 200).shape == (400, 500, 3)
    assert decode(content, 267).shape == (800, 1000, 3)
    full, reduced = after_resize(decode(content)), after_resize(decode(content, 200))
    assert np.abs(full.astype(int) - reduced).mean() < 1


@needs_shared
@pytest.mark.parametrize("size", [128, 224, 299, 512])
def test_real_jpegs_reduced_look_like_the_full_ones_after_the_resize(size: int) -> None:
    differences = []
    for path in sorted((SHARED / "isic_originals_cc0").glob("*.jpg"))[::2]:
        plain = process(decode(path), size)
        differences.append(np.abs(plain.astype(int) - process(path, size)).mean())
    assert np.mean(differences) < 0.7
    assert max(differences) < 2  # hairs


def test_a_jpeg_of_many_scans_is_counted_as_bytes_are() -> None:
    content = np.random.default_rng(0).choice(np.array([0xFF, 0xDA, 0], np.uint8), 10_001).tobytes()
    assert scans(content) == content.count(b"\xff\xda")
    assert scans(b"\xff") == 0


def test_the_size_as_stored_is_told_beside_the_pixels() -> None:
    for content in (saved(scene(), "JPEG"), saved(scene(), "PNG"), dicom(scene().tobytes())):
        pixels, size, _ = decode_and_tell(content)
        assert np.array_equal(pixels, decode(content))
        assert size == (64, 48)
    pixels, size, _ = decode_and_tell(saved(scene(480, 640), "JPEG"), 40)
    assert pixels.shape == (60, 80, 3)
    assert size == (640, 480)


# Photographs that are refused


def lying_png(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")


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


KINDS = [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}]


@pytest.mark.parametrize("at_least_px", [None, 32])
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_jpeg_that_ends_early_is_refused_wherever_and_never_grey_filled(
    options: dict[str, Any], at_least_px: int | None
) -> None:
    content = saved(speckled(), "JPEG", **options)
    assert decode(content, at_least_px).shape
    end = b"\xff\xd9"
    for middle in np.random.default_rng(0).integers(len(content) // 4, len(content) - 1000, 20):
        cut, rest = content[:middle], content[middle + 2 :]
        behind = [b"", end, end + content, end + rest, b"\xff\xff\x01" + rest, b"\xff" * 1000 + rest[998:]]
        for last in behind:
            with pytest.raises(DataError, match=r"damaged|scans"):
                decode(cut + last, at_least_px)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_most_damage_inside_a_jpeg_is_refused_and_what_is_taken_is_not_grey(options: dict[str, Any]) -> None:
    content, random = saved(speckled(), "JPEG", **options), np.random.default_rng(1)
    grey = [bool((np.abs(decode(content).astype(int) - 128) <= 1).all(axis=2).mean() > 0.02)]
    taken = 0
    for middle in random.integers(len(content) // 4, len(content) - 1000, 40):
        for hole in (random.bytes(1000), bytes(1000), b""):
            try:
                pixels = decode(content[:middle] + hole + content[middle + 1000 :])
            except DataError:
                continue
            taken += 1
            grey.append(bool((np.abs(pixels.astype(int) - 128) <= 1).all(axis=2).mean() > 0.05))
    assert taken <= 30 and not any(grey)  # of 120: what still decodes is not noticed


def test_one_changed_byte_in_a_png_is_refused() -> None:
    content = bytearray(saved(speckled(), "PNG"))
    content[len(content) // 2] ^= 0x10
    assert "damaged" in refusal(bytes(content))


def png(rows: list[bytes], *, interlaced: bool = False) -> bytes:
    """A grey PNG of 32 x 32 pixels, or 16 x 16 where interlaced, with these rows and no more."""
    side = 16 if interlaced else 32
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, int(interlaced)))
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    halves = png_chunk(b"IDAT", body[:9]) + png_chunk(b"IDAT", body[9:])
    return b"\x89PNG\r\n\x1a\n" + header + halves + png_chunk(b"IEND", b"")


def test_a_png_of_too_few_rows_is_refused_where_it_would_be_black_below() -> None:
    rows = [bytes([200] * 32)] * 31
    for more in ([], [b"\xc8" * 31]):
        assert "damaged" in refusal(png(rows + more))
    for last in (bytes(32), b"\xc8" * 32):
        assert decode(png([*rows, last]))[:31].min() == 200
    passes = [(2, 2), (2, 2), (4, 2), (4, 4), (8, 4), (8, 8), (16, 8)]
    lines = [b"\xc8" * columns for columns, count in passes for _ in range(count)]
    assert decode(png(lines, interlaced=True)).min() == 200
    assert decode(png([*lines[:-1], bytes(16)], interlaced=True))[:14].min() == 200
    assert "damaged" in refusal(png(lines[:-1], interlaced=True))


def test_a_png_whose_header_is_not_first_and_one_of_very_many_parts_are_refused_soon() -> None:
    short = png([bytes([200] * 32)] * 5)
    moved = short[:8] + png_chunk(b"tEXt", b"a\0b") + short[8:]
    assert "damaged" in refusal(moved)
    more = short[:-12] + png_chunk(b"IDAT", bytes(700)) * 9000 + short[-12:]
    begun = time.monotonic()
    refusal(more)
    assert time.monotonic() - begun < 4


def test_a_tiff_with_missing_strips_is_refused_and_not_black_below() -> None:
    content = bytearray(saved(scene(64, 64), "TIFF", compression=None, tiffinfo={278: 16}))
    place = struct.unpack("<I", content[4:8])[0] + 2
    for number in range(struct.unpack("<H", content[place - 2 : place])[0]):
        entry = place + 12 * number
        tag, kind, count, _ = struct.unpack("<HHII", content[entry : entry + 12])
        if tag in (273, 279):  # the strips' places and lengths
            content[entry : entry + 12] = struct.pack("<HHI", tag, kind, count // 2) + content[entry + 8 : entry + 12]
    assert "damaged" in refusal(bytes(content))


def test_a_transparent_colour_that_pillow_would_compare_wrongly_is_refused() -> None:
    grey16 = Image.fromarray(np.full((32, 32), 0x1000, np.uint16))
    assert "transparent colour of other than 8 bits" in refusal(saved(grey16, "PNG", transparency=0x1000))
    assert (decode(saved(Image.new("L", (32, 32), 16), "PNG", transparency=16)) == 255).all()
    assert (decode(saved(Image.new("RGB", (32, 32), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == 255).all()


def test_a_picture_of_fewer_bits_is_not_told_to_have_more() -> None:
    bits = np.array(Image.new("RGB", (32, 32), (255, 0, 0)).convert("RGB"))
    low = (bits[:, :, 0].astype(np.uint16) >> 3 << 11).astype("<u2").tobytes()
    header = struct.pack("<IiiHHIIiiII3I", 40, 32, 32, 1, 16, 3, len(low), 0, 0, 0, 0, 0xF800, 0x07E0, 0x001F)
    bmp = b"BM" + struct.pack("<IHHI", 14 + len(header) + len(low), 0, 0, 14 + len(header)) + header + low
    pixels, _, remarks = decode_and_tell(bmp)
    assert remarks == [] and difference(pixels, bits) == 0
    assert "samples of over 8 bits were scaled to 8" in decode_and_tell(saved(Image.fromarray(low_to_16()), "PNG"))[2]


def low_to_16() -> Pixels:
    return np.full((32, 32), 0x1234, np.uint16)  # type: ignore[return-value]


def test_a_large_tiff_is_read_inside_a_program_without_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "")
    assert decode(saved(Image.new("1", (6000, 6000), 1), "TIFF")).min() == 255


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


def test_an_animation_that_is_told_of_behind_the_pixels_is_no_matter() -> None:
    content = saved(scene(), "PNG")
    assert np.array_equal(decode(content[:-12] + png_chunk(b"acTL", bytes(8)) + content[-12:]), scene())


def test_a_progressive_jpeg_of_thousands_of_scans_is_refused() -> None:
    content = saved(scene(), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    assert "a JPEG of 3,0" in refusal(content[:-2] + content[last:-2] * 3000 + content[-2:])


def test_an_array_passes_through_and_a_path_is_decoded(tmp_path: Path) -> None:
    pixels = scene()
    assert as_image(pixels) is pixels
    (tmp_path / "one.png").write_bytes(saved(pixels, "PNG"))
    assert np.array_equal(as_image(tmp_path / "one.png"), pixels)
    assert np.array_equal(as_image(str(tmp_path / "one.png")), pixels)
    for wrong in (pixels[:, :, 0], pixels.astype(np.float32), pixels[:0], np.dstack([pixels, pixels])):
        with pytest.raises(DataError, match="uint8"):
            as_image(wrong)


def test_a_damaged_index_of_the_pictures_in_a_jpeg_is_no_warning() -> None:
    grey = Image.new("RGB", (64, 48), (128, 128, 128))  # whose end is looked at twice
    whole = saved(grey, "MPO", save_all=True, append_images=[grey])
    number, claimed = (struct.pack("<HHII", 0xB001, 4, 1, count) for count in (2, 9))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert decode(whole.replace(number, claimed)).shape == (48, 64, 3)
    assert not told
