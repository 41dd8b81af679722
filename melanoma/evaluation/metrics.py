"""How well probabilities separate melanomas from benign images: arrays in, numbers out.

It draws nothing and knows no table, file or network. What cannot be computed, as a class is absent, is None.
Everywhere here `target` is int or bool (rows,), 1 a melanoma; `probability` is float (rows,), higher is more suspect.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]
RESAMPLES_AT_ONCE = 64  # 64 x 33,000 counts of 8 bytes are 17 MB


@dataclass(frozen=True)
class Interval:
    """A confidence interval and how it was found: `DeLong`, `bootstrap over patients` or `bootstrap over images`."""

    low: float
    high: float
    method: str


def auc(target: ArrayLike, probability: ArrayLike) -> float | None:
    """Return the area under the ROC curve, ties counted half; None where a class is absent.

    Raises ValueError for lengths that differ, a probability that is NaN or infinite, a target other than 0 and 1.
    Source: Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    melanoma, benign = _by_class(target, probability)
    if not melanoma.size or not benign.size:
        return None
    return float(_placements(melanoma, benign).mean())


def roc_curve(target: ArrayLike, probability: ArrayLike) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return false positive rate, sensitivity and threshold, float64 (points,), from (0, 0) at infinity to (1, 1).

    One point for each distinct probability: an image counts as melanoma from the threshold on.
    Raises ValueError as `auc` does, and where a class is absent.
    """
    hits, false_alarms, thresholds = _counts_by_threshold(target, probability)
    if not hits.size or not hits[-1] or not false_alarms[-1]:
        raise ValueError("a ROC curve needs melanomas and benign images")
    rates = [np.concatenate([[0.0], counts / counts[-1]]) for counts in (false_alarms, hits)]
    return rates[0], rates[1], np.concatenate([[np.inf], thresholds])


def average_precision(target: ArrayLike, probability: ArrayLike) -> float | None:
    """Return the area under the precision-recall steps, not interpolated; None where there is no melanoma.

    Its value for a coin is the share of melanomas. Raises ValueError as `auc` does.
    """
    hits, false_alarms, _ = _counts_by_threshold(target, probability)
    if not hits.size or not hits[-1]:
        return None
    gained = np.diff(hits, prepend=0) / hits[-1]
    return float(np.sum(gained * hits / (hits + false_alarms)))


def delong_variance(target: ArrayLike, probability: ArrayLike) -> float | None:
    """Return the variance of the AUC for independent images; None below two images of a class.

    Sorting replaces the comparison of all pairs. Raises ValueError as `auc` does.
    Source: DeLong 1988, doi:10.2307/2531595; Sun and Xu 2014, doi:10.1109/LSP.2014.2337313.
    """
    melanoma, benign = _by_class(target, probability)
    if melanoma.size < 2 or benign.size < 2:
        return None
    of_melanomas = _placements(melanoma, benign)
    of_benign = _placements(-benign, -melanoma)
    return float(of_melanomas.var(ddof=1) / melanoma.size + of_benign.var(ddof=1) / benign.size)


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

    `patient` is (rows,) of any kind of name; None takes every image for a patient of its own.
    None where a class has fewer than two patients, and where the data show no spread at all (AUC exactly 0 or 1).
    Raises ValueError as `auc` does.
    """
    if patient is None or pd.Index(np.asarray(patient)).is_unique:
        return _delong_interval(target, probability, level)
    drawn = _bootstrap(target, [probability], patient, samples, seed)
    return None if drawn is None else _percentiles(drawn[:, 0], level, "bootstrap over patients")


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

    `other` is float (rows,). `patient`, None and ValueError are as in `auc_interval`.
    """
    rows = np.arange(np.size(np.asarray(target))) if patient is None else patient
    drawn = _bootstrap(target, [probability, other], rows, samples, seed)
    method = "bootstrap over " + ("images" if patient is None else "patients")
    return None if drawn is None else _percentiles(drawn[:, 0] - drawn[:, 1], level, method)


def at_threshold(target: ArrayLike, probability: ArrayLike, threshold: float) -> dict[str, float | int | None]:
    """Judge the answer "melanoma from `threshold` on": counts, and rates that are None where their class is absent.

    Raises ValueError as `auc` does.
    """
    melanoma, benign = _by_class(target, probability)
    hits, false_alarms = int((melanoma >= threshold).sum()), int((benign >= threshold).sum())
    sensitivity = hits / melanoma.size if melanoma.size else None
    specificity = 1 - false_alarms / benign.size if benign.size else None
    both = sensitivity is not None and specificity is not None
    return {
        "threshold": float(threshold),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2 if both else None,  # type: ignore[operator]
        "true_positives": hits,
        "false_negatives": melanoma.size - hits,
        "true_negatives": benign.size - false_alarms,
        "false_positives": false_alarms,
    }


def threshold_at_sensitivity(target: ArrayLike, probability: ArrayLike, sensitivity: float) -> float | None:
    """Return the highest threshold that still finds this share of the melanomas; None where there is none.

    `sensitivity` is in (0, 1]. Raises ValueError as `auc` does.
    """
    melanoma, _ = _by_class(target, probability)
    if not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity is above 0 and at most 1, not {sensitivity}")
    if not melanoma.size:
        return None
    needed = int(np.ceil(sensitivity * melanoma.size - 1e-9))  # 0.9 x 10 is 9, whatever binary fractions say
    return float(np.sort(melanoma)[melanoma.size - max(needed, 1)])


def specificity_at_sensitivity(target: ArrayLike, probability: ArrayLike, sensitivity: float) -> float | None:
    """Return the best specificity among thresholds that find this share of the melanomas; None where a class is absent.

    `sensitivity` is in (0, 1]. Raises ValueError as `auc` does.
    """
    threshold = threshold_at_sensitivity(target, probability, sensitivity)
    return None if threshold is None else at_threshold(target, probability, threshold)["specificity"]


def checked(target: ArrayLike, probability: ArrayLike) -> tuple[NDArray[np.bool_], Float64Array]:
    """Return `target` as bool (rows,) and `probability` as float64 (rows,).

    Raises ValueError for lengths that differ, a probability that is NaN or infinite, a target other than 0 and 1.
    """
    truth, scores = np.asarray(target), np.asarray(probability, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != scores.shape:
        raise ValueError(f"target {truth.shape} and probability {scores.shape} are not one value an image")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum()):,} probabilities are NaN or infinite")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("a target is neither 0 nor 1")
    return truth.astype(bool), scores


def _by_class(target: ArrayLike, probability: ArrayLike) -> tuple[Float64Array, Float64Array]:
    truth, scores = checked(target, probability)
    return scores[truth], scores[~truth]


def _placements(above: Float64Array, below: Float64Array) -> Float64Array:
    """Return for each of `above` the share of `below` that is lower, ties counted half."""
    ordered = np.sort(below)
    lower, upto = (np.searchsorted(ordered, above, side) for side in ("left", "right"))
    return (lower + upto) / (2 * below.size)


def _counts_by_threshold(
    target: ArrayLike, probability: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], Float64Array]:
    """Return hits, false alarms and threshold for each distinct probability, highest first."""
    truth, scores = checked(target, probability)
    order = np.argsort(-scores, kind="stable")
    truth, scores = truth[order], scores[order]
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, scores.size > 0))
    hits = np.cumsum(truth, dtype=np.int64)[ends]
    return hits, ends + 1 - hits, scores[ends]


def _delong_interval(target: ArrayLike, probability: ArrayLike, level: float) -> Interval | None:
    value, variance = auc(target, probability), delong_variance(target, probability)
    if value is None or not variance:
        return None
    reach = NormalDist().inv_cdf((1 + level) / 2) * variance**0.5
    return Interval(max(0.0, value - reach), min(1.0, value + reach), "DeLong")


def _percentiles(drawn: Float64Array, level: float, method: str) -> Interval | None:
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), method) if low < high else None


def _bootstrap(
    target: ArrayLike, scores: list[ArrayLike], patient: ArrayLike, samples: int, seed: int
) -> Float64Array | None:
    """Return the AUC of each score on each resample of whole patients, float64 (samples, scores).

    A resample without one of the classes is NaN. None where a class has fewer than two patients.
    A patient drawn k times is a weight of k on each of its rows, so rows are sorted once and not once a resample.
    """
    truth, _ = checked(target, scores[0])
    person, names = pd.factorize(np.asarray(patient), use_na_sentinel=False)
    if min(np.unique(person[truth]).size, np.unique(person[~truth]).size) < 2:
        return None
    random = np.random.default_rng(seed)
    parts = []
    for start in range(0, samples, RESAMPLES_AT_ONCE):
        size = (min(RESAMPLES_AT_ONCE, samples - start), len(names))
        drawn = random.integers(len(names), size=size) + np.arange(size[0])[:, None] * len(names)
        counts = np.bincount(drawn.ravel(), minlength=size[0] * len(names)).reshape(size)
        parts.append(np.stack([_weighted_auc(truth, checked(target, one)[1], person, counts) for one in scores], 1))
    return np.concatenate(parts)


def _weighted_auc(
    truth: NDArray[np.bool_], scores: Float64Array, person: NDArray[np.intp], counts: NDArray[np.int64]
) -> Float64Array:
    """Return the AUC for each row of `counts` (samples, patients), how often each patient was drawn."""
    order = np.argsort(scores[~truth], kind="stable")
    ordered = scores[~truth][order]
    benign = np.zeros((len(counts), ordered.size + 1), np.int64)
    np.cumsum(counts[:, person[~truth][order]], axis=1, out=benign[:, 1:])
    melanoma = counts[:, person[truth]]
    lower, upto = (benign[:, np.searchsorted(ordered, scores[truth], side)] for side in ("left", "right"))
    pairs = melanoma.sum(1) * benign[:, -1]
    won = (melanoma * (lower + upto)).sum(1) / 2
    areas = np.full(len(counts), np.nan)
    areas[pairs > 0] = won[pairs > 0] / pairs[pairs > 0]
    return areas
