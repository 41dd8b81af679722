"""Patient context: how far an image stands out among the same patient's others, and what that adds to its probability.

A lesion unlike its neighbours, the "ugly duckling", is suspect even where it would pass alone (Grob and Bonerandi 1998,
doi:10.1001/archderm.134.1.103-a). It knows arrays only; to apply weights needs numpy alone, to learn them scikit-learn.
Everywhere here `target` is int or bool (rows,), 1 a melanoma; `probability` is float (rows,) in [0, 1]; `patient` is
(rows,) of any kind of name that can be sorted.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melanoma.errors import DataError
from melanoma.evaluation.metrics import Float64Array, checked, in_range, logit, sigmoid


@dataclass(frozen=True)
class Context:
    """Weights of the logistic regression of target on an image's logit and its deviation from the patient's others."""

    intercept: float
    logit: float
    deviation: float

    def apply(self, probability: ArrayLike, patient: ArrayLike) -> Float64Array:
        """Return the probability in the light of the patient's other images among these rows, float64 (rows,), (0, 1).

        All of a patient's images must be given at once: the answer for one depends on the others.
        Raises ValueError as `deviation` does.
        """
        value = self.intercept + _columns(probability, patient) @ np.array([self.logit, self.deviation])
        return sigmoid(value)

    def to_json(self) -> dict[str, float]:
        """Give plain values for a JSON file; `from_json` makes an equal context of them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Context":
        """Make a context of what `to_json` gave; raises DataError where a weight is missing or no finite number."""
        if not isinstance(values, Mapping) or set(values) != set(cls.__dataclass_fields__):
            raise DataError(f"a context needs exactly {', '.join(cls.__dataclass_fields__)}")
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise DataError(f"a context's {name} is a finite number, not {value!r}")
        return cls(**{name: float(value) for name, value in values.items()})


def deviation(probability: ArrayLike, patient: ArrayLike) -> Float64Array:
    """Return each image's logit less the mean logit of the same patient's other images, float64 (rows,), in logits.

    0 for a patient's only image; probabilities are first kept 1e-7 away from 0 and 1. Raises ValueError for lengths
    that differ, and for a probability that is NaN or outside [0, 1].
    """
    return _columns(probability, patient)[:, 1]


def fit_context(target: ArrayLike, probability: ArrayLike, patient: ArrayLike) -> Context | None:
    """Fit target ~ intercept + logit + deviation by maximum likelihood; None where there is no one finite answer.

    That is where a class is absent, a line separates the classes, all logits are equal, or deviation tells nothing that
    the logit does not: no patient has a second image, or there is one patient only.
    Raises ValueError as `metrics.auc` and `deviation` do.
    """
    from sklearn.linear_model import LogisticRegression

    truth, _ = checked(target, probability)
    columns = _columns(probability, patient)
    if not truth.any() or truth.all():
        return None
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    if (spread < 1e-9).any():
        return None
    scaled = (columns - centre) / spread
    if np.linalg.matrix_rank(scaled, tol=1e-6 * math.sqrt(len(scaled))) < 2 or _separable(scaled, truth):
        return None
    # An infinite C is no penalty, under whatever name scikit-learn offers that.
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(scaled, truth)
    weights = model.coef_[0] / spread
    return Context(float(model.intercept_[0] - weights @ centre), float(weights[0]), float(weights[1]))


def cross_fitted_context(
    target: ArrayLike, probability: ArrayLike, patient: ArrayLike, part: ArrayLike
) -> Float64Array:
    """Return probabilities in their patients' context, float64 (rows,), each by weights learned on other parts only.

    part: int (rows,), a patient whole in one part. NaN in the parts for which no weights could be learned.
    Raises ValueError as `fit_context` does, where the lengths differ, and where a patient is in two parts.
    """
    truth, scores = checked(target, probability)
    people, place = np.asarray(patient), np.asarray(part)
    if people.shape != truth.shape or place.shape != truth.shape:
        raise ValueError(f"patient {people.shape} and part {place.shape} are not one value for {truth.size:,} images")
    _, first, person = np.unique(people, return_index=True, return_inverse=True)
    if torn := np.unique(person[place != place[first][person]]).size:
        raise ValueError(f"{torn:,} patients are in more than one part")
    answer = np.full(truth.size, np.nan)
    for held_out in np.unique(place):
        inside = place == held_out
        if context := fit_context(truth[~inside], scores[~inside], people[~inside]):
            answer[inside] = context.apply(scores[inside], people[inside])
    return answer


def _columns(probability: ArrayLike, patient: ArrayLike) -> Float64Array:
    """Return logit and deviation, float64 (rows, 2)."""
    scores, people = np.asarray(probability, np.float64), np.asarray(patient)
    if scores.ndim != 1 or people.shape != scores.shape:
        raise ValueError(f"probability {scores.shape} and patient {people.shape} are not one value an image")
    logits = logit(in_range(scores))
    person = np.unique(people, return_inverse=True)[1]
    others = np.bincount(person)[person] - 1
    rest = np.bincount(person, logits)[person] - logits
    apart = np.divide(others * logits - rest, others, out=np.zeros_like(logits), where=others > 0)
    return np.stack([logits, apart], axis=1)


def _separable(columns: Float64Array, truth: NDArray[np.bool_]) -> bool:
    """Tell whether a line has the classes on its two sides, if touching it: no likelihood is then the highest.

    A linear programme seeks the direction. Source: Albert and Anderson 1984, doi:10.1093/biomet/71.1.1.
    """
    from scipy.optimize import linprog  # type: ignore[import-untyped]

    side = np.column_stack([np.ones(len(columns)), columns]) * np.where(truth, 1.0, -1.0)[:, None]
    found = linprog(-side.sum(axis=0), A_ub=-side, b_ub=np.zeros(len(side)), bounds=[(-1, 1)] * side.shape[1])
    return bool(np.abs(found.x).max() > 0.5)  # a direction that separates grows to its bounds; else 0 is the best
