"""Conformal answers keep their promise in each class, on lesions that the thresholds have not seen."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from melanoma.errors import DataError
from melanoma.evaluation.conformal import Conformal, coverage, cross_fitted_answers, fit_conformal

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
    assert list(gap.answer([0.3, 0.5, 0.7])) == ["benign", "refer", "melanoma"]


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_new_lesions_of_each_class_are_covered_as_promised(level: float) -> None:
    held = {True: [], False: []}
    for seed in range(200):
        learned = fit_conformal(*sample(300, seed), level)
        truth, scores = sample(2000, seed + 10_000)
        assert learned is not None
        melanoma, benign = learned.sets(scores)
        held[True].append(melanoma[truth].mean())
        held[False].append(benign[~truth].mean())
    for shares in held.values():
        assert level - 0.005 < np.mean(shares) < level + 0.02  # at least; about 1 / (n + 1) above


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
    for damaged in ({}, {**found.to_json(), "level": None}, {**found.to_json(), "benign_upto": float("nan")}, []):
        with pytest.raises(DataError, match="conformal"):
            Conformal.from_json(damaged)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level"):
        fit_conformal([0, 1], [0.1, 0.2], 1.0)


def test_answering_needs_neither_scikit_learn_nor_pandas() -> None:
    code = (
        "import sys\nfrom melanoma.evaluation.conformal import Conformal\n"
        "from melanoma.evaluation.recalibration import Calibrator, rebased\n"
        "Conformal(0.2, 0.4, 0.9).answer(Calibrator('isotonic', 1.0, (0.1, 0.9), (0.2, 0.8)).apply([0.3]))\n"
        "rebased([0.1], 0.2, 0.02)\n"
        "sys.exit(bool({'sklearn', 'pandas', 'scipy', 'keras', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


RUN = Path(__file__).parents[1] / "docs" / "results" / "cpu-five-folds" / "predictions.csv"


@pytest.mark.skipif(not RUN.exists(), reason="no kept predictions of a real run")
def test_real_out_of_fold_lesions_are_covered_within_four_points() -> None:
    from melanoma.evaluation.recalibration import parts_by_patient

    table = pd.read_csv(RUN)
    part = parts_by_patient(table["patient_id"], 5, 0, table["target"])
    found = coverage(table["target"], table["probability"], part, 0.9)
    assert 0.86 < found["coverage"]["melanoma"] < 0.94
    assert 0.86 < found["coverage"]["benign"] < 0.94
