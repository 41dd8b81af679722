"""Conformal answers keep their promise in each class, on lesions that the thresholds have not seen."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from melanoma.errors import DataError
from melanoma.evaluation.conformal import Conformal, coverage, cross_fitted_answers, fit_conformal
from melanoma.evaluation.recalibration import fit_isotonic, parts_by_patient

Sample = tuple[NDArray[np.bool_], NDArray[np.float64]]


def sample(rows: int, seed: int, share: float = 0.2) -> Sample:
    random = np.random.default_rng(seed)
    target = random.random(rows) < share
    return target, 1 / (1 + np.exp(2 - 1.5 * target - random.normal(size=rows)))


def test_thresholds_of_a_hand_made_table() -> None:
    # nine melanomas: ceil(10 x 0.8) = 8 of them must be inside, so the second lowest score is the edge
    melanoma, benign = np.arange(1, 10) / 10, np.arange(1, 10) / 20
    found = fit_conformal(np.repeat([1, 0], 9), np.concatenate([melanoma, benign]), 0.8)
    assert found == Conformal(0.2, 0.4, 0.8)
    assert found is not None
    assert list(found.answer([0.1, 0.2, 0.3, 0.4, 0.5])) == ["benign", "refer", "refer", "refer", "melanoma"]


def test_a_score_that_speaks_against_both_is_referred() -> None:
    gap = Conformal(melanoma_from=0.6, benign_upto=0.4, level=0.9)
    assert list(gap.answer([0.3, 0.5, 0.7, np.nan])) == ["benign", "refer", "melanoma", "refer"]


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_new_lesions_of_each_class_are_covered_as_promised(level: float) -> None:
    held: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(200):
        learned = fit_conformal(*sample(1000, seed), level)
        truth, scores = sample(2000, seed + 10_000)
        assert learned is not None
        melanoma, benign = learned.sets(scores)
        held[True].append(melanoma[truth].mean())
        held[False].append(benign[~truth].mean())
    for shares in held.values():
        assert np.mean(shares) == pytest.approx(level, abs=0.01)


def test_cross_fitted_coverage_is_near_the_level_in_both_classes() -> None:
    truth, scores = sample(3000, 5)
    part = np.arange(3000) % 5
    found = coverage(truth, scores, part, 0.9)
    assert found["coverage"]["melanoma"] == pytest.approx(0.9, abs=0.02)
    assert found["coverage"]["benign"] == pytest.approx(0.9, abs=0.02)
    said = cross_fitted_answers(truth, scores, part, 0.9)
    assert found["refer_share"] == pytest.approx((said == "refer").mean())
    assert sum(found["answers"]["melanoma"].values()) == pytest.approx(1)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_interval_of_the_coverage_is_scipys_and_single_parts_lie_about_it() -> None:
    truth, scores = sample(3000, 5)
    found = coverage(truth, scores, np.arange(3000) % 5, 0.9)
    for name, images in (("melanoma", truth.sum()), ("benign", (~truth).sum())):
        interval, parts = found["interval"][name], found["single_parts"][name]
        theirs = binomtest(round(found["coverage"][name] * images), images).proportion_ci(0.95, "wilson")
        assert (interval["low"], interval["high"]) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
        assert interval["images"] == images
        assert parts["lowest"] <= found["coverage"][name] <= parts["highest"]


def test_referred_for_both_and_for_neither_are_told_apart() -> None:
    part = np.arange(4000) % 4
    truth, scores = sample(4000, 8)
    hard = coverage(truth, scores, part, 0.9)["shares"]
    assert hard["refer_both"] > 0.2
    assert hard["refer_neither"] == 0
    easy = coverage(truth, np.where(truth, 0.5, 0) + scores / 2, part, 0.9)["shares"]
    assert easy["refer_neither"] > 0.05
    assert easy["refer_both"] == 0
    for shares in (hard, easy):
        assert sum(shares.values()) == pytest.approx(1)


def test_a_class_that_is_always_referred_has_no_rate_but_a_reason() -> None:
    found = coverage([1] * 40 + [0] * 40, [0.5] * 80, np.arange(80) % 4)
    assert found["refer_share"] == 1
    none = {"sensitivity": None, "specificity": None, "reason": "all melanomas and benign images are referred"}
    assert found["among_answered"] == none


def test_the_coverage_of_all_parts_together_is_near_the_level_even_for_noise() -> None:
    random, part = np.random.default_rng(3), np.arange(2000) % 5
    truth = np.arange(2000) < 500
    pooled, single = [], []
    for _ in range(50):
        found = coverage(truth, random.random(2000), part, 0.9)
        pooled.append(found["coverage"]["melanoma"])
        single.append(found["single_parts"]["melanoma"]["lowest"])
    independent = (0.9 * 0.1 / 500) ** 0.5
    assert np.std(pooled) < independent / 2  # so it proves little of a network
    assert np.mean(single) < 0.9 - 1.5 * independent


def test_probabilities_of_exactly_zero_and_one_are_answered() -> None:
    truth = np.repeat([1, 0], 100)
    scores = np.concatenate([np.ones(96), np.zeros(4), np.zeros(96), np.ones(4)])
    found = fit_conformal(truth, scores, 0.9)
    assert found == Conformal(1.0, 0.0, 0.9)
    assert found is not None
    assert list(found.answer([0.0, 0.5, 1.0])) == ["benign", "refer", "melanoma"]


def test_a_row_without_a_part_is_refused() -> None:
    for ask in (coverage, cross_fitted_answers):
        with pytest.raises(ValueError, match="one value an image"):
            ask([0, 1], [0.1, 0.2], [0])


def test_labels_of_a_part_do_not_reach_its_own_answers() -> None:
    truth, scores = sample(500, 6)
    part = np.arange(500) % 5
    turned = np.where(part == 2, ~truth, truth)
    before, after = (cross_fitted_answers(labels, scores, part, 0.9) for labels in (truth, turned))
    assert (before[part == 2] == after[part == 2]).all()
    assert (before[part != 2] != after[part != 2]).any()


def test_ties_are_all_inside_or_all_outside() -> None:
    found = fit_conformal([1] * 20 + [0] * 20, [0.5] * 40, 0.9)
    assert found is not None
    assert set(found.answer([0.5])) == {"refer"}


@pytest.mark.parametrize("target", [[1] * 30, [0] * 30, [1] + [0] * 29, []])
def test_too_few_of_a_class_give_no_thresholds_and_the_reason(target: list[int]) -> None:
    scores, part = np.linspace(0, 1, len(target)), np.arange(len(target)) % 3
    assert fit_conformal(target, scores) is None
    found = coverage(target, scores, part)
    assert found["reason"]
    assert found["coverage"] == {"melanoma": None, "benign": None}
    assert set(cross_fitted_answers(target, scores, part)) <= {"refer"}


def test_saved_thresholds_come_back_equal_and_damaged_ones_are_refused() -> None:
    found = fit_conformal(*sample(200, 1))
    assert found is not None
    assert Conformal.from_json(json.loads(json.dumps(found.to_json()))) == found
    damages = ({"level": None}, {"level": 1}, {"level": True}, {"benign_upto": float("nan")}, {"benign_upto": 10**400})
    for damaged in ({}, [], None, *({**found.to_json(), **damage} for damage in damages)):
        with pytest.raises(DataError, match="conformal"):
            Conformal.from_json(damaged)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level"):
        fit_conformal([0, 1], [0.1, 0.2], 1.0)


def test_answering_needs_neither_scikit_learn_nor_pandas(tmp_path: Path) -> None:
    truth, scores = sample(500, 1)
    saved = {"calibrator": fit_isotonic(truth, scores).to_json(), "conformal": fit_conformal(truth, scores).to_json()}  # type: ignore[union-attr]
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(saved))
    code = (
        "import json, pathlib, sys\n"
        "from melanoma.evaluation.conformal import Conformal\n"
        "from melanoma.evaluation.recalibration import Calibrator, rebased\n"
        "saved = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        "calibrator = Calibrator.from_json(saved['calibrator'])\n"
        "Conformal.from_json(saved['conformal']).answer([0.1, 0.3])\n"
        "rebased(calibrator.apply([0.1, 0.3]), 0.2, 0.02)\n"
        "print(*sorted({'sklearn', 'pandas', 'scipy', 'keras', 'torch'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == ""


RUN = Path(__file__).parents[1] / "docs" / "results" / "cpu-five-folds" / "predictions.csv"


@pytest.mark.skipif(not RUN.exists(), reason="no kept predictions of a real run")
def test_real_out_of_fold_lesions_are_covered_within_four_points() -> None:
    table = pd.read_csv(RUN)
    part = parts_by_patient(table["patient_id"], 5, 0, table["target"])
    found = coverage(table["target"], table["probability"], part, 0.9)
    for name in ("melanoma", "benign"):
        assert 0.86 < found["coverage"][name] < 0.94
        assert found["single_parts"][name]["lowest"] > 0.86
        assert found["single_parts"][name]["highest"] < 0.94


@pytest.mark.skipif(not RUN.exists(), reason="no kept predictions of a real run")
def test_thresholds_of_half_the_real_patients_hold_for_the_other_half() -> None:
    table = pd.read_csv(RUN)
    truth, scores = table["target"].to_numpy(bool), table["probability"].to_numpy()
    held = []
    for seed in range(20):
        learning = parts_by_patient(table["patient_id"], 2, seed, truth) == 0
        learned = fit_conformal(truth[learning], scores[learning], 0.9)
        assert learned is not None
        melanoma, benign = learned.sets(scores)
        held.append([melanoma[truth & ~learning].mean(), benign[~truth & ~learning].mean()])
    np.testing.assert_allclose(np.mean(held, axis=0), 0.9, atol=0.015)
