"""Where a network looked: class activation maps over the lesion, from the bundle alone.

With global average pooling and one dense layer the map is Grad-CAM without gradients: each place's share of the logit
(Zhou et al. 2016, arXiv:1512.04150; Selvaraju et al. 2017, arXiv:1610.02391). Where a network also sees age, sex and
site, the map is of the image's share of the logit.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from melanoma.errors import DataError, printable
from melanoma.images.decode import as_image, decode
from melanoma.images.photograph import UInt8Array
from melanoma.inference.predict import Predictor, Source
from melanoma.inference.words import Answer, Details, in_percent

RED, BLUE = np.array([213.0, 94.0, 0.0]), np.array([0.0, 114.0, 178.0])  # for melanoma, against: told apart by most
COVER = 0.6  # of the colour where a place speaks most
PANEL_PX, MARGIN_PX, TEXT_PX = 420, 24, 17
INK, QUIET, PAPER = (32, 36, 42), (92, 98, 106), (255, 255, 255)
NOTE = (
    "Red places speak for a score above the operating point, blue for one below. It shows where the network looked, "
    "not why, and proves nothing."
)


@dataclass(frozen=True)
class Explanation:
    """An answer with what it was drawn from.

    answer: with its activation_map, float32 (rows, columns). original: uint8 (height, width, 3) RGB; image: uint8
    (size_px, size_px, 3), as the first network sees it. middle: as `middle_of` gives it.
    """

    answer: Answer
    original: UInt8Array
    image: UInt8Array
    middle: float

    @property
    def overlay(self) -> UInt8Array:
        """The map over the image: uint8 (size_px, size_px, 3)."""
        return overlaid(self.image, _map_of(self.answer), self.middle)

    @property
    def colours(self) -> UInt8Array:
        """The map alone, as colour and opacity to lay over the image: uint8 (size_px, size_px, 4) RGBA."""
        strength = _strength(_map_of(self.answer), self.image.shape[:2], self.middle)
        opacity = np.clip(np.abs(strength), 0, 1)[..., None] * 255
        return np.concatenate([np.where(strength[..., None] > 0, RED, BLUE), opacity], axis=2).astype(np.uint8)


def explain(predictor: Predictor, image: Source, details: Details | None = None, name: str = "") -> Explanation:
    """Answer for one picture, with what it was drawn from; raises DataError where it cannot be read.

    image: a path, the bytes of a file, or an array uint8 (height, width, 3) RGB; name: what messages call it.
    """
    name = name or (str(image) if isinstance(image, str | Path) else "the image")
    (answer,) = predictor.stream([(name, image, details)], maps=True)
    if answer.error is not None:
        raise DataError(answer.error)
    seen = predictor.read(name, image).images[0]
    if isinstance(image, np.ndarray):
        original = as_image(image)
    else:
        original = decode(Path(image) if isinstance(image, str) else image, PANEL_PX, name)
    return Explanation(answer, original, seen, middle_of(answer, predictor.answers["threshold"]))


def middle_of(answer: Answer, threshold: float) -> float:
    """Return the share of the logit at which a place speaks neither for a score above the operating point nor below.

    The mean over places is then above it exactly where the score is above the threshold, also where age, sex and site
    or the mean over several networks add something that no place shows.
    """
    return logit(threshold) if answer.score is None else middle(answer.score, _map_of(answer), threshold)


def middle(score: float, activation_map: NDArray[np.float32], threshold: float) -> float:
    """Return what `middle_of` does, of a score in [0, 1] and its map, float32 (rows, columns)."""
    return logit(threshold) - (logit(score) - float(activation_map.mean()))


def overlaid(image: UInt8Array, activation_map: NDArray[np.float32], middle: float = 0.0) -> UInt8Array:
    """Lay an activation map over a picture: red where a place speaks for melanoma, blue where it speaks against.

    image: uint8 RGB (height, width, 3); activation_map: float32 (rows, columns), each place's share of the logit;
    middle: the logit that speaks for neither. The strongest place, either way, is coloured most; the same shape as the
    image comes out.
    """
    strength = _strength(activation_map, image.shape[:2], middle)
    colour = np.where(strength[..., None] > 0, RED, BLUE)
    cover = np.clip(np.abs(strength), 0, 1)[..., None] * COVER
    grey = image.mean(axis=2, keepdims=True)  # what is coloured must not be mistaken for the lesion's own colour
    return np.asarray(grey * (1 - cover) + colour * cover, np.uint8)


def sheet(explanation: Explanation, title: str = "", footer: str = "") -> bytes:
    """Draw the original, what the network saw of it, and the map over that, side by side: a PNG."""
    answer = explanation.answer
    panels = [
        ("Original", explanation.original),
        ("What the network saw", explanation.image),
        ("Where it looked", explanation.overlay),
    ]
    width = len(panels) * PANEL_PX + (len(panels) + 1) * MARGIN_PX
    font, small = ImageFont.load_default(TEXT_PX), ImageFont.load_default(TEXT_PX - 3)
    lines = [*_wrapped(_headline(answer), font, width), *_wrapped(answer.words, small, width)]
    quiet = [line for text in (*answer.remarks, NOTE, footer) for line in _wrapped(text, small, width)]
    step = TEXT_PX + 8
    head = MARGIN_PX + (step if title else 0) + step * len(lines) + MARGIN_PX // 2
    height = head + PANEL_PX + 2 * step + step * len(quiet) + MARGIN_PX
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    top = MARGIN_PX
    if title:
        draw.text((MARGIN_PX, top), printable(title), fill=QUIET, font=small)
        top += step
    for number, line in enumerate(lines):
        draw.text((MARGIN_PX, top), line, fill=INK, font=font if number == 0 else small)
        top += step
    for number, (caption, pixels) in enumerate(panels):
        left = MARGIN_PX + number * (PANEL_PX + MARGIN_PX)
        shown = _fitted(pixels)
        place = left + (PANEL_PX - shown.width) // 2, head + (PANEL_PX - shown.height) // 2
        page.paste(shown, place)
        draw.text((left, head + PANEL_PX + 8), caption, fill=INK, font=small)
    for number, line in enumerate(quiet):
        draw.text((MARGIN_PX, head + PANEL_PX + 2 * step + number * step), line, fill=QUIET, font=small)
    return png(np.asarray(page))


def png(pixels: UInt8Array) -> bytes:
    """Write uint8 (height, width, 3 or 4) as PNG."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def _map_of(answer: Answer) -> NDArray[np.float32]:
    assert answer.activation_map is not None
    return answer.activation_map


def logit(probability: float) -> float:
    """Return the logit of a probability, which is kept a little off 0 and 1."""
    kept = min(max(probability, 1e-7), 1 - 1e-7)
    return math.log(kept / (1 - kept))


def _strength(activation_map: NDArray[np.float32], shape: tuple[int, ...], middle: float) -> NDArray[np.float32]:
    """Enlarge a map to an image's (height, width), its strongest place at 1 or -1, `middle` at 0."""
    size, away = (shape[1], shape[0]), activation_map.astype(np.float32) - np.float32(middle)
    larger = cv2.resize(away, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(larger / max(float(np.abs(away).max()), 1e-6), np.float32)


def _headline(answer: Answer) -> str:
    if answer.probability is None:
        return "Not assessable"
    return f"{answer.status.capitalize()}: probability of melanoma {in_percent(answer.probability)}"


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    lines: list[str] = []
    for word in printable(text).replace("×", "x").split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width - 2 * MARGIN_PX:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _fitted(pixels: UInt8Array) -> Image.Image:
    image = Image.fromarray(pixels)
    scale = PANEL_PX / max(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
