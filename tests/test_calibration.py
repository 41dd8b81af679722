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
    low, high = calibration.wilson_interval(np.array([2.0]), np.array([20]))
    assert (low[0], high[0]) == pytest.approx((0.0279, 0.3010), abs=5e-4)


def test_a_share_of_none_or_all_is_inside_its_own_interval() -> None:
    images = np.arange(1, 200).astype(np.float64)
    for hits in (np.zeros_like(images), images):
        low, high = calibration.wilson_interval(hits, images)
        assert (low <= hits / images).all()
        assert (hits / images <= high).all()


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


# ---- the smoothed curve ----------------------------------------------------------------------------------------------


def bent(rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw targets by honest probabilities, and give those with their logits doubled."""
    target, probability = sample(rows, seed)
    return target, 1 / (1 + np.exp(-2 * logit(probability)))


def honest(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-logit(probability) / 2)))


def test_the_smoothed_curve_follows_the_truth_with_its_interval() -> None:
    found = calibration.smoothed_curve(*bent(30_000, 0))
    assert found is not None
    probability, share, low, high = found
    assert np.abs(share - honest(probability)).max() < 0.03
    assert ((low <= share) & (share <= high)).all()
    assert (np.diff(probability) > 0).all()


def test_the_smoothed_curves_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    inside = []
    for seed in range(40):
        probability, _, low, high = calibration.smoothed_curve(*bent(2000, seed))  # type: ignore[misc]
        inside.append((low <= honest(probability)) & (honest(probability) <= high))
    assert 0.9 < np.mean(inside) < 0.99


def test_the_smoothed_curve_is_numpys_weighted_line_at_each_place() -> None:
    target, probability = sample(500, 4)
    at = logit(probability)
    found = calibration.smoothed_curve(target, probability, points=9)
    assert found is not None
    width = 1.06 * np.subtract(*np.quantile(at, [0.75, 0.25])) / 1.349 * 500**-0.2
    for place, share in zip(logit(found[0]), found[1], strict=True):
        wide = max(width, np.sort(np.abs(at - place))[19])
        weight = np.exp(-(((at - place) / wide) ** 2) / 2)
        line = np.polyfit(at - place, target, 1, w=np.sqrt(weight))
        assert share == pytest.approx(np.clip(line[1], 0, 1), abs=1e-9)


def test_a_gap_in_the_scores_and_certainties_leave_the_curve_finite() -> None:
    random = np.random.default_rng(5)
    middle = 1 / (1 + np.exp(1 + random.normal(0, 0.1, 2000)))  # so narrow that from the ends its weight is exactly 0
    certain = np.concatenate([np.zeros(300), middle, np.ones(300)])
    truth = np.concatenate([np.arange(300) < 30, random.random(2000) < middle, np.arange(300) < 240])
    found = calibration.smoothed_curve(truth, certain)
    assert found is not None
    assert all(np.isfinite(values).all() for values in found)
    assert (found[1][0], found[1][-1]) == pytest.approx((0.1, 0.8), abs=0.02)


def test_many_equal_scores_are_no_reason_to_draw_no_curve() -> None:
    target, probability = sample(1000, 6)
    assert calibration.smoothed_curve(target, np.where(np.arange(1000) < 700, 0.2, probability)) is not None


@pytest.mark.parametrize("probability", [[0.3] * 100, np.linspace(0, 1, 19), []])
def test_equal_or_too_few_scores_have_no_smoothed_curve(probability: list[float]) -> None:
    assert calibration.smoothed_curve(np.arange(len(probability)) % 2, probability) is None


def test_one_class_alone_has_a_flat_curve() -> None:
    for only in (0, 1):
        found = calibration.smoothed_curve([only] * 100, np.linspace(0.1, 0.9, 100))
        assert found is not None
        np.testing.assert_allclose(found[1], only, atol=1e-9)
