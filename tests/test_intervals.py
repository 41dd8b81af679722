"""Intervals against slow versions written out in full, against one another, and against drawing rows."""

import time
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference
from test_metrics import sample

from melanoma.evaluation import intervals, metrics


def slow_delong(target: NDArray[np.int64], probability: NDArray[np.float64]) -> float:
    """Compare every melanoma with every benign image, as DeLong wrote it."""
    melanoma, benign = probability[target == 1], probability[target == 0]
    won = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in benign] for x in melanoma])
    return float(won.mean(1).var(ddof=1) / len(melanoma) + won.mean(0).var(ddof=1) / len(benign))


@pytest.mark.parametrize(("rows", "decimals"), [(30, 1), (80, 2), (200, 6)])
def test_delong_variance_equals_the_comparison_of_all_pairs(rows: int, decimals: int) -> None:
    target, probability = sample(rows, rows, decimals)
    assert intervals.delong_variance(target, probability) == pytest.approx(slow_delong(target, probability), rel=1e-12)


def test_independent_images_get_delong_and_repeating_patients_a_bootstrap() -> None:
    target, probability = sample(200, 3)
    alone = intervals.auc_interval(target, probability)
    assert alone is not None
    assert alone.method == "DeLong"
    assert intervals.auc_interval(target, probability, [f"p{i}" for i in range(200)]) == alone
    pairs = intervals.auc_interval(target, probability, np.arange(200) // 2)
    assert pairs is not None
    assert pairs.method == "bootstrap over patients"


def test_delong_interval_is_the_estimate_and_its_normal_error() -> None:
    target, probability = sample(300, 4)
    value, variance = metrics.auc(target, probability), intervals.delong_variance(target, probability)
    found = intervals.auc_interval(target, probability)
    assert value and variance and found
    assert (found.low, found.high) == pytest.approx(
        (value - 1.959964 * variance**0.5, value + 1.959964 * variance**0.5)
    )


@pytest.mark.parametrize("decimals", [1, 6])
def test_bootstrap_weights_equal_drawing_the_rows(decimals: int) -> None:
    target, probability = sample(60, 5, decimals)
    people = intervals._People(np.arange(60) // 3, 60)
    counts = np.random.default_rng(0).integers(0, 4, size=(25, 20))
    named = intervals.ranking_measures([0.8, 0.95], 0.7)
    ours = intervals._on_ranking(target, probability, people, named)(counts)
    for row, values in zip(counts, ours, strict=True):
        drawn = np.repeat(np.arange(60), row[people.person])
        plain = {
            "auc": reference.roc_auc_score(target[drawn], probability[drawn]),
            "average_precision": metrics.average_precision(target[drawn], probability[drawn]),
            "partial_auc": metrics.partial_auc(target[drawn], probability[drawn], 0.7),
            "specificity_at_0.8": metrics.specificity_at_sensitivity(target[drawn], probability[drawn], 0.8),
            "specificity_at_0.95": metrics.specificity_at_sensitivity(target[drawn], probability[drawn], 0.95),
        }
        assert dict(zip(named, values, strict=True)) == pytest.approx(plain, abs=1e-12)


def test_a_resample_without_a_class_is_undefined_and_warns_of_nothing() -> None:
    people = intervals._People([0, 0, 1, 1], 4)
    statistic = intervals._on_ranking([1, 1, 0, 0], [0.9, 0.2, 0.3, 0.1], people, intervals.ranking_measures([0.9]))
    assert np.isnan(statistic(np.array([[2, 0], [0, 2]]))).all()


def test_bootstrap_of_single_images_agrees_with_delong() -> None:
    target, probability = sample(1000, 6, 6)
    twin = np.repeat([0, 1], [999, 1])  # one patient more than once, so that the bootstrap is taken
    drawn = intervals.auc_interval(target, probability, np.arange(1000) - twin, samples=4000)
    exact = intervals.auc_interval(target, probability)
    assert drawn and exact
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.004)


def test_images_copied_within_patients_do_not_make_the_interval_narrower() -> None:
    target, probability = sample(300, 7)
    once = intervals.auc_interval(target, probability)
    copied = intervals.auc_interval(
        np.tile(target, 4), np.tile(probability, 4), np.tile(np.arange(300), 4), samples=2000
    )
    assert once and copied
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.1)


def test_an_interval_is_the_same_for_the_same_seed_only() -> None:
    target, probability = sample(200, 8)
    person = np.arange(200) // 4
    first = intervals.auc_interval(target, probability, person, seed=1)
    assert first == intervals.auc_interval(target, probability, person, seed=1)
    assert first != intervals.auc_interval(target, probability, person, seed=2)


def test_data_without_spread_get_no_interval() -> None:
    assert intervals.auc_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) is None
    assert intervals.auc_interval([0, 0, 1, 1] * 2, [0.1, 0.2, 0.8, 0.9] * 2, [0, 1, 2, 3] * 2) is None
    # One patient owns all melanomas: who else might have come cannot be known.
    assert intervals.auc_interval([0, 0, 1, 1], [0.1, 0.85, 0.8, 0.9], ["a", "b", "c", "c"]) is None


def test_the_difference_of_a_score_and_itself_has_no_spread_and_of_a_better_one_is_above_zero() -> None:
    target, probability = sample(400, 9)
    person = np.arange(400) // 2
    assert intervals.auc_difference_interval(target, probability, probability, person) is None
    noise = np.random.default_rng(0).random(400)
    found = intervals.auc_difference_interval(target, probability, noise, person)
    assert found is not None
    assert found.low > 0
    turned = intervals.auc_difference_interval(target, noise, probability, person)
    assert turned is not None
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_a_thousand_resamples_of_33000_rows_take_seconds() -> None:
    random = np.random.default_rng(0)
    target = (random.random(33_000) < 0.018).astype(int)
    started = time.monotonic()
    assert intervals.auc_interval(target, random.random(33_000), random.integers(2000, size=33_000)) is not None
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("target", [[0, 0, 0], [1, 1, 1], []])
def test_an_absent_class_has_no_interval_and_no_warning(target: list[int]) -> None:
    probability, patient = np.linspace(0.1, 0.9, len(target)), [0] * len(target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert intervals.delong_variance(target, probability) is None
        assert intervals.delong_difference(target, probability, probability) is None
        assert intervals.auc_interval(target, probability) is None
        assert intervals.auc_interval(target, probability, patient) is None
        assert intervals.auc_difference_interval(target, probability, probability) is None
        found = intervals.ranking_intervals(target, probability, patient, intervals.ranking_measures([0.9]))
        assert set(found.values()) == {None}
        assert intervals.share_interval(np.array(target) == 1, np.zeros(len(target), bool), patient) is None


def test_delong_standard_error_is_that_of_a_bootstrap_of_2000() -> None:
    target, probability = sample(2000, 21, 6)
    drawn = np.empty(2000)
    random = np.random.default_rng(1)
    for number in range(len(drawn)):  # drawn in full, with nothing of intervals.py
        rows = random.integers(len(target), size=len(target))
        drawn[number] = reference.roc_auc_score(target[rows], probability[rows])
    variance = intervals.delong_variance(target, probability)
    assert variance is not None
    assert variance**0.5 == pytest.approx(drawn.std(ddof=1), rel=0.05)


def slow_delong_of_a_difference(
    target: NDArray[np.int64], one: NDArray[np.float64], other: NDArray[np.float64]
) -> float:
    """Compare every melanoma with every benign image in both scores, and take the variance of the differences."""
    won = []
    for score in (one, other):
        melanoma, benign = score[target == 1][:, None], score[target == 0][None, :]
        won.append((melanoma > benign) + 0.5 * (melanoma == benign))
    gap = won[0] - won[1]
    return float(gap.mean(1).var(ddof=1) / gap.shape[0] + gap.mean(0).var(ddof=1) / gap.shape[1])


@pytest.mark.parametrize("seed", range(3))
def test_paired_delong_equals_the_comparison_of_all_pairs(seed: int) -> None:
    target, first = sample(150, seed, 2)
    second = np.round(first + np.random.default_rng(seed).normal(size=150) * 0.2, 2)
    found = intervals.delong_difference(target, first, second)
    assert found is not None
    gap = reference.roc_auc_score(target, first) - reference.roc_auc_score(target, second)
    assert found.difference == pytest.approx(gap, abs=1e-12)
    assert found.standard_error**2 == pytest.approx(slow_delong_of_a_difference(target, first, second), rel=1e-9)
    assert found.interval.low < found.difference < found.interval.high
    turned = intervals.delong_difference(target, second, first)
    assert turned is not None
    assert (turned.difference, turned.p_value) == pytest.approx((-found.difference, found.p_value))


def test_paired_delong_finds_no_difference_where_there_is_none_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    found = []
    for _ in range(300):
        target = np.arange(200) % 4 == 0
        lesion = target + random.normal(size=200)
        pair = intervals.delong_difference(target, lesion + random.normal(size=200), lesion + random.normal(size=200))
        assert pair is not None
        found.append(pair.p_value < 0.05)
    assert 0.02 < np.mean(found) < 0.09


def test_scores_that_rank_alike_have_no_paired_interval() -> None:
    target, probability = sample(100, 2)
    assert intervals.delong_difference(target, probability, np.exp(probability)) is None


def test_the_interval_of_a_share_is_near_wilsons_for_single_images_and_wider_for_patients() -> None:
    random = np.random.default_rng(0)
    hit = random.random(500) < 0.8
    alone = intervals.share_interval(hit, np.ones(500, bool), samples=4000)
    assert alone is not None
    assert alone.method == "bootstrap over images"
    reach = 1.96 * np.sqrt(hit.mean() * (1 - hit.mean()) / 500)
    assert (alone.low, alone.high) == pytest.approx((hit.mean() - reach, hit.mean() + reach), abs=0.006)
    copied = intervals.share_interval(np.tile(hit, 4), np.ones(2000, bool), np.tile(np.arange(500), 4), samples=4000)
    assert copied is not None
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.1)
    with pytest.raises(ValueError, match="one value an image"):
        intervals.share_interval(hit, np.ones(3, bool))


def test_a_patient_for_each_row_is_asked_for() -> None:
    with pytest.raises(ValueError, match="does not name one"):
        intervals.auc_interval([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], [1, 1])


def test_leaderboard_noise_is_what_many_test_sets_show() -> None:
    # AUC 0.93 by two normal distributions; 78 melanomas and 3,200 benign images are the public part of the test set.
    random = np.random.default_rng(0)

    def drawn(melanomas: int, benign: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        target = np.repeat([1, 0], [melanomas, benign])
        return target, random.normal(size=target.size) + 2.087 * target

    areas = [metrics.auc(*drawn(78, 3200)) for _ in range(2000)]
    noise = intervals.leaderboard_noise(*drawn(4000, 30_000), 78, 3200)
    assert noise == pytest.approx(np.std(areas), rel=0.06)


def test_noise_for_the_same_numbers_is_delongs_standard_error() -> None:
    target, probability = sample(500, 2, 6)
    variance = intervals.delong_variance(target, probability)
    melanomas = int(target.sum())
    assert variance is not None
    noise = intervals.leaderboard_noise(target, probability, melanomas, 500 - melanomas)
    assert noise == pytest.approx(variance**0.5)
    larger = intervals.leaderboard_noise(target, probability, 4 * melanomas, 4 * (500 - melanomas))
    assert larger == pytest.approx(variance**0.5 / 2)


def test_noise_that_cannot_be_told_is_none_and_a_test_set_needs_both_classes() -> None:
    assert intervals.leaderboard_noise([1, 0, 0], [0.3, 0.2, 0.4], 5, 5) is None
    assert intervals.leaderboard_noise([1, 1, 0, 0], [0.9, 0.8, 0.1, 0.2], 5, 5) is None
    with pytest.raises(ValueError, match="has no AUC"):
        intervals.leaderboard_noise([1, 1, 0, 0], [0.9, 0.1, 0.1, 0.2], 0, 5)
