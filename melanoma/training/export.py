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

TOLERANCE = 1e-3  # largest difference of a logit that float32 in another order of operations may make


def load_network(weights: Path, settings: Settings, metadata_features: int) -> Any:
    """Rebuild a trained classifier in float32 from our own settings and its weights file.

    Raises ModelError where the weights are missing or of another network.
    """
    keras.config.set_dtype_policy("float32")
    classifier = build_classifier(settings.model, settings.images, metadata_features, weights="none", plain=True)
    try:
        classifier.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{weights} does not hold weights of this run's network: {error}") from error
    return classifier


def export_network(
    path: Path, classifier: Any, images: NDArray[np.uint8], metadata: NDArray[np.float32] | None
) -> dict[str, float]:
    """Write the network as ONNX and return how far it is from Keras on real images: the largest difference of a logit.

    images: uint8 (n, size_px, size_px, 3) RGB, real ones, to compare on; metadata: float32 (n, features) where used.
    The file takes uint8 images (and metadata) in batches of any size and gives logit, activation map and features.
    Raises MelanomaError where the two differ by more than TOLERANCE; no file appears then.
    """
    network = answering(classifier)
    pixels = images.astype(np.float32)
    expected = network.predict_on_batch([pixels, metadata] if metadata is not None else pixels)
    with replacing(path) as aside:
        _write(aside, network, images, metadata)
        answer = Engine(aside).answer(images, metadata)
        difference = float(np.abs(answer.logit - np.asarray(expected[0])[:, 0]).max())
        map_difference = float(np.abs(answer.activation_map - np.asarray(expected[1])[..., 0]).max())
        if not max(difference, map_difference) <= TOLERANCE:
            raise MelanomaError(
                f"the exported network differs from the trained one: by {difference:.2g} in its logit and "
                f"{map_difference:.2g} in its map, over {TOLERANCE}"
            )
    return {"images": len(images), "logit": difference, "activation_map": map_difference}


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
