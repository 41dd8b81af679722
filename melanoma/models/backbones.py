"""The networks that turn a normalised image into a map of features, by name, and the weights they start from."""

import difflib
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from melanoma.config import ModelSettings
from melanoma.errors import MelanomaError, ModelError, UsageError
from melanoma.models.backend import BACKEND, keras
from melanoma.models.efficientnet_lite import LITES, efficientnet_lite

InputRange = Literal["0..255", "-1..1", "imagenet", "imagenet_bgr"]


@dataclass(frozen=True)
class Backbone:
    """How to build one network: Keras' builder or ours, its arguments, and the pixel values it was made for.

    has_weights: whether there are ImageNet weights for it.
    """

    builder: str | Callable[..., Any]
    inputs: InputRange
    arguments: dict[str, Any] = field(default_factory=dict)
    has_weights: bool = True


def small(input_shape: tuple[int, int, int], weights: None = None, include_top: bool = False) -> Any:
    """Build our small network, four blocks of convolution and pooling, to train on small images from nothing.

    Takes float (batch, height, width, 3) in [-1, 1] and gives (batch, height / 16, width / 16, 128).
    """
    del weights, include_top  # Keras' builders take them; there are no ready weights and no top here
    layers = keras.layers
    image = keras.Input(input_shape)
    x = image
    for channels in (16, 32, 64, 128):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.MaxPooling2D()(x)
    return keras.Model(image, x, name="small")


def _keras_applications() -> dict[str, Backbone]:
    families: dict[InputRange, list[str]] = {
        "-1..1": [
            *("InceptionResNetV2", "InceptionV3", "Xception", "MobileNet", "MobileNetV2"),
            *("NASNetMobile", "NASNetLarge", "ResNet50V2", "ResNet101V2", "ResNet152V2"),
        ],
        "imagenet": ["DenseNet121", "DenseNet169", "DenseNet201"],
        "imagenet_bgr": ["ResNet50", "ResNet101", "ResNet152", "VGG16", "VGG19"],
        # these scale 0..255 themselves; EfficientNetB0 to B7 are left out: they do so in one way with ImageNet weights
        # and in another without, so that a saved network could not be rebuilt
        "0..255": [
            *(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
            *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
            *("MobileNetV3Small", "MobileNetV3Large"),
        ],
    }
    return {name: Backbone(name, inputs) for inputs, names in families.items() for name in names}


BACKBONES: dict[str, Backbone] = {
    **_keras_applications(),
    **{f"MobileNet_{alpha}": Backbone("MobileNet", "-1..1", {"alpha": alpha}) for alpha in (0.25, 0.5, 0.75)},
    **{f"MobileNetV2_{alpha}": Backbone("MobileNetV2", "-1..1", {"alpha": alpha}) for alpha in (0.35, 0.5, 0.75, 1.4)},
    **{name: Backbone(efficientnet_lite, "-1..1", {"name": name}) for name in LITES},
    "small": Backbone(small, "-1..1", has_weights=False),
}


def find_backbone(name: str) -> Backbone:
    """Look a backbone up; raises UsageError for an unknown name, with the nearest ones."""
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, 3, 0.4) or list(BACKBONES)[:5]
        raise UsageError(f"there is no backbone {name!r}; near it: {', '.join(near)}")
    return BACKBONES[name]


def check_weights(settings: ModelSettings) -> None:
    """Refuse a backbone or a weight file that is not there, before anything is built; raises MelanomaError."""
    backbone = find_backbone(settings.backbone)
    if settings.weights == "imagenet" and not backbone.has_weights:
        raise UsageError(f"there are no ImageNet weights for {settings.backbone}; use --set model.weights=none")
    if settings.weights not in ("imagenet", "none") and not Path(settings.weights).is_file():
        raise MelanomaError(
            f"the weight file {settings.weights} is not there; model.weights is imagenet, none or a file"
        )


def build_backbone(
    settings: ModelSettings, size_px: int | None, weights: str | None = None, plain: bool = False
) -> Any:
    """Build the network without its top for square images, of any size where it is None, with the settings' weights.

    On PyTorch its layers are those of `channels_last`, unless `plain`. `weights` overrules the settings: "none" where
    the caller loads its own afterwards.
    Raises UsageError for an unknown name or an image too small for the network, ModelError for weights of another
    network, MelanomaError where ImageNet weights cannot be downloaded.
    """
    backbone = find_backbone(settings.backbone)
    source = weights or settings.weights
    make = getattr(keras.applications, backbone.builder) if isinstance(backbone.builder, str) else backbone.builder
    try:
        with warnings.catch_warnings():
            # weights made at another size are warned of: without a top they fit
            warnings.simplefilter("ignore")
            network = make(
                include_top=False,
                weights="imagenet" if source == "imagenet" else None,
                input_shape=(size_px, size_px, 3),
                **backbone.arguments,
            )
    except MelanomaError:
        raise
    except ValueError as error:
        what = "images of any size" if size_px is None else f"{size_px} px images"
        raise UsageError(f"{settings.backbone} cannot be built for {what}: {error}") from error
    except Exception as error:
        if source != "imagenet":
            raise
        raise MelanomaError(_where_to_put(settings.backbone, error)) from error
    if source not in ("imagenet", "none"):
        _load(network, Path(source), settings.backbone)
    if BACKEND == "torch" and not plain:
        from melanoma.models.channels_last import channels_last

        return channels_last(network)
    return network


def scaling_layers(name: str) -> list[Any]:
    """List the Keras layers that bring pixel values in [0, 255] to what the backbone was made for."""
    layers, inputs = keras.layers, find_backbone(name).inputs
    if inputs == "0..255":
        return []
    if inputs == "-1..1":
        return [layers.Rescaling(1 / 127.5, offset=-1.0, dtype=keras.config.floatx(), name="scale")]
    if inputs == "imagenet":  # each channel less ImageNet's mean, over its standard deviation
        deviations = (0.229, 0.224, 0.225)
        scale = [1 / (255 * deviation) for deviation in deviations]
        offset = [-mean / deviation for mean, deviation in zip((0.485, 0.456, 0.406), deviations, strict=True)]
        return [layers.Rescaling(scale, offset=offset, dtype=keras.config.floatx(), name="scale")]
    # Caffe's order is blue, green, red, and only the mean is taken off
    less_mean = layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68], dtype=keras.config.floatx(), name="scale")
    return [ReverseChannels(dtype=keras.config.floatx(), name="reverse_channels"), less_mean]


class ReverseChannels(keras.layers.Layer):  # type: ignore[misc]
    """RGB to BGR: float (batch, height, width, 3) in and out."""

    def call(self, images: Any) -> Any:
        """Turn the last axis round."""
        return keras.ops.flip(images, axis=-1)


def _load(network: Any, path: Path, name: str) -> None:
    if not path.is_file():
        raise MelanomaError(f"the weight file {path} is not there")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a layer left without weights is only warned of
            network.load_weights(path)
    except Exception as error:  # Keras and h5py raise many kinds for a file of another network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} does not hold weights of {name} without top: {reason}") from error


def _where_to_put(name: str, error: Exception) -> str:
    found = re.search(r"https?://\S+", str(error))
    url = found.group(0).rstrip(":,") if found else "its address on storage.googleapis.com"
    file = Path(url).name if found else "the file"
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    return (
        f"the ImageNet weights of {name} cannot be downloaded here: get {url} elsewhere and put it at "
        f"{home / 'models' / file}, or name a file with --set model.weights=FILE"
    )
