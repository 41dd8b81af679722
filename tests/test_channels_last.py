"""A network at PyTorch's own speed gives what Keras' own gives, in value, in gradient and in what it learns."""

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

from melanoma.models import fused
from melanoma.models.channels_last import channels_last
from melanoma.models.steps import PlainStep
from melanoma.training.adam import FusedAdam

layers = keras.layers
CASES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "same, stride 2, even": (lambda: layers.Conv2D(4, 3, strides=2, padding="same"), (2, 8, 8, 3)),
    "same, stride 2, odd": (lambda: layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False), (2, 7, 9, 3)),
    "even kernel": (lambda: layers.Conv2D(4, (2, 4), padding="same"), (2, 8, 8, 3)),
    "own ReLU": (lambda: layers.Conv2D(4, 3, activation="relu"), (2, 8, 8, 3)),
    "dilated": (lambda: layers.Conv2D(4, 3, dilation_rate=2, padding="same"), (2, 9, 9, 3)),
    "valid, 1x7": (lambda: layers.Conv2D(4, (1, 7)), (2, 9, 9, 3)),
    "grouped": (lambda: layers.Conv2D(4, 3, groups=2, padding="same"), (2, 8, 8, 6)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, strides=2, padding="same"), (2, 8, 8, 3)),
    "depthwise, doubled": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (2, 8, 8, 3)),
    "separable": (lambda: layers.SeparableConv2D(5, 3, strides=2, padding="same"), (2, 8, 8, 3)),
    "separable, doubled": (lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2, use_bias=False), (2, 8, 8, 3)),
    "batch norm": (layers.BatchNormalization, (4, 5, 5, 3)),
    "batch norm, bare": (lambda: layers.BatchNormalization(scale=False, center=False, momentum=0.5), (4, 5, 5, 3)),
    "max pooling, same": (lambda: layers.MaxPooling2D(3, 2, padding="same"), (2, 8, 8, 3)),
    "max pooling, valid": (lambda: layers.MaxPooling2D(3, 2), (2, 9, 9, 3)),
    "average pooling, same": (lambda: layers.AveragePooling2D(3, 1, padding="same"), (2, 8, 8, 3)),
    "average pooling, valid": (lambda: layers.AveragePooling2D(2), (2, 8, 8, 3)),
}
POOLING = (layers.MaxPooling2D, layers.AveragePooling2D)
KEPT_AS_THEY_ARE: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "own swish": (lambda: layers.Conv2D(4, 3, activation="swish"), (2, 8, 8, 3)),
    "another axis": (lambda: layers.BatchNormalization(axis=1), (2, 5, 5, 3)),
    "a table": (layers.BatchNormalization, (6, 5)),
    "average pooling that adds an odd pixel": (lambda: layers.AveragePooling2D(2, 2, padding="same"), (2, 7, 7, 3)),
    "a layer that no step knows": (layers.LayerNormalization, (2, 5, 5, 3)),
    "leaky ReLU": (lambda: layers.ReLU(negative_slope=0.1), (2, 5, 5, 3)),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(0)


def alone(layer: Any, shape: tuple[int, ...]) -> Any:
    image = keras.Input(shape[1:])
    return keras.Model(image, layer(image))


def steps(network: Any) -> list[type]:
    return [type(placed.step) for placed in channels_last(network).plan.placed]


def block(ceiling: float | None = None) -> Any:
    """Draw one branch of everything: siblings, a shortcut, a scaled sum, a join, ReLU with and without ceiling."""
    from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

    def relu() -> Any:
        return layers.Activation("relu") if ceiling is None else layers.ReLU(ceiling)

    image = keras.Input((9, 9, 4))
    stem = relu()(layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same", use_bias=False)(image)))
    wide = layers.BatchNormalization(scale=False)(layers.Conv2D(5, 1, use_bias=False)(stem))
    tall = relu()(layers.BatchNormalization()(layers.Conv2D(3, (3, 1), padding="same")(stem)))
    joined = layers.Concatenate()([relu()(wide), tall, layers.MaxPooling2D(3, 1, padding="same")(stem)])
    scaled = relu()(CustomScaleLayer(0.2)([stem, layers.Conv2D(6, 1)(joined)]))
    summed = relu()(
        layers.Add()([scaled, layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(scaled))])
    )
    twice = layers.Add()([summed, summed, layers.SeparableConv2D(6, 3, padding="same")(summed)])
    return keras.Model(image, layers.GlobalAveragePooling2D()(twice))


def values_and_gradients(network: Any, images: np.ndarray, training: bool) -> list[np.ndarray]:
    given = torch.tensor(images, requires_grad=True)
    answer = network(given, training=training)
    pull = torch.tensor(np.random.default_rng(1).normal(size=tuple(answer.shape)), dtype=answer.dtype)
    (answer * pull).sum().backward()
    gradients = [given.grad, *(weight.value.grad for weight in network.trainable_weights)]
    network.zero_grad()
    kept = [torch.as_tensor(weight.value).clone() for weight in network.non_trainable_weights]
    return [value.detach().float().numpy() for value in (answer, *gradients, *kept)]


def assert_alike(plain: Any, shape: tuple[int, ...], training: bool, tolerance: float = 1e-5) -> None:
    """Hold every value, gradient and moving average of the fast walk to Keras' own, relative to the largest."""
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    start = [weight + np.float32(0.1) for weight in plain.get_weights()]  # nothing is 0 or 1 by luck
    plain.set_weights(start)
    expected = values_and_gradients(plain, images, training)
    plain.set_weights(start)
    found = values_and_gradients(channels_last(plain), images, training)
    for one, other in zip(expected, found, strict=True):
        assert np.abs(one - other).max() <= tolerance * max(1.0, np.abs(one).max())
    plain.set_weights(start)
    assert np.allclose(plain.predict_on_batch(images), channels_last(plain).predict_on_batch(images), atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_each_layer_equals_keras_own(case: str, training: bool) -> None:
    make, shape = CASES[case]
    plain = alone(make(), shape)
    assert_alike(plain, shape, training)
    assert PlainStep not in steps(plain) or isinstance(plain.layers[1], POOLING)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ceiling", [None, 1.0])
@pytest.mark.parametrize("with_onednn", [True, False])
def test_what_is_done_at_once_equals_the_layers_one_by_one(
    ceiling: float | None, training: bool, with_onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_onednn:
        monkeypatch.setattr(fused, "POINTWISE", None)
    assert_alike(block(ceiling), (3, 9, 9, 4), training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", KEPT_AS_THEY_ARE)
def test_a_layer_that_works_otherwise_runs_as_keras_has_it(case: str, training: bool) -> None:
    make, shape = KEPT_AS_THEY_ARE[case]
    plain = alone(make(), shape)
    assert steps(plain) == [PlainStep]
    assert_alike(plain, shape, training)


def branches() -> Any:
    """Draw what shares gradients: sums of a map with its own branches, branches alike, and a layer used twice."""

    def branch(x: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 1, use_bias=False)(x)))

    image = keras.Input((7, 7, 4))
    start = branch(image)
    first = layers.Add()([start, layers.Conv2D(4, 1)(start), layers.Conv2D(4, 3, padding="same")(start)])
    second = layers.Add()([branch(first), branch(first)])
    twice = layers.Conv2D(4, 1, activation="relu")
    return keras.Model(image, layers.Add()([twice(twice(second)), layers.Conv2D(4, 1)(second), second]))


@pytest.mark.parametrize("training", [True, False])
def test_gradients_that_meet_are_summed_once_each(training: bool) -> None:
    assert_alike(branches(), (3, 7, 7, 4), training, tolerance=1e-4)  # Keras' own are 1e-5 from float64 here


def test_what_was_frozen_when_it_was_read_learns_later() -> None:
    plain = alone(layers.Conv2D(4, 3, activation="swish"), (2, 8, 8, 3))
    plain.layers[1].trainable = False
    fast = channels_last(plain)
    plain.layers[1].trainable = True
    fast(torch.ones((2, 8, 8, 3)), training=True).sum().backward()
    assert all(weight.value.grad is not None for weight in plain.trainable_weights)


def test_what_is_frozen_stays_and_the_rest_learns() -> None:
    plain = block()
    for layer in plain.layers[:6]:
        layer.trainable = False
    assert_alike(plain, (3, 9, 9, 4), training=True)


@pytest.mark.parametrize("name", ["MobileNet_0.25", "InceptionResNetV2"])
def test_a_whole_network_answers_alike_and_its_weight_files_fit_both(name: str, tmp_path: Path) -> None:
    settings = ModelSettings(backbone=name, weights="none")
    plain, fast = build_backbone(settings, 96, plain=True), build_backbone(settings, 96)
    fast.save_weights(tmp_path / "fast.weights.h5")
    plain.load_weights(tmp_path / "fast.weights.h5")
    images = np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype(np.float32)
    expected = plain.predict_on_batch(images)
    assert np.abs(expected - fast.predict_on_batch(images)).max() <= 1e-5 * np.abs(expected).max()
    again = channels_last(plain)
    assert [layer.name for layer in plain.layers[1:]] == [layer.name for layer in again.layers[1:]]


def test_bfloat16_is_as_near_to_float32_as_keras_own() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        lower = block()
    finally:
        keras.config.set_dtype_policy("float32")
    full = block()
    full.set_weights(lower.get_weights())
    images = np.random.default_rng(0).normal(size=(8, 9, 9, 4)).astype(np.float32)
    start = lower.get_weights()
    expected = values_and_gradients(full, images, training=True)
    errors = []
    for network in (lower, channels_last(lower)):
        network.set_weights(start)
        found = values_and_gradients(network, images, training=True)
        errors.append(
            max(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1.0) for a, b in zip(expected, found, strict=True))
        )
    assert errors[1] <= max(1.5 * errors[0], 0.02)


def test_a_walk_back_leaves_no_map_behind_and_is_made_once() -> None:
    fast = channels_last(block())
    answer = fast(torch.zeros((2, 9, 9, 4)), training=True)
    node = answer.grad_fn
    while node is not None and not hasattr(node, "tape"):
        node = node.next_functions[0][0]
    assert node.tape
    answer.sum().backward(retain_graph=True)
    assert not node.tape
    with pytest.raises(RuntimeError, match="gone back already"):
        answer.sum().backward()


def test_the_fused_adam_takes_the_steps_that_keras_adam_takes() -> None:
    moved = []
    for adam in (keras.optimizers.Adam, FusedAdam):
        random = np.random.default_rng(0)
        network = channels_last(block())  # whose kernels lie in memory as PyTorch wants them
        network.set_weights([random.normal(size=weight.shape) for weight in network.get_weights()])
        rate = keras.optimizers.schedules.InverseTimeDecay(1e-2, 1, 0.1)
        optimizer = adam(rate, weight_decay=0.01)
        for _ in range(5):
            gradients = [
                torch.tensor(random.normal(size=v.shape), dtype=torch.float32) for v in network.trainable_weights
            ]
            optimizer.apply(gradients, network.trainable_weights)
        moved.append([keras.ops.convert_to_numpy(v) for v in (*network.weights, *optimizer.variables)])
    for one, other in zip(*moved, strict=True):
        assert np.allclose(one, other, rtol=1e-5, atol=1e-6)
