"""For each anatomical site, equal numbers of melanomas and benign images: by leaving rows out, or by weights.

Only training rows are meant to come here; it does not know which those are. A blank site counts as "unknown".
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.errors import DataError, listed

Float64Array = NDArray[np.float64]


def equalise_sites(table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Keep, for each site, as many melanomas as benign rows: all of the rarer, some of the others at random.

    table: labelled rows. Gives the rows kept, in their order and numbered anew, and a remark on the sites left
    out because they have none of one class.
    Raises DataError where no site has both.
    """
    counts = _counts(table)
    sites, wanted = table["site"].fillna("unknown").to_numpy(), counts.min(axis=1)
    shuffled = np.random.default_rng(seed).permutation(len(table))
    keys = [sites[shuffled], table["target"].to_numpy()[shuffled]]
    rank = pd.Series(shuffled, index=shuffled).groupby(keys).cumcount().sort_index()
    kept = rank.to_numpy() < wanted[sites].to_numpy()
    if not kept.any():
        raise DataError("no site has both melanomas and benign images; set balance.method to none")
    return table[kept].reset_index(drop=True), _remarks(counts, "left out")


def site_weights(table: pd.DataFrame) -> tuple[Float64Array, list[str]]:
    """Weigh rows so that, drawn by weight, each site's melanomas and benign rows come up equally often.

    Each site keeps its share of the rows; one with none of one class keeps plain weights, and a remark says so.
    weights: float64 (rows,), above 0, with the sum 1.
    """
    counts = _counts(table)
    sites, target = table["site"].fillna("unknown"), table["target"]
    cells = np.where(target == 1, sites.map(counts[1]), sites.map(counts[0]))
    classes = sites.map((counts > 0).sum(axis=1))
    weights = sites.map(counts.sum(axis=1)) / (classes * cells * len(table))
    return weights.to_numpy(np.float64), _remarks(counts, "not balanced")


def _counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count rows: a row a site, columns 0 (benign) and 1 (melanoma)."""
    counts = pd.crosstab(table["site"].fillna("unknown"), table["target"])
    return counts.reindex(columns=[0, 1], fill_value=0)


def _remarks(counts: pd.DataFrame, fate: str) -> list[str]:
    words = {0: "benign images", 1: "melanomas"}
    remarks = []
    for target, word in words.items():
        without = counts.index[counts[target] == 0].tolist()
        if without:
            remarks.append(f"{fate}, as without {word}: {listed(without)}")
    return remarks
