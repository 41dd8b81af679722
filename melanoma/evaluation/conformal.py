"""Answers that say when they do not know: melanoma, benign, or refer, with a share of each class that is not missed.

A conformal set holds every class that the score does not speak against; thresholds are set class by class, so that the
promise holds for melanomas as for benign lesions (Vovk 2013, doi:10.1007/s10994-013-5355-6; Sadinle et al. 2019,
doi:10.1080/01621459.2017.1395341). The answer is the one class in the set; both, or neither, is "refer".
To answer needs numpy alone. Everywhere here `target` is int or bool (rows,), 1 a melanoma; `probability` is float
(rows,).
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melanoma.errors import DataError
from melanoma.evaluation.metrics import Float64Array, checked

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
        """Return "melanoma", "benign", or "refer" where the set holds both or neither, as for NaN: str (rows,)."""
        return _said(*self.sets(probability))

    def to_json(self) -> dict[str, float]:
        """Give plain values for a JSON file; `from_json` makes equal thresholds of them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Conformal":
        """Make thresholds of what `to_json` gave; raises DataError where one is missing or no finite number.

        A level is in (0, 1), too.
        """
        if not isinstance(values, Mapping) or set(values) != set(cls.__dataclass_fields__):
            raise DataError(f"conformal thresholds are exactly {', '.join(cls.__dataclass_fields__)}")
        for name, value in values.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not abs(value) <= sys.float_info.max:  # NaN is not, either
                raise DataError(f"a conformal {name} is a finite number, not {value!r:.80}")
        if not 0 < values["level"] < 1:
            raise DataError(f"a conformal level is above 0 and below 1, not {values['level']!r:.80}")
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
    target: ArrayLike, probability: ArrayLike, part: ArrayLike, level: float = 0.9
) -> NDArray[np.str_]:
    """Return each row's answer by thresholds that were set on other parts: str (rows,), "refer" where none could be."""
    return _said(*_cross_fitted_sets(target, probability, part, level))


def coverage(target: ArrayLike, probability: ArrayLike, part: ArrayLike, level: float = 0.9) -> dict[str, Any]:
    """Measure, cross-fitted, how often the set holds the truth in each class, and how often an answer is given.

    part: int (rows,), patients whole. The answer is ready for JSON; shares are from 0 to 1, None with the `reason`
    where thresholds could not be set. By class: `coverage`; its `interval`, Wilson's, images taken as independent;
    `single_parts`, its lowest and highest in a part with that class; `answers`. Of all images: `shares`, which tells
    both from neither, and `refer_share`. `among_answered`: of the lesions that were not referred.

    `coverage` is near `level` for any scores, noise too: what one part holds too little of moves the thresholds of the
    others. It varies far less than `interval` says; what new patients may meet is seen in `single_parts`.
    Raises ValueError as `fit_conformal` does, and where the lengths differ.
    """
    truth, scores, place = _checked(target, probability, part)
    reason = _too_few(truth, scores, place, level)
    if reason:
        return _nothing(reason)
    melanoma, benign = _cross_fitted_sets(truth, scores, place, level)
    said = _said(melanoma, benign)
    classes = {MELANOMA: (truth, melanoma), BENIGN: (~truth, benign)}
    return {
        "coverage": {name: float(inside[among].mean()) for name, (among, inside) in classes.items()},
        "interval": {name: _interval(inside[among]) for name, (among, inside) in classes.items()},
        "single_parts": {name: _single_parts(inside[among], place[among]) for name, (among, inside) in classes.items()},
        "answers": {
            name: {answer: float((said[among] == answer).mean()) for answer in (MELANOMA, BENIGN, REFER)}
            for name, (among, _) in classes.items()
        },
        "shares": {
            MELANOMA: float((said == MELANOMA).mean()),
            BENIGN: float((said == BENIGN).mean()),
            "refer_both": float((melanoma & benign).mean()),
            "refer_neither": float((~melanoma & ~benign).mean()),
        },
        "among_answered": _among_answered(truth, said),
        "refer_share": float((said == REFER).mean()),
        "reason": None,
    }


def _nothing(reason: str) -> dict[str, Any]:
    by_class = {key: {MELANOMA: None, BENIGN: None} for key in ("coverage", "interval", "single_parts")}
    whole = dict.fromkeys(("answers", "shares", "among_answered", "refer_share"))
    return {**by_class, **whole, "reason": reason}


def _interval(inside: NDArray[np.bool_]) -> dict[str, Any]:
    from melanoma.evaluation.calibration import wilson_interval  # to answer needs none of it

    low, high = wilson_interval(np.array([float(inside.sum())]), np.array([inside.size]))
    return {"low": float(low[0]), "high": float(high[0]), "level": 0.95, "method": "Wilson", "images": inside.size}


def _single_parts(inside: NDArray[np.bool_], place: NDArray[Any]) -> dict[str, float]:
    shares = [float(inside[place == one].mean()) for one in np.unique(place)]
    return {"lowest": min(shares), "highest": max(shares)}


def _among_answered(truth: NDArray[np.bool_], said: NDArray[np.str_]) -> dict[str, Any]:
    given = said != REFER
    empty = [
        name for name, of_class in (("melanomas", truth), ("benign images", ~truth)) if not (given & of_class).any()
    ]
    return {
        "sensitivity": _share(said[given & truth] == MELANOMA),
        "specificity": _share(said[given & ~truth] == BENIGN),
        "reason": f"all {' and '.join(empty)} are referred" if empty else None,
    }


def _cross_fitted_sets(
    target: ArrayLike, probability: ArrayLike, part: ArrayLike, level: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    truth, scores, place = _checked(target, probability, part)
    melanoma, benign = np.ones(len(truth), bool), np.ones(len(truth), bool)
    for one in np.unique(place):
        held = place == one
        learned = fit_conformal(truth[~held], scores[~held], level)
        if learned is not None:
            melanoma[held], benign[held] = learned.sets(scores[held])
    return melanoma, benign


def _checked(
    target: ArrayLike, probability: ArrayLike, part: ArrayLike
) -> tuple[NDArray[np.bool_], Float64Array, NDArray[Any]]:
    (truth, scores), place = checked(target, probability), np.asarray(part)
    if place.shape != truth.shape:
        raise ValueError(f"part {place.shape} and target {truth.shape} are not one value an image")
    return truth, scores, place


def _too_few(truth: NDArray[np.bool_], scores: Float64Array, place: NDArray[Any], level: float) -> str:
    if not truth.any() or truth.all():
        return "a class is absent"
    if any(fit_conformal(truth[place != one], scores[place != one], level) is None for one in np.unique(place)):
        return "too few images of a class to set thresholds on other patients"
    return ""


def _said(melanoma: NDArray[np.bool_], benign: NDArray[np.bool_]) -> NDArray[np.str_]:
    return np.select([melanoma & ~benign, benign & ~melanoma], [MELANOMA, BENIGN], REFER)


def _share(hits: NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if hits.size else None
