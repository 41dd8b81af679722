"""Datasets fetched by their owners' tools: what comes back becomes a table, what fails becomes a sentence."""

import importlib.util
import sys
from pathlib import Path

import pytest

from melanoma.data.download import download, table_from_archive
from melanoma.data.records import read_table
from melanoma.errors import DataError, MelanomaError, MissingExtraError

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
