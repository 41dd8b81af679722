"""Where things are: a path of this machine, or an address in an object store such as s3://bucket/folder.

An address is read through fsspec; the UPath that stands for it has a Path's methods, so that other rooms seldom ask
which it is. What such stores raise becomes one sentence here. It does not know what is kept there.
"""

import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, Literal, cast

from melanoma.errors import DataError, MelanomaError, MissingExtraError, UnreachableError, UsageError, printable

EXTRAS = {"gs": "gs", "gcs": "gs"}  # by scheme; every other comes with the extra s3, or with a package of its own
HERE = ("file", "local")  # schemes of this machine's own files
AHEAD = 16  # objects that are on their way at a time: each takes some 20 ms to begin
VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")  # what stores call a content's version
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Tell whether a text is an address of a store; file:// and local:// stand for paths of this machine."""
    matched = _ADDRESS.match(text)
    return matched is not None and matched[1].lower() not in HERE


def as_place(text: str | Path) -> Path:
    """Give a path for a text: a Path of this machine, or for an address what behaves like one.

    Credentials and endpoints come from the environment, as the store's own client reads them. Raises UsageError for a
    scheme that nobody knows, MissingExtraError where its package is not installed.
    """
    if not isinstance(text, str):
        return text
    matched = _ADDRESS.match(text)
    if matched is None:
        return Path(text)
    scheme = matched[1].lower()
    if scheme in HERE:
        return Path(text[matched.end() :])
    extra = EXTRAS.get(scheme, "s3")
    try:
        from upath import UPath
    except ImportError as error:
        raise MissingExtraError("universal_pathlib", extra) from error
    try:
        found = UPath(text)
        _ = found.fs  # imports what reads it
    except ImportError as error:
        raise MissingExtraError(error.name or f"what reads {scheme}://", extra) from error
    except ValueError as error:
        raise UsageError(f"{printable(str(text))} is no address that can be read: {error}") from error
    return cast("Path", found)


def is_remote(path: Any) -> bool:
    """Tell whether a path stands for an address."""
    return not isinstance(path, PurePath | str)


@contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Make one sentence of whatever goes wrong on the way to an address; errors of files are left as they are.

    Raises DataError where nothing is there, UnreachableError where that cannot be told now.
    """
    try:
        yield
    except MelanomaError:
        raise
    except Exception as error:  # each store's client raises a family of its own
        if not is_remote(path):
            raise
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path} cannot be read ({reason(error)}): check the address") from error
        raise UnreachableError(
            f"{path} cannot be reached ({reason(error)}): check the address, the credentials, the endpoint"
        ) from error


def reason(error: Exception) -> str:
    """Say in a few words what a store's client raised."""
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    first = str(error).strip().splitlines()[:1]
    return printable(first[0])[:200] if first else type(error).__name__


# ---- what stands at an address ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One thing in a folder of a store, as `os.scandir` tells of one on this machine."""

    name: str
    path: str
    kind: str

    def is_file(self) -> bool:
        """Whether it is an object."""
        return self.kind == "file"

    def is_dir(self) -> bool:
        """Whether objects are below it."""
        return self.kind == "directory"


def kind_of(path: Path) -> Literal["file", "directory"] | None:
    """Tell what stands at an address, None for nothing; raises UnreachableError where that cannot be told."""
    return looked_up(path)[0]


def looked_up(path: Path) -> tuple[Literal["file", "directory"] | None, str]:
    """Tell by one request what stands at an address and, as `files_below` does, its version; raises as `kind_of`."""
    given = cast("Any", path)
    with reaching(path):
        try:
            told = given.fs.info(given.path)
        except FileNotFoundError:
            return None, ""
    return ("file", _version(told)) if told["type"] == "file" else ("directory", "")


def is_folder(path: Path) -> bool:
    """Tell whether a folder is at a path or an address; raises UnreachableError where that cannot be told."""
    return kind_of(path) == "directory" if is_remote(path) else path.is_dir()


def entries_of(folder: Path) -> list[Entry]:
    """List what is directly in a folder of a store, by one request for some thousand; empty where it is not there."""
    folder = folder.resolve()  # a dot would be a folder of that name
    given = cast("Any", folder)
    with reaching(folder):
        given.fs.invalidate_cache(given.path)
        try:
            found = given.fs.ls(given.path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
    names = [(_below(folder, one["name"]), one["type"]) for one in found]
    return [Entry(name, str(folder / name), kind) for name, kind in names if name]


def files_below(folder: Path) -> dict[Path, str]:
    """List all objects below a folder of a store, at any depth, each with its version.

    That is a text that changes with its content, "" where the listing tells none.
    """
    given = cast("Any", folder)
    with reaching(folder):
        given.fs.invalidate_cache(given.path)
        found = given.fs.find(given.path, detail=True)
    return {folder / _below(folder, name): _version(told) for name, told in found.items()}


def matching(pattern: Path) -> dict[Path, str]:
    """List the objects that a glob names, each with its version as `files_below` tells it."""
    given = cast("Any", pattern)
    root = next(parent for parent in pattern.parents if not set("*?[") & set(str(parent)))
    with reaching(pattern):
        found = given.fs.glob(given.path, detail=True)
    return {root / _below(root, name): _version(told) for name, told in sorted(found.items()) if told["type"] == "file"}


def version_of(path: Path) -> tuple[int, str]:
    """Tell the size of an object in bytes and a text that changes with its content.

    Raises DataError where it is not there or its store tells no such text, UnreachableError where no answer comes.
    """
    given = cast("Any", path)
    with reaching(path):
        told = given.fs.info(given.path)
    version = _version(told)
    if not version:
        raise DataError(f"{path}: its store tells neither its hash nor its time; copy the images to another place")
    return int(told["size"]), version


def _version(told: Mapping[str, Any]) -> str:
    return next((str(told[name]) for name in VERSIONS if told.get(name)), "")


def read_bytes(path: Path, start: int = 0, end: int | None = None) -> bytes:
    """Read an object by one request, or its bytes from `start` to `end`; raises as `reaching`."""
    given = cast("Any", path)
    with reaching(path):
        return bytes(given.fs.cat_file(given.path, start=start, end=end))


def read_whole(path: Path) -> bytes:
    """Read a file of this machine or an object; raises OSError for the one, and as `reaching` for the other."""
    return read_bytes(path) if is_remote(path) else path.read_bytes()


def _below(folder: Path, name: str) -> str:
    return name.strip("/").removeprefix(cast("Any", folder).path.strip("/")).strip("/")


# ---- many at once ----------------------------------------------------------------------------------------------------


def read_ahead(reads: Sequence[Callable[[], bytes]], remote: bool) -> Generator[Callable[[], bytes]]:
    """Give what gives the bytes, in order; objects of a store are on their way already, several at a time.

    remote: whether there are such. Files of this machine are read when their turn comes.
    """
    if not remote:
        yield from reads
        return
    pool, rest = ThreadPoolExecutor(AHEAD), iter(reads)
    waiting: deque[Future[bytes]] = deque(pool.submit(read) for read in islice(rest, AHEAD))
    try:
        while waiting:
            yield waiting.popleft().result
            waiting.extend(pool.submit(read) for read in islice(rest, 1))
    finally:
        pool.shutdown(cancel_futures=True)
