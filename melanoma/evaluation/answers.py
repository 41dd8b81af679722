"""Probabilities to answers: calibrated, melanoma or benign or refer, at thresholds that were chosen on other patients.

What is reported of them is cross-fitted: each patient's answers come from what was learned of other patients. What is
saved, for new images, is learned of all of them. It draws nothing and opens no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melanoma.config import EvaluateSettings
from melanoma.evaluation.conformal import Conformal, coverage, cross_fitted_answers, fit_conformal
from melanoma.evaluation.intervals import figure, share_interval
from melanoma.evaluation.metrics import Float64Array, absent_class, checked, predictive_values, threshold_at_sensitivity
from melanoma.evaluation.recalibration import (
    FITS,
    Calibrator,
    choose_method,
    cross_fitted,
    parts_by_patient,
    rebased,
)

SENSITIVITIES = (0.80, 0.90, 0.95)
PARTS = 5


@dataclass(frozen=True)
class Answers:
    """How one network's probabilities become answers.

    part: int64 (rows,), the patients whose answers were learned of the others. calibrated: float64 (rows,) in [0, 1],
    cross-fitted, for the data's own share of melanomas. said: str (rows,), "melanoma", "benign" or "refer",
    cross-fitted. calibrator, conformal: learned of all rows, for new images. candidates: what each way of calibrating
    reached, cross-fitted. prevalence: the share of melanomas where the answers will be used; prevalence_of_the_data:
    that of the rows; None without rows.
    """

    part: NDArray[np.int64]
    calibrated: Float64Array
    said: NDArray[np.str_]
    calibrator: Calibrator
    conformal: Conformal | None
    candidates: dict[str, dict[str, Any]]
    prevalence: float | None
    prevalence_of_the_data: float | None

    def moved(self, calibrated: ArrayLike) -> Float64Array:
        """Carry calibrated probabilities to the share of melanomas where they will be used, float64 in [0, 1]."""
        given, own, wanted = np.asarray(calibrated, np.float64), self.prevalence_of_the_data, self.prevalence
        if own is None or wanted is None or not 0 < own < 1 or own == wanted:
            return given
        return rebased(given, own, wanted)

    def of_new(self, probability: ArrayLike) -> Float64Array:
        """Return the calibrated probability of new images where they are used, float64 of the same shape in [0, 1]."""
        return self.moved(self.calibrator.apply(probability))

    def to_json(self) -> dict[str, Any]:
        """Give what new images need, as plain numbers."""
        return {
            "calibrator": self.calibrator.to_json(),
            "conformal": self.conformal.to_json() if self.conformal else None,
            "prevalence": self.prevalence,
            "prevalence_of_the_data": self.prevalence_of_the_data,
        }


def learn_answers(
    target: ArrayLike, probability: ArrayLike, group: ArrayLike, settings: EvaluateSettings, seed: int
) -> Answers:
    """Learn calibration and conformal thresholds from held-out predictions.

    target, probability: as everywhere, of rows that no network was trained on. group: (rows,) of any kind of name,
    rows that must stay together: patients, and duplicates of one lesion. Raises ValueError as `metrics.auc` does.
    """
    truth, scores = checked(target, probability)
    part = parts_by_patient(group, PARTS, seed, target=truth)
    method, candidates = choose_method(truth, scores, part)
    if settings.calibration != "auto":
        method = settings.calibration
    calibrator, calibrated = Calibrator("none"), scores
    if method != "none" and not absent_class(truth):
        calibrator, calibrated = FITS[method](truth, scores), cross_fitted(truth, scores, part, FITS[method])
    own = float(truth.mean()) if truth.size else None
    said = cross_fitted_answers(truth, scores, part, settings.coverage)
    conformal = fit_conformal(truth, scores, settings.coverage)
    return Answers(part, calibrated, said, calibrator, conformal, candidates, settings.prevalence or own, own)


def operating_points(
    target: ArrayLike,
    probability: ArrayLike,
    part: NDArray[np.int64],
    patient: ArrayLike,
    *,
    prevalence: float | None,
    draws: dict[str, Any],
    sensitivities: Sequence[float] = SENSITIVITIES,
) -> list[dict[str, Any]]:
    """Return what thresholds reach that were chosen on other patients and applied as they are.

    part: as `Answers.part`. For each of `sensitivities`: the `threshold` for new images (chosen on all rows), the
    sensitivity and specificity that were reached, as figures, and what an answer is worth at `prevalence`.
    """
    truth, scores = checked(target, probability)
    points = []
    for wanted in sensitivities:
        threshold = threshold_at_sensitivity(truth, scores, wanted)
        called, reason = np.zeros(len(truth), bool), absent_class(truth)
        for one in np.unique(part):
            held = part == one
            chosen = threshold_at_sensitivity(truth[~held], scores[~held], wanted)
            if chosen is None:
                reason = reason or "too few melanomas to choose a threshold on other patients"
            else:
                called[held] = scores[held] >= chosen
        reached: list[dict[str, Any]] = []
        for hit, among in ((called, truth), (~called, ~truth)):
            value = None if reason else float(hit[among].mean())
            interval = None if reason else share_interval(hit, among, patient, **draws)
            reached.append(figure(value, interval, reason))
        worth: dict[str, float | None] = {"ppv": None, "npv": None, "number_needed_to_biopsy": None}
        if prevalence and prevalence < 1:
            worth = predictive_values(reached[0]["value"], reached[1]["value"], prevalence)
        points.append(
            {
                "wanted_sensitivity": wanted,
                "threshold": threshold,
                "sensitivity": reached[0],
                "specificity": reached[1],
                "prevalence": prevalence,
                **worth,
            }
        )
    return points


def conformal_figures(
    target: ArrayLike, probability: ArrayLike, part: NDArray[np.int64], level: float
) -> dict[str, Any]:
    """Return the measured coverage of the conformal answers, cross-fitted, ready for JSON."""
    return {"level": level, **coverage(target, probability, part, level)}
