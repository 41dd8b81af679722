"""Damaged files by the thousand against each front end: python tests/fuzz.py FRONT [--seconds 1200] [--seed 0].

Only a MelanomaError may come out. Inputs are decoded one after another in a process that its parent watches, so that
a crash or a hang is an answer too. The number of an input and the seed give its bytes again (--number); those of the
first input of each kind of escape are kept beside its traceback.
"""

import argparse
import contextlib
import faulthandler
import itertools
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import TracebackType
from typing import NamedTuple

import mutations
import seeds

from melanoma.data.download import table_from_archive
from melanoma.data.folds import make_folds, read_folds
from melanoma.data.records import read_dataset, read_sizes, read_table
from melanoma.data.sources import find_images, iterate_records, read_example
from melanoma.errors import DataError, MelanomaError
from melanoma.images.contained import MAX_SECONDS, OverLimitError
from melanoma.images.decode import decode
from melanoma.inference.inputs import find_pictures
from melanoma.inference.submission import examine_submission
from melanoma.judge import read_predictions

# What one input may take. A picture of 64 megapixels, the largest that is let in, is decoded within two seconds and a
# gigabyte; a progressive JPEG goes over its pixels again and again.
MOST_SECONDS = 10.0  # of processor time, for each reader of an input
MOST_BYTES = 2 * 2**30  # of growth of the memory in use; an allocation that is refused counts as well
PATIENCE_S = MAX_SECONDS + 30  # by the clock: decoders that are contained have MAX_SECONDS
FENCE_BYTES = 4 * 2**30  # of address space over what the process began with, so that the machine stays usable


def images(content: bytes, folder: Path) -> None:
    """Decode a picture, every other one in part."""
    decode(content, (None, 24)[len(content) % 2], name="fuzzed")


def tfrecord(content: bytes, folder: Path) -> None:
    """Read every record, then find and read an image."""
    path = folder / "train.tfrec"
    path.write_bytes(content)
    try:
        for _, _, record in iterate_records(path):
            read_example(record)
    finally:
        find_images(folder, ["ISIC_1"], "train")["ISIC_1"].read()


def csv(content: bytes, folder: Path) -> None:
    """Read it as each kind of table; it counts as read where one reader takes it."""
    path = folder / "train.csv"
    path.write_bytes(content)
    (folder / "test.csv").write_text("image_name\nISIC_900\n")
    (folder / "some_duplicates.csv").write_bytes(content[: len(content) // 2] if len(content) % 2 else content)
    refusals = []
    for read in READERS:
        try:
            read(path)
        except MelanomaError as error:
            refusals.append(error)
    _pictures(path)
    examine_submission(path, ["ISIC_1", "ISIC_2"])
    if len(refusals) == len(READERS):
        raise refusals[0]


def _dataset(path: Path) -> None:
    try:
        read_dataset(path.parent)
    finally:
        table, _ = read_table(path, labelled=True)
        make_folds(table, table.index.to_numpy(), 2, 0.2, 0)


def _folds(path: Path) -> None:
    table, _ = read_table(path, labelled=False)
    read_folds(path, table, table.index.to_numpy())


def _pictures(path: Path) -> None:
    for item in find_pictures([str(path)]):
        try:
            item.read()
        except DataError:
            continue


READERS = (_dataset, _folds, read_predictions, read_sizes, table_from_archive)


class Front(NamedTuple):
    """A way into the package: sound files, how they are damaged by their format, and what reads them.

    readers: how many read one input, each of which has MOST_SECONDS.
    """

    seeds: Callable[[], list[bytes]]
    by_format: mutations.Mutate
    read: Callable[[bytes, Path], None]
    readers: int = 1


FRONTS = {
    "jpeg": Front(seeds.jpegs, mutations.jpeg, images),
    "pictures": Front(seeds.pictures, mutations.picture, images),
    "dicom": Front(seeds.dicoms, mutations.dicom, images),
    "tfrecord": Front(seeds.tfrecords, mutations.tfrecord, tfrecord),
    "csv": Front(seeds.tables, mutations.table, csv, len(READERS) + 2),  # and the two that csv calls itself
}


@cache
def sound(front: str) -> list[bytes]:
    """Make a front end's seeds once."""
    return FRONTS[front].seeds()


def damaged(front: str, seed: int, number: int) -> bytes:
    """Make an input again by its number."""
    random = Random(f"{front} {seed} {number}")
    return mutations.mutated(random, random.choice(sound(front)), sound(front), FRONTS[front].by_format)


# ---- the process that reads ------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """What one input did: `escape` names what must not be, "" if nothing was.

    ended: a contained decoder was ended, as it should be. seconds: by the clock. memory: bytes over what it was before.
    """

    refused: bool
    ended: bool
    seconds: float
    memory: int
    escape: str = ""
    trace: str = ""


def read_one(front: str, content: bytes, folder: Path) -> Reading:
    """Read an input, and measure what it took."""
    refused, causes, escape, trace = False, set[type](), "", ""
    before, start, busy = _memory_bytes("VmRSS", reset=True), time.perf_counter(), time.process_time()
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            FRONTS[front].read(content, folder)
    except MelanomaError as error:
        refused, causes = True, set(map(type, _causes(error)))
        if MemoryError in causes and OverLimitError not in causes:
            escape, trace = "memory refused", traceback.format_exc()
    except BaseException as error:
        escape, trace = f"{type(error).__name__} at {_where(error.__traceback__)}", traceback.format_exc()
    busy, seconds = time.process_time() - busy, time.perf_counter() - start
    memory = _memory_bytes("VmHWM") - before
    if told:  # what a stranger's file makes libraries say, perhaps in the file's own words
        escape = escape or f"{told[0].category.__name__} at {Path(told[0].filename).name}:{told[0].lineno}"
        trace = trace or str(told[0].message)
    if busy > MOST_SECONDS * FRONTS[front].readers:
        escape = escape or "over time"
    if memory > MOST_BYTES:
        escape = escape or "over memory"
    return Reading(refused, OverLimitError in causes, seconds, memory, escape, trace)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _where(trace: TracebackType | None) -> str:
    frames = [frame for frame in traceback.extract_tb(trace) if "melanoma" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "the fuzzer"


def _memory_bytes(name: str, *, reset: bool = False) -> int:
    """Ask Linux for VmRSS or VmHWM, its highest since the last reset, of this process and its own."""
    total = 0
    for process in ("self", *_CHILDREN.read_text().split()):
        with contextlib.suppress(OSError, StopIteration):  # one that is just ending
            if reset:
                Path(f"/proc/{process}/clear_refs").write_text("5")
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    return total


_CHILDREN = Path("/proc/thread-self/children")


def work(front: str, seed: int, number: int, folder: Path, results: Connection) -> None:
    """Read inputs from `number` on, and tell of each, until somebody ends it."""
    faulthandler.enable(file=os.dup(sys.stderr.fileno()))
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # what C libraries say of damaged files
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + FENCE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    results.send(None)  # ready
    for one in itertools.count(number):
        results.send(read_one(front, damaged(front, seed, one), folder))


# ---- the process that watches ----------------------------------------------------------------------------------------


@dataclass
class Report:
    """What came out: escapes by their kind, each with the numbers of its inputs."""

    inputs: int = 0
    refused: int = 0
    ended: list[int] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[int, int] = (0, -1)
    escapes: dict[str, list[int]] = field(default_factory=dict)

    def add(self, number: int, reading: Reading) -> bool:
        """Count an input; tells whether it escaped in a way that is new."""
        self.inputs += 1
        self.refused += reading.refused
        self.ended += [number] * reading.ended
        self.slowest = max(self.slowest, (reading.seconds, number))
        self.largest = max(self.largest, (reading.memory, number))
        if not reading.escape:
            return False
        self.escapes.setdefault(reading.escape, []).append(number)
        return len(self.escapes[reading.escape]) == 1

    def told(self) -> str:
        """Say it in one line."""
        escapes = sum(map(len, self.escapes.values()))
        return (
            f"{self.inputs:,} inputs, {self.refused:,} refused, {len(self.ended):,} decoders ended, "
            f"{escapes:,} escapes; slowest {self.slowest[0]:.2f} s (number {self.slowest[1]}), "
            f"largest memory {self.largest[0] / 2**20:.0f} MiB (number {self.largest[1]})"
        )


def fuzz(front: str, seed: int, *, seconds: float = 1e9, inputs: int = 10**12, kept: Path | None = None) -> Report:
    """Read damaged files for so long, or so many; a process that dies or hangs is replaced by another.

    kept: the folder for the first input of each kind of escape.
    """
    report, end = Report(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end and report.inputs < inputs:
            for reading in _readings(front, seed, report.inputs, Path(folder)):
                number = report.inputs
                if report.add(number, reading):
                    _keep(kept, f"{front}-{seed}-{number}", damaged(front, seed, number), reading)
                if time.monotonic() >= end or report.inputs >= inputs:
                    break
    return report


def _readings(front: str, seed: int, number: int, folder: Path) -> Iterator[Reading]:
    """Start a process that reads inputs from `number` on; ends after the one that made it die or hang."""
    processes = multiprocessing.get_context("spawn")
    receiver, sender = processes.Pipe(duplex=False)
    child = processes.Process(target=work, args=(front, seed, number, folder, sender), daemon=True)
    child.start()
    sender.close()
    try:
        if not receiver.poll(PATIENCE_S) or receiver.recv() is not None:
            raise TimeoutError("the reading process does not start")
        while receiver.poll(PATIENCE_S):
            yield receiver.recv()
        yield Reading(False, False, PATIENCE_S, 0, f"hangs for {PATIENCE_S:.0f} s")
    except (EOFError, ConnectionResetError):
        child.join()
        yield Reading(False, False, 0, 0, f"the process dies ({child.exitcode})")
    finally:
        child.kill()
        child.join()
        receiver.close()


def _keep(folder: Path | None, name: str, content: bytes, reading: Reading) -> None:
    print(f"{name}: {reading.escape}", file=sys.stderr, flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        (folder / f"{name}.txt").write_text(f"{reading.escape}\n{reading.trace}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz one front end, or read one input again; 1 where anything escaped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("front", choices=FRONTS)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, help="read only this input, here")
    parser.add_argument("--kept", type=Path, default=Path("build/fuzz"), help="folder for what escaped")
    given = parser.parse_args(arguments)
    if given.number is not None:
        with tempfile.TemporaryDirectory() as folder:
            reading = read_one(given.front, damaged(given.front, given.seed, given.number), Path(folder))
        print(reading.trace, reading._replace(trace=""), sep="\n")
        return int(bool(reading.escape))
    report = fuzz(given.front, given.seed, seconds=given.seconds, kept=given.kept)
    print(f"{given.front}, seed {given.seed}: {report.told()}")
    if report.ended:
        print(f"  decoders ended at numbers {report.ended}")
    for escape, numbers in report.escapes.items():
        print(f"  {escape}: {len(numbers):,} times, first number {numbers[0]}")
    return int(bool(report.escapes))


if __name__ == "__main__":
    sys.exit(main())
