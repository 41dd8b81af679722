"""Random changes of training images, as Keras layers that run on the device with the network."""

import math
from typing import Any

from melanoma.config import AugmentSettings
from melanoma.models.backend import BACKEND, keras

ops = keras.ops


class RandomLight(keras.layers.Layer):  # type: ignore[misc]
    """Multiply each channel of each image by its own factor of up to 1 - `most` to 1 + `most`: another light or camera.

    Takes and gives float32 (batch, height, width, 3) in [0, 255].
    """

    def __init__(self, most: float, seed: int, **kwargs: Any) -> None:
        super().__init__(dtype=keras.config.floatx(), **kwargs)
        self.most, self.random = most, keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        """Change the images while training."""
        if not training:
            return images
        factor = 1 + keras.random.uniform((ops.shape(images)[0], 1, 1, 3), -self.most, self.most, seed=self.random)
        return ops.clip(images * factor, 0, 255)


class RandomView(keras.layers.Layer):  # type: ignore[misc]
    """Mirror, turn, zoom, stretch and move each image at random, sampled once, bilinearly, mirrored beyond the border.

    One sampling for all keeps the picture sharper than a chain of layers and costs a third of it; from images up to
    twice as large as what is asked for it leaves out no pixel. Takes uint8 or float (batch, size_px, size_px, 3) and
    gives float32 (batch, side, side, 3) in the same range.

    side: what it gives, pixels; where it takes any_size it may be set anew, before the training function is made anew.
    """

    def __init__(
        self, settings: AugmentSettings, seed: int, side: int, *, any_size: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(dtype=keras.config.floatx(), autocast=False, **kwargs)
        self.side, self.any_size = side, any_size
        self.settings, self.random = settings, keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        """Change the images while training; else only cast them."""
        if not training:
            return ops.cast(images, keras.config.floatx())
        settings = self.settings
        count, size = ops.shape(images)[:2]
        side = self.side
        turn = self._drawn(count, math.radians(settings.turn_degrees))
        scale = 1 + self._drawn(count, settings.zoom)
        signs = self._signs(count)
        # where each output pixel comes from, in pixels off the centre
        line = (ops.arange(side, dtype=keras.config.floatx()) - (side - 1) / 2) * (size / side)
        down, right = ops.reshape(ops.repeat(line, side), (1, -1)), ops.reshape(ops.tile(line, side), (1, -1))
        cosine, sine = ops.cos(turn) * scale, ops.sin(turn) * scale
        rows = signs[:, :1] * (cosine * down + sine * right)
        columns = signs[:, 1:] * (cosine * right - sine * down)
        if settings.stretch:
            longer = 1 + self._drawn(count, settings.stretch)
            rows, columns = rows * longer, columns / longer
        if settings.shift:
            rows = rows + self._drawn(count, settings.shift) * size
            columns = columns + self._drawn(count, settings.shift) * size
        rows, columns = rows + (size - 1) / 2, columns + (size - 1) / 2
        if BACKEND == "torch":
            from melanoma.training.sampler import sampled

            return sampled(images, rows, columns, side)
        return _sample(images, _mirrored(rows, size), _mirrored(columns, size), side)

    def _drawn(self, count: Any, most: float) -> Any:
        return keras.random.uniform((count, 1), -most, most, seed=self.random)

    def _signs(self, count: Any) -> Any:
        if not self.settings.flip:
            return ops.ones((count, 2))
        return ops.sign(keras.random.uniform((count, 2), -1, 1, seed=self.random) + 1e-12)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Give the shape of the views, without their size where that may change."""
        side = None if self.any_size else self.side
        return (*input_shape[:1], side, side, *input_shape[3:])


def augmentation(settings: AugmentSettings, seed: int, side: int, *, any_size: bool = False) -> list[Any]:
    """List the layers that the settings ask for, each with its own seed; they pass images through when not training.

    side, any_size: as for the first of them, RandomView.
    """
    layers, full = keras.layers, keras.config.floatx()
    chain: list[Any] = [RandomView(settings, seed, side, any_size=any_size, name="random_view")]
    if settings.brightness:
        chain.append(layers.RandomBrightness(settings.brightness, value_range=(0, 255), seed=seed + 1, dtype=full))
    if settings.contrast:
        chain.append(layers.RandomContrast(settings.contrast, value_range=(0, 255), seed=seed + 2, dtype=full))
    if settings.colour:
        chain.append(RandomLight(settings.colour, seed + 3, name="random_light"))
    return chain


def _mirrored(position: Any, size: int) -> Any:
    """Fold positions outside [0, size - 1] back in, as a mirror at the edge pixel would."""
    period = 2 * max(size - 1, 1)
    folded = ops.mod(position, period)
    return ops.minimum(folded, period - folded)


def _sample(images: Any, rows: Any, columns: Any, side: int) -> Any:
    """Read images (batch, height, width, 3) at fractional positions (batch, side x side), bilinearly."""
    height, width, channels = ops.shape(images)[1:]
    flat = ops.reshape(images, (-1, channels))
    first = ops.expand_dims(ops.arange(ops.shape(images)[0], dtype="int32") * (height * width), 1)
    top, left = ops.floor(rows), ops.floor(columns)
    down, right = ops.expand_dims(rows - top, -1), ops.expand_dims(columns - left, -1)
    top, left = ops.cast(top, "int32"), ops.cast(left, "int32")
    bottom, beside = ops.minimum(top + 1, height - 1), ops.minimum(left + 1, width - 1)

    def pixels(row: Any, column: Any) -> Any:
        return ops.cast(ops.take(flat, first + row * width + column, axis=0), keras.config.floatx())

    upper = pixels(top, left) * (1 - right) + pixels(top, beside) * right
    lower = pixels(bottom, left) * (1 - right) + pixels(bottom, beside) * right
    return ops.reshape(upper * (1 - down) + lower * down, (-1, side, side, channels))
