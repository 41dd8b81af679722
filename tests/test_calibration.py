"""Calibration against hand-made tables, scikit-learn, and probabilities whose distortion is known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from melanoma.evaluation import calibration


def sample(rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    logit = random.normal(-1, 1.5, rows)
    probability = 1 / (1 + np.exp(-logit))
    return (random.random(rows) < probability).astype(np.int64), probability


def logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(probability / (1 - probability)))


def test_brier_score_equals_scikit_learns_and_a_hand_made_one() -> None:
    assert calibration.brier([1, 0, 0], [0.8, 0.1, 0.5]) == pytest.approx((0.04 + 0.01 + 0.25) / 3)
    target, probability = sample(200, 0)
    assert calibration.brier(target, probability) == pytest.approx(brier_score_loss(target, probability))


def test_bins_hold_equal_numbers_in_the_order_of_probability() -> None:
    target, probability = sample(300, 1)
    found = calibration.reliability(target, probability)
    assert found.images.tolist() == [20] * 15
    order = np.argsort(probability)
    np.testing.assert_allclose(found.probability, probability[order].reshape(15, 20).mean(1))
    np.testing.assert_allclose(found.melanomas, target[order].reshape(15, 20).mean(1))
    assert (found.low <= found.melanomas).all()
    assert (found.melanomas <= found.high).all()


def test_equal_probabilities_share_a_bin_whatever_the_order_of_the_rows() -> None:
    target, probability = np.array([0, 0, 0, 1, 1, 1]), np.array([0.2, 0.2, 0.2, 0.2, 0.9, 0.9])
    found = calibration.reliability(target, probability, bins=3)
    assert found.images.tolist() == [4, 2]
    assert found.melanomas.tolist() == [0.25, 1.0]
    turned = calibration.reliability(target[::-1], probability[::-1], bins=3)
    np.testing.assert_array_equal(found.melanomas, turned.melanomas)


def test_expected_calibration_error_of_a_hand_made_table() -> None:
    target, probability = [0, 0, 1, 1, 1, 0], [0.1, 0.2, 0.3, 0.6, 0.7, 0.8]
    # Two bins of three: |0.2 - 1/3| and |0.7 - 2/3|.
    expected = (0.4 / 3 + 0.1 / 3) / 2
    assert calibration.expected_calibration_error(target, probability, bins=2) == pytest.approx(expected)
    assert calibration.expected_calibration_error([1, 0, 1], [1.0, 0.0, 1.0]) == pytest.approx(0)


def test_wilson_interval_equals_the_published_example() -> None:
    # 2 of 20: 0.0279 to 0.3010 (Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E)
    low, high = calibration._wilson(np.array([2.0]), np.array([20]))
    assert (low[0], high[0]) == pytest.approx((0.0279, 0.3010), abs=5e-4)


def test_slope_and_intercept_equal_scikit_learns() -> None:
    target, probability = sample(400, 2)
    model = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(logit(probability)[:, None], target)
    found = calibration.logistic_calibration(target, probability)
    assert found is not None
    assert (found.slope, found.intercept) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), abs=1e-5)


def test_a_known_distortion_is_undone_exactly() -> None:
    target, probability = sample(2000, 3)
    right = calibration.logistic_calibration(target, probability)
    bent = calibration.logistic_calibration(target, 1 / (1 + np.exp(-(0.5 * logit(probability) + 1))))
    assert right and bent
    assert bent.slope == pytest.approx(2 * right.slope)
    assert bent.intercept == pytest.approx(right.intercept - 2 * right.slope)
    shifted = calibration.logistic_calibration(target, 1 / (1 + np.exp(-(logit(probability) + 1))))
    assert shifted is not None
    assert shifted.in_the_large == pytest.approx(right.in_the_large - 1)
    assert (right.slope, right.in_the_large) == pytest.approx((1, 0), abs=0.2)


def test_probabilities_of_exactly_zero_and_one_can_be_judged() -> None:
    found = calibration.logistic_calibration([0, 0, 1, 0, 1, 1], [0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    assert found is not None
    assert np.isfinite([found.slope, found.intercept, found.in_the_large]).all()


@pytest.mark.parametrize(
    ("target", "probability"),
    [
        ([0, 0, 0], [0.1, 0.2, 0.3]),
        ([1, 1], [0.1, 0.2]),
        ([], []),
        ([0, 1, 0, 1], [0.3] * 4),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),
        ([1, 1, 0, 0], [0.1, 0.2, 0.2, 0.9]),
    ],
)
def test_a_fit_without_a_finite_answer_is_none(target: list[int], probability: list[float]) -> None:
    assert calibration.logistic_calibration(target, probability) is None


def test_no_rows_have_no_score_and_a_probability_above_one_is_refused() -> None:
    assert calibration.brier([], []) is None
    assert calibration.expected_calibration_error([], []) is None
    with pytest.raises(ValueError, match="outside 0 to 1"):
        calibration.brier([0, 1], [0.5, 1.2])
