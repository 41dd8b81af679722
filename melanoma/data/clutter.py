"""Draws pictures that are no lesions: what a lesion photograph is told from, so that other pictures can be turned away.

Leaves that cover one another, noise like that of natural scenes, writing, patterns, balls, faces, horizons: such
drawings share with photographs what edges, colours and scales are like, and need no photograph of anything.
Source: Lee, Mumford and Huang 2001, doi:10.1023/A:1011109015675; Baradad et al. 2021, arXiv:2106.05963.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from melanoma.images.filters import shrunk

Pixels = NDArray[np.float32]
Generator = np.random.Generator
SIDE_PX = 128  # drawn at; what is asked for is at most this
ROUND = 40  # corners of what looks like a disc


def draw_clutter(count: int, side_px: int, seed: int) -> NDArray[np.uint8]:
    """Draw `count` pictures of no lesion: uint8 (count, side_px, side_px, 3) RGB, the same for a seed.

    side_px: at most 128.
    """
    kinds, shares = list(KINDS), np.array(list(KINDS.values()))
    pictures = np.empty((count, side_px, side_px, 3), np.uint8)
    for number in range(count):
        random = np.random.default_rng([seed, number])
        kind = kinds[random.choice(len(kinds), p=shares / shares.sum())]
        drawn = np.clip(kind(random), 0, 255).astype(np.uint8)
        pictures[number] = shrunk(np.ascontiguousarray(drawn), side_px, side_px)
    return pictures


def _ground(colour: NDArray[np.float64]) -> Pixels:
    return np.full((SIDE_PX, SIDE_PX, 3), colour, np.float32)


def _colour(random: Generator) -> NDArray[np.float64]:
    return random.uniform(0, 255, 3)


def _places() -> tuple[Pixels, Pixels]:
    down, across = np.mgrid[:SIDE_PX, :SIDE_PX].astype(np.float32) / SIDE_PX
    return down, across


def _scene(random: Generator) -> Pixels:
    """Noise whose amplitude falls with frequency, as in natural scenes; its channels more or less alike."""
    down, across = np.fft.fftfreq(SIDE_PX)[:, None], np.fft.rfftfreq(SIDE_PX)[None]
    amplitude = np.maximum(np.hypot(down, across), 1 / SIDE_PX) ** -random.uniform(0.7, 2.2)
    waves = [amplitude * np.exp(2j * np.pi * random.random(amplitude.shape)) for _ in range(3)]
    noise = np.stack([np.fft.irfft2(wave, (SIDE_PX, SIDE_PX)) for wave in waves], axis=-1)
    noise = (noise - noise.mean((0, 1))) / noise.std((0, 1))
    mixed = noise @ (np.eye(3) * random.uniform(0.2, 1) + random.uniform(0.2, 1))
    return np.asarray(random.uniform(60, 200, 3) + mixed * random.uniform(15, 45), np.float32)


def _leaves(random: Generator) -> Pixels:
    """Discs and polygons of every size that cover one another, under a slanted light, perhaps out of focus."""
    base, spread, grey = _colour(random), random.choice([15, 40, 90, 200]), random.random() < 0.2
    picture, count = _ground(_colour(random)), int(random.integers(3, 400))
    reach = SIDE_PX * np.clip(0.02 / (random.random(count) ** (2 / 3) + 0.02), 0.01, 0.8)[:, None]
    colours = np.repeat(random.uniform(0, 255, (count, 1)), 3, axis=1)
    if not grey:
        colours = np.clip(base + random.uniform(-1, 1, (count, 3)) * spread, 0, 255)
    corners, angles = random.choice([3, 4, ROUND], count), np.sort(random.uniform(0, 2 * np.pi, (count, 4)), axis=1)
    stretched = reach * random.uniform(0.6, 1.6, (count, 1))
    middle = random.uniform(0, SIDE_PX, (count, 1, 2))
    discs, polygons = (
        (middle + np.stack([stretched * np.cos(turns), reach * np.sin(turns)], axis=2)).astype(np.int32)
        for turns in (np.linspace(0, 2 * np.pi, ROUND), angles)
    )
    for number, colour in enumerate(colours.tolist()):
        outline = discs[number] if corners[number] == ROUND else polygons[number, : corners[number]]
        cv2.fillPoly(picture, [outline], colour, cv2.LINE_AA)
    if random.random() < 0.6:
        down, across = _places()
        slant = (across - 0.5) * random.normal() + (down - 0.5) * random.normal()
        picture *= (1 + 0.6 * slant)[..., None]
    if random.random() < 0.6:
        picture += (_scene(random) - 128) * random.uniform(0.05, 0.5)
    if random.random() < 0.5:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), random.uniform(0.5, 4)), np.float32)
    return picture


def _writing(random: Generator) -> Pixels:
    page, ink = _ground(random.uniform(215, 255, 3)).astype(np.uint8), random.uniform(0, 90, 3).tolist()
    size = random.uniform(0.2, 0.6)
    for line in np.arange(6, SIDE_PX, 26 * size):
        letters = "".join(random.choice(list("abcdeghilmnoprstu    "), 60))
        cv2.putText(page, letters, (4, int(line)), cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)
    return page.astype(np.float32)


def _pattern(random: Generator) -> Pixels:
    down, across = _places()
    angle, waves = random.uniform(0, np.pi), random.uniform(2, 30)
    along = np.sin(2 * np.pi * waves * (across * np.cos(angle) + down * np.sin(angle)))
    beside = np.sin(2 * np.pi * waves * (down * np.cos(angle) - across * np.sin(angle)))
    shape = [along, np.sign(along), np.sign(along * beside)][random.integers(3)]
    return np.asarray(_colour(random) + (shape[..., None] + 1) / 2 * (_colour(random) - _colour(random)), np.float32)


def _wall(random: Generator) -> Pixels:
    down, across = _places()
    light = 1 + random.normal() * 0.12 * (across - 0.5) + random.normal() * 0.12 * (down - 0.5)
    grain = random.normal(0, random.uniform(0.5, 6), (SIDE_PX, SIDE_PX, 3))
    return np.asarray(light[..., None] * random.uniform(60, 255, 3) + grain, np.float32)


def _noise(random: Generator) -> Pixels:
    channels = int(random.choice([1, 3]))
    return np.asarray(
        np.broadcast_to(random.uniform(0, 255, (SIDE_PX, SIDE_PX, channels)), (SIDE_PX, SIDE_PX, 3)), np.float32
    )


def _balls(random: Generator) -> Pixels:
    """One to three rounded bodies, with spots on them, before a plain ground: planets, heads, fruit."""
    down, across = _places()
    ground = random.choice([0.0, 255.0]) * np.ones(3) if random.random() < 0.4 else _colour(random)
    picture = _ground(ground)
    for _ in range(int(random.integers(1, 4))):
        middle, reach = random.uniform(0.3, 0.7, 2), random.uniform(0.15, 0.48, 2)
        away = ((down - middle[0]) / reach[0]) ** 2 + ((across - middle[1]) / reach[1]) ** 2
        shade = np.clip(1.1 - away * random.uniform(0, 0.7), 0, 1)[..., None]
        body = _colour(random) * shade + (_scene(random) - 128) * random.uniform(0, 0.4)
        picture = np.where(away[..., None] < 1, body, picture)
        for _ in range(int(random.integers(0, 7))):
            spot = tuple(int(value) for value in random.uniform(0.25, 0.75, 2) * SIDE_PX)
            axes = tuple(int(value) for value in random.uniform(2, 16, 2))
            picture = np.ascontiguousarray(picture, np.float32)
            cv2.ellipse(picture, spot, axes, 0, 0, 360, _colour(random).tolist(), -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), random.uniform(0.4, 1.5)), np.float32)


def _face(random: Generator) -> Pixels:
    """A head before a ground, hair or none, with eyes, brows, nose and mouth: from a child's drawing to a portrait."""
    ground = _colour(random) if random.random() < 0.6 else random.uniform(160, 255, 3)
    picture = np.ascontiguousarray(_ground(ground) + (_scene(random) - 128) * random.uniform(0, 0.3))
    middle = random.uniform(0.42, 0.58, 2) * SIDE_PX
    wide = random.uniform(0.18, 0.4) * SIDE_PX
    high = wide * random.uniform(1.0, 1.4)
    skin = np.array([225, 175, 145]) * random.uniform(0.3, 1.1) if random.random() < 0.8 else _colour(random)
    dark = random.uniform(0, 90, 3).tolist()

    def oval(across: float, down: float, width: float, height: float, colour: list[float]) -> None:
        place = round(float(middle[0] + across * wide)), round(float(middle[1] + down * high))
        axes = max(1, round(width * wide)), max(1, round(height * high))
        cv2.ellipse(picture, place, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)

    if random.random() < 0.7:
        reach = random.uniform(1.0, 1.4)
        oval(0, random.uniform(-0.4, 0), reach, reach * random.uniform(0.7, 1.1), random.uniform(0, 140, 3).tolist())
    oval(0, 0, 1, 1, skin.tolist())
    apart, height, size = random.uniform(0.3, 0.5), random.uniform(-0.35, -0.1), random.uniform(0.08, 0.25)
    thick = int(random.integers(1, 5))
    for side in (-apart, apart):
        if random.random() < 0.8:
            oval(side, height, size, size * random.uniform(0.4, 1), [250.0, 250.0, 250.0])
        oval(side, height, size * 0.5, size * 0.5, dark)
        brow = [
            (middle + np.array([side + end * size, height - 0.25]) * (wide, high)).astype(int).tolist()
            for end in (-1, 1)
        ]
        cv2.line(picture, brow[0], brow[1], dark, thick, cv2.LINE_AA)
    oval(0, random.uniform(0.1, 0.25), random.uniform(0.05, 0.15), random.uniform(0.05, 0.2), (skin * 0.8).tolist())
    mouth = round(float(middle[0])), round(float(middle[1] + random.uniform(0.3, 0.55) * high))
    axes = max(2, round(random.uniform(0.2, 0.5) * wide)), max(1, round(random.uniform(0.03, 0.25) * high))
    lips = (random.uniform((120, 20, 20), (220, 100, 110))).tolist()
    cv2.ellipse(picture, mouth, axes, 0, 0, int(random.choice([180, 360])), lips, thick, cv2.LINE_AA)
    down, across = _places()
    picture *= (1 + random.normal(0, 0.3) * (across - 0.5) + random.normal(0, 0.3) * (down - 0.5))[..., None]
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), random.uniform(0.4, 3)), np.float32)


def _horizon(random: Generator) -> Pixels:
    down, _ = _places()
    line = random.uniform(0.25, 0.75) + np.cumsum(random.normal(0, 0.01, SIDE_PX))
    sky = _colour(random) * (0.7 + 0.5 * down[..., None])
    land = _colour(random) + (_scene(random) - 128) * random.uniform(0.1, 0.8)
    return np.asarray(np.where((down > line)[..., None], land, sky), np.float32)


# how often each is drawn
KINDS: dict[Callable[[Generator], Pixels], float] = {
    _leaves: 10, _scene: 2, _writing: 1, _pattern: 1, _wall: 0.5, _noise: 0.5, _balls: 1.5, _face: 1.5, _horizon: 1,
}  # fmt: skip
