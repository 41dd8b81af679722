"""Mended probabilities: what was bent is found, other patients decide, and plain numbers carry it."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss as reference_log_loss

from melanoma.errors import DataError
from melanoma.evaluation.calibration import smoothed_curve
from melanoma.evaluation.metrics import auc
from melanoma.evaluation.recalibration import (
    FITS,
    Calibrator,
    choose_method,
    cross_fitted,
    fit_isotonic,
    fit_temperature,
    log_loss,
    parts_by_patient,
    rebased,
)

Sample = tuple[NDArray[np.bool_], NDArray[np.float64]]


def bent(rows: int, factor: float, seed: int = 0) -> Sample:
    """Draw targets by honest probabilities, and give those with their logits multiplied."""
    random = np.random.default_rng(seed)
    logit = random.normal(-1.5, 1.5, rows)
    target = random.random(rows) < 1 / (1 + np.exp(-logit))
    return target, 1 / (1 + np.exp(-factor * logit))


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_of_bent_probabilities_is_found(factor: float) -> None:
    found = fit_temperature(*bent(40_000, factor))
    assert found.temperature == pytest.approx(factor, rel=0.04)
    truth, scores = bent(20_000, factor, 1)
    assert log_loss(truth, found.apply(scores)) <= log_loss(truth, scores) + 1e-4  # type: ignore[operator]
    assert auc(truth, found.apply(scores)) == pytest.approx(auc(truth, scores), abs=1e-6)  # equal but for rounding


def test_isotonic_is_scikit_learns_but_for_certainties() -> None:
    truth, scores = bent(3000, 2)
    ours = fit_isotonic(truth, scores).apply(scores)
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, truth).predict(scores)
    inside = (theirs > 0) & (theirs < 1)
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-9)
    assert ours.min() > 0
    assert ours.max() < 1
    assert (np.diff(ours[np.argsort(scores)]) >= -1e-12).all()
    outside = fit_isotonic(truth, scores).apply([0.0, 1.0])
    assert 0 < outside[0] <= ours.min() < ours.max() <= outside[1] < 1


@pytest.mark.parametrize("fit", FITS.values(), ids=list(FITS))
def test_labels_of_a_part_do_not_reach_its_own_probabilities(fit: object) -> None:
    truth, scores = bent(600, 2)
    part = np.arange(600) % 4
    turned = np.where(part == 1, ~truth, truth)
    before, after = (cross_fitted(labels, scores, part, fit) for labels in (truth, turned))  # type: ignore[arg-type]
    np.testing.assert_array_equal(before[part == 1], after[part == 1])
    assert (before[part != 1] != after[part != 1]).any()


def test_the_method_with_the_lowest_loss_on_other_patients_is_chosen() -> None:
    method, figures = choose_method(*bent(20_000, 3), np.arange(20_000) % 5)
    assert method == "temperature"
    assert set(figures) == {"none", "temperature", "isotonic"}
    assert figures["temperature"]["slope"] == pytest.approx(1, abs=0.05)
    assert figures["none"]["slope"] == pytest.approx(1 / 3, abs=0.05)
    method, _ = choose_method(*bent(20_000, 1), np.arange(20_000) % 5)
    assert method in ("none", "temperature")
    truth, scores = bent(20_000, 1)
    assert choose_method(truth, scores**3, np.arange(20_000) % 5)[0] == "isotonic"  # no temperature undoes that


@pytest.mark.parametrize("target", [[0, 0, 0, 0], [1, 1, 1, 1], []])
def test_an_absent_class_leaves_probabilities_as_they_are(target: list[int]) -> None:
    scores = np.linspace(0, 1, len(target))
    for fit in FITS.values():
        np.testing.assert_array_equal(fit(target, scores).apply(scores), scores)
    method, figures = choose_method(target, scores, np.arange(len(target)) % 2)
    assert method == "none"
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_log_loss_is_scikit_learns() -> None:
    truth, scores = bent(500, 1)
    assert log_loss(truth, scores) == pytest.approx(reference_log_loss(truth, scores))
    assert log_loss([], []) is None
    certain = log_loss([1, 0], [0.0, 1.0])
    assert certain is not None
    assert np.isfinite(certain)


def test_another_prevalence_of_a_hand_made_table_and_back() -> None:
    # odds 1:1 at a prevalence of one half are 1:9 where one lesion in ten is a melanoma
    assert rebased([0.5], 0.5, 0.1)[0] == pytest.approx(0.1)
    assert rebased([0.2, 0.2], 0.2, 0.2).tolist() == [0.2, 0.2]
    given = np.linspace(0, 1, 11)
    np.testing.assert_allclose(rebased(rebased(given, 0.2, 0.01), 0.01, 0.2), given, atol=1e-12)
    with pytest.raises(ValueError, match="prevalence"):
        rebased([0.1], 0.0, 0.2)


def test_rebased_probabilities_are_right_in_the_other_population() -> None:
    truth, scores = bent(200_000, 1)
    keep = truth | (np.random.default_rng(1).random(len(truth)) < 0.2)  # melanomas become frequent
    moved = rebased(scores[keep], float(truth.mean()), float(truth[keep].mean()))
    assert moved.mean() == pytest.approx(truth[keep].mean(), rel=0.02)


def test_no_patient_is_in_two_parts_and_melanomas_are_spread() -> None:
    random = np.random.default_rng(2)
    patient, target = random.integers(300, size=2000), random.random(2000) < 0.02
    part = parts_by_patient(patient, 5, 0, target)
    assert all(len(set(part[patient == one])) == 1 for one in set(patient))
    ill = [len(set(patient[(part == one) & target])) for one in range(5)]
    assert max(ill) - min(ill) <= 1
    np.testing.assert_array_equal(part, parts_by_patient(patient, 5, 0, target))
    assert parts_by_patient(["a", "b", "a"], 5).shape == (3,)


@pytest.mark.parametrize("name", ["none", "temperature", "isotonic"])
def test_a_saved_calibrator_answers_bit_for_bit_the_same(name: str) -> None:
    truth, scores = bent(800, 2)
    found = FITS[name](truth, scores) if name in FITS else Calibrator()
    back = Calibrator.from_json(json.loads(json.dumps(found.to_json())))
    assert back == found
    np.testing.assert_array_equal(back.apply(scores), found.apply(scores))


@pytest.mark.parametrize(
    "damage",
    [
        {"method": "magic"},
        {"temperature": 0},
        {"temperature": float("nan")},
        {"temperature": True},
        {"knots": [0.2, 0.1], "values": [0.1, 0.2]},
        {"knots": [0.1], "values": []},
        {"knots": "ab", "values": [0.1]},
        {"knots": [0.1, 2.0], "values": [0.1, 0.2]},
        {"method": "isotonic"},
        {"extra": 1},
    ],
)
def test_a_damaged_calibrator_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(DataError, match="calibrator"):
        Calibrator.from_json(Calibrator().to_json() | damage)


def test_the_smoothed_curve_follows_the_truth_with_its_interval() -> None:
    truth, scores = bent(30_000, 2)
    found = smoothed_curve(truth, scores)
    assert found is not None
    probability, share, low, high = found
    honest = 1 / (1 + np.exp(-np.log(probability / (1 - probability)) / 2))
    assert np.abs(share - honest).max() < 0.03
    assert ((low <= share) & (share <= high)).all()
    assert (np.diff(probability) > 0).all()
    assert smoothed_curve(truth[:10], scores[:10]) is None
    assert smoothed_curve(truth, np.full(30_000, 0.3)) is None
