"""A Keras model on PyTorch whose training step is made in parts where a GPU's memory is too small for the whole batch.

The gradients of the parts are summed and applied once: the batch that the optimizer sees stays as large as it was set.
"""

import math
from typing import Any

import torch

from melanoma.errors import MelanomaError
from melanoma.models.backend import keras
from melanoma.training.memory import memory_ran_out, what_to_set
from melanoma.training.progress import say


class HalvingModel(keras.Model):  # type: ignore[misc]
    """Keras' model; a step that runs out of memory is made again in twice as many parts, and so are those after it.

    Batch normalisation takes its statistics from a part, and its moving averages move with each; augmentation and
    dropout draw for each part. So a step in parts is not the whole step to the bit, but does not depend on the GPU.
    """

    parts = 1  # of a batch

    def train_step(self, data: Any) -> dict[str, Any]:
        """Make one step. data: inputs, targets, weights; raises MelanomaError where one image is too much."""
        while (logs := self._gradients_found(data)) is None:  # outside of the handler, which holds on to what was kept
            self.reset_metrics()  # of the parts that came before
            self.zero_grad()
            torch.cuda.empty_cache()
            self.parts *= 2
            images = len(data[1])
            size = math.ceil(images / self.parts)
            say(
                f"note: the GPU's memory is too small for a step at once: from here on in {math.ceil(images / size)} "
                f"parts of up to {size} images, whose gradients are summed before the weights change"
            )
        trained = self.trainable_weights
        with torch.no_grad():
            self.optimizer.apply([variable.value.grad for variable in trained], trained)
        return logs

    def _gradients_found(self, data: Any) -> dict[str, Any] | None:
        """Leave the gradients of the mean loss at the weights, and return the metrics; None where memory ran out."""
        inputs, targets, weights = data
        size = math.ceil(len(targets) / self.parts)
        logs: dict[str, Any] = {}
        self.zero_grad()
        try:
            for start in range(0, len(targets), size):
                part = slice(start, start + size)
                logs = self._add_gradients(*(_cut(one, part) for one in (inputs, targets, weights)), of=len(targets))
        except RuntimeError as error:
            if not memory_ran_out(error):
                raise
            if self.parts >= len(targets):
                told = "the GPU's memory is too small for a training step on one image"
                raise MelanomaError(f"{told}: use {what_to_set(0)}") from error
            return None
        return logs

    def _add_gradients(self, inputs: Any, targets: Any, weights: Any, *, of: int) -> dict[str, Any]:
        """Add a part's share of the gradient of the mean loss over `of` images; return the metrics so far."""
        answers = self(inputs, training=True)
        loss = self.compute_loss(inputs, targets, answers, weights, training=True)
        self._loss_tracker.update_state(loss, sample_weight=len(targets))
        (self.optimizer.scale_loss(loss) * (len(targets) / of)).backward()
        return dict(self.compute_metrics(inputs, targets, answers, weights))


def _cut(batch: Any, part: slice) -> Any:
    return keras.tree.map_structure(lambda array: None if array is None else array[part], batch)
