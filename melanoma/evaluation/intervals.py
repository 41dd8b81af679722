"""Intervals: DeLong where images are independent, a bootstrap over patients where patients repeat.

A patient drawn k times is a weight of k on each of its rows, so rows are sorted once and not once a resample; every
measure of a ranking then needs only how many benign images stand above each melanoma.
Everywhere here `target` is int or bool (rows,), 1 a melanoma; `probability` is float (rows,), higher is more suspect;
`patient` is (rows,) of any kind of name, None takes every image for a patient of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from melanoma.evaluation.metrics import Float64Array, auc, checked, placements
from melanoma.machine import cores

Counts = NDArray[np.int64]  # (resamples, patients): how often each patient was drawn
Statistic = Callable[[Counts], Float64Array]  # one value a resample, NaN where it is undefined
RESAMPLES_AT_ONCE = 64  # 64 x 33,000 counts of 8 bytes are 17 MB


@dataclass(frozen=True)
class Interval:
    """A confidence interval and how it was found: `DeLong`, `bootstrap over patients` or `bootstrap over images`."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Paired:
    """The difference of two AUCs on the same images by DeLong; `p_value` is two-sided, for no difference at all."""

    difference: float
    standard_error: float
    interval: Interval
    p_value: float


def figure(value: float | None, interval: Interval | None, reason: str = "", level: float = 0.95) -> dict[str, Any]:
    """Put a value and its interval, or the reason why one of them is missing, into the form of metrics.json."""
    if value is not None and interval is None:
        reason = reason or "no interval: a class has fewer than two patients, or the scores show no spread"
    return {
        "value": value,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "level": level if interval else None,
        "method": interval.method if interval else None,
        "reason": reason or None,
    }


# ---- DeLong ----------------------------------------------------------------------------------------------------------


def delong_covariance(target: ArrayLike, scores: Sequence[ArrayLike]) -> Float64Array | None:
    """Return the covariance of the AUCs of several scores of independent images, float64 (scores, scores).

    None below two images of a class. Sorting replaces the comparison of all pairs. Raises ValueError as `auc` does.
    Source: DeLong 1988, doi:10.2307/2531595; Sun and Xu 2014, doi:10.1109/LSP.2014.2337313.
    """
    truth, of_melanomas, of_benign = checked(target, scores[0])[0], [], []
    if min(truth.sum(), (~truth).sum()) < 2:
        return None
    for score in scores:
        values = checked(target, score)[1]
        of_melanomas.append(placements(values[truth], values[~truth]))
        of_benign.append(placements(-values[~truth], -values[truth]))
    covariance = np.cov(of_melanomas) / truth.sum() + np.cov(of_benign) / (~truth).sum()
    return np.atleast_2d(np.asarray(covariance, np.float64))


def delong_variance(target: ArrayLike, probability: ArrayLike) -> float | None:
    """Return the variance of the AUC for independent images, as `delong_covariance` does."""
    covariance = delong_covariance(target, [probability])
    return None if covariance is None else float(covariance[0, 0])


def delong_interval(target: ArrayLike, probability: ArrayLike, level: float = 0.95) -> Interval | None:
    """Return the AUC's interval as if images were independent; None below two of a class, and where nothing varies."""
    value, variance = auc(target, probability), delong_variance(target, probability)
    if value is None or not variance:
        return None
    reach = NormalDist().inv_cdf((1 + level) / 2) * variance**0.5
    return Interval(max(0.0, value - reach), min(1.0, value + reach), "DeLong")


def delong_difference(
    target: ArrayLike, probability: ArrayLike, other: ArrayLike, *, level: float = 0.95
) -> Paired | None:
    """Compare two scores of the same independent images: AUC(probability) - AUC(other), its interval and its p-value.

    None below two images of a class, and where the two rank the images alike, so that nothing varies.
    Raises ValueError as `auc` does. Source: as `delong_covariance`.
    """
    covariance = delong_covariance(target, [probability, other])
    first, second = auc(target, probability), auc(target, other)
    if covariance is None or first is None or second is None:
        return None
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-18:  # equal rankings leave a rounding error
        return None
    error, difference, normal = variance**0.5, first - second, NormalDist()
    reach = normal.inv_cdf((1 + level) / 2) * error
    interval = Interval(max(-1.0, difference - reach), min(1.0, difference + reach), "DeLong")
    return Paired(difference, error, interval, 2 * normal.cdf(-abs(difference) / error))


def leaderboard_noise(target: ArrayLike, probability: ArrayLike, melanomas: int, benign: int) -> float | None:
    """Return the standard deviation, by chance alone, of this model's AUC on another test set of so many images.

    Each image's placement among the other class varies as on these held-out rows; images count as independent, so that
    where patients repeat the noise is rather larger. None below two images of a class, and where nothing varies.
    Raises ValueError as `metrics.auc` does, and for a test set that lacks a class.
    Source: DeLong 1988, doi:10.2307/2531595.
    """
    truth, scores = checked(target, probability)
    if melanomas < 1 or benign < 1:
        raise ValueError(f"a test set of {melanomas} melanomas and {benign} benign images has no AUC")
    if min(truth.sum(), (~truth).sum()) < 2:
        return None
    of_melanomas = placements(scores[truth], scores[~truth]).var(ddof=1)
    of_benign = placements(scores[~truth], scores[truth]).var(ddof=1)
    return float(np.sqrt(of_melanomas / melanomas + of_benign / benign)) or None


def expected_noise(area: float, melanomas: int, benign: int) -> float | None:
    """Return the standard deviation by chance of an AUC that nothing but its size is known of; None without a class.

    Source: Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    if melanomas < 1 or benign < 1:
        return None
    two_melanomas, two_benign = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (melanomas - 1) * (two_melanomas - area**2) + (benign - 1) * (two_benign - area**2)
    return float((variance / (melanomas * benign)) ** 0.5)


# ---- bootstrap -------------------------------------------------------------------------------------------------------


def auc_interval(
    target: ArrayLike,
    probability: ArrayLike,
    patient: ArrayLike | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """Return an interval of the AUC: DeLong for independent images, a bootstrap over patients where patients repeat.

    None where a class has fewer than two patients, and where the data show no spread at all (AUC exactly 0 or 1).
    Raises ValueError as `auc` does.
    """
    if patient is None or pd.Index(np.asarray(patient)).is_unique:
        return delong_interval(target, probability, level)
    measures = {"auc": _auc}
    return ranking_intervals(target, probability, patient, measures, samples=samples, seed=seed, level=level)["auc"]


def auc_difference_interval(
    target: ArrayLike,
    probability: ArrayLike,
    other: ArrayLike,
    patient: ArrayLike | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """Return an interval of AUC(probability) - AUC(other) on the same images: both are recomputed on each resample.

    `other` is float (rows,). None and ValueError are as in `auc_interval`.
    """
    draws: dict[str, Any] = {"samples": samples, "seed": seed, "level": level}
    return ranking_differences(target, probability, other, patient, {"auc": _auc}, **draws)["auc"]


def ranking_differences(
    target: ArrayLike,
    probability: ArrayLike,
    other: ArrayLike,
    patient: ArrayLike | None,
    measures: Mapping[str, "Measure"],
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval | None]:
    """Return an interval of the difference in each of `measures`: both scores are judged on the same resamples.

    measures: of `ranking_measures`. None and ValueError are as in `ranking_intervals`.
    """
    people = _People(patient, np.size(np.asarray(target)))
    if not people.enough(checked(target, probability)[0]):
        return dict.fromkeys(measures)
    both = [_on_ranking(target, one, people, measures) for one in (probability, other)]
    drawn = people.bootstrap(lambda counts: np.subtract(*(judged(counts) for judged in both)), samples, seed)
    return {name: _percentiles(drawn[:, place], level, people.method) for place, name in enumerate(measures)}


def ranking_intervals(
    target: ArrayLike,
    probability: ArrayLike,
    patient: ArrayLike | None,
    measures: Mapping[str, "Measure"],
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval | None]:
    """Return a bootstrap interval of each of `measures`, all on the same resamples of whole patients.

    measures: of `ranking_measures`. None where a class has fewer than two patients, or nothing varies.
    Raises ValueError as `auc` does.
    """
    people = _People(patient, np.size(np.asarray(target)))
    if not people.enough(checked(target, probability)[0]):
        return dict.fromkeys(measures)
    drawn = people.bootstrap(_on_ranking(target, probability, people, measures), samples, seed)
    return {name: _percentiles(drawn[:, place], level, people.method) for place, name in enumerate(measures)}


def share_interval(
    hit: ArrayLike,
    among: ArrayLike,
    patient: ArrayLike | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """Return a bootstrap interval of the mean of `hit` over the rows that `among` marks: a share, a rate, a mean loss.

    hit: bool or float (rows,); among: bool (rows,). None with fewer than two patients among them, and where nothing
    varies. Raises ValueError where the lengths differ.
    """
    chosen, value = np.asarray(among, bool), np.asarray(hit, np.float64)
    if chosen.shape != value.shape or chosen.ndim != 1:
        raise ValueError(f"hit {value.shape} and among {chosen.shape} are not one value an image")
    people = _People(patient, len(chosen))
    if np.unique(people.person[chosen]).size < 2:
        return None
    weights = (value * chosen, chosen.astype(np.float64))
    above, below = (np.bincount(people.person, one, people.count) for one in weights)

    def share(counts: Counts) -> Float64Array:
        drawn = counts @ below
        shares: Float64Array = np.divide(counts @ above, drawn, out=np.full(len(counts), np.nan), where=drawn > 0)
        return shares

    return _percentiles(people.bootstrap(share, samples, seed)[:, 0], level, people.method)


class _People:
    """Who is drawn: whole patients, numbered, and the resamples of them."""

    def __init__(self, patient: ArrayLike | None, rows: int) -> None:
        names = np.arange(rows) if patient is None else np.asarray(patient)
        if names.shape != (rows,):
            raise ValueError(f"patient {names.shape} does not name one for each of {rows:,} images")
        self.person, found = pd.factorize(names, use_na_sentinel=False)
        self.count = len(found)
        self.method = f"bootstrap over {'images' if patient is None else 'patients'}"

    def enough(self, truth: NDArray[np.bool_]) -> bool:
        """Tell whether each class has two patients at least."""
        return min(np.unique(self.person[truth]).size, np.unique(self.person[~truth]).size) >= 2

    def bootstrap(self, statistic: Callable[[Counts], Float64Array], samples: int, seed: int) -> Float64Array:
        """Return `statistic` of each resample, float64 (samples, values): equal for a seed on any number of cores."""

        def some(start: int) -> Float64Array:
            random = np.random.default_rng([seed, start])
            size = (min(RESAMPLES_AT_ONCE, samples - start), self.count)
            drawn = random.integers(self.count, size=size) + np.arange(size[0])[:, None] * self.count
            counts = np.bincount(drawn.ravel(), minlength=size[0] * self.count).reshape(size)
            return statistic(counts).reshape(size[0], -1)

        with ThreadPoolExecutor(cores()) as pool:  # numpy lets go of the interpreter
            return np.concatenate(list(pool.map(some, range(0, samples, RESAMPLES_AT_ONCE))))


# ---- measures of a ranking, on resamples -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """The ROC curve of each resample, a step for each distinct score of a melanoma, the most suspect first.

    Each is float64 (resamples, steps), a share from 0 to 1: sensitivity before and after the step, and the false
    positive rate before and after it (they differ where a benign image has the very score). `melanomas` and `benign`
    are (resamples, 1): how many were drawn.
    """

    sensitivity_before: Float64Array
    sensitivity: Float64Array
    false_rate_before: Float64Array
    false_rate: Float64Array
    melanomas: Float64Array
    benign: Float64Array


Measure = Callable[[Steps], Float64Array]  # (resamples,), NaN where a resample lacks a class


def ranking_measures(sensitivities: Sequence[float], minimum_sensitivity: float = 0.8) -> dict[str, Measure]:
    """Name the measures that `metrics` computes plainly: AUC, average precision, partial AUC, specificities."""
    found: dict[str, Measure] = {
        "auc": _auc,
        "average_precision": _average_precision,
        "partial_auc": partial(_area_above, lowest=minimum_sensitivity),
    }
    return found | {f"specificity_at_{wanted}": partial(_specificity_at, wanted=wanted) for wanted in sensitivities}


def _auc(steps: Steps) -> Float64Array:
    return _area_above(steps, 0.0)


def _area_above(steps: Steps, lowest: float) -> Float64Array:
    """Integrate 1 - false positive rate over the sensitivities above `lowest`, straight along each step."""
    begin = np.clip(lowest, steps.sensitivity_before, steps.sensitivity)
    height = steps.sensitivity - steps.sensitivity_before
    share = np.divide(steps.sensitivity - begin, height, out=np.zeros_like(height), where=height > 0)
    middle = steps.false_rate - share * (steps.false_rate - steps.false_rate_before) / 2
    return np.asarray(((steps.sensitivity - begin) * (1 - middle)).sum(1))


def _average_precision(steps: Steps) -> Float64Array:
    hits, false_alarms = steps.sensitivity * steps.melanomas, steps.false_rate * steps.benign
    called = hits + false_alarms
    precision = np.divide(hits, called, out=np.zeros_like(called), where=called > 0)
    return np.asarray(((steps.sensitivity - steps.sensitivity_before) * precision).sum(1))


def _specificity_at(steps: Steps, wanted: float) -> Float64Array:
    reached = steps.sensitivity >= wanted - 1e-9
    first = reached.argmax(1)
    return 1 - np.take_along_axis(steps.false_rate, first[:, None], 1)[:, 0]


def _on_ranking(
    target: ArrayLike, probability: ArrayLike, people: _People, measures: Mapping[str, Measure]
) -> Statistic:
    """Return what computes each of `measures` for resamples: float64 (resamples, measures)."""
    truth, scores = checked(target, probability)
    benign_order = np.argsort(scores[~truth], kind="stable")
    melanoma_order = np.argsort(-scores[truth], kind="stable")
    benign, melanoma = people.person[~truth][benign_order], people.person[truth][melanoma_order]
    sorted_benign, sorted_melanoma = scores[~truth][benign_order], scores[truth][melanoma_order]
    ends = np.flatnonzero(np.append(np.diff(sorted_melanoma) != 0, True))
    lower, upto = (np.searchsorted(sorted_benign, sorted_melanoma[ends], side) for side in ("left", "right"))

    def statistic(counts: Counts) -> Float64Array:
        below = np.zeros((len(counts), benign.size + 1), np.int64)
        np.cumsum(counts[:, benign], axis=1, out=below[:, 1:])
        hits = np.cumsum(counts[:, melanoma], axis=1)[:, ends]
        drawn, found = (values[:, -1:].astype(np.float64) for values in (below, hits))
        with np.errstate(invalid="ignore"):  # a resample without a class is NaN
            rate = np.concatenate([np.zeros((len(hits), 1)), hits / found], axis=1)
            before, after = ((drawn - below[:, place]) / drawn for place in (upto, lower))
        steps = Steps(rate[:, :-1], rate[:, 1:], before, after, found, drawn)
        values = np.stack([measure(steps) for measure in measures.values()], axis=1)
        return np.where((found > 0) & (drawn > 0), values, np.nan)

    return statistic


def _percentiles(drawn: Float64Array, level: float, method: str) -> Interval | None:
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), method) if low < high else None
