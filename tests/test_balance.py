"""Equal numbers of melanomas and benign images for each site."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma.data.balance import equalise_sites, site_weights
from melanoma.data.records import read_table
from melanoma.errors import DataError

SHARED = Path(__file__).parents[2] / "shared" / "data"


def made_table() -> pd.DataFrame:
    # (site, target, rows); palms have no melanoma, a mouth no benign image
    cells = [("torso", 0, 20), ("torso", 1, 3), ("head", 0, 2), ("head", 1, 5), (None, 0, 4), (None, 1, 4)]
    cells += [("palms", 0, 6), ("mouth", 1, 2)]
    rows = [(site, target) for site, target, count in cells for _ in range(count)]
    table = pd.DataFrame(rows, columns=["site", "target"]).sample(frac=1, random_state=0, ignore_index=True)
    return table.assign(image_name=[f"I{row:02}" for row in range(len(table))])


def test_each_site_has_as_many_melanomas_as_benign_rows() -> None:
    kept, remarks = equalise_sites(made_table(), seed=0)
    counts = pd.crosstab(kept["site"].fillna("unknown"), kept["target"])
    assert counts.to_dict("index") == {"head": {0: 2, 1: 2}, "torso": {0: 3, 1: 3}, "unknown": {0: 4, 1: 4}}
    assert remarks == ["left out, as without benign images: mouth", "left out, as without melanomas: palms"]


def test_kept_rows_are_in_order_and_repeat_with_the_seed() -> None:
    kept, _ = equalise_sites(made_table(), seed=5)
    assert kept["image_name"].is_monotonic_increasing
    assert kept.index.equals(pd.RangeIndex(18))
    assert kept.equals(equalise_sites(made_table(), seed=5)[0])
    assert not kept.equals(equalise_sites(made_table(), seed=6)[0])


def test_a_table_that_cannot_be_balanced_is_refused() -> None:
    with pytest.raises(DataError, match="no site has both"):
        equalise_sites(pd.DataFrame({"site": ["torso", "head"], "target": [0, 1]}), seed=0)


def test_weights_even_out_each_site_and_keep_its_share() -> None:
    table = made_table()
    weights, remarks = site_weights(table)
    assert weights.dtype == np.float64
    assert weights.sum() == pytest.approx(1)
    site = table["site"].fillna("unknown")
    for name in ("torso", "head", "unknown"):
        melanomas = weights[(site == name) & (table["target"] == 1)].sum()
        benign = weights[(site == name) & (table["target"] == 0)].sum()
        assert melanomas == pytest.approx(benign)
        assert melanomas + benign == pytest.approx((site == name).mean())
    np.testing.assert_allclose(weights[site.isin(["palms", "mouth"])], 1 / len(table))
    assert remarks == [
        "not balanced, as without benign images: mouth",
        "not balanced, as without melanomas: palms",
    ]


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")
def test_the_official_table_leaves_1168_rows_half_of_them_melanomas() -> None:
    table, _ = read_table(SHARED / "siim2020" / "train.csv", labelled=True)
    kept, remarks = equalise_sites(table, seed=0)
    assert len(kept) == 1168
    assert kept["target"].sum() == 584
    assert remarks == []
    assert (pd.crosstab(kept["site"].fillna("unknown"), kept["target"]).diff(axis=1)[1] == 0).all()
