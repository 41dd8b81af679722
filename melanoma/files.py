"""Writing files so that a reader sees the old one or the new one, never a piece: the only module that replaces a file.

It knows nothing of what is in them.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from melanoma.errors import DataError, MelanomaError

ASIDE = ".aside-"  # how everything begins that is not whole yet


@contextmanager
def replacing(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it and rename it into place, else remove it.

    keep: what stood at `path` goes to `previous(path)`; between the two renames nothing stands at `path`.
    Raises MelanomaError where the folder cannot be written to or the disk is full.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the suffixes stay, since some writers choose their format by them
        handle, name = tempfile.mkstemp(prefix=f"{ASIDE}{path.name}.", suffix="".join(path.suffixes), dir=path.parent)
        os.close(handle)
        aside = Path(name)
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.chmod(0o644)
        if keep and path.exists():
            path.replace(previous(path))
        aside.replace(path)
        _keep_names(path.parent)
    except OSError as error:
        raise MelanomaError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def previous(path: Path) -> Path:
    """Return where the file before the one at `path` is kept."""
    return path.with_name(f"previous-{path.name}")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success rename it into place, else remove it."""
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{path.name}.", dir=path.parent))
        yield aside
        aside.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{path.name}.old.", dir=path.parent))
            path.replace(old)
            aside.replace(path)
            shutil.rmtree(old)
        else:
            aside.replace(path)
    except OSError as error:
        raise MelanomaError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def resuming_folder(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside `path`, with what an interrupted attempt left in it; on success rename it into place.

    It stays where the attempt is interrupted, in any way; where a DataError ends it, another attempt would end the
    same way, and it is removed. What stands in it half written is the caller's care.
    Raises MelanomaError where the folder cannot be written to or the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except DataError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except OSError as error:
        raise MelanomaError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.rmdir()  # nothing was done yet


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half written in a folder and below: only for who holds its lock."""
    for path in [*folder.rglob(f"{ASIDE}*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _keep_names(folder: Path) -> None:
    """Have the system write a folder's names to the disk: a renamed file outlives a power cut only then."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` whole or not at all."""
    with replacing(path) as aside:
        aside.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text with Unix line ends, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON that any reader takes: NaN and infinity are refused, keys keep their order."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, *, wait: bool, what: str) -> Iterator[None]:
    """Hold the lock file `path` for one process at a time: wait for it, or refuse with who holds it.

    Raises MelanomaError where `wait` is false and another process holds the lock.
    """
    from filelock import FileLock, Timeout  # not for who only answers: it takes a fiftieth of a second

    lock = FileLock(path)
    holder = path.with_suffix(".holder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = holder.read_text() if holder.exists() else "another process"
            if not wait:
                raise MelanomaError(f"{what} is in use by {who}") from None
            print(f"note: waiting for {what}, in use by {who}", file=sys.stderr)
            lock.acquire()
        holder.write_text(f"process {os.getpid()}")
    except OSError as error:
        lock.release()
        raise MelanomaError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
