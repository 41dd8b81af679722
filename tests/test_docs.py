"""What docs/answers.md tells people to type, the service and export apart, is run as it stands there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from melanoma.runs import Run

ANSWERS = (Path(__file__).parents[1] / "docs" / "answers.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", ANSWERS, re.M | re.S)
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", ANSWERS, re.M | re.S)
    for line in block.splitlines()
    if line.startswith(("melanoma predict", "melanoma explain"))
]


@pytest.fixture
def folder(judged: Run, lesions: list[Path], tmp_path: Path) -> Path:
    """A folder with the names that the page uses."""
    shutil.copytree(judged.bundle, tmp_path / "model")
    (tmp_path / "lesions").mkdir()
    for number, path in enumerate(lesions[:4]):
        shutil.copy(path, tmp_path / "lesions" / f"{number}.jpg")
    shutil.copy(lesions[0], tmp_path / "lesion.jpg")
    shutil.copy(lesions[1], tmp_path / "other.jpg")
    (tmp_path / "lesions.csv").write_text("path,age_approx,sex\nlesion.jpg,62,female\n")
    shutil.make_archive(str(tmp_path / "lesions"), "zip", tmp_path / "lesions")
    return tmp_path


def typed(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONWARNINGS": "error::DeprecationWarning"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", PYTHON, ids=range(len(PYTHON)))
def test_an_example_in_python_runs_and_is_short(example: str, folder: Path) -> None:
    assert len([line for line in example.splitlines() if line]) <= 5
    typed([sys.executable, "-c", example], folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_the_page_says(command: str, folder: Path) -> None:
    given = shlex.split(command)[1:]
    assert typed([sys.executable, "-m", "melanoma", *given], folder)
    if "--out" in given:
        assert (folder / given[given.index("--out") + 1]).is_file()


def test_there_are_examples_of_all_that_answers() -> None:
    assert len(PYTHON) == 3 and len(COMMANDS) == 4
    for name in ("predict_proba", "predict(", "answer(", "melanoma.explain("):
        assert any(name in example for example in PYTHON)
