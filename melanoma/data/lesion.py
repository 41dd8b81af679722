"""Draw one dermoscopy-like picture: skin, a lesion on it, hairs and rulers over it, and the camera that saw it.

Colour is absorption, as in skin: light that melanin and blood let through comes back, so brown darkens to black and
red by itself. What differs by class comes in as `Traits`; skin, darkness, size, hairs and camera do not depend on it.
It knows nothing of tables, files and patients, and it is a drawing, not a simulation of optics.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]
Shape = tuple[int, int]

# How strongly red, green and blue are absorbed by one unit of each pigment; the ratios give the usual browns and reds.
MELANIN = np.array([0.52, 0.95, 1.45], np.float32)
BLOOD = np.array([0.10, 0.85, 0.70], np.float32)
SKIN = np.array([0.97, 0.90, 0.84], np.float32)  # reflectance without pigment
BLUE_GREY = np.array([0.36, 0.41, 0.50], np.float32)  # melanin deep in the skin scatters blue back
RED = np.array([1.0, 0.68, 0.68], np.float32)  # gain: vessels under the pigment
SCAR = np.array([0.88, 0.74, 0.70], np.float32)  # regression: the pigment is gone


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
    colours: float  # blue-grey, red, white and black beside brown
    structure: float  # network and globules even all over, or broken


def draw(rng: Generator, camera: Camera, tone: float, traits: Traits) -> UInt8Array:
    """Draw a lesion on skin as `camera` sees it.

    `tone` is the melanin of the skin, 0.05 (very fair) to 0.9 (dark).
    Returns image: uint8 (camera.height_px, camera.width_px, 3) RGB.
    """
    shape = (camera.height_px, camera.width_px)
    melanin, blood = _skin(rng, shape, tone)
    lesion = _outline(rng, shape, traits)
    melanin += _pigment(rng, lesion, traits)
    blood += rng.uniform(0, 0.3) * lesion.inside
    light = np.exp(-melanin[..., None] * MELANIN - blood[..., None] * BLOOD) * SKIN
    light = _extra_colours(rng, light, lesion, traits)
    light = _hairs(rng, light)
    light = _ruler(rng, _bubbles(rng, light))
    return _photographed(rng, light, camera)


# ---------------------------------------------------------------- noise


def _noise(rng: Generator, shape: Shape, scale_px: float) -> Float32Array:
    """Return smooth noise, mean about 0 and standard deviation about 1, in blobs about `scale_px` wide."""
    rows, columns = (max(4, round(2 * side / scale_px) + 2) for side in shape)
    grid = cv2.GaussianBlur(rng.standard_normal((rows, columns), dtype=np.float32), (0, 0), 0.9)
    grid = (grid - grid.mean()) / grid.std()
    return cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _clouds(rng: Generator, shape: Shape, scale_px: float) -> Float32Array:
    """Return noise of three sizes, the smaller the weaker; mean about 0, standard deviation about 1."""
    wide, middle, fine = (_noise(rng, shape, max(2.5, scale_px / 2.3**size)) for size in range(3))
    return 0.82 * wide + 0.49 * middle + 0.29 * fine


def _step(field: Float32Array, width: float) -> Float32Array:
    """Return a soft step, 0 where `field` is below zero and 1 above, over about four times `width`."""
    return 0.5 + 0.5 * np.tanh(field * (0.5 / width))


def _cells(rng: Generator, shape: Shape, cell_px: float, jitter: float) -> tuple[Float32Array, Float32Array]:
    """Cut the plane into cells around jittered points: their walls in [0, 1], and the way to the point in pixels."""
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


def _skin(rng: Generator, shape: Shape, tone: float) -> tuple[Float32Array, Float32Array]:
    """Return the melanin and the blood of plain skin, both float32 `shape`: blotches, furrows, fine vessels."""
    furrows, _ = _cells(rng, shape, rng.uniform(9, 16), 0.9)
    melanin = tone * (1 + 0.08 * _clouds(rng, shape, 60) + 0.05 * _noise(rng, shape, 3))
    melanin += rng.uniform(-0.02, 0.045) * furrows * (1 + 0.5 * _noise(rng, shape, 40))
    vessels, _ = _cells(rng, shape, rng.uniform(28, 45), 1.0)
    blood = rng.uniform(0.04, 0.24) * (1 + rng.uniform(0.05, 0.22) * _clouds(rng, shape, 40))
    blood += rng.uniform(0, 0.12) * vessels * _step(_noise(rng, shape, 50), 0.3)
    return melanin, blood


@dataclass(frozen=True)
class _Lesion:
    """Where a lesion lies, for each pixel: float32 (height, width)."""

    x: Float32Array  # place from the centre, 1 is the mean radius
    y: Float32Array
    angle: Float32Array
    depth: Float32Array  # 1 at the centre, 0 on the outline, negative outside
    inside: Float32Array  # 0 to 1, soft at the border
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


def _radius(rng: Generator, angle: Float32Array, traits: Traits) -> Float32Array:
    """Return the outline's distance from the centre at each angle: waves for the border, one bulge for asymmetry."""
    around = np.linspace(-math.pi, math.pi, 721, dtype=np.float32)
    radius = np.ones_like(around)
    for waves in range(2, 7):
        size = rng.normal(0, 0.01 + 0.12 * traits.border) / math.sqrt(waves)
        radius += size * np.cos(waves * around + rng.uniform(0, 2 * math.pi))
    towards = np.cos(around - rng.uniform(0, 2 * math.pi)) - 1
    radius += 0.9 * traits.asymmetry * (np.exp(towards / rng.uniform(0.1, 0.4)) - 0.3)
    return np.clip(radius, 0.3, 2)[((angle + math.pi) * (720 / (2 * math.pi))).astype(np.int32)]


def _pigment(rng: Generator, lesion: _Lesion, traits: Traits) -> Float32Array:
    """Return the lesion's melanin, float32: rings or patches, under a network or globules."""
    shape = lesion.depth.shape
    waves, start = rng.uniform(2.5, 6.5), rng.choice([0.0, math.pi]).item()
    ring = 1.2 * np.cos(start + waves * np.clip(lesion.depth, 0, 1))
    side = rng.uniform(0, 2 * math.pi)
    patch = (
        lesion.x * math.cos(side)
        + lesion.y * math.sin(side)
        + 0.9 * _clouds(rng, shape, 0.5 * lesion.radius_px)
    )
    share = traits.arrangement
    spread = ((1 - share) * ring + share * patch) / math.hypot(1 - share, share)
    level = math.exp(rng.uniform(math.log(0.45), math.log(1.8)))
    uneven = np.exp((rng.uniform(0.15, 0.3) + 0.35 * traits.colours) * spread + 0.16 * _clouds(rng, shape, 14))
    return lesion.inside * level * uneven * _texture(rng, lesion, traits)


def _texture(rng: Generator, lesion: _Lesion, traits: Traits) -> Float32Array:
    """Return the pattern that multiplies melanin, mean about 1: a network, globules, or streaks at the rim."""
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
    return 1 + strength * (pattern - pattern.mean())


def _extra_colours(rng: Generator, light: Float32Array, lesion: _Lesion, traits: Traits) -> Float32Array:
    """Lay blue-grey, red, white and black patches into a lesion; the calmer, the fewer and the nearer its centre."""
    for colour in (BLUE_GREY, light * RED, SCAR, light * np.float32(0.45)):
        if rng.random() > 1.2 * traits.colours - 0.2:
            continue
        far, angle = traits.arrangement * rng.uniform(0.3, 0.9), rng.uniform(0, 2 * math.pi)
        gap = np.hypot(lesion.x - far * math.cos(angle), lesion.y - far * math.sin(angle))
        uneven = 0.22 * _clouds(rng, gap.shape, 0.5 * lesion.radius_px)
        cover = rng.uniform(0.25, 0.7) * _step(rng.uniform(0.2, 0.5) - gap + uneven, 0.09) * lesion.inside
        light = light + cover[..., None] * (colour - light)
    return light


# ---------------------------------------------------------------- what lies on the skin


def _hairs(rng: Generator, light: Float32Array) -> Float32Array:
    """Lay no, few or many hairs over the picture."""
    count = int(rng.choice([0, 0, rng.integers(1, 6), rng.integers(6, 22)]))
    ink, fixed = np.zeros(light.shape[:2], np.uint8), 16  # sixteenths of a pixel: OpenCV's `shift`
    heading, length = rng.uniform(0, math.pi), np.array(light.shape[1::-1]) * rng.uniform(0.5, 1.1)
    along = np.linspace(0, 1, 24)[:, None]
    for _ in range(count):
        angle = heading + rng.normal(0, 0.5)
        start = rng.uniform(-0.1, 1.1, 2) * light.shape[1::-1]
        end = start + np.array([math.cos(angle), math.sin(angle)]) * length * rng.uniform(0.4, 1)
        bow = (start + end) / 2 + rng.normal(0, 0.22, 2) * length
        curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * bow + along**2 * end
        cv2.polylines(
            ink,
            [np.round(curve * fixed).astype(np.int32)],
            False,
            int(rng.integers(110, 256)),
            1 + int(rng.random() < 0.2),
            cv2.LINE_AA,
            4,
        )
    hair = np.array([0.10, 0.06, 0.05], np.float32) + np.float32(rng.uniform(0, 0.15))
    cover = cv2.GaussianBlur(ink, (0, 0), 0.6).astype(np.float32)[..., None] / 255
    return light + cover * (hair - light) if count else light


def _ruler(rng: Generator, light: Float32Array) -> Float32Array:
    """Print the millimetre marks of a contact plate near one edge of some pictures."""
    if rng.random() > 0.2:
        return light
    height, width = light.shape[:2]
    ink, gap, tilt = np.zeros((height, width), np.uint8), rng.uniform(5, 8), rng.normal(0, 0.12)
    along, across = np.array([np.cos(tilt), np.sin(tilt)]), np.array([-np.sin(tilt), np.cos(tilt)])
    start = np.array([rng.uniform(0.05, 0.4) * width, rng.choice([0.06, 0.88]) * height])
    for mark in range(int(rng.integers(10, 24))):
        foot = start + along * gap * mark
        tip = foot + across * gap * (1.6 if mark % 5 == 0 else 0.9)
        ends = np.round(np.stack([foot, tip]) * 16).astype(np.int32)
        cv2.line(ink, ends[0].tolist(), ends[1].tolist(), 200, 1, cv2.LINE_AA, 4)
    return light * (1 - 0.75 * ink.astype(np.float32)[..., None] / 255)


def _bubbles(rng: Generator, light: Float32Array) -> Float32Array:
    """Leave air bubbles in the gel of some pictures: a bright rim and a glint."""
    if rng.random() > 0.25:
        return light
    glow = np.zeros(light.shape[:2], np.uint8)
    for _ in range(int(rng.integers(2, 12))):
        at = (rng.uniform(0, 1, 2) * light.shape[1::-1]).astype(int)
        size = int(rng.integers(2, 8))
        cv2.circle(glow, at.tolist(), size, 90, 1, cv2.LINE_AA)
        cv2.circle(glow, (at - size // 2).tolist(), max(1, size // 4), 230, -1, cv2.LINE_AA)
    return light + cv2.GaussianBlur(glow, (0, 0), 0.7).astype(np.float32)[..., None] / 255 * (1 - light) * 0.8


def _photographed(rng: Generator, light: Float32Array, camera: Camera) -> UInt8Array:
    """Return the picture with the camera's light, colours, dark edge, blur and noise, as uint8."""
    rows, columns = np.indices(light.shape[:2], dtype=np.float32)
    middle = [side * (0.5 + rng.normal(0, 0.02)) for side in light.shape[:2]]
    away = np.hypot(rows - middle[0], columns - middle[1]) / (camera.width_px / 2)
    shade = rng.uniform(0.95, 1.2) * (1 - rng.uniform(0.02, 0.2) * away**2)
    if rng.random() < camera.tube:
        shade = shade * _step(rng.uniform(0.92, 1.15) - away, 0.012) + 0.015
    gain = np.array(camera.cast, np.float32) * rng.normal(1, 0.025, 3).astype(np.float32)
    light = 0.6 + camera.contrast * (light * gain - 0.6)
    light = np.clip(light, 0, 1) * shade[..., None]
    light = cv2.GaussianBlur(light.astype(np.float32), (0, 0), camera.blur_px)
    light += camera.noise * rng.standard_normal(light.shape, dtype=np.float32)
    return np.clip(light * 255 + 0.5, 0, 255).astype(np.uint8)
