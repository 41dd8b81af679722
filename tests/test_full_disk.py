"""A full disk and a read-only one: one sentence, nothing half written, what was there before as it was.

On a real file system of a few megabytes, by the commands that people type.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_kill import WAIT_SECONDS, differences

from melanoma.files import ASIDE
from melanoma.runs import CACHE, Run
from melanoma.training.state import read_position

PAGE = 4096  # what the smallest file takes


def leave(disk: Path, room: int | None) -> None:
    """Fill the disk up to so many bytes; None empties it again."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    if room is not None:
        status = os.statvfs(disk)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - room)


def read_only(disk: Path, mode: str = "ro") -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


def melanoma(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "melanoma", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_SECONDS)


def refused(
    ended: subprocess.CompletedProcess[str], place: Path, reason: str = "No space left on device; make"
) -> None:
    """Check that a command ended with one sentence on a file: which, why, what to do."""
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    *_, last = ended.stderr.splitlines()
    assert last.startswith(f"melanoma: {place}") and f" cannot be written: {reason}" in last


def content(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder, those that are half written too."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "filler"}


def data_of(run: Run) -> Path:
    return run.folder.parents[1] / "data"


def copied(run: Run, disk: Path, name: str = "run") -> Run:
    return Run(Path(shutil.copytree(run.folder, disk / name)))


def test_preparing_on_a_full_disk_leaves_nothing_and_then_prepares(judged: Run, disk: Path) -> None:
    command = ["prepare", data_of(judged), "--recipe", "demo", "--set=images.size_px=32", "--runs", disk / "runs"]
    for room in (0, 10 * PAGE):
        leave(disk, room)
        refused(melanoma(*command), disk / "runs" / CACHE)
        assert not {name for name, each in content(disk).items() if each or not name.endswith(".lock")}
    leave(disk, None)
    assert melanoma(*command).returncode == 0
    made = content(disk / "runs" / CACHE)
    assert made.items() <= content(judged.folder.parent / CACHE).items()  # other tests prepare there too
    assert len(made) == 10  # two caches of four files and a lock


def test_training_on_a_full_disk_keeps_its_last_state_and_goes_on_to_the_same_weights(judged: Run, disk: Path) -> None:
    shutil.copytree(judged.folder.parent / CACHE, disk / CACHE)
    weights, state = (path.stat().st_size for path in (judged.weights(0), judged.state(0)))
    leave(disk, weights + state + weights // 2 + 16 * PAGE)  # for one epoch's weights and state, not for the second's
    recipe = disk / "recipe.toml"
    run = Run(disk / "run")
    recipe.write_text(judged.config.read_text())
    ended = melanoma("run", data_of(judged), "--recipe", recipe, "--runs", disk, "--name", "run")
    refused(ended, run.fold(0))
    assert ended.stderr.rstrip().endswith(f"melanoma resume {run.folder}")
    assert read_position(run.state(0)).epoch == 1
    before = content(disk)
    assert not [name for name in before if ASIDE in name or "holder" in name]
    leave(disk, 8 * PAGE)
    refused(melanoma("resume", run.folder), run.folder)
    assert {name: each for name, each in content(disk).items() if before[name] != each} == {}
    leave(disk, None)
    ended = melanoma("resume", run.folder)
    assert ended.returncode == 0, ended.stderr
    assert not differences(judged, run)


def test_exporting_on_a_full_disk_leaves_no_bundle_and_an_earlier_one_as_it_was(judged: Run, disk: Path) -> None:
    run = copied(judged, disk)
    leave(disk, 8 * PAGE)
    before = content(disk)
    refused(melanoma("export", judged.folder, "--to", run.bundle), run.bundle)
    assert content(disk) == before
    shutil.rmtree(run.bundle)
    leave(disk, (judged.bundle / "fold-0.onnx").stat().st_size + 8 * PAGE)  # for one of two networks
    before = content(disk)
    refused(melanoma("export", run.folder), run.bundle)
    assert content(disk) == before


def test_judging_on_a_full_disk_leaves_the_earlier_report_and_bundle(judged: Run, disk: Path) -> None:
    run = copied(judged, disk)
    leave(disk, 64 * PAGE)  # less than report.html takes
    before = content(disk)
    refused(melanoma("evaluate", run.folder), run.report)
    after = content(disk)
    assert set(after) == set(before)
    for path in (run.report, *run.bundle.iterdir()):
        name = str(path.relative_to(disk))
        assert after[name] == before[name]


def test_answers_that_do_not_fit_leave_the_earlier_file(judged: Run, disk: Path, tmp_path: Path) -> None:
    pictures, out = data_of(judged) / "jpeg" / "test", disk / "out.csv"
    runs = [copied(judged, tmp_path, name).folder for name in ("first", "second")]
    out.write_text("earlier")
    for command in (["predict", pictures, "--model", judged.folder], ["submit", *runs]):
        for fill in (lambda: leave(disk, 0), lambda: read_only(disk)):
            fill()
            ended = melanoma(*command, "--out", out)
            read_only(disk, "rw")
            refused(ended, out, "No space left on device; make" if "No space" in ended.stderr else "Read-only file")
            assert content(disk) == {"out.csv": b"earlier"}


def test_a_read_only_disk_is_one_sentence_and_stays_as_it_is(judged: Run, disk: Path) -> None:
    run, before = copied(judged, disk), content(judged.folder)
    read_only(disk)
    try:
        for command in ("resume", "export", "submit"):
            refused(melanoma(command, run.folder), run.folder, "Read-only file system; give another place")
        refused(melanoma("demo", "--runs", disk / "runs"), disk / "runs", "Read-only file system; give another place")
    finally:
        read_only(disk, "rw")
    assert content(run.folder) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_what_cannot_be_printed_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "melanoma", "--help"]
        ended = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("melanoma: what was printed cannot be written: No space left on device; make room")
    assert len(ended.stderr.splitlines()) == 1
