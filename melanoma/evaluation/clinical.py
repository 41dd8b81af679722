"""Age, sex and site beside a finished score: what is known of the patient moves a probability, and can be left out.

A network that is shown them while it learns looks less closely at the picture, so they are weighed afterwards, by a
logistic regression on the score's logit. To apply its weights needs numpy alone, to learn them scikit-learn.
Everywhere here `target` is int or bool (rows,), 1 a melanoma; `probability` is float (rows,) in [0, 1]; `table` gives
age_years (float, NaN where unknown), sex and site (words; anything else where unknown) of the same rows.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melanoma.errors import DataError
from melanoma.evaluation.metrics import Float64Array, absent_class, checked, in_range, logit, sigmoid

YEARS = 10.0  # that an age counts in
WORDS = ("sex", "site")
UNKNOWN = "unknown"
LARGEST = 1e6  # of a weight: what is computed with it stays finite
PENALTY = 1.0  # inverse of the weights' penalty: a site of a dozen images does not run away


@dataclass(frozen=True)
class Clinical:
    """Weights of the logistic regression of target on an image's logit and what is known of the patient.

    An age of a decades from `years` adds linear x a + square x (a x a - shift); a sex or a site adds what its word has.
    All are centred on the rows that they were learned of, so that what is unknown adds nothing.
    """

    intercept: float
    logit: float
    years: float
    linear: float
    square: float
    shift: float
    sex: Mapping[str, float]
    site: Mapping[str, float]

    def apply(self, probability: ArrayLike, table: Any) -> Float64Array:
        """Return the probability in the light of age, sex and site, float64 (rows,) in (0, 1)."""
        return sigmoid(self.intercept + self.logit * logit(in_range(probability)) + self.added(table))

    def added(self, table: Any) -> Float64Array:
        """Return what age, sex and site add to the logit, float64 (rows,); 0 where none is known."""
        decades = (np.asarray(table["age_years"], np.float64) - self.years) / YEARS
        added = np.nan_to_num(self.linear * decades + self.square * (decades**2 - self.shift))
        for name in WORDS:
            words = getattr(self, name)
            added = added + np.array([words.get(word, 0.0) if isinstance(word, str) else 0.0 for word in table[name]])
        return np.asarray(added, np.float64)

    def knows(self, name: str, word: str) -> bool:
        """Tell whether a sex or a site was among those that were learned of."""
        return word == UNKNOWN or word in getattr(self, name)

    def to_json(self) -> dict[str, Any]:
        """Give plain values for a JSON file; `from_json` makes an equal one of them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Clinical":
        """Make one of what `to_json` gave; raises DataError where a weight is missing or cannot be."""
        if not isinstance(values, Mapping) or set(values) != set(cls.__dataclass_fields__):
            raise DataError(f"clinical weights are exactly {', '.join(cls.__dataclass_fields__)}")
        words = {name: values[name] for name in WORDS}
        if not all(isinstance(one, Mapping) and all(isinstance(word, str) for word in one) for one in words.values()):
            raise DataError("clinical weights of sex and site are numbers by word")
        numbers = [value for name, value in values.items() if name not in WORDS]
        for value in (*numbers, *(value for one in words.values() for value in one.values())):
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
                raise DataError(f"a clinical weight is a number of at most {LARGEST:g} either way, not {value!r:.60}")
        if values["logit"] <= 0:
            raise DataError("the clinical weight of the score is above 0")
        return cls(**values)


def fit_clinical(target: ArrayLike, probability: ArrayLike, table: Any) -> Clinical | None:
    """Learn the weights; None where a class is absent, nothing is known of any patient, or the score tells nothing.

    A weight of the score below 0 would turn the networks' ranking round.

    Raises ValueError as `metrics.auc` does, and for a probability outside [0, 1].
    """
    from sklearn.linear_model import LogisticRegression

    truth, scores = checked(target, probability)
    age = np.asarray(table["age_years"], np.float64)
    years = float(np.nanmean(age)) if np.isfinite(age).any() else 0.0
    decades = (age - years) / YEARS
    shift = float(np.nanmean(decades**2)) if np.isfinite(age).any() else 0.0
    words = {name: sorted({word for word in table[name] if _known(word)}) for name in WORDS}
    columns = [logit(in_range(scores)), np.nan_to_num(decades), np.nan_to_num(decades**2 - shift)]
    share: dict[str, Float64Array] = {}
    for name in WORDS:
        marks = np.array([[one == word for word in words[name]] for one in table[name]], np.float64)
        marks = marks.reshape(len(truth), len(words[name]))
        known = marks.sum(axis=1, keepdims=True)
        share[name] = marks.sum(axis=0) / max(float(known.sum()), 1.0)
        columns += list(((marks - share[name]) * known).T)
    design = np.column_stack(columns)
    if absent_class(truth) or not design[:, 1:].any():
        return None
    model = LogisticRegression(C=PENALTY, tol=1e-8, max_iter=1000).fit(design, truth)
    weight, linear, square, *rest = model.coef_[0].tolist()
    if weight <= 0:
        return None
    adds = {}
    for name in WORDS:
        some = np.array([rest.pop(0) for _ in words[name]])
        adds[name] = dict(zip(words[name], (some - some @ share[name]).tolist(), strict=True))
    return Clinical(float(model.intercept_[0]), weight, years, linear, square, shift, adds["sex"], adds["site"])


def cross_fitted_clinical(
    target: ArrayLike, probability: ArrayLike, table: Any, part: NDArray[np.int64]
) -> Float64Array:
    """Return probabilities in the light of age, sex and site, float64 (rows,), by weights learned on other parts only.

    part: int (rows,), a patient whole in one part. NaN in the parts for which no weights could be learned.
    """
    truth, scores = checked(target, probability)
    values = {name: np.asarray(table[name], object) for name in ("age_years", *WORDS)}
    answer = np.full(truth.size, np.nan)

    def rows_of(mask: NDArray[np.bool_]) -> dict[str, Any]:
        return {name: column[mask] for name, column in values.items()}

    for held_out in np.unique(part):
        inside = part == held_out
        if learned := fit_clinical(truth[~inside], scores[~inside], rows_of(~inside)):
            answer[inside] = learned.apply(scores[inside], rows_of(inside))
    return answer


def _known(word: Any) -> bool:
    return isinstance(word, str) and word not in ("", UNKNOWN)
