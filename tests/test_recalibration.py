"""Mended probabilities: what was bent is found, other patients decide, and plain numbers carry it."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss as reference_log_loss

from melanoma.errors import DataError
from melanoma.evaluation import calibration, recalibration
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


@pytest.mark.parametrize("factor", [0.7, 2.0])
def test_the_temperature_is_the_minimum_that_scipy_finds(factor: float) -> None:
    truth, scores = bent(2000, factor)
    logit = np.log(scores / (1 - scores))
    best = minimize_scalar(
        lambda heat: reference_log_loss(truth, 1 / (1 + np.exp(-logit / heat))),
        bounds=(0.05, 20),
        options={"xatol": 1e-9},
    )
    assert fit_temperature(truth, scores).temperature == pytest.approx(best.x, rel=1e-5)


def test_classes_that_a_threshold_separates_reach_the_end_of_the_range() -> None:
    assert fit_temperature([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]).temperature == pytest.approx(0.05)
    assert fit_temperature([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]).temperature == pytest.approx(20)


def test_isotonic_steps_of_a_hand_made_table() -> None:
    # 0.2 and 0.3 stand the wrong way round and share a half; 0 and 1 go inside by half of 1 + 1 images
    found = fit_isotonic([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4])
    assert (found.knots, found.values) == ((0.1, 0.2, 0.3, 0.4), (0.25, 0.5, 0.5, 0.75))
    np.testing.assert_allclose(found.apply([0.0, 0.15, 0.25, 1.0]), [0.25, 0.375, 0.5, 0.75])


@pytest.mark.parametrize("fit", FITS.values(), ids=list(FITS))
def test_any_shape_is_kept_in_range_and_in_order(fit: Callable[..., Calibrator]) -> None:
    found = fit(*bent(3000, 2))
    ladder = np.linspace(0, 1, 200_001)
    assert (np.diff(found.apply(ladder)) >= 0).all()
    assert (found.apply(ladder) >= 0).all()
    assert (found.apply(ladder) <= 1).all()
    assert found.apply(0.3).shape == ()
    assert found.apply(np.zeros((2, 0, 3))).shape == (2, 0, 3)
    np.testing.assert_array_equal(found.apply([[0.1, 0.2], [0.3, 0.4]]).ravel(), found.apply([0.1, 0.2, 0.3, 0.4]))


@pytest.mark.parametrize("fit", FITS.values(), ids=list(FITS))
def test_probabilities_of_exactly_zero_and_one_are_mended_to_a_finite_loss(fit: Callable[..., Calibrator]) -> None:
    truth, scores = np.array([0, 0, 1, 0, 1, 1, 0, 1]), np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    after, before = log_loss(truth, fit(truth, scores).apply(scores)), log_loss(truth, scores)
    assert after is not None
    assert before is not None
    assert after < before / 4
    assert after == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), abs=0.02)  # three of four are right


@pytest.mark.parametrize("wrong", [1.2, -0.1, float("nan")])
def test_what_is_no_probability_is_refused_everywhere(wrong: float) -> None:
    for ask in (*FITS.values(), log_loss):
        with pytest.raises(ValueError, match=r"outside 0 to 1|NaN"):
            ask([0, 1], [0.5, wrong])
    for method in (Calibrator(), Calibrator("temperature", 2.0), Calibrator("isotonic", 1.0, (0.1,), (0.2,))):
        with pytest.raises(ValueError, match="outside 0 to 1"):
            method.apply([0.5, wrong])
    with pytest.raises(ValueError, match="outside 0 to 1"):
        rebased([wrong], 0.2, 0.1)


def test_certainties_are_kept_off_as_far_as_in_calibration() -> None:
    assert recalibration.logit is calibration.logit


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


def test_each_part_is_mended_by_what_the_others_teach() -> None:
    truth, scores = bent(500, 2)
    part = np.arange(500) % 3
    found = cross_fitted(truth, scores, part, fit_temperature)
    by_hand = fit_temperature(truth[part != 2], scores[part != 2]).apply(scores[part == 2])
    np.testing.assert_array_equal(found[part == 2], by_hand)
    np.testing.assert_array_equal(cross_fitted(truth, scores, part.tolist(), fit_temperature), found)
    np.testing.assert_array_equal(cross_fitted(truth, scores, np.zeros(500), fit_temperature), scores)
    with pytest.raises(ValueError, match="one value an image"):
        cross_fitted(truth, scores, part[1:], fit_temperature)


def test_a_single_melanoma_leaves_its_own_part_as_it_is() -> None:
    truth, scores, part = np.arange(40) == 3, np.linspace(0.01, 0.9, 40), np.arange(40) % 4
    found = cross_fitted(truth, scores, part, fit_temperature)
    np.testing.assert_array_equal(found[part == 3], scores[part == 3])
    method, figures = choose_method(truth, scores, part)
    assert method in figures
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


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
    # from 1:4 to 1:49 odds shrink by 4 / 49: 1:1 to 4:49, 4:1 to 16:49, and certainties stay
    table = rebased([[0.0, 0.5], [0.8, 1.0]], 0.2, 0.02)
    np.testing.assert_allclose(table, [[0, 4 / 53], [16 / 65, 1]], rtol=1e-12)
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
    patients = [len(set(patient[part == one])) for one in range(5)]
    assert max(patients) - min(patients) <= 1
    assert (part != parts_by_patient(patient, 5, 1, target)).any()
    assert parts_by_patient(["a", "b", "a"], 5).shape == (3,)
    assert parts_by_patient([], 5).shape == (0,)
    with pytest.raises(ValueError, match="one part"):
        parts_by_patient(["a"], 0)


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
        {"temperature": 1e-320},
        {"temperature": 10**400},
        {"temperature": "1"},
        {"method": None},
        {"method": ["isotonic"]},
        {"method": "isotonic", "knots": [0.1, 0.2], "values": [0.3, 0.2]},
        {"knots": [[0.1]], "values": [0.1]},
        {"knots": None},
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


@pytest.mark.parametrize("values", [None, [], "none", 3, {}, {"method": "none"}])
def test_what_is_no_calibrator_at_all_is_refused(values: object) -> None:
    with pytest.raises(DataError, match="calibrator"):
        Calibrator.from_json(values)  # type: ignore[arg-type]
