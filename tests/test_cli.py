"""The command line, run as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from melanoma.cli import app

ROOT = Path(__file__).parents[1]
COMMANDS = [
    "check",
    "compare",
    "demo",
    "doctor",
    "download",
    "evaluate",
    "explain",
    "export",
    "predict",
    "prepare",
    "resume",
    "run",
    "serve",
    "submit",
    "train",
]


def melanoma(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "melanoma", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | environment,
    )


def test_every_command_is_named_here_has_help_and_stands_in_the_docs() -> None:
    named = [name for name in app if not name.startswith("-")]
    assert sorted(named) == COMMANDS
    documented = (ROOT / "docs" / "commands.md").read_text()
    for name in named:
        assert app[name].help
        assert f"## melanoma {name}" in documented


@pytest.mark.parametrize("path", ["settings.md", "commands.md"])
def test_generated_docs_are_up_to_date(path: str) -> None:
    wanted = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), path], capture_output=True, text=True, check=True
    ).stdout
    assert (ROOT / "docs" / path).read_text() == wanted, "run: make docs"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run"], 2, "DATA"),
        (["nope"], 2, "nope"),
        (["run", "nowhere", "--recipe", "demo"], 1, "the dataset folder nowhere is not there"),
        (["run", ".", "--recipe", "laptop"], 2, "known: box, box_mobilenet, cpu, demo, gpu, notebook"),
        (["run", ".", "--recipe", "demo", "--set", "train.epoch=1"], 2, "did you mean train.epochs"),
        (["run", ".", "--recipe", "demo", "--set", "model.backbone=small2"], 2, "near it: small"),
        (["run", ".", "--recipe", "demo", "--set", "model.weights=w.weights.h5"], 1, "w.weights.h5 is not there"),
        (["run", ".", "--recipe", "demo", "--set", "folds.file=f.csv"], 1, "f.csv is not there"),
        (["run", ".", "--recipe", "demo", "--name", "a/b"], 2, "cannot be a run's name"),
        (["resume", "nowhere"], 1, "nowhere is not a run"),
        (["check", "nowhere"], 1, "nowhere"),
        (["compare", "nowhere", "elsewhere"], 1, "nowhere is not a run"),
        (["submit", "nowhere", "elsewhere"], 1, "nowhere is not a run"),
        (["evaluate", "nowhere"], 1, "nowhere is not a run"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_exit_code(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = melanoma(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_doctor_prints_facts_as_text_and_as_json() -> None:
    assert "backend" in melanoma("doctor").stdout or "keras" in melanoma("doctor").stdout
    facts = json.loads(melanoma("doctor", "--json").stdout)
    assert facts["python"]
    assert facts["extra train"]


def test_without_a_backend_the_install_line_is_given(tmp_path: Path) -> None:
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text(
        "import importlib.util as u\nreal = u.find_spec\n"
        "u.find_spec = lambda n, p=None: None if n in ('torch', 'jax', 'tensorflow') else real(n, p)\n"
    )
    done = melanoma("run", str(tmp_path), "--recipe", "demo", PYTHONPATH=str(tmp_path))
    assert done.returncode == 3
    assert "pip install 'melanoma[train]'" in done.stderr


def test_help_imports_no_heavy_library() -> None:
    heavy = ("numpy", "pandas", "keras", "pydantic")
    code = f"import sys; import melanoma.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_error_that_quotes_a_table_cannot_move_the_cursor(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_name,target\nA,0\nB,1\n")
    (tmp_path / "given.csv").write_text('image_name,probability\n"A\x1b[2J\nB",2\n')
    done = melanoma("evaluate", str(tmp_path / "given.csv"), "--data", str(tmp_path))
    assert done.returncode == 1
    assert "A?[2J?B" in done.stderr
    assert done.stderr.count("\n") == 1
