"""Answers that say when they do not know: melanoma, benign, or refer, with a share of each class that is not missed.

A conformal set holds every class that the score does not speak against; thresholds are set class by class, so that the
promise holds for melanomas as for benign lesions (Vovk 2013, doi:10.1007/s10994-013-5355-6; Sadinle et al. 2019,
doi:10.1080/01621459.2017.1395341). The answer is the one class in the set; both, or neither, is "refer".
It needs numpy alone. Everywhere here `target` is int or bool (rows,), 1 a melanoma; `probability` is float (rows,).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melanoma.errors import DataError
from melanoma.evaluation.metrics import checked

MELANOMA, BENIGN, REFER = "melanoma", "benign", "refer"


@dataclass(frozen=True)
class Conformal:
    """Thresholds: the set holds melanoma from `melanoma_from` on and benign up to `benign_upto`.

    level: the share of each class whose set holds the truth, in (0, 1).
    """

    melanoma_from: float
    benign_upto: float
    level: float

    def sets(self, probability: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell for each score whether the set holds melanoma, and whether it holds benign: bool (rows,) each."""
        scores = np.asarray(probability, np.float64)
        return scores >= self.melanoma_from, scores <= self.benign_upto

    def answer(self, probability: ArrayLike) -> NDArray[np.str_]:
        """Return "melanoma", "benign", or "refer" where the set holds both or neither: str (rows,)."""
        return _said(*self.sets(probability))

    def to_json(self) -> dict[str, float]:
        """Give plain values for a JSON file; `from_json` makes equal thresholds of them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Conformal":
        """Make thresholds of what `to_json` gave; raises DataError where one is missing or no finite number."""
        if not isinstance(values, Mapping) or set(values) != set(cls.__dataclass_fields__):
            raise DataError(f"conformal thresholds are exactly {', '.join(cls.__dataclass_fields__)}")
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise DataError(f"a conformal {name} is a finite number, not {value!r}")
        return cls(**{name: float(value) for name, value in values.items()})


def fit_conformal(target: ArrayLike, probability: ArrayLike, level: float = 0.9) -> Conformal | None:
    """Set the thresholds so that of new lesions of a class at least `level`, in (0, 1), have it in their set.

    Of n images of a class the ceil((n + 1) x level) that speak most for it are inside. None where a class has too few
    images for that. Raises ValueError as `metrics.auc` does, and for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"a level is above 0 and below 1, not {level}")
    truth, scores = checked(target, probability)
    edges = []
    for of_class in (-scores[truth], scores[~truth]):  # the lower, the more it speaks for the class
        place = math.ceil((of_class.size + 1) * level - 1e-9)
        if place > of_class.size:
            return None
        edges.append(float(np.sort(of_class)[place - 1]))
    return Conformal(-edges[0], edges[1], level)


def cross_fitted_answers(
    target: ArrayLike, probability: ArrayLike, part: NDArray[np.int64], level: float = 0.9
) -> NDArray[np.str_]:
    """Return each row's answer by thresholds that were set on other parts: str (rows,), "refer" where none could be."""
    return _said(*_cross_fitted_sets(target, probability, part, level))


def coverage(target: ArrayLike, probability: ArrayLike, part: NDArray[np.int64], level: float = 0.9) -> dict[str, Any]:
    """Measure, cross-fitted, how often the set holds the truth in each class, and how often an answer is given.

    part: int (rows,), patients whole. The answer is ready for JSON; shares are from 0 to 1, None with the `reason`
    where thresholds could not be set. `among_answered`: of the lesions that were not referred.
    """
    truth, scores = checked(target, probability)
    reason = _too_few(truth, scores, part, level)
    if reason:
        empty = {MELANOMA: None, BENIGN: None}
        return {"coverage": empty, "answers": None, "among_answered": None, "refer_share": None, "reason": reason}
    melanoma, benign = _cross_fitted_sets(truth, scores, part, level)
    said = _said(melanoma, benign)
    answers = {
        name: {answer: float((said[of_class] == answer).mean()) for answer in (MELANOMA, BENIGN, REFER)}
        for name, of_class in ((MELANOMA, truth), (BENIGN, ~truth))
    }
    given = said != REFER
    among = {
        "sensitivity": _share(said[given & truth] == MELANOMA),
        "specificity": _share(said[given & ~truth] == BENIGN),
    }
    return {
        "coverage": {MELANOMA: float(melanoma[truth].mean()), BENIGN: float(benign[~truth].mean())},
        "answers": answers,
        "among_answered": among,
        "refer_share": float((~given).mean()),
        "reason": None,
    }


def _cross_fitted_sets(
    target: ArrayLike, probability: ArrayLike, part: NDArray[np.int64], level: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    truth, scores = checked(target, probability)
    melanoma, benign = np.ones(len(truth), bool), np.ones(len(truth), bool)
    for one in np.unique(part):
        held = part == one
        learned = fit_conformal(truth[~held], scores[~held], level)
        if learned is not None:
            melanoma[held], benign[held] = learned.sets(scores[held])
    return melanoma, benign


def _too_few(truth: NDArray[np.bool_], scores: NDArray[np.float64], part: NDArray[np.int64], level: float) -> str:
    if not truth.any() or truth.all():
        return "a class is absent"
    if any(fit_conformal(truth[part != one], scores[part != one], level) is None for one in np.unique(part)):
        return "too few images of a class to set thresholds on other patients"
    return ""


def _said(melanoma: NDArray[np.bool_], benign: NDArray[np.bool_]) -> NDArray[np.str_]:
    return np.select([melanoma & ~benign, benign & ~melanoma], [MELANOMA, BENIGN], REFER)


def _share(hits: NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if hits.size else None
