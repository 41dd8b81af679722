"""Work on every core: this process does its share beside worker processes, and the answers come in order.

A worker is a fresh interpreter that reads chunks of items from a pipe and writes answers into another. So a user's
script is not imported again and needs no guard, nothing is copied from a process that has threads, and a worker whose
parent is gone reads the end of its pipe and goes too. It does not know what is worked on.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeVar

from melanoma.errors import MelanomaError
from melanoma.machine import cores

CHUNK_SECONDS = 0.1  # long beside the way to a worker and back, short beside the wait for the last one
MOST = 256  # items in a chunk
WAITING = 4  # chunks a core that are under way or wait for their turn: bounds the memory
FEW = 16  # items for which no further process is started
Item = TypeVar("Item")
Answer = TypeVar("Answer")
_BEGIN = "import sys; sys.path[:] = sys.argv[1:]; from melanoma.data.workers import serve; serve()"


def in_order(work: Callable[[list[Item]], list[Answer]], items: Sequence[Item]) -> Generator[Answer]:
    """Work on chunks of items on every core, and give the answers in the order of the items.

    work: can be pickled, and so can items and answers; importing its module should be quick. Closing the generator
    early drops what waits and ends the workers.
    Raises what the work raises, and MelanomaError where a worker is killed.
    """
    processes = min(cores(), 1 + len(items) // FEW) - 1 if sys.executable else 0  # empty inside another program
    free: SimpleQueue[Callable[[list[Item]], list[Answer]]] = SimpleQueue()
    free.put(work)  # here, while the workers start, and beside them
    left = Event()

    def do(chunk: list[Item]) -> tuple[list[Answer], float]:
        worker = free.get()
        try:
            if left.is_set():
                raise CancelledError
            started = time.perf_counter()
            return worker(chunk), time.perf_counter() - started
        finally:
            free.put(worker)

    def welcome(worker: _Worker) -> None:
        worker.wait_until_ready()
        free.put(worker)

    workers: list[_Worker] = []
    waiting: deque[Future[tuple[list[Answer], float]]] = deque()
    pool = ThreadPoolExecutor(1 + 2 * processes)  # a thread sleeps while its worker works or starts
    at, size = 0, 1
    try:
        for _ in range(processes):
            workers.append(_Worker(work))
            pool.submit(welcome, workers[-1])
        while waiting or at < len(items):
            while at < len(items) and len(waiting) < WAITING * (1 + processes):
                waiting.append(pool.submit(do, list(items[at : at + size])))
                at += size
            answers, seconds = waiting.popleft().result()
            size = max(1, min(MOST, 2 * len(answers), int(CHUNK_SECONDS / max(seconds, 1e-6) * len(answers))))
            yield from answers
    finally:
        left.set()
        for worker in workers:
            worker.process.kill()
        pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


class _Worker:
    """A process that waits for chunks, called like the work that it does."""

    def __init__(self, work: Callable[..., Any]) -> None:
        command = [sys.executable, "-c", _BEGIN, *sys.path]
        # in a process group of its own: Ctrl-C reaches the parent only, which ends its workers
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to, self._from = self.process.stdin, self.process.stdout
        self._work = pickle.dumps(work)

    def wait_until_ready(self) -> None:
        with suppress(OSError, EOFError):  # if it has died its first chunk will say so
            self._to.write(self._work)
            self._to.flush()
            pickle.load(self._from)

    def __call__(self, chunk: list[Any]) -> Any:
        try:
            pickle.dump(chunk, self._to)
            self._to.flush()
            answers = pickle.load(self._from)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise MelanomaError(
                f"a process that helped to prepare images ended early (exit status {self.process.wait()}; -9 is "
                "mostly a lack of memory): run it again, and it goes on after the images that are done"
            ) from error
        if isinstance(answers, Exception):
            raise answers
        return answers

    def close(self) -> None:
        with suppress(OSError):  # what it never read
            self._to.close()
        self._from.close()
        self.process.wait()


def serve() -> None:
    """Be a worker: read the work, then chunks, from standard input until it ends; answer on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not be taken for an answer
    with suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):  # the parent is gone
        work = pickle.load(sys.stdin.buffer)
        _answer(answers, None)
        while True:
            chunk = pickle.load(sys.stdin.buffer)
            try:
                done = work(chunk)
            except Exception as error:  # raised again by the parent
                error.add_note(traceback.format_exc())
                done = error
            _answer(answers, done)


def _answer(file: Any, answer: Any) -> None:
    pickle.dump(answer, file)
    file.flush()
