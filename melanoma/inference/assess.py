"""Is this the picture of a lesion, and good enough to judge? What is not is turned away with the reason.

Three questions: is it large, sharp, light and many-coloured enough; does it look like a lesion photograph rather than
like any other picture; and are the network's own features within what lesions give. All limits are learned
(training/gate.py) from the lesions that a network was made with; to apply them needs numpy and OpenCV alone.
"""

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from melanoma.errors import ModelError
from melanoma.files import read_arrays
from melanoma.images.filters import THUMBNAIL_PX

Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]
QUALITIES = ("sharpness", "lightness", "contrast")
LOOKS = 58  # numbers that `looks` gives
SHARES = (0.02, 0.25, 0.5, 0.75, 0.98)  # of the pixels, below a quantile
SCALES = 4  # each half the one before
DARK = (6 / 29) ** 3  # of the light of white: below it L*a*b* is linear
TO_XYZ = np.array(  # of sRGB, over the white of D65
    [[0.412453, 0.35758, 0.180423], [0.212671, 0.71516, 0.072169], [0.019334, 0.119193, 0.950227]], np.float32
) / np.array([[0.950456], [1.0], [1.088754]], np.float32)


@dataclass(frozen=True)
class Likeness:
    """How a network's features of lesions are spread: a Gaussian with few axes of its own and the same in all others.

    mean: float64 (channels,) of features of length 1. axes: float64 (axes, channels), orthonormal, of values that
    float32 holds. variances: float64 (axes,); rest: the variance along any other direction. limit: the distance up to
    which a picture is a lesion's.
    Source: Tipping and Bishop 1999, doi:10.1111/1467-9868.00196.
    """

    mean: Float64Array
    axes: Float64Array
    variances: Float64Array
    rest: float
    limit: float

    def distance(self, features: NDArray[np.float32]) -> Float64Array:
        """Return the squared Mahalanobis distance of features (n, channels) over the limit: float64 (n,), 1 at it."""
        away = unit(features) - self.mean
        along = away @ self.axes.T
        beside = np.maximum((away**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        return np.asarray(((along**2 / self.variances).sum(axis=1) + beside / self.rest) / self.limit)


@dataclass(frozen=True)
class Gate:
    """What a picture must be like to be judged.

    smallest_side_px: of the original. lowest, highest: a limit by name of QUALITIES. looks: float64 (59, 59), a
    quadratic form of `looks` and 1, that is 0 for the middle lesion and 1 at the limit. likeness: by network.
    """

    smallest_side_px: int
    lowest: Mapping[str, float]
    highest: Mapping[str, float]
    looks: Float64Array
    likeness: tuple[Likeness, ...]

    def reasons(
        self, sizes: Sequence[tuple[int, int]], thumbnails: UInt8Array, images: Any, features: list[NDArray[np.float32]]
    ) -> list[list[str]]:
        """Tell in sentences why each of some pictures cannot be judged; an empty list is a picture that can.

        sizes: (width, height) of the originals, pixels. thumbnails: uint8 (n, 64, 64, 3) RGB, the whole pictures;
        images: n of uint8 (side, side, 3), as the first network sees them; features: float32 (n, channels), by network.
        """
        measured = qualities(thumbnails, images)
        strange, unlike = self.strangeness(thumbnails), self.unlikeness(features)
        every = []
        for number, size in enumerate(sizes):
            if min(size) < self.smallest_side_px:
                found = [f"it has {size[0]} x {size[1]} pixels; the shorter side needs {self.smallest_side_px}"]
            else:
                found = self._poor({name: float(values[number]) for name, values in measured.items()})
                found += _strange(float(strange[number])) or ([] if found else _unlike(float(unlike[number])))
            every.append(found)
        return every

    def _poor(self, qualities: Mapping[str, float]) -> list[str]:
        low = [TOO_LOW[name] for name, value in qualities.items() if value < self.lowest[name]]
        return low + [TOO_HIGH[name] for name, value in qualities.items() if value > self.highest.get(name, np.inf)]

    def strangeness(self, thumbnails: UInt8Array) -> Float64Array:
        """Return how unlike lesion photographs these look: thumbnails as for `looks`, float64 (n,), 1 at the limit."""
        return quadratic(self.looks, looks(thumbnails))

    def unlikeness(self, features: list[NDArray[np.float32]]) -> Float64Array:
        """Return how unlike those of lesions the features are: float32 (n, channels) by network, float64 (n,)."""
        pairs = zip(self.likeness, features, strict=True)
        return np.asarray(np.mean([known.distance(one) for known, one in pairs], axis=0))

    def to_bytes(self) -> bytes:
        """Write the gate as a NumPy archive without pickled objects; `from_bytes` makes an equal one of it."""
        values: dict[str, Any] = {"smallest_side_px": self.smallest_side_px, "looks": self.looks}
        values |= {f"lowest_{name}": limit for name, limit in self.lowest.items()}
        values |= {f"highest_{name}": limit for name, limit in self.highest.items()}
        for number, known in enumerate(self.likeness):
            values |= {f"{name}_{number}": getattr(known, name) for name in Likeness.__dataclass_fields__}
            values[f"axes_{number}"] = known.axes.astype(np.float32)  # nearly all of the file
        content = io.BytesIO()
        np.savez(content, **values)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, networks: int) -> "Gate":
        """Make a gate of what `to_bytes` gave; raises ModelError where it is none for so many networks."""
        try:
            arrays = read_arrays(io.BytesIO(content), len(content))
            values = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
            gate = cls(
                int(values["smallest_side_px"]),
                {name: float(values[f"lowest_{name}"]) for name in QUALITIES},
                {name: float(values[f"highest_{name}"]) for name in QUALITIES if f"highest_{name}" in values},
                values["looks"],
                tuple(_likeness(values, number) for number in range(networks)),
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
            raise ModelError(f"the bundle's gate.npz cannot be read: {error}") from error
        if gate.looks.shape != (LOOKS + 1, LOOKS + 1) or not all(np.isfinite(one).all() for one in values.values()):
            raise ModelError("the bundle's gate.npz is of another version or damaged")
        return gate


TOO_LOW = {
    "sharpness": "it is out of focus or was enlarged from a small picture",
    "lightness": "it is too dark",
    "contrast": "there is no lesion to be seen: it is nearly of one colour",
}
TOO_HIGH = {"lightness": "it is too bright"}


def _strange(value: float) -> list[str]:
    told = f"it does not look like a dermoscopic photograph of a lesion (strangeness {_shown(value)}, limit 1)"
    return [told] if value > 1 else []


def _unlike(value: float) -> list[str]:
    told = f"the network sees in it what it does not see in lesions (distance {_shown(value)}, limit 1)"
    return [told] if value > 1 else []


def qualities(thumbnails: UInt8Array, images: Any) -> dict[str, Float64Array]:
    """Measure pictures: float64 (n,) by name of QUALITIES.

    thumbnails: uint8 (n, 64, 64, 3); images: n of uint8 (side, side, 3), as a network sees them. sharpness: the log of
    fine detail over coarse. lightness: the mean of CIE L*, 0 to 100. contrast: how far the colours are apart, L*a*b*.
    """
    colours = np.sort(lab(thumbnails[:, ::2, ::2]).reshape(len(thumbnails), 3, -1), axis=2)
    low, high = (colours[..., int(share * colours.shape[2])] for share in (SHARES[0], SHARES[-1]))
    return {
        "sharpness": np.array([_sharpness(image) for image in images]),
        "lightness": np.asarray(colours[:, 0].mean(axis=1), np.float64),
        "contrast": np.asarray(np.linalg.norm(high - low, axis=1), np.float64),
    }


def looks(thumbnails: UInt8Array) -> Float64Array:
    """Describe what pictures look like: float64 (n, 58), of uint8 (n, 64, 64, 3) RGB.

    In CIE L*a*b*: mean and spread in four rings around the middle; how much neighbours differ, at four scales; how
    much more they do along than across, and how unevenly; quantiles; correlations between channels; symmetry.
    """
    parts = [_described(thumbnails[start : start + 64]) for start in range(0, len(thumbnails), 64)]
    return np.concatenate(parts) if parts else np.empty((0, LOOKS))


def _described(thumbnails: UInt8Array) -> Float64Array:
    colours = lab(thumbnails)
    count, pixels = len(colours), colours.reshape(len(colours), 3, -1)
    means, squares = pixels @ _rings(), pixels**2 @ _rings()
    columns = [means.reshape(count, -1), np.sqrt(np.maximum(squares - means**2, 0)).reshape(count, -1)]
    small = colours
    for _ in range(SCALES):
        steps = [np.abs(np.diff(small, axis=axis)).mean(axis=(2, 3)) for axis in (2, 3)]
        columns.append(np.log(steps[0] + steps[1] + 0.05))
        small = _halved(small)
    down, across = (np.diff(colours[:, 0], axis=axis) ** 2 for axis in (1, 2))
    energy = [one.mean(axis=(1, 2)) for one in (down, across)]
    columns.append(np.abs(np.log(energy[0] + 0.01) - np.log(energy[1] + 0.01)))
    columns.append(np.log(((across**2).mean(axis=(1, 2)) + 1e-3) / (energy[1] + 1e-2) ** 2))
    ordered = np.sort(_halved(colours).reshape(count, 3, -1), axis=-1)
    columns.append(ordered[:, :, [int(share * ordered.shape[-1]) for share in SHARES]].reshape(count, -1))
    centred = pixels - pixels.mean(axis=-1, keepdims=True)
    together = centred @ np.swapaxes(centred, 1, 2) / pixels.shape[-1]
    spread = np.sqrt(np.diagonal(together, axis1=1, axis2=2)) + 1e-2
    columns += [together[:, i, j] / (spread[:, i] * spread[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    for axis in (2, 3):
        unlike = np.abs(colours[:, 0] - np.flip(colours, axis)[:, 0]).mean(axis=(1, 2))
        columns.append(np.log(unlike + 0.5))
    return np.column_stack(columns).astype(np.float64)


def _halved(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    pairs = maps[..., ::2, :] + maps[..., 1::2, :]
    return np.asarray((pairs[..., ::2] + pairs[..., 1::2]) / 4)


def quadratic(form: Float64Array, values: Float64Array) -> Float64Array:
    """Apply a quadratic form to values (n, columns) with a 1 behind them: float64 (n,)."""
    longer = np.column_stack([values, np.ones(len(values))])
    return np.asarray(((longer @ form) * longer).sum(axis=1))


def unit(features: NDArray[np.float32]) -> Float64Array:
    """Return features (n, channels) at length 1, float64."""
    values = features.astype(np.float64)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9))


def _likeness(values: Mapping[str, Float64Array], number: int) -> Likeness:
    mean, axes, variances = (values[f"{name}_{number}"] for name in ("mean", "axes", "variances"))
    if axes.shape != (len(variances), len(mean)):
        raise ValueError("its arrays do not go together")
    return Likeness(mean, axes, variances, float(values[f"rest_{number}"]), float(values[f"limit_{number}"]))


def lab(thumbnails: UInt8Array) -> NDArray[np.float32]:
    """Turn sRGB, uint8 (n, rows, columns, 3), into CIE L*a*b* under D65: float32 (n, 3, rows, columns).

    OpenCV does the same, after a seventh of a second for its tables: as long as a network takes for a picture.
    Source: IEC 61966-2-1, CIE 15.
    """
    count, rows, columns, _ = thumbnails.shape
    light = TO_XYZ @ np.take(_linear(), thumbnails.reshape(count, -1, 3).swapaxes(1, 2))
    root = np.power(np.maximum(light, DARK), np.float32(1 / 3))  # twice as quick as cbrt
    curve = np.where(light > DARK, root, light / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = curve[:, 0], curve[:, 1], curve[:, 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1).reshape(count, 3, rows, columns)


@cache
def _linear() -> NDArray[np.float32]:
    """Give how much light each of the 256 values stands for, in [0, 1]."""
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


@cache
def _rings() -> NDArray[np.float32]:
    """Weigh the pixels of a thumbnail for each ring around the middle, and the corners: float32 (pixels, 4)."""
    down, across = np.mgrid[:THUMBNAIL_PX, :THUMBNAIL_PX] - (THUMBNAIL_PX - 1) / 2
    away = np.hypot(down, across).ravel() / (THUMBNAIL_PX / 2)
    inside = np.stack([(away >= low) & (away < high) for low, high in pairwise((0.0, 0.33, 0.66, 1.0, np.inf))], axis=1)
    return np.asarray(inside / inside.sum(axis=0), np.float32)


def _sharpness(image: UInt8Array) -> float:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())
    return float(np.log((fine + 0.01) / (float(grey.std()) + 1)))


def _shown(value: float) -> str:
    return f"{value:.1f}" if value < 100 else "over 100"
