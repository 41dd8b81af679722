"""Several models made one: mean and rank-mean blends, chosen on out-of-fold predictions, and what the choice is worth.

It trains nothing and opens no file.
Everywhere here `target` is int or bool (rows,), 1 a melanoma; `scores` is float (models, rows), higher is more suspect,
each row scored by networks that did not learn from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from melanoma.errors import DataError, listed
from melanoma.evaluation.metrics import Float64Array, auc, checked

KEYS = ("image_name", "patient_id", "target")


@dataclass(frozen=True)
class Candidate:
    """Some models and how they are blended; one model alone is the mean of itself."""

    name: str
    blend: str  # of BLENDS
    members: tuple[int, ...]  # rows of `scores`, ascending
    auc: float | None  # out of fold; None where a class is absent

    def apply(self, scores: ArrayLike) -> Float64Array:
        """Return the blend of this candidate's members, float64 (rows,); raises ValueError as `mean_blend` does."""
        return BLENDS[self.blend](_checked(scores)[list(self.members)])


# ---- blends ----------------------------------------------------------------------------------------------------------


def mean_blend(scores: ArrayLike) -> Float64Array:
    """Return the mean of the models' scores, float64 (rows,), on their common scale.

    Raises ValueError where `scores` is not (models, rows) with one model at least, or holds NaN or infinity.
    """
    return np.asarray(_checked(scores).mean(axis=0))


def rank_mean_blend(scores: ArrayLike) -> Float64Array:
    """Return the mean over models of each row's rank among all rows, float64 (rows,) in [0, 1]; no probability.

    A rank is the share of rows below, ties counted half, so that ties get their mean rank. It depends on which rows
    are blended together. Raises ValueError as `mean_blend` does.
    """
    values = _checked(scores)
    return np.asarray(_twice_rank(values).sum(axis=0) / max(2 * values.size, 1))


BLENDS: dict[str, Callable[[ArrayLike], Float64Array]] = {"mean": mean_blend, "rank mean": rank_mean_blend}


# ---- the choice ------------------------------------------------------------------------------------------------------


def choose_blend(target: ArrayLike, scores: ArrayLike, names: Sequence[str]) -> list[Candidate]:
    """Return candidates, the best AUC first and of equals the simplest: each model alone, and blends by each method.

    Blended are all models, and each step of a forward selection that begins with the best model and adds the one that
    helps most while it helps. names: (models,). The AUC of the first is slightly too good, as it was chosen on the rows
    that it is judged on; `nested_blend_auc` gives an honest figure.
    Raises ValueError as `metrics.auc` and `mean_blend` do, and where names and scores differ in number.
    Source: Caruana et al. 2004, doi:10.1145/1015330.1015432 (here without repeats).
    """
    values = _checked(scores)
    if len(names) != len(values):
        raise ValueError(f"{len(names)} names for the scores of {len(values)} models")
    # Of these, the means over models are the blends, but for scale: ranks are taken once.
    scales = {"mean": values, "rank mean": _twice_rank(values)}

    def judged(blend: str, members: tuple[int, ...]) -> Candidate:
        named = ", ".join(names[member] for member in members)
        area = auc(target, scales[blend][list(members)].mean(axis=0))
        return Candidate(named if len(members) == 1 else f"{blend} of {named}", blend, members, area)

    alone = [judged("mean", (model,)) for model in range(len(values))]
    found = {(one.blend, one.members): one for one in alone}
    for blend in BLENDS if len(values) > 1 else ():
        steps = _forward(min(alone, key=_merit), len(values), partial(judged, blend))
        everything = judged(blend, tuple(range(len(values))))
        found |= {(one.blend, one.members): one for one in [*steps, everything]}
    return sorted(found.values(), key=_merit)


def nested_blend_auc(target: ArrayLike, scores: ArrayLike, names: Sequence[str], part: ArrayLike) -> float | None:
    """Return the AUC of choosing a blend: chosen on all other parts, judged on this part, over all parts.

    part: int (rows,); a patient must be whole in one part. It is the share of pairs of a melanoma and a benign image of
    the same part that are ranked rightly, as the choice, and so the scale, may differ between parts.
    None with fewer than two parts, and where a class is absent in every part or in the rows that a part's choice needs.
    Raises ValueError as `choose_blend` does, and where the lengths differ.
    """
    values, place = _checked(scores), np.asarray(part)
    truth = checked(target, np.zeros(values.shape[1]))[0]
    if place.shape != truth.shape:
        raise ValueError(f"part {place.shape} and target {truth.shape} are not one value an image")
    areas, pairs = [], []
    for held_out in np.unique(place):
        inside = place == held_out
        positive = int(truth[inside].sum())
        if not 0 < positive < inside.sum():
            continue
        best = choose_blend(truth[~inside], values[:, ~inside], names)[0]
        area = auc(truth[inside], best.apply(values[:, inside]))
        if best.auc is None or area is None:
            return None
        areas.append(area)
        pairs.append(positive * (int(inside.sum()) - positive))
    return float(np.average(areas, weights=pairs)) if areas else None


# ---- tables ----------------------------------------------------------------------------------------------------------


def common_rows(tables: Sequence[pd.DataFrame], names: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Join tables of predictions on image_name; return the rows that all have, and remarks on what was left out.

    tables: each with image_name, patient_id, target (0 or 1) and probability in [0, 1]; names: of their models, no two
    alike. Gives image_name, patient_id and target in the first table's order, and a column of probabilities under each
    name. Raises DataError, by name, where a column is missing, an image is repeated, a target or probability cannot be,
    targets or patients contradict each other, or no image is in all. ValueError: as many names as tables are needed.
    """
    if not tables or len(tables) != len(names):
        raise ValueError(f"{len(names)} names for {len(tables)} tables")
    if len({*names, *KEYS}) < len(names) + len(KEYS):
        raise DataError(f"models need names of their own, and none of {', '.join(KEYS)}: {', '.join(names)}")
    indexed = [_indexed(table, name) for table, name in zip(tables, names, strict=True)]
    shared = indexed[0].index[np.logical_and.reduce([indexed[0].index.isin(one.index) for one in indexed])]
    if shared.empty:
        raise DataError(f"no image is in all of {', '.join(names)}: blend runs on the same dataset and folds")
    rows = [one.loc[shared] for one in indexed]
    for other, name in zip(rows[1:], names[1:], strict=True):
        _agree(rows[0], other, names[0], name)
    joined = rows[0][list(KEYS[1:])].assign(**{name: one["probability"] for name, one in zip(names, rows, strict=True)})
    remarks = [
        f"{name}: {len(one) - len(shared):,} of {len(one):,} images are not in all runs and were left out"
        for one, name in zip(indexed, names, strict=True)
        if len(one) > len(shared)
    ]
    return joined.reset_index(), remarks


def _indexed(table: pd.DataFrame, name: str) -> pd.DataFrame:
    if lacking := [column for column in (*KEYS, "probability") if column not in table]:
        raise DataError(f"the predictions of {name} lack the columns {listed(lacking)}: take a run's predictions.csv")
    images = table["image_name"].astype(str)
    if images.duplicated().any():
        twice = images[images.duplicated()].unique().tolist()
        raise DataError(f"the predictions of {name} have images twice: {listed(twice)}; keep one row for each")
    if not table["target"].isin((0, 1)).all():
        wrong = images[~table["target"].isin((0, 1))].tolist()
        raise DataError(f"the predictions of {name} have a target that is not 0 or 1, for {listed(wrong)}; mend them")
    values = pd.to_numeric(table["probability"], errors="coerce")
    if not values.between(0, 1).all():
        wrong = images[~values.between(0, 1)].tolist()
        raise DataError(f"the predictions of {name} have values outside 0 to 1, for {listed(wrong)}; score them again")
    people = table["patient_id"].astype(str)
    return table.assign(image_name=images, patient_id=people, probability=values).set_index("image_name")


def _agree(first: pd.DataFrame, other: pd.DataFrame, name: str, other_name: str) -> None:
    for column, word in (("target", "targets"), ("patient_id", "patients")):
        differ = (first[column] != other[column]) & ~(first[column].isna() & other[column].isna())
        if differ.any():
            images = first.index[differ].tolist()
            raise DataError(f"{name} and {other_name} give {len(images):,} images different {word}: {listed(images)}")


# ---- steps -----------------------------------------------------------------------------------------------------------


def _checked(scores: ArrayLike) -> Float64Array:
    values = np.asarray(scores, np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"scores {values.shape} are not (models, rows) with a model at least")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum()):,} scores are NaN or infinite")
    return values


def _twice_rank(scores: Float64Array) -> NDArray[np.int64]:
    """Return how many rows are below plus how many are not above: whole numbers, whose sums tie where they should."""
    ranks = np.empty(scores.shape, np.int64)
    for model, values in enumerate(scores):
        ordered = np.sort(values)
        ranks[model] = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return ranks


def _merit(candidate: Candidate) -> tuple[float, int, int, tuple[int, ...]]:
    """Order candidates: the best AUC, then the fewest models, then the plainer blend, then as they were given."""
    area = -1.0 if candidate.auc is None else candidate.auc
    return -area, len(candidate.members), list(BLENDS).index(candidate.blend), candidate.members


def _forward(best: Candidate, models: int, judged: Callable[[tuple[int, ...]], Candidate]) -> list[Candidate]:
    """Add to the best model, one at a time, the model that helps most; return the steps that helped."""
    steps: list[Candidate] = []
    while others := [model for model in range(models) if model not in best.members]:
        longer = min((judged(tuple(sorted((*best.members, model)))) for model in others), key=_merit)
        if _merit(longer)[0] >= _merit(best)[0]:
            break
        steps.append(best := longer)
    return steps
