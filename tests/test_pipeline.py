"""The whole job on the embedded dataset: interrupted and resumed, in every kind of balance, and with bad input."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import TINY

from melanoma import bundling, pipeline
from melanoma.data.synthetic import make_dataset
from melanoma.errors import DataError, MelanomaError, ModelError, UsageError
from melanoma.evaluation.clinical import Clinical
from melanoma.evaluation.conformal import Conformal
from melanoma.evaluation.metrics import auc
from melanoma.evaluation.recalibration import Calibrator
from melanoma.inference.bundle import read_bundle
from melanoma.inference.engine import Engine, choose
from melanoma.inference.predict import Predictor
from melanoma.inference.robustness import CHANGES, changed_scores
from melanoma.inference.scoring import dihedral, score
from melanoma.inference.words import Details
from melanoma.runs import Run
from melanoma.training.augment import RandomView
from melanoma.training.progress import Interrupted, TrainingProgress

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "data"
    make_dataset(folder, images=160, test_images=20)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pipeline.run(data, "demo", [*TINY, "folds.count=2"], name="whole", runs=tmp_path_factory.mktemp("runs"))


def test_the_run_folder_is_complete(whole: Run) -> None:
    for path in (
        *(whole.config, whole.environment, whole.data, whole.folds, whole.predictions, whole.test_predictions),
        *(whole.metrics, whole.report, whole.submission, whole.figures / "roc.png", whole.bundle / "model.json"),
        *(path(fold) for path in (whole.weights, whole.history, whole.encoder) for fold in (0, 1)),
    ):
        assert path.is_file(), path
    assert not [path.name for path in whole.folder.rglob(".*.*")]  # nothing half-written is left


def test_every_kept_row_is_predicted_once_by_the_fold_that_did_not_see_it(whole: Run) -> None:
    predictions, folds = pd.read_csv(whole.predictions), pd.read_csv(whole.folds)
    assert predictions["image_name"].is_unique
    assert set(predictions["fold"]) == {0, 1}
    known = folds.set_index("image_name")["fold"]
    assert (known[predictions["image_name"]].to_numpy() == predictions["fold"]).all()
    assert folds.groupby("patient_id")["fold"].nunique().max() == 1
    assert list(predictions)[:5] == ["image_name", "patient_id", "fold", "target", "probability"]
    assert set(predictions["answer"]) <= {0, 1}
    assert ((predictions["probability"] >= 0.5) == predictions["answer"]).all()


def test_metrics_are_what_the_predictions_say(whole: Run) -> None:
    predictions, metrics = pd.read_csv(whole.predictions), json.loads(whole.metrics.read_text())
    assert metrics["auc"]["value"] == pytest.approx(auc(predictions["target"], predictions["probability"]))
    assert metrics["images"] == len(predictions)
    assert metrics["control"]["auc"]["value"] is not None


def test_answers_are_saved_as_plain_numbers_that_give_the_files_own_answers(whole: Run) -> None:
    saved, test = json.loads(whole.calibration.read_text()), pd.read_csv(whole.test_predictions)
    calibrated = Calibrator.from_json(saved["calibrator"]).apply(test["probability"])
    np.testing.assert_allclose(calibrated, test["calibrated"], rtol=1e-6)
    if saved["conformal"]:
        assert (Conformal.from_json(saved["conformal"]).answer(test["probability"]) == test["said"]).all()
    assert set(saved["thresholds"]) == {"0.8", "0.9", "0.95"}
    held_out = pd.read_csv(whole.predictions)
    assert set(held_out["said"]) <= {"melanoma", "benign", "refer"}
    assert held_out["calibrated"].between(0, 1).all()
    assert "with_context" not in held_out


def test_evidence_holds_controls_subgroups_and_robustness(whole: Run) -> None:
    found = json.loads(whole.metrics.read_text())
    assert [control["name"] for control in found["controls"]][-1] == "colour"
    assert {row["by"] for row in found["subgroups"]} >= {"site", "sex", "age"}
    changes = found["robustness"]["changes"]
    assert len(changes) == len(CHANGES)
    assert all(0 <= change["crossed"]["value"] <= 1 for change in changes)
    assert "## " in whole.card.read_text()
    page = whole.report.read_text()
    assert "author to complete" in page
    assert "Activation map of lesion" in page


def test_scores_with_context_are_off_by_default_and_labelled(whole: Run, tmp_path: Path) -> None:
    copy = Run(tmp_path / "copy")
    shutil.copytree(whole.folder, copy.folder)
    settings = copy.settings(["evaluate.context=true"])
    pipeline.evaluate(copy, settings, pipeline.reopen(copy, settings))
    found = json.loads(copy.metrics.read_text())
    assert "with_context" in found
    assert "With context" in copy.report.read_text()
    if found["with_context"]["weights"]:
        assert pd.read_csv(copy.test_predictions)["with_context"].between(0, 1).all()


def test_age_sex_and_site_are_weighed_beside_the_score_alike_in_files_and_for_new_pictures(
    whole: Run, data: Path, tmp_path: Path
) -> None:
    copy = Run(tmp_path / "copy")
    shutil.copytree(whole.folder, copy.folder)
    settings = copy.settings(["evaluate.clinical=true"])
    prepared = pipeline.reopen(copy, settings)
    assert prepared.test is not None
    before = pd.read_csv(copy.predictions)  # so small a network may know nothing: here it does
    before["probability"] = np.clip(before["probability"] + 0.1 * before["target"], 0, 1)
    before.to_csv(copy.predictions, index=False)
    for _ in range(2):  # what was weighed in is not weighed in again
        pipeline.evaluate(copy, settings, prepared)
        after = pd.read_csv(copy.predictions)
        np.testing.assert_allclose(after["picture"], before["probability"], rtol=1e-6)
        assert (after["probability"] != after["picture"]).all()
        assert ((after["probability"] >= 0.5) == after["answer"]).all()
    found, test = json.loads(copy.metrics.read_text()), pd.read_csv(copy.test_predictions)
    assert found["auc"]["value"] == pytest.approx(auc(after["target"], after["probability"]), abs=1e-6)
    assert found["clinical"]["auc_of_the_picture"]["value"] == pytest.approx(
        auc(before["target"], before["probability"]), abs=1e-6
    )
    assert "By the picture alone" in copy.report.read_text() and "by the picture alone" in copy.card.read_text()

    pipeline.seal(copy, settings, prepared)
    predictor, rows = Predictor(copy.folder), prepared.test.to_dict("records")
    clinical = predictor.answers["clinical"]
    assert clinical == Clinical.from_json(found["clinical"]["weights"]) and predictor.uses_metadata
    np.testing.assert_allclose(clinical.apply(test["picture"], prepared.test), test["probability"], rtol=1e-6)
    for row, expected in zip(rows[:5], test["probability"], strict=False):
        words = {name: row[name] if isinstance(row[name], str) else None for name in ("sex", "site")}
        years = None if np.isnan(row["age_years"]) else row["age_years"]
        picture = data / "jpeg" / "test" / f"{row['image_name']}.jpg"
        (told,) = predictor._scores(picture, Details(years, **words))
        assert told == pytest.approx(expected, abs=5e-3)  # a JPEG may come out a little finer for a thumbnail beside it
    (untold,), picture = predictor._scores(picture, None), test["picture"].iloc[:5]
    assert untold == pytest.approx(
        clinical.apply(picture, {"age_years": [np.nan], "sex": [None], "site": [None]})[-1], abs=5e-3
    )
    assert predictor.remarks(Details(60, "male", "unknown")) == []
    assert "none was told" in predictor.remarks(Details())[0]
    assert any("picture alone the AUC is" in limit for limit in predictor.source["model_limits"])
    assert predictor.remarks(Details(60, "male", "moon")) == [
        "the site 'moon' was not seen in training and is taken as unknown"
    ]


def test_nothing_is_weighed_where_nothing_is_known_of_patients(whole: Run, tmp_path: Path) -> None:
    copy = Run(tmp_path / "copy")
    shutil.copytree(whole.folder, copy.folder)
    settings = copy.settings(["evaluate.clinical=true"])
    prepared = pipeline.reopen(copy, settings)
    blank = prepared.table.assign(age_years=np.nan, sex=None, site=None)
    pipeline.evaluate(copy, settings, replace(prepared, table=blank))
    found = json.loads(copy.metrics.read_text())
    assert found["clinical"]["weights"] is None and "not known" in found["clinical"]["difference"]["reason"]
    assert "could not be weighed" in copy.report.read_text()
    assert "picture" not in pd.read_csv(copy.predictions)
    assert json.loads(copy.calibration.read_text())["clinical"] is None


def test_turning_a_picture_leaves_the_mean_over_all_turns_alone(whole: Run) -> None:
    engine = Engine(read_bundle(whole.folder).networks[0], choose(precision="float32"))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    eight, one = (changed_scores(engine, images, views=views) for views in (8, 1))
    assert set(eight) == {"", *CHANGES}
    for name in ("turned by 90°", "turned by 180°", "mirrored left to right"):
        np.testing.assert_allclose(eight[name], eight[""], atol=1e-6)
    assert any(np.abs(one[name] - one[""]).max() > 1e-6 for name in CHANGES)


AGAIN = """
import sys
from melanoma import bundling, pipeline
from melanoma.runs import open_run
run = open_run(pipeline.Path(sys.argv[1]))
settings = run.settings()
prepared = pipeline.reopen(run, settings)
bundling.export(run, settings, prepared)
pipeline.score_run(run, settings, prepared)
pipeline.evaluate(run, settings, prepared)
pipeline.submit(run, prepared)
print(*({"keras", "torch", "jax", "tensorflow"} & set(sys.modules)))
"""


def test_a_trained_run_is_scored_evaluated_and_submitted_without_a_framework(whole: Run, tmp_path: Path) -> None:
    shutil.copytree(whole.folder, tmp_path / "copy")
    for name in ("metrics.json", "submission.csv"):
        (tmp_path / "copy" / name).unlink()
    command = [sys.executable, "-c", AGAIN, str(tmp_path / "copy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
    assert (
        json.loads((tmp_path / "copy" / "metrics.json").read_text())["auc"]
        == json.loads(whole.metrics.read_text())["auc"]
    )
    assert (tmp_path / "copy" / "submission.csv").read_bytes() == whole.submission.read_bytes()


def test_the_submission_has_exactly_the_test_tables_ids(whole: Run, data: Path) -> None:
    submission, test = pd.read_csv(whole.submission), pd.read_csv(data / "test.csv")
    assert list(submission) == ["image_name", "target"]
    assert list(submission["image_name"]) == list(test["image_name"])
    assert submission["target"].between(0, 1).all()


def test_the_bundle_answers_as_keras_does_on_real_pixels(whole: Run) -> None:
    bundle = read_bundle(whole.folder)
    assert [network["fold"] for network in bundle.description["networks"]] == [0, 1]
    for network in bundle.description["networks"]:
        assert network["largest_difference"]["logit"] <= 1e-4
    engine = Engine(bundle.networks[0], choose(precision="float32"))
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    alone = [engine.answer(images[[number]]).logit[0] for number in range(5)]
    assert np.allclose(engine.answer(images).logit, alone, atol=1e-5)
    rows = np.arange(5)
    eight = score(engine, images, rows, views=8)
    turned = score(engine, np.ascontiguousarray(np.rot90(images, axes=(1, 2))), rows, views=8)
    assert np.allclose(eight, turned, atol=1e-5)
    assert len({view.tobytes() for view in dihedral(images, 8)}) == 8


def test_a_changed_bundle_is_refused(whole: Run, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(whole.bundle, copy)
    network = copy / "fold-0.onnx"
    content = bytearray(network.read_bytes())
    content[len(content) // 2] ^= 1
    network.write_bytes(content)
    with pytest.raises(ModelError, match=r"fold-0\.onnx"):
        read_bundle(copy)
    with pytest.raises(ModelError, match="neither a bundle nor a run"):
        read_bundle(tmp_path)


def test_the_report_names_result_control_and_limits(whole: Run) -> None:
    page = whole.report.read_text()
    for words in ("Research use only. Not a medical device. Not for diagnosis.", "age, sex and site", "95 %"):
        assert words in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def interrupted_at(monkeypatch: pytest.MonkeyPatch, epoch: int, step: int) -> None:
    plain = TrainingProgress.step

    def then_interrupt(self: TrainingProgress, at_epoch: int, at_step: int, loss: float) -> None:
        plain(self, at_epoch, at_step, loss)
        if (at_epoch, at_step) == (epoch, step):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TrainingProgress, "step", then_interrupt)


# everything that has a random state or a place in it: rows drawn by balance, dropout, metadata; changed images of
# several sizes, a second task, averaged weights
PLACES = ["balance.method=weights", "model.dropout=0.3", "model.metadata=true", "augment.contrast=0.2"]
MORE_PLACES = [
    *("train.sizes_px=[32,48]", "train.drawn_from_px=64", "train.averaging=0.9", "loss.diagnosis_share=0.5"),
    *("augment.colour=0.1", "augment.shift=0.1", "augment.stretch=0.1"),
    *("train.monitor=none", "model.metadata=true", "model.hidden_share=0.5"),
]


@pytest.mark.parametrize(("epoch", "step", "places"), [(0, 2, PLACES), (1, 0, PLACES), (1, 0, MORE_PLACES)])
def test_an_interrupted_run_resumes_to_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, step: int, places: list[str]
) -> None:
    settings = [*TINY, *places]
    plain = pipeline.run(data, "demo", settings, name="plain", runs=tmp_path)
    with monkeypatch.context() as patch:
        interrupted_at(patch, epoch, step)
        with pytest.raises(Interrupted):
            pipeline.run(data, "demo", settings, name="stopped", runs=tmp_path)
    assert not (tmp_path / "stopped" / "submission.csv").exists()
    stopped = pipeline.resume(tmp_path / "stopped")
    with np.load(plain.state(0)) as one, np.load(stopped.state(0)) as other:
        assert one.files == other.files
        for name in set(one.files) - {"position", "sha256"}:
            assert np.array_equal(one[name], other[name]), name
    columns = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "val_auc", "learning_rate"]
    histories = [pd.read_csv(run.history(0))[columns] for run in (plain, stopped)]
    pd.testing.assert_frame_equal(*histories)
    assert plain.submission.read_bytes() == stopped.submission.read_bytes()


def test_a_finished_run_resumes_without_training_again(whole: Run) -> None:
    before = whole.weights(0).stat().st_mtime_ns, whole.metrics.read_text()
    pipeline.resume(whole.folder)
    assert (whole.weights(0).stat().st_mtime_ns, whole.metrics.read_text()) == before


def test_mixed_precision_trains_and_is_exported_in_float32(data: Path, tmp_path: Path) -> None:
    settings = [*TINY, "train.precision=mixed_bfloat16", "train.epochs=1"]
    run = pipeline.run(data, "demo", settings, name="mixed", runs=tmp_path)
    assert json.loads(run.environment.read_text())["precision"] == "mixed_bfloat16"
    network = read_bundle(run.folder).description["networks"][0]
    assert network["largest_difference"]["logit"] <= 1e-4
    with np.load(run.state(0)) as state:
        assert {state[name].dtype.name for name in state.files if state[name].ndim == 4} == {"float32"}


def test_the_notebooks_balance_judges_all_rows_of_the_held_out_patients_too(data: Path, tmp_path: Path) -> None:
    settings = [*TINY, "train.epochs=1", "balance.method=rows_before_folds", "images.filters=['no_noise']"]
    run = pipeline.run(data, "demo", settings, name="notebook", runs=tmp_path)
    balanced, everything = pd.read_csv(run.predictions), pd.read_csv(run.held_out_predictions)
    prepared = pipeline.reopen(run, run.settings())
    kept = prepared.table[prepared.kept]
    for site, rows in kept.groupby(kept["site"].fillna("unknown")):
        assert rows["target"].mean() == 0.5, site
    assert set(balanced["image_name"]) < set(everything["image_name"])
    assert set(balanced["patient_id"]) == set(everything["patient_id"])
    table = pd.read_csv(data / "train.csv")
    of_held_out = table[table["patient_id"].isin(balanced["patient_id"])]
    assert set(everything["image_name"]) <= set(of_held_out["image_name"])
    remarks = " ".join(json.loads(run.data.read_text())["remarks"])
    assert "random split by image" in remarks
    assert json.loads(run.metrics.read_text())["all_rows_of_held_out_patients"]["images"] == len(everything)


def test_a_given_fold_file_is_used(whole: Run, data: Path, tmp_path: Path) -> None:
    settings = [*TINY, "train.epochs=1", f"folds.file={whole.folds}"]
    run = pipeline.run(data, "demo", settings, name="given", runs=tmp_path)
    assert run.folds.read_bytes() == whole.folds.read_bytes()
    torn = pd.read_csv(whole.folds)
    patient = torn["patient_id"].value_counts().index[0]
    torn.loc[torn.index[torn["patient_id"] == patient][0], "fold"] ^= 1
    torn.to_csv(tmp_path / "torn.csv", index=False)
    with pytest.raises(DataError, match=patient):
        pipeline.run(data, "demo", [*TINY, f"folds.file={tmp_path / 'torn.csv'}"], name="torn", runs=tmp_path)


def test_a_second_run_reuses_the_cache_and_a_changed_setting_builds_another(data: Path, tmp_path: Path) -> None:
    settings = [*TINY, "train.epochs=1"]
    pipeline.run(data, "demo", settings, name="a", runs=tmp_path)
    caches = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir() if path.is_dir()}
    pipeline.run(data, "demo", settings, name="b", runs=tmp_path)
    assert caches == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir() if path.is_dir()}
    pipeline.run(data, "demo", [*settings, "images.filters=['eroded']"], name="c", runs=tmp_path)
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 2 * len(caches)


def test_a_run_is_never_overwritten_and_its_data_may_not_change(whole: Run, data: Path, tmp_path: Path) -> None:
    with pytest.raises(MelanomaError, match="is there already"):
        pipeline.start(data, "demo", TINY, name=whole.name, runs=whole.folder.parent)
    with pytest.raises(UsageError, match="cannot be a run's name"):
        pipeline.start(data, "demo", TINY, name="../x", runs=tmp_path)
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    begun = pipeline.start(copy, "demo", TINY, name="changed", runs=tmp_path)
    settings = begun.settings()
    pipeline.reopen(begun, settings)
    table = (copy / "train.csv").read_text()
    (copy / "train.csv").write_text(table.replace("male", "female", 1))
    with pytest.raises(DataError, match=r"train\.csv changed"):
        pipeline.reopen(begun, settings)


def test_an_interrupted_run_is_not_exported(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupted_at(patch, 1, 0)
        with pytest.raises(Interrupted):
            pipeline.run(data, "demo", TINY, name="half", runs=tmp_path)
    run = Run(tmp_path / "half")
    settings = run.settings()
    with pytest.raises(MelanomaError, match="fold 0 is not trained to its end"):
        bundling.export(run, settings, pipeline.reopen(run, settings))


def test_a_site_with_one_class_only_is_remarked_on_whatever_the_balance(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    table = pd.read_csv(copy / "train.csv")
    at_head = table["anatom_site_general_challenge"] == "head/neck"
    table.loc[at_head & (table["target"] == 1), "anatom_site_general_challenge"] = "torso"
    table.to_csv(copy / "train.csv", index=False)
    for method in ("rows", "weights"):
        run = pipeline.start(copy, "demo", [*TINY, f"balance.method={method}"], name=method, runs=tmp_path)
        remarks = [remark for remark in pipeline.reopen(run, run.settings()).remarks if "fold 0:" in remark]
        assert "head/neck" in " ".join(remarks)


def test_a_network_trained_at_other_sizes_than_it_answers_for_is_the_one_that_is_exported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = list[int]()
    plain = RandomView.call

    def noted(self: RandomView, images: Any, training: bool = False) -> Any:
        views = plain(self, images, training)
        sides.extend([int(views.shape[1])] if training else [])
        return views

    monkeypatch.setattr(RandomView, "call", noted)
    # at 72 px this network pads an uneven side, which it does otherwise where it does not know the size
    settings = [*TINY, "model.backbone=MobileNetV2_0.35", "images.size_px=72", "train.drawn_from_px=100"]
    settings += ["data.limit=60"]
    run = pipeline.run(data, "demo", settings, name="larger", runs=tmp_path)
    assert set(sides) == {72}
    (network,) = read_bundle(run.folder).description["networks"]
    assert network["largest_difference"]["logit"] <= 1e-3
    sides.clear()
    pipeline.run(data, "demo", [*settings, "train.sizes_px=[64,72]"], name="both", runs=tmp_path)
    assert set(sides) == {64, 72}


def test_a_dataset_without_a_test_table_has_no_submission(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    (copy / "test.csv").unlink()
    run = pipeline.run(copy, "demo", [*TINY, "train.epochs=1"], name="no-test", runs=tmp_path)
    assert run.report.exists()
    assert not run.submission.exists()


def test_missing_and_broken_images_are_named_before_training(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    first, second = sorted((copy / "jpeg" / "train").iterdir())[:2]
    first.write_bytes(first.read_bytes()[:500])
    with pytest.raises(DataError, match=first.stem):
        pipeline.run(copy, "demo", TINY, name="broken", runs=tmp_path)
    second.unlink()
    with pytest.raises(DataError, match=second.stem):
        pipeline.run(copy, "demo", TINY, name="missing", runs=tmp_path)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert not (tmp_path / "missing").exists()  # the name is free for the mended data


def test_a_loss_that_is_no_number_stops_with_the_images_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from melanoma.models.backend import keras

    broken = keras.losses.get("binary_crossentropy")
    monkeypatch.setattr("melanoma.training.train.build_loss", lambda _: lambda y, p: broken(y, p) * float("nan"))
    with pytest.raises(MelanomaError, match=r"no longer a number at epoch 1, step 1 \(images \w+"):
        pipeline.run(data, "demo", TINY, name="nan", runs=tmp_path)


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")
def test_the_notebook_recipe_prepares_real_images_at_299_pixels_half_of_them_melanomas(tmp_path: Path) -> None:
    settings = ["model.weights=none", "data.limit=40", "train.epochs=1", "train.batch_size=4"]
    begun = pipeline.start(SHARED / "isic", "notebook", settings, name="notebook", runs=tmp_path)
    resolved = begun.settings()
    assert (resolved.model.backbone, resolved.images.size_px) == ("InceptionResNetV2", 299)
    prepared = pipeline.reopen(begun, resolved)
    assert prepared.cache.images.shape[1:] == (299, 299, 3)
    assert prepared.table.loc[prepared.kept, "target"].mean() == 0.5


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_the_whole_job_runs_and_resumes_on_the_other_backends(data: Path, tmp_path: Path, backend: str) -> None:
    if not importlib.util.find_spec(backend):
        pytest.skip(f"the extra {backend} is not installed")
    settings = [*TINY, "model.metadata=true", "model.dropout=0.2", "train.sizes_px=[32,48]", "train.drawn_from_px=48"]
    settings += ["train.averaging=0.9", "loss.diagnosis_share=0.5", "augment.colour=0.1"]
    program = f"""
from melanoma import pipeline
from melanoma.training.augment import RandomView
from melanoma.training.state import read_position
plain, sides = RandomView.call, set()

def noted(self, images, training=False):
    views = plain(self, images, training)
    if training:
        sides.add(int(views.shape[1]))
    return views

RandomView.call = noted
run = pipeline.run({str(data)!r}, "demo", {settings!r}, name="run", runs={str(tmp_path)!r})
assert read_position(run.state(0)).finished
assert sides == {{32, 48}}, sides
"""
    environment = os.environ | {"KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    run = Run(tmp_path / "run")
    assert json.loads(run.environment.read_text())["backend"] == backend
    assert run.submission.is_file()
