"""Every engine: the same answers as the plain one, alone or in a batch; what reaches beyond the file is refused."""

import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from melanoma.config import settings_from
from melanoma.errors import MissingExtraError, ModelError, UsageError
from melanoma.inference import engine as engines
from melanoma.inference.engine import OUTPUTS, Choice, Engine, choose
from melanoma.inference.scoring import dihedral, score, sigmoid
from melanoma.models.backend import BACKEND, keras
from melanoma.models.classifier import answering, build_classifier
from melanoma.training.export import write_onnx

onnx = pytest.importorskip("onnx", reason="the extra train, which brings onnx, is not installed")
if BACKEND != "torch":
    pytest.skip("networks are exported by Keras on PyTorch", allow_module_level=True)

SIZE_PX = 32
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="the extra openvino is not installed")
PLAIN = Choice("onnxruntime", "float32")
CHOICES = [
    pytest.param(PLAIN, 1e-5, id="onnxruntime-float32"),
    pytest.param(Choice("openvino", "float32"), 1e-5, id="openvino-float32", marks=needs_openvino),
    pytest.param(Choice("openvino", "bfloat16"), 5e-3, id="openvino-bfloat16", marks=needs_openvino),
]


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def randomised(network: object) -> None:
    """Give batch normalisation something to do, which a new network's does not."""
    random = np.random.default_rng(0)
    for weight in network.weights:  # type: ignore[attr-defined]
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        if weight.path.endswith(("beta", "moving_mean")):
            weight.assign(random.normal(0, 0.3, weight.shape))


def exported(path: Path, backbone: str, size_px: int, features: int = 0) -> object:
    """Write a network of random weights as the package does and return it as Keras has it."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    sections = {"model": {"backbone": backbone, "metadata": bool(features)}, "images": {"size_px": size_px}}
    settings = settings_from(sections)
    classifier = build_classifier(settings.model, settings.images, features, weights="none", plain=True)
    randomised(classifier)
    network = answering(classifier)
    pictures = np.random.default_rng(0).integers(0, 256, (2, size_px, size_px, 3), dtype=np.uint8)
    metadata = np.zeros((2, features), np.float32) if features else None
    write_onnx(path, network, pictures, metadata)
    return network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    exported(path, "small", SIZE_PX)
    return path


@pytest.fixture(scope="module")
def with_metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metadata") / "network.onnx"
    exported(path, "small", SIZE_PX, features=3)
    return path


def opened(path: Path, choice: Choice) -> Engine:
    if choice.precision == "bfloat16" and not engines._has_bfloat16(engines._core()):
        pytest.skip("this processor has no bfloat16")
    return Engine(path, choice)


@pytest.mark.parametrize(("choice", "tolerance"), CHOICES)
def test_an_image_gets_the_same_answer_alone_in_a_batch_and_in_any_order(
    network: Path, choice: Choice, tolerance: float
) -> None:
    engine, pictures, order = opened(network, choice), images(11), np.random.default_rng(1).permutation(11)
    together = sigmoid(engine.answer(pictures).logit)
    alone = np.concatenate([sigmoid(engine.answer(picture[None]).logit) for picture in pictures])
    assert np.abs(together - alone).max() <= tolerance
    assert np.abs(together[order] - sigmoid(engine.answer(pictures[order]).logit)).max() <= tolerance
    assert np.abs(together - score(engine, pictures, np.arange(11))).max() <= tolerance
    assert np.abs(together - sigmoid(Engine(network, PLAIN).answer(pictures).logit)).max() <= max(tolerance, 1e-4)


@pytest.mark.parametrize(("choice", "tolerance"), CHOICES)
def test_eight_views_are_the_mean_of_eight_plain_answers(network: Path, choice: Choice, tolerance: float) -> None:
    engine, pictures = opened(network, choice), images(6)
    plain = np.mean([engine.answer(view).logit for view in dihedral(pictures, 8)], axis=0)
    assert np.abs(score(engine, pictures, np.arange(6), views=8) - sigmoid(plain)).max() <= tolerance


@pytest.mark.parametrize(("choice", "tolerance"), CHOICES)
def test_each_image_is_judged_with_its_own_metadata(with_metadata: Path, choice: Choice, tolerance: float) -> None:
    engine, pictures = opened(with_metadata, choice), images(7)
    table = np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32)
    alone = [engine.answer(pictures[[row]], table[[row]]).logit[0] for row in range(7)]
    assert np.ptp(sigmoid(np.array(alone) - engine.answer(pictures, np.zeros_like(table)).logit)) > 0.01
    assert np.abs(score(engine, pictures, np.arange(7), table) - sigmoid(np.array(alone))).max() <= tolerance
    eight = [engine.answer(view, table).logit for view in dihedral(pictures, 8)]
    assert np.abs(score(engine, pictures, np.arange(7), table, views=8) - sigmoid(np.mean(eight, 0))).max() <= tolerance


@pytest.mark.parametrize("choice", [choice.values[0] for choice in CHOICES[:2]], ids=str)
def test_map_and_features_come_in_the_images_order(network: Path, choice: Choice) -> None:
    if choice.engine == "openvino" and not HAS_OPENVINO:
        pytest.skip("the extra openvino is not installed")
    engine, pictures = Engine(network, choice), images(9)
    answer = engine.answer(pictures)
    assert answer.activation_map.shape == (9, 2, 2)
    assert answer.features.shape == (9, 128)
    assert np.allclose(answer.activation_map.mean(axis=(1, 2)), answer.logit, atol=1e-4)
    assert np.allclose(engine.answer(pictures[::-1]).features[::-1], answer.features, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "turns"),
    [("small", 2), ("MobileNet_0.25", 2), ("EfficientNetLite0", 2), ("DenseNet121", 2), ("ResNet50V2", 2)],
)
def test_an_exported_network_is_folded_and_still_the_same(tmp_path: Path, backbone: str, turns: int) -> None:
    path = tmp_path / "network.onnx"
    plain = exported(path, backbone, 64)
    graph = onnx.load(path)
    operators = [node.op_type for node in graph.graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Transpose") <= turns  # the image's and the map's
    assert "Shape" not in operators
    assert "Pad" not in operators or backbone in ("DenseNet121", "ResNet50V2")  # they pad before they pool
    assert [operators.domain for operators in graph.opset_import] == [""]
    pictures = np.random.default_rng(3).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    logit, activation_map, features = plain.predict_on_batch(pictures.astype(np.float32))  # type: ignore[attr-defined]
    answer = Engine(path, PLAIN).answer(pictures)
    for found, expected in zip(
        (answer.logit, answer.activation_map, answer.features),
        (logit[:, 0], activation_map[..., 0], features),
        strict=True,
    ):
        assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def test_no_convolution_is_followed_by_a_product_or_a_sum_of_constants(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    exported(path, "MobileNet_0.25", 64)
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    convolved = {name for node in graph.node if node.op_type == "Conv" for name in node.output}
    arithmetic = [node for node in graph.node if node.op_type in ("Add", "Sub", "Mul", "Div")]
    assert not [node.name for node in arithmetic if set(node.input) & convolved and set(node.input) & constants]


def test_a_network_that_reaches_into_another_file_is_refused(network: Path, tmp_path: Path) -> None:
    model = onnx.load(network)
    onnx.save(model, tmp_path / "outside.onnx", save_as_external_data=True, location="numbers.bin", size_threshold=0)
    with pytest.raises(ModelError, match="numbers kept in another file"):
        Engine(tmp_path / "outside.onnx", PLAIN)


def test_foreign_operators_are_refused(network: Path, tmp_path: Path) -> None:
    model = onnx.load(network)
    model.graph.node[0].domain = "com.microsoft"
    onnx.save(model, tmp_path / "node.onnx")
    model = onnx.load(network)
    model.opset_import.append(onnx.helper.make_opsetid("org.example", 1))
    onnx.save(model, tmp_path / "family.onnx")
    for name in ("node.onnx", "family.onnx"):
        with pytest.raises(ModelError, match="operators that are not ONNX's own"):
            Engine(tmp_path / name, PLAIN)


def test_external_numbers_inside_a_branch_are_found(tmp_path: Path) -> None:
    outside = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=1)
    outside.external_data.add(key="location", value="/etc/hostname")
    constant = onnx.helper.make_node("Constant", [], ["y"], value=outside)
    branch = onnx.helper.make_graph([constant], "branch", [], [onnx.ValueInfoProto(name="y")])
    node = onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [])), tmp_path / "branch.onnx")
    with pytest.raises(ModelError, match="numbers kept in another file"):
        Engine(tmp_path / "branch.onnx", PLAIN)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff" * 100, b"\x08\x08"], ids=["empty", "html", "ones", "bare"])
@pytest.mark.parametrize("choice", [choice.values[0] for choice in CHOICES[:2]], ids=str)
def test_what_is_no_network_is_refused(tmp_path: Path, content: bytes, choice: Choice) -> None:
    if choice.engine == "openvino" and not HAS_OPENVINO:
        pytest.skip("the extra openvino is not installed")
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        Engine(tmp_path / "bad.onnx", choice)
    with pytest.raises(ModelError, match=r"none\.onnx"):
        Engine(tmp_path / "none.onnx", choice)


def test_another_network_is_refused(tmp_path: Path) -> None:
    value = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=f"its outputs are not {', '.join(OUTPUTS)}"):
        Engine(tmp_path / "other.onnx", PLAIN)


def test_openvino_is_chosen_where_it_is_installed_and_bfloat16_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose("onnxruntime") == PLAIN
    assert choose("onnxruntime", "int8") == Choice("onnxruntime", "int8")
    with pytest.raises(UsageError, match="bfloat16 needs"):
        choose("onnxruntime", "bfloat16")
    if HAS_OPENVINO:
        for faster, precision in ((True, "bfloat16"), (False, "float32")):
            monkeypatch.setattr(engines, "multiplies_bfloat16_faster", lambda faster=faster: faster)
            monkeypatch.setattr(engines, "_has_bfloat16", lambda core: True)
            assert choose() == Choice("openvino", precision)  # type: ignore[arg-type]
        monkeypatch.setattr(engines, "_has_bfloat16", lambda core: False)
        with pytest.raises(UsageError, match="no bfloat16"):
            choose(precision="bfloat16")
        assert str(choose("openvino", "float32")).startswith("OpenVINO 20")


@needs_openvino
def test_depthwise_convolutions_are_computed_in_float32_beside_others_in_bfloat16(tmp_path: Path) -> None:
    exported(tmp_path / "mobile.onnx", "MobileNet_0.25", SIZE_PX)
    core = engines._core()
    if not engines._has_bfloat16(core):
        pytest.skip("this processor has no bfloat16")
    model = engines._depthwise_in_float32(core, core.read_model(tmp_path / "mobile.onnx"))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    told = [operator.get_rt_info() for operator in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in told]
    convolutions = Counter(precision for kind, precision in kinds if kind == "Convolution")
    depthwise = sum(operator.get_type_name() == "GroupConvolution" for operator in model.get_ops())
    assert convolutions["f32"] == depthwise > 0
    assert convolutions["bf16"] > 0


def test_without_openvino_it_is_onnx_runtime_or_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    engines._openvino.cache_clear()
    monkeypatch.setattr(engines, "_core", engines._core.__wrapped__)  # the process's own core stays
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    assert choose() == PLAIN
    with pytest.raises(MissingExtraError, match=r"pip install 'melanoma\[openvino\]'"):
        choose("openvino")
    with pytest.raises(MissingExtraError):
        choose(precision="bfloat16")


SCORES = """
import socket, sys
from pathlib import Path
def refuse(*arguments, **names): raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
import numpy as np
from melanoma.inference.bundle import read_bundle
from melanoma.inference.engine import Engine, choose
from melanoma.inference.scoring import score
images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
engine = Engine(Path(sys.argv[1]), choose(sys.argv[2]))
assert score(engine, images, np.arange(6), views=8).shape == (6,)
heavy = ("keras", "torch", "jax", "tensorflow", "pandas", "sklearn", "onnx", "openvino_telemetry")
print(*(name for name in heavy if sys.modules.get(name)))
"""


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_scoring_imports_no_framework_calls_nobody_and_leaves_no_file(network: Path, tmp_path: Path, name: str) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    source = str(Path(engines.__file__).parents[2])
    environment = {"HOME": str(home), "TMPDIR": str(work), "PATH": "", "PYTHONPATH": source}
    command = [sys.executable, "-c", SCORES, str(network), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=work)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
    assert [path for path in (*home.rglob("*"), *work.rglob("*")) if path.is_file()] == []


@pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO is not installed")
def test_ctrl_c_is_taken_after_networks_have_come_and_gone(network: Path) -> None:
    # each of OpenVINO's cores puts up a stack for signals: several, gone in any order, would leave a dangling one
    code = (
        "import gc, os, signal, sys, time\nfrom pathlib import Path\n"
        "from melanoma.inference.engine import Choice, Engine\n"
        f"first = Engine(Path({str(network)!r}), Choice('openvino', 'float32'))\n"
        f"second = Engine(Path({str(network)!r}), Choice('openvino', 'float32'))\n"
        "del first\ngc.collect()\ndel second\ngc.collect()\n"
        "blocks = [bytearray(9999) for _ in range(999)]\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # it is ignored where tests run in the background
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(30)\nexcept KeyboardInterrupt:\n    sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 7
