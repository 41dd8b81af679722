"""A process of our own that works on what it is sent: a fresh interpreter, asked by one pipe, answering by another.

A user's script is not imported again and needs no guard, nothing is copied from a process that has threads, and a
process whose parent is gone reads the end of its pipe and goes too. It does not know what is worked on.
"""

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_BEGIN = "import sys; sys.path[:] = sys.argv[1:]; from melanoma.child import serve; serve()"


class ProcessEndedError(Exception):
    """The process is gone before it answered. status: its exit status, negative where a signal ended it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Process:
    """A process that waits for items, called like the work that it does."""

    def __init__(self, work: Callable[..., Any]) -> None:
        """Start it. work: of one argument; can be pickled, as can what it is given, answers and raises."""
        command = [sys.executable, "-c", _BEGIN, *sys.path]
        # in a process group of its own: Ctrl-C reaches the parent only, which ends its processes
        self._running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        self._to, self._from = self._running.stdin, self._running.stdout
        self._work = pickle.dumps(work)

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._running.poll() is None

    def wait_until_ready(self) -> None:
        """Send it its work, and wait until it can be asked."""
        with suppress(OSError, EOFError, pickle.UnpicklingError):  # if it has died its first item will say so
            self._to.write(self._work)
            self._to.flush()
            pickle.load(self._from)

    def __call__(self, item: Any) -> Any:
        """Return what the work makes of an item; raises what it raises, ProcessEndedError where it is killed."""
        try:
            pickle.dump(item, self._to)
            self._to.flush()
            answer = pickle.load(self._from)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise ProcessEndedError(self._running.wait()) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._running.kill()

    def close(self) -> None:
        """Wait until it is gone."""
        with suppress(OSError):  # what it never read
            self._to.close()
        self._from.close()
        self._running.wait()


def serve() -> None:
    """Be a worker: read the work, then items, from standard input until it ends; answer on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not be taken for an answer
    with suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):  # the parent is gone
        work = pickle.load(sys.stdin.buffer)
        _answer(answers, None)
        while True:
            item = pickle.load(sys.stdin.buffer)
            try:
                done = work(item)
            except Exception as error:  # raised again by the parent
                error.add_note(traceback.format_exc())
                done = error
            _answer(answers, done)


def _answer(file: Any, answer: Any) -> None:
    pickle.dump(answer, file)
    file.flush()
