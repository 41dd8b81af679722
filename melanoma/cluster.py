"""The same work on Ray: on this machine's cores, or on those of a cluster that nodes join and leave while it works.

Tasks without state go to workers that keep their model; Ray gives those of a lost worker or node to another. What is
under way at a time is bounded, and so is the memory. It does not know what is worked on.
"""

import os
import platform
import secrets
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Generic

import cv2

from melanoma.data.workers import Answer, InOrder, Item, next_size
from melanoma.errors import MelanomaError, MissingExtraError, UsageError, listed, printable
from melanoma.inference.bundle import code_hash
from melanoma.machine import cores, limit_cores

CHUNK_SECONDS = 0.5  # the way there and back takes some 5 ms
WAITING = 3  # tasks a core that are under way, wait for their turn or for an earlier one: bounds the memory
RETRIES = 3  # of a task whose worker or node is lost: whoever loses that many is to blame itself
KNOCK_SECONDS = 10.0
# read when Ray is imported: nobody is told that it is used, and what it prints of lost nodes, on standard output, is
# not taken for an answer; what runs out of memory is not tried for ever, on no cluster
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_task_oom_retries": str(RETRIES)}
PATIENCE_SECONDS = 60.0  # without a single core: an autoscaler may be bringing one


@contextmanager
def spreading(on: str | None, address: str | None) -> Iterator[InOrder | None]:
    """Give what spreads work over Ray's workers; None where it is not asked for.

    address: of a cluster: "auto", "host:port" or "ray://host:port"; without one Ray is started on this machine, and
    stopped at the end. Raises UsageError for an address without Ray, MissingExtraError where Ray is not installed,
    MelanomaError where there is no cluster.
    """
    if on is None:
        if address is not None:
            raise UsageError("--address says where Ray is: give --on ray, too")
        yield None
        return
    os.environ.update(QUIET)
    if address is None:  # its ports are open to the network: only who knows the token may use them
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    own = {"num_cpus": cores(), "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None:
            _knock(address)
        ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else own))
    except Exception as error:  # of many kinds
        where = f"no Ray cluster answers at {printable(address)}" if address else "Ray cannot be started here"
        raise MelanomaError(f"{where}: {_first_line(error)}") from error
    try:
        with suppress(ValueError):  # outside the main thread Ray leaves it alone, too
            signal.signal(signal.SIGTERM, before)  # its own would end the process without a word
        yield in_order
    finally:
        ray.shutdown()


def in_order(
    work: Callable[[list[Item]], list[Answer]], items: Sequence[Item], name: Callable[[Item], str] = str
) -> Generator[Answer]:
    """Work on chunks of items on every core of the cluster, and give the answers in the order of the items.

    As `workers.in_order`, of which it is the counterpart; paths among the items are absolute, as another machine may
    have no such folder as this process works in. A chunk whose worker or node is lost goes to another one.
    Raises what the work raises, MelanomaError where a chunk loses its worker again and again, or no core is left.
    """
    import ray

    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_do)
    shared = ray.put((work, code_hash()))
    waiting: deque[tuple[Any, Sequence[Item]]] = deque()
    at, size = 0, 1
    try:
        while waiting or at < len(items):
            most = WAITING * max(1, _cores_there())
            while at < len(items) and len(waiting) < most:
                chunk = items[at : at + size]
                waiting.append((remote.remote(shared, list(chunk)), chunk))
                at += len(chunk)
            reference, chunk = waiting.popleft()
            answers, seconds = _result(reference, chunk, name)
            size = next_size(len(chunk), seconds, CHUNK_SECONDS)
            yield from answers
    finally:
        for reference, _ in waiting if ray.is_initialized() else ():  # to cancel anything would start Ray again
            with suppress(Exception):  # the cluster may be gone
                ray.cancel(reference)


def _result(reference: Any, chunk: Sequence[Item], name: Callable[[Item], str]) -> tuple[list[Any], float]:
    import ray

    seen = time.monotonic()
    try:
        while not ray.wait([reference], timeout=1)[0]:
            if _cores_there():
                seen = time.monotonic()
            elif time.monotonic() > seen + PATIENCE_SECONDS:
                raise MelanomaError("Ray has no core left to work on: the same command again goes on when it has")
        answers, seconds = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError) as error:
        raise MelanomaError(
            f"{RETRIES + 1} workers one after the other died or ran out of memory with "
            f"{listed([name(item) for item in chunk])}: leave the bad one out, or give workers more memory"
        ) from error
    except ray.exceptions.RayTaskError as error:
        raise MelanomaError(f"a worker of Ray could not begin: {_first_line(error.cause)}") from error
    except ray.exceptions.RayError as error:
        raise MelanomaError(f"Ray failed: {_first_line(error)}") from error
    if isinstance(answers, Exception):
        raise answers
    return answers, seconds


def _knock(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def _cores_there() -> int:
    import ray

    return int(ray.cluster_resources().get("CPU", 0))


def _first_line(error: object) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return printable(lines[0] if lines else type(error).__name__)


class Sent(Generic[Item]):
    """Something large that travels once: work that is given it can be pickled, and fetches it where it is needed."""

    def __init__(self, value: Item) -> None:
        """Leave it with Ray."""
        import ray

        self._within = [ray.put(value)]  # in a list: Ray would fetch it for every task otherwise

    def fetch(self) -> Item:
        """Return it, in whichever process."""
        import ray

        value: Item = ray.get(self._within[0])
        return value


# ---- in a worker -----------------------------------------------------------------------------------------------------


def _do(shared: tuple[Any, str], chunk: list[Any]) -> tuple[list[Any] | Exception, float]:
    """Work on a chunk on one core; what the work raises is given back, to be raised where it is waited for."""
    work, code = shared
    started = time.perf_counter()
    try:
        _settle(code)
        return work(chunk), time.perf_counter() - started
    except Exception as error:  # raised again by the driver
        error.add_note(traceback.format_exc())
        return error, 0.0


@cache
def _settle(code: str) -> None:
    """Make this process a worker: of the same package, with a core of its own."""
    if code_hash() != code:
        raise MelanomaError(f"{platform.node()} has another version of this package: install the same on every node")
    limit_cores(1)
    cv2.setNumThreads(1)
