"""Decoders whose time and memory no header tells beforehand: they work in a process of their own, which can be ended.

It costs the way there and back, a few milliseconds a picture, and once 0.5 s to start.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Timer
from typing import Any, TypeVar

from melanoma.child import Process, ProcessEndedError
from melanoma.machine import cores

MAX_SECONDS = 60.0  # a whole JPEG 2000 of 64 megapixels, 87 MB, takes 20 on one core
MAX_BYTES = 4 * 2**30  # of memory, on Linux: that file takes 2.6 GiB
Answer = TypeVar("Answer")
_idle: SimpleQueue[Process] = SimpleQueue()


class OverLimitError(Exception):
    """The work was ended: it took too long or too much memory, or a decoder crashed."""


def contained(work: Callable[..., Answer], *given: Any) -> Answer:
    """Return what `work` makes of what is given, in a process that has MAX_SECONDS and MAX_BYTES.

    work: a function of a module, whose arguments, answers and errors can be pickled. Several threads may ask at once:
    each has a process, and as many as there are cores are kept. Inside a program that has no interpreter of its own
    to start, the work is done here, without limits.
    Raises what the work raises, and OverLimitError where it had to be ended.
    """
    if not sys.executable:
        return work(*given)
    process = _ready()
    watch = Timer(MAX_SECONDS, process.kill)
    watch.daemon = True
    watch.start()
    try:
        answer: Answer = process((work, given))
    except (ProcessEndedError, MemoryError) as error:
        raise OverLimitError from error
    finally:
        watch.cancel()
        _keep(process)
    return answer


def _ready() -> Process:
    """Take a process that waits, or start one."""
    with contextlib.suppress(Empty):
        while True:
            process = _idle.get_nowait()
            if process.alive:
                return process
            process.close()
    process = Process(_limited)
    process.wait_until_ready()
    return process


def _keep(process: Process) -> None:
    if process.alive and _idle.qsize() < cores():
        _idle.put(process)
    else:
        process.close()


def _limited(asked: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
    """Work in the process: with what memory it has at the start, and no more than MAX_BYTES besides."""
    _limit_memory()
    work, given = asked
    return work(*given)


def _limit_memory() -> None:
    # only Linux tells how much address space there is already, and keeps such a limit
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * os.sysconf("SC_PAGE_SIZE") + MAX_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


@atexit.register
def _close_idle() -> None:
    with contextlib.suppress(Empty):
        while True:
            _idle.get_nowait().close()
