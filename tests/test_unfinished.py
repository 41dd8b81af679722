"""A cache that was not finished: goes on after a kill, an interrupt, a full disk; never taken for a whole one."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from zoo import saved, scene

from melanoma.config import ImageSettings
from melanoma.data import unfinished, workers
from melanoma.data.cache import Cache, cache_key, open_cache, prepare_cache
from melanoma.data.sources import Source
from melanoma.errors import MelanomaError

AT_32 = ImageSettings(size_px=32)


def images_in(folder: Path, count: int) -> list[Source]:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.png").write_bytes(saved(np.roll(scene(), number, axis=1), "PNG"))
    return [Source(path.stem, path) for path in sorted(folder.iterdir())]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are read from here on, all by this process."""
    monkeypatch.setattr(workers, "cores", lambda: 1)
    names: list[str] = []
    plain = Source.read

    def counted(source: Source) -> bytes:
        names.append(source.image_name)
        return plain(source)

    monkeypatch.setattr(Source, "read", counted)
    monkeypatch.setattr(workers, "MOST", 4)
    return names


def assert_whole(cache: Cache, sources: list[Source], root: Path) -> None:
    plain = prepare_cache(root.parent / "plain", sources, AT_32)
    assert np.array_equal(cache.images, plain.images)
    assert np.array_equal(cache.thumbnails, plain.thumbnails)
    assert cache.index.equals(plain.index)
    assert list(cache.index["image_name"]) == [source.image_name for source in sources]
    assert [path.name for path in root.iterdir() if path.is_dir()] == [cache.key]


KILLED = """
import sys, time
from pathlib import Path
from melanoma.config import ImageSettings
from melanoma.data import unfinished, workers
from melanoma.data.cache import prepare_cache
from melanoma.data.sources import Source

workers.cores = lambda: 1
unfinished.KEEP_EVERY_SECONDS = 0.05
plain = Source.read
def slow(source):
    time.sleep(0.02)
    return plain(source)
Source.read = slow
sources = [Source(path.stem, path) for path in sorted(Path(sys.argv[1]).iterdir())]
prepare_cache(Path(sys.argv[2]), sources, ImageSettings(size_px=32), lambda done, total: print(done, flush=True))
"""


def test_what_was_prepared_before_a_kill_is_not_decoded_again(
    tmp_path: Path, read: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sources, root = images_in(tmp_path / "data", 300), tmp_path / "cache"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "data"), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 60:
                break
        process.send_signal(signal.SIGKILL)
    assert open_cache(root, cache_key(sources, AT_32)) is None
    counted: list[int] = []
    cache = prepare_cache(root, sources, AT_32, lambda done, total: counted.append(done))
    done = counted[0]
    assert 10 < done < 300
    assert sorted(read) == [source.image_name for source in sources[done:]]
    assert f"going on after {done} of 300 images" in capsys.readouterr().err
    assert_whole(cache, sources, root)


def stopped_after(count: int) -> object:
    def stop(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return stop


def test_an_interrupt_ends_at_once_and_loses_nothing(tmp_path: Path, read: list[str]) -> None:
    sources, root = images_in(tmp_path / "data", 200), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        prepare_cache(root, sources, AT_32, stopped_after(50))  # type: ignore[arg-type]
    assert len(read) <= 50 + workers.MOST * (workers.WAITING + 1)
    read.clear()
    cache = prepare_cache(root, sources, AT_32)
    assert len(read) == 150
    assert_whole(cache, sources, root)


def test_a_slow_reader_of_the_answers_holds_the_workers_back(tmp_path: Path, read: list[str]) -> None:
    sources, most = images_in(tmp_path / "data", 100), []

    def slow(done: int, total: int) -> None:
        time.sleep(0.002)
        most.append(len(read) - done)

    prepare_cache(tmp_path / "cache", sources, AT_32, slow)
    assert max(most) <= workers.MOST * (workers.WAITING + 1)


def test_a_line_of_the_index_that_was_cut_is_done_again(tmp_path: Path, read: list[str]) -> None:
    sources, root = images_in(tmp_path / "data", 20), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        prepare_cache(root, sources, AT_32, stopped_after(10))  # type: ignore[arg-type]
    (index,) = root.glob(".*.partial/index.csv")
    index.write_bytes(index.read_bytes()[:-5])
    read.clear()
    cache = prepare_cache(root, sources, AT_32)
    assert sorted(read) == [source.image_name for source in sources[9:]]
    assert_whole(cache, sources, root)


def test_arrays_without_an_index_count_for_nothing(tmp_path: Path, read: list[str]) -> None:
    sources, root = images_in(tmp_path / "data", 20), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        prepare_cache(root, sources, AT_32, stopped_after(10))  # type: ignore[arg-type]
    (index,) = root.glob(".*.partial/index.csv")
    index.unlink()
    read.clear()
    cache = prepare_cache(root, sources, AT_32)
    assert len(read) == 20
    assert_whole(cache, sources, root)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room on the disk cannot be asked for here")
def test_a_disk_without_room_is_one_sentence_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    sources, root = images_in(tmp_path / "data", 5), tmp_path / "cache"

    def full(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MelanomaError, match="cannot be written: No space left on device"):
        prepare_cache(root, sources, AT_32)
    assert not read
    assert not [path for path in root.iterdir() if path.is_dir()]


def test_a_disk_that_fills_up_is_one_sentence_and_what_was_prepared_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    sources, root = images_in(tmp_path / "data", 60), tmp_path / "cache"
    plain, written = unfinished._write, []

    def filling(file: object, content: bytes) -> None:
        written.append(content)
        if len(written) == 61:  # two pictures an image, and the index's lines
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(file, content)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(unfinished, "_write", filling)
        with pytest.raises(MelanomaError, match="cannot be written: No space left on device") as caught:
            prepare_cache(root, sources, AT_32)
    assert "\n" not in str(caught.value)
    read.clear()
    cache = prepare_cache(root, sources, AT_32)
    assert 20 < len(read) < 40
    assert_whole(cache, sources, root)


MEASURED = """
import resource, sys
from pathlib import Path
from melanoma.config import ImageSettings
from melanoma.data.batches import Batches
from melanoma.data.cache import prepare_cache
from melanoma.data.sources import Source
import numpy as np

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

files = sorted(Path(sys.argv[1]).iterdir())
sources = [Source(f"{number}", files[number % len(files)]) for number in range(1000)]
settings = ImageSettings(size_px=256)
prepare_cache(Path(sys.argv[2]), sources[:50], settings)
before = peak()
cache = prepare_cache(Path(sys.argv[2]), sources, settings)
rows = np.arange(1000)
batches = Batches(cache.images, rows, np.zeros(1000, np.float32), None, 32, 0)
for step in range(len(batches)):
    batches.step(batches.order(0), step)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is counted in other units elsewhere")
def test_preparing_and_reading_take_no_memory_for_each_image(tmp_path: Path) -> None:
    images_in(tmp_path / "data", 10)
    command = [sys.executable, "-c", textwrap.dedent(MEASURED), str(tmp_path / "data"), str(tmp_path / "cache")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(answer.stdout) < 60, "the cache has 188 MiB"
