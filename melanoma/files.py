"""Writing files so that a reader sees the old one or the new one, never a piece: the only module that replaces a file.

It knows nothing of what is in them.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from melanoma.errors import DataError, MelanomaError, WriteError
from melanoma.places import is_remote, reaching, reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

ASIDE = ".aside-"  # how everything begins that is not whole yet
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def replacing(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it and rename it into place, else remove it.

    Where `path` is an address the temporary path is of this machine, and one put brings it there, whole.
    keep: what stood at `path` goes to `previous(path)`; between the two renames nothing stands at `path`.
    Raises WriteError where the folder cannot be written to or the disk is full.
    """
    if is_remote(path):
        with _putting(path) as here:
            yield here
        return
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
        raise unwritable(path, error) from error
    finally:
        if aside is not None:
            with suppress(OSError):  # where it is not there any more, or nothing can be written now
                aside.unlink()


@contextmanager
def _putting(path: Path) -> Iterator[Path]:
    try_out = path.with_name(f"{ASIDE}{path.name}")
    with _storing(path):  # before the work: may anything be written there?
        try_out.write_bytes(b"melanoma")
    with suppress(Exception):  # whoever may write need not be one who may remove
        try_out.unlink()
    with tempfile.TemporaryDirectory(prefix=ASIDE) as folder:
        aside = Path(folder, path.name)
        yield aside
        with _storing(path):
            remote: Any = path
            remote.fs.put_file(str(aside), remote.path)


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each store's client raises a family of its own
        cause = error if isinstance(error, OSError) else OSError(reason(error))
        raise WriteError(
            f"{path} cannot be written ({reason(error)}): check the address, the credentials, the endpoint", cause
        ) from error


def previous(path: Path) -> Path:
    """Return where the file before the one at `path` is kept."""
    return path.with_name(f"previous-{path.name}")


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, for what is on the way there; it is removed at the end.

    Raises WriteError where it cannot be written to or the disk is full.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{path.name}.", dir=path.parent))
        yield aside
    except OSError as error:
        raise unwritable(path, error) from error
    except WriteError as error:  # of a file within, which nobody knows
        raise unwritable(path, error.cause) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success rename it into place, else remove it.

    Raises WriteError where it cannot be written to or the disk is full.
    """
    with folder_aside(path) as aside:
        yield aside
        aside.chmod(0o755)
        old = aside.with_name(f"{aside.name}.old")
        if path.exists():
            path.replace(old)
        try:
            aside.replace(path)
        except OSError:
            if old.exists():
                old.replace(path)
            raise
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def resuming_folder(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside `path`, with what an interrupted attempt left in it; on success rename it into place.

    It stays where the attempt is interrupted, in any way; where a DataError ends it, another attempt would end the
    same way, and it is removed. What stands in it half written is the caller's care.
    Raises WriteError where the folder cannot be written to or the disk is full.
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
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial.rmdir()  # nothing was done yet


def unwritable(path: Path | str, error: OSError) -> WriteError:
    """Say which file cannot be written, why, and what to do."""
    remedy = ""
    if error.errno in FULL:
        remedy = "; make room there and try again: what was whole before still is"
    if error.errno in FORBIDDEN:
        remedy = "; give another place, or make it writable"
    return WriteError(f"{path} cannot be written: {error.strerror or error}{remedy}", error)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what a killed process left half written in a folder, or of one name in it: for who holds its lock."""
    for aside in folder.glob(f"{ASIDE}{name}.*"):
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def _keep_names(folder: Path) -> None:
    """Have the system write a folder's names to the disk: a renamed file outlives a power cut only then."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes | memoryview, *, keep: bool = False) -> None:
    """Write `content` whole or not at all; keep: as for `replacing`."""
    if is_remote(path):
        with _storing(path):
            path.write_bytes(content)
        return
    with replacing(path, keep=keep) as aside:
        aside.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text with Unix line ends, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON that any reader takes: NaN and infinity are refused, keys keep their order."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of ours; raises MelanomaError where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MelanomaError(f"{path} cannot be read: {error}") from error


def read_arrays(file: IO[bytes], size: int) -> "dict[str, NDArray[Any]]":
    """Read what `numpy.savez` wrote: arrays by name. size: of the file, bytes, which the arrays cannot pass.

    Raises OSError, ValueError, EOFError, RuntimeError or zipfile.BadZipFile where it is damaged, would grow in memory
    as no array of ours does, or holds pickled objects.
    """
    import numpy as np

    loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        raise ValueError("it is a lone array")  # noqa: TRY004  the file is at fault
    with loaded as archive:
        members = archive.zip.infolist()
        if any(one.compress_type for one in members) or sum(one.file_size for one in members) > size:
            raise ValueError("it holds more than its size")
        try:
            return {name: archive[name] for name in archive.files}
        except MemoryError as error:  # an array that says it is large
            raise ValueError(str(error)) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; at an address, raises as `reaching`."""
    with reaching(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, *, wait: bool, what: str) -> Iterator[None]:
    """Hold the lock file `path` for one process at a time: wait for it, or refuse with who holds it.

    Raises MelanomaError where `wait` is false and another process holds the lock, WriteError where none can be made.
    """
    from filelock import FileLock, Timeout  # not for who only answers: it takes a fiftieth of a second

    lock = FileLock(path)
    holder = path.with_suffix(".holder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = "another process"
            with suppress(OSError):  # it may be gone by now
                who = holder.read_text() or who
            if not wait:
                raise MelanomaError(f"{what} is in use by {who}") from None
            print(f"note: waiting for {what}, in use by {who}", file=sys.stderr)
            lock.acquire()
        holder.write_text(f"process {os.getpid()}")
    except OSError as error:
        with suppress(OSError):
            holder.unlink()
        lock.release()
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()
