"""Each image decoded and filtered once, kept as one memory-mapped array that later runs reuse.

A cache is named after everything that its pixels depend on: the image settings, the decoding code's version, and
each file's place, size and time. Whatever changes, another cache is built beside it; none is ever patched.
"""

import hashlib
import json
import mmap
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.config import ImageSettings
from melanoma.data.sources import Source
from melanoma.data.unfinished import Row, UnfinishedCache
from melanoma.errors import DataError, listed
from melanoma.files import locked, resuming_folder, write_json
from melanoma.images.decode import decode_sized
from melanoma.images.filters import prepare, process

THUMBNAIL_PX = 64
VERSION = 3  # raised when decoding or a filter changes its pixels
WAITING = 4  # images a core that are under way or wait for their turn: bounds the memory
UInt8Array = NDArray[np.uint8]
Prepared = tuple[UInt8Array, UInt8Array, Row]


@dataclass(frozen=True)
class Cache:
    """Prepared images on disk.

    images: uint8 (rows, size_px, size_px, 3) RGB, memory-mapped, read-only.
    thumbnails: uint8 (rows, 64, 64, 3) RGB, the whole image squashed, no filter: the same under every recipe's filters.
    index: a table, a row an image, in the same order: image_name, sha256 (of the file's bytes), bytes, width, height
    (of the original, pixels).
    """

    folder: Path
    key: str
    images: UInt8Array
    thumbnails: UInt8Array
    index: pd.DataFrame

    def rows_of(self, image_names: pd.Series) -> NDArray[np.int64]:
        """Tell in which row of `images` each name stands; raises DataError for a name that is not in it."""
        rows = pd.Index(self.index["image_name"]).get_indexer(pd.Index(image_names))
        if (rows < 0).any():
            raise DataError(f"not in the cache: {listed(list(image_names[rows < 0]))}")
        return np.asarray(rows, np.int64)


def cache_key(sources: Iterable[Source], settings: ImageSettings) -> str:
    """Return a hexadecimal name for what these files become under these settings, without reading them.

    Raises DataError where a file is gone.
    """
    digest = hashlib.sha256(json.dumps([VERSION, settings.model_dump(mode="json")]).encode())
    for source in sources:
        try:
            stat = source.path.stat()
        except OSError as error:
            raise DataError(f"{source.path} cannot be read: {error.strerror}") from error
        place = [source.image_name, str(source.path.resolve()), source.offset, stat.st_size, stat.st_mtime_ns]
        digest.update(json.dumps(place).encode())
    return digest.hexdigest()[:16]


def open_cache(root: Path, key: str) -> Cache | None:
    """Open the cache of that key below `root`, or return None where there is none."""
    folder = root / key
    if not (folder / "cache.json").is_file():
        return None
    images = np.load(folder / "images.npy", mmap_mode="r")
    thumbnails = np.load(folder / "thumbnails.npy", mmap_mode="r")
    index = pd.read_csv(folder / "index.csv", dtype={"image_name": str}, keep_default_na=False)
    return Cache(folder, key, images, thumbnails, index)


def release(images: UInt8Array) -> None:
    """Give the memory back that pages of a memory-mapped array have taken; other arrays are left alone.

    The system would take it when it is short of memory. Until then a process that has read all of a large cache looks
    as large as the cache, and is the first to be killed where memory is limited. What is read again comes from the
    system's own copy.
    """
    mapped = getattr(images, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def prepare_cache(
    root: Path,
    sources: list[Source],
    settings: ImageSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cache:
    """Open the cache of these images below `root`, building it first where it is missing.

    A build that was interrupted goes on after the images that it had finished. `progress(done, total)` is called
    with these at the start, then as images are done. A second process waits for the first.
    Raises DataError naming up to five images that cannot be read, MelanomaError where the disk is full.
    """
    key = cache_key(sources, settings)
    with locked(root / f".{key}.lock", wait=True, what=f"the cache {root / key}"):
        if (cache := open_cache(root, key)) is None:
            with resuming_folder(root / key) as folder:
                _build(folder, sources, settings, progress)
            cache = open_cache(root, key)
    assert cache is not None
    return cache


def _build(folder: Path, sources: list[Source], settings: ImageSettings, progress: Callable[[int, int], None]) -> None:
    total, faults = len(sources), []
    sides = {"images.npy": settings.size_px, "thumbnails.npy": THUMBNAIL_PX}
    with UnfinishedCache(folder, total, sides) as unfinished:
        done = unfinished.done
        if done:
            print(f"note: going on after {done:,} of {total:,} images that were prepared before", file=sys.stderr)
        progress(done, total)
        with closing(_in_order(partial(_read, settings=settings), sources[done:])) as answers:
            for number, answer in enumerate(answers, done + 1):
                if isinstance(answer, DataError):
                    faults.append(str(answer))
                elif not faults:  # with a fault there will be no cache: the others are only looked at
                    image, thumbnail, row = answer
                    unfinished.add(image, thumbnail, row=row)
                progress(number, total)
    if faults:
        raise DataError(f"{len(faults):,} of {total:,} images cannot be read: {listed(faults)}")
    write_json(folder / "cache.json", {"version": VERSION, "images": total, **settings.model_dump(mode="json")})


def _in_order(
    work: Callable[[Source], Prepared | DataError], sources: Iterable[Source]
) -> Generator[Prepared | DataError]:
    """Do work on every core and give the answers in the order of the sources; leaving early drops what waits."""
    # Threads, since decoding, resizing and hashing release the interpreter's lock: two cores prepare large originals
    # 1.9 times as quickly as one. Of 200 x 150 pixels, 0.7 ms each, it is 1.2 times: there Python's own work counts.
    # Processes would cost their start, their memory, and a guard in everybody's script.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: deque[Future[Prepared | DataError]] = deque()
    with _opencv_on_one_core(), ThreadPoolExecutor(cores) as pool:
        try:
            for source in sources:
                waiting.append(pool.submit(work, source))
                if len(waiting) >= WAITING * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _opencv_on_one_core() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # every core has an image of its own already
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _read(source: Source, settings: ImageSettings) -> Prepared | DataError:
    try:
        content = source.read()
        pixels, (width, height) = decode_sized(content, max(settings.size_px, THUMBNAIL_PX), source.image_name)
        row = Row(source.image_name, hashlib.sha256(content).hexdigest(), len(content), width, height)
        return prepare(pixels, settings), process(pixels, THUMBNAIL_PX), row
    except DataError as error:
        return error
