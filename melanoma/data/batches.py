"""Rows and cache to batches: what each step of each epoch sees follows from a seed, so any step can be found again."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melanoma.machine import release

Float32Array = NDArray[np.float32]
Batch = tuple[list[NDArray[np.uint8] | Float32Array], Float32Array]


@dataclass(frozen=True)
class Share:
    """What one of several processes that train together reads of every batch.

    devices: of all processes, as many of each.
    """

    process: int = 0
    processes: int = 1
    devices: int = 1

    def whole(self, count: int) -> bool:
        """Tell whether devices cannot share so many rows alike: then every process reads them all."""
        return count % self.devices != 0

    def of(self, count: int) -> slice:
        """Tell which of the rows of a batch are this process' own."""
        if self.whole(count):
            return slice(0, count)
        size = count // self.processes
        return slice(self.process * size, (self.process + 1) * size)


@dataclass(frozen=True)
class Batches:
    """Batches of one set of rows.

    images: uint8 (rows of the cache, height, width, 3), memory-mapped.
    rows: int64 (n,), where each image stands in `images`.
    targets: float32 (n,), 0 or 1.
    metadata: float32 (n, features), or None where the network sees images only.
    weights: float64 (n,) chances of being drawn, summing to 1, or None: every row once an epoch.
    diagnoses: float32 (n, diagnoses), a 1 for each row's own, or None.
    hidden_share, nothing_known: of rows whose metadata are hidden; float32 (features,), what then stands there.
    share: what this process reads of each batch; batch_size is of them all.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    targets: Float32Array
    metadata: Float32Array | None
    batch_size: int
    seed: int
    weights: NDArray[np.float64] | None = None
    diagnoses: Float32Array | None = None
    hidden_share: float = 0.0
    nothing_known: Float32Array | None = None
    share: Share = Share()

    def __len__(self) -> int:
        """Count the steps of an epoch; a last batch may be smaller."""
        return math.ceil(len(self.rows) / self.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the order in which an epoch visits the rows: int64 (n,), the same for the same seed and epoch."""
        random = np.random.default_rng((self.seed, epoch))
        if self.weights is None:
            return random.permutation(len(self.rows))
        return random.choice(len(self.rows), len(self.rows), p=self.weights)

    def batch(self, chosen: NDArray[np.int64]) -> Batch:
        """Read this process' share of the chosen rows: inputs (images uint8, metadata where used) and targets.

        targets: float32 (batch, 1), 0 or 1; the diagnoses, where there are some, behind it.
        """
        own, everyone = self.share.of(len(chosen)), chosen
        chosen = chosen[own]
        place = self.rows[chosen]
        by_place = np.argsort(place)  # the disk is read forwards
        images = np.empty((len(chosen), *self.images.shape[1:]), np.uint8)
        images[by_place] = self.images[place[by_place]]
        release(self.images)
        inputs: list[NDArray[np.uint8] | Float32Array] = [images]
        if self.metadata is not None:
            metadata = self.metadata[chosen]
            if self.nothing_known is not None:
                random = np.random.default_rng([self.seed, *everyone])  # which follow from the epoch and the step
                hidden = random.random((len(everyone), 1))[own] < self.hidden_share
                metadata = np.where(hidden, self.nothing_known, metadata)
            inputs.append(metadata)
        targets = self.targets[chosen, None]
        if self.diagnoses is not None:
            targets = np.concatenate([targets, self.diagnoses[chosen]], axis=1)
        return inputs, targets

    def chosen(self, order: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        """Return the rows of one step of an epoch's order, those of every process."""
        return order[step * self.batch_size : (step + 1) * self.batch_size]

    def step(self, order: NDArray[np.int64], step: int) -> Batch:
        """Read one step's batch of an epoch's order."""
        return self.batch(self.chosen(order, step))

    def ahead(self, order: NDArray[np.int64], first_step: int = 0) -> "Ahead":
        """Read the batches of some rows from a step on, always one while the network is busy with the one before."""
        return Ahead(self, order, first_step)


class Ahead:
    """An epoch's batches, the next one read by a thread of its own; `waited` tells what that did not save.

    waited: seconds that the reader of the batches stood still for data, so far.
    """

    def __init__(self, batches: Batches, order: NDArray[np.int64], first_step: int) -> None:
        self.batches, self.order, self.first_step = batches, order, first_step
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches in their order; a fault while reading is raised where its batch would have come."""
        steps = math.ceil(len(self.order) / self.batches.batch_size)
        if self.first_step >= steps:
            return
        with ThreadPoolExecutor(1, "read ahead") as reader:
            coming = reader.submit(self.batches.step, self.order, self.first_step)
            for step in range(self.first_step, steps):
                started = time.perf_counter()
                batch = coming.result()
                self.waited += time.perf_counter() - started
                if step + 1 < steps:
                    coming = reader.submit(self.batches.step, self.order, step + 1)
                yield batch
