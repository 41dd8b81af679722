"""Nobody else is asked for anything, whatever the commands do.

Every test of this suite is watched, among them the whole job that the fixture `judged` does: training, export, scores,
card, report, submission. Here the commands' own processes are too.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from serving import serving

from melanoma.runs import Run


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where attempts are written down, by every process that is started from now on."""
    tests, told = Path(__file__).parent, tmp_path / "told.txt"
    lines = f"import pathlib, sys\nsys.path.insert(0, {str(tests)!r})\nfrom offline import watch"
    (tmp_path / "sitecustomize.py").write_text(f"{lines}\nsys.path.pop(0)\nwatch(pathlib.Path({str(told)!r}))\n")
    paths = [str(tmp_path), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("HOME", str(tmp_path))  # nothing was agreed to, or turned off, before
    return told


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.getaddrinfo('example.org', 80)",
        "import socket; socket.socket().connect(('192.0.2.1', 80))",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "import urllib.request; urllib.request.urlopen('http://example.org')",
    ],
)
def test_an_attempt_would_be_noticed(told: Path, attempt: str) -> None:
    done = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=False)
    assert "this machine is offline" in done.stderr
    assert told.exists()


def test_commands_ask_nobody(told: Path, judged: Run, lesions: list[Path], tmp_path: Path) -> None:
    picture, model = str(lesions[0]), ("--model", str(judged.folder))
    for command in (
        ["predict", picture, *model],
        ["explain", picture, *model, "--out", str(tmp_path / "map.png")],
        ["export", str(judged.folder), "--to", str(tmp_path / "copy")],
    ):
        done = subprocess.run([sys.executable, "-m", "melanoma", *command], capture_output=True, text=True, check=False)
        assert not told.exists(), told.read_text()
        assert done.returncode == 0, done.stderr


def test_a_service_that_answers_asks_nobody(told: Path, judged: Run, lesions: list[Path]) -> None:
    httpx = pytest.importorskip("httpx2", reason="the extra dev is not installed")
    with serving(judged.folder) as service:
        content = lesions[0].read_bytes()
        for address, field in (("predict", "images"), ("explain", "image")):
            assert httpx.post(f"{service.address}/{address}", files={field: ("a.jpg", content)}).status_code == 200
        for address in ("", "model", "metrics", "openapi.json"):
            assert httpx.get(f"{service.address}/{address}").status_code == 200
    assert not told.exists(), told.read_text()
