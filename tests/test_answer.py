"""`melanoma predict` and `melanoma explain`, run as a user runs them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melanoma.answer import print_answers
from melanoma.errors import UsageError
from melanoma.inference.predict import Predictor
from melanoma.inference.words import Answer, Details
from melanoma.runs import Run

RESEARCH = "Research use only. Not a medical device. Not for diagnosis."


def melanoma(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "melanoma", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"},
    )


def test_predict_prints_a_table_and_what_it_is_worth(judged: Run, lesions: list[Path]) -> None:
    done = melanoma("predict", *lesions[:3], "--model", judged.folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["picture", "answer", "probability"]
    answers = Predictor(judged.folder, few=True).answer(lesions[:3], maps=False)
    for path, answer in zip(lesions[:3], answers, strict=True):
        (place,) = (number for number, line in enumerate(lines) if path.name in line)
        assert answer.status in lines[place]
        if answer.probability is not None:
            told = " ".join(lines[place + 1 : place + 5]).split()
            assert told[:6] == answer.words.split()[:6], "a few are told in words"
    assert "3 pictures:" in done.stdout
    assert "AUC" in done.stdout and "held-out patients" in done.stdout
    assert lines[-1] == RESEARCH


def test_predict_goes_on_after_a_bad_file_and_its_exit_code_says_so(
    judged: Run, lesions: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    done = melanoma("predict", tmp_path / "bad.jpg", *lesions[:2], "--model", judged.folder, "--json")
    assert done.returncode == 1
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["status"] == "error" for one in answers] == [True, False, False]
    assert "bad.jpg" in answers[0]["error"]
    area = json.loads(judged.metrics.read_text())["auc"]
    for one in answers:
        assert (one["use"], one["model"]) == (RESEARCH, "drawn")
        assert one["model_auc"] == {name: area[name] for name in ("value", "low", "high")}
    assert "1 of the pictures could not be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_predict_shows_progress_on_stderr_for_many_pictures(judged: Run) -> None:
    done = melanoma("predict", judged.folder.parents[1] / "data" / "jpeg", "--model", judged.folder, "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 252
    assert "answering" in done.stderr and "images/s" in done.stderr.replace("(", "").replace("/s)", " images/s")


def test_predict_writes_all_answers_whole_to_a_csv_or_json_lines(
    judged: Run, lesions: list[Path], tmp_path: Path
) -> None:
    for name in ("answers.csv", "answers.jsonl"):
        done = melanoma("predict", *lesions[:3], "--model", judged.folder, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [line["name"] for line in lines] == [str(path) for path in lesions[:3]]
    for row, line in zip(rows, lines, strict=True):
        assert row["status"] == line["status"]
        assert row["probability"] == ("" if line["probability"] is None else str(line["probability"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "answers.jsonl"]


def test_a_name_that_a_spreadsheet_would_run_is_written_as_text(judged: Run, tmp_path: Path) -> None:
    answers = iter([Answer("=HYPERLINK(1)", "error", error="x"), Answer("+1.jpg", "error", error="y")])
    print_answers(Predictor(judged.folder), answers, out=tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["'=HYPERLINK(1)", "'+1.jpg"]


def test_an_answer_file_of_another_kind_is_refused_before_anything_is_answered(judged: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv or \.jsonl"):
        print_answers(Predictor(judged.folder), iter([]), out=tmp_path / "out.xlsx")


def test_control_characters_in_a_name_do_not_reach_the_terminal(
    judged: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = Answer("a\x1b[2Jb\n.jpg", "error", error="a\x1b[2Jb\n.jpg cannot be read")
    predictor = Predictor(judged.folder)
    predictor.bundle.description["figures"]["limits"].append("none\x1b[2J at all")  # a bundle may be a stranger's
    print_answers(predictor, iter([answer]))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "at all" in printed
    assert len(printed.partition("limits:")[0].splitlines()) == 5


@pytest.mark.parametrize(
    ("asked", "said"), [(0.02, "where 2 % are melanomas, as --prevalence"), (None, "or for --prevalence")]
)
def test_the_share_that_probabilities_hold_for_is_told_and_saved(
    judged: Run, lesions: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: float | None, said: str
) -> None:
    predictor = Predictor(judged.folder)
    answers = iter(predictor.answer(lesions[0], Details(prevalence=asked), maps=False))
    print_answers(predictor, answers, prevalence=asked, out=tmp_path / "out.jsonl")
    assert said in capsys.readouterr().out
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert row["prevalence"] == (asked or predictor.answers["prevalence"])


def test_what_is_read_is_never_replaced(judged: Run, lesions: list[Path], tmp_path: Path) -> None:
    picture, table = tmp_path / "own.png", tmp_path / "own.csv"
    Image.open(lesions[0]).save(picture)
    table.write_text("path\nown.png\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for command, out in (("explain", picture), ("predict", table)):
        done = melanoma(command, out, "--model", judged.folder, "--out", out)
        assert done.returncode == 2, done.stderr
        assert "give another --out" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_reader_that_has_enough_is_no_error(judged: Run, lesions: list[Path]) -> None:
    predict = f"{sys.executable} -m melanoma predict {lesions[0].parent} --model {judged.folder}"
    done = subprocess.run(f"{predict} | head -1", shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_a_remark_is_told_by_explain_too(judged: Run, lesions: list[Path], tmp_path: Path) -> None:
    done = melanoma("explain", lesions[0], "--model", judged.folder, "--site", "elbow", cwd=tmp_path)
    assert "note: the site 'elbow' was not seen in training and is taken as unknown" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["gone.jpg"], 1, "1 of the pictures could not be read"),
        ([""], 2, "give a picture"),
        (["{lesion}", "--out", "/proc/answers.csv"], 1, "/proc/answers.csv cannot be written"),
        (["{lesion}", "--age", "400"], 2, "an age is from 0 to 120 years"),
        (["{lesion}", "--prevalence", "1.5"], 2, "a prevalence is a share"),
        (["{lesion}", "--sex", "x"], 2, "sex"),
        (["{lesion}", "--model", "nowhere"], 4, "nowhere is neither a bundle nor a run"),
        (["{lesion}", "--model", "hf://nothing"], 2, "hf://owner/name"),
        (["{lesion}", "--precision", "int8"], 4, "no int8 networks"),
        (["{lesion}", "--out", "a.txt"], 2, ".csv or .jsonl"),
    ],
)
def test_a_mistake_in_predict_is_one_sentence(
    judged: Run, lesions: list[Path], tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    filled = [one.format(lesion=lesions[0]) for one in arguments]
    model = [] if "--model" in filled else ["--model", str(judged.folder)]
    done = melanoma("predict", *filled, *model, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_explain_writes_a_picture_and_the_map_as_an_array(judged: Run, lesions: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "lesion.png"
    done = melanoma("explain", lesions[0], "--model", judged.folder, "--out", out, "--age", "50")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == RESEARCH
    with Image.open(out) as drawn:
        assert drawn.width > 1000
    saved = np.load(out.with_suffix(".npy"))
    assert saved.dtype == np.float32 and saved.ndim == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lesion.npy", "lesion.png"]


def test_explain_takes_one_picture_and_writes_a_png(judged: Run, lesions: list[Path], tmp_path: Path) -> None:
    for arguments, said in (
        ([lesions[0].parent], "explain takes one"),
        ([lesions[0], "--out", "x.jpg"], "must end with .png"),
    ):
        done = melanoma("explain", *arguments, "--model", judged.folder, cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr
    assert not list(tmp_path.iterdir())
