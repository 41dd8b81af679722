"""Learns what the pictures of lesions are like, so that others can be turned away (inference/assess.py applies it).

From a run's own images: what they look like, against drawn pictures of anything else; and how the features that each
network has of the lesions it was not trained on are spread. The limits are set so that a stated share of held-out
lesions is kept, and how many are is measured on patients that the limits were not learned from.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from melanoma.data.clutter import draw_clutter
from melanoma.evaluation.recalibration import parts_by_patient
from melanoma.images.filters import THUMBNAIL_PX
from melanoma.inference.assess import Gate, Likeness, looks, quadratic, qualities, unit

Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]
FEWEST = 100  # lesions from which limits can be learned
MOST = 4000  # lesions that they are learned from
CLUTTER = 2000  # drawn pictures
PARTS = 5
KEPT_BY_LOOKS, KEPT_BY_FEATURES, KEPT_BY_QUALITIES = 0.99, 0.995, 0.9995  # together 0.98 of lesions
SPARE = 0.1  # beyond a quality's limit, of its distance from the middle: other clinics' pictures differ more
AXES = 64
SHRINKAGE = 0.05  # of a covariance, towards the same variance in all directions
PENALTY = 1e-3  # the C of the logistic regression
SHOWN_ELSEWHERE = 0.3  # share of lesions that are also shown as other clinics' pictures have them


@dataclass(frozen=True)
class Lesions:
    """Held-out lesions to learn from.

    thumbnails: uint8 (n, 64, 64, 3); images: n of uint8 (side, side, 3), as a network sees them; group: (n,), rows that
    are one patient's; shorter_side_px: (n,), of the originals; network: int (n,), which of the networks has not seen
    it; features: float32 (n, channels), by that network.
    """

    thumbnails: UInt8Array
    images: Any
    group: NDArray[Any]
    shorter_side_px: NDArray[Any]
    network: NDArray[np.int64]
    features: NDArray[np.float32]


def learn_gate(lesions: Lesions, networks: int, seed: int) -> tuple[Gate | None, dict[str, Any]]:
    """Learn the limits within which a picture is judged, and measure how many held-out lesions they keep.

    The figures are ready for JSON: `images`, and the `kept` share: each fifth of the patients, by limits that were
    learned from the others. No gate, with the `reason`, where a network has fewer than FEWEST lesions that it was not
    trained on.
    """
    count = int(np.bincount(lesions.network, minlength=networks).min())
    if count < FEWEST:
        return None, {"reason": f"a network has {count} held-out images, and at least {FEWEST} are needed"}
    part = parts_by_patient(lesions.group, PARTS, seed)
    looked = looks(lesions.thumbnails)
    within = np.random.default_rng(seed).random(len(looked)) < SHOWN_ELSEWHERE
    elsewhere = looks(_elsewhere(lesions.thumbnails[within], seed))
    drawn = looks(_clutter(min(CLUTTER, 2 * len(looked)), seed))
    strange = np.empty(len(looked))
    for one in range(PARTS):
        held = part == one
        form = _form(np.concatenate([looked[~held], elsewhere[~held[within]]]), drawn)
        strange[held] = _normalised(quadratic(form, looked[held]), quadratic(form, looked[~held]))
    measured = qualities(lesions.thumbnails, lesions.images)
    kept = np.ones(len(looked), bool)
    for one in range(PARTS):
        held = part == one
        kept[held] = strange[held] <= np.quantile(strange[~held], KEPT_BY_LOOKS)
        lowest, highest = _limits({name: values[~held] for name, values in measured.items()})
        for name, values in measured.items():
            kept[held] &= (values[held] >= lowest[name]) & (values[held] <= highest.get(name, np.inf))
    for one in range(networks):
        seen = lesions.network == one
        kept[seen] &= _cross_fitted(lesions.features[seen], lesions.group[seen], part[seen], seed) <= 1
    form = _form(np.concatenate([looked, elsewhere]), drawn)
    middle, reach = _middle_and_reach(quadratic(form, looked))
    lowest, highest = _limits(measured)
    gate = Gate(
        smallest_side_px=_smallest_side(lesions),
        lowest=lowest,
        highest=highest,
        looks=_scaled(form, middle, reach * float(np.quantile(strange, KEPT_BY_LOOKS))),
        likeness=tuple(
            _likeness(lesions.features[lesions.network == one], lesions.group[lesions.network == one], seed)
            for one in range(networks)
        ),
    )
    return gate, {"images": len(kept), "kept": float(kept.mean()), "reason": None}


# ---- looks -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _clutter(count: int, seed: int) -> UInt8Array:
    return draw_clutter(count, THUMBNAIL_PX, seed)


def _elsewhere(thumbnails: UInt8Array, seed: int) -> UInt8Array:
    """Show lesions as other clinics' pictures have them: within the dark rim of a dermatoscope, or beside ink."""
    random = np.random.default_rng(seed)
    seen = np.empty_like(thumbnails)
    down, across = (np.mgrid[:THUMBNAIL_PX, :THUMBNAIL_PX] - (THUMBNAIL_PX - 1) / 2) / (THUMBNAIL_PX / 2)
    for number, picture in enumerate(thumbnails):
        radius, softness = random.uniform(0.8, 1.35), random.uniform(0.01, 0.1)
        opening = 1 / (1 + np.exp((np.hypot(down, across) - radius) / softness))
        seen[number] = picture * opening[..., None]
        if number % 2:
            seen[number] = _inked(picture, random)
    return seen


def _inked(picture: UInt8Array, random: np.random.Generator) -> UInt8Array:
    """Draw a surgeon's marks around the middle: short strokes of dark blue or violet."""
    marked, ink = picture.copy(), random.uniform((30, 10, 70), (110, 60, 190)).tolist()
    for _ in range(int(random.integers(1, 7))):
        angle, away = random.uniform(0, 2 * np.pi), random.uniform(0.25, 0.5) * THUMBNAIL_PX
        start = THUMBNAIL_PX / 2 + away * np.array([np.cos(angle), np.sin(angle)])
        stroke = np.cumsum(np.vstack([start, random.normal(0, 4, (3, 2))]), axis=0)
        cv2.polylines(marked, [stroke.astype(np.int32)], False, ink, int(random.integers(1, 4)), cv2.LINE_AA)
    return marked


def _form(lesions: Float64Array, drawn: Float64Array) -> Float64Array:
    """Tell lesions from drawn pictures by a quadratic form of their looks, (n, 58) each: the higher, the less a lesion.

    The sum of two, scaled alike: how much nearer a Gaussian of the drawn pictures is than one of the lesions, and a
    logistic regression on products. Source: Ren et al. 2021, arXiv:2106.09022, for the first.
    """
    every = np.concatenate([lesions, drawn])
    centre, scale = every.mean(axis=0), every.std(axis=0) + 1e-9
    lesions, drawn = (lesions - centre) / scale, (drawn - centre) / scale
    total = np.zeros((lesions.shape[1] + 1,) * 2)
    for form in (_gaussian(lesions) - _gaussian(drawn), _logistic(lesions, drawn)):
        total += _scaled(form, *_middle_and_reach(quadratic(form, lesions)))
    standardise = np.eye(len(total))
    standardise[:-1, :-1] /= scale[:, None]
    standardise[-1, :-1] = -centre / scale
    return np.asarray(standardise @ total @ standardise.T)


def _gaussian(values: Float64Array) -> Float64Array:
    """Give the squared Mahalanobis distance from values (n, columns) as a quadratic form, (columns + 1) square."""
    mean, covariance = values.mean(axis=0), np.cov(values.T)
    same = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    precision = np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * same)
    beside = -precision @ mean
    return np.block([[precision, beside[:, None]], [beside[None], np.array([[mean @ precision @ mean]])]])


def _logistic(lesions: Float64Array, drawn: Float64Array) -> Float64Array:
    """Fit a logistic regression on values and their products, and give it as a quadratic form."""
    from sklearn.linear_model import LogisticRegression

    values = np.concatenate([lesions, drawn])
    rows, columns = np.triu_indices(values.shape[1])
    products = np.column_stack([values[:, rows] * values[:, columns], values])
    mean, scale = products.mean(axis=0), products.std(axis=0) + 1e-9
    target = np.repeat([0, 1], [len(lesions), len(drawn)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last digits of the weights do not matter
        fitted = LogisticRegression(C=PENALTY, max_iter=300).fit((products - mean) / scale, target)
    weights = fitted.coef_[0] / scale
    form = np.zeros((values.shape[1] + 1,) * 2)
    form[rows, columns] = weights[: len(rows)]
    form[-1, :-1] = weights[len(rows) :]
    form[-1, -1] = fitted.intercept_[0] - weights @ mean
    return np.asarray((form + form.T) / 2)


def _middle_and_reach(values: Float64Array) -> tuple[float, float]:
    """Give the median, and how far above it 1 in 20 lies."""
    middle = float(np.median(values))
    return middle, float(np.quantile(values, 0.95)) - middle


def _normalised(values: Float64Array, among: Float64Array) -> Float64Array:
    middle, reach = _middle_and_reach(among)
    return np.asarray((values - middle) / reach)


def _scaled(form: Float64Array, middle: float, reach: float) -> Float64Array:
    """Let a quadratic form be 0 where it was `middle`, and 1 where it was `reach` more."""
    moved = form.copy()
    moved[-1, -1] -= middle
    return np.asarray(moved / reach)


# ---- features --------------------------------------------------------------------------------------------------------


def _likeness(features: NDArray[np.float32], group: NDArray[Any], seed: int) -> Likeness:
    """Learn how a network's features of lesions are spread; its limit, on halves of the patients, each by the other."""
    half = parts_by_patient(group, 2, seed) == 0
    crossed = np.concatenate([_spread(features[one]).distance(features[~one]) for one in (half, ~half)])
    whole = _spread(features)
    # the whole knows more than its halves: what is far from them is somewhat nearer to it
    return Likeness(whole.mean, whole.axes, whole.variances, whole.rest, float(np.quantile(crossed, KEPT_BY_FEATURES)))


def _spread(features: NDArray[np.float32]) -> Likeness:
    values = unit(features)
    mean = values.mean(axis=0)
    _, lengths, axes = np.linalg.svd(values - mean, full_matrices=False)
    variances = lengths**2 / len(values)
    most = min(AXES, len(variances) // 2)
    rest = max(float(variances[most:].sum()) / max(values.shape[1] - most, 1), 1e-12)
    kept = axes[:most].astype(np.float32).astype(np.float64)  # as they are written
    return Likeness(mean, kept, np.maximum(variances[:most], rest), rest, 1.0)


def _cross_fitted(
    features: NDArray[np.float32], group: NDArray[Any], part: NDArray[np.int64], seed: int
) -> Float64Array:
    distance = np.empty(len(features))
    for one in np.unique(part):
        held = part == one
        distance[held] = _likeness(features[~held], group[~held], seed).distance(features[held])
    return distance


# ---- size and qualities ------------------------------------------------------------------------------------------


def _limits(measured: Mapping[str, Float64Array]) -> tuple[dict[str, float], dict[str, float]]:
    """Give the lowest and the highest that lesions have of each quality, with room beyond."""
    lowest = {name: _limit(values, 1 - KEPT_BY_QUALITIES) for name, values in measured.items()}
    return lowest, {"lightness": _limit(measured["lightness"], KEPT_BY_QUALITIES)}


def _limit(values: Float64Array, share: float) -> float:
    middle, edge = np.quantile(values, [0.5, share])
    return float(edge + SPARE * (edge - middle))


def _smallest_side(lesions: Lesions) -> int:
    """Ask for half of what the smallest lesion photograph, or the network, has."""
    side: int = lesions.images[0].shape[0]
    return int(min(side, np.quantile(lesions.shorter_side_px, 1 - KEPT_BY_QUALITIES)) / 2)


def chosen_lesions(network: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Choose at most MOST rows, about as many of each network: row numbers in order."""
    random, networks = np.random.default_rng(seed), np.unique(network)
    share = MOST // len(networks)
    return np.sort(np.concatenate([random.permutation(np.flatnonzero(network == one))[:share] for one in networks]))
