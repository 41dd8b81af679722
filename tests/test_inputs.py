"""Whatever a user points at becomes pictures: files, folders, globs, tables, zips; the bad is refused in a sentence."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from zoo import saved, scene

from melanoma.errors import DataError, UsageError
from melanoma.inference import inputs
from melanoma.inference.inputs import find_pictures
from melanoma.inference.words import Details

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


def test_a_relative_place_is_read_from_any_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(folder / "lesions.zip", "w") as archive:
        archive.writestr("z.jpg", JPEG)
    monkeypatch.chdir(folder)
    found = pickle.dumps(find_pictures(["b.jpg", "below", "lesions.zip"]))
    monkeypatch.chdir("/")
    items = pickle.loads(found)
    assert [item.name for item in items] == ["b.jpg", "below/c.dcm", "below/d.tiff", "lesions.zip:z.jpg"]
    assert [item.read() for item in items] == [JPEG] * 4


def test_a_replaced_file_has_another_version(folder: Path) -> None:
    (folder / "table.csv").write_text("path\nb.jpg\n")
    places = [folder / "b.jpg", folder / "b*", folder / "table.csv"]
    before = [find_pictures([str(place)])[0].version for place in places]
    os.utime(folder / "b.jpg", (1, 1))
    after = [find_pictures([str(place)])[0].version for place in places]
    assert len({*before}) == len({*after}) == 1 and "" not in before and before != after


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
    assert "no zip file" in refused(tmp_path / "no.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    assert "holds no picture" in refused(tmp_path / "empty.zip")


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
    assert re.search(said, refused(folder / "table.csv"))


def test_a_bad_row_and_a_bad_place_fail_alone(folder: Path) -> None:
    (folder / "table.csv").write_text("image,age\nb.jpg,45\na.JPG,old\n")
    good, bad, gone, other = find_pictures([str(folder / name) for name in ("table.csv", "gone.jpg", "notes.txt")])
    assert good.read() == other.read() == JPEG
    for item, said in ((bad, "line 3: the age is a number of years, not 'old'"), (gone, "is not there")):
        with pytest.raises(DataError, match=said):
            item.read()


def test_two_pictures_of_one_name_are_two_and_one_picture_of_two_names_is_one(tmp_path: Path) -> None:
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "1.jpg").write_bytes(JPEG)
        (tmp_path / place / "t.csv").write_text("image,sex\n1.jpg,male\n")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "one" / "1.jpg")
    found = find_pictures([str(tmp_path / place) for place in ("one/t.csv", "other/t.csv", "one", "link.jpg")])
    assert [one.name for one in found] == [str(tmp_path / place / "1.jpg") for place in ("one", "other")]
    assert [one.details.sex for one in found] == ["male", "male"]


def test_a_zip_with_one_name_twice_gives_both(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a.jpg", JPEG)
        archive.writestr("a.jpg", JPEG + b"\0")
    assert {len(one.read()) for one in find_pictures([str(tmp_path / "a.zip")])} == {len(JPEG), len(JPEG) + 1}


def test_rows_that_contradict_one_another_are_not_answered_by_either(folder: Path) -> None:
    (folder / "table.csv").write_text("image,age\nb.jpg,45\nb.jpg,54\n")
    assert "with age_years 45.0 and 54.0" in refused(folder / "table.csv")


def test_a_row_with_more_cells_than_the_header_is_told(folder: Path) -> None:
    (folder / "table.csv").write_text("image,sex\nb.jpg,male,extra\na.JPG,male\n")
    bad, good = find_pictures([str(folder / "table.csv")])
    assert good.read() == JPEG
    with pytest.raises(DataError, match="line 2 has more cells than the header"):
        bad.read()


def test_a_site_is_spelled_as_training_spells_it(folder: Path) -> None:
    (folder / "table.csv").write_text("image,anatom_site_general\nb.jpg,Anterior  Torso\na.JPG,Head / Neck\n")
    assert [one.details.site for one in find_pictures([str(folder / "table.csv")])] == ["torso", "head/neck"]
    assert Details(site=" Torso ").site == "torso"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "is no file" in refused(tmp_path / "pipe.jpg")


def test_a_link_in_a_table_that_leads_out_of_its_folder_is_refused(folder: Path) -> None:
    (folder.parent / "secret.jpg").write_bytes(JPEG)
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    for name in ("link", "link.jpg"):
        (folder / "table.csv").write_text(f"image\n{name}\n")
        assert "lies outside" in refused(folder / "table.csv")


def test_a_name_that_is_no_text_can_be_written_down(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(JPEG)
    (item,) = find_pictures([str(tmp_path)])
    assert item.name.encode() and item.read() == JPEG


def refused(place: Path) -> str:
    """Why the one thing at a place cannot be read."""
    (item,) = find_pictures([str(place)])
    with pytest.raises(DataError) as caught:
        item.read()
    return str(caught.value)


def test_a_picture_that_a_table_names_and_that_is_not_there_fails_alone(folder: Path) -> None:
    (folder / "table.csv").write_text("image\nb.jpg\ngone.jpg\n")
    present, absent = find_pictures([str(folder / "table.csv")])
    assert present.read() == JPEG
    with pytest.raises(DataError, match=r"gone\.jpg"):
        absent.read()


def test_a_place_without_pictures_or_none_at_all_says_what_to_give(tmp_path: Path) -> None:
    for nothing in ([], [""]):
        with pytest.raises(UsageError, match="give a picture"):
            find_pictures(nothing)
    for place in (tmp_path, tmp_path / "gone.jpg", tmp_path / "*.png"):
        assert re.search(r"holds no picture|is not there", refused(place))


def test_nothing_is_opened_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(AssertionError(self)))
    assert len(find_pictures([str(folder)])) == 4
    assert np.all([callable(one.read) for one in find_pictures([str(folder)])])
