"""Net benefit against hand-made tables, its identities, and what it does without a class."""

import numpy as np
import pytest
from test_calibration import sample

from melanoma.evaluation.decision import decision_curve, net_benefit, sensible_thresholds, treat_all

TARGET = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
PROBABILITY = [0.9, 0.3, 0.6, 0.3, 0.2, 0.1, 0.1, 0.1, 0.0, 0.0]


def benefit(*args: object, **kwargs: object) -> np.ndarray:
    found = net_benefit(*args, **kwargs)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("threshold", "hits", "false_alarms"),
    [(0.0, 2, 8), (0.1, 2, 6), (0.2, 2, 3), (0.25, 2, 2), (0.3, 2, 2), (0.5, 1, 1), (0.75, 1, 0), (0.95, 0, 0)],
)
def test_net_benefit_is_hits_less_false_alarms_at_their_price(threshold: float, hits: int, false_alarms: int) -> None:
    expected = hits / 10 - false_alarms / 10 * threshold / (1 - threshold)
    assert benefit(TARGET, PROBABILITY, [threshold]) == pytest.approx([expected], abs=1e-12)


def test_treating_all_is_worth_the_prevalence_at_threshold_0_and_nothing_at_the_prevalence() -> None:
    assert treat_all(0.2, [0, 0.2, 0.5]) == pytest.approx([0.2, 0, -0.6], abs=1e-12)
    thresholds = np.linspace(0, 0.9, 10)
    np.testing.assert_allclose(treat_all(0.2, thresholds), benefit(TARGET, np.ones(10), thresholds), atol=1e-12)


def test_every_score_is_worth_the_prevalence_at_threshold_0() -> None:
    target, probability = sample(500, 0)
    assert benefit(target, probability, [0.0]) == pytest.approx([target.mean()])
    assert benefit(target, probability, [0.0], prevalence=0.02) == pytest.approx([0.02])


def test_a_perfect_score_is_worth_the_prevalence_everywhere_and_none_is_worth_more() -> None:
    target, probability = sample(500, 1)
    thresholds = np.linspace(0, 0.99, 50)
    np.testing.assert_allclose(benefit(target, target, thresholds)[1:], target.mean())
    assert (benefit(target, probability, thresholds) <= target.mean() + 1e-12).all()


def test_calibrated_probabilities_are_never_worse_than_treating_all_or_none() -> None:
    target, probability = sample(200_000, 2)
    found = decision_curve(target, {"network": probability}, np.linspace(0, 0.6, 30))
    assert found
    best = np.maximum(found.treat_all, found.treat_none)
    assert (found.net_benefit["network"] >= best - 0.002).all()


def test_another_prevalence_weighs_the_classes_as_repeating_their_rows_would() -> None:
    thresholds = np.linspace(0, 0.95, 20)
    repeated = TARGET[:2] + TARGET[2:] * 6, PROBABILITY[:2] + PROBABILITY[2:] * 6
    weighted = benefit(TARGET, PROBABILITY, thresholds, prevalence=2 / 50)
    np.testing.assert_allclose(weighted, benefit(*repeated, thresholds), atol=1e-12)
    own = benefit(TARGET, PROBABILITY, thresholds, prevalence=0.2)
    np.testing.assert_allclose(own, benefit(TARGET, PROBABILITY, thresholds), atol=1e-12)


def test_a_sample_of_one_class_has_a_net_benefit_but_none_at_another_prevalence() -> None:
    assert benefit([0, 0], [0.1, 0.6], [0.5]) == pytest.approx([-0.5])
    assert benefit([1, 1], [0.1, 0.6], [0.5]) == pytest.approx([0.5])
    assert net_benefit([0, 0], [0.1, 0.6], [0.5], prevalence=0.1) is None
    assert net_benefit([], [], [0.5]) is None
    assert decision_curve([0, 0], {"network": [0.1, 0.6]}, prevalence=0.1) is None
    assert decision_curve([], {"network": []}) is None


def test_a_curve_holds_each_score_and_both_ways_without_one() -> None:
    found = decision_curve(TARGET, {"network": PROBABILITY, "control": [0.2] * 10})
    assert found
    assert list(found.net_benefit) == ["network", "control"]
    assert found.prevalence == 0.2
    np.testing.assert_array_equal(found.net_benefit["network"], benefit(TARGET, PROBABILITY, found.thresholds))
    np.testing.assert_array_equal(found.treat_all, treat_all(0.2, found.thresholds))
    np.testing.assert_array_equal(found.treat_none, np.zeros(201))


@pytest.mark.parametrize(("prevalence", "end"), [(0.0, 0.2), (0.018, 0.2), (0.12, 0.36), (0.5, 0.95), (1.0, 0.95)])
def test_thresholds_end_at_three_times_the_prevalence_or_0_2(prevalence: float, end: float) -> None:
    found = sensible_thresholds(prevalence)
    assert (found[0], found[-1]) == (0, pytest.approx(end))
    assert np.diff(found).max() <= 0.005


def test_impossible_arguments_are_refused() -> None:
    for thresholds in ([1.0], [-0.1], [np.nan], 0.5):
        with pytest.raises(ValueError, match="threshold"):
            net_benefit(TARGET, PROBABILITY, thresholds)
    for prevalence in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="prevalence"):
            net_benefit(TARGET, PROBABILITY, [0.5], prevalence)
        with pytest.raises(ValueError, match="prevalence"):
            treat_all(prevalence, [0.5])
    with pytest.raises(ValueError, match="outside 0 to 1"):
        net_benefit([0, 1], [0.5, 2.0], [0.5])
    with pytest.raises(ValueError, match="one value an image"):
        decision_curve(TARGET, {"network": [0.5]})
