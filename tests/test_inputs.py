"""Whatever a user points at becomes pictures: files, folders, globs, tables, zips; the bad is refused in a sentence."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from zoo import saved, scene

from melanoma.errors import DataError, UsageError
from melanoma.inference import inputs
from melanoma.inference.inputs import find_pictures
from melanoma.inference.predict import Details

JPEG = saved(scene(), "JPEG")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.JPG", "below/c.dcm", "below/d.tiff", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(JPEG)
    return tmp_path / "in"


def names(*places: object) -> list[str]:
    return [Path(one.name).name for one in find_pictures([str(place) for place in places])]


def test_a_folder_gives_every_picture_below_it_in_order(folder: Path) -> None:
    assert names(folder) == ["a.JPG", "b.jpg", "c.dcm", "d.tiff"]


def test_a_file_is_taken_whatever_its_name_and_a_glob_as_a_shell_would(folder: Path) -> None:
    assert names(folder / "notes.txt") == ["notes.txt"]
    assert names(folder / "*.jpg") == ["b.jpg"]
    assert names(folder / "**" / "*.dcm") == ["c.dcm"]


def test_a_picture_that_is_named_twice_is_taken_once(folder: Path) -> None:
    assert names(folder / "b.jpg", folder, folder / "*.jpg") == ["b.jpg", "a.JPG", "c.dcm", "d.tiff"]


def test_a_zip_gives_its_pictures_without_unpacking_to_disk(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "lesions.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one/a.jpg", JPEG)
        archive.writestr("../../evil.png", saved(scene(), "PNG"))
        archive.writestr("readme.txt", "hello")
        archive.writestr("__MACOSX/one/._a.jpg", b"x")
    before = sorted(tmp_path.rglob("*"))
    found = find_pictures([str(path)])
    assert [one.name for one in found] == [f"{path}:../../evil.png", f"{path}:one/a.jpg"]
    assert found[1].read() == JPEG
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_member_that_unpacks_to_too_much_is_refused_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 3_000_000)
    monkeypatch.setattr(inputs, "LARGEST_BYTES", 2**20)
    (item,) = find_pictures([str(path)])
    with pytest.raises(DataError, match="over 1 MiB"):
        item.read()


def test_a_damaged_zip_and_one_without_pictures_say_so(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(DataError, match="no zip file"):
        find_pictures([str(tmp_path / "no.zip")])
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(DataError, match="holds 0 pictures"):
        find_pictures([str(tmp_path / "empty.zip")])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_names_pictures_with_what_is_known_of_the_patient(folder: Path, separator: str) -> None:
    rows = [
        ["image_name", "age_approx", "sex", "anatom_site_general_challenge"],
        ["b", "45", "M", "torso"],
        ["below/c.dcm", "", "unknown", "NA"],
    ]
    table = folder / "table.csv"
    table.write_text("\ufeff" + "\n".join(separator.join(row) for row in rows), encoding="utf-8")
    one, other = find_pictures([str(table)], Details(age_years=70, site="head/neck", prevalence=0.1))
    assert one.details == Details(45, "male", "torso", 0.1)
    assert other.details == Details(70, None, "head/neck", 0.1)
    assert one.read() == other.read() == JPEG


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("age,sex\n45,male\n", "needs a column that names pictures"),
        ("image\n", "has no rows"),
        ("image\n../outside.jpg\n", "line 2: .* lies outside"),
        ("image\n/etc/passwd\n", "line 2: .* lies outside"),
        ("image,age\nb.jpg,old\n", "line 2"),
        ("image,age\nb.jpg,-3\n", "line 2: an age is from 0 to 120"),
        ("image,sex\nb.jpg,divers\n", "line 2: sex is female or male"),
        ("image,sex\n,male\n", "line 2: image is blank"),
    ],
)
def test_a_table_that_cannot_be_is_refused_with_its_line(folder: Path, content: str, said: str) -> None:
    (folder / "table.csv").write_text(content)
    with pytest.raises(DataError, match=said):
        find_pictures([str(folder / "table.csv")])


def test_a_picture_that_a_table_names_and_that_is_not_there_fails_alone(folder: Path) -> None:
    (folder / "table.csv").write_text("image\nb.jpg\ngone.jpg\n")
    present, absent = find_pictures([str(folder / "table.csv")])
    assert present.read() == JPEG
    with pytest.raises(DataError, match=r"gone\.jpg"):
        absent.read()


def test_a_place_without_pictures_or_none_at_all_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a picture"):
        find_pictures([])
    for place in (tmp_path, tmp_path / "gone.jpg", tmp_path / "*.png"):
        with pytest.raises(DataError, match=r"holds no picture|is not there"):
            find_pictures([str(place)])


def test_nothing_is_opened_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(AssertionError(self)))
    assert len(find_pictures([str(folder)])) == 4
    assert np.all([callable(one.read) for one in find_pictures([str(folder)])])
