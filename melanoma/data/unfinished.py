"""A cache while it is being built: pixels first, then the row that says that they are there.

Pixels are written by any process, in any order; rows by one, in theirs. Whatever ends it, the rows found afterwards
stand for whole images, and the next attempt goes on after them. It does not know how an image is read.
"""

import csv
import io
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from melanoma.files import write_text

INDEX = "index.csv"
KEEP_EVERY_SECONDS = 1.0  # the most that a kill can cost


class Row(NamedTuple):
    """A line of the index: SHA-256 and length of the file's bytes, width and height of the original in pixels.

    remarks: what was done to the pixels, by "; ".
    """

    image_name: str
    sha256: str
    bytes: int
    width: int
    height: int
    remarks: str


class UnfinishedCache:
    """Arrays that are filled row by row, and the index of those rows that are whole.

    done: the number of rows, those of earlier attempts included.
    """

    def __init__(self, folder: Path, count: int, sides: Mapping[str, int]) -> None:
        """Open what is in `folder`, or begin: an array uint8 (count, side, side, 3) for each file name and side.

        Raises OSError where the disk has no room for all of them.
        """
        index = folder / INDEX
        if not index.exists():
            _make_arrays({folder / name: (count, side, side, 3) for name, side in sides.items()})
            write_text(index, _lines([Row._fields]))  # last: without it nothing else counts
        self.done = _whole_rows(index)
        self._arrays = [(folder / name).open("rb+") for name in sides]
        self._index = index.open("ab", buffering=0)
        self._rows: list[Row] = []  # whose pixels may not be on the disk yet
        self._keeper = ThreadPoolExecutor(1)  # the disk is waited for beside the work
        self._keeping: Future[None] = self._keeper.submit(self._keep, [])
        self._kept_at = time.monotonic()

    def __enter__(self) -> "UnfinishedCache":
        """Give the cache itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep all that was added, however the work ended."""
        try:
            self._keep_rows()
            self._keeping.result()
        finally:
            self._keeper.shutdown()
            for file in (self._index, *self._arrays):
                file.close()

    def add(self, row: Row) -> None:
        """Note that the next image's pictures are written; raises OSError for a full disk."""
        self._rows.append(row)
        self.done += 1
        if self._keeping.done() and time.monotonic() > self._kept_at + KEEP_EVERY_SECONDS:
            self._keep_rows()

    def _keep_rows(self) -> None:
        self._keeping.result()  # raises what went wrong: no row may follow one that is lost
        self._keeping = self._keeper.submit(self._keep, self._rows)
        self._rows, self._kept_at = [], time.monotonic()

    def _keep(self, rows: list[Row]) -> None:
        for file in self._arrays:
            os.fsync(file.fileno())  # whichever process wrote
        _write(self._index, _lines(rows).encode())
        os.fsync(self._index.fileno())


def opened_at(path: Path, row: int) -> FileIO:
    """Open an array's file for writing from a row on: as a file, since mapped pages would fill the memory."""
    array = np.load(path, mmap_mode="r")
    file = path.open("rb+", buffering=0)
    file.seek(array.offset + row * array[0].nbytes)
    return file


def write(file: FileIO, picture: NDArray[np.uint8]) -> None:
    """Write an array's next row; raises OSError for a full disk."""
    _write(file, np.ascontiguousarray(picture).data.cast("B"))


def _make_arrays(shapes: Mapping[Path, tuple[int, ...]]) -> None:
    """Make empty arrays whose room on the disk is taken at once: a full disk is known now, not at the end."""
    try:
        for path, shape in shapes.items():
            np.lib.format.open_memmap(path, "w+", np.uint8, shape)
            if hasattr(os, "posix_fallocate"):
                with path.open("rb+") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError:
        for path in shapes:
            path.unlink(missing_ok=True)
        raise


def _whole_rows(index: Path) -> int:
    """Count the rows of an index, and take off a last line that was cut."""
    content = index.read_bytes()
    os.truncate(index, content.rfind(b"\n") + 1)
    return content.count(b"\n") - 1


def _lines(rows: Iterable[tuple[object, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write(file: FileIO, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
