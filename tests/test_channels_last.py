"""Layers at PyTorch's own speed give what Keras' own give, in value and in gradient."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melanoma.config import ModelSettings
from melanoma.models.backbones import build_backbone
from melanoma.models.backend import BACKEND, keras

if BACKEND != "torch":
    pytest.skip("channels last is for Keras on PyTorch", allow_module_level=True)

import torch

from melanoma.models.channels_last import SWAPS, channels_last

layers = keras.layers
CASES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "same, stride 2, even": (lambda: layers.Conv2D(4, 3, strides=2, padding="same"), (2, 8, 8, 3)),
    "same, stride 2, odd": (lambda: layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False), (2, 7, 9, 3)),
    "even kernel": (lambda: layers.Conv2D(4, (2, 4), padding="same", activation="relu"), (2, 8, 8, 3)),
    "dilated": (lambda: layers.Conv2D(4, 3, dilation_rate=2, padding="same"), (2, 9, 9, 3)),
    "valid, 1x7": (lambda: layers.Conv2D(4, (1, 7)), (2, 9, 9, 3)),
    "grouped": (lambda: layers.Conv2D(4, 3, groups=2, padding="same"), (2, 8, 8, 6)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, strides=2, padding="same"), (2, 8, 8, 3)),
    "depthwise, doubled": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (2, 8, 8, 3)),
    "batch norm": (layers.BatchNormalization, (4, 5, 5, 3)),
    "batch norm, plain": (lambda: layers.BatchNormalization(scale=False, center=False, momentum=0.5), (4, 5, 5, 3)),
    "pooling, same": (lambda: layers.MaxPooling2D(3, 2, padding="same"), (2, 8, 8, 3)),
    "pooling, valid": (lambda: layers.MaxPooling2D(3, 2), (2, 9, 9, 3)),
}


def alone(layer: Any, shape: tuple[int, ...]) -> Any:
    image = keras.Input(shape[1:])
    return keras.Model(image, layer(image))


def values_and_gradients(network: Any, images: np.ndarray, training: bool) -> list[np.ndarray]:
    given = torch.tensor(images, requires_grad=True)
    answer = network(given, training=training)
    pull = torch.tensor(np.random.default_rng(1).normal(size=tuple(answer.shape)), dtype=answer.dtype)
    (answer * pull).sum().backward()
    gradients = [given.grad, *(weight.value.grad for weight in network.trainable_weights)]
    kept = [torch.as_tensor(weight.value) for weight in network.non_trainable_weights]
    return [value.detach().numpy() for value in (answer, *gradients, *kept)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_each_layer_equals_keras_own(case: str, training: bool) -> None:
    make, shape = CASES[case]
    plain = alone(make(), shape)
    fast = channels_last(plain)
    assert type(fast.layers[1]) in SWAPS.values()
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    pairs = zip(
        values_and_gradients(plain, images, training), values_and_gradients(fast, images, training), strict=True
    )
    for one, other in pairs:
        assert np.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_layer_that_works_otherwise_is_left_alone() -> None:
    plain = alone(layers.BatchNormalization(axis=1), (2, 5, 5, 3))
    assert type(channels_last(plain).layers[1]) is layers.BatchNormalization
    table = alone(layers.BatchNormalization(), (2, 5))
    assert type(channels_last(table).layers[1]) is layers.BatchNormalization


@pytest.mark.parametrize("name", ["MobileNet_0.25", "InceptionResNetV2"])
def test_a_whole_network_answers_alike_and_its_weight_files_fit_both(name: str, tmp_path: Path) -> None:
    settings = ModelSettings(backbone=name, weights="none")
    plain, fast = build_backbone(settings, 96, plain=True), build_backbone(settings, 96)
    fast.save_weights(tmp_path / "fast.weights.h5")
    plain.load_weights(tmp_path / "fast.weights.h5")
    images = np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype(np.float32)
    assert np.allclose(plain.predict_on_batch(images), fast.predict_on_batch(images), atol=1e-4)
    again = channels_last(plain)
    assert [layer.name for layer in plain.layers[1:]] == [layer.name for layer in again.layers[1:]]
