"""What computes a bundle's answers: one exported network in OpenVINO or ONNX Runtime, whichever is the faster here.

Both work alike: as many requests at once as the processor has room for, a few images each, so that a request's maps
stay in a core's own memory and no core waits for another.
"""

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, get_args
from xml.etree import ElementTree

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from melanoma.errors import MissingExtraError, ModelError, UsageError
from melanoma.inference.onnx_file import check_onnx
from melanoma.machine import cores, cores_are_limited, multiplies_bfloat16_faster

EngineName = Literal["onnxruntime", "openvino"]
Precision = Literal["float32", "bfloat16", "int8"]
Float32Array = NDArray[np.float32]
Batch = tuple[NDArray[np.uint8], Float32Array | None]
OUTPUTS = ["logit", "activation_map", "features"]
BATCH, GPU_BATCH = 4, 32  # images to a request: on a processor more gain nothing and take memory on every core


@dataclass(frozen=True)
class Output:
    """What a network says of a batch.

    logit: float32 (batch,). activation_map: float32 (batch, height, width), each place's share of the image's logit.
    features: float32 (batch, channels).
    """

    logit: Float32Array
    activation_map: Float32Array
    features: Float32Array


@dataclass(frozen=True)
class Choice:
    """What computes, and in which precision."""

    engine: EngineName
    precision: Precision

    def __str__(self) -> str:
        name = f"ONNX Runtime {onnxruntime.__version__}"
        if self.engine == "openvino":
            name = f"OpenVINO {_openvino().__version__.split('-')[0]}"
        return f"{name} in {self.precision}"


def choose(engine: str = "auto", precision: str = "auto") -> Choice:
    """Choose what computes on this machine; what is not "auto" is kept.

    OpenVINO where it is installed and ONNX Runtime has no GPU, in bfloat16 where the processor multiplies it faster
    than float32; int8 only where it is asked for.
    Raises MissingExtraError where OpenVINO is asked for and not installed, UsageError for bfloat16 where it cannot be,
    and for an unknown name.
    """
    for given, known in ((engine, get_args(EngineName)), (precision, get_args(Precision))):
        if given not in ("auto", *known):
            raise UsageError(f"{given!r:.40} is none of auto, {', '.join(known)}")
    if engine == "auto":
        better = importlib.util.find_spec("openvino") and "CUDAExecutionProvider" not in _providers()
        engine = "openvino" if better or precision == "bfloat16" else "onnxruntime"
    if engine == "onnxruntime":
        if precision == "bfloat16":
            raise UsageError("ONNX Runtime computes in float32 or int8; bfloat16 needs evaluate.engine=openvino")
        return Choice("onnxruntime", "int8" if precision == "int8" else "float32")
    core = _core()
    if precision == "auto":
        precision = "bfloat16" if _bfloat16_is_faster() else "float32"
    if precision == "bfloat16" and not _has_bfloat16(core):
        raise UsageError("this processor has no bfloat16; use evaluate.precision=auto")
    return Choice("openvino", precision)  # type: ignore[arg-type]


class Engine:
    """One network, loaded once."""

    def __init__(self, path: Path, choice: Choice | None = None, *, few: bool = False) -> None:
        """Load an ONNX file on all cores, by default as `choose` says.

        few: for a picture at a time, all cores on each; else for many, a core on each.
        Raises ModelError where it is missing, damaged, another's, or reaches beyond itself.
        """
        self.choice = choice or choose()
        check_onnx(path)
        load = _load_openvino if self.choice.engine == "openvino" else _load_onnxruntime
        try:
            self.loaded = load(path, self.choice.precision, few)
        except Exception as error:  # both engines raise untyped families of their own
            raise ModelError(f"{path} cannot be loaded as a network: {error}") from error
        if self.loaded.outputs != OUTPUTS:
            raise ModelError(f"{path} is not a network of this package: its outputs are not {', '.join(OUTPUTS)}")

    def answer(self, images: NDArray[np.uint8], metadata: Float32Array | None = None) -> Output:
        """Judge images: uint8 (batch, size_px, size_px, 3) RGB, and metadata float32 (batch, features) where used."""
        return _joined([answer for _, answer in self.stream(lambda part: _part(images, metadata, part), len(images))])

    def stream(self, read: Callable[[slice], Batch], count: int) -> Iterator[tuple[slice, Output]]:
        """Judge `count` images a few at a time, in their order: `read` gives some while others are computed.

        It is called from several threads, and may give several views of each image, one set after the other.
        """
        parts = self._parts(count)
        with ThreadPoolExecutor(self.loaded.at_once) as pool:
            yield from zip(parts, pool.map(lambda part: self.judge(*read(part)), parts), strict=True)

    def judge(self, images: NDArray[np.uint8], metadata: Float32Array | None = None) -> Output:
        """Judge images as `answer` does, on the caller's thread: up to `at_once` threads are well used."""
        if (metadata is not None) != (self.loaded.inputs == 2):
            raise ModelError(
                f"the network takes {self.loaded.inputs} inputs: a picture, and metadata where it was trained so"
            )
        return _joined([self.loaded.run(*_part(images, metadata, part)) for part in self._parts(len(images))])

    @property
    def batch(self) -> int:
        """How many images go to a request."""
        return self.loaded.batch

    @property
    def at_once(self) -> int:
        """How many requests are computed at the same time."""
        return self.loaded.at_once

    def _parts(self, count: int) -> list[slice]:
        return [slice(start, min(start + self.loaded.batch, count)) for start in range(0, count, self.loaded.batch)]


@dataclass(frozen=True)
class _Loaded:
    """A network in an engine. run: judges at most `batch` images, and may be called from `at_once` threads."""

    run: Callable[[NDArray[np.uint8], Float32Array | None], Output]
    inputs: int
    outputs: list[str]
    batch: int
    at_once: int


def _load_onnxruntime(path: Path, precision: Precision, few: bool) -> _Loaded:
    options = onnxruntime.SessionOptions()
    if precision != "int8":  # weights that are kept in int8 become float32 once, and not with every picture
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.intra_op_num_threads = cores() if few else 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=_providers())
    inputs = [value.name for value in session.get_inputs()]

    def run(images: NDArray[np.uint8], metadata: Float32Array | None) -> Output:
        return _answer(session.run(OUTPUTS, dict(zip(inputs, [images, metadata], strict=False))))

    gpu = "CUDAExecutionProvider" in session.get_providers()
    outputs = [value.name for value in session.get_outputs()]
    return _Loaded(run, len(inputs), outputs, GPU_BATCH if gpu else BATCH, 1 if few else 2 if gpu else cores())


def _load_openvino(path: Path, precision: Precision, few: bool) -> _Loaded:
    core = _core()
    model, batch = core.read_model(path), 1 if few else BATCH
    # a fixed batch lets OpenVINO plan its memory once: 3 to 20 % faster than a dynamic one
    model.reshape({value: [batch, *list(value.partial_shape)[1:]] for value in model.inputs})
    if precision != "int8":  # weights that are kept in fewer bits become float32 before OpenVINO could use them as int8
        _fold_constants(model)
    bfloat16 = precision == "bfloat16" or (precision == "int8" and _bfloat16_is_faster())
    if bfloat16:
        model = _depthwise_in_float32(core, model)
    hints = {
        "PERFORMANCE_HINT": "LATENCY" if few else "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    if cores_are_limited():
        # bound to a core, the processes that share the machine would all be bound to the first
        hints |= {"INFERENCE_NUM_THREADS": str(cores()), "ENABLE_CPU_PINNING": "NO"}
    compiled = core.compile_model(model, "CPU", hints)
    # one more than are computed: it is read meanwhile
    at_once = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1
    idle: SimpleQueue[Any] = SimpleQueue()
    for _ in range(at_once):
        idle.put(compiled.create_infer_request())

    def run(images: NDArray[np.uint8], metadata: Float32Array | None = None) -> Output:
        request = idle.get()
        try:
            for number, values in enumerate((images, metadata)):
                if values is not None:  # what an earlier batch left behind a shorter one is answered, and not read
                    request.get_input_tensor(number).data[: len(values)] = values
            request.infer()
            outputs = [request.get_output_tensor(number).data[: len(images)].copy() for number in range(len(OUTPUTS))]
        finally:
            idle.put(request)
        return _answer(outputs)

    outputs = [name for value in compiled.outputs for name in value.names if name in OUTPUTS]
    if outputs == OUTPUTS:
        # OpenVINO's Python half sets itself up on first use, and deadlocks where two threads do so at once
        run(*(np.zeros([1, *list(value.shape)[1:]], value.element_type.to_dtype()) for value in compiled.inputs))
    return _Loaded(run, len(compiled.inputs), outputs, batch, at_once)


def _fold_constants(model: Any) -> None:
    """Compute once what does not depend on the picture.

    OpenVINO 2026.4 left alone with a kernel of int8 and its scale answers wrongly in about one process of ten.
    """
    passes = importlib.import_module("openvino.passes")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)


def _depthwise_in_float32(core: Any, model: Any) -> Any:
    """Let depthwise convolutions be computed in float32 whatever the rest is: they wait for memory, not for products.

    A quarter of what bfloat16 rounds away, and nearly all that it costs a MobileNet's AUC, is theirs. Only OpenVINO's
    own file format can say so: by the attribute with which its converter marks layers that must stay precise.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        _openvino().save_model(model, path, compress_to_fp16=False)
        tree, weights = ElementTree.parse(path), path.with_suffix(".bin").read_bytes()
    for layer in tree.iter("layer"):
        if layer.get("type") == "GroupConvolution":
            ElementTree.SubElement(ElementTree.SubElement(layer, "rt_info"), "attribute", name="precise", version="0")
    return core.read_model(ElementTree.tostring(tree.getroot()), weights)


def _answer(outputs: list[NDArray[Any]]) -> Output:
    logit, activation_map, features = outputs
    return Output(logit[:, 0], activation_map[..., 0], features)


def _joined(answers: list[Output]) -> Output:
    every = [(answer.logit, answer.activation_map, answer.features) for answer in answers]
    return Output(*(np.concatenate(values) for values in zip(*every, strict=True)))


def _part(images: NDArray[np.uint8], metadata: Float32Array | None, part: slice) -> Batch:
    return np.ascontiguousarray(images[part]), None if metadata is None else np.ascontiguousarray(metadata[part])


def _providers() -> list[str]:
    """Name what ONNX Runtime may compute on here: a CUDA GPU where its build has one, else the CPU."""
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return [name for name in wanted if name in onnxruntime.get_available_providers()]


@cache
def _openvino() -> Any:
    """Import OpenVINO, or raise MissingExtraError.

    Its own import sends a message to its maker by the package openvino_telemetry, and leaves a client's number in the
    home folder; without that package it does neither.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise MissingExtraError("OpenVINO", "openvino") from error


@cache
def _core() -> Any:
    """Make OpenVINO's core, one for the process and for as long as it lives.

    Each puts up a stack for signals, and the one before in its place when it goes: where they go in another order than
    they came, the next Ctrl-C would be taken on memory that is free, and the process would die.
    """
    return _openvino().Core()


def _has_bfloat16(core: Any) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _bfloat16_is_faster() -> bool:
    return _has_bfloat16(_core()) and multiplies_bfloat16_faster()
