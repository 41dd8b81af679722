"""A Predictor has scikit-learn's manners, says more where it is asked, and needs no deep-learning framework."""

import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from zoo import DICOMS, SHARED, needs_shared, saved

from melanoma.errors import DataError, MelanomaError, ModelError, UsageError
from melanoma.evaluation.recalibration import rebased
from melanoma.files import sha256, write_json
from melanoma.images.decode import decode
from melanoma.inference.bundle import SUMS, read_bundle
from melanoma.inference.engine import Engine
from melanoma.inference.predict import Predictor
from melanoma.inference.scoring import dihedral, sigmoid
from melanoma.inference.words import Details, in_words
from melanoma.runs import Run

HEAVY = ("keras", "torch", "jax", "tensorflow", "pandas", "sklearn", "scipy", "matplotlib")


@pytest.fixture(scope="module")
def predictor(judged: Run) -> Predictor:
    return Predictor(judged.folder)


def edited(run: Run, folder: Path, **changes: object) -> Path:
    """Copy a run's bundle with other answers in it, and hashes that fit."""

    def change(description: dict[str, Any]) -> None:
        description["answers"] |= changes

    return rewritten(run, folder, change)


def rewritten(run: Run, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    bundle = folder / "bundle"
    shutil.copytree(run.bundle, bundle)
    description = json.loads((bundle / "model.json").read_text())
    change(description)
    (bundle / "model.json").write_text(json.dumps(description))
    sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(bundle.iterdir()) if path.name != SUMS]
    (bundle / SUMS).write_text("".join(sums))
    return bundle


def test_proba_is_two_columns_that_sum_to_1_and_predict_is_the_label_at_the_threshold(
    predictor: Predictor, lesions: list[Path]
) -> None:
    proba, labels = predictor.predict_proba(lesions[:9]), predictor.predict(lesions[:9])
    assert proba.shape == (9, 2)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert labels.shape == (9,) and set(labels) <= {0, 1}
    assert predictor.classes_.tolist() == [0, 1]
    answers = predictor.answer(lesions[:9], maps=False)
    for one, row, label in zip(answers, proba, labels, strict=True):
        if one.probability is not None:
            assert one.probability == pytest.approx(row[1], abs=1e-6)
            assert one.label == label


def test_paths_bytes_and_arrays_are_answered_alike(predictor: Predictor, lesions: list[Path]) -> None:
    path = lesions[0]
    found = predictor.predict_proba([path, str(path), path.read_bytes(), bytearray(path.read_bytes()), decode(path)])
    np.testing.assert_allclose(found[:4], found[:1].repeat(4, axis=0), atol=1e-6)
    np.testing.assert_allclose(found[4], found[0], atol=1e-2)  # a JPEG is decoded small, an array is as it is
    assert predictor.predict_proba(path).shape == predictor.predict_proba(decode(path)).shape == (1, 2)
    assert predictor.predict_proba([]).shape == (0, 2)


def test_the_score_is_the_mean_over_networks_of_the_sigmoid_of_the_mean_logit_over_views(
    judged: Run, lesions: list[Path]
) -> None:
    predictor = Predictor(judged.folder, engine="onnxruntime", views=8)
    details = Details(61, "female", "torso")
    picture = predictor.read("lesion", lesions[0])
    table = {"age_years": [61.0], "sex": ["female"], "site": ["torso"]}
    scores = []
    for path, encoder in zip(predictor.bundle.networks, predictor.bundle.encoders, strict=True):
        engine = Engine(path, predictor.choice)
        views = [engine.judge(view, encoder.features(table)).logit for view in dihedral(picture.images[0][None], 8)]
        scores.append(sigmoid(np.mean(views, axis=0)))
    (answer,) = predictor.answer_batch([("lesion", lesions[0], details)])
    assert answer.score is None or answer.score == pytest.approx(np.mean(scores), abs=1e-6)
    assert predictor.judge([picture], [details]).score[0] == pytest.approx(np.mean(scores), abs=1e-6)


def test_a_held_out_image_gets_the_score_that_was_judged(judged: Run) -> None:
    """The bundle's mean over its networks, each by the run's own scoring, is what test_predictions.csv holds."""
    import pandas as pd

    table = pd.read_csv(judged.test_predictions)
    rows = pd.read_csv(judged.folder.parents[1] / "data" / "test.csv")
    predictor, images = Predictor(judged.folder), judged.folder.parents[1] / "data" / "jpeg" / "test"
    for name, probability in zip(table["image_name"], table["probability"], strict=True):
        row = rows[rows["image_name"] == name].iloc[0]
        known = [
            None if pd.isna(row[one]) else row[one] for one in ("age_approx", "sex", "anatom_site_general_challenge")
        ]
        picture = predictor.read(name, images / f"{name}.jpg")
        assert predictor.judge([picture], [Details(*known)]).score[0] == pytest.approx(probability, abs=1e-5)


def test_many_pictures_are_answered_in_order_a_bad_one_among_them(predictor: Predictor, lesions: list[Path]) -> None:
    given = [*lesions[:11], b"no picture", *lesions[11:20]]
    answers = predictor.answer(given, maps=False)
    assert [one.status == "error" for one in answers].index(True) == 11
    assert answers[11].error is not None and "image 11" in answers[11].error
    alone = [predictor.answer(one, maps=False)[0] for one in (*given[:11], *given[12:])]
    for one, other in zip([*answers[:11], *answers[12:]], alone, strict=True):
        assert one.name == other.name or one.name.startswith("image")
        assert (one.status, one.label) == (other.status, other.label)
        if one.score is not None:
            assert one.score == pytest.approx(other.score, abs=1e-6)


def test_proba_refuses_what_cannot_be_read(predictor: Predictor, lesions: list[Path]) -> None:
    with pytest.raises(DataError, match="absent"):
        predictor.predict_proba([lesions[0], Path("absent.jpg")])


def test_maps_come_where_they_are_asked_for(predictor: Predictor, lesions: list[Path]) -> None:
    assert predictor.answer(lesions[0], maps=False)[0].activation_map is None
    (answer,) = predictor.answer(lesions[0])
    assert answer.activation_map is not None and answer.activation_map.dtype == np.float32
    assert "activation_map" not in answer.to_json()
    assert json.dumps(answer.to_json())


def test_a_prevalence_moves_the_probability_by_bayes_and_no_answer(judged: Run, lesions: list[Path]) -> None:
    predictor = Predictor(judged.folder)
    own = predictor.answers["prevalence_of_the_data"]
    before, after = (predictor.answer(lesions, Details(prevalence=share), maps=False) for share in (own, 0.01))
    told = [(one, other) for one, other in zip(before, after, strict=True) if one.probability is not None]
    assert told
    for one, other in told:
        assert other.probability == pytest.approx(rebased(np.array([one.probability]), own, 0.01)[0])
        assert (one.status, one.label, one.score) == (other.status, other.label, other.score)


def test_age_sex_and_site_change_the_score_of_a_bundle_that_uses_them(
    predictor: Predictor, lesions: list[Path]
) -> None:
    assert predictor.uses_metadata
    picture = predictor.read("lesion", lesions[0])
    scores = predictor.judge([picture] * 3, [Details(), Details(85, "male", "head/neck"), Details(20)]).score
    assert len(set(scores.round(9))) == 3
    (answer,) = predictor.answer(lesions[0], Details(site="elbow"), maps=False)
    assert any("elbow" in remark for remark in answer.remarks)


def test_words_name_the_operating_point_and_statuses_follow_the_conformal_limits(
    judged: Run, lesions: list[Path], tmp_path: Path
) -> None:
    scores = [one.score for one in Predictor(judged.folder).answer(lesions[:30], maps=False) if one.score is not None]
    low, high = (float(one) for one in np.quantile(scores, [0.3, 0.7]))
    bundle = edited(judged, tmp_path, conformal={"melanoma_from": low, "benign_upto": high, "level": 0.9})
    predictor = Predictor(bundle)
    seen = set()
    for one in predictor.answer(lesions[:30], maps=False):
        if one.score is not None:
            assert one.status == ("benign" if one.score < low else "melanoma" if one.score > high else "refer")
            seen.add(one.status)
    assert seen == {"melanoma", "benign", "refer"}
    point = predictor.operating_point
    assert point is not None
    found = f"found {100 * point['sensitivity']['value']:.0f} % of the melanomas"
    threshold = predictor.answers["threshold"]
    suspect = in_words(threshold, "melanoma", threshold, point)
    assert found in suspect and "At or above" in suspect
    assert "Below" in in_words(0.0, "benign", threshold, point)
    assert in_words(0.4, "refer", 0.5, None) == (
        "Refer: the score alone does not tell, so the lesion should be seen by somebody who can. "
        "Below the threshold 0.5, which was set, not measured."
    )


def test_without_conformal_limits_whatever_is_assessable_is_referred(
    judged: Run, lesions: list[Path], tmp_path: Path
) -> None:
    predictor = Predictor(edited(judged, tmp_path, conformal=None))
    found = {one.status for one in predictor.answer(lesions[:20], maps=False)}
    assert "refer" in found and found <= {"refer", "not assessable"}


@pytest.mark.parametrize(
    "wrong", [{"age_years": -1}, {"age_years": 300}, {"sex": "f"}, {"prevalence": 0}, {"prevalence": 1}]
)
def test_what_no_patient_can_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Details(**wrong)  # type: ignore[arg-type]


def test_a_bundle_that_was_never_judged_or_is_missing_or_of_another_version_says_so(
    judged: Run, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="neither a bundle nor a run"):
        Predictor(tmp_path)
    for name, value, said in (("answers", None, "never judged"), ("schema_version", 1, "another version")):
        bundle = tmp_path / name
        shutil.copytree(judged.bundle, bundle)
        description = json.loads((bundle / "model.json").read_text()) | {name: value}
        write_json(bundle / "model.json", description)
        sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(bundle.iterdir()) if path.name != SUMS]
        (bundle / SUMS).write_text("".join(sums))
        with pytest.raises(ModelError, match=said):
            Predictor(bundle)
    with pytest.raises(UsageError, match="views"):
        Predictor(judged.folder, views=3)


@pytest.mark.parametrize("name", ["fold-0.onnx", "model.json", "gate.npz", "CARD.md"])
def test_a_bundle_with_one_byte_changed_is_refused(judged: Run, tmp_path: Path, name: str) -> None:
    shutil.copytree(judged.bundle, tmp_path / "bundle")
    content = bytearray((tmp_path / "bundle" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bundle" / name).write_bytes(content)
    with pytest.raises(ModelError, match="differs from its hash"):
        read_bundle(tmp_path / "bundle")


NAN = float("nan")
EDITS: list[Callable[[dict[str, Any]], object]] = [
    *(
        lambda told, name=name: told.pop(name)
        for name in ("name", "runs", "networks", "answers", "figures", "gate", "data")
    ),
    *(
        lambda told, name=name: told["answers"].pop(name)
        for name in ("threshold", "prevalence", "operating_point", "operating_points", "conformal", "calibrator")
    ),
    lambda told: told["data"].pop("licence"),
    lambda told: told["figures"].pop("auc"),
    lambda told: told["figures"]["auc"].update(value=7),
    lambda told: told["figures"]["auc"].update(low="0.1"),
    lambda told: told["figures"].update(limits=[1]),
    lambda told: told.update(name=["a"]),
    *(lambda told, one=one: told["answers"].update(threshold=one) for one in ("0.1", 10**400, True, NAN, -1.0, None)),
    *(lambda told, one=one: told["answers"].update(prevalence_of_the_data=one) for one in (5, 0, NAN, "0.1")),
    *(lambda told, one=one: told["answers"].update(conformal=one) for one in ({}, [], 0)),
    lambda told: told["answers"]["operating_points"][0].update(sensitivity=None),
    lambda told: told["answers"].update(operating_points=[{}]),
    lambda told: told["answers"].update(operating_point=0.123),
    *(lambda told, one=one: told["runs"][0].update(views=one) for one in (8.0, True, 2, -1)),
    *(lambda told, one=one: told["runs"][0]["images"].update(size_px=one) for one in (33, 64, 10**9)),
    lambda told: told["runs"][0].update(metadata=False),
    lambda told: told["networks"][0].update(run=0.0),
    lambda told: told["networks"][0].update(file="../fold-0.onnx"),
    lambda told: told["networks"][0]["encoder"].update(sites=["torso", "unknown"]),
]


@pytest.mark.parametrize("edit", EDITS, ids=range(len(EDITS)))
def test_a_bundle_whose_description_cannot_be_is_refused_before_it_answers(
    judged: Run, tmp_path: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(ModelError):
        Predictor(rewritten(judged, tmp_path, edit), few=True)


def test_a_bundle_that_leaves_something_out_of_its_hashes_is_refused(judged: Run, tmp_path: Path) -> None:
    for number, name in enumerate(("model.json", "gate.npz", "fold-1.onnx", "CARD.md")):
        bundle = tmp_path / str(number)
        shutil.copytree(judged.bundle, bundle)
        lines = (bundle / SUMS).read_text().splitlines(keepends=True)
        (bundle / SUMS).write_text("".join(line for line in lines if name not in line))
        with pytest.raises(ModelError, match="no hash"):
            read_bundle(bundle)
    (tmp_path / "0" / SUMS).write_bytes(b"\xff\xfe\0")
    with pytest.raises(ModelError, match="cannot be read"):
        read_bundle(tmp_path / "0")


@pytest.mark.parametrize("wrong", [None, 3, np.zeros((8, 8), np.uint8), {"a": 1}, io.BytesIO(b"x")])
def test_what_is_no_picture_is_refused_by_its_kind(predictor: Predictor, wrong: Any) -> None:
    with pytest.raises(MelanomaError, match=r"\(height, width, 3\)"):
        predictor.predict_proba(wrong)


def test_generators_tuples_and_stacks_are_several_pictures(predictor: Predictor, lesions: list[Path]) -> None:
    stack = np.stack([predictor.read("one", path).images[0] for path in lesions[:3]])
    expected = predictor.predict_proba(list(stack))
    for given in (stack, tuple(stack), iter(stack)):
        np.testing.assert_allclose(predictor.predict_proba(given), expected, atol=1e-9)


def test_other_views_than_were_validated_are_remarked_on(judged: Run, lesions: list[Path]) -> None:
    (answer,) = Predictor(judged.folder, views=8).answer(lesions[0], maps=False)
    assert any("validated with 1 views" in remark for remark in answer.remarks)


def test_an_engine_or_a_precision_that_is_none_is_refused(judged: Run) -> None:
    for wrong in ({"engine": "x"}, {"precision": "x"}, {"views": 8.0}):
        with pytest.raises(UsageError):
            Predictor(judged.folder, **wrong)  # type: ignore[arg-type]


def test_model_json_says_what_the_bundle_is_worth_and_that_it_equals_the_trained_networks(judged: Run) -> None:
    bundle, metrics = read_bundle(judged.folder), json.loads(judged.metrics.read_text())
    told = bundle.description
    assert told["figures"]["auc"] == metrics["auc"]
    assert told["data"]["licence"] == "CC0 1.0"
    assert told["data"]["hashes"] and told["code"]["sha256"]
    for network in told["networks"]:
        assert network["largest_difference"]["images"] > 100
        assert network["largest_difference"]["probability"] < 1e-5
    assert judged.card.read_text() == (bundle.folder / "CARD.md").read_text()


def test_predicting_imports_no_framework_and_no_table_library(judged: Run, lesions: list[Path]) -> None:
    code = (
        "import sys; from melanoma.cli import main; sys.argv[0] = 'melanoma'\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        f"print('imported', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", str(lesions[0]), "--model", str(judged.folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("imported []")


def test_memory_does_not_grow_with_the_number_of_pictures(predictor: Predictor, lesions: list[Path]) -> None:
    content = lesions[0].read_bytes()

    def most(count: int) -> int:
        tracemalloc.start()
        for _ in predictor.stream(("one", content, None) for _ in range(count)):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(20)
    assert most(400) < 1.5 * most(100) + 2**20


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_one_picture_in_every_lossless_format_has_one_score(
    predictor: Predictor, lesions: list[Path], kind: str
) -> None:
    pixels = decode(lesions[0])
    options = {"lossless": True} if kind == "WEBP" else {}
    found = predictor.predict_proba([pixels, saved(Image.fromarray(pixels), kind, **options)])
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)


@needs_shared
def test_a_real_dicom_and_the_jpeg_inside_it_have_the_same_score(predictor: Predictor) -> None:
    import pydicom
    from pydicom.encaps import generate_frames

    for path in DICOMS[:6]:
        with pydicom.dcmread(path) as dicom:
            (inside,) = generate_frames(dicom.PixelData, number_of_frames=1)
        found = predictor.predict_proba([path, inside])
        assert abs(found[0, 1] - found[1, 1]) < 1e-3


@needs_shared
def test_every_original_photograph_and_dicom_is_answered(predictor: Predictor) -> None:
    originals = sorted((SHARED / "isic_originals_cc0").glob("*.jpg"))
    answers = predictor.answer([*originals, *DICOMS], maps=False)
    assert len(answers) == 54
    assert not [one.error for one in answers if one.error]
