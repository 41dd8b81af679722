"""Many devices and processes train as one does: the same losses, and after a kill the same weights."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TINY

from melanoma.data.batches import Batches, Share
from melanoma.data.synthetic import make_dataset
from melanoma.training.team import Team

pytest.importorskip("jax", reason="many devices are trained on by JAX")
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "parallel.py"
EXACT = ["train.precision=float64", "train.optimizer=sgd", "train.learning_rate=0.01", "train.epochs=3"]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the processes share what JAX compiles: most of their time would go there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        yield


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a dataset of which an epoch's last batch has 7 rows: two devices cannot share it alike, nor can four."""
    folder = tmp_path_factory.mktemp("drawn")
    make_dataset(folder, images=131, test_images=8)
    return folder


def benchmark() -> Any:
    """Load the benchmark, whose own way to train is used here."""
    spec = importlib.util.spec_from_file_location("parallel_benchmark", BENCHMARK)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def surroundings() -> dict[str, str]:
    """Return the environment of a user who has chosen no backend; this process may have."""
    return {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def started(
    *arguments: str,
    job: dict[str, str] | None = None,
    folders: Sequence[Path | None] = (None, None),
    second: Sequence[str] = (),
) -> list[subprocess.Popen[str]]:
    """Start the command in several processes that meet on loopback, each in a folder.

    job: what a scheduler would have set. second: what only the second process is told.
    """
    plain = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(len(folders))}
    command = [sys.executable, "-m", "melanoma", *arguments]
    one = ["--devices", "1"]
    return [
        subprocess.Popen(
            [*command, *(second if number else ()), *([] if number and "--devices" in second else one)],
            env={**surroundings(), **(job or plain), "SLURM_PROCID" if job else "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        for number, folder in enumerate(folders)
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Wait for processes; give exit code, stdout and stderr of each."""
    said = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, out, err) for process, (out, err) in zip(processes, said, strict=True)]


def training(drawn: Path, runs: Path, name: str, *overrides: str) -> list[str]:
    settings = [*TINY, "train.precision=float32", "train.learning_rate=0.001", *overrides]
    told = [f"--set={one}" for one in settings]
    return ["train", str(drawn), "--recipe", "demo", "--runs", str(runs), "--name", name, *told]


def state_of(run: Path) -> dict[str, Any]:
    """Read the state of a run but for its hash and its times."""
    with np.load(run / "fold-0" / "state.npz") as saved:
        return {name: saved[name] for name in saved.files if name not in ("position", "sha256")}


def wait_for(file: Path, text: str, process: subprocess.Popen[str]) -> None:
    """Wait until a file holds a text."""
    until = time.monotonic() + 240
    while not (file.exists() and text in file.read_text()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


# ---- what is computed --------------------------------------------------------------------------------------------


SETTINGS = [
    *(*TINY, *EXACT, "augment.brightness=0.1", "model.dropout=0.2", "model.metadata=true", "model.hidden_share=0.3"),
    *("train.averaging=0.9", "balance.method=weights"),
]


@pytest.fixture(scope="module")
def alone(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train by one process on one device."""
    found: dict[str, Any] = benchmark().trained(drawn, tmp_path_factory.mktemp("alone"), 1, SETTINGS)
    assert len(found["losses"]) >= 18
    return found


@pytest.mark.parametrize(("processes", "devices"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_many_devices_lose_what_one_does_in_every_step(
    drawn: Path, tmp_path: Path, alone: dict[str, Any], processes: int, devices: int
) -> None:
    together = benchmark().trained(drawn, tmp_path, processes, SETTINGS, devices)
    np.testing.assert_allclose(together["losses"], alone["losses"], rtol=1e-9)
    np.testing.assert_allclose(together["auc"], alone["auc"], atol=1e-9)


# ---- processes that end ------------------------------------------------------------------------------------------


def test_a_run_whose_processes_are_stopped_and_killed_ends_with_the_weights_of_one_that_was_left_alone(
    drawn: Path, tmp_path: Path
) -> None:
    epochs = ["train.epochs=9", "train.patience=9"]
    slurm = {
        "SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0",
        "JAX_COORDINATOR_PORT": str(free_port()),
    }  # fmt: skip
    whole = ended(started(*training(drawn, tmp_path, "whole", *epochs), job=slurm))
    assert [code for code, _, _ in whole] == [0, 0], whole
    assert whole[0][1].strip().endswith(str(tmp_path / "whole"))
    assert "training on 2 devices (cpu) of 2 processes" in whole[0][2]
    assert "fold 0" not in whole[1][2]  # one process speaks

    run = tmp_path / "ended"
    history = run / "fold-0" / "history.csv"

    # one of them is asked to stop: both do, after the same step
    processes = started(*training(drawn, tmp_path, "ended", *epochs))
    wait_for(history, "\n2,", processes[0])
    processes[1].send_signal(signal.SIGTERM)
    stopped = ended(processes)
    assert [code for code, _, _ in stopped] == [130, 130], stopped
    assert f"go on with: melanoma resume {run}" in stopped[0][2]

    # one of them is killed, then the one that leads: the other says so
    for victim, epoch in ((1, "\n5,"), (0, "\n7,")):
        processes = started("resume", str(run))
        wait_for(history, epoch, processes[0])
        processes[victim].kill()
        code, _, said = ended(processes)[1 - victim]
        assert code == 1
        assert "another process of this training ended or cannot be reached" in said
        assert "melanoma resume" in said
        assert "Traceback" not in said

    resumed = ended(started("resume", str(run)))
    assert [code for code, _, _ in resumed] == [0, 0], resumed
    assert (run / "report.html").exists()
    one, other = state_of(tmp_path / "whole"), state_of(run)
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)


def test_a_process_that_cannot_see_the_run_ends_all_with_the_reason(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    arguments = training(drawn, Path("runs"), "unseen")
    first, second = ended(started(*arguments, folders=[tmp_path, tmp_path / "elsewhere"]))
    assert (first[0], second[0]) == (1, 1)
    assert "process 1 of 2: runs/unseen is not seen here: --runs must lie on a file system that all" in second[2]
    assert "another process of this training ended" in first[2]


def test_where_the_first_process_is_killed_while_it_prepares_the_others_say_so(drawn: Path, tmp_path: Path) -> None:
    processes = started(*training(drawn, tmp_path, "killed"))
    wait_for(tmp_path / "killed" / "config.toml", "", processes[0])
    processes[0].kill()
    code, _, said = ended(processes)[1]
    assert code == 1
    assert "another process of this training ended" in said
    assert "Traceback" not in said


def test_processes_that_are_asked_for_different_things_end_at_once(drawn: Path, tmp_path: Path) -> None:
    for other in (["--set=train.epochs=3"], ["--devices", "2"]):
        first, second = ended(started(*training(drawn, tmp_path, "apart"), second=other))
        assert first[0] != 0
        assert second[0] != 0
        assert "not the same in all processes" in second[2] or "--devices asks for 2 of each" in second[2]
        assert not (tmp_path / "apart").exists()


def test_a_port_that_is_taken_is_said(drawn: Path, tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        job = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
        command = [sys.executable, "-m", "melanoma", *training(drawn, tmp_path, "none"), "--devices", "1"]
        done = subprocess.run(command, env=surroundings() | job, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"JAX_COORDINATOR_ADDRESS is {address}, and its port cannot be had" in done.stderr


def test_where_the_first_process_cannot_begin_the_others_end_too(drawn: Path, tmp_path: Path) -> None:
    said = ended(started(*training(drawn / "nowhere", tmp_path, "none")))
    assert [code for code, _, _ in said] == [1, 1]
    assert "is not there" in said[0][2]
    assert "process 1 of 2: the first process stopped" in said[1][2]
    assert not (tmp_path / "none").exists()


# ---- what cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "environment", "told"),
    [
        ("3", {}, "train.batch_size = 16 is not a multiple of the 3 devices"),
        ("0", {}, "--devices is 1 or more, not 0"),
        ("2", {"KERAS_BACKEND": "torch"}, "Keras runs on torch: set KERAS_BACKEND=jax"),
        ("1", {"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES is set without JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID"),
        ("1", {"JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID is set without JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES"),
        ("1", {"PMI_SIZE": "two", "PMI_RANK": "0"}, "PMI_SIZE is a number, not 'two'"),
        ("1", {"PMI_SIZE": "2", "PMI_RANK": "0"}, "this job has several processes, and JAX does not find the first"),
    ],
)
def test_what_cannot_be_trained_on_is_said_before_anything_is_written(
    drawn: Path, tmp_path: Path, devices: str, environment: dict[str, str], told: str
) -> None:
    command = [sys.executable, "-m", "melanoma", *training(drawn, tmp_path, "none"), "--devices", devices]
    done = subprocess.run(command, env=surroundings() | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()


# ---- shares ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "devices", "own"),
    [
        ({}, 2, None),
        ({"SLURM_LOCALID": "1"}, 2, [2, 3]),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "3"}, 1, [3]),
        ({"SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "GPU-5"}, 1, [0]),
        ({"SLURM_LOCALID": "1", "JAX_LOCAL_DEVICE_IDS": "0,1"}, 2, None),
    ],
)
def test_processes_of_one_machine_take_different_devices(
    job: dict[str, str], devices: int, own: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from melanoma.training.parallel import _devices_here

    for name in ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "CUDA_VISIBLE_DEVICES", "JAX_LOCAL_DEVICE_IDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    assert _devices_here(devices) == own


@pytest.mark.parametrize("count", [1, 6, 7, 8, 32])
def test_shares_of_a_batch_are_the_batch_in_order_or_each_the_whole_of_it(count: int) -> None:
    shares = [Share(process, 2, 4) for process in range(2)]
    parts = [list(range(count))[share.of(count)] for share in shares]
    if count % 4:
        assert all(share.whole(count) for share in shares)
        assert parts == [list(range(count))] * 2
    else:
        assert parts[0] + parts[1] == list(range(count))
        assert len(parts[0]) == len(parts[1])


def test_what_processes_read_of_a_batch_is_what_one_reads_of_it() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    targets, metadata = random.random(20).astype(np.float32), random.random((20, 3)).astype(np.float32)
    nothing = np.full(3, -1, np.float32)

    def batches(share: Share) -> Batches:
        return Batches(
            images, np.arange(20), targets, metadata, 8, 5, hidden_share=0.5, nothing_known=nothing, share=share
        )

    order = batches(Share()).order(epoch=1)
    for step in range(2):
        whole, parts = (
            batches(Share()).step(order, step),
            [batches(Share(one, 2, 2)).step(order, step) for one in (0, 1)],
        )
        for place in (0, 1):
            np.testing.assert_array_equal(np.concatenate([inputs[place] for inputs, _ in parts]), whole[0][place])
        np.testing.assert_array_equal(np.concatenate([answers for _, answers in parts]), whole[1])
        assert (whole[0][1] == -1).all(axis=1).any()


def test_who_is_alone_leads_and_asks_nobody() -> None:
    alone = Team()
    assert alone.leads
    assert alone.told("here") == "here"
    assert alone.anyone(True)
    assert not alone.anyone(False)
    with alone.leading():
        pass
    alone.end(1)
    assert alone.share == Share()
