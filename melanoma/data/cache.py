"""Each image decoded and filtered once, kept as one memory-mapped array that later runs reuse.

A cache is named after everything that its pixels depend on: the image settings, the decoding code's version, and
each file's place, size and time. Whatever changes, another cache is built beside it; none is ever patched.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.config import ImageSettings
from melanoma.data.sources import Source
from melanoma.errors import DataError, listed
from melanoma.files import locked, replacing_folder, write_json
from melanoma.images.decode import decode, original_size
from melanoma.images.filters import prepare, process

THUMBNAIL_PX = 64
VERSION = 2  # raised when decoding or a filter changes its pixels
UInt8Array = NDArray[np.uint8]


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


def prepare_cache(
    root: Path,
    sources: list[Source],
    settings: ImageSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cache:
    """Open the cache of these images below `root`, building it first where it is missing.

    `progress(done, total)` is called as images are done. A second process waits for the first.
    Raises DataError naming up to five images that cannot be read.
    """
    key = cache_key(sources, settings)
    with locked(root / f".{key}.lock", wait=True, what=f"the cache {root / key}"):
        if (cache := open_cache(root, key)) is None:
            with replacing_folder(root / key) as aside:
                _build(aside, sources, settings, progress)
            cache = open_cache(root, key)
    assert cache is not None
    return cache


def _build(folder: Path, sources: list[Source], settings: ImageSettings, progress: Callable[[int, int], None]) -> None:
    images = _new_array(folder / "images.npy", len(sources), settings.size_px)
    thumbnails = _new_array(folder / "thumbnails.npy", len(sources), THUMBNAIL_PX)
    rows, faults = [], []
    # threads, since decoding and filtering release the interpreter's lock
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, answer in enumerate(pool.map(lambda source: _read(source, settings), sources)):
            progress(number + 1, len(sources))
            if isinstance(answer, DataError):
                faults.append(str(answer))
                continue
            images[number], thumbnails[number], row = answer
            rows.append(row)
    if faults:
        raise DataError(f"{len(faults):,} of {len(sources):,} images cannot be read: {listed(faults)}")
    images.flush()
    thumbnails.flush()
    pd.DataFrame(rows).to_csv(folder / "index.csv", index=False)
    write_json(folder / "cache.json", {"version": VERSION, "images": len(sources), **settings.model_dump(mode="json")})


def _new_array(path: Path, count: int, size_px: int) -> "np.memmap[Any, np.dtype[np.uint8]]":
    """Make an empty memory-mapped array whose room on disk is taken at once: a full disk is an error, not a crash."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, size_px, size_px, 3))
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _read(source: Source, settings: ImageSettings) -> tuple[UInt8Array, UInt8Array, dict[str, str | int]] | DataError:
    try:
        content = source.read()
        width, height = original_size(content, source.image_name)
        row: dict[str, str | int] = {
            "image_name": source.image_name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "width": width,
            "height": height,
        }
        pixels = decode(content, max(settings.size_px, THUMBNAIL_PX), source.image_name)
        return prepare(pixels, settings), process(pixels, THUMBNAIL_PX), row
    except DataError as error:
        return error
