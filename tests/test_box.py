"""The model in the box: whole, small, quick to start, the default of all that answers, and as good as it says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma.config import load_settings
from melanoma.data.records import read_dataset
from melanoma.evaluation.metrics import auc
from melanoma.inference.predict import BOX, Predictor, open_model
from melanoma.inference.submission import examine_submission

DOCS = Path(__file__).parents[1] / "docs" / "box"
ISIC = Path(__file__).parents[2] / "shared" / "data" / "isic"
A_PICTURE = str(ISIC / "jpeg" / "test" / "ISIC_0035930.jpg")
needs_images = pytest.mark.skipif(not ISIC.exists(), reason="../shared/data/isic is absent")


def melanoma(*arguments: str) -> str:
    """Run the command and return what it prints."""
    command = [sys.executable, "-m", "melanoma", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_it_is_whole_and_at_most_20_megabytes() -> None:
    bundle = open_model()  # every file against its hash
    assert bundle.folder == BOX
    assert sum(path.stat().st_size for path in BOX.iterdir()) <= 20e6
    assert all(network["kept"]["auc_lost"] < 0.002 for network in bundle.description["networks"])


def test_its_card_says_what_it_comes_from_and_what_it_is_not_for() -> None:
    card = (BOX / "CARD.md").read_text(encoding="utf-8")
    for told in ("HAM10000", "CC BY-NC 4.0", "Not for deciding about a patient", "skin type", "control:", "Subgroups"):
        assert told in card
    assert "/work" not in card and "/home" not in card


def test_it_was_made_by_its_recipes() -> None:
    bundle, recipes = open_model(), [load_settings(name) for name in ("box", "box_mobilenet")]
    for run, settings in zip(bundle.runs, recipes, strict=True):
        made = settings.model.backbone, settings.images, settings.evaluate.views
        assert (run["backbone"], run["images"], run["views"]) == made
    assert len(bundle.networks) == sum(settings.folds.count for settings in recipes)


def test_its_figures_are_those_of_the_predictions_beside_it() -> None:
    predictions = pd.read_csv(DOCS / "predictions.csv")
    figures = open_model().description["figures"]
    assert auc(predictions["target"], predictions["probability"]) == pytest.approx(figures["auc"]["value"], abs=1e-12)
    assert len(predictions) == figures["images"]
    folds = pd.read_csv(DOCS / "folds.csv").set_index("image_name")["fold"]
    assert (folds[predictions["image_name"]].to_numpy() == predictions["fold"]).all()


@needs_images
def test_its_submission_is_one_for_the_test_table() -> None:
    assert examine_submission(DOCS / "submission.csv", list(read_dataset(ISIC).test["image_name"])) == []


@needs_images
def test_it_answers_for_test_images_as_its_submission_says() -> None:
    submission = pd.read_csv(DOCS / "submission.csv").set_index("image_name")["target"]
    test = read_dataset(ISIC).test
    blank = test[test[["age_years", "sex", "site"]].isna().all(axis=1)].head(8)  # a table would give the others more
    answers = Predictor().answer([ISIC / "jpeg" / "test" / f"{name}.jpg" for name in blank["image_name"]])
    scores = np.array([one.score for one in answers if one.score is not None])
    assert len(scores) >= 4
    told = submission[[name for name, one in zip(blank["image_name"], answers, strict=True) if one.score is not None]]
    assert np.abs(scores - told.to_numpy()).max() < 1e-4


@needs_images
def test_without_model_predict_answers_by_it_and_says_its_name_and_limits() -> None:
    shown = melanoma("predict", A_PICTURE)
    assert f"model {open_model().name}: AUC 0." in shown and "limits: " in shown and "other cameras" in shown
    told = json.loads(melanoma("predict", A_PICTURE, "--json"))
    assert told["model"] == open_model().name and told["model_limits"] == open_model().description["figures"]["limits"]


@needs_images
def test_without_model_explain_draws_where_it_looked(tmp_path: Path) -> None:
    melanoma("explain", A_PICTURE, "--out", str(tmp_path / "seen.png"))
    assert (tmp_path / "seen.png").stat().st_size > 10_000


def test_an_answer_needs_no_framework() -> None:
    program = (
        "import sys, numpy, melanoma; melanoma.Predictor().predict_proba([numpy.full((200, 200, 3), 180, 'uint8')]); "
        "sys.exit(bool({'keras', 'torch', 'tensorflow', 'jax', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
