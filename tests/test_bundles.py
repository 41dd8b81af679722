"""Bundles copied, published in a folder, and several runs made one that answers by their mean."""

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
    bundle = read_bundle(both)
    tables = [pd.read_csv(run.predictions).set_index("image_name") for run in (judged, other)]
    common = tables[0].join(tables[1]["probability"].rename("other"), how="inner")
    mean = (common["probability"] + common["other"]) / 2
    assert bundle.description["figures"]["auc"]["value"] == pytest.approx(auc(common["target"], mean), abs=1e-9)
    assert bundle.description["figures"]["images"] == len(common)
    assert (both.with_name("both-report") / "report.html").is_file()
    assert bundle.description["figures"]["limits"][0].startswith("The figures are of the mean over runs")
    shares = [read_bundle(run.folder).description["gate"]["kept"] for run in (judged, other)]
    assert bundle.description["gate"]["kept"] == min(shares)
    assert "2 runs, 4 networks" in (both / "CARD.md").read_text()


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
    for name in ("precious", "new"):
        with pytest.raises(UsageError, match="there already"):
            pipeline.export_runs([judged, other], tmp_path / name)


def test_a_network_of_another_bundle_is_refused(judged: Run, other: Run, tmp_path: Path) -> None:
    place = Path(pipeline.publish(judged.folder, str(tmp_path / "copy")))
    (place / "fold-0.onnx").write_bytes((other.bundle / "fold-0.onnx").read_bytes())
    digests = listed_hashes(place / SUMS) | {"fold-0.onnx": sha256(place / "fold-0.onnx")}
    (place / SUMS).write_text("".join(f"{digest}  {one}\n" for one, digest in digests.items()))
    with pytest.raises(ModelError, match="does not go with"):
        Predictor(place, few=True)
