"""Work on every core: this process does its share beside others, and the answers come in order.

It does not know what is worked on.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Protocol, TypeVar

from melanoma.child import Process, ProcessEndedError
from melanoma.errors import MelanomaError, listed
from melanoma.machine import cores

CHUNK_SECONDS = 0.1  # long beside the way to a worker and back, short beside the wait for the last one
MOST = 256  # items in a chunk
WAITING = 4  # chunks a core that are under way or wait for their turn: bounds the memory
FEW = 16  # items for which no further process is started
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class InOrder(Protocol):
    """What works on items somewhere, and gives the answers in their order: `in_order` does on this machine's cores."""

    def __call__(
        self, work: Callable[[list[Item]], list[Answer]], items: Sequence[Item], name: Callable[[Item], str] = str
    ) -> Generator[Answer]:
        """Work on chunks of items."""
        ...


def in_order(
    work: Callable[[list[Item]], list[Answer]], items: Sequence[Item], name: Callable[[Item], str] = str
) -> Generator[Answer]:
    """Work on chunks of items on every core, and give the answers in the order of the items.

    work: can be pickled, and so can items and answers; importing its module should be quick. name: what an item is
    called where a worker dies of it. Closing the generator early drops what waits and ends the workers.
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
        except ProcessEndedError as error:
            raise MelanomaError(
                f"a process that helped to prepare images ended early (exit status {error.status}; -9 is mostly a lack "
                f"of memory) with {listed([name(item) for item in chunk])}: run it again, and it goes on after the "
                "images that are done"
            ) from error
        finally:
            free.put(worker)

    def welcome(worker: Process) -> None:
        worker.wait_until_ready()
        free.put(worker)

    workers: list[Process] = []
    waiting: deque[Future[tuple[list[Answer], float]]] = deque()
    pool = ThreadPoolExecutor(1 + 2 * processes)  # a thread sleeps while its worker works or starts
    at, size = 0, 1
    try:
        for _ in range(processes):
            workers.append(Process(work))
            pool.submit(welcome, workers[-1])
        while waiting or at < len(items):
            while at < len(items) and len(waiting) < WAITING * (1 + processes):
                waiting.append(pool.submit(do, list(items[at : at + size])))
                at += size
            answers, seconds = waiting.popleft().result()
            size = next_size(len(answers), seconds, CHUNK_SECONDS)
            yield from answers
    finally:
        left.set()
        for worker in workers:
            worker.kill()
        pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


def next_size(done: int, seconds: float, wanted_seconds: float) -> int:
    """Tell how many items the next chunk may have, after one of `done` items that took so many seconds."""
    return max(1, min(MOST, 2 * done, int(wanted_seconds / max(seconds, 1e-6) * done)))
