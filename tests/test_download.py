"""Datasets fetched by their owners' tools: what comes back becomes a table, what fails becomes a sentence."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from melanoma.data import download as archive
from melanoma.data.download import download, table_from_archive
from melanoma.data.records import read_table
from melanoma.data.sources import find_images
from melanoma.errors import DataError, MelanomaError, MissingExtraError, UsageError

METADATA = """isic_id,age_approx,anatom_site_general,diagnosis_1,diagnosis_2,diagnosis_3,lesion_id,sex
ISIC_1,45,anterior torso,Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma Invasive,IL_1,male
ISIC_2,,,Benign,Benign melanocytic proliferations,Nevus,IL_2,
ISIC_3,50,palms/soles,,,,IL_3,female
ISIC_4,55,head/neck,Malignant,Malignant epidermal proliferations,Basal cell carcinoma,,female
"""


def fake_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> Path:
    """Put a stand-in for isic-cli on the path: it writes metadata.csv where it was told to, and exits with `code`."""
    tool = tmp_path / "bin" / "isic"
    tool.parent.mkdir()
    (tmp_path / "metadata").write_text(METADATA)
    tool.write_text(
        f'#!/bin/sh\nfor last; do :; done\nmkdir -p "$last"\ncp \'{tmp_path}/metadata\' "$last/metadata.csv"\n'
        f"echo \"$@\" > '{tmp_path}/called'\nexit {code}\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))
    return tmp_path / "called"


def test_the_archives_table_becomes_the_competitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = fake_tool(tmp_path, monkeypatch, 0)
    folder = download("isic", tmp_path / "data", collection=70, limit=4)
    assert called.read_text().startswith("image download --collections 70 --limit 4 ")
    table, _ = read_table(folder / "train.csv", labelled=True)
    assert list(table["image_name"]) == ["ISIC_1", "ISIC_2", "ISIC_4"]  # a row without a diagnosis has no label
    assert list(table["target"]) == [1, 0, 0]
    assert list(table["patient_id"]) == ["IL_1", "IL_2", "ISIC_4"]
    assert table["site"][0] == "torso"


BY_NAME = """#!{python}
import re, sys
from pathlib import Path
folder = Path(sys.argv[-1])
folder.mkdir(parents=True, exist_ok=True)
names = re.findall("isic_id:(\\\\w+)", sys.argv[-2])
for name in names:
    (folder / f"{{name}}.jpg").write_bytes(name.encode())
rows = [f"{{name}},Benign" for name in names if name != "ISIC_0000004"]
(folder / "metadata.csv").write_text("\\n".join(["isic_id,diagnosis_1", *rows, ""]))
with open({called!r}, "a") as called:
    called.write(" ".join(names) + "\\n")
"""


def test_images_are_fetched_by_name_some_at_a_time_and_what_is_there_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = fake_tool(tmp_path, monkeypatch, 0)
    (tmp_path / "bin" / "isic").write_text(
        BY_NAME.format(python=os.path.realpath("/proc/self/exe"), called=str(called))
    )
    monkeypatch.setattr(archive, "AT_ONCE", 2)
    every = [f"ISIC_000000{number}" for number in range(1, 6)]
    names = tmp_path / "folds.csv"
    names.write_text("\n".join(["image_name,fold", *(f"{name},0" for name in [*every, every[0]]), ""]))
    folder = download("isic", tmp_path / "data", names=names)
    assert called.read_text().split("\n") == [" ".join(every[start : start + 2]) for start in (0, 2, 4)] + [""]
    assert "no diagnosis, or no image, of ISIC_0000004" in capsys.readouterr().err
    table, _ = read_table(folder / "train.csv", labelled=True)
    assert list(table["image_name"]) == [name for name in every if name != "ISIC_0000004"]
    assert set(find_images(folder, list(table["image_name"]), "train")) == set(table["image_name"])
    download("isic", tmp_path / "data", names=names)
    assert len(called.read_text().splitlines()) == 3
    names.write_text("image_name\nISIC_0000005\nISIC_0000001\n")
    download("isic", tmp_path / "data", names=names)
    assert called.read_text().splitlines()[3:] == ["ISIC_0000005 ISIC_0000001"]


def test_kaggles_images_cannot_be_had_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--names is for isic"):
        download("kaggle", tmp_path, names=tmp_path / "names.csv")


@pytest.mark.parametrize("content", ["name\nISIC_0000001\n", "image_name\n", "image_name\nISIC_0000001 OR *\n"])
def test_a_list_of_images_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "names.csv").write_text(content)
    with pytest.raises(DataError, match=r"names\.csv must name images|has no rows|is empty"):
        download("isic", tmp_path / "data", names=tmp_path / "names.csv")


def test_a_tool_that_stops_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tool(tmp_path, monkeypatch, 1)
    with pytest.raises(MelanomaError, match="run the same command again"):
        download("isic", tmp_path / "data")
    assert not (tmp_path / "data" / "train.csv").exists()


def test_the_licence_is_shown_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MissingExtraError, match=r"pip install 'melanoma\[download\]'"):
        download("isic", tmp_path / "data")
    assert "licence" in capsys.readouterr().err


def test_kaggle_without_its_tool_gives_the_install_line(tmp_path: Path) -> None:
    if importlib.util.find_spec("kagglehub"):
        pytest.skip("kagglehub is installed")
    with pytest.raises(MissingExtraError, match=r"melanoma\[download\]"):
        download("kaggle", tmp_path)


def test_another_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="isic_id"):
        table_from_archive(tmp_path / "metadata.csv")


@pytest.mark.parametrize(
    "content", [b"", b"isic_id,diagnosis_1\n\xff\xfe,Benign", b"isic_id,diagnosis_1\nA,Benign,3,4"]
)
def test_an_archive_table_that_is_no_csv_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"metadata\.csv (has|is not)"):
        table_from_archive(tmp_path / "metadata.csv")
