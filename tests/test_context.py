"""Patient context: a hand-made table, scikit-learn, and simulated patients whom it helps and whom it does not."""

import json
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from melanoma.errors import DataError
from melanoma.evaluation.context import Context, cross_fitted_context, deviation, fit_context
from melanoma.evaluation.metrics import auc

Sample = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


def sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-logit)))


def sample(patient_spread: float, rows: int = 6000, patients: int = 300, seed: int = 0) -> Sample:
    """Images whose logit is moved by their patient, which tells nothing about the target."""
    random = np.random.default_rng(seed)
    patient = random.integers(patients, size=rows)
    target = (random.random(rows) < 0.1).astype(np.int64)
    moved = patient_spread * random.normal(size=patients)[patient]
    return target, sigmoid(1.5 * target + random.normal(size=rows) + moved - 3), patient


# ---- deviation -------------------------------------------------------------------------------------------------------


def test_deviation_of_a_hand_made_table() -> None:
    patient = ["a", "b", "a", "c", "a", "b"]
    probability = sigmoid(np.array([1.0, 0.5, 2.0, 7.0, 6.0, -0.5]))
    # a: 1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2; b: each less the other; c has one image.
    np.testing.assert_allclose(deviation(probability, patient), [-3, 1, -1.5, 0, 4.5, -1])


def test_the_same_logit_added_to_all_of_a_patients_images_changes_no_deviation() -> None:
    random = np.random.default_rng(0)
    logit, patient = random.normal(size=200), random.integers(30, size=200)
    moved = logit + random.normal(size=30)[patient]
    np.testing.assert_allclose(deviation(sigmoid(moved), patient), deviation(sigmoid(logit), patient), atol=1e-9)


def test_weighted_deviations_of_a_patient_cancel() -> None:
    _, probability, patient = sample(1)
    sums = np.bincount(patient, deviation(probability, patient))
    np.testing.assert_allclose(sums, 0, atol=1e-9)


def test_the_order_of_the_rows_does_not_matter() -> None:
    _, probability, patient = sample(1, rows=100, patients=20)
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_allclose(
        deviation(probability[order], patient[order]), deviation(probability, patient)[order], atol=1e-12
    )


def test_single_images_equal_images_and_no_images_do_not_stand_out() -> None:
    assert deviation([0.1, 0.9], ["a", "b"]).tolist() == [0, 0]
    np.testing.assert_allclose(deviation([0.3] * 4, ["a"] * 4), 0, atol=1e-12)
    assert deviation([], []).shape == (0,)
    assert np.isfinite(deviation([0.0, 1.0, 0.5], ["a"] * 3)).all()


@pytest.mark.parametrize("probability", [[0.1, np.nan], [0.1, 1.5], [-0.1, 0.5]])
def test_what_is_no_probability_is_refused(probability: list[float]) -> None:
    with pytest.raises(ValueError, match="NaN or outside 0 to 1"):
        deviation(probability, ["a", "a"])
    with pytest.raises(ValueError, match="NaN"):
        fit_context([0, 1], [0.5, np.nan], ["a", "a"])


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="not one value an image"):
        deviation([0.1, 0.2], ["a"])
    with pytest.raises(ValueError, match="not one value for 2 images"):
        cross_fitted_context([0, 1], [0.1, 0.2], ["a", "b"], [0])


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_weights_equal_scikit_learns_on_the_bare_columns() -> None:
    target, probability, patient = sample(1)
    logit = np.log(probability / (1 - probability))
    columns = np.column_stack([logit, deviation(probability, patient)])
    model = LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000).fit(columns, target)
    found = fit_context(target, probability, patient)
    assert found is not None
    assert [found.logit, found.deviation] == pytest.approx(model.coef_[0].tolist(), abs=1e-3)
    assert found.intercept == pytest.approx(model.intercept_[0], abs=1e-3)
    np.testing.assert_allclose(found.apply(probability, patient), model.predict_proba(columns)[:, 1], atol=1e-4)


def test_fitted_probabilities_add_up_to_the_melanomas() -> None:
    target, probability, patient = sample(1)
    found = fit_context(target, probability, patient)
    assert found is not None
    residual = target - found.apply(probability, patient)
    # At the highest likelihood the residuals stand upright on every column (the score equations).
    assert residual.sum() == pytest.approx(0, abs=0.05)
    assert residual @ deviation(probability, patient) == pytest.approx(0, abs=0.2)


def test_the_logit_alone_with_weight_one_changes_nothing() -> None:
    _, probability, patient = sample(1)
    np.testing.assert_allclose(Context(0.0, 1.0, 0.0).apply(probability, patient), probability)


def test_extreme_weights_stay_probabilities() -> None:
    found = Context(0.0, 1e6, 1e6).apply([0.0, 1.0, 0.5], ["a", "a", "b"])
    assert np.isfinite(found).all()
    assert found.tolist() == pytest.approx([0, 1, 0.5])


def test_context_helps_where_patients_differ_for_no_reason_of_the_target() -> None:
    target, probability, patient = sample(2)
    before, after = (
        auc(target, probability),
        auc(target, cross_fitted_context(target, probability, patient, patient % 5)),
    )
    assert before is not None
    assert after is not None
    assert after > before + 0.08


def test_context_does_next_to_nothing_where_patients_are_alike() -> None:
    target, probability, patient = sample(0)
    before, after = (
        auc(target, probability),
        auc(target, cross_fitted_context(target, probability, patient, patient % 5)),
    )
    assert after == pytest.approx(before, abs=0.003)
    found = fit_context(target, probability, patient)
    assert found is not None
    assert found.logit + found.deviation == pytest.approx(1.5, abs=0.15)  # the weight of what an image shows itself


@pytest.mark.parametrize(
    ("target", "probability", "patient"),
    [
        ([], [], []),
        ([0, 0, 0], [0.1, 0.2, 0.3], ["a", "a", "b"]),
        ([1, 1, 1], [0.1, 0.2, 0.3], ["a", "a", "b"]),
        ([0, 1, 0, 1, 0], [0.1, 0.2, 0.3, 0.1, 0.6], list("abcde")),
        ([0, 1, 0, 1, 0], [0.1, 0.2, 0.3, 0.1, 0.6], ["a"] * 5),
        ([0, 1, 0, 1, 0], [0.3] * 5, list("aabbc")),
        ([0, 0, 1, 0, 1, 0], [0.1, 0.2, 0.9, 0.3, 0.8, 0.4], list("aaabbb")),
        ([0, 0, 1, 0, 0, 1], [0.1, 0.2, 0.5, 0.5, 0.6, 0.9], list("aaabbb")),
    ],
    ids=["no rows", "benign only", "melanoma only", "one image each", "one patient", "ties", "apart", "apart by both"],
)
def test_a_fit_without_one_finite_answer_is_none(
    target: list[int], probability: list[float], patient: list[str]
) -> None:
    assert fit_context(target, probability, patient) is None


def test_a_single_melanoma_amid_the_others_can_be_fitted() -> None:
    _, probability, patient = sample(1, rows=200, patients=20)
    apart = np.abs(np.log(probability / (1 - probability)) + 3) + np.abs(deviation(probability, patient))
    target = np.arange(200) == np.argmin(apart)
    found = fit_context(target, probability, patient)
    assert found is not None
    assert np.isfinite(list(found.to_json().values())).all()


# ---- cross-fitting ---------------------------------------------------------------------------------------------------


def test_a_parts_own_labels_do_not_reach_its_answers() -> None:
    target, probability, patient = sample(1)
    part = patient % 3
    turned = np.where(part == 1, 1 - target, target)
    first, second = (cross_fitted_context(labels, probability, patient, part) for labels in (target, turned))
    np.testing.assert_array_equal(first[part == 1], second[part == 1])
    assert (first[part != 1] != second[part != 1]).all()


def test_cross_fitting_is_the_fit_on_the_other_parts() -> None:
    target, probability, patient = sample(1)
    part = patient % 2
    found = fit_context(target[part == 0], probability[part == 0], patient[part == 0])
    assert found is not None
    answer = cross_fitted_context(target, probability, patient, part)
    np.testing.assert_array_equal(answer[part == 1], found.apply(probability[part == 1], patient[part == 1]))


def test_parts_without_weights_have_no_answer() -> None:
    target, probability, patient = sample(1)
    assert np.isnan(cross_fitted_context(target, probability, patient, np.zeros(len(target), int))).all()
    only = np.where(patient % 3 == 2, target, 0)
    answer = cross_fitted_context(only, probability, patient, patient % 3)
    np.testing.assert_array_equal(np.isnan(answer), patient % 3 == 2)
    assert cross_fitted_context([], [], [], []).shape == (0,)


def test_a_patient_in_two_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="1 patients are in more than one part"):
        cross_fitted_context([0, 1, 0], [0.1, 0.2, 0.3], ["a", "b", "b"], [0, 0, 1])


# ---- as JSON ---------------------------------------------------------------------------------------------------------


def test_weights_come_back_from_json_equal() -> None:
    context = Context(-0.1, 1 / 3, 0.7)
    assert Context.from_json(json.loads(json.dumps(context.to_json()))) == context


@pytest.mark.parametrize(
    "values",
    [{}, [], {"intercept": 0, "logit": 1}, {"intercept": 0, "logit": 1, "deviation": float("nan")},
     {"intercept": 0, "logit": True, "deviation": 0}, {"intercept": 0, "logit": "1", "deviation": 0}],
)  # fmt: skip
def test_weights_that_cannot_be_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(DataError, match="a context"):
        Context.from_json(values)


def test_applying_needs_neither_pandas_nor_scikit_learn() -> None:
    code = "import sys, melanoma.evaluation.context; sys.exit(bool({'pandas', 'sklearn', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
