"""Keras' Adam on PyTorch with the update in one pass over each weight, where Keras makes a dozen.

The same optimizer otherwise: its variables, schedule, weight decay and state are Keras' own.
"""

from typing import Any

import torch

from melanoma.models.backend import keras

Base: Any = type(keras.optimizers.Adam())  # what Keras makes of its Adam on this backend


class FusedAdam(Base):  # type: ignore[misc]
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) with Keras' epsilon, which is added before the bias correction."""

    def build(self, variables: list[Any]) -> None:
        """Make the moments, in the memory order of their weights: the update runs along both."""
        super().build(variables)
        for kind in (self._momentums, self._velocities):
            for moment, variable in zip(kind, variables, strict=True):
                moment.value.data = torch.zeros_like(variable.value)

    def _parallel_update_step(self, grads: list[Any], variables: list[Any], learning_rate: Any) -> None:
        """Update the variables in place, and their moments."""
        indices = [self._get_variable_index(variable) for variable in variables]
        weights = [variable.value for variable in variables]
        moments = [[kind[index].value for index in indices] for kind in (self._momentums, self._velocities)]
        step = int(self.iterations.value) + 1
        torch._fused_adam_(
            weights,
            [_like(gradient, weight) for gradient, weight in zip(grads, weights, strict=True)],
            *moments,
            [],
            [torch.tensor(float(step), device=weights[0].device)] * len(weights),
            lr=float(learning_rate),
            beta1=self.beta_1,
            beta2=self.beta_2,
            weight_decay=0.0,
            eps=self.epsilon / (1 - self.beta_2**step) ** 0.5,
            amsgrad=False,
            maximize=False,
        )


def _like(gradient: Any, weight: Any) -> Any:
    """Bring a gradient into its weight's memory order, where it is in another."""
    steps = zip(gradient.stride(), weight.stride(), weight.shape, strict=True)
    alike = all(one == other or length == 1 for one, other, length in steps)  # a side of 1 has no order
    return gradient if alike else torch.empty_like(weight).copy_(gradient)
