"""Two runs compared on the same patients, and several made one submission, from files alone."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma.compare import blend_runs, blend_summary, compare_runs, noise_of, summary, verdict
from melanoma.config import Settings
from melanoma.errors import DataError, MelanomaError, UsageError
from melanoma.evaluation.intervals import delong_difference
from melanoma.evaluation.metrics import auc
from melanoma.runs import Run, create_run


def made_run(runs: Path, name: str, skill: float, seed: int, test_names: int = 40) -> Run:
    """Write the predictions of a run whose score holds `skill` of the target's signal, and as much of its own noise."""
    random, own = np.random.default_rng(0), np.random.default_rng(seed)
    target = (np.arange(600) % 5 == 0).astype(int)
    logit = skill * target + random.normal(size=600) + own.normal(size=600) - 2
    run = create_run(runs, name, Settings())
    table = pd.DataFrame(
        {
            "image_name": [f"I{row}" for row in range(600)],
            "patient_id": [f"P{row // 2}" for row in range(600)],
            "fold": np.arange(600) // 2 % 3,
            "target": target,
            "probability": 1 / (1 + np.exp(-logit)),
        }
    )
    table.to_csv(run.predictions, index=False)
    names = [f"T{row}" for row in range(test_names)]
    pd.DataFrame({"image_name": names, "patient_id": names, "probability": own.random(test_names)}).to_csv(
        run.test_predictions, index=False
    )
    return run


def test_a_better_run_is_told_from_a_worse_one_with_paired_intervals(tmp_path: Path) -> None:
    better, worse = made_run(tmp_path, "better", 3, 1), made_run(tmp_path, "worse", 1, 2)
    found = compare_runs(better.folder, worse.folder, samples=300)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    tables = [pd.read_csv(run.predictions) for run in (better, worse)]
    area = found["measures"][0]
    assert area["name"] == "auc"
    assert area["first"] == pytest.approx(auc(tables[0]["target"], tables[0]["probability"]))
    assert area["difference"]["value"] == pytest.approx(area["first"] - area["second"])
    assert area["difference"]["low"] > 0
    test = delong_difference(tables[0]["target"], *(table["probability"] for table in tables))
    assert test is not None
    assert found["delong"]["p_value"] == pytest.approx(test.p_value)
    assert verdict(found).startswith("better ranks these images better than worse")
    assert "AUC" in summary(found)
    turned = compare_runs(worse.folder, better.folder, samples=300)
    assert turned["measures"][0]["difference"]["high"] == pytest.approx(-area["difference"]["low"])


def test_a_run_is_not_told_from_itself(tmp_path: Path) -> None:
    run = made_run(tmp_path, "one", 2, 1)
    copy = tmp_path / "copy.csv"
    copy.write_text(run.predictions.read_text())
    found = compare_runs(run.folder, copy, samples=100)
    assert {one["difference"]["value"] for one in found["measures"]} == {0.0}
    assert found["delong"]["p_value"] is None
    assert "cannot be told apart" in verdict(found)


def test_runs_of_other_data_are_refused_by_name(tmp_path: Path) -> None:
    one, other = made_run(tmp_path, "one", 2, 1), made_run(tmp_path, "other", 2, 2)
    table = pd.read_csv(other.predictions)
    table.assign(target=1 - table["target"]).to_csv(other.predictions, index=False)
    with pytest.raises(DataError, match="I0"):
        compare_runs(one.folder, other.folder)
    table.assign(image_name="X" + table["image_name"]).to_csv(other.predictions, index=False)
    with pytest.raises(DataError, match="no image"):
        compare_runs(one.folder, other.folder)
    other.predictions.unlink()
    with pytest.raises(MelanomaError, match="resume"):
        compare_runs(one.folder, other.folder)


def test_a_blend_is_chosen_out_of_fold_and_written_as_a_submission(tmp_path: Path) -> None:
    runs = [made_run(tmp_path, f"run-{seed}", 2, seed) for seed in (1, 2, 3)]
    found = blend_runs([run.folder for run in runs], tmp_path / "submission.csv")
    written = pd.read_csv(tmp_path / "submission.csv")
    assert list(written["image_name"]) == [f"T{row}" for row in range(40)]
    assert written["target"].between(0, 1).all()
    areas = [one["auc"] for one in found["candidates"]]
    assert areas == sorted(areas, reverse=True)
    alone = [one["auc"] for one in found["candidates"] if len(one["runs"]) == 1]
    assert found["chosen"]["auc"] >= max(alone)
    assert len(found["chosen"]["runs"]) > 1  # independent noise averages out
    assert json.loads((tmp_path / "submission.json").read_text()) == found
    assert "chosen" in blend_summary(found)
    tests = np.stack([pd.read_csv(run.test_predictions)["probability"] for run in runs])
    if found["chosen"]["blend"] == "mean" and len(found["chosen"]["runs"]) == 3:
        np.testing.assert_allclose(written["target"], tests.mean(0), rtol=1e-6)


def test_runs_with_other_test_tables_are_not_blended_and_nothing_is_written(tmp_path: Path) -> None:
    one, other = made_run(tmp_path, "one", 2, 1), made_run(tmp_path, "other", 2, 2, test_names=30)
    with pytest.raises(DataError, match="different test tables"):
        blend_runs([one.folder, other.folder], tmp_path / "submission.csv")
    with pytest.raises(UsageError, match="named twice"):
        blend_runs([one.folder, one.folder], tmp_path / "submission.csv")
    with pytest.raises(UsageError, match="two runs"):
        blend_runs([one.folder], tmp_path / "submission.csv")
    assert not (tmp_path / "submission.csv").exists()


def test_the_noise_of_a_leaderboard_shrinks_with_its_melanomas() -> None:
    random = np.random.default_rng(0)
    target = random.random(20_000) < 0.018
    noise = noise_of(target, random.normal(size=20_000) + 2 * target, 10_982)
    assert noise["public"]["images"] + noise["private"]["images"] == 10_982
    assert 40 < noise["public"]["melanomas"] < 80
    assert noise["private"]["standard_deviation"] < noise["public"]["standard_deviation"]
    assert noise_of([0, 0], [0.1, 0.2], 100)["public"]["standard_deviation"] is None
