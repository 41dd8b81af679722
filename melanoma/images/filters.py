"""What is done to an image before a network sees it: resizing, blur, erosion, colour constancy, hair removal.

Every filter is pure: uint8 RGB in, uint8 RGB of the same shape out, no file, no randomness.
It knows of a recipe the image settings that it is handed, and of files only that `decode` reads them.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from melanoma.config import ImageSettings
from melanoma.errors import DataError
from melanoma.images.decode import as_image
from melanoma.images.photograph import UInt8Array

Float32Array = npt.NDArray[np.float32]
THUMBNAIL_PX = 64  # side of the whole picture, squashed, by which pictures are compared and told from others

# What remove_hair takes for a hair; chosen by eye on 53 images of ISIC. Shares are of the shorter side.
_HAIR_REACH = 1 / 28  # narrower than this
_HAIR_LENGTH = 1 / 9  # straight for this long
_HAIR_CONTRAST = 12  # darker than the skin beside it by so many levels of 255
_HAIR_PROMINENCE = 3  # so many times darker than the other fine lines, such as pigment nets,
_HAIR_SURROUNDINGS = 1 / 4  # that lie in a square of this side around it


def process(image: UInt8Array | str | Path, size: int, crop: Literal["centre", "squash"] = "squash") -> UInt8Array:
    """Resize an image to the square that the network sees, without aliasing.

    image: uint8 (height, width, 3) RGB, or a path. crop: centre keeps the aspect and cuts the middle square,
    squash keeps everything. Returns uint8 (size, size, 3).
    Raises DataError as `as_image` does.
    """
    pixels = as_image(image, size)
    height, width = pixels.shape[:2]
    if crop == "centre":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
        height = width = side
    pixels = shrunk(pixels, min(width, size), min(height, size))
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_CUBIC))


def shrunk(image: UInt8Array, width: int, height: int) -> UInt8Array:
    """Make an image smaller, each new pixel the mean of the area that it covers.

    image: uint8 (rows, columns, 3); width, height: of the result in pixels, neither more than before.
    Returns uint8 (height, width, 3).
    """
    # OpenCV averages whole blocks of 2 x 2 sixteen times as quickly as areas with broken edges. So what shrinks to
    # no less than half is first stretched to twice its aim: less than half the time for the same picture. And what
    # shrinks to a quarter or less is first halved, within a level of the same: a thumbnail in a third of the time.
    if height < image.shape[0] <= 2 * height and width < image.shape[1] <= 2 * width:
        image = np.asarray(cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR))
    rows, columns = image.shape[:2]
    if rows >= 4 * height and columns >= 4 * width and rows % 2 == columns % 2 == 0:
        image = np.asarray(cv2.resize(image, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def no_noise(image: UInt8Array, kernel: int = 5) -> UInt8Array:
    """Smooth an image with a Gaussian blur.

    image: uint8 (height, width, 3); kernel: side in pixels, odd. Returns uint8, same shape.
    Raises DataError for an even kernel.
    """
    _check_odd(kernel)
    return np.asarray(cv2.GaussianBlur(image, (kernel, kernel), 0))


def eroded(image: UInt8Array, kernel: int = 3) -> UInt8Array:
    """Erode an image: each pixel becomes the darkest of the square around it, each channel by itself.

    image: uint8 (height, width, 3); kernel: side of the square in pixels, odd. Returns uint8, same shape.
    Raises DataError for an even kernel.
    """
    _check_odd(kernel)
    return np.asarray(cv2.erode(image, np.ones((kernel, kernel), np.uint8)))


def shades_of_grey(image: UInt8Array, power: float = 6.0) -> UInt8Array:
    """Take out the colour of the light: scale each channel until their Minkowski means are alike.

    image: uint8 (height, width, 3) RGB; power: Minkowski's, 1 is grey world. Returns uint8, same shape.
    Source: Finlayson and Trezzi, "Shades of gray and colour constancy", CIC 2004.
    """
    levels = np.arange(256)
    counts = [np.bincount(image[:, :, channel].ravel(), minlength=256) for channel in range(3)]
    light = np.array([(count @ (levels / 255) ** power / count.sum()) ** (1 / power) for count in counts])
    if not light.all():  # a channel of nothing but zeros tells nothing of the light
        return image.copy()
    gains = np.linalg.norm(light) / math.sqrt(3) / light
    table = np.rint(levels[:, None] * gains).clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]))


def remove_hair(image: UInt8Array) -> UInt8Array:
    """Paint over dark hairs with the skin around them.

    A hair is what a closing along some direction brightens, more than other fine lines nearby, and what runs
    straight for a ninth of the shorter side.
    image: uint8 (height, width, 3) RGB. Returns uint8, same shape.
    Source: after Lee et al., "DullRazor", Computers in Biology and Medicine 27, 1997,
    doi:10.1016/S0010-4825(97)00020-6; painted by Telea's method, doi:10.1080/10867651.2004.10487596.
    """
    hair = _hair_mask(image)
    return np.asarray(cv2.inpaint(image, hair, 3, cv2.INPAINT_TELEA)) if hair.any() else image.copy()


def prepare(image: UInt8Array, settings: ImageSettings) -> UInt8Array:
    """Apply what a recipe asks for: `process`, then its filters in their order; the cache keeps this.

    image: uint8 (height, width, 3) RGB. Returns uint8 (size_px, size_px, 3).
    Raises DataError as the filters do.
    """
    pixels = process(image, settings.size_px, settings.crop)
    for name in settings.filters:
        pixels = FILTERS[name](pixels, settings)
    return pixels


def preprocess(image: UInt8Array | str | Path, settings: ImageSettings) -> Float32Array:
    """Prepare an image as `prepare` does and normalise it.

    image: uint8 (height, width, 3) RGB, or a path. Returns float32 (size_px, size_px, 3) in [0, 1].
    Raises DataError as `as_image` and the filters do.
    """
    return prepare(as_image(image, settings.size_px), settings).astype(np.float32) / np.float32(255)


def _check_odd(kernel: int) -> None:
    if kernel < 1 or kernel % 2 == 0:
        raise DataError(
            f"a filter's kernel of {kernel} px has no middle pixel: set an odd number, such as {kernel + 1}"
        )


def _hair_mask(image: UInt8Array) -> UInt8Array:
    side = min(image.shape[:2])
    reach, length = max(5, _odd(side * _HAIR_REACH)), max(9, _odd(side * _HAIR_LENGTH))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    closed = np.max([cv2.morphologyEx(grey, cv2.MORPH_CLOSE, line) for line in _lines(reach, 4)], axis=0)
    darker = cv2.subtract(closed, grey)
    surroundings = cv2.blur(darker.astype(np.float32), (_odd(side * _HAIR_SURROUNDINGS),) * 2)
    fine = ((darker > _HAIR_CONTRAST) & (darker > _HAIR_PROMINENCE * surroundings)).astype(np.uint8)
    fine = cv2.dilate(fine, np.ones((3, 3), np.uint8))  # room for a hair to bend, and for its blurred rim
    straight = [cv2.morphologyEx(fine, cv2.MORPH_OPEN, line) for line in _lines(length, 12)]
    return np.asarray(np.max(straight, axis=0))


def _odd(length: float) -> int:
    return 2 * int(length / 2) + 1


def _lines(length: int, directions: int) -> list[UInt8Array]:
    """Draw straight structuring elements: uint8 (length, length), ones along evenly spread directions."""
    middle, elements = length // 2, []
    for angle in np.arange(directions) * math.pi / directions:
        across, down = round(middle * math.cos(angle)), round(middle * math.sin(angle))
        element = np.zeros((length, length), np.uint8)
        cv2.line(element, (middle - across, middle - down), (middle + across, middle + down), 1)
        elements.append(element)
    return elements


FILTERS: dict[str, Callable[[UInt8Array, ImageSettings], UInt8Array]] = {
    "shades_of_grey": lambda image, settings: shades_of_grey(image),
    "remove_hair": lambda image, settings: remove_hair(image),
    "no_noise": lambda image, settings: no_noise(image, settings.blur_kernel_px),
    "eroded": lambda image, settings: eroded(image, settings.erosion_kernel_px),
}
