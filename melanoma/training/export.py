"""A trained network to an ONNX file that is proven equal to it. PyTorch writes the file, whichever backend trained."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melanoma.config import Settings
from melanoma.errors import MelanomaError, ModelError
from melanoma.files import replacing
from melanoma.inference.engine import OUTPUTS, Engine
from melanoma.models.backend import BACKEND, keras
from melanoma.models.classifier import answering, build_classifier

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
    what is written has Keras' own layers. The file takes uint8 images (and metadata) in batches of any size and gives
    logit, activation map and features.
    Raises ModelError where the weights are of another network, MelanomaError where the two differ by more than
    TOLERANCE; no file appears then.
    """
    features = 0 if metadata is None else metadata.shape[1]
    with keras.device("cpu"):  # a GPU rounds otherwise
        trained = answering(_load(weights, settings, features, plain=False))
        pixels = images.astype(np.float32)
        expected = trained.predict_on_batch([pixels, metadata] if metadata is not None else pixels)
        network = answering(_load(weights, settings, features, plain=True))
        with replacing(path) as aside:
            _write(aside, network, images, metadata)
            answer = Engine(aside).answer(images, metadata)
            found = {
                "logit": _difference(answer.logit, expected[0][:, 0]),
                "activation_map": _difference(answer.activation_map, expected[1][..., 0]),
                "features": _difference(answer.features, expected[2]),
            }
            if not max(found.values()) <= TOLERANCE:
                raise MelanomaError(f"the exported network differs from the trained one by {found}, over {TOLERANCE}")
    return {"images": len(images), **found}


def _load(weights: Path, settings: Settings, metadata_features: int, *, plain: bool) -> Any:
    """Rebuild a trained classifier in float32 from our own settings and its weights file."""
    keras.config.set_dtype_policy("float32")
    classifier = build_classifier(settings.model, settings.images, metadata_features, weights="none", plain=plain)
    try:
        classifier.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{weights} does not hold weights of this run's network: {error}") from error
    return classifier


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def _write(path: Path, network: Any, images: NDArray[np.uint8], metadata: NDArray[np.float32] | None) -> None:
    assert BACKEND == "torch", "exporting needs Keras on PyTorch"
    import torch

    class Exported(torch.nn.Module):  # type: ignore[misc]
        """Names the outputs in order, and takes bytes."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

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
