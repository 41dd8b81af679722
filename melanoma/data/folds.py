"""Which rows are held out: patients and duplicates whole, target and site in the same shares everywhere.

Folds are saved as a table that another run can reuse, and checked before they are believed. Which rows belong
together is decided in data/duplicates.py.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma import files
from melanoma.data.records import read_text
from melanoma.errors import DataError, listed

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


def make_folds(
    table: pd.DataFrame, groups: Int64Array, count: int, validation_share: float, seed: int
) -> "pd.Series[int]":
    """Split rows into folds, groups whole, so that each has its share of every target, site and their pairs.

    groups: int64 (rows,), equal for rows that must stay together. Groups that weigh most (large, or of rare
    kinds) are placed first, ties in random order, each where it brings the counts nearest to their shares.
    fold: int64 (rows,), 0 to `count` - 1; for `count` 1 it is 0 for about `validation_share` of the rows, else -1.
    Raises DataError where fewer groups hold a melanoma, or a benign image, than there are parts.
    """
    shares = np.array([validation_share, 1 - validation_share] if count == 1 else [1 / count] * count)
    codes, names = pd.factorize(groups)
    target = table["target"].to_numpy()
    kinds = _kinds(table, codes, len(names))
    holds = np.stack([np.bincount(codes, target == kind, len(names)) > 0 for kind in (0, 1)], axis=1)
    for kind, word in ((1, "melanoma"), (0, "benign image")):
        if holds[:, kind].sum() < len(shares):
            raise DataError(
                f"{holds[:, kind].sum():,} patients with a {word} cannot fill {len(shares)} parts; "
                "lower folds.count or use more data"
            )
    part = _assign(kinds, holds, shares, np.random.default_rng(seed))
    if count == 1:
        part = np.where(part == 0, 0, -1)
    return pd.Series(part[codes], index=table.index, name="fold", dtype="int64")


def check_folds(table: pd.DataFrame, groups: Int64Array, fold: "pd.Series[int]") -> None:
    """Make sure that no group is on both sides of a split, and that there is something on either side.

    Raises DataError naming the patients, or the images of one lesion, and their folds.
    """
    parts = fold.to_numpy()
    if parts.max() < 0 or parts.min() == parts.max():
        raise DataError(f"all rows are in fold {parts[0]}: there must be rows to train on and rows to validate")
    rows = pd.DataFrame({"group": groups, "fold": parts, "patient": table["patient_id"].to_numpy()})
    rows["name"] = table["image_name"].to_numpy()
    torn = rows[rows.groupby("group")["fold"].transform("nunique") > 1]
    if len(torn):
        found = [_torn(group) for _, group in torn.groupby("group", sort=False)]
        raise DataError(f"one lesion is on both sides of a split: {listed(found)}; put each into one fold", found)


def write_folds(path: Path, table: pd.DataFrame, groups: Int64Array, fold: "pd.Series[int]") -> str:
    """Write `image_name`, `patient_id`, `group`, `fold` as CSV, whole or not at all, and give its SHA-256.

    Raises MelanomaError where it cannot be written.
    """
    rows = table[["image_name", "patient_id"]].assign(group=groups, fold=fold.to_numpy())
    files.write_text(path, rows.to_csv(index=False, lineterminator="\n"))
    return files.sha256(path)


def read_folds(path: Path, table: pd.DataFrame, groups: Int64Array) -> "pd.Series[int]":
    """Read the fold of every row of `table` from a CSV with `image_name` and `fold`; its other rows are ignored.

    fold: int64 (rows,), -1 (never validated) upwards.
    Raises DataError where an image is missing or there twice, a fold is no such number, or `check_folds` refuses.
    """
    given = read_text(path)
    if not {"image_name", "fold"} <= set(given.columns):
        raise DataError(f"{path} needs the columns image_name and fold; it has {listed(list(given.columns))}")
    given = given[given["image_name"].isin(table["image_name"])]
    _refuse(path, given.loc[given["image_name"].duplicated(), "image_name"], "stand in it more than once")
    absent = table.loc[~table["image_name"].isin(given["image_name"]), "image_name"]
    _refuse(path, absent, "are missing from it")
    wrong = ~given["fold"].str.fullmatch(r"-1|\d{1,4}")
    _refuse(path, given["image_name"] + " " + given["fold"], "have a fold that is not -1, 0, 1, 2, ...", wrong)
    by_name = given.set_index("image_name")["fold"].astype("int64")
    fold = pd.Series(by_name.loc[table["image_name"]].to_numpy(), index=table.index, name="fold")
    check_folds(table, groups, fold)
    return fold


def random_split_leak(table: pd.DataFrame, share: float, seed: int) -> float:
    """Give the share of the images held out by a plain random split whose patient is in training too, 0 to 1.

    share: of all rows to hold out, as in `validation_share`; at least one row is.
    """
    held = np.zeros(len(table), bool)
    held[np.random.default_rng(seed).permutation(len(table))[: max(1, round(share * len(table)))]] = True
    return float(table.loc[held, "patient_id"].isin(table.loc[~held, "patient_id"]).mean())


def _kinds(table: pd.DataFrame, codes: Int64Array, count: int) -> Float64Array:
    """Count, for each group, its rows, and those of each target, site, and site with target: (groups, kinds).

    Each column is divided by the root of its total, so that squares add up to chi squared.
    """
    sites, _ = pd.factorize(table["site"].fillna("unknown"))
    target = table["target"].to_numpy()
    columns = [np.zeros(len(table), np.int64), target, sites, 2 * sites + target]
    counts = []
    for column in columns:
        kind, names = pd.factorize(column)
        cells = np.bincount(codes * len(names) + kind, minlength=count * len(names))
        counts.append(cells.reshape(count, len(names)))
    kinds = np.concatenate(counts, axis=1)
    scaled: Float64Array = kinds / np.sqrt(kinds.sum(axis=0))
    return scaled


def _assign(
    kinds: Float64Array, holds: NDArray[np.bool_], shares: Float64Array, random: np.random.Generator
) -> Int64Array:
    """Choose a part for each group so that chi squared, of the counts against the parts' shares, grows least.

    holds: bool (groups, 2), whether a benign image and a melanoma are in it. Each part gets one of both.
    """
    weights = (kinds**2).sum(axis=1)
    order = random.permutation(len(kinds))
    order = order[np.argsort(-weights[order], kind="stable")]
    counts = np.zeros((len(shares), kinds.shape[1]))
    lacking = np.ones((len(shares), 2), bool)
    left = holds.sum(axis=0)
    part = np.empty(len(kinds), np.int64)
    for group in order:
        cost = (2 * counts @ kinds[group] + weights[group]) / shares
        if lacking.any():  # the last groups of a class go where it lacks, melanomas before all
            last = holds[group] & (left <= lacking.sum(axis=0))
            cost += ~lacking @ (last * [1e6, 1e9])
        chosen = int(cost.argmin())
        part[group] = chosen
        counts[chosen] += kinds[group]
        lacking[chosen] &= ~holds[group]
        left -= holds[group]
    return part


def _torn(group: pd.DataFrame) -> str:
    """Say, of the rows of one group in several folds, which patient or which two images are apart."""
    patients = group.groupby("patient")["fold"].nunique()
    folds = " and ".join(map(str, sorted(group["fold"].unique())))
    if (patients > 1).any():
        return f"patient {patients.index[patients > 1][0]} in folds {folds}"
    one, other = group.drop_duplicates("fold")["name"].tolist()[:2]
    return f"duplicates {one} and {other} in folds {folds}"


def _refuse(path: Path, names: "pd.Series[str]", fault: str, wrong: "pd.Series[bool] | None" = None) -> None:
    offending = (names if wrong is None else names[wrong]).tolist()
    if offending:
        raise DataError(f"{path} is not of this table: {listed(offending)} {fault}; mend it or leave folds.file out")
