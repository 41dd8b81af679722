"""What acting on the probabilities is worth: net benefit, beside treating every lesion and treating none.

It draws nothing and knows no table or file. Net benefit takes a probability at its word: the threshold at which one
acts says how many false alarms one would bear for a melanoma, which means nothing of a score that is not calibrated.
Everywhere here `target` is int or bool (rows,), 1 a melanoma; `probability` is float (rows,) in [0, 1], calibrated, and
for the `prevalence` that is asked about; `thresholds` is float (thresholds,) in [0, 1).
Source: Vickers and Elkin 2006, doi:10.1177/0272989X06295361.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from melanoma.evaluation.metrics import Float64Array, absent_class, checked


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit, in melanomas found for each lesion, at each threshold; each array is float64 (thresholds,)."""

    thresholds: Float64Array  # probability from which one acts, in [0, 1)
    prevalence: float  # share of melanomas among the lesions, in [0, 1]
    net_benefit: dict[str, Float64Array]  # of acting on each score, by its name
    treat_all: Float64Array
    treat_none: Float64Array  # 0 everywhere


def net_benefit(
    target: ArrayLike, probability: ArrayLike, thresholds: ArrayLike, prevalence: float | None = None
) -> Float64Array | None:
    """Return melanomas found less false alarms at their price, a lesion: float64 (thresholds,), at most the prevalence.

    A false alarm costs threshold / (1 - threshold) melanomas. Without a prevalence the sample's holds; with one, in
    [0, 1], each class weighs as it would there. None without rows, or where a prevalence asks for an absent class.
    Raises ValueError as `metrics.auc` does, for a threshold outside [0, 1), a probability or prevalence outside [0, 1].
    """
    truth, scores = checked(target, probability)
    odds = _odds(thresholds)
    if ((scores < 0) | (scores > 1)).any():
        raise ValueError("a probability is outside 0 to 1")
    if not truth.size or (prevalence is not None and absent_class(truth)):
        return None
    share = truth.mean() if prevalence is None else _checked_prevalence(prevalence)
    called = [_share_from(scores[of_class], thresholds) for of_class in (truth, ~truth)]
    return np.asarray(share * called[0] - (1 - share) * called[1] * odds, np.float64)


def treat_all(prevalence: float, thresholds: ArrayLike) -> Float64Array:
    """Return the net benefit of treating every lesion: float64 (thresholds,), the prevalence at threshold 0.

    Raises ValueError for a threshold outside [0, 1) or a prevalence outside [0, 1].
    """
    share = _checked_prevalence(prevalence)
    return np.asarray(share - (1 - share) * _odds(thresholds), np.float64)


def decision_curve(
    target: ArrayLike,
    curves: Mapping[str, ArrayLike],
    thresholds: ArrayLike | None = None,
    prevalence: float | None = None,
) -> DecisionCurve | None:
    """Return the net benefit of each {name: probability} of the same images, and of treating all and none.

    Without thresholds they go from 0 to three times the prevalence, at least to 0.2. None and ValueError are as in
    `net_benefit`.
    """
    truth = checked(target, np.zeros(np.size(np.asarray(target))))[0]
    if not truth.size:
        return None
    share = float(truth.mean()) if prevalence is None else _checked_prevalence(prevalence)
    places = sensible_thresholds(share) if thresholds is None else np.asarray(thresholds, np.float64)
    found = {}
    for name, probability in curves.items():
        benefit = net_benefit(truth, probability, places, prevalence)
        if benefit is None:
            return None
        found[name] = benefit
    return DecisionCurve(places, share, found, treat_all(share, places), np.zeros(places.size))


def sensible_thresholds(prevalence: float) -> Float64Array:
    """Return thresholds in steps of at most 0.005 at which someone may act: float64 (thresholds,) in [0, 0.95]."""
    return np.linspace(0, min(max(0.2, 3 * prevalence), 0.95), 201)


def _share_from(scores: Float64Array, thresholds: ArrayLike) -> Float64Array:
    """Return the share of scores at or above each threshold; 0 without scores, as they then weigh nothing."""
    below = np.searchsorted(np.sort(scores), np.asarray(thresholds, np.float64), "left")
    return (scores.size - below) / max(scores.size, 1)


def _odds(thresholds: ArrayLike) -> Float64Array:
    values = np.asarray(thresholds, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values < 1)).all():
        raise ValueError("a threshold is from 0 to below 1, and there is a list of them")
    return values / (1 - values)


def _checked_prevalence(prevalence: float) -> float:
    if not 0 <= prevalence <= 1:
        raise ValueError(f"a prevalence is from 0 to 1, not {prevalence}")
    return prevalence
