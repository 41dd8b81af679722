"""Predictions in, the content of metrics.json out: every figure of a run, with its interval or why it has none.

It draws nothing, opens no file and knows no network.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from melanoma.config import EvaluateSettings
from melanoma.evaluation import calibration, intervals, metrics
from melanoma.evaluation.intervals import Interval
from melanoma.evaluation.metrics import Float64Array

SCHEMA_VERSION = 1
LEVEL = 0.95
SENSITIVITIES = (0.80, 0.90, 0.95)
CONTROL = ("age", "sex", "site")


def evaluate(
    predictions: pd.DataFrame, settings: EvaluateSettings, seed: int = 0, control_features: Sequence[str] = CONTROL
) -> dict[str, Any]:
    """Return the content of metrics.json: what cannot be computed is None, with the `reason` beside it, never NaN.

    predictions: a row for each held-out image with patient_id, fold, target (0 or 1), probability in [0, 1] and
    control, the probability of the control on the same folds (NaN where it could not be learned).
    Raises ValueError where a probability is NaN or outside [0, 1].
    """
    target, probability = predictions["target"].to_numpy(), predictions["probability"].to_numpy(np.float64)
    control, patient = predictions["control"].to_numpy(np.float64), predictions["patient_id"].to_numpy()
    draws: dict[str, Any] = {"samples": settings.bootstrap_samples, "seed": seed, "level": LEVEL}
    fitted = calibration.logistic_calibration(target, probability)
    undefined = (
        "" if fitted else _absent(target) or "the scores are all equal, or separate the classes without an error"
    )
    share = float(target.mean()) if len(target) else None
    folds = [_one_fold(int(str(fold)), rows) for fold, rows in predictions.groupby("fold")]
    return {
        "schema_version": SCHEMA_VERSION,
        "scope": "out of fold" if len(folds) > 1 else "held out",
        "images": len(target),
        "patients": int(predictions["patient_id"].nunique()),
        "melanomas": int(target.sum()),
        "patients_with_melanoma": int(predictions.loc[predictions["target"] == 1, "patient_id"].nunique()),
        **_ranking(target, probability, patient, draws),
        "control": {"features": list(control_features), **_ranking(target, control, patient, draws)},
        "difference": _difference(target, probability, control, patient, draws),
        "folds": folds,
        "brier": calibration.brier(target, probability),
        "brier_of_the_mean": None if share is None else share * (1 - share),
        "expected_calibration_error": calibration.expected_calibration_error(target, probability),
        "calibration": {
            "slope": fitted.slope if fitted else None,
            "intercept": fitted.intercept if fitted else None,
            "in_the_large": fitted.in_the_large if fitted else None,
            "reason": undefined or None,
        },
        "at_threshold": metrics.at_threshold(target, probability, settings.threshold),
    }


def _ranking(target: Any, probability: Float64Array, patient: Any, draws: dict[str, Any]) -> dict[str, Any]:
    """Return what depends on the order of the scores only, for the network and the control alike."""
    unknown = int(np.isnan(probability).sum())
    if unknown:
        reason = f"the control could not be learned for {unknown:,} of {len(target):,} images"
        points = [{"sensitivity": wanted, "specificity": None, "threshold": None} for wanted in SENSITIVITIES]
        return {"auc": _figure(None, None, reason), "average_precision": None, "at_sensitivity": points}
    interval = intervals.auc_interval(target, probability, patient, **draws)
    return {
        "auc": _figure(metrics.auc(target, probability), interval, _absent(target)),
        "average_precision": metrics.average_precision(target, probability),
        "at_sensitivity": [
            {
                "sensitivity": wanted,
                "specificity": metrics.specificity_at_sensitivity(target, probability, wanted),
                "threshold": metrics.threshold_at_sensitivity(target, probability, wanted),
            }
            for wanted in SENSITIVITIES
        ],
    }


def _difference(target: Any, ours: Float64Array, control: Float64Array, patient: Any, draws: dict[str, Any]) -> Any:
    if np.isnan(control).any():
        return _figure(None, None, "the control could not be learned")
    first, second = metrics.auc(target, ours), metrics.auc(target, control)
    if first is None or second is None:
        return _figure(None, None, _absent(target))
    interval = intervals.auc_difference_interval(target, ours, control, patient, **draws)
    return _figure(first - second, interval, "")


def _one_fold(fold: int, rows: pd.DataFrame) -> dict[str, Any]:
    target, control = rows["target"].to_numpy(), rows["control"].to_numpy(np.float64)
    known = not np.isnan(control).any()
    reason = _absent(target) or ("" if known else "the control could not be learned")
    return {
        "fold": fold,
        "images": len(rows),
        "melanomas": int(target.sum()),
        "auc": metrics.auc(target, rows["probability"].to_numpy(np.float64)),
        "control_auc": metrics.auc(target, control) if known else None,
        "reason": reason or None,
    }


def _figure(value: float | None, interval: Interval | None, reason: str) -> dict[str, Any]:
    """Return a value with its interval, or with the reason why one of them is missing."""
    if value is not None and interval is None:
        reason = "no interval: a class has fewer than two patients, or the scores show no spread"
    return {
        "value": value,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "level": LEVEL if interval else None,
        "method": interval.method if interval else None,
        "reason": reason or None,
    }


def _absent(target: Any) -> str:
    if target.sum() == 0:
        return f"no melanoma among {len(target):,} images"
    return f"no benign image among {len(target):,} images" if target.all() else ""


def worst_mistakes(predictions: pd.DataFrame, count: int = 8) -> pd.DataFrame:
    """Return up to `count` rows: the melanomas with the lowest probability, then the benign images with the highest."""
    ordered = predictions.sort_values(["probability", "image_name"], kind="stable")
    missed = ordered[ordered["target"] == 1].head(count - count // 2)
    alarms = ordered[ordered["target"] == 0].iloc[::-1].head(count // 2)
    return pd.concat([missed, alarms]).reset_index(drop=True)
