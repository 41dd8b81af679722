"""A trained network to an ONNX file that is proven equal to it. PyTorch writes the file, whichever backend trained."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melanoma.config import Settings
from melanoma.errors import MelanomaError, ModelError
from melanoma.files import replacing
from melanoma.inference.engine import OUTPUTS, Choice, Engine
from melanoma.inference.scoring import sigmoid
from melanoma.models.backend import BACKEND, keras, set_precision
from melanoma.models.classifier import answering, build_classifier

COMPARED_AT_ONCE = 8
TOLERANCE = 1e-3  # that float32 in another order of operations may differ by, relative to the largest value over 1


def export_network(
    path: Path,
    weights: Path,
    settings: Settings,
    images: NDArray[np.uint8],
    metadata: NDArray[np.float32] | None,
) -> dict[str, float]:
    """Write a trained network as ONNX and return how far it is from Keras on real images: the largest differences.

    weights: the file that training left. images: uint8 (n, size_px, size_px, 3) RGB, real ones, to compare on;
    metadata: float32 (n, features) where used. What it is compared with is the network as it was trained, in float32;
    what is written has Keras' own layers, batch normalisation folded into the convolutions. The file takes uint8 images
    (and metadata) in batches of any size and gives logit, activation map and features.
    Raises ModelError where the weights are of another network, MelanomaError where the two differ by more than
    TOLERANCE; no file appears then.
    """
    features = 0 if metadata is None else metadata.shape[1]
    with keras.device("cpu"):  # a GPU rounds otherwise
        trained = answering(_load(weights, settings, features, plain=False))
        expected = _by_keras(trained, images, metadata)
        network = answering(_load(weights, settings, features, plain=True))
        with replacing(path) as aside:
            write_onnx(aside, network, images, metadata)
            answer = Engine(aside, Choice("onnxruntime", "float32")).answer(images, metadata)
            found = {
                "probability": float(np.abs(sigmoid(answer.logit) - sigmoid(expected[0][:, 0])).max()),
                "logit": _difference(answer.logit, expected[0][:, 0]),
                "activation_map": _difference(answer.activation_map, expected[1][..., 0]),
                "features": _difference(answer.features, expected[2]),
            }
            if not max(found.values()) <= TOLERANCE:
                raise MelanomaError(f"the exported network differs from the trained one by {found}, over {TOLERANCE}")
    return {"images": len(images), **found}


def _load(weights: Path, settings: Settings, metadata_features: int, *, plain: bool) -> Any:
    """Rebuild a trained classifier in float32 from our own settings and its weights file."""
    set_precision("float32")
    build = partial(build_classifier, settings.model, settings.images, metadata_features, weights="none")
    classifier = build(plain=plain, any_size=settings.any_size)
    try:
        classifier.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{weights} does not hold weights of this run's network: {error}") from error
    return classifier


def _by_keras(
    network: Any, images: NDArray[np.uint8], metadata: NDArray[np.float32] | None
) -> list[NDArray[np.float32]]:
    """Let Keras answer, a few images at a time."""
    parts = []
    for start in range(0, len(images), COMPARED_AT_ONCE):
        few = slice(start, start + COMPARED_AT_ONCE)
        pixels = images[few].astype(np.float32)
        parts.append(network.predict_on_batch([pixels, metadata[few]] if metadata is not None else pixels))
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


class Affine(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalisation of a trained network as one product and one sum, which fold into the convolution before."""

    def call(self, images: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise float (batch, ..., channels) by the moving mean and variance."""
        del training, mask
        scale = keras.ops.rsqrt(self.moving_variance + self.epsilon)
        if self.scale:
            scale = scale * self.gamma
        shift = -self.moving_mean * scale
        return images * scale + (shift + self.beta if self.center else shift)


def folded(network: Any) -> Any:
    """Return the same Keras network with every batch normalisation over the last axis as `Affine`."""

    def swapped(layer: Any) -> Any:
        last = type(layer) is keras.layers.BatchNormalization and layer.axis in (-1, len(layer.input.shape) - 1)
        return (Affine if last else type(layer)).from_config(layer.get_config())

    same = keras.models.clone_model(network, clone_function=swapped, recursive=True)
    same.set_weights(network.get_weights())
    return same


def write_onnx(path: Path, network: Any, images: NDArray[np.uint8], metadata: NDArray[np.float32] | None) -> None:
    """Write what `answering` gave as ONNX, folded and simplified; images and metadata show the shapes."""
    assert BACKEND == "torch", "exporting needs Keras on PyTorch"
    import torch

    class Exported(torch.nn.Module):  # type: ignore[misc]
        """Names the outputs in order, and takes bytes."""

        def __init__(self) -> None:
            super().__init__()
            self.network = folded(network)

        def forward(self, image: Any, *metadata: Any) -> tuple[Any, ...]:
            return tuple(self.network([image.float(), *metadata] if metadata else image.float()))

    examples = [torch.from_numpy(np.ascontiguousarray(images[:2]))]
    names = ["image"]
    if metadata is not None:
        examples.append(torch.from_numpy(metadata[:2]))
        names.append("metadata")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of every shape that Keras reads
        torch.onnx.export(
            Exported().eval().cpu(),
            tuple(examples),
            path,
            input_names=names,
            output_names=OUTPUTS,
            dynamic_axes={name: {0: "batch"} for name in [*names, *OUTPUTS]},
            opset_version=18,
            dynamo=False,
        )
    _simplify(path, {"image": images[:1]} if metadata is None else {"image": images[:1], "metadata": metadata[:1]})


def _simplify(path: Path, example: dict[str, NDArray[Any]]) -> None:
    """Leave in an ONNX file what scoring needs, by the rewriting that ONNX Runtime does on every loading anyway.

    Its basic level keeps to ONNX's own operators: batch normalisation becomes weights of the convolution before it,
    and the turns between Keras' and ONNX's order of axes cancel out. example: an image (and metadata), by input.
    """
    import onnx
    import onnxruntime

    network = onnx.load(path)
    _fix_padding(network, example)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    network = onnx.load(path)
    own = [operators for operators in network.opset_import if operators.domain == ""]
    del network.opset_import[:]  # it declares every family of operators that it knows
    network.opset_import.extend(own)
    onnx.save(network, path)


def _fix_padding(network: Any, example: dict[str, NDArray[Any]]) -> None:
    """Write how far each picture is padded as numbers: it is traced as sums over the picture's size, which is known.

    Padding is then folded into the convolution after it, which saves a sixth of a network's time.
    """
    import onnx
    import onnxruntime

    graph = network.graph
    padding = [node for node in graph.node if node.op_type == "Pad"]
    known = {tensor.name for tensor in graph.initializer}
    sums = list(dict.fromkeys(node.input[1] for node in padding if node.input[1] not in known))
    fixed = {name: f"{name}_fixed" for name in sums}
    if sums:
        probe = onnx.ModelProto()
        probe.CopyFrom(network)
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sums)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for name, value in zip(sums, session.run(sums, example), strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(value, fixed[name]))
    for node in padding:
        node.input[1] = fixed.get(node.input[1], node.input[1])
        if not node.input[-1]:
            node.input.pop()  # an empty optional input keeps padding from being folded
    _drop_unused(graph)


def _drop_unused(graph: Any) -> None:
    """Remove what gives nothing that is asked for: it would still be computed."""
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return  # a branch or a loop may read what no input names
    wanted = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):  # they stand in the order of their computing
        if wanted.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            wanted.update(node.input)
