"""Metrics against hand-made tables, scikit-learn, and slow versions written out in full."""

import time
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from melanoma.evaluation import metrics

TARGET = [0, 0, 1, 0, 1, 1]
PROBABILITY = [0.1, 0.4, 0.35, 0.4, 0.4, 0.8]


def sample(rows: int, seed: int, decimals: int = 2) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    target = (random.random(rows) < 0.3).astype(np.int64)
    return target, np.round(1 / (1 + np.exp(-(target + random.normal(size=rows)))), decimals)


def slow_delong(target: NDArray[np.int64], probability: NDArray[np.float64]) -> float:
    """Compare every melanoma with every benign image, as DeLong wrote it."""
    melanoma, benign = probability[target == 1], probability[target == 0]
    won = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in benign] for x in melanoma])
    return float(won.mean(1).var(ddof=1) / len(melanoma) + won.mean(0).var(ddof=1) / len(benign))


def test_auc_of_a_hand_made_table_counts_ties_half() -> None:
    # 0.35 beats one of three; 0.4 beats one and ties with two; 0.8 beats three.
    assert metrics.auc(TARGET, PROBABILITY) == pytest.approx((1 + 2 + 3) / 9)


@pytest.mark.parametrize("seed", range(5))
def test_auc_precision_and_roc_curve_equal_scikit_learns(seed: int) -> None:
    target, probability = sample(300, seed)
    assert metrics.auc(target, probability) == pytest.approx(reference.roc_auc_score(target, probability))
    expected = reference.average_precision_score(target, probability)
    assert metrics.average_precision(target, probability) == pytest.approx(expected)
    ours, theirs = (
        metrics.roc_curve(target, probability),
        reference.roc_curve(target, probability, drop_intermediate=False),
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other)


def test_auc_turns_round_with_the_score_and_ignores_its_scale() -> None:
    target, probability = sample(200, 1)
    value = metrics.auc(target, probability)
    assert value is not None
    assert metrics.auc(target, -probability) == pytest.approx(1 - value)
    assert metrics.auc(target, np.exp(7 * probability)) == pytest.approx(value)


@pytest.mark.parametrize("target", [[0, 0, 0], [1, 1, 1], []])
def test_an_absent_class_is_none_without_a_warning(target: list[int]) -> None:
    probability = np.linspace(0.1, 0.9, len(target))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.auc(target, probability) is None
        assert metrics.delong_variance(target, probability) is None
        assert metrics.auc_interval(target, probability) is None
        assert metrics.auc_interval(target, probability, [0] * len(target)) is None
        assert metrics.auc_difference_interval(target, probability, probability) is None
        assert metrics.specificity_at_sensitivity(target, probability, 0.9) is None
        assert metrics.at_threshold(target, probability, 0.5)["balanced_accuracy"] is None
    with pytest.raises(ValueError, match="melanomas and benign"):
        metrics.roc_curve(target, probability)


@pytest.mark.parametrize(
    ("target", "probability", "message"),
    [
        ([0, 1], [0.2, np.nan], "1 probabilities are NaN"),
        ([0, 1], [0.2, np.inf], "NaN or infinite"),
        ([0, 1], [0.2], "one value an image"),
        ([0, 2], [0.2, 0.3], "neither 0 nor 1"),
        ([0, np.nan], [0.2, 0.3], "neither 0 nor 1"),
    ],
)
def test_what_is_no_target_or_probability_is_refused(
    target: list[float], probability: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.auc(target, probability)


@pytest.mark.parametrize(("rows", "decimals"), [(30, 1), (80, 2), (200, 6)])
def test_delong_variance_equals_the_comparison_of_all_pairs(rows: int, decimals: int) -> None:
    target, probability = sample(rows, rows, decimals)
    assert metrics.delong_variance(target, probability) == pytest.approx(slow_delong(target, probability), rel=1e-12)


def test_independent_images_get_delong_and_repeating_patients_a_bootstrap() -> None:
    target, probability = sample(200, 3)
    alone = metrics.auc_interval(target, probability)
    assert alone is not None
    assert alone.method == "DeLong"
    assert metrics.auc_interval(target, probability, [f"p{i}" for i in range(200)]) == alone
    pairs = metrics.auc_interval(target, probability, np.arange(200) // 2)
    assert pairs is not None
    assert pairs.method == "bootstrap over patients"


def test_delong_interval_is_the_estimate_and_its_normal_error() -> None:
    target, probability = sample(300, 4)
    value, variance = metrics.auc(target, probability), metrics.delong_variance(target, probability)
    found = metrics.auc_interval(target, probability)
    assert value and variance and found
    assert (found.low, found.high) == pytest.approx(
        (value - 1.959964 * variance**0.5, value + 1.959964 * variance**0.5)
    )


def test_bootstrap_weights_equal_drawing_the_rows() -> None:
    target, probability = sample(60, 5, 1)
    person = np.arange(60) // 3
    counts = np.random.default_rng(0).integers(0, 4, size=(25, 20))
    ours = metrics._weighted_auc(target == 1, probability, person, counts)
    for row, value in zip(counts, ours, strict=True):
        drawn = np.repeat(np.arange(60), row[person])
        assert value == pytest.approx(reference.roc_auc_score(target[drawn], probability[drawn]))


def test_bootstrap_of_single_images_agrees_with_delong() -> None:
    target, probability = sample(1000, 6, 6)
    twin = np.repeat([0, 1], [999, 1])  # one patient more than once, so that the bootstrap is taken
    drawn = metrics.auc_interval(target, probability, np.arange(1000) - twin, samples=4000)
    exact = metrics.auc_interval(target, probability)
    assert drawn and exact
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.004)


def test_images_copied_within_patients_do_not_make_the_interval_narrower() -> None:
    target, probability = sample(300, 7)
    once = metrics.auc_interval(target, probability)
    copied = metrics.auc_interval(np.tile(target, 4), np.tile(probability, 4), np.tile(np.arange(300), 4), samples=2000)
    assert once and copied
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.1)


def test_an_interval_is_the_same_for_the_same_seed_only() -> None:
    target, probability = sample(200, 8)
    person = np.arange(200) // 4
    first = metrics.auc_interval(target, probability, person, seed=1)
    assert first == metrics.auc_interval(target, probability, person, seed=1)
    assert first != metrics.auc_interval(target, probability, person, seed=2)


def test_data_without_spread_get_no_interval() -> None:
    assert metrics.auc_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) is None
    assert metrics.auc_interval([0, 0, 1, 1] * 2, [0.1, 0.2, 0.8, 0.9] * 2, [0, 1, 2, 3] * 2) is None
    # One patient owns all melanomas: who else might have come cannot be known.
    assert metrics.auc_interval([0, 0, 1, 1], [0.1, 0.85, 0.8, 0.9], ["a", "b", "c", "c"]) is None


def test_the_difference_of_a_score_and_itself_has_no_spread_and_of_a_better_one_is_above_zero() -> None:
    target, probability = sample(400, 9)
    person = np.arange(400) // 2
    assert metrics.auc_difference_interval(target, probability, probability, person) is None
    noise = np.random.default_rng(0).random(400)
    found = metrics.auc_difference_interval(target, probability, noise, person)
    assert found is not None
    assert found.low > 0
    turned = metrics.auc_difference_interval(target, noise, probability, person)
    assert turned is not None
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_a_threshold_is_reached_by_its_own_probability() -> None:
    found = metrics.at_threshold(TARGET, PROBABILITY, 0.4)
    assert (found["true_positives"], found["false_negatives"]) == (2, 1)
    assert (found["true_negatives"], found["false_positives"]) == (1, 2)
    assert found["sensitivity"] == pytest.approx(2 / 3)
    assert found["specificity"] == pytest.approx(1 / 3)
    expected = reference.balanced_accuracy_score(TARGET, np.array(PROBABILITY) >= 0.4)
    assert found["balanced_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("wanted", [0.1, 0.8, 0.9, 0.95, 1.0])
def test_specificity_at_a_sensitivity_is_the_best_of_all_thresholds(wanted: float) -> None:
    target, probability = sample(200, 10)
    false_alarms, sensitivity, _ = reference.roc_curve(target, probability, drop_intermediate=False)
    expected = 1 - false_alarms[sensitivity >= wanted - 1e-12].min()
    assert metrics.specificity_at_sensitivity(target, probability, wanted) == pytest.approx(expected)


def test_nine_tenths_of_ten_melanomas_are_nine() -> None:
    probability = np.linspace(0.1, 1.0, 10)
    assert metrics.threshold_at_sensitivity(np.ones(10), probability, 0.9) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="sensitivity is above 0"):
        metrics.threshold_at_sensitivity([1], [0.5], 1.5)


def test_a_thousand_resamples_of_33000_rows_take_seconds() -> None:
    random = np.random.default_rng(0)
    target = (random.random(33_000) < 0.018).astype(int)
    started = time.monotonic()
    assert metrics.auc_interval(target, random.random(33_000), random.integers(2000, size=33_000)) is not None
    assert time.monotonic() - started < 10
