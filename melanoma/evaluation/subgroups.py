"""Who the network is good for: its figures by site, sex, age, image size and source, where the numbers carry them.

It draws nothing and opens no file. One threshold serves every group: a clinic has one, too.
"""

from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.evaluation.intervals import Interval, auc_interval, figure
from melanoma.evaluation.metrics import auc, checked

BLANK = "not recorded"
AGES = {30.0: "under 30", 45.0: "30 to 44", 60.0: "45 to 59", 75.0: "60 to 74", np.inf: "75 and over"}  # years below
MOST_SIZES = 6
MOST_WORDS = 15  # a column of free text would otherwise be a group for each row
SOURCES = range(2, 11)  # so many prefixes of patient_id are sources; one says nothing, many are names


def subgroup_columns(table: pd.DataFrame) -> dict[str, "pd.Series[str]"]:
    """Return the partitions that a table allows: their names, and the group of each row, indexed as the table is.

    table: read of it are site, sex, source (text), age_years (years), width and height (px), patient_id (text); each
    may be absent. Only where there is no source, the letters before the first `_` or digit of patient_id stand for it.
    A blank is `not recorded`; what is rare among many is `other sites` and the like. A partition that would have one
    group only is left out.
    """
    found = {
        "site": _words(table, "site", "other sites"),
        "sex": _words(table, "sex", "other sexes"),
        "age": _ages(table),
        "image size": _sizes(table),
        "source": _words(table, "source", "other sources"),
        "patient_id prefix": _prefixes(table),
    }
    return {name: words for name, words in found.items() if words is not None and len(words.unique()) > 1}


def subgroups(
    predictions: pd.DataFrame, threshold: float, *, samples: int, seed: int, level: float = 0.95, least: int = 10
) -> list[dict[str, Any]]:
    """Judge the network in each group of `subgroup_columns`; all values can go into JSON.

    predictions: a row an image with target (0 or 1), probability in [0, 1], patient_id, and what `subgroup_columns`
    reads. threshold: from this probability on an image counts as a melanoma; samples, seed: of the bootstrap.
    Each row has `by` and `name`; the numbers of `images`, `patients` and `melanomas`; `auc`, `sensitivity` and
    `specificity` as `intervals.figure` makes them; `suppressed` where the group has fewer than `least` melanomas or
    benign images, and the `reason`. The interval of the AUC is `auc_interval`'s; that of a rate is Wilson's, where
    patients repeat for the number of independent images that would vary as much.
    Raises ValueError as `metrics.auc` does.
    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; Rao and Scott 1992, doi:10.2307/2532311.
    """
    checked(predictions["target"], predictions["probability"])
    read = {"samples": samples, "seed": seed, "level": level}
    rows = []
    for by, words in subgroup_columns(predictions).items():
        groups = {str(name): group for name, group in predictions.groupby(words.to_numpy(), sort=False)}
        rows += [{"by": by, "name": name, **_judged(groups[name], threshold, least, read)} for name in _order(words)]
    return rows


# ---- partitions ------------------------------------------------------------------------------------------------------


def _words(table: pd.DataFrame, column: str, rest: str) -> "pd.Series[str] | None":
    if column not in table:
        return None
    known = table[column].notna()
    words = table[column].astype(str).str.strip().where(known, "")
    return _frequent(words.mask(words == "", BLANK), MOST_WORDS, rest)


def _ages(table: pd.DataFrame) -> "pd.Series[str] | None":
    if "age_years" not in table:
        return None
    years = pd.to_numeric(table["age_years"], errors="coerce")
    bands = pd.cut(years, [-np.inf, *AGES], right=False, labels=list(AGES.values()))
    return bands.astype(object).where(years.notna(), BLANK).astype(str)


def _sizes(table: pd.DataFrame) -> "pd.Series[str] | None":
    if not {"width", "height"} <= set(table.columns):
        return None
    wide, high = (pd.to_numeric(table[name], errors="coerce") for name in ("width", "height"))
    known = wide.notna() & high.notna()
    wide, high = (side.where(known, 0).astype(int).astype(str) for side in (wide, high))
    return _frequent((wide + " × " + high).where(known, BLANK), MOST_SIZES, "other sizes")


def _prefixes(table: pd.DataFrame) -> "pd.Series[str] | None":
    if "source" in table or "patient_id" not in table:
        return None
    prefixes = table["patient_id"].astype(str).str.extract(r"^([^\W\d_]+)[_\d]", expand=False)
    return prefixes if prefixes.notna().all() and prefixes.nunique() in SOURCES else None


def _frequent(words: "pd.Series[str]", most: int, rest: str) -> "pd.Series[str]":
    """Keep the `most` frequent words and the blanks, and call others `rest`; of equals the alphabet's first."""
    counts = words[words != BLANK].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return words.where(words.isin([*counts.index[:most], BLANK]), rest)


def _order(words: "pd.Series[str]") -> list[str]:
    """Put ages in their order, other groups by their size; what is other or not recorded comes last."""
    counts = words.value_counts()
    ages = list(AGES.values())

    def place(word: str) -> tuple[bool, bool, int, int, str]:
        age = ages.index(word) if word in ages else -1
        return word == BLANK, word.startswith("other "), age, -int(counts[word]), word

    return sorted(counts.index, key=place)


# ---- figures of a group ----------------------------------------------------------------------------------------------


def _judged(group: pd.DataFrame, threshold: float, least: int, read: dict[str, Any]) -> dict[str, Any]:
    truth, scores = checked(group["target"], group["probability"])
    patient = pd.factorize(group["patient_id"], use_na_sentinel=False)[0]
    few = "melanomas" if truth.sum() < least else "benign images" if (~truth).sum() < least else ""
    reason = f"fewer than {least:,} {few}" if few else ""
    figures = dict.fromkeys(("auc", "sensitivity", "specificity"), figure(None, None, reason))
    if not reason:
        called = scores >= threshold
        figures = {
            "auc": figure(auc(truth, scores), auc_interval(truth, scores, patient, **read), "", read["level"]),
            "sensitivity": rate(called[truth], patient[truth], read["level"]),
            "specificity": rate(~called[~truth], patient[~truth], read["level"]),
        }
    counts = {"images": truth.size, "patients": int(patient.max() + 1), "melanomas": int(truth.sum())}
    return {**counts, **figures, "suppressed": bool(reason), "reason": reason or None}


def rate(hit: NDArray[np.bool_], patient: NDArray[np.int64], level: float) -> dict[str, Any]:
    """Return the share of hits with Wilson's interval, as `intervals.figure` makes it.

    hit: bool (rows,), at least one; patient: int64 (rows,), who repeats counts for less. Sources: as for `subgroups`.
    """
    share = float(hit.mean())
    independent = _independent_images(hit, patient)
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z**2 / (2 * independent)) / (1 + z**2 / independent)
    reach = z * (share * (1 - share) / independent + z**2 / (4 * independent**2)) ** 0.5 / (1 + z**2 / independent)
    repeats = np.unique(patient).size < patient.size
    method = "Wilson, images of a patient taken together" if repeats else "Wilson"
    # Rounding would leave a share of 0 or 1 a hair outside its own interval.
    interval = Interval(min(max(middle - reach, 0.0), share), max(min(middle + reach, 1.0), share), method)
    return figure(share, interval, "", level)


def _independent_images(hit: NDArray[np.bool_], patient: NDArray[np.int64]) -> float:
    """Return how many images of different patients would tell the share of hits as closely; at most one each.

    It is the number of images over the design effect; where nothing varies there is none, and patients are counted.
    """
    images = np.bincount(patient)[np.unique(patient)].astype(np.float64)
    hits = np.bincount(patient, hit)[np.unique(patient)]
    share, patients = hit.mean(), images.size
    if patients < 2 or share in (0, 1):
        return float(patients)
    variance = ((hits - share * images) ** 2).sum() / hit.size**2
    as_if_independent = share * (1 - share) / hit.size
    return float(hit.size * min(1.0, as_if_independent / variance)) if variance else float(hit.size)
