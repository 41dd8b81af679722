"""Model files that somebody made to do harm are refused before anything of them runs."""

import io
import json
import shutil
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from test_engine import PLAIN, needs_openvino, onnx

from melanoma.config import ModelSettings
from melanoma.errors import MelanomaError, ModelError
from melanoma.files import sha256
from melanoma.inference.assess import Gate
from melanoma.inference.bundle import LARGEST_DESCRIPTION_BYTES, MODEL, SUMS, listed_hashes, read_bundle
from melanoma.inference.engine import OUTPUTS, Choice, Engine, EngineName
from melanoma.inference.onnx_file import check_onnx
from melanoma.models.backbones import build_backbone
from melanoma.runs import Run
from melanoma.training.state import read_position

h5py = pytest.importorskip("h5py")
helper = onnx.helper
SOON_SECONDS = 5.0

# ---- ONNX --------------------------------------------------------------------------------------------------------


def network(path: Path, *nodes: object, **constants: object) -> Path:
    """Write a network with this package's inputs and outputs whose features are an image's mean and `bomb`."""
    given = {"axes": [1, 2], "one": [1], "shape": [-1, 1, 1, 1], **constants}
    numbers = [onnx.numpy_helper.from_array(np.array(value), name) for name, value in given.items()]
    every = [
        helper.make_node("Cast", ["image"], ["pixels"], to=1),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        *nodes,
        helper.make_node("Add", ["mean", "bomb"], ["features"]),
        helper.make_node("ReduceMean", ["features", "one"], ["logit"]),
        helper.make_node("Reshape", ["logit", "shape"], ["activation_map"]),
    ]
    inputs = [helper.make_tensor_value_info("image", 2, ["batch", 32, 32, 3])]
    shapes = (["batch", 1], ["batch", 1, 1, 1], ["batch", 3])
    outputs = [helper.make_tensor_value_info(name, 1, shape) for name, shape in zip(OUTPUTS, shapes, strict=True)]
    graph = helper.make_graph(every, "g", inputs, outputs, numbers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def summed(name: str) -> object:
    return helper.make_node("ReduceSum", [name], ["bomb"], keepdims=0)


LONG = 2**40
SIDE = np.ones((1, 2**14), np.float32)
BOMBS: dict[str, tuple[list[object], dict[str, object], str]] = {
    "zeros": ([helper.make_node("ConstantOfShape", ["n"], ["c"]), summed("c")], {"n": [LONG]}, "ConstantOfShape"),
    "range": (
        [helper.make_node("Range", ["a", "n", "d"], ["c"]), summed("c")],
        {"a": np.int64(0), "n": np.int64(LONG), "d": np.int64(1)},
        "Range",
    ),
    "expand": (
        [helper.make_node("Expand", ["mean", "n"], ["c"]), summed("c")],
        {"n": [LONG, 1, 1]},
        "Expand",
    ),
    "outer product": (
        [helper.make_node("Mul", ["x", "y"], ["c"]), summed("c")],
        {"x": SIDE, "y": SIDE.T},
        "constants alone",
    ),
    "constant as text": (
        [helper.make_node("Cast", ["x"], ["c"], to=onnx.TensorProto.STRING), summed("c")],
        {"x": SIDE},
        "constants alone",
    ),
    "padded constant": (
        [helper.make_node("Pad", ["x", "n"], ["c"]), summed("c")],
        {"x": SIDE, "n": [0, 0, 0, LONG]},
        "constants alone",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_network_that_would_fill_the_memory_is_refused(tmp_path: Path, bomb: str) -> None:
    nodes, constants, said = BOMBS[bomb]
    path = network(tmp_path / "bomb.onnx", *nodes, **constants)
    with pytest.raises(ModelError, match=said):
        check_onnx(path)


def test_the_same_network_without_a_bomb_is_taken(tmp_path: Path) -> None:
    path = network(tmp_path / "plain.onnx", bomb=np.float32(0))
    assert Engine(path, PLAIN).answer(np.zeros((2, 32, 32, 3), np.uint8)).logit.shape == (2,)


def test_a_loop_and_a_second_graph_are_refused(tmp_path: Path) -> None:
    body = helper.make_graph([], "body", [], [])
    loop = helper.make_node("Loop", ["one", "one", "mean"], ["bomb"], body=body)
    with pytest.raises(ModelError, match="Loop"):
        check_onnx(network(tmp_path / "loop.onnx", loop))
    path = network(tmp_path / "twice.onnx", bomb=np.float32(0))
    path.write_bytes(path.read_bytes() * 2)  # a parser makes one network of both
    with pytest.raises(ModelError, match="2 graphs"):
        check_onnx(path)


def test_graphs_in_graphs_without_end_are_refused(tmp_path: Path) -> None:
    content = b""
    for field in (*(6, 5, 1) * 1000, 7):  # a model's graph's node's attribute's graph's node's attribute's graph ...
        length, size = bytearray(), len(content)
        while size > 127:
            length.append(size & 127 | 128)
            size >>= 7
        content = bytes([field << 3 | 2, *length, size]) + content
    (tmp_path / "deep.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"deep\.onnx"):
        check_onnx(tmp_path / "deep.onnx")


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_numbers_that_are_fewer_than_their_shape_says_are_refused(tmp_path: Path, name: EngineName) -> None:
    path = network(tmp_path / "lies.onnx", bomb=np.float32(0))
    model = onnx.load(path)
    (bomb,) = (one for one in model.graph.initializer if one.name == "bomb")
    bomb.dims[:] = [2**20, 2**20]
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"lies\.onnx"):
        Engine(path, Choice(name, "float32"))


# ---- archives of arrays ------------------------------------------------------------------------------------------


def deflated() -> bytes:
    """Make an archive of 1 MB that holds a gigabyte."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("v00000.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**30,)})
        for _ in range(2**10):
            file.write(bytes(2**20))
    return content.getvalue()


def overlapping() -> bytes:
    """Make an archive whose thousand members are the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("v.npy", bytes(2**20))
        (member,) = archive.infolist()
        archive.filelist.extend([member] * 999)
    return content.getvalue()


def boasting() -> bytes:
    """Make an archive whose array says that it has a million times what it has."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive, archive.open("v00000.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)})
    return content.getvalue()


def pickled() -> bytes:
    content = io.BytesIO()
    np.savez(content, v00000=np.array([print], dtype=object))
    return content.getvalue()


def lone() -> bytes:
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    return content.getvalue()


@pytest.mark.parametrize("made", [deflated, overlapping, boasting, pickled, lone])
def test_an_archive_that_is_more_than_it_seems_is_refused_in_a_gate_and_in_a_state(
    tmp_path: Path, made: Callable[[], bytes]
) -> None:
    content, started = made(), time.monotonic()
    with pytest.raises(ModelError, match=r"gate\.npz"):
        Gate.from_bytes(content, 1)
    (tmp_path / "state.npz").write_bytes(content)
    with pytest.raises(MelanomaError, match=r"state\.npz is damaged"):
        read_position(tmp_path / "state.npz")
    assert time.monotonic() < started + SOON_SECONDS


# ---- the description ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        "9" * 10_000,
        '{"schema_version": 1e400}',
        '{"schema_version": NaN}',
        "null",
        "\ud800".encode("utf-8", "surrogatepass"),
        " " * (LARGEST_DESCRIPTION_BYTES + 1),
    ],
    ids=["lists", "objects", "number", "infinite", "nan", "null", "no text", "large"],
)
def test_a_description_that_no_reader_should_read_is_refused(judged: Run, tmp_path: Path, text: str | bytes) -> None:
    bundle = Path(shutil.copytree(judged.bundle, tmp_path / "bundle"))
    (bundle / MODEL).write_bytes(text.encode() if isinstance(text, str) else text)
    digests = listed_hashes(bundle / SUMS) | {MODEL: sha256(bundle / MODEL)}
    (bundle / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    started = time.monotonic()
    with pytest.raises(ModelError, match="bundle"):
        read_bundle(bundle)
    assert time.monotonic() < started + SOON_SECONDS


@pytest.mark.parametrize(
    "value", [10**9, 10**400, -1, 1e300, True, None, "9", [], {}], ids=lambda value: f"{value!r:.9}"
)
def test_an_absurd_number_anywhere_in_a_description_is_refused_or_harmless(
    judged: Run, tmp_path: Path, value: object
) -> None:
    told = json.loads((judged.bundle / MODEL).read_text())
    places = [(where, name) for where in (told["runs"][0], told["networks"][0], told["networks"][0]["encoder"])
              for name in where]  # fmt: skip
    bundle = Path(shutil.copytree(judged.bundle, tmp_path / "bundle"))
    for where, name in places:
        kept, where[name] = where[name], value
        (bundle / MODEL).write_text(json.dumps(told))
        digests = listed_hashes(bundle / SUMS) | {MODEL: sha256(bundle / MODEL)}
        (bundle / SUMS).write_text("".join(f"{digest}  {one}\n" for one, digest in digests.items()))
        with suppress(ModelError):
            read_bundle(bundle)
        where[name] = kept


# ---- weights -----------------------------------------------------------------------------------------------------


def external(file: "h5py.File", name: str, beside: Path) -> None:
    file[name] = h5py.ExternalLink(str(beside), "w")


def raw(file: "h5py.File", name: str, beside: Path) -> None:
    file.create_dataset(name, (8,), "f4", external=[(str(beside), 0, h5py.h5f.UNLIMITED)])


def virtual(file: "h5py.File", name: str, beside: Path) -> None:
    layout = h5py.VirtualLayout((8,), "f4")
    layout[...] = h5py.VirtualSource(str(beside), "w", (8,))
    file.create_virtual_dataset(name, layout)


def huge(file: "h5py.File", name: str, beside: Path) -> None:
    del beside
    file.create_dataset(name, (2**40,), "f4", chunks=(2**20,), compression="gzip")


@pytest.mark.parametrize("edit", [external, raw, virtual, huge])
def test_weights_that_reach_beyond_their_file_or_are_huge_are_refused(
    tmp_path: Path, edit: Callable[[object, str, Path], None]
) -> None:
    settings = ModelSettings(backbone="small", weights="none")
    path, beside = tmp_path / "a.weights.h5", tmp_path / "beside.h5"
    build_backbone(settings, 32, plain=True).save_weights(path)
    with h5py.File(beside, "w") as file:
        file["w"] = np.zeros(8, np.float32)
    named = settings.model_copy(update={"weights": str(path)})
    assert build_backbone(named, 32, plain=True)
    names: list[str] = []
    with h5py.File(path, "r+") as file:
        file.visititems(lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None)
        del file[names[0]]
        edit(file, names[0], beside)
    with pytest.raises(ModelError, match="does not hold weights of small"):
        build_backbone(named, 32, plain=True)
