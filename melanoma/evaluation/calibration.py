"""How far probabilities can be taken at their word: Brier score, reliability, calibration slope and intercept.

It changes no probability, draws nothing and knows no table or file.
Everywhere here `target` is int or bool (rows,), 1 a melanoma; `probability` is float (rows,) in [0, 1].
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melanoma.evaluation.metrics import Float64Array, checked, in_range, logit

NORMAL_95 = 1.959964
FEWEST = 20  # images that a point of the smoothed curve rests on


@dataclass(frozen=True)
class Reliability:
    """Bins of about equally many images, lowest probability first; each array is (bins,)."""

    probability: Float64Array  # mean in the bin, in [0, 1]
    melanomas: Float64Array  # share of melanomas in the bin, in [0, 1]
    low: Float64Array  # 95 % Wilson interval of that share
    high: Float64Array
    images: NDArray[np.int64]


@dataclass(frozen=True)
class LogisticCalibration:
    """The target's logistic regression on the logit of the probability; right is slope 1, intercept 0, in_the_large 0.

    `in_the_large` is the intercept where the slope is held at 1: below 0 the probabilities are too high on the whole.
    """

    slope: float
    intercept: float
    in_the_large: float


def brier(target: ArrayLike, probability: ArrayLike) -> float | None:
    """Return the mean squared distance of probability and target; None without rows.

    Raises ValueError as `metrics.auc` does, and for a probability outside [0, 1].
    Source: Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    truth, scores = _checked(target, probability)
    return float(np.mean((scores - truth) ** 2)) if scores.size else None


def reliability(target: ArrayLike, probability: ArrayLike, bins: int = 15) -> Reliability:
    """Sort the images into at most `bins` bins of about equal numbers; images of equal probability share a bin.

    Empty bins are left out, so the arrays may be shorter than `bins`. Raises ValueError as `brier` does.
    """
    truth, scores = _checked(target, probability)
    ordered = np.sort(scores)
    # The middle rank, 0 to 1: ties get one rank, so the bins do not depend on the order of the rows.
    rank = (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / 2
    place = np.minimum((rank / max(scores.size, 1) * bins).astype(int), bins - 1)
    images = np.bincount(place, minlength=bins)
    full = images > 0
    given, melanomas = (np.bincount(place, values, bins).astype(np.float64)[full] for values in (scores, truth))
    images = images[full]
    return Reliability(given / images, melanomas / images, *wilson_interval(melanomas, images), images)


def expected_calibration_error(target: ArrayLike, probability: ArrayLike, bins: int = 15) -> float | None:
    """Return the mean distance of probability and share of melanomas over equal-mass bins; None without rows.

    Raises ValueError as `brier` does. Source: Nguyen and O'Connor 2015, arXiv:1508.05154.
    """
    found = reliability(target, probability, bins)
    if not found.images.size:
        return None
    return float(np.average(np.abs(found.probability - found.melanomas), weights=found.images))


def smoothed_curve(
    target: ArrayLike, probability: ArrayLike, points: int = 60
) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array] | None:
    """Return a smooth share of melanomas by probability: probability, share, low, high, float64 (points,) each.

    A line is fitted at each place on the logit's scale, images weighed by a normal kernel (loess with another kernel:
    Cleveland 1979, doi:10.1080/01621459.1979.10481038) as wide as Silverman's rule says for the middle half of the
    logits, or as the way to the 20th nearest image where that is longer. low and high are Wilson's 95 % interval for as
    many images as the line's weights are worth, images taken as independent. From the 1st to the 99th hundredth of the
    images, since beyond there are too few; None with fewer than 20 rows, and where those hundredths are equal.
    Raises ValueError as `brier` does. Source of the figure: Austin and Steyerberg 2014, doi:10.1002/sim.5941.
    """
    truth, scores = _checked(target, probability)
    logits = logit(scores)
    if logits.size < FEWEST:
        return None
    first, quarter, three, last = np.quantile(logits, [0.01, 0.25, 0.75, 0.99]).tolist()
    if first == last:
        return None
    width = 1.06 * ((three - quarter) / 1.349 or float(logits.std())) * logits.size**-0.2
    places = np.linspace(first, last, points)
    away = logits - places[:, None]
    nearest = np.partition(np.abs(away), FEWEST - 1, axis=1)[:, FEWEST - 1]
    line = _line_weights(away / np.maximum(width, nearest)[:, None])
    share = np.clip(line @ truth, 0, 1)
    worth = 1 / (line**2).sum(1)
    return 1 / (1 + np.exp(-places)), share, *wilson_interval(share * worth, worth)


def wilson_interval(hits: Float64Array, images: NDArray[Any]) -> tuple[Float64Array, Float64Array]:
    """Return the 95 % interval of the shares hits / images: low and high, float64 in [0, 1], of the arrays' shape.

    images: above 0, of independent images. Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    z, share = NORMAL_95, hits / images
    middle = (hits + z**2 / 2) / (images + z**2)
    reach = z * np.sqrt(share * (images - hits) + z**2 / 4) / (images + z**2)
    # Rounding would leave a share of 0 or 1 a hair outside its own interval.
    return np.clip(middle - reach, 0.0, share), np.clip(middle + reach, share, 1.0)


def logistic_calibration(target: ArrayLike, probability: ArrayLike) -> LogisticCalibration | None:
    """Fit target ~ intercept + slope x logit(probability); None where the fit has no finite answer.

    That is where a class is absent, all probabilities are equal, or one threshold separates the classes.
    Raises ValueError as `brier` does. Source: Van Calster 2019, doi:10.1186/s12916-019-1466-7.
    """
    truth, scores = _checked(target, probability)
    logits = logit(scores)
    if not _classes_overlap(logits[truth], logits[~truth]):
        return None
    centre, spread = float(logits.mean()), float(logits.std())
    design = np.stack([np.ones_like(logits), (logits - centre) / spread], axis=1)  # well conditioned for Newton
    height, tilt = _logistic_fit(design, np.zeros_like(logits), truth)
    in_the_large = _logistic_fit(design[:, :1], logits, truth)[0]
    return LogisticCalibration(tilt / spread, height - tilt * centre / spread, in_the_large)


def _checked(target: ArrayLike, probability: ArrayLike) -> tuple[NDArray[np.bool_], Float64Array]:
    truth, scores = checked(target, probability)
    return truth, in_range(scores)


def _classes_overlap(melanoma: Float64Array, benign: Float64Array) -> bool:
    """Tell whether the likelihood has a finite maximum (Albert and Anderson 1984, doi:10.1093/biomet/71.1.1)."""
    if not melanoma.size or not benign.size:
        return False
    return bool(melanoma.min() < benign.max() and benign.min() < melanoma.max())


def _line_weights(away: Float64Array) -> Float64Array:
    """Return what each image adds to the height of a fitted line at each place, (places, rows); a row's sum is 1.

    away: (places, rows), distances in kernel widths. Where all near images are at one spot no line can be fitted, and
    their mean is taken.
    """
    weights = np.exp(-(away**2) / 2)
    total, moment, spread = weights.sum(1), (weights * away).sum(1), (weights * away**2).sum(1)
    tilted = weights * (spread[:, None] - moment[:, None] * away)
    flat = total * spread - moment**2 <= 1e-9 * total**2
    tilted[flat] = weights[flat]
    return np.asarray(tilted / tilted.sum(1, keepdims=True))


def _logistic_fit(design: Float64Array, offset: Float64Array, truth: NDArray[np.bool_]) -> list[float]:
    """Maximise the likelihood of sigmoid(offset + design @ weights) by Newton's steps, halved until they help."""
    weights = np.zeros(design.shape[1])
    loss = _log_loss(offset, truth)
    for _ in range(100):
        chance = 1 / (1 + np.exp(-(offset + design @ weights)))
        slope = design.T @ (chance - truth)
        curve = (design * (chance * (1 - chance))[:, None]).T @ design
        step = np.linalg.lstsq(curve, slope, rcond=None)[0]
        while (after := _log_loss(offset + design @ (weights - step), truth)) > loss and np.abs(step).max() > 1e-12:
            step = step / 2
        weights, loss = weights - step, after
        if np.abs(step).max() < 1e-10:
            break
    return [float(weight) for weight in weights]


def _log_loss(logit: Float64Array, truth: NDArray[np.bool_]) -> Any:
    return np.logaddexp(0.0, np.where(truth, -logit, logit)).sum()
