"""Stacks timed in turns in one run: A B C A B C ..., each in a process of its own; medians, spread, ratios last.

A benchmark gives a dictionary of stacks: a name and a function that sets everything up and returns the work to time,
which returns how many items it did. The same script is run once for every stack, as a worker that waits for its turn,
so that libraries which cannot share a process (or would share their threads) can be compared.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

Work = Callable[[], int | tuple[int, float]]  # items, and seconds where the work keeps its own time
Stack = Callable[[argparse.Namespace], Work]
READY, SKIPPED = "ready", "skipped"


class NotHere(Exception):  # noqa: N818  nothing went wrong
    """A stack cannot run on this machine; its text says why."""


def main(
    stacks: dict[str, Stack],
    *,
    unit: str,
    ours: Sequence[str],
    description: str,
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """Time the stacks in turns and print a line for each, then how much faster `ours` are than every other one.

    unit: what the work's return value counts. arguments: adds the benchmark's own options.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--stack", choices=list(stacks), help=argparse.SUPPRESS)
    parser.add_argument("--stacks", nargs="+", choices=list(stacks), default=list(stacks), help="which to compare")
    parser.add_argument("--pairs", type=int, default=5, help="turns that each stack gets")
    arguments(parser)
    options = parser.parse_args()
    if options.stack:
        _work(stacks[options.stack], options)
    else:
        _compare(options, unit, ours)


def machine() -> str:
    """Name the processor, its cores, and what multiplies matrices in it."""
    model, flags = platform.processor(), ""
    if Path("/proc/cpuinfo").exists():
        facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        facts = {name.strip(): value.strip() for name, value in facts.items()}
        model = facts.get("model name", model)
        known = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
        flags = " ".join(flag for flag in known if flag in facts.get("flags", "").split())
    return f"{model}, {os.cpu_count()} cores, {flags}, Python {platform.python_version()}"


def _work(stack: Stack, options: argparse.Namespace) -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not be taken for an answer
    try:
        started = time.perf_counter()
        work = stack(options)
        work()  # warm
        first = time.perf_counter() - started
        work()
    except (NotHere, ImportError) as error:
        print(f"{SKIPPED} {error}", file=answers)
        return
    print(f"{READY} {first}", file=answers)
    for _ in sys.stdin:
        started = time.perf_counter()
        done = work()
        items, seconds = done if isinstance(done, tuple) else (done, time.perf_counter() - started)
        print(items / seconds, file=answers)


def _compare(options: argparse.Namespace, unit: str, ours: Sequence[str]) -> None:
    print(f"machine: {machine()}")
    workers: dict[str, subprocess.Popen[str]] = {}
    for name in options.stacks:  # one after the other: a warm-up disturbs nobody's turn
        worker = subprocess.Popen(
            [sys.executable, *sys.argv, "--stack", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        status, _, rest = _answer(worker).partition(" ")
        if status == READY:
            workers[name] = worker
            print(f"{name}: ready after {float(rest):.1f} s, the first step included", flush=True)
        else:
            print(f"{name}: not run ({rest or 'its process ended'})", flush=True)
    rates: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(options.pairs):
        for name, worker in list(workers.items()):
            try:
                _stdin(worker).write("go\n")
                _stdin(worker).flush()
                rates[name].append(float(_answer(worker)))
            except (OSError, ValueError):
                print(f"{name}: left out, its process ended ({worker.wait()})", flush=True)
                del workers[name], rates[name]
    for worker in workers.values():
        _stdin(worker).close()
        worker.wait()
    for name, seen in rates.items():
        print(f"{name:<44} {statistics.median(seen):9.2f} {unit}/s  ({min(seen):.2f} to {max(seen):.2f})")
    for mine in [name for name in ours if name in rates]:
        for name, others in rates.items():
            if name not in ours:
                pairs = [a / b for a, b in zip(rates[mine], others, strict=True)]
                spread = f"{min(pairs):.2f} to {max(pairs):.2f}"
                print(f"ratio: {mine} / {name} = {statistics.median(pairs):.2f}x  ({spread})")


def _answer(worker: "subprocess.Popen[str]") -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def _stdin(worker: "subprocess.Popen[str]") -> IO[str]:
    assert worker.stdin is not None
    return worker.stdin
