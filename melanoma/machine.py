"""The machine that the package runs on: its cores, what its processor can do, how memory is kept and given back.

It imports no framework, so that every room may ask it.
"""

import contextlib
import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_most_cores: int | None = None


def limit_cores(most: int) -> None:
    """Let `cores` count at most so many from now on: for a process that shares the machine with others of its kind."""
    global _most_cores  # noqa: PLW0603  a fact of the process
    _most_cores = most


def cores() -> int:
    """Count the cores that this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(found, _most_cores or found)


def cores_are_limited() -> bool:
    """Tell whether libraries that count the cores themselves must be told of fewer."""
    return _most_cores is not None


def processor_flags() -> list[str]:
    """Name what the processor can do, in Linux' words such as `amx_bf16`; empty where the system does not tell."""
    return _of_processor("flags").split()


def multiplies_bfloat16_faster() -> bool:
    """Tell whether the processor multiplies bfloat16 much faster than float32.

    With AMX it does. AVX-512's bfloat16 takes half the time of float32 on AMD's cores and twice the time on Intel's.
    A clock would tell as much, but not always the same: two runs of one seed would differ.
    """
    flags = processor_flags()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and _of_processor("vendor_id") == "AuthenticAMD")


def _of_processor(name: str) -> str:
    """Read a line of what Linux tells of the first processor; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")


def memory_left() -> int | None:
    """Return how many bytes the system or the container that this runs in can still give; None where none tells."""
    available = _number_behind("MemAvailable:", Path("/proc/meminfo"))
    found = [] if available is None else [available * 1024]
    groups = Path("/sys/fs/cgroup")
    for most, used in (
        (groups / "memory.max", groups / "memory.current"),
        (groups / "memory" / "memory.limit_in_bytes", groups / "memory" / "memory.usage_in_bytes"),
    ):
        limit, taken = _number_behind("", most), _number_behind("", used)
        if limit is not None and taken is not None:
            # what is held of files is given back where memory is wanted
            copies = _number_behind("inactive_file", most.with_name("memory.stat")) or 0
            found.append(max(limit - taken + copies, 0))
    return min(found, default=None)


def _number_behind(word: str, path: Path) -> int | None:
    """Read the number that stands behind a word in a system's file; None where there is none, as for "max"."""
    try:
        words = ["", *path.read_text().split()]
        return int(words[words.index(word) + 1])
    except (OSError, ValueError, IndexError):
        return None


class Budget:
    """An amount that threads share: who wants more than is left waits until others give theirs back."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taking(self, amount: int) -> Iterator[None]:
        """Hold some of it, at most all."""
        amount = min(amount, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()


def installed_version(package: str) -> str:
    """Return the version of an installed package, or say that it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def keep_memory() -> None:
    """Have the C library keep what it is given back, on Linux with glibc.

    It would return every map of a few megabytes to the system at once, and each step would wait for its pages again.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  another C library numbers its options otherwise
        m_trim_threshold, m_mmap_max = -1, -4
        library.mallopt(m_mmap_max, 0)
        library.mallopt(m_trim_threshold, -1)  # never


def release(array: NDArray[Any]) -> None:
    """Give the memory back that pages of a memory-mapped array have taken; other arrays are left alone.

    The system would take it when it is short of memory. Until then a process that has read all of a large cache looks
    as large as the cache, and is the first to be killed where memory is limited. What is read again comes from the
    system's own copy.
    """
    mapped = getattr(array, "_mmap", None) if isinstance(array, np.memmap) else None
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
