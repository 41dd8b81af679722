"""Worker processes: the same answers as without them, and whatever ends a process leaves nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zoo import saved, scene

from melanoma.child import Process
from melanoma.config import ImageSettings
from melanoma.data import workers
from melanoma.data.cache import cache_key, open_cache, prepare_cache
from melanoma.data.sources import Source
from melanoma.data.workers import in_order
from melanoma.errors import DataError, MelanomaError, MissingExtraError

AT_32 = ImageSettings(size_px=32)


@pytest.fixture(autouse=True)
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 3)


def answer(numbers: list[int], here: int) -> list[tuple[int, bool]]:
    """Answer slowly enough for every worker to have its share: which number, and whether by a worker."""
    for number in numbers:
        time.sleep(0.002)
        if number == 999:
            print("nobody reads this")
        if number == 1000:
            raise MissingExtraError("pyjpegls", "dicom")
        if number == 2000 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
    return [(number, os.getpid() != here) for number in numbers]


def children() -> list[str]:
    answer = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return [line for line in answer.stdout.splitlines() if "melanoma" in line]


def test_answers_come_in_order_from_here_and_from_workers_which_then_are_gone() -> None:
    answers = list(in_order(partial(answer, here=os.getpid()), range(1, 1000)))
    assert [number for number, _ in answers] == list(range(1, 1000))
    assert {by_worker for _, by_worker in answers} == {True, False}
    assert not children()


def test_an_error_in_a_worker_arrives_as_it_is() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'melanoma\[dicom\]'"):
        list(in_order(partial(answer, here=os.getpid()), range(500, 1500)))
    assert not children()


def test_a_worker_that_is_killed_is_one_sentence() -> None:
    items = [*range(500), *[2000] * 500]
    with pytest.raises(MelanomaError, match=r"ended early \(exit status -9; .* run it again") as caught:
        list(in_order(partial(answer, here=os.getpid()), items))
    assert "\n" not in str(caught.value)
    assert not children()


def test_leaving_early_ends_the_workers_at_once() -> None:
    with closing(in_order(partial(answer, here=os.getpid()), range(100_000))) as answers:
        assert [next(answers)[0] for _ in range(600)] == list(range(600))
        started = time.monotonic()
    assert time.monotonic() - started < 1
    assert not children()


def images_in(folder: Path, count: int) -> list[Source]:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.png").write_bytes(saved(np.roll(scene(), number, axis=1), "PNG"))
    return [Source(path.stem, path) for path in sorted(folder.iterdir())]


def repeated(sources: list[Source], count: int) -> list[Source]:
    return [Source(f"{number:05}", sources[number % len(sources)].path) for number in range(count)]


def test_the_cache_has_the_same_bytes_as_without_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = repeated(images_in(tmp_path / "data", 60), 3000)
    by_many = prepare_cache(tmp_path / "many", sources, AT_32)
    monkeypatch.setattr(workers, "cores", lambda: 1)
    by_one = prepare_cache(tmp_path / "one", sources, AT_32)
    for name in ("images.npy", "thumbnails.npy", "index.csv", "cache.json"):
        assert (by_many.folder / name).read_bytes() == (by_one.folder / name).read_bytes()


def test_every_bad_image_is_named_whoever_read_it(tmp_path: Path) -> None:
    sources = repeated(images_in(tmp_path / "data", 60), 3000)
    (tmp_path / "bad.png").write_bytes(sources[0].path.read_bytes()[:-40])
    for number in (10, 2000, 2999):
        sources[number] = Source(f"{number:05}", tmp_path / "bad.png")
    with pytest.raises(DataError, match=r"3 of 3,000 images cannot be read: 00010 .*, 02000 .*, 02999 "):
        prepare_cache(tmp_path / "cache", sources, AT_32)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_preparing_goes_on_after_a_worker_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Process] = []

    def beginning(work: Callable[..., Any]) -> Process:
        begun.append(Process(work))
        return begun[-1]

    def killing_a_worker(done: int, total: int) -> None:
        if done == 1500:
            begun[-1].kill()

    monkeypatch.setattr(workers, "Process", beginning)
    sources, root = repeated(images_in(tmp_path / "data", 60), 6000), tmp_path / "cache"
    with pytest.raises(MelanomaError, match="ended early"):
        prepare_cache(root, sources, AT_32, killing_a_worker)
    counted: list[int] = []
    cache = prepare_cache(root, sources, AT_32, lambda done, total: counted.append(done))
    assert counted[0] >= 1500
    assert list(cache.index["image_name"]) == [source.image_name for source in sources]


# no guard: a script's own lines are not run again by its workers
SCRIPT = """
import sys
from pathlib import Path
from melanoma.config import ImageSettings
from melanoma.data import unfinished, workers
from melanoma.data.cache import prepare_cache
from melanoma.data.sources import Source

unfinished.KEEP_EVERY_SECONDS = 0.05
workers.cores = lambda: 3
files = sorted(Path(sys.argv[1]).iterdir())
sources = [Source(f"{number:05}", files[number % len(files)]) for number in range(50_000)]
prepare_cache(Path(sys.argv[2]), sources, ImageSettings(size_px=32), lambda done, total: print(done, flush=True))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_end_from_outside_leaves_no_worker_and_what_was_done(tmp_path: Path, how: signal.Signals) -> None:
    sources, root = images_in(tmp_path / "data", 10), tmp_path / "cache"
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "data"), str(root)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if int(line) == 4000:
                break
        begun = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        os.killpg(process.pid, how)
        started = time.monotonic()
        complaint = process.stderr.read()  # to its end, which is there when the last worker is gone
    assert time.monotonic() - started < 3
    assert len(begun.stdout.split()) == 2
    assert complaint.count("Traceback") == (1 if how == signal.SIGINT else 0)
    everything = repeated(sources, 50_000)
    assert open_cache(root, cache_key(everything, AT_32)) is None
    (index,) = root.glob(".*.partial/index.csv")
    assert len(index.read_text().splitlines()) > 1
