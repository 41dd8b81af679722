"""Convolution, batch normalisation and ReLU with their gradients, on maps that stay in channels-last memory.

A map is what PyTorch calls (batch, channels, height, width), its memory in the order of Keras' (batch, height, width,
channels): a view, never a copy. An operation does at once what Keras does in several layers, and sums gradients where
branches meet while a convolution writes them. It knows no graph: `steps` makes steps of operations.
"""

import math
from typing import Any

import torch
from torch.nn import functional

Tensor = Any
aten = torch.ops.aten
# PyTorch's own fused convolutions; a build without oneDNN has none, and then the plain operations do
BUILT_WITH_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise_")
POINTWISE = torch.ops.mkldnn._convolution_pointwise if BUILT_WITH_ONEDNN else None
ONTO = torch.ops.mkldnn._convolution_pointwise_ if BUILT_WITH_ONEDNN else None
BFLOAT16_BY_ONEDNN = BUILT_WITH_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # the plain ones emulate it


class Gradients:
    """The gradients of one walk backwards: of maps by number, of weights by identity.

    A map's gradient is summed in place only where this walk owns its memory.
    """

    def __init__(self) -> None:
        self.maps: dict[int, tuple[Tensor, bool]] = {}
        self.weights: dict[int, Tensor] = {}

    def add(self, number: int, gradient: Tensor, owned: bool = True) -> None:
        """Add to a map's gradient; owned: nothing else refers to this memory."""
        if number not in self.maps:
            self.maps[number] = gradient, owned
            return
        before, before_owned = self.maps[number]
        if before_owned:
            self.maps[number] = before.add_(gradient), True
        else:
            self.maps[number] = (gradient.add_(before) if owned else before + gradient), True

    def add_weight(self, variable: Any, gradient: Tensor) -> None:
        """Add to a weight's gradient, in the weight's own shape and precision."""
        gradient = gradient.to(tensor(variable).dtype) if tensor(variable).dtype != gradient.dtype else gradient
        key = id(variable)
        self.weights[key] = self.weights[key] + gradient if key in self.weights else gradient


class Walk:
    """What one walk through the network is for: whether it trains, and what it will need on the way back."""

    def __init__(self, training: bool, differentiable: bool) -> None:
        self.training, self.differentiable = training, differentiable
        self.moving: list[tuple[Tensor, Tensor, float]] = []  # a moving average, a batch's value, the momentum

    def update_moving_averages(self) -> None:
        """Move every batch normalisation's averages: one call for all of a momentum."""
        for momentum in {momentum for *_, momentum in self.moving}:
            chosen = [(moving, batch) for moving, batch, own in self.moving if own == momentum]
            moving, batch = zip(*chosen, strict=True)
            torch._foreach_lerp_(list(moving), list(batch), 1 - momentum)


def tensor(variable: Any) -> Tensor:
    """Return a Keras variable's own tensor: its `value` is a copy where Keras casts to a lower precision."""
    return variable._value


def trains(variable: Any) -> bool:
    """Tell whether a gradient is wanted for a Keras variable."""
    return bool(variable is not None and tensor(variable).requires_grad)


class Clamp:
    """ReLU up to a ceiling, in place; a ceiling of None is no ReLU."""

    def __init__(self, ceiling: float | None) -> None:
        self.ceiling = ceiling

    def forward_(self, values: Tensor) -> Tensor:
        """Clamp values in place."""
        if self.ceiling is None:
            return values
        return values.relu_() if math.isinf(self.ceiling) else values.clamp_(0, self.ceiling)

    def backward(self, gradient: Tensor, answer: Tensor, owned: bool) -> tuple[Tensor, bool]:
        """Return the gradient before the clamp and whether it is owned, given what the clamp answered."""
        if self.ceiling is None:
            return gradient, owned
        if not math.isinf(self.ceiling):
            return aten.hardtanh_backward(gradient, answer, 0, self.ceiling), True
        if owned and gradient.stride() == answer.stride():
            return aten.threshold_backward.grad_input(gradient, answer, 0, grad_input=gradient), True
        return aten.threshold_backward(gradient, answer, 0), True


class Normalization:
    """Batch normalisation over the channels, and the ReLU that follows it."""

    def __init__(self, layer: Any, clamp: Clamp) -> None:
        self.layer, self.clamp = layer, clamp
        self.variables = [variable for variable in (layer.gamma, layer.beta) if variable is not None]

    def _scale_and_shift(self) -> tuple[Tensor | None, Tensor | None]:
        layer = self.layer
        return tuple(None if variable is None else tensor(variable) for variable in (layer.gamma, layer.beta))  # type: ignore[return-value]

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """Return what the moving averages make of it: a factor and a shift for each channel, float32."""
        gamma, beta = self._scale_and_shift()
        factor = torch.rsqrt(tensor(self.layer.moving_variance) + self.layer.epsilon)
        factor = factor if gamma is None else factor * gamma
        shift = -tensor(self.layer.moving_mean) * factor
        return factor, shift if beta is None else shift + beta

    def forward(self, images: Tensor, walk: Walk) -> tuple[Tensor, Any]:
        """Normalise; the moving variance takes the plain batch variance, as Keras has it and PyTorch has not."""
        layer, (gamma, beta) = self.layer, self._scale_and_shift()
        by_batch = walk.training and layer.trainable
        moving = (tensor(layer.moving_mean), tensor(layer.moving_variance))
        seen, mean, inverse = torch.native_batch_norm(
            images, gamma, beta, *((None, None) if by_batch else moving), by_batch, 0.0, layer.epsilon
        )
        if by_batch:
            variance = inverse.pow(-2).sub_(layer.epsilon).clamp_(min=0)  # of one over the standard deviation
            walk.moving += [(moving[0], mean, layer.momentum), (moving[1], variance, layer.momentum)]
        seen = self.clamp.forward_(seen)
        return seen, (images, seen, mean, inverse, by_batch) if walk.differentiable else None

    def backward(self, gradient: Tensor, owned: bool, kept: Any, gradients: Gradients) -> Tensor:
        """Return the gradient of the images, owned."""
        images, seen, mean, inverse, by_batch = kept
        layer = self.layer
        gradient, _ = self.clamp.backward(gradient, seen, owned)
        wanted = [True, trains(layer.gamma), trains(layer.beta)]
        moving = (None, None) if by_batch else (tensor(layer.moving_mean), tensor(layer.moving_variance))
        gamma, _ = self._scale_and_shift()
        given, factor, shift = aten.native_batch_norm_backward(
            gradient, images, gamma, *moving, mean, inverse, by_batch, layer.epsilon, wanted
        )
        for variable, found in ((layer.gamma, factor), (layer.beta, shift)):
            if trains(variable):
                gradients.add_weight(variable, found)
        return given


class Convolution:
    """A convolution (Keras' Conv2D or DepthwiseConv2D, or the halves of SeparableConv2D) and its padding."""

    def __init__(self, layer: Any, kernel: Any, bias: Any, *, depthwise: bool, window: bool = True) -> None:
        """kernel, bias: Keras variables, (height, width, in, out) or depthwise (height, width, channels, multiplier).

        window: whether the layer's strides, padding and dilation are this convolution's, else it is 1x1 and plain.
        """
        self.kernel, self.bias, self.depthwise = kernel, bias, depthwise
        self.variables = [variable for variable in (kernel, bias) if variable is not None]
        self.size = tuple(kernel.shape[:2])
        self.strides = tuple(layer.strides) if window else (1, 1)
        self.dilation = tuple(layer.dilation_rate) if window else (1, 1)
        self.same = window and layer.padding == "same"
        self.groups = kernel.shape[2] if depthwise else getattr(layer, "groups", 1) if window else 1
        if not depthwise:  # so that PyTorch's view of it is in channels-last memory, and stays so
            value = tensor(kernel)
            value.data = value.data.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)

    def weight(self, dtype: Any) -> Tensor:
        """View the kernel as PyTorch's (out, in / groups, height, width)."""
        value = tensor(self.kernel)
        value = value if value.dtype == dtype else value.to(dtype)
        if not self.depthwise:
            return value.permute(3, 2, 0, 1)
        height, width, channels, multiplier = value.shape
        return value.reshape(height, width, 1, channels * multiplier).permute(3, 2, 0, 1)

    def _add_weights(self, weight: Tensor, bias: Tensor, gradients: Gradients) -> None:
        if trains(self.kernel):
            if self.depthwise:
                weight = weight.permute(2, 3, 1, 0).reshape(tuple(self.kernel.shape))
            else:
                weight = weight.permute(2, 3, 1, 0)
            gradients.add_weight(self.kernel, weight)
        if trains(self.bias):
            gradients.add_weight(self.bias, bias)

    def padded(self, images: Tensor) -> tuple[Tensor, tuple[int, int], tuple[int, ...]]:
        """Return images, the padding PyTorch adds itself, and what was added before: Keras puts an odd pixel last."""
        if not self.same:
            return images, (0, 0), ()
        amounts = same_padding(images.shape[2:], self.size, self.strides, self.dilation)
        if amounts[0] == amounts[1] and amounts[2] == amounts[3]:
            return images, (amounts[2], amounts[0]), ()
        return functional.pad(images, amounts), (0, 0), amounts

    def forward(
        self, images: Tensor, dtype: Any, *, scale: float, shortcut: Tensor | None, clamp: Clamp, training: bool
    ) -> tuple[Tensor, Any]:
        """Convolve, multiply by `scale`, add the shortcut and clamp, keeping what the way back needs."""
        weight, bias = self.weight(dtype), None if self.bias is None else tensor(self.bias).to(dtype)
        scaled = (weight, bias) if scale == 1 else (weight * scale, None if bias is None else bias * scale)
        images, padding, added = self.padded(images)
        kept = (images, scaled[0], padding, added, scale)
        if shortcut is not None and training and has_onednn(images):
            return self._one_pass(images, *scaled, padding=padding, shortcut=shortcut, clamp=clamp), kept
        answer = torch.conv2d(images, weight, bias, self.strides, padding, self.dilation, self.groups)
        answer = answer if scale == 1 else answer.mul_(scale)
        answer = answer if shortcut is None else answer.add_(shortcut)
        return clamp.forward_(answer), kept

    def answer(self, images: Tensor, dtype: Any, *, affine: Any, scale: float, shortcut: Any, clamp: Clamp) -> Tensor:
        """Convolve, apply a factor and a shift to each channel or `scale` to all, add the shortcut and clamp."""
        weight, bias = self.weight(torch.float32), None if self.bias is None else tensor(self.bias).float()
        if affine is not None:
            factor, shift = affine
            weight, bias = weight * factor[:, None, None, None], shift if bias is None else shift + bias * factor
        if scale != 1:
            weight, bias = weight * scale, None if bias is None else bias * scale
        images, padding, _ = self.padded(images)
        bias = None if bias is None else bias.to(dtype)
        return self._one_pass(images, weight.to(dtype), bias, padding=padding, shortcut=shortcut, clamp=clamp)

    def _one_pass(
        self, images: Tensor, weight: Tensor, bias: Tensor | None, *, padding: Any, shortcut: Any, clamp: Clamp
    ) -> Tensor:
        """Convolve, add the shortcut and clamp while the answer is written."""
        assert POINTWISE is not None
        where = (list(padding), list(self.strides), list(self.dilation), self.groups)
        relu = clamp.ceiling is not None and math.isinf(clamp.ceiling)
        if shortcut is None:
            answer = POINTWISE(images, weight, bias, *where, "relu" if relu else "none", [], "")
        else:
            added = (shortcut, weight, bias, *where, "add", 1.0)
            answer = POINTWISE.binary(images, *added, "relu" if relu else None, [], "")
        return answer if relu else clamp.forward_(answer)

    def backward(self, gradient: Tensor, kept: Any, number: int | None, gradients: Gradients) -> None:
        """Add the gradients of the weights and, where `number` is given, of that map."""
        images, weight, padding, added, scale = kept
        onto = gradients.maps.get(number) if number is not None else None
        in_place = onto is not None and onto[1] and not added and self._sums_in_place(gradient, onto[0], padding)
        asked = [number is not None and not in_place, trains(self.kernel), trains(self.bias)]
        sizes = None if self.bias is None else [gradient.shape[1]]
        given, to_weight, to_bias = aten.convolution_backward(
            gradient, images, weight, sizes, self.strides, padding, self.dilation, False, (0, 0), self.groups, asked
        )
        if onto is not None and in_place:
            self._add_onto(onto[0], gradient, weight, padding)
        elif number is not None:  # the gradient of what was padded on is nobody's
            gradients.add(number, functional.pad(given, [-amount for amount in added]) if added else given)
        if scale != 1:
            to_weight = None if to_weight is None else to_weight * scale
            to_bias = None if to_bias is None else to_bias * scale
        self._add_weights(to_weight, to_bias, gradients)

    def _add_onto(self, onto: Tensor, gradient: Tensor, weight: Tensor, padding: tuple[int, int]) -> None:
        """Add the images' gradient to `onto`: a convolution by the kernel turned round, which sums as it writes."""
        turned = (weight if self.size == (1, 1) else weight.flip(2, 3)).transpose(0, 1)
        outside = [reach - 1 - pad for reach, pad in zip(self.size, padding, strict=True)]
        assert ONTO is not None
        ONTO.binary(onto, gradient, turned, None, outside, [1, 1], [1, 1], 1, "add", 1.0, None, [], "")

    def _sums_in_place(self, gradient: Tensor, onto: Tensor, padding: tuple[int, int]) -> bool:
        plain = self.groups == 1 and self.strides == (1, 1) and self.dilation == (1, 1)
        inside = all(pad < reach for pad, reach in zip(padding, self.size, strict=True))
        alike = gradient.dtype == onto.dtype and onto.is_contiguous(memory_format=torch.channels_last)
        return bool(has_onednn(gradient) and plain and inside and alike)


def has_onednn(images: Tensor) -> bool:
    """Tell whether oneDNN's fused convolutions take these images."""
    fits = images.dtype == torch.float32 or (images.dtype == torch.bfloat16 and BFLOAT16_BY_ONEDNN)
    return POINTWISE is not None and images.device.type == "cpu" and fits


def same_padding(
    size: Any, window: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...] = (1, 1)
) -> tuple[int, ...]:
    """Return what Keras' "same" adds (left, right, top, bottom): an odd pixel goes after the image."""
    amounts: list[int] = []
    for length, reach, stride, rate in zip(size, window, strides, dilation, strict=True):
        total = max((-(-length // stride) - 1) * stride + (reach - 1) * rate + 1 - length, 0)
        amounts = [total // 2, total - total // 2, *amounts]
    return tuple(amounts)
