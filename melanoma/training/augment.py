"""Random changes of training images, as Keras layers that run on the device with the network."""

import math
from typing import Any

from melanoma.config import AugmentSettings
from melanoma.models.backend import BACKEND, keras

ops = keras.ops


class RandomView(keras.layers.Layer):  # type: ignore[misc]
    """Mirror, turn and zoom each image at random, sampled once, bilinearly, mirrored beyond the border.

    One sampling for all three keeps the picture sharper than a chain of layers and costs a third of it.
    Takes uint8 or float (batch, height, width, 3) and gives float32 of the same shape and range.
    """

    def __init__(self, flip: bool, turn_degrees: float, zoom: float, seed: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.flip, self.turn, self.zoom = flip, math.radians(turn_degrees), zoom
        self.random = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        """Change the images while training; else only cast them."""
        if not training:
            return ops.cast(images, "float32")
        count, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        turn = keras.random.uniform((count, 1), -self.turn, self.turn, seed=self.random)
        scale = 1 + keras.random.uniform((count, 1), -self.zoom, self.zoom, seed=self.random)
        signs = self._signs(count)
        # where each output pixel comes from, in pixels off the centre
        down = ops.reshape(ops.repeat(ops.arange(height, dtype="float32"), width), (1, -1)) - (height - 1) / 2
        right = ops.reshape(ops.tile(ops.arange(width, dtype="float32"), height), (1, -1)) - (width - 1) / 2
        cosine, sine = ops.cos(turn) * scale, ops.sin(turn) * scale
        rows = signs[:, :1] * (cosine * down + sine * right) + (height - 1) / 2
        columns = signs[:, 1:] * (cosine * right - sine * down) + (width - 1) / 2
        if BACKEND == "torch":
            from melanoma.training.sampler import sampled

            return sampled(images, rows, columns)
        return _sample(images, _mirrored(rows, height), _mirrored(columns, width))

    def _signs(self, count: Any) -> Any:
        if not self.flip:
            return ops.ones((count, 2))
        return ops.sign(keras.random.uniform((count, 2), -1, 1, seed=self.random) + 1e-12)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape stays."""
        return input_shape


def augmentation(settings: AugmentSettings, seed: int) -> list[Any]:
    """List the layers that the settings ask for, each with its own seed; they pass images through when not training."""
    layers = keras.layers
    chain: list[Any] = [RandomView(settings.flip, settings.turn_degrees, settings.zoom, seed, name="random_view")]
    if settings.brightness:
        chain.append(layers.RandomBrightness(settings.brightness, value_range=(0, 255), seed=seed + 1, dtype="float32"))
    if settings.contrast:
        chain.append(layers.RandomContrast(settings.contrast, value_range=(0, 255), seed=seed + 2, dtype="float32"))
    return chain


def _mirrored(position: Any, size: int) -> Any:
    """Fold positions outside [0, size - 1] back in, as a mirror at the edge pixel would."""
    period = 2 * max(size - 1, 1)
    folded = ops.mod(position, period)
    return ops.minimum(folded, period - folded)


def _sample(images: Any, rows: Any, columns: Any) -> Any:
    """Read images (batch, height, width, 3) at fractional positions (batch, height x width), bilinearly."""
    height, width, channels = images.shape[1], images.shape[2], images.shape[3]
    flat = ops.reshape(images, (-1, channels))
    first = ops.expand_dims(ops.arange(ops.shape(images)[0], dtype="int32") * (height * width), 1)
    top, left = ops.floor(rows), ops.floor(columns)
    down, right = ops.expand_dims(rows - top, -1), ops.expand_dims(columns - left, -1)
    top, left = ops.cast(top, "int32"), ops.cast(left, "int32")
    bottom, beside = ops.minimum(top + 1, height - 1), ops.minimum(left + 1, width - 1)

    def pixels(row: Any, column: Any) -> Any:
        return ops.cast(ops.take(flat, first + row * width + column, axis=0), "float32")

    upper = pixels(top, left) * (1 - right) + pixels(top, beside) * right
    lower = pixels(bottom, left) * (1 - right) + pixels(bottom, beside) * right
    return ops.reshape(upper * (1 - down) + lower * down, (-1, height, width, channels))
