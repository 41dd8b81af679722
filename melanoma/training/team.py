"""Who trains together: this process' place among those of one job, and what they say to each other.

It imports no framework before there is more than one process; `parallel` brings them together.
"""

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from melanoma.data.batches import Share
from melanoma.errors import MelanomaError, UsageError

LONGEST_WAIT_MS = 30 * 24 * 3600 * 1000  # for the first process to prepare the data
# how JAX says that another process cannot be reached
LOST = ("Gloo", "NCCL", "coordination service", "Connection reset", "Socket closed", "heartbeat")
LOST_TOLD = (
    "another process of this training ended or cannot be reached: what it said itself tells why. Once all are started "
    "anew, each with melanoma resume, training goes on from the state that was saved last"
)


@dataclass
class Team:
    """The processes that train together, and this one's place among them; alone by default.

    devices: of all processes. distribution: Keras', None where this process trains alone on one device.
    """

    process: int = 0
    processes: int = 1
    devices: int = 1
    distribution: Any = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def leads(self) -> bool:
        """Whether this is the process that prepares, writes and speaks."""
        return self.process == 0

    @property
    def share(self) -> Share:
        """What this process reads of each batch."""
        return Share(self.process, self.processes, self.devices)

    def told(self, text: str) -> str:
        """Give every process the first one's text; what the others say is passed over."""
        if self.processes == 1:
            return text
        from jax._src.distributed import global_state  # nowhere else does JAX have its store of keys and values

        key = f"melanoma/{next(self._numbers)}"
        if self.leads:
            global_state.client.key_value_set(key, text)
            return text
        return str(global_state.client.blocking_key_value_get(key, LONGEST_WAIT_MS))

    def meet(self) -> None:
        """Wait for all processes: JAX connects them where they first compute together, and gives up soon."""
        if self.processes > 1:
            from jax._src.distributed import global_state

            global_state.client.wait_at_barrier(f"melanoma/{next(self._numbers)}", LONGEST_WAIT_MS)

    def check_same(self, seen: str, what: str) -> None:
        """Raise MelanomaError in all processes where one sees something else than the first. what: with its verb."""
        if self.anyone(self.told(seen) != seen):
            raise MelanomaError(f"{what} not the same in all processes: start all of them anew, alike")

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Let the first process do something before the others do it; where it fails, they end too."""
        if not self.leads:
            if self.told("") != "done":
                raise MelanomaError("the first process stopped; what it said tells why")
            yield
            return
        outcome = "failed"
        try:
            yield
            outcome = "done"
        finally:
            self.told(outcome)

    def anyone(self, answer: bool) -> bool:
        """Tell every process whether one of them says yes; all must ask at the same place."""
        if self.processes == 1:
            return answer
        from jax.experimental.multihost_utils import process_allgather

        return bool(process_allgather(np.array(answer)).any())

    def deal(self, rows: int) -> None:
        """Say how many rows the next batch has: what the devices cannot share alike is given to each as a whole."""
        if self.distribution is not None:
            self.distribution.whole = self.share.whole(rows)

    def check_batch(self, batch_size: int) -> None:
        """Raise UsageError where the devices cannot share a batch alike."""
        if batch_size % self.devices:
            raise UsageError(f"train.batch_size = {batch_size} is not a multiple of the {self.devices} devices")

    def end(self, code: int) -> None:
        """Leave at once after a failure: JAX would have this process wait for the others, and those wait for it."""
        if code and self.processes > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


team = Team()  # that this process belongs to


@contextmanager
def telling() -> Iterator[None]:
    """Turn what JAX raises where another process is gone into one sentence, and name this process in what it says."""
    try:
        yield
    except MelanomaError as error:
        if not team.leads:
            error.args = (f"process {team.process} of {team.processes}: {error}", *error.args[1:])
        raise
    except (ValueError, RuntimeError) as error:
        if team.processes == 1 or not any(sign in str(error) for sign in LOST):
            raise
        raise MelanomaError(f"{LOST_TOLD} ({str(error).splitlines()[0]})") from error
