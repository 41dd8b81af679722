"""A network in int8: standard operators, the same answers by every engine, and a loss that is measured and said."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_engine import exported
from tiny import TINY

from melanoma import bundling, pipeline
from melanoma.data.synthetic import make_dataset
from melanoma.errors import ModelError
from melanoma.inference.bundle import read_bundle
from melanoma.inference.engine import Choice, Engine
from melanoma.inference.scoring import sigmoid
from melanoma.models.backend import BACKEND
from melanoma.runs import Run
from melanoma.training import quantize
from melanoma.training.quantize import CALIBRATION_IMAGES, measured_loss, shrink_network

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
    assert loss["auc_lost"] == pytest.approx(loss["auc_float32"] - loss["auc_rounded"])
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
    bundling._quantized(whole, 0, settings, prepared, network)
    said = capsys.readouterr().err
    assert "int8, fold 0: AUC 0." in said
    assert "this is much" in said


def test_a_bundle_without_int8_says_how_to_get_it(whole: Run, tmp_path: Path) -> None:
    bundle = read_bundle(whole.folder)
    for network in bundle.description["networks"]:
        del network["int8"]
    with pytest.raises(ModelError, match="exported with"):
        bundle.networks_in("int8")


def test_weights_kept_in_float16_take_half_of_the_room_and_are_computed_with_in_float32(whole: Run) -> None:
    (exact,) = read_bundle(whole.folder).networks_in("float32")
    small = whole.fold(0) / "half.onnx"
    small.write_bytes(exact.read_bytes())
    shrink_network(small, "float16")
    assert small.stat().st_size < exact.stat().st_size * 0.6
    pictures = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    expected = sigmoid(Engine(exact, Choice("onnxruntime", "float32")).answer(pictures).logit)
    for engine in ("onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else [])):
        found = sigmoid(Engine(small, Choice(engine, "float32")).answer(pictures).logit)  # type: ignore[arg-type]
        assert 0 < np.abs(found - expected).max() < 2e-3


def test_weights_kept_in_int8_take_less_room_and_are_computed_with_in_float32(whole: Run) -> None:
    (exact,) = read_bundle(whole.folder).networks_in("float32")
    small = whole.fold(0) / "small.onnx"
    small.write_bytes(exact.read_bytes())
    shrink_network(small, "int8")
    assert small.stat().st_size < exact.stat().st_size * 0.4
    kept = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(small).graph.initializer}
    model, rounded = onnx.load(exact), 0
    for tensor in model.graph.initializer:
        kernel = onnx.numpy_helper.to_array(tensor)
        if f"{tensor.name}_float16" in kept:
            again = kept[f"{tensor.name}_float16"].astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(again, tensor.name))
        if f"{tensor.name}_int8" in kept:
            values, scale = kept[f"{tensor.name}_int8"], kept[f"{tensor.name}_scale"]
            axis = 0 if kernel.ndim == 4 else 1
            shape = [-1 if place == axis else 1 for place in range(kernel.ndim)]
            again = values * scale.reshape(shape)
            largest = np.abs(kernel).max(axis=tuple(place for place in range(kernel.ndim) if place != axis))
            assert (np.abs(again - kernel) <= largest.reshape(shape) / 254 + 1e-7).all(), tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(again.astype(np.float32), tensor.name))
            rounded += 1
    assert rounded
    plain = whole.fold(0) / "rounded.onnx"  # the same rounded weights, kept in float32
    onnx.save(model, plain)
    pictures = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    expected = Engine(plain, Choice("onnxruntime", "float32")).answer(pictures).logit
    assert np.abs(expected - Engine(exact, Choice("onnxruntime", "float32")).answer(pictures).logit).max() > 0
    for engine in ("onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else [])):
        found = Engine(small, Choice(engine, "float32")).answer(pictures).logit  # type: ignore[arg-type]
        assert np.abs(found - expected).max() <= 1e-4, engine


def test_small_kernels_and_so_depthwise_ones_go_into_float16_where_others_go_into_int8(tmp_path: Path) -> None:
    path = tmp_path / "mobile.onnx"
    exported(path, "MobileNet_0.25", 32)
    model = onnx.load(path)
    used = {node.input[1] for node in model.graph.node if node.op_type in quantize.KERNEL_SECOND}
    kernels = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer if one.name in used}
    assert sum(kernel.ndim == 4 and kernel.shape[1] == 1 for kernel in kernels.values()) == 13
    shrink_network(path, "int8")
    kept = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    for name, kernel in kernels.items():
        if kernel.size <= 2**15:
            np.testing.assert_array_equal(kept[f"{name}_float16"], kernel.astype(np.float16))
        else:
            assert kept[f"{name}_int8"].dtype == np.int8
    assert sum(name.endswith("_int8") for name in kept) == 1  # from 256 channels to 256


def test_a_bundle_whose_weights_are_kept_in_int8_tells_what_that_loses(whole: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "copy")
    shutil.copytree(whole.folder, run.folder)
    settings = run.settings(["evaluate.storage=int8", "evaluate.precision=float32"])
    before = read_bundle(run.folder).networks[0].stat().st_size
    bundle = bundling.export(run, settings, pipeline.reopen(run, settings))
    (network,) = bundle.description["networks"]
    assert network["kept"]["in"] == "int8" and network["kept"]["auc_lost"] is not None
    assert bundle.networks[0].stat().st_size < before / 3
    written = bundle.networks[0].stat().st_mtime_ns
    assert bundling.export(run, settings, pipeline.reopen(run, settings)).networks[0].stat().st_mtime_ns == written
    whole_again = bundling.export(run, run.settings(), pipeline.reopen(run, run.settings()))
    assert whole_again.networks[0].stat().st_size == before
