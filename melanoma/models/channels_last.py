"""Keras layers at PyTorch's own speed: the same weights and results, without a copy of every image map.

Keras on PyTorch permutes each map to channels-first and copies it before every convolution. The layers here hand
PyTorch a view of the same memory instead, which it knows as "channels last".
"""

from typing import Any

import torch
from torch.nn import functional

from melanoma.models.backend import keras

tensor = keras.ops.convert_to_tensor


def _first(images: Any) -> Any:
    """View (batch, height, width, channels) as PyTorch's (batch, channels, height, width)."""
    return images.permute(0, 3, 1, 2)


def _last(images: Any) -> Any:
    return images.permute(0, 2, 3, 1)


def _padded(images: Any, layer: Any, window: tuple[int, int], value: float = 0.0) -> Any:
    """Pad as Keras' "same" does, which puts the odd pixel after the image; "valid" pads nothing."""
    if layer.padding == "valid":
        return images
    amounts: list[int] = []
    for size, reach, stride in zip(images.shape[1:3], window, layer.strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        amounts = [total // 2, total - total // 2, *amounts]  # PyTorch counts axes from the last
    return functional.pad(images, (0, 0, *amounts), value=value) if any(amounts) else images


def _convolved(images: Any, kernel: Any, layer: Any, groups: int) -> Any:
    window = tuple((size - 1) * rate + 1 for size, rate in zip(layer.kernel_size, layer.dilation_rate, strict=True))
    bias = tensor(layer.bias) if layer.use_bias else None
    images = _first(_padded(images, layer, (window[0], window[1])))
    convolved = functional.conv2d(images, kernel, bias, layer.strides, 0, layer.dilation_rate, groups)
    return layer.activation(_last(convolved))


class Conv2D(keras.layers.Conv2D):  # type: ignore[misc]
    """keras.layers.Conv2D, named alike so that weight files fit both."""

    def call(self, images: Any) -> Any:
        """Convolve; shapes as in Keras."""
        return _convolved(images, tensor(self.kernel).permute(3, 2, 0, 1), self, self.groups)


class DepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]
    """keras.layers.DepthwiseConv2D."""

    def call(self, images: Any) -> Any:
        """Convolve each channel by itself; shapes as in Keras."""
        kernel = tensor(self.kernel)
        height, width, channels, multiplier = kernel.shape
        kernel = kernel.reshape(height, width, 1, channels * multiplier).permute(3, 2, 0, 1)
        return _convolved(images, kernel, self, channels)


class BatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """keras.layers.BatchNormalization over the last axis, in one pass."""

    def call(self, images: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise; the moving variance takes the plain batch variance, as Keras has it and PyTorch has not."""
        del mask  # images have none
        scale = tensor(self.gamma) if self.scale else None
        shift = tensor(self.beta) if self.center else None
        if not (training and self.trainable):
            mean, variance = tensor(self.moving_mean), tensor(self.moving_variance)
            seen = functional.batch_norm(_first(images), mean, variance, scale, shift, False, 0.0, self.epsilon)
            return _last(seen)
        mean = torch.zeros_like(tensor(self.moving_mean))
        variance = torch.ones_like(mean)
        seen = functional.batch_norm(_first(images), mean, variance, scale, shift, True, 1.0, self.epsilon)
        count = images.numel() // images.shape[-1]
        with torch.no_grad():
            variance = variance * ((count - 1) / count)
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(tensor(moving) * self.momentum + batch * (1 - self.momentum))
        return _last(seen)


class MaxPooling2D(keras.layers.MaxPooling2D):  # type: ignore[misc]
    """keras.layers.MaxPooling2D."""

    def call(self, images: Any) -> Any:
        """Take the largest of each window; shapes as in Keras."""
        images = _first(_padded(images, self, self.pool_size, float("-inf")))
        return _last(functional.max_pool2d(images, self.pool_size, self.strides))


SWAPS: dict[Any, Any] = {
    keras.layers.Conv2D: Conv2D,
    keras.layers.DepthwiseConv2D: DepthwiseConv2D,
    keras.layers.BatchNormalization: BatchNormalization,
    keras.layers.MaxPooling2D: MaxPooling2D,
}


def channels_last(network: Any) -> Any:
    """Return the same Keras network, weights and layer names included, made of the layers above where it can be."""

    def swapped(layer: Any) -> Any:
        kind: Any = SWAPS.get(type(layer), type(layer)) if _on_images(layer) else type(layer)
        return kind.from_config(layer.get_config())

    fast = keras.models.clone_model(network, clone_function=swapped)
    fast.set_weights(network.get_weights())
    return fast


def _on_images(layer: Any) -> bool:
    """Tell whether a layer works on (batch, height, width, channels) in the way the layers above do."""
    if isinstance(layer, keras.layers.BatchNormalization):
        axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
        four = len(layer.input.shape) == 4
        return bool(four and axis in (-1, 3) and not layer.synchronized and not layer.renorm)
    return bool(getattr(layer, "data_format", "channels_last") == "channels_last")
