"""Bundles copied, published in a folder, and several runs made one that answers by their mean."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import TINY

from melanoma import pipeline
from melanoma.errors import DataError, ModelError, UsageError
from melanoma.evaluation.metrics import auc
from melanoma.files import sha256
from melanoma.inference.bundle import SUMS, listed_hashes, read_bundle
from melanoma.inference.predict import Predictor
from melanoma.inference.words import Details
from melanoma.runs import Run

OTHER = [*TINY, "images.size_px=48", "evaluate.views=8", "evaluate.precision=float32", "seed=5", "folds.count=2"]


@pytest.fixture(scope="module")
def other(judged: Run) -> Run:
    """A second run on the same data: a larger picture, eight views, no metadata."""
    data = judged.folder.parents[1] / "data"
    return pipeline.run(data, "demo", OTHER, name="other", runs=judged.folder.parent)


@pytest.fixture(scope="module")
def both(judged: Run, other: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "both"
    pipeline.export_runs([judged, other], folder)
    return folder


def test_several_runs_answer_by_the_mean_of_their_scores(
    judged: Run, other: Run, both: Path, lesions: list[Path]
) -> None:
    details = Details(60, "male", "torso")
    pictures = [str(path) for path in lesions[:6]]
    found = Predictor(both)
    assert len(found.engines) == 4 and found.uses_metadata
    alone = [Predictor(run.folder) for run in (judged, other)]
    scores = [one._scores(pictures, details) for one in (found, *alone)]
    # one decoding serves both sizes, so a JPEG may come out a little finer than for one of them alone
    np.testing.assert_allclose(scores[0], (scores[1] + scores[2]) / 2, atol=5e-3)
    (answer,) = found.answer(pictures[0], details)
    assert answer.activation_map is not None and answer.activation_map.ndim == 2


def test_the_mean_is_judged_on_what_all_runs_held_out(judged: Run, other: Run, both: Path) -> None:
    bundle, report = read_bundle(both), Run(both.with_name("both-report"))
    tables = [pd.read_csv(run.predictions).set_index("image_name") for run in (judged, other)]
    common = tables[0].join(tables[1]["probability"].rename("other"), how="inner")
    mean = (common["probability"] + common["other"]) / 2
    assert bundle.description["figures"]["auc"]["value"] == pytest.approx(auc(common["target"], mean), abs=1e-9)
    assert bundle.description["figures"]["images"] == len(common)
    written = pd.read_csv(report.predictions).set_index("image_name")
    np.testing.assert_allclose(written.loc[common.index, "probability"], mean, atol=1e-8)
    assert list(written.columns[:5]) == ["patient_id", "fold", "target", "probability", "answer"]
    assert report.report.is_file()
    shares = [read_bundle(run.folder).description["gate"]["kept"] for run in (judged, other)]
    assert bundle.description["gate"]["kept"] == min(shares)
    tests = [pd.read_csv(run.test_predictions)["probability"] for run in (judged, other)]
    np.testing.assert_allclose(pd.read_csv(report.submission)["target"], (tests[0] + tests[1]) / 2, atol=1e-6)


def test_age_sex_and_site_are_weighed_once_beside_the_mean(judged: Run, other: Run, tmp_path: Path) -> None:
    first = Run(tmp_path / "runs" / "first")
    shutil.copytree(judged.folder, first.folder)
    first.config.write_text(first.config.read_text().replace("clinical = false", "clinical = true"))
    told = pd.read_csv(first.predictions)  # so small a network may know nothing: here it does
    told["probability"] = told["probability"] / 2 + 0.4 * told["target"]
    told.to_csv(first.predictions, index=False)
    pipeline.export_runs([first, other], tmp_path / "both")
    bundle, report = read_bundle(tmp_path / "both"), Run(tmp_path / "both-report")
    written = pd.read_csv(report.predictions).set_index("image_name")
    tables = [pd.read_csv(run.predictions).set_index("image_name")["probability"] for run in (first, other)]
    mean = (tables[0] + tables[1]).loc[written.index] / 2
    np.testing.assert_allclose(written["picture"], mean, atol=1e-8)
    assert bundle.answers is not None and bundle.answers["clinical"] is not None
    assert bundle.description["figures"]["auc"]["value"] == pytest.approx(
        auc(written["target"], written["probability"]), abs=1e-9
    )
    test, submission = pd.read_csv(report.test_predictions), pd.read_csv(report.submission)
    np.testing.assert_allclose(submission["target"], test["probability"], atol=1e-6)
    assert (test["probability"] != test["picture"]).all()


def test_the_card_of_several_runs_is_of_their_mean(both: Path) -> None:
    bundle, card = read_bundle(both), (both / "CARD.md").read_text()
    assert card.startswith("# Model card: both\n")
    assert "small, 32 px, weights from none; small, 48 px" in card
    assert "| answers by | the mean over 2 runs |" in card
    assert f"| network | {bundle.description['figures']['auc']['value']:.3f}" in card
    assert "answer changes with the picture: turned by 90°" in card
    assert bundle.description["figures"]["limits"][0].startswith("The figures are of the mean over runs")
    assert "The figures are of the mean over runs" in card
    command = json.loads(Run(both.with_name("both-report")).environment.read_text())["command"]
    assert command.count("melanoma run ") == 2 and command.count(" && ") == 2 and "--to" in command.split("export")[1]


def test_each_image_is_asked_of_the_network_that_has_not_seen_it(judged: Run, other: Run) -> None:
    for run in (judged, other):
        settings = run.settings()
        trained = pipeline._trained(run, settings, pipeline.reopen(run, settings))
        rows = pd.read_csv(run.predictions).sample(30, random_state=0)
        found = trained.changed(rows)
        np.testing.assert_allclose(found[""], rows["probability"], atol=1e-5)
        assert all(np.abs(scores - found[""]).max() > 0 for name, scores in found.items() if name)
        assert len(trained.maps(rows)) == len(rows)


def test_a_bundle_of_several_runs_is_written_again_over_itself(judged: Run, other: Run, both: Path) -> None:
    before = read_bundle(both).sha256
    pipeline.export_runs([judged, other], both)
    assert read_bundle(both).sha256 == before


def test_runs_that_cut_pictures_differently_are_not_made_one(judged: Run, tmp_path: Path) -> None:
    data = judged.folder.parents[1] / "data"
    cut = pipeline.start(data, "demo", [*OTHER, "images.crop=centre"], name="cut", runs=tmp_path)
    with pytest.raises(DataError, match=r"images\.crop"):
        pipeline.export_runs([judged, cut], tmp_path / "both")


def test_a_bundle_is_copied_whole_and_only_over_a_bundle(judged: Run, tmp_path: Path) -> None:
    place = pipeline.publish(judged.folder, str(tmp_path / "copy"))
    assert read_bundle(Path(place)).sha256 == read_bundle(judged.folder).sha256
    pipeline.publish(judged.folder, place)
    (tmp_path / "copy" / "notes.txt").write_text("mine")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").write_text("mine")
    for name in ("copy", "precious"):
        with pytest.raises(UsageError, match="give another place"):
            pipeline.publish(judged.folder, str(tmp_path / name))
        assert (tmp_path / name / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="in the bundle itself"):
        pipeline.publish(judged.bundle, str(judged.bundle / "below"))


def test_several_runs_do_not_go_where_something_else_is(judged: Run, other: Run, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "new-report").mkdir()
    (tmp_path / "new-report" / "notes.txt").write_text("mine")
    (tmp_path / "run-report").mkdir()
    (tmp_path / "run-report" / "config.toml").write_bytes(judged.config.read_bytes())  # a run that is named like that
    for name in ("precious", "new", "run"):
        with pytest.raises(UsageError, match="there already"):
            pipeline.export_runs([judged, other], tmp_path / name)


def test_a_network_of_another_bundle_is_refused(judged: Run, other: Run, tmp_path: Path) -> None:
    place = Path(pipeline.publish(judged.folder, str(tmp_path / "copy")))
    (place / "fold-0.onnx").write_bytes((other.bundle / "fold-0.onnx").read_bytes())
    digests = listed_hashes(place / SUMS) | {"fold-0.onnx": sha256(place / "fold-0.onnx")}
    (place / SUMS).write_text("".join(f"{digest}  {one}\n" for one, digest in digests.items()))
    with pytest.raises(ModelError, match="does not go with"):
        Predictor(place, few=True)
