"""Draw one dermoscopy-like picture: skin, a lesion, hairs and a ruler over them, seen by a camera.

Colour is absorption, as in skin: what melanin and blood let through comes back, so brown darkens to black and red
by itself. What differs by class comes in as `Traits`; skin, darkness, hairs and camera do not depend on it.
It knows nothing of tables, files and patients, and it is a drawing, not a simulation of optics.
Inside, a picture is three planes: float32 (3, height, width), 1 is white.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]  # float32; the type hints of NumPy widen it
UInt8Array = NDArray[np.uint8]
Shape = tuple[int, int]


def _rgb(red: float, green: float, blue: float) -> FloatArray:
    return np.array([red, green, blue], np.float32).reshape(3, 1, 1)


# How strongly red, green and blue are absorbed by one unit of each pigment: the ratios give the usual browns and reds.
MELANIN = _rgb(0.52, 0.95, 1.45)
BLOOD = _rgb(0.10, 0.85, 0.70)
SKIN = _rgb(0.97, 0.90, 0.84)  # reflectance without pigment
BLUE_GREY = _rgb(0.40, 0.42, 0.49)  # melanin deep in the skin scatters blue back
HAIR = _rgb(0.10, 0.06, 0.05)


@dataclass(frozen=True)
class Camera:
    """A dermatoscope: its picture size, its colours and its faults."""

    width_px: int
    height_px: int
    cast: tuple[float, float, float]  # gain of red, green, blue
    contrast: float
    tube: float  # share of pictures that show the dark edge of a round tube
    blur_px: float
    noise: float  # standard deviation, 1 is white
    jpeg_quality: int


@dataclass(frozen=True)
class Traits:
    """What dermatologists look at, each from 0 (calm) to 1 (disordered)."""

    size: float
    asymmetry: float  # of the outline
    border: float  # notches and bays
    arrangement: float  # pigment in rings around the centre, or in patches anywhere
    colours: float  # contrast of the browns; blue-grey, red, black and white beside them
    structure: float  # network and globules even all over, or broken


def draw(rng: Generator, camera: Camera, tone: float, traits: Traits) -> UInt8Array:
    """Draw a lesion on skin as `camera` sees it.

    `tone` is the melanin of the skin, 0.05 (very fair) to 0.9 (dark).
    Returns image: uint8 (camera.height_px, camera.width_px, 3) RGB.
    """
    shape = (camera.height_px, camera.width_px)
    lesion = _outline(rng, shape, traits)
    melanin, blood = _skin(rng, shape, tone)
    melanin += _pigment(rng, lesion, traits)
    blood += rng.uniform(0, 0.3) * lesion.inside
    blue, red, black, white = (_patch(rng, lesion, traits) for _ in range(4))
    melanin = (melanin + 1.1 * black) * (1 - 0.8 * white)
    blood += 0.7 * red
    light = -melanin * MELANIN
    light -= blood * BLOOD
    light = np.exp(light, out=light) * SKIN
    light += 0.7 * blue * (BLUE_GREY - light)
    light = _hairs(rng, light)
    light = _ruler(rng, _bubbles(rng, light))
    return _photographed(rng, light, camera)


# ---------------------------------------------------------------- noise


def _noise(rng: Generator, shape: Shape, scale_px: float) -> FloatArray:
    """Return smooth noise, mean about 0 and standard deviation about 1, in blobs about `scale_px` wide."""
    rows, columns = (max(4, round(2 * side / scale_px) + 2) for side in shape)
    grid = cv2.GaussianBlur(rng.standard_normal((rows, columns), dtype=np.float32), (0, 0), 0.9)
    grid = (grid - grid.mean()) / grid.std()
    field: FloatArray = cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return field


def _clouds(rng: Generator, shape: Shape, scale_px: float) -> FloatArray:
    """Return noise of three sizes, the smaller the weaker; mean about 0, standard deviation about 1."""
    shrink = 2 / max(2.5, scale_px / 5.3)  # summed where the finest blobs are two pixels wide, then enlarged once
    small = (round(shape[0] * shrink) + 2, round(shape[1] * shrink) + 2)
    wide, middle, fine = (_noise(rng, small, max(2.0, scale_px * shrink / 2.3**size)) for size in range(3))
    total = 0.82 * wide + 0.49 * middle + 0.29 * fine
    field: FloatArray = cv2.resize(total, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return field


def _step(field: FloatArray, width: float) -> FloatArray:
    """Return a soft step, 0 where `field` is below zero and 1 above, over about four times `width`."""
    step: FloatArray = 0.5 + 0.5 * np.tanh(field * (0.5 / width))
    return step


def _cells(rng: Generator, shape: Shape, cell_px: float, jitter: float) -> tuple[FloatArray, FloatArray]:
    """Cut the plane into cells around jittered points: their walls in [0, 1], the way to the point in pixels."""
    rows, columns = (np.arange(0, side + cell_px, cell_px) for side in shape)
    points = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
    points[::2, :, 1] += cell_px / 2  # a honeycomb where there is no jitter
    points += rng.uniform(-0.5, 0.5, points.shape) * cell_px * jitter
    at = np.clip(np.round(points), 0, np.array(shape) - 1).astype(int)
    empty = np.ones(shape, np.uint8)
    empty[at[..., 0], at[..., 1]] = 0
    distance, owner = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    wall = np.zeros(shape, np.float32)
    wall[:-1] += owner[:-1] != owner[1:]
    wall[:, :-1] += owner[:, :-1] != owner[:, 1:]
    return np.minimum(cv2.GaussianBlur(wall, (0, 0), 0.15 * cell_px) * (0.26 * cell_px), 1), distance


# ---------------------------------------------------------------- skin and lesion


def _skin(rng: Generator, shape: Shape, tone: float) -> tuple[FloatArray, FloatArray]:
    """Return the melanin and the blood of plain skin, float32 `shape`: blotches, furrows, fine vessels."""
    furrows, _ = _cells(rng, shape, rng.uniform(9, 16), 0.9)
    melanin = tone * (1 + 0.08 * _clouds(rng, shape, 60) + 0.05 * _noise(rng, shape, 3))
    melanin += rng.uniform(-0.02, 0.045) * furrows * (1 + 0.5 * _noise(rng, shape, 40))
    vessels = np.exp(-((_noise(rng, shape, rng.uniform(25, 45)) / 0.12) ** 2))
    blood = rng.uniform(0.04, 0.24) * (1 + rng.uniform(0.05, 0.22) * _clouds(rng, shape, 40))
    blood += rng.uniform(0, 0.12) * vessels * _step(_noise(rng, shape, 50), 0.3)
    return melanin, blood


@dataclass(frozen=True)
class _Lesion:
    """Where a lesion lies, for each pixel: float32 (height, width)."""

    x: FloatArray  # place from the centre, 1 is the mean radius
    y: FloatArray
    angle: FloatArray
    depth: FloatArray  # 1 at the centre, 0 on the outline, negative outside
    inside: FloatArray  # 0 to 1, soft at the border
    radius_px: float


def _outline(rng: Generator, shape: Shape, traits: Traits) -> _Lesion:
    """Lay an ellipse with waves, bays and a one-sided bulge onto the picture."""
    radius = min(shape) * (0.22 + 0.20 * traits.size)
    middle = [side * 0.5 + rng.normal(0, 0.05) * min(shape) for side in shape]
    rows, columns = np.indices(shape, dtype=np.float32)
    down, right = (rows - middle[0]) / radius, (columns - middle[1]) / radius
    turn, stretch = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform(1.0, 1.35))
    x = (right * math.cos(turn) + down * math.sin(turn)) / stretch
    y = (down * math.cos(turn) - right * math.sin(turn)) * stretch
    angle = np.arctan2(y, x)
    depth = 1 - np.hypot(x, y) / _radius(rng, angle, traits)
    depth += (0.01 + 0.22 * traits.border) * _clouds(rng, shape, 0.5 * radius)
    depth += (0.01 + 0.05 * traits.border) * _noise(rng, shape, 5)
    softness = rng.uniform(0.018, 0.09) * np.exp(0.5 * _noise(rng, shape, radius))
    return _Lesion(x, y, angle, depth, 0.5 + 0.5 * np.tanh(0.5 * depth / softness), radius)


def _radius(rng: Generator, angle: FloatArray, traits: Traits) -> FloatArray:
    """Return how far the outline is from the centre at each angle: waves all round, one bulge for asymmetry."""
    around = np.linspace(-math.pi, math.pi, 721, dtype=np.float32)
    radius = np.ones_like(around)
    for waves in range(2, 7):
        size = rng.normal(0, 0.01 + 0.12 * traits.border) / math.sqrt(waves)
        radius += size * np.cos(waves * around + rng.uniform(0, 2 * math.pi))
    towards = np.cos(around - rng.uniform(0, 2 * math.pi)) - 1
    radius += 0.9 * traits.asymmetry * (np.exp(towards / rng.uniform(0.1, 0.4)) - 0.3)
    return np.clip(radius, 0.3, 2)[((angle + math.pi) * (720 / (2 * math.pi))).astype(np.int32)]


def _pigment(rng: Generator, lesion: _Lesion, traits: Traits) -> FloatArray:
    """Return the lesion's melanin, float32: rings or patches, under a network or globules."""
    shape = lesion.depth.shape
    waves, start = rng.uniform(2.5, 6.5), rng.choice([0.0, math.pi]).item()
    ring = 1.2 * np.cos(start + waves * np.clip(lesion.depth, 0, 1))
    side = rng.uniform(0, 2 * math.pi)
    patch = lesion.x * math.cos(side) + lesion.y * math.sin(side) + 0.9 * _clouds(rng, shape, 0.5 * lesion.radius_px)
    share = traits.arrangement
    spread = ((1 - share) * ring + share * patch) / math.hypot(1 - share, share)
    level = math.exp(rng.uniform(math.log(0.45), math.log(1.8)))
    uneven = np.exp((rng.uniform(0.15, 0.3) + 0.35 * traits.colours) * spread + 0.16 * _clouds(rng, shape, 14))
    melanin: FloatArray = lesion.inside * level * uneven * _texture(rng, lesion, traits)
    return melanin


def _texture(rng: Generator, lesion: _Lesion, traits: Traits) -> FloatArray:
    """Return what multiplies melanin, mean about 1: a network, globules, or streaks at the rim."""
    shape = lesion.depth.shape
    cell = max(3.5, lesion.radius_px * rng.uniform(0.07, 0.14))
    pattern, distance = _cells(rng, shape, cell, 0.65 + 0.35 * traits.structure)
    kind = rng.integers(0, 4)  # a network twice as often as globules or streaks
    if kind == 0:
        pattern = _step(0.3 * cell - distance, 0.7)
    if kind == 1:
        rays = np.sin(lesion.angle * rng.integers(18, 30).item() + _noise(rng, shape, 9))
        pattern = _step(rays, 0.4) * np.exp(-(((lesion.depth - 0.12) / 0.17) ** 2))
    broken = 2 * _step(_noise(rng, shape, 0.6 * lesion.radius_px), 0.25)
    strength = rng.uniform(0.15, 0.6) * (1 - traits.structure + traits.structure * broken)
    factor: FloatArray = 1 + strength * (pattern - pattern.mean())
    return factor


def _patch(rng: Generator, lesion: _Lesion, traits: Traits) -> FloatArray:
    """Return where a lesion has one more colour, 0 to 1: the calmer, the rarer and the nearer to its centre."""
    far, angle = traits.arrangement * rng.uniform(0.3, 0.9), rng.uniform(0, 2 * math.pi)
    if rng.random() > 1.2 * traits.colours - 0.2:
        return np.zeros_like(lesion.inside)
    gap = np.hypot(lesion.x - far * math.cos(angle), lesion.y - far * math.sin(angle))
    uneven = 0.22 * _clouds(rng, gap.shape, 0.5 * lesion.radius_px)
    return rng.uniform(0.35, 1.0) * _step(rng.uniform(0.2, 0.5) - gap + uneven, 0.09) * lesion.inside


# ---------------------------------------------------------------- what lies on the skin


def _stroke(ink: UInt8Array, line: FloatArray, strength: int, width_px: int) -> None:
    """Draw a smooth line through the points (x, y), pixels; OpenCV takes them in sixteenths of a pixel."""
    points = np.round(line * 16).astype(np.int32)
    cv2.polylines(ink, [points], False, strength, width_px, cv2.LINE_AA, shift=4)


def _hairs(rng: Generator, light: FloatArray) -> FloatArray:
    """Lay no, few or many hairs over the picture, combed roughly one way."""
    many = rng.integers(0, 4)  # half of the pictures have none
    count = rng.integers(1, 6) if many == 2 else rng.integers(6, 22) * (many == 3)
    if count == 0:
        return light
    ink = np.zeros(light.shape[1:], np.uint8)
    size = np.array(ink.shape[::-1])
    heading, along = rng.uniform(0, math.pi), np.linspace(0, 1, 24)[:, None]
    for _ in range(count):
        angle = heading + rng.normal(0, 0.5)
        start = rng.uniform(-0.1, 1.1, 2) * size
        end = start + np.array([math.cos(angle), math.sin(angle)]) * size * rng.uniform(0.3, 0.9)
        bow = (start + end) / 2 + rng.normal(0, 0.16, 2) * size
        curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * bow + along**2 * end
        _stroke(ink, curve, strength=int(rng.integers(110, 256)), width_px=1 + int(rng.random() < 0.2))
    cover = cv2.GaussianBlur(ink, (0, 0), 0.6) * np.float32(1 / 255)
    covered: FloatArray = light + cover * (HAIR + rng.uniform(0, 0.15) - light)
    return covered


def _ruler(rng: Generator, light: FloatArray) -> FloatArray:
    """Print the millimetre marks of a contact plate near the upper or lower edge of some pictures."""
    if rng.random() > 0.2:
        return light
    ink = np.zeros(light.shape[1:], np.uint8)
    gap, tilt = rng.uniform(5, 8), rng.normal(0, 0.12)
    along, across = np.array([math.cos(tilt), math.sin(tilt)]), np.array([-math.sin(tilt), math.cos(tilt)])
    start = np.array([rng.uniform(0.05, 0.4), rng.choice([0.06, 0.88])]) * ink.shape[::-1]
    for mark in range(int(rng.integers(10, 24))):
        foot = start + along * gap * mark
        tip = foot + across * gap * (1.6 if mark % 5 == 0 else 0.9)
        _stroke(ink, np.stack([foot, tip]), strength=150, width_px=1)
    return light * (1 - ink * np.float32(1 / 255))


def _bubbles(rng: Generator, light: FloatArray) -> FloatArray:
    """Leave air bubbles in the gel of some pictures: a bright rim and a glint."""
    if rng.random() > 0.25:
        return light
    glow = np.zeros(light.shape[1:], np.uint8)
    for _ in range(int(rng.integers(2, 12))):
        at, size = (rng.uniform(0, 1, 2) * glow.shape[::-1]).astype(int), int(rng.integers(2, 8))
        cv2.circle(glow, at.tolist(), size, 90, 1, cv2.LINE_AA)
        cv2.circle(glow, (at - size // 2).tolist(), max(1, size // 4), 230, -1, cv2.LINE_AA)
    shine: FloatArray = cv2.GaussianBlur(glow, (0, 0), 0.7) * np.float32(0.8 / 255)
    return light + shine * (1 - light)


def _photographed(rng: Generator, light: FloatArray, camera: Camera) -> UInt8Array:
    """Return the picture with the camera's lamp, colours, dark edge, blur and noise, as uint8."""
    rows, columns = np.indices(light.shape[1:], dtype=np.float32)
    down, right = (side * (0.5 + rng.normal(0, 0.02)) for side in light.shape[1:])
    away = np.hypot(rows - down, columns - right) / (camera.width_px / 2)
    lamp = rng.uniform(0.95, 1.2) * (1 - rng.uniform(0.02, 0.2) * away**2)
    if rng.random() < camera.tube:
        lamp = lamp * _step(rng.uniform(0.92, 1.15) - away, 0.012) + 0.015
    grain = camera.noise * rng.standard_normal(away.shape, dtype=np.float32)
    gain = _rgb(*camera.cast) * rng.normal(1, 0.025, (3, 1, 1)).astype(np.float32)
    planes = []
    for plane, factor in zip(light, (camera.contrast * gain).ravel(), strict=True):
        seen = np.clip(plane * factor + 0.6 * (1 - camera.contrast), 0, 1) * lamp
        seen = cv2.GaussianBlur(seen, (0, 0), camera.blur_px) + grain
        planes.append(np.clip(seen * 255 + 0.5, 0, 255).astype(np.uint8))
    image: UInt8Array = cv2.merge(planes)
    return image
