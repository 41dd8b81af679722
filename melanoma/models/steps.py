"""The steps that a walk through a network on PyTorch is made of: each takes maps, gives one, and knows the way back.

A step is an operation of `fused` with what follows it, a sum, a join, or anything else that PyTorch differentiates
itself. It knows no graph: `channels_last` puts steps in order.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from melanoma.models.fused import Clamp, Convolution, Gradients, Normalization, Tensor, Walk, has_onednn, tensor, trains


class Step(Protocol):
    """What a walk asks of a step. variables: the Keras variables that it uses."""

    variables: list[Any]

    def forward(self, maps: list[Tensor], walk: Walk) -> tuple[Tensor, Any]:
        """Return the answer, and what the way back needs where the walk is differentiable."""

    def backward(
        self, gradient: Tensor, owned: bool, kept: Any, numbers: list[int | None], gradients: Gradients
    ) -> None:
        """Add the gradients of the weights, and of each map that is wanted: its number, or None.

        owned: nothing else refers to the gradient's memory.
        """


class ConvolutionStep:
    """A convolution with what follows it: batch normalisation, or a scaled sum with a shortcut; then ReLU."""

    def __init__(
        self, convolution: Convolution, dtype: Any, *, norm: Normalization | None, scale: float, clamp: Clamp
    ) -> None:
        self.convolution, self.dtype, self.norm, self.scale, self.clamp = convolution, dtype, norm, scale, clamp
        self.variables = [*convolution.variables, *(norm.variables if norm else [])]

    def forward(self, maps: list[Tensor], walk: Walk) -> tuple[Tensor, Any]:
        """Take the images and perhaps a shortcut of the answer's shape."""
        images, shortcut = maps[0].to(self.dtype), maps[1].to(self.dtype) if len(maps) > 1 else None
        after: dict[str, Any] = {"scale": self.scale, "shortcut": shortcut, "clamp": self.clamp}
        by_batch = self.norm is not None and walk.training and self.norm.layer.trainable
        if not walk.differentiable and not by_batch and has_onednn(images):
            affine = self.norm.as_affine() if self.norm else None
            return self.convolution.answer(images, self.dtype, affine=affine, **after), None
        if self.norm is None:
            answer, kept = self.convolution.forward(images, self.dtype, training=walk.training, **after)
            return answer, (kept, answer)
        bare: dict[str, Any] = {"scale": 1.0, "shortcut": None, "clamp": Clamp(None)}
        answer, kept = self.convolution.forward(images, self.dtype, training=walk.training, **bare)
        answer, kept_norm = self.norm.forward(answer, walk)
        return answer, (kept, kept_norm)

    def backward(
        self, gradient: Tensor, owned: bool, kept: Any, numbers: list[int | None], gradients: Gradients
    ) -> None:
        """Add the gradients of every map that is wanted (numbers, None for one that is not) and of the weights."""
        kept, kept_after = kept
        if self.norm is not None:
            gradient = self.norm.backward(gradient, owned, kept_after, gradients)
        else:
            gradient, owned = self.clamp.backward(gradient, kept_after, owned)
        self.convolution.backward(gradient, kept, numbers[0], gradients)
        if len(numbers) > 1 and numbers[1] is not None:
            gradients.add(numbers[1], gradient, owned)


class PairStep:
    """Two steps, one after the other, as one."""

    def __init__(self, before: ConvolutionStep, after: ConvolutionStep) -> None:
        self.before, self.after, self.variables = before, after, [*before.variables, *after.variables]

    def forward(self, maps: list[Tensor], walk: Walk) -> tuple[Tensor, Any]:
        """Run one on what the other answers; a shortcut goes to the second."""
        between, kept_before = self.before.forward(maps[:1], walk)
        answer, kept = self.after.forward([between, *maps[1:]], walk)
        return answer, (kept_before, kept)

    def backward(
        self, gradient: Tensor, owned: bool, kept: Any, numbers: list[int | None], gradients: Gradients
    ) -> None:
        """Go back through both; the map between them is number -1."""
        self.after.backward(gradient, owned, kept[1], [-1, *numbers[1:]], gradients)
        self.before.backward(*gradients.maps.pop(-1), kept[0], numbers[:1], gradients)


class NormalizationStep:
    """Batch normalisation by itself, with the ReLU that follows it."""

    def __init__(self, norm: Normalization, dtype: Any) -> None:
        self.norm, self.dtype, self.variables = norm, dtype, norm.variables

    def forward(self, maps: list[Tensor], walk: Walk) -> tuple[Tensor, Any]:
        """Normalise one map."""
        return self.norm.forward(maps[0].to(self.dtype), walk)

    def backward(
        self, gradient: Tensor, owned: bool, kept: Any, numbers: list[int | None], gradients: Gradients
    ) -> None:
        """Add the map's gradient and the weights'."""
        given = self.norm.backward(gradient, owned, kept, gradients)
        if numbers[0] is not None:
            gradients.add(numbers[0], given)


class SumStep:
    """Maps summed, with the ReLU that follows."""

    variables: list[Any] = []  # noqa: RUF012  none

    def __init__(self, dtype: Any, clamp: Clamp) -> None:
        self.dtype, self.clamp = dtype, clamp

    def forward(self, maps: list[Tensor], walk: Walk) -> tuple[Tensor, Any]:
        """Sum two maps or more."""
        answer = maps[0].to(self.dtype) + maps[1].to(self.dtype)
        for other in maps[2:]:
            answer.add_(other)
        answer = self.clamp.forward_(answer)
        return answer, answer

    def backward(
        self, gradient: Tensor, owned: bool, kept: Any, numbers: list[int | None], gradients: Gradients
    ) -> None:
        """Hand the gradient to every map."""
        gradient, owned = self.clamp.backward(gradient, kept, owned)
        wanted = [number for number in numbers if number is not None]
        for number in wanted:
            gradients.add(number, gradient, owned=owned and len(wanted) == 1)


class JoinStep:
    """Maps laid side by side along the channels."""

    variables: list[Any] = []  # noqa: RUF012  none

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype

    def forward(self, maps: list[Tensor], walk: Walk) -> tuple[Tensor, Any]:
        """Join maps of the same batch, height and width."""
        return torch.cat([values.to(self.dtype) for values in maps], 1), [values.shape[1] for values in maps]

    def backward(
        self, gradient: Tensor, owned: bool, kept: Any, numbers: list[int | None], gradients: Gradients
    ) -> None:
        """Hand each map its part."""
        for number, part in zip(numbers, gradient.split(kept, 1), strict=True):
            if number is not None:
                gradients.add(number, part, owned=False)


class PlainStep:
    """Anything else, differentiated by PyTorch itself: a function of maps, and the Keras variables that it uses."""

    def __init__(self, function: Callable[..., Tensor], variables: list[Any]) -> None:
        self.function, self.variables = function, variables

    def forward(self, maps: list[Tensor], walk: Walk) -> tuple[Tensor, Any]:
        """Apply the function, noting what PyTorch needs to differentiate it."""
        if not walk.differentiable:
            return self.function(maps, walk.training), None
        with torch.enable_grad():
            given = [values.detach().requires_grad_(values.is_floating_point()) for values in maps]
            answer = self.function(given, walk.training)
        return answer.detach(), (given, answer)

    def backward(
        self, gradient: Tensor, owned: bool, kept: Any, numbers: list[int | None], gradients: Gradients
    ) -> None:
        """Let PyTorch find the gradients."""
        given, answer = kept
        wanted = [(number, values) for number, values in zip(numbers, given, strict=True) if number is not None]
        weights = [variable for variable in self.variables if trains(variable)]
        sources = [*(values for _, values in wanted), *(tensor(variable) for variable in weights)]
        found = torch.autograd.grad(answer, sources, gradient.to(answer.dtype), allow_unused=True)
        for (number, _), part in zip(wanted, found, strict=False):
            if part is not None:
                gradients.add(number, part, owned=False)
        for variable, part in zip(weights, found[len(wanted) :], strict=True):
            if part is not None:
                gradients.add_weight(variable, part)
