"""Anybody's held-out predictions become evidence, or are refused with the reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melanoma.config import Settings, load_settings
from melanoma.data.synthetic import make_dataset
from melanoma.errors import DataError
from melanoma.evaluation.answers import learn_answers, operating_points
from melanoma.evaluation.conformal import Conformal
from melanoma.evaluation.metrics import at_threshold, auc
from melanoma.evaluation.recalibration import Calibrator
from melanoma.judge import _limits, judge_file, read_predictions
from melanoma.runs import Run

SETTINGS = load_settings("demo", ["evaluate.bootstrap_samples=100"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "data"
    make_dataset(folder, images=400, test_images=20)
    return folder


@pytest.fixture(scope="module")
def predictions(data: Path) -> Path:
    table = pd.read_csv(data / "train.csv")
    logit = 2 * table["target"] + np.random.default_rng(0).normal(size=len(table)) - 2
    path = data.parent / "predictions.csv"
    table[["image_name"]].assign(probability=1 / (1 + np.exp(-logit))).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def judged(data: Path, predictions: Path) -> Run:
    return judge_file(predictions, data, predictions.parent / "report", SETTINGS, command="melanoma evaluate")


def test_a_csv_gets_metrics_figures_and_a_page(judged: Run, data: Path, predictions: Path) -> None:
    found = json.loads(judged.metrics.read_text())
    table = pd.read_csv(data / "train.csv").merge(pd.read_csv(predictions), on="image_name")
    pairs = pd.read_csv(next(data.glob("*uplicate*.csv"))) if list(data.glob("*uplicate*.csv")) else None
    assert found["scope"] == "given"
    assert found["images"] == len(table) - (len(pairs) if pairs is not None else 0)
    assert found["auc"]["value"] == pytest.approx(auc(table["target"], table["probability"]), abs=0.01)
    assert found["controls"][0]["name"] == "age, sex and site"
    assert found["subgroups"]
    text = judged.report.read_text()
    assert "this page cannot tell" in text
    assert (judged.figures / "decision.png").is_file()
    assert not judged.card.exists()  # nobody knows the model


def test_the_target_of_a_submission_is_its_probability(data: Path, predictions: Path, tmp_path: Path) -> None:
    pd.read_csv(predictions).rename(columns={"probability": "target"}).to_csv(tmp_path / "s.csv", index=False)
    run = judge_file(tmp_path / "s.csv", data, tmp_path / "report", SETTINGS)
    first, second = (
        json.loads(path.read_text())["auc"] for path in (run.metrics, predictions.parent / "report/metrics.json")
    )
    assert first == second


def test_age_sex_and_site_are_weighed_once_however_often_a_file_is_judged(
    data: Path, predictions: Path, tmp_path: Path
) -> None:
    settings = load_settings("demo", ["evaluate.bootstrap_samples=100", "evaluate.clinical=true"])
    first = json.loads(judge_file(predictions, data, tmp_path / "first", settings).metrics.read_text())
    table = pd.read_csv(predictions)
    again = table.assign(picture=table["probability"], probability=table["probability"][::-1].to_numpy())
    again.to_csv(tmp_path / "again.csv", index=False)
    second = json.loads(judge_file(tmp_path / "again.csv", data, tmp_path / "second", settings).metrics.read_text())
    assert "clinical" in first and first["clinical"] == second["clinical"] and first["auc"] == second["auc"]
    again.assign(picture="0,5").to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(DataError, match="no probability"):
        judge_file(tmp_path / "wrong.csv", data, tmp_path / "third", settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.assign(image_name=["nobody", *table["image_name"][1:]]), "nobody"),
        (lambda table: table.assign(probability=[1.5, *table["probability"][1:]]), "no probability"),
        (lambda table: table.assign(probability=["", *table["probability"][1:]]), "no probability"),
        (lambda table: pd.concat([table, table[:1]]), "twice"),
        (lambda table: table.rename(columns={"probability": "score"}), "image_name and probability"),
    ],
)
def test_what_does_not_go_with_the_table_is_refused_and_nothing_is_written(
    data: Path, predictions: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    change(pd.read_csv(predictions, dtype=object)).to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(DataError, match=message):
        judge_file(tmp_path / "wrong.csv", data, tmp_path / "report", SETTINGS)
    assert not (tmp_path / "report").exists()


def test_one_class_only_is_judged_as_far_as_it_goes(data: Path, predictions: Path, tmp_path: Path) -> None:
    table = pd.read_csv(data / "train.csv")
    benign = table.loc[table["target"] == 0, "image_name"]
    rows = pd.read_csv(predictions)
    rows[rows["image_name"].isin(benign)].to_csv(tmp_path / "benign.csv", index=False)
    run = judge_file(tmp_path / "benign.csv", data, tmp_path / "report", SETTINGS)
    found = json.loads(run.metrics.read_text())
    assert found["auc"]["value"] is None
    assert "no melanoma" in found["auc"]["reason"]
    assert "n/a" in run.report.read_text()


def test_predictions_are_read_with_their_own_spelling(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("﻿Image_Name;Probability;Fold\nI1;0.25;0\nI2;1;1\n", encoding="utf-8")
    found = read_predictions(tmp_path / "p.csv")
    assert found["image_name"].tolist() == ["I1", "I2"]
    assert found["probability"].tolist() == [0.25, 1.0]
    assert found["fold"].tolist() == [0, 1]


def drawn(rows: int = 1500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    target = random.random(rows) < 0.2
    return target, 1 / (1 + np.exp(2 - 2 * target - random.normal(size=rows))), np.arange(rows) // 3


def test_thresholds_come_from_other_patients_and_are_applied_as_they_are() -> None:
    target, probability, patient = drawn()
    answers = learn_answers(target, probability, patient, Settings().evaluate, 0)
    assert all(len(set(answers.part[patient == one])) == 1 for one in range(20))
    draws = {"samples": 100, "seed": 0}
    points = operating_points(target, probability, answers.part, patient, prevalence=0.05, draws=draws)
    for point in points:
        assert point["sensitivity"]["value"] == pytest.approx(point["wanted_sensitivity"], abs=0.05)
        assert point["sensitivity"]["low"] < point["sensitivity"]["value"] < point["sensitivity"]["high"]
        on_all = at_threshold(target, probability, point["threshold"])
        assert on_all["sensitivity"] >= point["wanted_sensitivity"]  # type: ignore[operator]
        assert 0 < point["ppv"] < 0.5
        assert point["number_needed_to_biopsy"] == pytest.approx(1 / point["ppv"])


def test_limits_name_the_size_who_was_not_judged_and_who_did_clearly_worse() -> None:
    def group(name: str, *area: float | None, images: int = 100) -> dict[str, Any]:
        return {"by": "site", "name": name, "images": images, "suppressed": area[0] is None} | {
            "auc": dict(zip(("value", "low", "high"), area, strict=True))
        }

    groups = [group("palm", None, None, None), group("torso", 0.7, 0.6, 0.79), group("head", 0.75, 0.6, 0.85)]
    found = _limits({"auc": {"value": 0.8}, "subgroups": groups}, [224, 128, 128])
    assert found == [
        "It sees 128 x 128 or 224 x 224 pixels of a picture: what only a closer look shows is lost to it.",
        "It was not judged on groups with few melanomas or few benign images: site palm.",
        "It did worse than on the whole on site torso (AUC 0.700, 0.600 to 0.790).",
    ]
    assert len(_limits({"auc": {"value": None}, "subgroups": []}, [64])) == 1
    twice = [
        group(f"{value} {name}", value, 0.5, 0.7) for name in "ab" for value in (0.6, 0.65, 0.61, 0.62, 0.63, 0.64)
    ]
    (*_, worse) = _limits({"auc": {"value": 0.8}, "subgroups": twice}, [64])
    (*_, apart) = _limits({"auc": {"value": 0.8}, "subgroups": [*twice[:4], group("c", 0.6, 0.5, 0.7, images=9)]}, [64])
    assert apart.endswith(" and 1 more group that its card lists.")
    assert worse.startswith("It did worse than on the whole on site 0.6 a (AUC 0.600, 0.500 to 0.700), site 0.61 a (")
    assert worse.endswith("site 0.63 a (AUC 0.630, 0.500 to 0.700) and 2 more groups that its card lists.")


def test_answers_for_another_prevalence_are_lower_where_melanomas_are_rarer() -> None:
    target, probability, patient = drawn()
    usual = learn_answers(target, probability, patient, Settings().evaluate, 0)
    rarer_settings = load_settings("cpu", ["evaluate.prevalence=0.02"]).evaluate
    rarer = learn_answers(target, probability, patient, rarer_settings, 0)
    assert usual.calibrated.mean() == pytest.approx(target.mean(), abs=0.02)
    np.testing.assert_array_equal(rarer.calibrated, usual.calibrated)  # judged on the data as it is
    assert rarer.moved(rarer.calibrated).mean() < usual.calibrated.mean() / 3
    np.testing.assert_array_equal(usual.moved(usual.calibrated), usual.calibrated)
    assert (rarer.of_new([0.3]) < usual.of_new([0.3])).all()
    saved = json.loads(json.dumps(rarer.to_json()))
    assert Calibrator.from_json(saved["calibrator"]) == rarer.calibrator
    assert Conformal.from_json(saved["conformal"]) == rarer.conformal


@pytest.mark.parametrize(
    ("column", "value"),
    [("fold", "first"), ("fold", ""), ("fold", "0.5"), ("fold", "inf"), ("fold", "9" * 30), ("target", "\x1b[2J")],
)
def test_numbers_of_a_prediction_that_are_none_are_refused(tmp_path: Path, column: str, value: str) -> None:
    path = tmp_path / "given.csv"
    path.write_text(f"image_name,probability,{column}\nA,0.5,1\nB,0.25,{value}\n")
    with pytest.raises(DataError, match=rf"1 values of {column} that are no whole number: B$"):
        read_predictions(path)


def test_a_row_of_predictions_with_a_cell_too_few_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "given.csv"
    path.write_text("image_name,fold,probability\nA,0,0.5\nB,0.25\n")
    with pytest.raises(DataError, match=r"row 3 \(number of cells '2': the header has 3 columns\)"):
        read_predictions(path)
