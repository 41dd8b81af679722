"""How well probabilities separate melanomas from benign images: arrays in, numbers out.

It draws nothing and knows no table, file or network; intervals are in intervals.py. What cannot be computed, as a class
is absent, is None.
Everywhere here `target` is int or bool (rows,), 1 a melanoma; `probability` is float (rows,), higher is more suspect.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]
NEAREST = 1e-7  # to 0 and 1, whose logits are infinite; a float32 sigmoid reaches them


def auc(target: ArrayLike, probability: ArrayLike) -> float | None:
    """Return the area under the ROC curve, ties counted half; None where a class is absent.

    Raises ValueError for lengths that differ, a probability that is NaN or infinite, a target other than 0 and 1.
    Source: Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    melanoma, benign = _by_class(target, probability)
    if not melanoma.size or not benign.size:
        return None
    return float(placements(melanoma, benign).mean())


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


def partial_auc(target: ArrayLike, probability: ArrayLike, minimum_sensitivity: float = 0.8) -> float | None:
    """Return the area under the ROC curve and above this sensitivity; None where a class is absent.

    From 0 to 1 - `minimum_sensitivity`, and not rescaled, as in ISIC 2024: (1 - minimum_sensitivity)^2 / 2 is a coin.
    Raises ValueError as `auc` does, and for a sensitivity outside [0, 1).
    Source: Kurtansky et al. 2024, doi:10.1038/s41597-024-03743-w; on partial areas McClish 1989,
    doi:10.1177/0272989X8900900307.
    """
    if not 0 <= minimum_sensitivity < 1:
        raise ValueError(f"the lowest sensitivity is at least 0 and below 1, not {minimum_sensitivity}")
    if auc(target, probability) is None:
        return None
    across, upwards, _ = roc_curve(target, probability)
    # Above the line the curve is followed from where it crosses it.
    begin = float(np.interp(minimum_sensitivity, upwards, across))
    inside = upwards > minimum_sensitivity
    across, upwards = np.append(begin, across[inside]), np.append(minimum_sensitivity, upwards[inside])
    return float(np.trapezoid(upwards - minimum_sensitivity, across))


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


def sensitivity_at_specificity(target: ArrayLike, probability: ArrayLike, specificity: float) -> float | None:
    """Return the best sensitivity among thresholds with at least this specificity; None where a class is absent.

    `specificity` is in [0, 1]. Raises ValueError as `auc` does.
    """
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity is from 0 to 1, not {specificity}")
    melanoma, benign = _by_class(target, probability)
    if not melanoma.size or not benign.size:
        return None
    allowed = int(np.floor((1 - specificity) * benign.size + 1e-9))  # false alarms
    if allowed >= benign.size:
        return 1.0
    return float((melanoma > np.sort(benign)[benign.size - 1 - allowed]).mean())


def predictive_values(
    sensitivity: float | None, specificity: float | None, prevalence: float
) -> dict[str, float | None]:
    """Return what an answer is worth where `prevalence`, in (0, 1), of the lesions are melanomas.

    ppv: the chance that a lesion called melanoma is one; npv: that one called benign is benign;
    number_needed_to_biopsy: lesions called melanoma for each melanoma among them, 1 / ppv. None where nothing is called
    so, or a rate is None. Raises ValueError for a prevalence outside (0, 1).
    Source: Altman and Bland 1994, doi:10.1136/bmj.309.6947.102.
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"a prevalence is above 0 and below 1, not {prevalence}")
    if sensitivity is None or specificity is None:
        return {"ppv": None, "npv": None, "number_needed_to_biopsy": None}
    hits, false_alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    missed, cleared = (1 - sensitivity) * prevalence, specificity * (1 - prevalence)
    return {
        "ppv": hits / (hits + false_alarms) if hits + false_alarms else None,
        "npv": cleared / (cleared + missed) if cleared + missed else None,
        "number_needed_to_biopsy": (hits + false_alarms) / hits if hits else None,
    }


def retrieval_sensitivity(
    target: ArrayLike, probability: ArrayLike, patient: ArrayLike, count: int = 15
) -> float | None:
    """Return the share of melanomas among the `count` most suspect images of their own patient; None without one.

    `patient` is (rows,) of any kind of name that can be sorted. Of images with equal scores at the edge each has its
    chance. The top-15 retrieval sensitivity of ISIC 2024 (Kurtansky et al. 2024, doi:10.1038/s41597-024-03743-w).
    Raises ValueError as `auc` does, and where the lengths differ.
    """
    truth, scores = checked(target, probability)
    _, person = np.unique(np.asarray(patient), return_inverse=True)
    if person.shape != truth.shape:
        raise ValueError(f"patient {person.shape} and target {truth.shape} are not one value an image")
    if not truth.any():
        return None
    _, level = np.unique(scores, return_inverse=True)
    key = person * (level.max() + 1) - level  # ascending: patient by patient, the most suspect first
    ordered = np.sort(key)
    begin = np.searchsorted(ordered, person[truth] * (level.max() + 1) - level.max())
    lower, upto = (np.searchsorted(ordered, key[truth], side) for side in ("left", "right"))
    above, tied = lower - begin, upto - lower
    return float(np.clip((count - above) / tied, 0, 1).mean())


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


def absent_class(target: ArrayLike) -> str:
    """Say which class is absent among these images; "" where both are there."""
    truth = np.asarray(target, bool)
    if not truth.any():
        return f"no melanoma among {truth.size:,} images"
    return f"no benign image among {truth.size:,} images" if truth.all() else ""


def _by_class(target: ArrayLike, probability: ArrayLike) -> tuple[Float64Array, Float64Array]:
    truth, scores = checked(target, probability)
    return scores[truth], scores[~truth]


def placements(above: Float64Array, below: Float64Array) -> Float64Array:
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


def in_range(probability: ArrayLike) -> Float64Array:
    """Return probabilities as float64 of the same shape; raises ValueError for one that is NaN or outside [0, 1]."""
    given = np.asarray(probability, np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError("a probability is NaN or outside 0 to 1")
    return given


def logit(probability: Float64Array) -> Float64Array:
    """Return the logit of probabilities, kept NEAREST away from 0 and 1: float64 of the same shape."""
    kept = np.clip(probability, NEAREST, 1 - NEAREST)
    return np.asarray(np.log(kept / (1 - kept)))


def sigmoid(value: Float64Array) -> Float64Array:
    """Return the probability that a logit stands for: float64 of the same shape."""
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -700, 700))))  # exp overflows beyond 709
