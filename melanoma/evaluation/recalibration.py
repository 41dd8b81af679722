"""Probabilities mended: temperature and isotonic calibration as plain numbers, and another prevalence.

Learning isotonic knots takes scikit-learn; to apply any of it needs numpy alone. How good a probability is, is
calibration.py's. Everywhere here `target` is int or bool (rows,), 1 a melanoma; `probability` is float (rows,) in
[0, 1]; `part` is int (rows,), a patient whole in one part.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melanoma.errors import DataError
from melanoma.evaluation.metrics import Float64Array, checked, in_range, logit, sigmoid

METHODS = ("none", "temperature", "isotonic")
COLDEST, HOTTEST = 0.05, 20.0  # a network that separates the classes would ask for 0


@dataclass(frozen=True)
class Calibrator:
    """How a probability is mended.

    method: one of METHODS. temperature: what the logit is divided by, above 0; 1 but for that method. knots, values:
    probabilities, ascending, and what they become, straight lines between; empty but for "isotonic".
    """

    method: str = "none"
    temperature: float = 1.0
    knots: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def apply(self, probability: ArrayLike) -> Float64Array:
        """Return the calibrated probability, float64 of the same shape in [0, 1]; it never turns two scores round.

        probability: float of any shape in [0, 1], else ValueError.
        """
        given = in_range(probability)
        if self.method == "temperature":
            return sigmoid(logit(given) / self.temperature)
        if self.method == "isotonic":
            return np.asarray(np.interp(given, self.knots, self.values))
        return given

    def to_json(self) -> dict[str, Any]:
        """Give plain values for a JSON file; `from_json` makes an equal calibrator of them."""
        numbers = {"temperature": self.temperature, "knots": list(self.knots), "values": list(self.values)}
        return {"method": self.method, **numbers}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Calibrator":
        """Make a calibrator of what `to_json` gave; raises DataError where it cannot be one."""
        if not isinstance(values, Mapping) or set(values) != set(cls.__dataclass_fields__):
            raise DataError(f"a calibrator needs exactly {', '.join(cls.__dataclass_fields__)}")
        if values["method"] not in METHODS:
            raise DataError(f"a calibrator's method is one of {', '.join(METHODS)}, not {values['method']!r:.80}")
        temperature, knots, heights = (values[name] for name in ("temperature", "knots", "values"))
        if not _is_number(temperature) or not COLDEST <= temperature <= HOTTEST:
            raise DataError(f"a calibrator's temperature is from {COLDEST} to {HOTTEST}, not {temperature!r:.80}")
        _check_ladder("knots", knots)
        _check_ladder("values", heights)
        if len(knots) != len(heights) or (values["method"] == "isotonic" and not knots):
            raise DataError("an isotonic calibrator needs as many values as knots, one at least")
        return cls(values["method"], float(temperature), tuple(map(float, knots)), tuple(map(float, heights)))


def fit_temperature(target: ArrayLike, probability: ArrayLike) -> Calibrator:
    """Find the one number that the logits are best divided by, by maximum likelihood, from 0.05 to 20.

    A class that is absent leaves the probabilities as they are. Raises ValueError as `calibration.brier` does.
    Source: Guo et al. 2017, arXiv:1706.04599.
    """
    truth, scores = _checked(target, probability)
    if _one_class(truth):
        return Calibrator()
    sign = np.where(truth, -1.0, 1.0) * logit(scores)
    low, high = math.log(COLDEST), math.log(HOTTEST)
    # The loss has one valley in 1 / temperature, so thirds of the range close in on it.
    for _ in range(80):
        third = (high - low) / 3
        left, right = (float(np.logaddexp(0, sign / math.exp(at)).mean()) for at in (low + third, high - third))
        low, high = (low, high - third) if left < right else (low + third, high)
    return Calibrator("temperature", temperature=min(max(math.exp((low + high) / 2), COLDEST), HOTTEST))


def fit_isotonic(target: ArrayLike, probability: ArrayLike) -> Calibrator:
    """Fit the best ascending steps, and keep their corners.

    A step at 0 or 1 is moved inside by half an image, at most halfway to its neighbour, so that no answer is a
    certainty. A class that is absent leaves the probabilities as they are.
    Raises ValueError as `calibration.brier` does.
    Source: Zadrozny and Elkan 2002, doi:10.1145/775047.775151.
    """
    truth, scores = _checked(target, probability)
    if _one_class(truth):
        return Calibrator()
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, truth.astype(np.float64))
    knots, values = np.asarray(fitted.X_thresholds_, np.float64), np.asarray(fitted.y_thresholds_, np.float64)
    at = fitted.predict(scores)
    inside = values[(values > 0) & (values < 1)]
    lowest, highest = (0.5 / ((at == end).sum() + 1) for end in (0, 1))
    values = np.clip(values, min([lowest, *inside / 2]), 1 - min([highest, *(1 - inside) / 2]))
    return Calibrator("isotonic", knots=tuple(knots.tolist()), values=tuple(values.tolist()))


FITS: dict[str, Callable[[ArrayLike, ArrayLike], Calibrator]] = {
    "temperature": fit_temperature,
    "isotonic": fit_isotonic,
}


def cross_fitted(
    target: ArrayLike,
    probability: ArrayLike,
    part: ArrayLike,
    fit: Callable[[ArrayLike, ArrayLike], Calibrator],
) -> Float64Array:
    """Return calibrated probabilities, float64 (rows,), each part's learned on the other parts alone.

    Where the other parts lack a class, or there are none, probabilities stay as they are.
    Raises ValueError as `calibration.brier` does, and where the lengths differ.
    """
    truth, scores = _checked(target, probability)
    place, answer = np.asarray(part), scores.copy()
    if place.shape != truth.shape:
        raise ValueError(f"part {place.shape} and target {truth.shape} are not one value an image")
    for one in np.unique(place):
        held = place == one
        if (~held).any():
            answer[held] = fit(truth[~held], scores[~held]).apply(scores[held])
    return answer


def choose_method(
    target: ArrayLike, probability: ArrayLike, part: ArrayLike
) -> tuple[str, dict[str, dict[str, float | None]]]:
    """Choose what has the lowest cross-fitted log loss, the plainer of equals; with the figures of each method.

    Each has log_loss, brier, expected_calibration_error, slope, intercept and in_the_large, None where undefined.
    Raises ValueError as `cross_fitted` does.
    """
    truth, scores = _checked(target, probability)
    figures = {"none": _figures(truth, scores)}
    for name, fit in FITS.items():
        figures[name] = _figures(truth, cross_fitted(truth, scores, part, fit))
    if _one_class(truth):
        return "none", figures
    return min(figures, key=lambda name: figures[name]["log_loss"] or 0.0), figures


def log_loss(target: ArrayLike, probability: ArrayLike) -> float | None:
    """Return the mean negative log likelihood, in nats; None without rows. Probabilities are kept off 0 and 1.

    Raises ValueError as `calibration.brier` does.
    """
    truth, scores = _checked(target, probability)
    if not truth.size:
        return None
    return float(np.logaddexp(0, np.where(truth, -1.0, 1.0) * logit(scores)).mean())


def rebased(probability: ArrayLike, from_prevalence: float, to_prevalence: float) -> Float64Array:
    """Carry probabilities to a population with another share of melanomas, the classes themselves being alike.

    probability: float of any shape in [0, 1]; the answer is float64 of that shape in [0, 1]. The odds are multiplied by
    the ratio of the two prevalences' odds; both are in (0, 1). Raises ValueError for anything outside its range.
    Source: Saerens et al. 2002, doi:10.1162/089976602753284446.
    """
    for prevalence in (from_prevalence, to_prevalence):
        if not 0 < prevalence < 1:
            raise ValueError(f"a prevalence is above 0 and below 1, not {prevalence}")
    given = in_range(probability)
    if from_prevalence == to_prevalence:
        return given
    ratio = to_prevalence / (1 - to_prevalence) / (from_prevalence / (1 - from_prevalence))
    return np.asarray(given * ratio / (given * ratio + 1 - given))


def parts_by_patient(
    patient: ArrayLike, count: int = 5, seed: int = 0, target: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Divide rows into parts of about as many patients, each patient whole: int64 (rows,), 0 to `count` - 1.

    patient: (rows,) of any kind of name that can be sorted. With a target, patients with a melanoma are dealt out
    first, so that each part has its share of them. Raises ValueError for fewer than one part.
    """
    if count < 1:
        raise ValueError(f"rows are divided into one part at least, not {count}")
    names, person = np.unique(np.asarray(patient), return_inverse=True)
    ill = np.zeros(len(names), bool)
    if target is not None:
        ill = np.bincount(person, np.asarray(target, np.float64), len(names)) > 0
    shuffled = np.random.default_rng(seed).permutation(len(names))
    order = shuffled[np.argsort(~ill[shuffled], kind="stable")]
    part = np.empty(len(names), np.int64)
    part[order] = np.arange(len(names)) % count
    return np.asarray(part[person])


def _figures(truth: NDArray[np.bool_], scores: Float64Array) -> dict[str, float | None]:
    from melanoma.evaluation.calibration import brier, expected_calibration_error, logistic_calibration  # fitting only

    fitted = logistic_calibration(truth, scores)
    return {
        "log_loss": log_loss(truth, scores),
        "brier": brier(truth, scores),
        "expected_calibration_error": expected_calibration_error(truth, scores),
        "slope": fitted.slope if fitted else None,
        "intercept": fitted.intercept if fitted else None,
        "in_the_large": fitted.in_the_large if fitted else None,
    }


def _checked(target: ArrayLike, probability: ArrayLike) -> tuple[NDArray[np.bool_], Float64Array]:
    truth, scores = checked(target, probability)
    return truth, in_range(scores)


def _one_class(truth: NDArray[np.bool_]) -> bool:
    return bool(truth.all() or not truth.any())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check_ladder(name: str, steps: Any) -> None:
    if not isinstance(steps, list | tuple) or not all(_is_number(step) and 0 <= step <= 1 for step in steps):
        raise DataError(f"a calibrator's {name} are numbers from 0 to 1, not {steps!r:.80}")
    if any(after < before for before, after in pairwise(steps)):
        raise DataError(f"a calibrator's {name} ascend")
