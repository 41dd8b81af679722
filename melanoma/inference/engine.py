"""What computes a bundle's answers: one exported network in ONNX Runtime."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from melanoma.errors import ModelError

Float32Array = NDArray[np.float32]
OUTPUTS = ["logit", "activation_map", "features"]


@dataclass(frozen=True)
class Answer:
    """What a network says of a batch.

    logit: float32 (batch,). activation_map: float32 (batch, height, width), each place's share of the image's logit.
    features: float32 (batch, channels).
    """

    logit: Float32Array
    activation_map: Float32Array
    features: Float32Array


class Engine:
    """One network, loaded once."""

    def __init__(self, path: Path) -> None:
        """Load an ONNX file on all cores; raises ModelError where it is missing, damaged or another's."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count() or 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=_providers())
        except Exception as error:  # ONNX Runtime raises its own untyped family
            raise ModelError(f"{path} cannot be loaded as a network: {error}") from error
        self.inputs = [value.name for value in self.session.get_inputs()]
        if [value.name for value in self.session.get_outputs()] != OUTPUTS:
            raise ModelError(f"{path} is not a network of this package: its outputs are not {', '.join(OUTPUTS)}")

    def answer(self, images: NDArray[np.uint8], metadata: Float32Array | None = None) -> Answer:
        """Judge images: uint8 (batch, size_px, size_px, 3) RGB, and metadata float32 (batch, features) where used."""
        given = dict(zip(self.inputs, [images, metadata], strict=False))
        logit, activation_map, features = self.session.run(OUTPUTS, given)
        return Answer(logit[:, 0], activation_map[..., 0], features)


def _providers() -> list[str]:
    """Name what ONNX Runtime may compute on here: a CUDA GPU where its build has one, else the CPU."""
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return [name for name in wanted if name in onnxruntime.get_available_providers()]
