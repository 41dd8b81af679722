"""What a person sees while a network trains, and how they ask it to stop: no numbers are made here."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print a line on stderr, above a bar where one is shown, as it is: no markup, no line breaks of our own."""
    console.print(text, markup=False, soft_wrap=True)


def note(remark: str) -> None:
    """Say something that the user should know."""
    say(f"note: {remark}")


class Interrupted(KeyboardInterrupt):
    """The user asked for a stop, and everything that a resume needs has been saved."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a question that the training loop asks between steps; a second one stops at once.

    Outside the main thread nothing is changed, since Python delivers signals only there.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def counting(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with a rate while something is counted; gives the function to call with (done, total).

    The rate is counted from the first call on, so that what an earlier attempt did makes nothing look quick.
    """
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    begun = time.monotonic()
    first: tuple[int, float] | None = None
    last = (0, 0)

    def pace() -> float:
        # what was done before is not counted, but where all came at its end the whole time is
        now = time.monotonic()
        counted = first and last[0] > first[0] and now - first[1] > (now - begun) / 2
        done, start = first if first and counted else (0, begun)
        return (last[0] - done) / max(now - start, 1e-9)

    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None, rate="")

        def show(done: int, total: int) -> None:
            nonlocal first, last
            first, last = first or (done, time.monotonic()), (done, total)
            rate = pace()
            left = timedelta(seconds=round((total - done) / rate)) if rate else "?"
            bar.update(task, completed=done, total=total, rate=f"{rate:,.0f} {unit}/s, {left} left")

        yield show
    if last[1]:
        say(f"{what}: {last[0]:,} {unit} in {time.monotonic() - begun:,.1f} s ({pace():,.0f}/s)")


class TrainingProgress:
    """A bar for the steps of an epoch with the time left for all of them, and a line for each finished epoch."""

    def __init__(self, what: str, epochs: int, steps: int, done: int) -> None:
        """Start the clock: `done` steps of `epochs` times `steps` were made in an earlier attempt."""
        self.what, self.epochs, self.steps = what, epochs, steps
        self.start, self.first, self.done = time.monotonic(), done, done
        note = TextColumn("{task.fields[note]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), note)
        self.bar = Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())
        self.task = self.bar.add_task(what, total=steps, note="")

    def __enter__(self) -> "TrainingProgress":
        """Show the bar."""
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self.bar.stop()

    @property
    def left(self) -> timedelta:
        """The time that the remaining steps take at the pace so far, were all epochs to run."""
        pace = (time.monotonic() - self.start) / max(self.done - self.first, 1)
        return timedelta(seconds=round(pace * (self.epochs * self.steps - self.done)))

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Count one step, numbered from 0."""
        self.done = epoch * self.steps + step + 1
        note = f"loss {loss:.4f}, {self.left} left"
        self.bar.update(
            self.task, description=f"{self.what} epoch {epoch + 1}/{self.epochs}", completed=step + 1, note=note
        )

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        """Print an epoch's row of the history."""
        mark = " (best)" if best else ""
        auc = "n/a" if row["val_auc"] is None else f"{row['val_auc']:.4f}"
        say(
            f"{self.what} epoch {int(row['epoch'])}/{self.epochs}: loss {row['loss']:.4f}, "
            f"validation loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}, AUC {auc}{mark}; "
            f"{_pace(row)}{self.left} left"
        )


def _pace(row: dict[str, Any]) -> str:
    """Tell how quickly an epoch's steps went; nothing where an earlier attempt had made them all."""
    rate, waiting = row["images_per_second"], row["waiting_share"]
    if rate is None:
        return ""
    return f"{rate:{'.0f' if rate >= 10 else '.1f'}} images/s, {waiting:.1%} of the time waiting for data, "
