"""Each image decoded and filtered once, kept as one memory-mapped array that later runs reuse.

A cache is named after everything that its pixels depend on: the image settings, the decoding code's version, and
each file's place, size and time. Whatever changes, another cache is built beside it; none is ever patched.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from melanoma.config import ImageSettings
from melanoma.data.sources import Source
from melanoma.data.unfinished import INDEX, Row, UnfinishedCache, opened_at, write
from melanoma.data.workers import InOrder, in_order
from melanoma.errors import DataError, MelanomaError, listed
from melanoma.files import locked, resuming_folder, write_json
from melanoma.images.decode import decode_and_tell
from melanoma.images.filters import THUMBNAIL_PX, prepare, process
from melanoma.places import is_remote, read_ahead, version_of

if TYPE_CHECKING:  # imported where it is used: a worker process imports this module, and starts sooner without
    import pandas as pd

IMAGES, THUMBNAILS = "images.npy", "thumbnails.npy"
VERSION = 4  # raised when decoding or a filter changes its pixels, or what is refused or remarked on
UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Cache:
    """Prepared images on disk.

    images: uint8 (rows, size_px, size_px, 3) RGB, memory-mapped, read-only.
    thumbnails: uint8 (rows, 64, 64, 3) RGB, the whole image squashed, no filter: the same under every recipe's filters.
    index: a table, a row an image, in the same order: image_name, sha256 (of the file's bytes), bytes, width, height
    (of the original, pixels), remarks (what was done to its pixels, by "; ").
    """

    folder: Path
    key: str
    images: UInt8Array
    thumbnails: UInt8Array
    index: "pd.DataFrame"

    def rows_of(self, image_names: "pd.Series[str]") -> NDArray[np.int64]:
        """Tell in which row of `images` each name stands; raises DataError for a name that is not in it."""
        import pandas as pd

        rows = pd.Index(self.index["image_name"]).get_indexer(pd.Index(image_names))
        if (rows < 0).any():
            raise DataError(f"not in the cache: {listed(list(image_names[rows < 0]))}")
        return np.asarray(rows, np.int64)


class Pixels(NamedTuple):
    """What the cache keeps of an image: its row, uint8 (size_px, size_px, 3) and (64, 64, 3) RGB."""

    row: Row
    image: UInt8Array
    thumbnail: UInt8Array


def remarks_on(*caches: Cache | None) -> list[str]:
    """Say once what was done to the pixels of images, and name up to five of them."""
    images = dict[str, list[str]]()
    for cache in filter(None, caches):
        for name, text in zip(cache.index["image_name"], cache.index["remarks"], strict=True):
            for remark in filter(None, text.split("; ")):
                images.setdefault(remark, []).append(name)
    return [
        f"{remark}: {len(names):,} {'image' if len(names) == 1 else 'images'}, {listed(names)}"
        for remark, names in images.items()
    ]


def cache_key(sources: Iterable[Source], settings: ImageSettings) -> str:
    """Return a hexadecimal name for what these files become under these settings, without reading them.

    Raises DataError where a file is gone.
    """
    digest = hashlib.sha256(json.dumps([VERSION, settings.model_dump(mode="json")]).encode())
    real_folder = lru_cache(os.path.realpath)  # looking at every folder above every image would take most of the time
    for source in sources:
        if is_remote(source.path):
            size, version = version_of(source.path)
            digest.update(json.dumps([source.image_name, str(source.path), source.offset, size, version]).encode())
            continue
        try:
            stat, linked = source.path.stat(), source.path.is_symlink()
        except OSError as error:
            raise DataError(f"{source.path} cannot be read: {error.strerror}") from error
        path = source.path.resolve() if linked else Path(real_folder(source.path.parent), source.path.name)
        place = [source.image_name, str(path), source.offset, stat.st_size, stat.st_mtime_ns]
        digest.update(json.dumps(place).encode())
    return digest.hexdigest()[:16]


def open_cache(root: Path, key: str) -> Cache | None:
    """Open the cache of that key below `root`, or return None where there is none.

    Raises MelanomaError where a part of it is missing or was cut.
    """
    import pandas as pd

    folder = root / key
    if not (folder / "cache.json").is_file():
        return None
    try:
        images = np.load(folder / IMAGES, mmap_mode="r")
        thumbnails = np.load(folder / THUMBNAILS, mmap_mode="r")
        index = pd.read_csv(folder / INDEX, dtype={"image_name": str}, keep_default_na=False)
        if not len(images) == len(thumbnails) == len(index):
            raise ValueError("its parts are of different lengths")
    except (OSError, ValueError, EOFError) as error:
        raise MelanomaError(f"the cache {folder} is damaged ({error}): remove it, and it is made again") from error
    return Cache(folder, key, images, thumbnails, index)


def prepare_cache(
    root: Path,
    sources: list[Source],
    settings: ImageSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
    spread: InOrder | None = None,
) -> Cache:
    """Open the cache of these images below `root`, building it first where it is missing.

    spread: what works on the images elsewhere, on machines that may not see `root`: the pixels come back from there.
    By default this machine's cores work on them, each writing its own.

    A build that was interrupted goes on after the images that it had finished. `progress(done, total)` is called
    with these at the start, then as images are done. A second process waits for the first.
    Raises DataError naming up to five images that cannot be read; another MelanomaError, after which a build goes on,
    where the disk is full, a worker process was killed or a store cannot be reached.
    """
    key = cache_key(sources, settings)
    if (cache := open_cache(root, key)) is not None:  # it is whole, and may lie where nothing can be written
        return cache
    with locked(root / f".{key}.lock", wait=True, what=f"the cache {root / key}"):
        if (cache := open_cache(root, key)) is None:
            with resuming_folder(root / key) as folder:
                _build(folder, sources, settings, progress, spread)
            cache = open_cache(root, key)
    assert cache is not None
    return cache


def _build(
    folder: Path,
    sources: list[Source],
    settings: ImageSettings,
    progress: Callable[[int, int], None],
    spread: InOrder | None,
) -> None:
    total, faults = len(sources), []
    sides = {IMAGES: settings.size_px, THUMBNAILS: THUMBNAIL_PX}
    with UnfinishedCache(folder, total, sides) as unfinished:
        done = unfinished.done
        if done:
            print(f"note: going on after {done:,} of {total:,} images that were prepared before", file=sys.stderr)
        progress(done, total)
        with closing(_rows(folder, sources, done, settings, spread)) as answers:
            for number, answer in enumerate(answers, done + 1):
                if isinstance(answer, DataError):
                    faults.append(str(answer))
                elif isinstance(answer, Exception):
                    raise answer
                elif not faults:  # with a fault there will be no cache: the others are only looked at
                    unfinished.add(answer)
                progress(number, total)
    if faults:
        raise DataError(f"{len(faults):,} of {total:,} images cannot be read: {listed(faults)}")
    write_json(folder / "cache.json", {"version": VERSION, "images": total, **settings.model_dump(mode="json")})


def _rows(
    folder: Path, sources: list[Source], done: int, settings: ImageSettings, spread: InOrder | None
) -> Generator[Row | Exception]:
    """Work on the images after the first `done`, and write their pixels: here, or in the process that made them."""
    if spread is None:
        work = partial(_prepare_and_write, folder=folder, settings=settings)
        yield from in_order(work, list(enumerate(sources))[done:], lambda numbered: numbered[1].image_name)
    elif done < len(sources):
        sent = [replace(one, path=one.path.absolute()) for one in sources[done:]]
        answers = spread(partial(_prepare_some, settings=settings), sent, attrgetter("image_name"))
        with closing(answers):
            yield from _written(answers, folder, done)


def _prepare_and_write(
    sources: list[tuple[int, Source]], folder: Path, settings: ImageSettings
) -> list[Row | Exception]:
    """Write the pixels of a few images, given with their rows, into the arrays; answer with what the index says."""
    return list(_written(_prepared([source for _, source in sources], settings), folder, sources[0][0]))


def _prepare_some(sources: list[Source], settings: ImageSettings) -> list[Pixels | Exception]:
    return list(_prepared(sources, settings))


def _prepared(sources: list[Source], settings: ImageSettings) -> Iterator[Pixels | Exception]:
    """Make a few images what the cache keeps of them."""
    with _opencv_on_one_core(), closing(_contents(sources)) as contents:
        for source, read in zip(sources, contents, strict=True):
            try:
                content = read()
                pixels, (width, height), remarks = decode_and_tell(
                    content, max(settings.size_px, THUMBNAIL_PX), source.image_name, source.suffix
                )
                sha256 = hashlib.sha256(content).hexdigest()
                row = Row(source.image_name, sha256, len(content), width, height, "; ".join(remarks))
                yield Pixels(row, prepare(pixels, settings), process(pixels, THUMBNAIL_PX))
            except (MelanomaError, OSError) as error:
                yield error


def _contents(sources: list[Source]) -> Generator[Callable[[], bytes]]:
    return read_ahead([one.read for one in sources], any(is_remote(one.path) for one in sources))


def _written(prepared: Iterable[Pixels | Exception], folder: Path, first: int) -> Iterator[Row | Exception]:
    """Write pixels into the arrays from a row on, and pass on what the index says.

    Nothing after a fault is kept, so that its rows may stay empty.
    """
    with opened_at(folder / IMAGES, first) as images, opened_at(folder / THUMBNAILS, first) as thumbnails:
        for one in prepared:
            if isinstance(one, Exception):
                yield one
                continue
            row: Row | Exception = one.row
            try:
                write(images, one.image)
                write(thumbnails, one.thumbnail)
            except OSError as error:
                row = error
            yield row


@contextmanager
def _opencv_on_one_core() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # every core has an image of its own already
    try:
        yield
    finally:
        cv2.setNumThreads(before)
