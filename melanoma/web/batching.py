"""Pictures of many requests, gathered into batches: a bounded queue, and as many threads as are well used take from it.

Whoever comes while nothing waits is answered at once; where pictures wait, they go through the networks together. It
knows nothing of HTTP.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from melanoma.inference.predict import Predictor
from melanoma.inference.words import Answer, Details


class OverloadedError(Exception):
    """The queue is full, or is being emptied for good."""


@dataclass(frozen=True)
class Job:
    """A picture that waits: its name, its file's bytes, what is known of the patient, whether a map is wanted."""

    name: str
    content: bytes
    details: Details
    maps: bool
    answer: "Future[Answer]" = field(default_factory=Future)


class Batcher:
    """Threads that answer for queued pictures, a few at a time."""

    def __init__(self, predictor: Predictor, most_waiting: int) -> None:
        """Start the threads. most_waiting: pictures that may wait, those under way not counted."""
        self.predictor, self.most_waiting = predictor, most_waiting
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self.closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(predictor.threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many pictures wait."""
        return len(self._jobs)

    def submit(
        self, pictures: Sequence[tuple[str, bytes]], details: Details, *, maps: bool = False
    ) -> list["Future[Answer]"]:
        """Queue pictures, all or none; raises OverloadedError where they do not fit."""
        jobs = [Job(name, content, details, maps) for name, content in pictures]
        with self._changed:
            if len(self._jobs) + len(jobs) > self.most_waiting:
                self._jobs = deque(job for job in self._jobs if not job.answer.cancelled())
            # one request may be larger than the queue, if nobody else waits
            if self.closed or (self._jobs and len(self._jobs) + len(jobs) > self.most_waiting):
                raise OverloadedError
            self._jobs.extend(jobs)
            self._changed.notify(len(jobs))
        return [job.answer for job in jobs]

    def close(self, seconds: float = 30.0) -> None:
        """Take no more, answer what waits, and end the threads; wait for that, but no longer than `seconds`."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        most = self.predictor.engines[0].batch
        while True:
            with self._changed:
                while not self._jobs and not self.closed:
                    self._changed.wait()
                if not self._jobs:
                    return
                jobs = [self._jobs.popleft() for _ in range(min(most, len(self._jobs)))]
            self._answer([job for job in jobs if job.answer.set_running_or_notify_cancel()])

    def _answer(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        try:
            items: list[tuple[str, Any, Details | None]] = [(job.name, job.content, job.details) for job in jobs]
            for job, answer in zip(
                jobs, self.predictor.answer_batch(items, any(job.maps for job in jobs)), strict=True
            ):
                job.answer.set_result(answer)
        except (
            Exception
        ) as error:  # handed to who waits for it, one by one, so that one picture spoils no other's answer
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
            else:
                for job in jobs:
                    self._answer([job])
