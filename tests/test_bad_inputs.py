"""The list of bad inputs, row by row, where people meet them: the cache, `predict`, `explain` and the service alike.

What a file is refused for, or read as, is the same sentence and the same pixels everywhere. The modules' own tests go
further; `test_faults.py` and `test_from_outside.py` have the rows from 16 on.
"""

import io
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mutations import png_chunk
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit
from starlette.testclient import TestClient
from test_decode_dicom import uncompressed_cases
from zoo import Pixels, dicom, difference, saved, scene, speckled

from melanoma.answer import answer_pictures, explain_picture, print_answers
from melanoma.check import check_data
from melanoma.config import Settings
from melanoma.data.cache import prepare_cache, remarks_on
from melanoma.data.encode import learn_encoder
from melanoma.data.records import read_table
from melanoma.data.sources import Source, find_images
from melanoma.data.synthetic import make_dataset
from melanoma.errors import DataError
from melanoma.inference.explain import explain
from melanoma.inference.predict import Predictor
from melanoma.inference.words import Details
from melanoma.runs import Run
from melanoma.web.app import create_app

SOON_SECONDS = 2.0  # a refusal, on a busy machine too


@dataclass(frozen=True)
class Seen:
    """What became of a picture: the network's pixels, the networks' probability, what is remarked on."""

    pixels: Pixels
    probability: float
    remarks: list[str]


class Doors:
    """All ways into the package for a picture."""

    def __init__(self, run: Run, client: TestClient, folder: Path) -> None:
        self.predictor, self.client, self.folder = Predictor(run.folder), client, folder
        self.images = run.settings().images

    def offered(self, content: bytes, name: str) -> Path:
        folder = self.folder / str(len(list(self.folder.iterdir())))
        folder.mkdir()
        (folder / name).write_bytes(content)
        return folder / name

    def refuse(self, content: bytes, name: str = "lesion.jpg") -> str:
        """Offer a file at every door; return the one sentence that refuses it, as the cache says it."""
        path, begun = self.offered(content, name), time.monotonic()
        with pytest.raises(DataError) as caught:
            prepare_cache(path.parent / "cache", [Source("lesion", path)], self.images)
        told = str(caught.value)
        assert told.startswith("1 of 1 images cannot be read: lesion ") and "\n" not in told and "Jane" not in told
        sentence = told.split(": lesion ", 1)[1]
        assert not [one for one in (path.parent / "cache").iterdir() if one.is_dir()], "nothing is left half made"
        (answer,) = self.predictor.answer(path)
        assert (answer.status, answer.error, answer.score) == ("error", f"{path} {sentence}", None)
        with pytest.raises(DataError) as caught:
            explain(self.predictor, content, None, "lesion")
        assert str(caught.value) == f"lesion {sentence}"
        response = self.client.post("/predict", files={"images": (name, content)})
        assert (response.status_code, response.json()["detail"]) == (422, f"{name} {sentence}")
        assert time.monotonic() - begun < 4 * SOON_SECONDS
        return sentence

    def see(self, content: bytes, name: str = "lesion.png") -> Seen:
        """Offer a file at every door, and check that all see the same."""
        path = self.offered(content, name)
        cache = prepare_cache(path.parent / "cache", [Source("lesion", path)], self.images)
        picture = self.predictor.read(str(path), path)
        assert np.array_equal(picture.images[0], cache.images[0])
        (answer,) = self.predictor.answer(path)
        assert [f"{remark}: 1 image, lesion" for remark in answer.remarks] == remarks_on(cache)
        (told,) = self.client.post("/predict", files={"images": (name, content)}).json()["answers"]
        assert (told["score"], told["remarks"]) == (answer.score, answer.remarks)
        probability = self.predictor.predict_proba([path])[0, 1]
        assert probability == self.predictor.predict_proba([content])[0, 1]
        return Seen(picture.images[0], probability, answer.remarks)


@pytest.fixture(scope="module")
def doors(judged: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with TestClient(create_app(Predictor(judged.folder), largest_bytes=2**23)) as client:
        yield Doors(judged, client, tmp_path_factory.mktemp("doors"))


def test_row_01_a_jpeg_that_is_cut_or_corrupt_is_refused_and_never_grey_filled(doors: Doors) -> None:
    whole = saved(speckled(), "JPEG")
    middle = len(whole) // 2
    holes = [whole[:middle] + hole + whole[middle + 1000 :] for hole in (b"", bytes(1000), b"\xff" * 1000)]
    for bad in (whole[:middle], whole[:-20], whole[:-2], *holes):
        assert "damaged" in doors.refuse(bad)
    assert doors.see(whole, "lesion.jpg").remarks == []


def test_row_02_empty_files_and_pages_are_refused_and_a_wrong_name_is_remarked_on(doors: Doors) -> None:
    assert "is empty" in doors.refuse(b"")
    assert "is no JPEG, PNG, WEBP, TIFF, BMP or DICOM file" in doors.refuse(b"<!DOCTYPE html><html>404</html>")
    png = saved(scene(), "PNG")
    right, wrong = doors.see(png, "lesion.png"), doors.see(png, "lesion.jpg")
    assert right.probability == wrong.probability and right.remarks == []
    assert wrong.remarks == ["a PNG file whose name says JPEG"]


def test_row_03_other_kinds_of_pixels_follow_one_rule_that_is_remarked_on_once(doors: Doors, tmp_path: Path) -> None:
    picture, grey = Image.fromarray(scene()), Image.fromarray(scene()[:, :, 0])
    across = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1)))
    see_through = picture.copy()
    see_through.putalpha(across)
    share = np.asarray(across)[:, :, None] / 255
    palette, black = picture.quantize(16), grey.point(lambda level: 255 * (level > 128), "1")
    inks = saved(picture.convert("CMYK"), "JPEG", quality=95)
    cases: list[tuple[bytes, Any, int, str]] = [
        (saved(grey, "PNG"), np.dstack([grey] * 3), 0, "grey was turned into RGB"),
        (saved(palette, "PNG"), np.asarray(palette.convert("RGB")), 0, "a palette was turned into RGB"),
        (saved(black, "PNG"), np.asarray(black.convert("RGB")), 0, "black and white was turned into RGB"),
        (saved(see_through, "PNG"), scene() * share + 255 * (1 - share), 1, "transparency was laid over white"),
        (inks, np.asarray(Image.open(io.BytesIO(inks)).convert("RGB")), 0, "CMYK was turned into RGB"),
    ]
    for content, expected, levels, remark in cases:
        plain = doors.see(saved(np.round(expected).astype(np.uint8), "PNG"))
        found = doors.see(content, "lesion.jpg" if content is inks else "lesion.png")
        assert difference(found.pixels, plain.pixels) <= levels
        assert found.remarks == [remark]
    faint = picture.convert("LA")
    assert doors.see(saved(faint, "PNG")).remarks == ["transparency was laid over white", "grey was turned into RGB"]
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(saved(grey, "PNG"))
    cache = prepare_cache(tmp_path / "cache", [Source(str(n), tmp_path / f"{n}.png") for n in range(3)], doors.images)
    assert remarks_on(cache, None) == ["grey was turned into RGB: 3 images, 0, 1, 2"]


def test_row_04_sixteen_bits_are_scaled_and_never_clipped_and_floats_are_refused(doors: Doors) -> None:
    deep = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    found = doors.see(saved(Image.fromarray(deep), "PNG"))
    grey = np.round(deep / 257).astype(np.uint8)
    assert difference(found.pixels, doors.see(saved(np.dstack([grey] * 3), "PNG")).pixels) <= 1
    assert found.remarks == ["grey was turned into RGB", "samples of over 8 bits were scaled to 8"]
    assert "float or 32-bit" in doors.refuse(saved(Image.fromarray(deep.astype(np.float32)), "TIFF"), "lesion.tif")


def test_row_05_every_exif_orientation_has_the_score_of_the_upright_file(doors: Doors) -> None:
    upright = Image.fromarray(speckled(96, 128))
    expected = doors.see(saved(upright, "PNG")).probability
    turn = Image.Transpose
    back = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE, 6: turn.ROTATE_90,
            7: turn.TRANSVERSE, 8: turn.ROTATE_270}  # fmt: skip
    exif = Image.Exif()
    for orientation, stored in [(1, upright), *((number, upright.transpose(how)) for number, how in back.items())]:
        exif[0x0112] = orientation
        found = doors.see(saved(stored, "PNG", exif=exif))
        assert found.probability == expected, orientation
        assert found.remarks == ["a picture was turned as its EXIF orientation says"] * (orientation > 1)


def test_row_06_animations_and_files_of_several_pages_are_refused(doors: Doors) -> None:
    more = {"save_all": True, "append_images": [Image.fromarray(scene()[::-1])]}
    for kind in ("WEBP", "PNG", "TIFF"):
        assert "is an animation or has several pages" in doors.refuse(saved(scene(), kind, **more), f"l.{kind.lower()}")
    assert "is no JPEG" in doors.refuse(saved(scene(), "GIF", **more), "lesion.gif")


def black_png(side: int, rows: int | None = None) -> bytes:
    """A black picture of `side` x `side` pixels, true unless it has fewer `rows`: 65,000 take half a megabyte."""
    packer = zlib.compressobj(9)
    line = bytes(1 + (side + 7) // 8)
    body = b"".join(packer.compress(line) for _ in range(side if rows is None else rows)) + packer.flush()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def test_row_07_pixel_bombs_and_sizes_that_lie_are_refused_and_36_megapixels_pass(doors: Doors) -> None:
    for side in (12_000, 20_000, 65_000):
        assert "over 64 megapixels: make it smaller first" in doors.refuse(black_png(side))
    jpeg = saved(scene(), "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    for lie, said in (((65_535, 65_535), "over 64 megapixels"), ((3000, 2000), "damaged")):
        assert said in doors.refuse(jpeg[:size] + struct.pack(">HH", *lie) + jpeg[size + 4 :])
    assert "damaged" in doors.refuse(black_png(7000, rows=10))
    assert doors.see(saved(Image.new("RGB", (6000, 6000), (190, 150, 130)), "JPEG"), "lesion.jpg").remarks == []


def test_row_08_a_progressive_jpeg_of_3000_scans_is_refused(doors: Doors) -> None:
    whole = saved(scene(), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    assert "is a JPEG of 3,0" in doors.refuse(whole[:-2] + whole[last:-2] * 3000 + whole[-2:])
    assert doors.see(whole, "lesion.jpg").remarks == []


def test_row_09_tiny_pictures_are_refused_and_black_and_white_ones_not_assessable(doors: Doors) -> None:
    for size in ((1, 1), (1, 5000)):
        assert "each side must have 16 or more" in doors.refuse(saved(Image.new("RGB", size), "PNG"), "lesion.png")
    for colour in ("black", "white"):
        content = saved(Image.new("RGB", (256, 256), colour), "PNG")
        doors.see(content)
        (answer,) = doors.predictor.answer(content)
        assert (answer.status, answer.probability, answer.label) == ("not assessable", None, None)
        assert answer.reasons and all(reason in answer.words for reason in answer.reasons)


def test_row_10_what_is_on_no_list_is_refused_whatever_its_name(doors: Doors) -> None:
    files = [
        b"<svg xmlns='http://www.w3.org/2000/svg' width='99' height='99'/>", b"%PDF-1.7\n1 0 obj\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\nshowpage\n", saved(scene(), "ICO"),
        b"SIMPLE  =                    T" + b" " * 2850,
    ]  # fmt: skip
    for content in files:
        assert "is no JPEG, PNG, WEBP, TIFF, BMP or DICOM file" in doors.refuse(content)


def test_row_11_a_dicom_has_the_pixels_of_what_it_holds_in_every_photometric_interpretation(doors: Doors) -> None:
    plain = doors.see(saved(scene(), "PNG")).pixels
    for name, make, levels in uncompressed_cases():  # RGB, planes, YBR_FULL, YBR_FULL_422, 12 bits
        found = doors.see(make(), "lesion.dcm")
        assert difference(found.pixels, plain) <= max(levels - 1, 0), name
        assert found.remarks == (["samples of over 8 bits were scaled to 8"] if name == "12 bits" else [])
    jpeg = saved(scene(), "JPEG")
    inside = dicom(encapsulate([jpeg]), "YBR_FULL_422", JPEGBaseline8Bit)
    assert doors.see(inside, "lesion.dcm").probability == doors.see(jpeg, "lesion.jpg").probability
    grey = scene()[:, :, 0]
    three = doors.see(saved(np.dstack([grey] * 3), "PNG")).pixels
    deep = (grey.astype(np.uint16) * 257).tobytes()
    sixteen = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    for content in (
        dicom(grey.tobytes(), "MONOCHROME2"),
        dicom((255 - grey).tobytes(), "MONOCHROME1"),
        dicom(deep, "MONOCHROME2", **sixteen),
    ):
        assert difference(doors.see(content, "lesion.dcm").pixels, three) <= 1
    assert "a negative (MONOCHROME1) was inverted" in doors.see(dicom(grey.tobytes(), "MONOCHROME1"), "a.dcm").remarks
    levels16 = (np.arange(256, dtype=np.uint16) * 257).tobytes()
    tables = {f"{colour}PaletteColorLookupTableData": levels16 for colour in ("Red", "Green", "Blue")}
    tables |= {name.replace("Data", "Descriptor"): [256, 0, 16] for name in tables}  # type: ignore[misc]
    assert difference(doors.see(dicom(grey.tobytes(), "PALETTE COLOR", **tables), "lesion.dcm").pixels, three) <= 1


def test_row_12_a_dicom_that_cannot_be_is_one_line(doors: Doors) -> None:
    whole = dicom(scene().tobytes())
    dataset = dcmread(io.BytesIO(whole))
    del dataset.PixelData
    dataset.save_as(without := io.BytesIO())
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    opening += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    start = whole.index(struct.pack("<HH", 0x0010, 0x0010))
    for content, said in [
        (without.getvalue(), "without a picture"),
        (dicom(scene().tobytes()[:-500]), "damaged"),
        (dicom(scene().tobytes(), size=(65_535, 65_535)), "over 64 megapixels"),
        (dicom(scene().tobytes() * 2, NumberOfFrames=2), "2 frames"),
        (whole[132:], "is no JPEG"),
        (whole[:start] + opening * 20_000 + whole[start:], "damaged"),
        (dicom(scene().tobytes(), syntax="1.2.840.10008.1.2.1.99"), "deflated"),
    ]:
        assert said in doors.refuse(content, "lesion.dcm")


def test_row_13_nothing_that_a_dicom_says_of_a_patient_is_written_anywhere(
    doors: Doors, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    named = dicom(speckled(96, 128).tobytes(), syntax=ExplicitVRLittleEndian, size=(96, 128), PatientID="Doe-4711",
                  PatientBirthDate="19010203", InstitutionName="Doe clinic")  # fmt: skip
    assert b"Doe^Jane" in named and b"Doe-4711" in named
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.dcm").write_bytes(named)
    (tmp_path / "in" / "cut.dcm").write_bytes(named[:-9000])
    out = tmp_path / "out"
    predictor, answers = answer_pictures([str(tmp_path / "in")], doors.predictor.bundle.folder)
    assert print_answers(predictor, answers, out=out / "answers.csv") == 1
    explain_picture(str(tmp_path / "in" / "one.dcm"), doors.predictor.bundle.folder, out / "map.png")
    prepare_cache(out / "cache", [Source("one", tmp_path / "in" / "one.dcm")], doors.images)
    said = doors.client.post("/predict", files={"images": ("one.dcm", named)}).text
    said += doors.client.post("/explain", files={"image": ("one.dcm", named)}).text
    said += doors.client.get("/metrics").text + "".join(capfd.readouterr()) + caplog.text
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert len(written) >= 6
    for secret in (b"Doe", b"Jane", b"4711", b"19010203"):
        assert secret.decode() not in said
        assert not [one for one in written if secret in one]


def test_row_14_odd_paths_work_and_a_table_cannot_leave_its_folder(doors: Doors, tmp_path: Path) -> None:
    data, content = tmp_path / "Läsionen ☀ %s" / "jpeg" / "train", saved(speckled(96, 128), "JPEG")
    data.mkdir(parents=True)
    names = ["plain", "with space", "größe-日本語", "a.b.c", "x" * 200, "-v"]
    for name in names:
        (data / f"{name}.jpg").write_bytes(content)
    (tmp_path / "elsewhere.jpg").write_bytes(content)
    (data / "linked.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    found = find_images(data.parents[1], [*names, "linked"], "train")
    cache = prepare_cache(tmp_path / "cache", list(found.values()), doors.images)
    assert (cache.images == cache.images[0]).all()
    predictor, answers = answer_pictures([f"{data}/../train"], doors.predictor.bundle.folder)
    scores = [one.score for one in answers]
    assert len(scores) == 7 and len(set(scores)) == 1
    assert predictor.answer(tmp_path / ("y" * 300))[0].status == "error"
    for name in ("../../elsewhere", "..", "/etc/passwd", "a/b", "a\\b", "nul\0"):
        with pytest.raises(DataError, match="not image names but paths"):
            find_images(data.parents[1], [name], "train")
    (data / "list.csv").write_text("path\n../../../elsewhere.jpg\nlinked.jpg\n/etc/hostname\nplain.jpg\n")
    _, answers = answer_pictures([str(data / "list.csv")], doors.predictor.bundle.folder)
    assert [one.status == "error" for one in answers] == [True, True, True, False]


HEADER = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,target\n"


def test_row_15_a_table_is_read_as_it_was_meant_or_every_bad_row_is_in_one_report(
    doors: Doors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "a,P1,male,45,torso,0\nb,P1,female,,head/neck,1\nc,P2,,30,,0\n"
    good = HEADER + rows

    def table(text: str) -> pd.DataFrame:
        (tmp_path / "train.csv").write_text(text, newline="")
        return read_table(tmp_path / "train.csv", labelled=True)[0]

    expected = table(good)
    for same in (
        "\ufeff" + good.replace(",", ";").replace("\n", "\r\n"),
        HEADER + rows.replace(",1\n", ",1.0\n").replace(",0\n", ",0.0\n"),
        HEADER + rows.replace(",1\n", ",True\n").replace(",0\n", ",False\n"),
        HEADER + rows.replace(",1\n", ",malignant\n").replace(",0\n", ",benign\n"),
    ):
        pd.testing.assert_frame_equal(table(same), expected)
    bad = "a,P,x,85+,torso,0\na,P,male,-1,torso,\nd,P,male,400,torso,2\n../e,P,male,5,torso,nan\n"
    with pytest.raises(DataError, match=r"train\.csv has 4 bad rows, to be mended .*: row 2 .*, row 3 .* more$"):
        table(HEADER + bad)
    (tmp_path / "jpeg").mkdir()
    (every,) = check_data(tmp_path, Settings(), tmp_path / "cache").of("error")
    places = [detail.split(":", 1)[0] for detail in every.details]
    assert sorted(places) == sorted(
        f"train.csv row {row} ({cell}"
        for row, cell in [
            (2, "sex 'x'"), (2, "age_approx '85+'"), (3, "image_name 'a'"), (3, "age_approx '-1'"), (3, "target ''"),
            (4, "age_approx '400'"), (4, "target '2'"), (5, "image_name '../e'"), (5, "target 'nan'"),
        ]
    )  # fmt: skip
    with pytest.raises(DataError, match=r"has the column sex more than once"):
        table(HEADER.replace("patient_id", "sex") + rows)
    (tmp_path / "train.csv").write_text(HEADER + "a,P1,,45,,0\nb,P2,unknown,50,,1\n")
    assert read_table(tmp_path / "train.csv", labelled=True)[1] == [
        "train.csv: blank in every row, so not used: sex, site"
    ]

    make_dataset(tmp_path / "data", images=30)
    lost, *_ = (path for path in (tmp_path / "data").rglob("*.jpg") if "train" in path.parts)
    lost.rename(lost.with_name("spare.jpg"))
    found = check_data(tmp_path / "data", Settings(), tmp_path / "cache")
    assert [(one.kind, one.details) for one in found.of("error")] == [("missing images", [lost.stem])]
    assert any("spare" in f"{one.text}{one.details}" for one in found.of("remark"))

    encoder = learn_encoder(expected)
    seen = pd.DataFrame({"age_years": [50.0] * 3, "sex": ["male"] * 3, "site": ["elbow", "elbow", None]})
    assert (encoder.features(seen) == encoder.features(seen)[2]).all(), "an unseen site is as unknown"
    picture = doors.offered(saved(speckled(96, 128), "JPEG"), "lesion.jpg")
    predictor, answers = answer_pictures([str(picture)] * 2, doors.predictor.bundle.folder, Details(site="elbow"))
    print_answers(predictor, answers)
    assert capsys.readouterr().out.count("the site 'elbow' was not seen in training and is taken as unknown") == 1
