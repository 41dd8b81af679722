"""A network in int8: standard operators, the same answers by every engine, and a loss that is measured and said."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY

from melanoma import pipeline
from melanoma.data.synthetic import make_dataset
from melanoma.errors import ModelError
from melanoma.inference.bundle import read_bundle
from melanoma.inference.engine import Choice, Engine
from melanoma.inference.scoring import sigmoid
from melanoma.models.backend import BACKEND
from melanoma.runs import Run
from melanoma.training import quantize
from melanoma.training.quantize import CALIBRATION_IMAGES, measured_loss

onnx = pytest.importorskip("onnx", reason="the extra train, which brings onnx, is not installed")
if BACKEND != "torch":
    pytest.skip("networks are exported by Keras on PyTorch", allow_module_level=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = tmp_path_factory.mktemp("embedded") / "data"
    make_dataset(data, images=160, test_images=20)
    runs = tmp_path_factory.mktemp("runs")
    return pipeline.run(data, "demo", [*TINY, "evaluate.precision=int8"], name="int8", runs=runs)


def test_the_bundle_tells_what_int8_loses(whole: Run) -> None:
    (network,) = read_bundle(whole.folder).description["networks"]
    row = network["int8"]
    assert 0 < row["calibration_images"] <= CALIBRATION_IMAGES
    loss = row["held_out"]
    assert loss["auc_lost"] == pytest.approx(loss["auc_float32"] - loss["auc_int8"])
    assert 0 < loss["largest_difference"] < 0.1
    assert "in int8" in json.loads(whole.environment.read_text())["scored_by"]
    assert "in int8" in whole.report.read_text()


def test_int8_is_standard_onnx_that_every_engine_answers_alike(whole: Run) -> None:
    bundle = read_bundle(whole.folder)
    (path,), (exact,) = bundle.networks_in("int8"), bundle.networks_in("float32")
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    kernels = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert list(kernels.values()).count(onnx.TensorProto.INT8) >= 4  # one a convolution
    pictures = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    expected = sigmoid(Engine(exact, Choice("onnxruntime", "float32")).answer(pictures).logit)
    for engine in ("onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else [])):
        opened = Engine(path, Choice(engine, "int8"))  # type: ignore[arg-type]
        found = sigmoid(opened.answer(pictures).logit)
        alone = sigmoid(np.array([opened.answer(picture[None]).logit[0] for picture in pictures]))
        assert np.abs(found - expected).max() < 0.1
        assert np.abs(found - alone).max() <= 1e-5


def test_a_loss_is_told_to_the_user_and_one_class_has_none(
    whole: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read_bundle(whole.folder)
    (path,), (exact,) = bundle.networks_in("int8"), bundle.networks_in("float32")
    pictures = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    rows = np.arange(6)
    one_class = measured_loss(exact, path, pictures, rows, metadata=None, target=np.zeros(6, np.int64))
    assert one_class["auc_lost"] is None
    monkeypatch.setattr(quantize, "MUCH_LOST", -1.0)
    settings = whole.settings()
    prepared = pipeline.reopen(whole, settings)
    network = whole.fold(0) / "again.onnx"
    network.write_bytes(exact.read_bytes())
    pipeline._quantized(whole, 0, settings, prepared, network)
    said = capsys.readouterr().err
    assert "int8, fold 0: AUC 0." in said
    assert "this is much" in said


def test_a_bundle_without_int8_says_how_to_get_it(whole: Run, tmp_path: Path) -> None:
    bundle = read_bundle(whole.folder)
    for network in bundle.description["networks"]:
        del network["int8"]
    with pytest.raises(ModelError, match="exported with"):
        bundle.networks_in("int8")
