"""The control: what can be predicted with no look at a lesion, on the same folds as the network.

A network that is not above it has shown nothing. It gets features as arrays and knows no table.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from melanoma.evaluation.intervals import auc_interval, figure
from melanoma.evaluation.metrics import Float64Array, absent_class, auc


@dataclass(frozen=True)
class Control:
    """What was predicted without a look at a lesion. name: of the facts; features: in words.

    probability: float64 (rows,) in [0, 1], NaN where it could not be learned.
    """

    name: str
    features: tuple[str, ...]
    probability: Float64Array


def control_figure(
    target: ArrayLike, probability: ArrayLike, patient: ArrayLike, *, samples: int, seed: int
) -> dict[str, Any]:
    """Return the AUC of a control with its interval, or the reason why there is none, ready for JSON.

    probability: float (rows,), NaN where the control could not be learned; rows that are never held out are left out
    before.
    """
    truth, scores = np.asarray(target), np.asarray(probability, np.float64)
    unknown = int(np.isnan(scores).sum())
    if unknown:
        return figure(None, None, f"the control could not be learned for {unknown:,} of {len(truth):,} images")
    interval = auc_interval(truth, scores, patient, samples=samples, seed=seed)
    return figure(auc(truth, scores), interval, absent_class(truth))


def control_probabilities(
    features: NDArray[np.floating], target: ArrayLike, fold: ArrayLike, seed: int = 0
) -> Float64Array:
    """Return each row's probability of melanoma from a booster trained on the rows of all other folds.

    features: float (rows, features), NaN where unknown; target: int (rows,), 0 or 1; fold: int (rows,), -1 a row that
    is only trained on. Gives float64 (rows,) in [0, 1]; NaN in fold -1, and where the training rows lack a class.
    Raises ValueError where the lengths differ.
    """
    values, truth, place = np.asarray(features, np.float64), np.asarray(target), np.asarray(fold)
    if values.ndim != 2 or not len(values) == len(truth) == len(place):
        raise ValueError(f"features {values.shape}, target {truth.shape} and fold {place.shape} are not of one table")
    answer = np.full(len(truth), np.nan)
    for held_out in np.unique(place[place >= 0]):
        train, score = place != held_out, place == held_out
        known = values[:, ~np.isnan(values[train]).all(axis=0)]  # scikit-learn fails on what is blank throughout
        if np.unique(truth[train]).size == 2 and known.shape[1]:
            answer[score] = _booster(seed).fit(known[train], truth[train]).predict_proba(known[score])[:, 1]
    return answer


def _booster(seed: int) -> HistGradientBoostingClassifier:
    """Shallow and few trees, so that a small table is not learnt by heart; nothing in it is drawn but the bins."""
    return HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=100,
        max_leaf_nodes=8,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
