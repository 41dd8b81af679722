"""Subgroups on hand-made tables: who stands in which, what is suppressed, and intervals that count patients."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from melanoma.evaluation import intervals, metrics
from melanoma.evaluation.subgroups import BLANK, _independent_images, rate, subgroup_columns, subgroups

QUICK = {"samples": 100, "seed": 0}


def predictions(rows: int = 400, per_patient: int = 2, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    target = (random.random(rows) < 0.3).astype(int)
    return pd.DataFrame(
        {
            "target": target,
            "probability": np.clip(random.normal(0.3 + 0.3 * target, 0.2), 0, 1),
            "patient_id": [f"IP_{place // per_patient}" for place in range(rows)],
            "sex": np.where(np.arange(rows) < rows // 2, "male", "female"),
        }
    )


def groups_of(name: str, **columns: list[object]) -> list[str]:
    return subgroup_columns(pd.DataFrame(columns))[name].tolist()


def test_ages_fall_into_bands_from_their_lower_edge() -> None:
    years: list[object] = [0, 29.9, 30, 44, 45, 59, 60, 74, 75, 120, None, "unknown"]
    bands = ["under 30", "30 to 44", "45 to 59", "60 to 74", "75 and over"]
    assert groups_of("age", age_years=years) == [band for band in bands for _ in range(2)] + [BLANK] * 2


def test_blanks_of_every_kind_are_not_recorded() -> None:
    assert groups_of("site", site=["torso", None, np.nan, "", "  ", " torso "]) == ["torso", *[BLANK] * 4, "torso"]
    assert groups_of("image size", width=[640, None, 640], height=[480, 480, np.nan]) == ["640 × 480", BLANK, BLANK]


def test_the_six_most_frequent_sizes_keep_their_name() -> None:
    sizes = [100] * 3 + [200, 300, 400, 500, 600, 700, 800]
    found = groups_of("image size", width=sizes, height=sizes)
    assert found[:8] == ["100 × 100"] * 3 + [f"{side} × {side}" for side in range(200, 700, 100)]
    assert found[8:] == ["other sizes"] * 2


def test_free_text_does_not_make_a_group_for_every_row() -> None:
    assert len(set(groups_of("source", source=[f"clinic {place}" for place in range(400)]))) == 16


def test_absent_and_constant_columns_are_left_out() -> None:
    assert subgroup_columns(pd.DataFrame({"site": ["torso"] * 3, "width": [1, 2, 3], "sex": [None] * 3})) == {}
    assert subgroup_columns(pd.DataFrame({"site": [], "patient_id": []})) == {}
    assert subgroups(predictions().drop(columns="sex"), 0.5, **QUICK) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["BCN_1", "MSK2", "BCN-3_4"], None),  # a hyphen is no letter
        (["BCN_1", "MSK2", "BCN3"], ["BCN", "MSK", "BCN"]),
        (["IP_1", "IP_2", "IP_3"], None),
        (["BCN_1", "MSK_2", "7"], None),
        (["BCN_1", "MSK_2", None], None),
        ([f"{letter}_1" for letter in "abcdefghijk"], None),
    ],
)
def test_prefixes_of_patients_are_sources_where_two_to_ten_cover_all(names: list[object], expected: object) -> None:
    found = subgroup_columns(pd.DataFrame({"patient_id": names})).get("patient_id prefix")
    assert (None if found is None else found.tolist()) == expected


def test_a_source_column_stands_before_prefixes() -> None:
    table = pd.DataFrame({"patient_id": ["BCN_1", "MSK_2"], "source": ["here", "there"]})
    assert list(subgroup_columns(table)) == ["source"]


def test_rows_with_one_index_keep_their_own_groups() -> None:
    table = pd.DataFrame({"width": [1, 2, 2], "height": [1, 2, 2], "age_years": [10, 50, 50]}, index=[7, 7, 7])
    assert {name: words.tolist() for name, words in subgroup_columns(table).items()} == {
        "age": ["under 30", "45 to 59", "45 to 59"],
        "image size": ["1 × 1", "2 × 2", "2 × 2"],
    }


def test_ages_keep_their_order_and_blanks_come_last() -> None:
    table = predictions()
    table["age_years"] = [80, 50, None, 10] * 100
    table["site"] = [None, "torso", "torso", "head/neck"] * 100
    found = [(row["by"], row["name"]) for row in subgroups(table, 0.5, **QUICK)]
    assert [name for by, name in found if by == "age"] == ["under 30", "45 to 59", "75 and over", BLANK]
    assert [name for by, name in found if by == "site"] == ["torso", "head/neck", BLANK]


def test_a_group_is_judged_as_if_it_were_all_there_is() -> None:
    table = predictions()
    row = next(row for row in subgroups(table, 0.5, **QUICK) if row["name"] == "male")
    alone = table[table["sex"] == "male"]
    rates = metrics.at_threshold(alone["target"], alone["probability"], 0.5)
    area = intervals.auc_interval(alone["target"], alone["probability"], alone["patient_id"], samples=100, seed=0)
    assert area
    assert (row["images"], row["patients"], row["melanomas"]) == (200, 100, alone["target"].sum())
    assert row["auc"]["value"] == metrics.auc(alone["target"], alone["probability"])
    assert (row["auc"]["low"], row["auc"]["high"]) == (area.low, area.high)
    assert row["sensitivity"]["value"] == rates["sensitivity"]
    assert row["specificity"]["value"] == pytest.approx(rates["specificity"])
    assert (row["suppressed"], row["reason"]) == (False, None)


def test_small_groups_show_their_numbers_and_no_figure() -> None:
    table = predictions()
    table["site"] = np.where(np.arange(400) < 12, "palms/soles", "torso")
    table.loc[:11, "target"] = [1] * 9 + [0] * 3
    table["source"] = np.where(table["target"] == 1, "melanomas only", "all")
    found = {row["name"]: row for row in subgroups(table, 0.5, **QUICK)}
    nothing = {"value": None, "low": None, "high": None, "level": None, "method": None}
    assert found["palms/soles"]["melanomas"] == 9
    for part in ("auc", "sensitivity", "specificity"):
        assert found["palms/soles"][part] == {**nothing, "reason": "fewer than 10 melanomas"}
    assert found["melanomas only"]["reason"] == "fewer than 10 benign images"
    assert found["all"]["suppressed"]
    assert not found["torso"]["suppressed"]
    assert all(row["suppressed"] for row in subgroups(table, 0.5, **QUICK, least=500))


def test_everything_goes_into_json_and_is_the_same_again() -> None:
    table = predictions()
    table["site"] = ["$\\frac{", "<script>", "x" * 500, None] * 100
    first, again = (json.dumps(subgroups(table, 0.5, **QUICK), allow_nan=False) for _ in range(2))
    assert first == again


def test_perfect_scores_have_a_value_and_say_why_they_have_no_interval() -> None:
    table = predictions()
    table["probability"] = table["target"].astype(float)
    row = subgroups(table, 0.5, **QUICK)[0]
    assert (row["auc"]["value"], row["auc"]["low"]) == (1.0, None)
    assert "no spread" in row["auc"]["reason"]
    assert row["sensitivity"]["value"] == row["sensitivity"]["high"] == 1.0
    assert 0.8 < row["sensitivity"]["low"] < 1


@pytest.mark.parametrize(("hits", "images"), [(9, 10), (50, 60), (0, 20), (20, 20)])
def test_a_rate_of_independent_images_has_the_wilson_interval_of_scipy(hits: int, images: int) -> None:
    found = rate(np.arange(images) < hits, np.arange(images), 0.9)
    expected = binomtest(hits, images).proportion_ci(0.9, "wilson")
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found["method"], found["level"]) == ("Wilson", 0.9)


def test_copies_of_an_image_tell_nothing_new() -> None:
    hit = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0, 1], bool)
    once, thrice = rate(hit, np.arange(10), 0.95), rate(np.repeat(hit, 3), np.repeat(np.arange(10), 3), 0.95)
    assert (thrice["low"], thrice["high"]) == pytest.approx((once["low"], once["high"]), abs=1e-12)
    assert thrice["method"] == "Wilson, images of a patient taken together"
    assert _independent_images(np.ones(30, bool), np.repeat(np.arange(10), 3)) == 10


def test_rates_of_repeating_patients_vary_as_a_bootstrap_over_them_does() -> None:
    random = np.random.default_rng(1)
    patient = np.repeat(np.arange(150), 6)
    hit = random.random(900) < random.beta(2, 1, 150)[patient]
    found = rate(hit, patient, 0.95)
    drawn = intervals.share_interval(hit, np.ones(900, bool), patient, samples=4000)
    assert drawn
    assert (found["low"], found["high"]) == pytest.approx((drawn.low, drawn.high), abs=0.01)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        subgroups(predictions().assign(probability=np.nan), 0.5, **QUICK)
