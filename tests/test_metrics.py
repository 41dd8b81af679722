"""Metrics against hand-made tables, scikit-learn, and slow versions written out in full."""

import subprocess
import sys
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


def test_auc_of_a_hand_made_table_counts_ties_half() -> None:
    # 0.35 beats one of three; 0.4 beats one and ties with two; 0.8 beats three.
    assert metrics.auc(TARGET, PROBABILITY) == pytest.approx((1 + 2 + 3) / 9)


@pytest.mark.parametrize("seed", range(5))
def test_auc_precision_and_roc_curve_equal_scikit_learns(seed: int) -> None:
    target, probability = sample(300, seed)
    assert metrics.auc(target, probability) == pytest.approx(
        reference.roc_auc_score(target, probability), abs=1e-12, rel=0
    )
    expected = reference.average_precision_score(target, probability)
    assert metrics.average_precision(target, probability) == pytest.approx(expected, abs=1e-12, rel=0)
    ours, theirs = (
        metrics.roc_curve(target, probability),
        reference.roc_curve(target, probability, drop_intermediate=False),
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


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
        assert metrics.partial_auc(target, probability) is None
        assert metrics.sensitivity_at_specificity(target, probability, 0.9) is None
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
    assert metrics.specificity_at_sensitivity(target, probability, wanted) == pytest.approx(expected, abs=1e-12, rel=0)


def test_nine_tenths_of_ten_melanomas_are_nine() -> None:
    probability = np.linspace(0.1, 1.0, 10)
    assert metrics.threshold_at_sensitivity(np.ones(10), probability, 0.9) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="sensitivity is above 0"):
        metrics.threshold_at_sensitivity([1], [0.5], 1.5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lowest", [0.0, 0.5, 0.8, 0.95])
def test_partial_auc_equals_scikit_learns_on_the_turned_problem(seed: int, lowest: float) -> None:
    target, probability = sample(300, seed, 1 + seed)
    # the area above a sensitivity is the area left of a false positive rate, with classes and scores turned round
    most = 1 - lowest
    standard = reference.roc_auc_score(1 - target, -probability, max_fpr=most)
    smallest = most**2 / 2
    expected = (2 * standard - 1) * (most - smallest) + smallest if most < 1 else standard  # McClish undone
    assert metrics.partial_auc(target, probability, lowest) == pytest.approx(expected, abs=1e-12, rel=0)


def test_partial_auc_of_a_coin_and_of_a_perfect_score() -> None:
    target = [0, 1] * 50
    assert metrics.partial_auc(target, [0.5] * 100) == pytest.approx(0.02)
    assert metrics.partial_auc(target, target) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="lowest sensitivity"):
        metrics.partial_auc(target, target, 1.0)


@pytest.mark.parametrize("wanted", [0.0, 0.5, 0.8, 0.9, 1.0])
def test_sensitivity_at_a_specificity_is_the_best_of_all_thresholds(wanted: float) -> None:
    target, probability = sample(200, 12)
    false_alarms, sensitivity, _ = reference.roc_curve(target, probability, drop_intermediate=False)
    expected = sensitivity[1 - false_alarms >= wanted - 1e-12].max()
    assert metrics.sensitivity_at_specificity(target, probability, wanted) == pytest.approx(expected, abs=1e-12, rel=0)


def test_predictive_values_of_a_hand_made_table() -> None:
    # of 1,000 lesions 20 are melanomas: 18 are found, 2 missed; of 980 benign ones 98 are called melanoma
    found = metrics.predictive_values(0.9, 0.9, 0.02)
    assert found["ppv"] == pytest.approx(18 / 116)
    assert found["npv"] == pytest.approx(882 / 884)
    assert found["number_needed_to_biopsy"] == pytest.approx(116 / 18)
    assert metrics.predictive_values(0.0, 1.0, 0.02) == {"ppv": None, "npv": 0.98, "number_needed_to_biopsy": None}
    assert set(metrics.predictive_values(None, 0.9, 0.02).values()) == {None}
    with pytest.raises(ValueError, match="prevalence"):
        metrics.predictive_values(0.9, 0.9, 0.0)


def test_predictive_values_at_the_samples_own_prevalence_are_its_counts() -> None:
    target, probability = sample(400, 13)
    point = metrics.at_threshold(target, probability, 0.6)
    found = metrics.predictive_values(point["sensitivity"], point["specificity"], float(target.mean()))
    assert found["ppv"] == pytest.approx(reference.precision_score(target, probability >= 0.6))


def test_retrieval_counts_melanomas_among_the_most_suspect_of_their_patient() -> None:
    patient = ["a"] * 4 + ["b"] * 2 + ["c"]
    target = [1, 0, 0, 1, 1, 0, 0]
    probability = [0.9, 0.8, 0.7, 0.1, 0.2, 0.3, 1.0]
    assert metrics.retrieval_sensitivity(target, probability, patient, 1) == pytest.approx(1 / 3)
    assert metrics.retrieval_sensitivity(target, probability, patient, 2) == pytest.approx(2 / 3)
    assert metrics.retrieval_sensitivity(target, probability, patient) == 1
    # two of four equal scores are taken: each has one chance in two
    assert metrics.retrieval_sensitivity([1, 0, 0, 0], [0.5] * 4, ["a"] * 4, 2) == pytest.approx(0.5)
    assert metrics.retrieval_sensitivity([0, 0], [0.5, 0.1], ["a", "b"]) is None
    assert metrics.retrieval_sensitivity([], [], []) is None


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_equals_sorting_each_patient(seed: int) -> None:
    target, probability = sample(300, seed, 9)
    patient = np.random.default_rng(seed).integers(6, size=300)
    found = 0
    for one in range(6):
        order = np.argsort(-probability[patient == one])[:15]
        found += target[patient == one][order].sum()
    assert metrics.retrieval_sensitivity(target, probability, patient) == pytest.approx(found / target.sum())


def test_metrics_need_neither_pandas_nor_scikit_learn() -> None:
    code = "import sys, melanoma.evaluation.metrics; sys.exit(bool({'pandas', 'sklearn', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
