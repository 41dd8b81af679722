"""A short run of the fuzzer over every front end, and that it notices what it is for; the long one is `make fuzz`."""

import mmap
import os
import signal
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import fuzz
import numpy as np
import pytest

from melanoma.errors import DataError

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the memory in use")
INPUTS = {"jpeg": 600, "pictures": 400, "dicom": 400, "tfrecord": 800, "csv": 60}


@linux
@pytest.mark.parametrize("front", fuzz.FRONTS)
def test_damaged_files_are_read_or_refused(front: str, tmp_path: Path) -> None:
    report = fuzz.fuzz(front, seed=1, inputs=INPUTS[front], kept=tmp_path)
    assert report.inputs == INPUTS[front]
    assert not report.escapes, report.escapes
    assert 0 < report.refused < report.inputs  # it neither misses every check nor stops at the first


def test_an_input_is_made_again_by_its_number() -> None:
    for front in fuzz.FRONTS:
        inputs = {fuzz.damaged(front, 0, number) for number in range(20)}
        assert inputs == {fuzz.damaged(front, 0, number) for number in range(20)}
        assert len(inputs) > 15


def test_every_seed_but_those_meant_to_be_refused_is_read(tmp_path: Path) -> None:
    refused = dict.fromkeys(fuzz.FRONTS, 0)
    for name, front in fuzz.FRONTS.items():
        for content in front.seeds():
            try:
                front.read(content, tmp_path)
            except DataError:
                refused[name] += 1
    # two animations or of several pages; a deflated DICOM file, and uncompressed pixels in a capsule
    assert refused["jpeg"] == refused["tfrecord"] == 0
    assert refused["pictures"] == refused["dicom"] == 2


def take_memory() -> None:
    fresh = mmap.mmap(-1, 2**27)  # none that this process has kept from before
    np.ndarray(2**27, np.uint8, fresh).fill(1)


def be_refused_memory() -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise DataError("a damaged file") from error


def raise_another() -> None:
    raise KeyError("a bug")


def warn() -> None:
    warnings.warn("Doe^Jane", stacklevel=1)


@linux
@pytest.mark.parametrize(
    ("harm", "escape"),
    [
        (take_memory, "over memory"),
        (be_refused_memory, "memory refused"),
        (raise_another, "KeyError at the fuzzer"),
        (warn, "UserWarning at test_fuzz.py:"),
        (lambda: None, ""),
    ],
)
def test_the_fuzzer_notices(
    harm: Callable[[], None], escape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = fuzz.Front(lambda: [b"seed"], fuzz.mutations.blindly, lambda content, folder: harm())
    monkeypatch.setitem(fuzz.FRONTS, "harmful", front)
    monkeypatch.setattr(fuzz, "MOST_BYTES", 2**26)
    found = fuzz.read_one("harmful", b"", tmp_path).escape
    assert found.startswith(escape)
    assert bool(found) == bool(escape)


def die(front: str, seed: int, number: int, folder: Path, results: Connection) -> None:
    results.send(None)
    os.kill(os.getpid(), signal.SIGSEGV)


def test_the_fuzzer_goes_on_after_a_process_has_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "work", die)
    report = fuzz.fuzz("jpeg", seed=0, inputs=2, kept=tmp_path)
    assert report.escapes == {"the process dies (-11)": [0, 1]}
    assert (tmp_path / "jpeg-0-0").read_bytes() == fuzz.damaged("jpeg", 0, 0)
