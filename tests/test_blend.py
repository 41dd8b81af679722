"""Blends against hand-made tables and SciPy, the choice among them, its honest figure, and tables joined."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from melanoma.errors import DataError
from melanoma.evaluation import blend
from melanoma.evaluation.metrics import auc

Sample = tuple[NDArray[np.int64], NDArray[np.float64]]


def sample(noise: list[float], rows: int = 2000, melanomas: int = 100, seed: int = 0) -> Sample:
    """Models that see the same truth, each with a noise of its own."""
    random = np.random.default_rng(seed)
    target = (np.arange(rows) < melanomas).astype(np.int64)
    scores = np.stack([1.5 * target + amount * random.normal(size=rows) for amount in noise])
    return target, scores


def predictions(names: str, probability: list[float], target: list[int] | None = None) -> pd.DataFrame:
    rows = {"image_name": list(names), "patient_id": [f"p{name}" for name in names]}
    return pd.DataFrame(rows | {"target": target or [0] * len(names), "probability": probability})


# ---- blends ----------------------------------------------------------------------------------------------------------


def test_blends_of_a_hand_made_table() -> None:
    scores = [[0.1, 0.2, 0.9], [0.4, 0.4, 0.0]]
    np.testing.assert_allclose(blend.mean_blend(scores), [0.25, 0.3, 0.45])
    # Shares of rows below, ties counted half: 1/6, 3/6, 5/6 and 4/6, 4/6, 1/6.
    np.testing.assert_allclose(blend.rank_mean_blend(scores), [5 / 12, 7 / 12, 6 / 12])


def test_rank_mean_equals_scipys_average_ranks() -> None:
    scores = np.random.default_rng(0).integers(0, 20, (4, 300)) / 20
    expected = (rankdata(scores, axis=1) - 0.5).mean(0) / 300
    np.testing.assert_allclose(blend.rank_mean_blend(scores), expected)


def test_a_rank_mean_does_not_see_how_a_model_stretches_its_scores() -> None:
    _, scores = sample([1, 2])
    stretched = np.stack([scores[0], np.exp(5 * scores[1])])
    np.testing.assert_array_equal(blend.rank_mean_blend(scores), blend.rank_mean_blend(stretched))
    found = blend.rank_mean_blend(scores)
    assert 0 <= found.min() < found.max() <= 1


def test_rank_sums_that_are_equal_stay_equal() -> None:
    random = np.random.default_rng(1)
    ranks = random.permutation(101)
    scores = np.stack([ranks, 100 - ranks])  # each row's ranks add up to the same
    assert np.unique(blend.rank_mean_blend(scores)).size == 1


@pytest.mark.parametrize("name", blend.BLENDS)
def test_one_model_is_ranked_as_it_was_and_no_rows_stay_none(name: str) -> None:
    target, scores = sample([1])
    assert auc(target, blend.BLENDS[name](scores)) == auc(target, scores[0])
    assert blend.BLENDS[name](np.empty((2, 0))).shape == (0,)


@pytest.mark.parametrize("scores", [[], [0.5, 0.5], [[0.5, np.nan]], [[np.inf, 0.0]]])
@pytest.mark.parametrize("name", blend.BLENDS)
def test_scores_that_cannot_be_blended_are_refused(name: str, scores: list[object]) -> None:
    with pytest.raises(ValueError, match=r"are not \(models, rows\)|NaN or infinite"):
        blend.BLENDS[name](scores)


# ---- the choice ------------------------------------------------------------------------------------------------------


def test_models_with_noise_of_their_own_are_better_together_and_a_coin_is_left_out() -> None:
    target, scores = sample([1, 1.2, 1.1, 30])
    best, *others = blend.choose_blend(target, scores, ["a", "b", "c", "coin"])
    assert best.members == (0, 1, 2)
    assert best.name == f"{best.blend} of a, b, c"
    alone = {one.name: one.auc for one in others if len(one.members) == 1}
    assert set(alone) == {"a", "b", "c", "coin"}
    assert best.auc is not None
    assert best.auc > alone["a"] + 0.02
    assert {(name, (0, 1, 2, 3)) for name in blend.BLENDS} <= {(one.blend, one.members) for one in others}


def test_every_candidates_auc_is_scikit_learns_of_what_it_applies() -> None:
    target, scores = sample([1, 2, 3])
    found = blend.choose_blend(target, scores, ["a", "b", "c"])
    for one in found:
        assert one.auc == pytest.approx(roc_auc_score(target, one.apply(scores)))
    areas = [one.auc for one in found]
    assert areas == sorted(areas, reverse=True)
    assert len({(one.blend, one.members) for one in found}) == len(found)


def test_ranks_win_where_one_model_drowns_the_other() -> None:
    target, scores = sample([1, 1])
    loud = np.stack([scores[0], 100 * scores[1]])
    assert blend.choose_blend(target, loud, ["a", "b"])[0].name == "rank mean of a, b"


def test_of_equals_the_simplest_comes_first() -> None:
    target, scores = sample([1])
    found = blend.choose_blend(target, np.repeat(scores, 3, axis=0), ["a", "b", "c"])
    assert [one.name for one in found] == ["a", "b", "c", "mean of a, b, c", "rank mean of a, b, c"]


def test_one_model_is_its_own_choice_and_an_absent_class_has_no_auc() -> None:
    target, scores = sample([1, 1])
    assert [one.name for one in blend.choose_blend(target, scores[:1], ["a"])] == ["a"]
    found = blend.choose_blend(np.zeros(2000), scores, ["a", "b"])
    assert [(one.name, one.auc) for one in found] == [
        ("a", None), ("b", None), ("mean of a, b", None), ("rank mean of a, b", None)
    ]  # fmt: skip
    assert [one.auc for one in blend.choose_blend([], np.empty((1, 0)), ["a"])] == [None]
    with pytest.raises(ValueError, match="1 names for the scores of 2 models"):
        blend.choose_blend(target, scores, ["a"])


def test_the_nested_figure_is_free_of_the_choices_optimism() -> None:
    # Thirty coins: the best of them, and of their blends, looks better than a coin where it was chosen, and only there.
    chosen, nested = [], []
    for seed in range(10):
        target, scores = sample([1] * 30, rows=600, melanomas=60, seed=seed)
        coins = scores - 1.5 * target
        names = [str(model) for model in range(30)]
        part = np.random.default_rng(seed).integers(5, size=600)
        chosen.append(blend.choose_blend(target, coins, names)[0].auc)
        nested.append(blend.nested_blend_auc(target, coins, names, part))
    assert np.mean(chosen) > 0.58
    assert np.mean(nested) == pytest.approx(0.5, abs=0.025)


def test_the_nested_figure_of_one_model_counts_its_pairs_within_parts() -> None:
    target, part = np.array([1, 0, 0, 1, 0, 0]), np.array([0, 0, 0, 1, 1, 2])
    scores = np.array([[0.5, 0.4, 0.6, 0.9, 0.1, 0.95]])
    # Part 0: one of two pairs; part 1: its only pair; part 2 has no melanoma.
    assert blend.nested_blend_auc(target, scores, ["a"], part) == pytest.approx(2 / 3)


def test_without_other_parts_or_a_class_there_is_no_nested_figure() -> None:
    target, scores = sample([1, 1])
    assert blend.nested_blend_auc(target, scores, ["a", "b"], np.zeros(2000, int)) is None
    assert blend.nested_blend_auc(np.zeros(2000), scores, ["a", "b"], np.arange(2000) % 2) is None
    assert blend.nested_blend_auc(target, scores, ["a", "b"], target) is None
    assert blend.nested_blend_auc([], np.empty((1, 0)), ["a"], []) is None
    with pytest.raises(ValueError, match="not one value an image"):
        blend.nested_blend_auc(target, scores, ["a", "b"], [0, 1])


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_tables_are_joined_by_image_in_the_firsts_order_and_what_is_left_out_is_remarked() -> None:
    first = predictions("cab", [0.3, 0.1, 0.2], [1, 0, 0])
    second = predictions("abcd", [0.5, 0.6, 0.7, 0.8], [0, 0, 1, 0])
    joined, remarks = blend.common_rows([first, second], ["one", "two"])
    assert list(joined) == ["image_name", "patient_id", "target", "one", "two"]
    assert joined.to_numpy().tolist() == [["c", "pc", 1, 0.3, 0.7], ["a", "pa", 0, 0.1, 0.5], ["b", "pb", 0, 0.2, 0.6]]
    assert remarks == ["two: 1 of 4 images are not in all runs and were left out"]


def test_contradictions_are_refused_by_name() -> None:
    first, second = predictions("abc", [0.1] * 3), predictions("abc", [0.2] * 3, [0, 1, 0])
    with pytest.raises(DataError, match="one and two give 1 images different targets: b"):
        blend.common_rows([first, second], ["one", "two"])
    second = predictions("abc", [0.2] * 3).assign(patient_id=["pa", "pb", "other"])
    with pytest.raises(DataError, match="one and two give 1 images different patients: c"):
        blend.common_rows([first, second], ["one", "two"])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (predictions("xyz", [0.1] * 3), "no image is in all of one, two"),
        (predictions("", []), "no image is in all of one, two"),
        (predictions("aab", [0.1] * 3), "predictions of two have images twice: a;"),
        (predictions("abc", [0.1, np.nan, 1.2]), "predictions of two have values outside 0 to 1, for b, c;"),
        (predictions("abc", [0.1] * 3, [0, 2, 0]), "predictions of two have a target that is not 0 or 1, for b;"),
        (predictions("abc", [0.1] * 3).drop(columns="target"), "predictions of two lack the columns target"),
    ],
)
def test_tables_that_cannot_be_joined_are_refused(second: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        blend.common_rows([predictions("abc", [0.1] * 3), second], ["one", "two"])


def test_names_are_the_models_own() -> None:
    table = predictions("abc", [0.1] * 3)
    for names in (["one", "one"], ["one", "target"]):
        with pytest.raises(DataError, match="names of their own"):
            blend.common_rows([table, table], names)
    with pytest.raises(ValueError, match="1 names for 2 tables"):
        blend.common_rows([table, table], ["one"])
