"""Killed at any moment, a run goes on and ends with the weights of one that was never interrupted.

SIGKILL leaves no time to tidy up. `benchmarks/kill.py` does the same at many more moments.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY

from melanoma.data.synthetic import make_dataset
from melanoma.files import ASIDE
from melanoma.runs import Run, open_run
from melanoma.training.state import HASH, POSITION

SETTINGS = [
    *TINY,
    *("folds.count=2", "train.epochs=3", "model.dropout=0.3", "balance.method=weights"),
]
WAIT_SECONDS = 300


def command(data: Path, runs: Path) -> list[str]:
    """Begin the whole job, or go on with it where it has begun."""
    program = [sys.executable, "-m", "melanoma"]
    if (runs / "run" / "config.toml").exists():
        return [*program, "resume", str(runs / "run")]
    settings = [f"--set={setting}" for setting in SETTINGS]
    return [*program, "run", str(data), "--recipe", "demo", "--runs", str(runs), "--name", "run", *settings]


def done(data: Path, runs: Path) -> Run:
    """Run the job, or go on with it where it has begun, to its end."""
    ended = subprocess.run(command(data, runs), check=False, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return open_run(runs / "run")


def started(data: Path, runs: Path) -> subprocess.Popen[bytes]:
    """Start the job, or go on with it, without waiting for it."""
    return subprocess.Popen(command(data, runs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def differences(one: Run, other: Run) -> list[str]:
    """Name what is not the same after two runs: weights, optimizer and random states by fold, answers."""
    found = []
    for fold in range(2):
        with np.load(one.state(fold)) as first, np.load(other.state(fold)) as second:
            names = {*first.files, *second.files} - {POSITION, HASH}  # times are part of the history
            found += [
                f"fold {fold}: {name}"
                for name in sorted(names)
                if name not in first or name not in second or not np.array_equal(first[name], second[name])
            ]
    return found + ["submission"] * (one.submission.read_bytes() != other.submission.read_bytes())


def left_over(run: Run) -> list[Path]:
    """List what is half written."""
    return [*run.folder.rglob(f"{ASIDE}*")]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX'")
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", images=120, test_images=12)
    plain = done(tmp_path / "data", tmp_path / "plain")
    process, until = started(tmp_path / "data", tmp_path / "killed"), time.monotonic() + WAIT_SECONDS
    state = Run(tmp_path / "killed" / "run").state(0)
    while not state.exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.wait()
    # what a kill can leave half written, wherever it comes
    (state.parent / f"{ASIDE}state.npz.x.npz").write_bytes(b"half")
    assert not (tmp_path / "killed" / "run" / "submission.csv").exists()
    run = done(tmp_path / "data", tmp_path / "killed")
    assert not differences(plain, run)
    assert not left_over(run)
