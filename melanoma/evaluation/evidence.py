"""Predictions in, the content of metrics.json out: every figure of a run, with its interval or why it has none.

It draws nothing, opens no file and knows no network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from melanoma.config import EvaluateSettings
from melanoma.evaluation import calibration, metrics
from melanoma.evaluation.answers import SENSITIVITIES, Answers, conformal_figures, operating_points
from melanoma.evaluation.control import Control, control_figure
from melanoma.evaluation.intervals import (
    auc_difference_interval,
    auc_interval,
    delong_interval,
    figure,
    ranking_intervals,
    ranking_measures,
)
from melanoma.evaluation.metrics import Float64Array, absent_class
from melanoma.evaluation.subgroups import rate, subgroups

SCHEMA_VERSION = 2
MINIMUM_SENSITIVITY = 0.8
SPECIFICITIES = (0.80, 0.90, 0.95)
RETRIEVED = 15


def evaluate(
    predictions: pd.DataFrame, settings: EvaluateSettings, seed: int, controls: Sequence[Control], answers: Answers
) -> dict[str, Any]:
    """Return the content of metrics.json: what cannot be computed is None, with the `reason` beside it, never NaN.

    predictions: a row for each held-out image with patient_id, fold, target (0 or 1), probability in [0, 1], and what
    `subgroups.subgroup_columns` reads. controls: what was predicted of the same rows without a look at a lesion, the
    table's own first. answers: as `learn_answers` gives them for the same rows.
    Raises ValueError where a probability is NaN or outside [0, 1].
    """
    target, probability = predictions["target"].to_numpy(), predictions["probability"].to_numpy(np.float64)
    patient, table_control = predictions["patient_id"].to_numpy(), controls[0].probability
    draws: dict[str, Any] = {"samples": settings.bootstrap_samples, "seed": seed}
    share = float(target.mean()) if len(target) else None
    folds = [
        _one_fold(int(str(fold)), rows, table_control[predictions["fold"].to_numpy() == fold])
        for fold, rows in predictions.groupby("fold")
    ]
    points = operating_points(
        target, probability, answers.part, patient, prevalence=settings.prevalence or share, draws=draws
    )
    threshold = next(point["threshold"] for point in points if point["wanted_sensitivity"] == 0.90)
    return {
        "schema_version": SCHEMA_VERSION,
        "scope": "out of fold" if len(folds) > 1 else "held out",
        "images": len(target),
        "patients": int(predictions["patient_id"].nunique()),
        "melanomas": int(target.sum()),
        "patients_with_melanoma": int(predictions.loc[predictions["target"] == 1, "patient_id"].nunique()),
        # ---- ranking -------------------------------------------------------------------------------------------------
        **_ranking(target, probability, patient, draws),
        "control": {
            "name": controls[0].name,
            "features": list(controls[0].features),
            **_ranking(target, table_control, patient, draws),
        },
        "difference": _difference(target, probability, table_control, patient, draws),
        "controls": [
            {
                "name": control.name,
                "features": list(control.features),
                "auc": control_figure(target, control.probability, patient, **draws),
                "difference": _difference(target, probability, control.probability, patient, draws),
            }
            for control in controls
        ],
        "folds": folds,
        # ---- probabilities -------------------------------------------------------------------------------------------
        "brier_of_the_mean": None if share is None else share * (1 - share),
        **_calibration(target, probability),
        "recalibration": {"chosen": answers.calibrator.method, "cross_fitted": answers.candidates},
        # ---- answers -------------------------------------------------------------------------------------------------
        "at_threshold": metrics.at_threshold(target, probability, settings.threshold),
        "operating_points": points,
        "conformal": conformal_figures(target, probability, answers.part, settings.coverage),
        # ---- for whom ------------------------------------------------------------------------------------------------
        "subgroups": [] if threshold is None else subgroups(predictions, threshold, **draws),
        "subgroup_threshold": threshold,
    }


def robustness(
    before: Float64Array, after: Mapping[str, Float64Array], threshold: float, patient: Any
) -> dict[str, Any]:
    """Return the share of lesions whose answer changes with the picture, for each way of changing it.

    before: float64 (rows,), at least one, the scores of the pictures as they are; after: of each change. threshold:
    from which a score means melanoma. Source of the idea, and of what is usual: Young et al. 2021,
    doi:10.1038/s41746-020-00380-6.
    """
    called, person = before >= threshold, pd.factorize(patient)[0]
    changes = [
        {"name": name, "crossed": rate((scores >= threshold) != called, person, 0.95)} for name, scores in after.items()
    ]
    return {"threshold": threshold, "images": len(before), "changes": changes}


def worst_mistakes(predictions: pd.DataFrame, count: int = 8) -> pd.DataFrame:
    """Return up to `count` rows: the melanomas with the lowest probability, then the benign images with the highest."""
    ordered = predictions.sort_values(["probability", "image_name"], kind="stable")
    missed = ordered[ordered["target"] == 1].head(count - count // 2)
    alarms = ordered[ordered["target"] == 0].iloc[::-1].head(count // 2)
    return pd.concat([missed, alarms]).reset_index(drop=True)


def _ranking(target: Any, probability: Float64Array, patient: Any, draws: dict[str, Any]) -> dict[str, Any]:
    """Return what depends on the order of the scores only, for the network and the control alike."""
    unknown = int(np.isnan(probability).sum())
    reason = f"the control could not be learned for {unknown:,} of {len(target):,} images" if unknown else ""
    measures = ranking_measures(SENSITIVITIES, MINIMUM_SENSITIVITY)
    reach = dict.fromkeys(measures) if unknown else ranking_intervals(target, probability, patient, measures, **draws)

    def told(name: str, value: float | None, interval: Any = None) -> dict[str, Any]:
        return figure(value, interval or reach[name], reason or absent_class(target))

    def of(measure: Any, *wanted: Any) -> Any:
        return None if unknown else measure(target, probability, *wanted)

    area = of(metrics.auc)
    independent = None if unknown else delong_interval(target, probability)
    shown = None if unknown else auc_interval(target, probability, patient, **draws)
    partial = of(metrics.partial_auc, MINIMUM_SENSITIVITY)
    retrieved = of(lambda truth, scores: metrics.retrieval_sensitivity(truth, scores, patient, RETRIEVED))
    return {
        "auc": told("auc", area, shown),
        "auc_if_images_were_independent": figure(area, independent, reason or absent_class(target)),
        "average_precision": told("average_precision", of(metrics.average_precision)),
        "partial_auc": {"minimum_sensitivity": MINIMUM_SENSITIVITY, **told("partial_auc", partial)},
        "at_sensitivity": [
            {
                "sensitivity": wanted,
                "specificity": told(f"specificity_at_{wanted}", of(metrics.specificity_at_sensitivity, wanted)),
                "threshold": of(metrics.threshold_at_sensitivity, wanted),
            }
            for wanted in SENSITIVITIES
        ],
        "at_specificity": [
            {"specificity": wanted, "sensitivity": of(metrics.sensitivity_at_specificity, wanted)}
            for wanted in SPECIFICITIES
        ],
        "retrieval": {
            "images_of_a_patient": RETRIEVED,
            "sensitivity": retrieved,
            "patients_with_more_images": int((pd.Series(patient).value_counts() > RETRIEVED).sum()),
        },
    }


def _difference(target: Any, ours: Float64Array, control: Float64Array, patient: Any, draws: dict[str, Any]) -> Any:
    if np.isnan(control).any():
        return figure(None, None, "the control could not be learned")
    first, second = metrics.auc(target, ours), metrics.auc(target, control)
    if first is None or second is None:
        return figure(None, None, absent_class(target))
    interval = auc_difference_interval(target, ours, control, patient, **draws)
    return figure(first - second, interval, "")


def _one_fold(fold: int, rows: pd.DataFrame, control: Float64Array) -> dict[str, Any]:
    target = rows["target"].to_numpy()
    known = not np.isnan(control).any()
    reason = absent_class(target) or ("" if known else "the control could not be learned")
    return {
        "fold": fold,
        "images": len(rows),
        "melanomas": int(target.sum()),
        "auc": metrics.auc(target, rows["probability"].to_numpy(np.float64)),
        "control_auc": metrics.auc(target, control) if known else None,
        "reason": reason or None,
    }


def _calibration(target: Any, probability: Float64Array) -> dict[str, Any]:
    fitted = calibration.logistic_calibration(target, probability)
    overlap = "the scores are all equal, or separate the classes without an error"
    return {
        "brier": calibration.brier(target, probability),
        "expected_calibration_error": calibration.expected_calibration_error(target, probability),
        "calibration": {
            "slope": fitted.slope if fitted else None,
            "intercept": fitted.intercept if fitted else None,
            "in_the_large": fitted.in_the_large if fitted else None,
            "reason": None if fitted else absent_class(target) or overlap,
        },
    }
