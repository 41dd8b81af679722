"""The network, its loss, its random views and its schedule, on whichever backend is installed."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melanoma.config import AugmentSettings, ImageSettings, LossSettings, ModelSettings, TrainSettings, load_settings
from melanoma.errors import MelanomaError, ModelError, UsageError
from melanoma.models import backbones
from melanoma.models.backbones import BACKBONES, build_backbone, check_weights
from melanoma.models.backend import BACKEND, BACKENDS, keras
from melanoma.models.classifier import answering, build_classifier
from melanoma.models.losses import accuracy, build_loss, focal_loss, with_diagnosis
from melanoma.training.augment import augmentation
from melanoma.training.train import averaged, build_optimizer, side_of

SHARED = Path(__file__).parents[2] / "shared" / "data"
MOBILENET = SHARED / "weights" / "mobilenet_alpha0.75_224_imagenet_no_top.weights.h5"
SMALL = ModelSettings(backbone="small", weights="none")
AT_64 = ImageSettings(size_px=64)


def pixels(count: int = 3, size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


# ---- losses ----


def test_focal_loss_is_the_formula_of_its_paper() -> None:
    truth, probability = np.array([[1.0], [0.0], [1.0]]), np.array([[0.9], [0.2], [0.3]])
    by_hand = np.mean([-0.25 * 0.1**2 * np.log(0.9), -0.75 * 0.2**2 * np.log(0.8), -0.25 * 0.7**2 * np.log(0.3)])
    assert float(keras.ops.convert_to_numpy(focal_loss(2.0, 0.25)(truth, probability))) == pytest.approx(
        by_hand, rel=1e-5
    )


def test_focal_loss_without_focus_is_half_the_cross_entropy() -> None:
    truth, probability = np.array([[1.0], [0.0]]), np.array([[0.6], [0.7]])
    plain = build_loss(LossSettings(name="cross_entropy"))(truth, probability)
    focused = focal_loss(0.0, 0.5)(truth, probability)
    assert float(keras.ops.convert_to_numpy(focused)) == pytest.approx(float(keras.ops.convert_to_numpy(plain)) / 2)


def test_focal_loss_stays_finite_where_the_network_is_sure_and_wrong() -> None:
    value = focal_loss()(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]]))
    assert np.isfinite(keras.ops.convert_to_numpy(value))


def test_an_unknown_loss_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="known: focal, cross_entropy"):
        build_loss(LossSettings(name="hinge"))


def test_the_second_task_adds_the_cross_entropy_of_known_diagnoses_to_the_loss() -> None:
    loss = build_loss(LossSettings(name="cross_entropy"))
    targets = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    outputs = np.array([[0.9, 0.1, 0.2, 0.7], [0.3, 0.5, 0.4, 0.1], [0.2, 0.6, 0.3, 0.1]], np.float32)
    first = -np.mean(np.log([0.9, 0.7, 0.8]))
    second = -(np.log(0.7) + np.log(0.6)) / 3  # the unknown one costs nothing
    both = keras.ops.convert_to_numpy(with_diagnosis(loss, 0.5)(keras.ops.array(targets), keras.ops.array(outputs)))
    assert float(both) == pytest.approx(first + 0.5 * second, rel=1e-4)
    assert list(keras.ops.convert_to_numpy(accuracy(keras.ops.array(targets), keras.ops.array(outputs)))) == [1, 1, 1]


# ---- networks ----


@pytest.mark.parametrize("metadata", [False, True])
def test_the_activation_map_averages_to_the_images_share_of_the_logit(metadata: bool) -> None:
    settings = SMALL.model_copy(update={"metadata": metadata, "dropout": 0.5})
    classifier = build_classifier(settings, AT_64, metadata_features=4, prior=0.1)
    image = pixels().astype(np.float32)
    table = np.random.default_rng(1).random((3, 4)).astype(np.float32)
    inputs = [image, table] if metadata else image
    logit, activation_map, features = answering(classifier).predict_on_batch(inputs)
    probability = classifier.predict_on_batch(inputs)
    assert np.allclose(probability, 1 / (1 + np.exp(-logit)), atol=1e-6)
    assert activation_map.shape == (3, 4, 4, 1)
    assert features.shape == (3, 128)
    share = activation_map.mean(axis=(1, 2))
    if metadata:
        other = classifier.predict_on_batch([image, table[::-1].copy()])
        assert not np.allclose(probability, other)
    else:
        assert np.allclose(share, logit, atol=1e-5)


def test_a_fresh_network_answers_near_the_share_of_melanomas() -> None:
    classifier = build_classifier(SMALL, AT_64, prior=0.02)
    assert np.median(classifier.predict_on_batch(pixels(8).astype(np.float32))) < 0.2


@pytest.mark.parametrize("name", ["InceptionResNetV2", "MobileNet_0.75", "DenseNet121", "ResNet50", "EfficientNetV2B0"])
def test_pixel_scaling_is_what_keras_own_preprocessing_does(name: str) -> None:
    modules = {
        "InceptionResNetV2": "inception_resnet_v2",
        "MobileNet_0.75": "mobilenet",
        "DenseNet121": "densenet",
        "ResNet50": "resnet",
        "EfficientNetV2B0": "efficientnet_v2",
    }
    image = pixels(2).astype(np.float32)
    x = image
    for layer in backbones.scaling_layers(name):
        x = layer(x)
    wanted = getattr(keras.applications, modules[name]).preprocess_input(image.copy())
    assert np.allclose(keras.ops.convert_to_numpy(x), wanted, atol=1e-4)


def test_every_keras_application_that_is_named_exists() -> None:
    for name, backbone in BACKBONES.items():
        assert callable(backbone.builder) or hasattr(keras.applications, backbone.builder), name


def test_an_unknown_backbone_names_near_ones() -> None:
    with pytest.raises(UsageError, match="InceptionResNetV2"):
        check_weights(ModelSettings(backbone="InceptionResnetV2"))


def test_an_image_too_small_for_a_network_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be built for 32 px"):
        build_backbone(ModelSettings(weights="none"), 32)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.weights.h5"
    build_backbone(SMALL, 64).save_weights(path)
    settings = ModelSettings(backbone="MobileNet_0.25", weights=str(path))
    with pytest.raises(ModelError, match=r"does not hold weights of MobileNet_0\.25"):
        build_backbone(settings, 64)
    (tmp_path / "cut.weights.h5").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="does not hold weights"):
        build_backbone(SMALL.model_copy(update={"weights": str(tmp_path / "cut.weights.h5")}), 64)


def test_a_missing_weight_file_is_named() -> None:
    with pytest.raises(MelanomaError, match=r"nowhere\.weights\.h5 is not there"):
        check_weights(ModelSettings(backbone="MobileNet", weights="nowhere.weights.h5"))


def test_without_a_network_the_sentence_says_which_file_to_put_where(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet/mobilenet_1_0_224_tf_no_top.h5"

    def unreachable(**arguments: object) -> None:
        raise Exception(f"URL fetch failure on {url}: None -- [Errno -3] Temporary failure in name resolution")  # noqa: TRY002

    monkeypatch.setattr(keras.applications, "MobileNet", unreachable)
    with pytest.raises(MelanomaError) as caught:
        build_backbone(ModelSettings(backbone="MobileNet", weights="imagenet"), 64)
    assert url in str(caught.value)
    assert str(Path(".keras") / "models" / "mobilenet_1_0_224_tf_no_top.h5") in str(caught.value)
    assert "--set model.weights=FILE" in str(caught.value)


@pytest.mark.skipif(not MOBILENET.exists(), reason="../shared/data is absent")
def test_weights_from_a_file_are_the_files() -> None:
    import h5py

    network = build_backbone(ModelSettings(backbone="MobileNet_0.75", weights=str(MOBILENET)), 96)
    with h5py.File(MOBILENET) as file:
        kernel = np.array(file["layers/conv2d/vars/0"])
    assert np.array_equal(keras.ops.convert_to_numpy(network.get_layer("conv1").kernel), kernel)


# ---- random views ----


def test_random_views_pass_images_through_when_not_training() -> None:
    image = pixels()
    for layer in augmentation(AugmentSettings(brightness=0.2, contrast=0.2), 0, image.shape[1]):
        assert np.array_equal(keras.ops.convert_to_numpy(layer(image, training=False)), image.astype(np.float32))


def test_random_views_without_a_change_are_the_images() -> None:
    view = augmentation(AugmentSettings(flip=False, turn_degrees=0, zoom=0), 0, pixels().shape[1])[0]
    assert np.allclose(keras.ops.convert_to_numpy(view(pixels(), training=True)), pixels(), atol=1e-3)


def test_a_flip_gives_one_of_the_four_mirror_images() -> None:
    image = pixels(16)
    seen = set()
    view = augmentation(AugmentSettings(flip=True, turn_degrees=0, zoom=0), 0, image.shape[1])[0]
    for before, after in zip(image, keras.ops.convert_to_numpy(view(image, training=True)), strict=True):
        mirrors = [before, before[::-1], before[:, ::-1], before[::-1, ::-1]]
        matches = [number for number, mirror in enumerate(mirrors) if np.allclose(after, mirror, atol=1e-3)]
        assert len(matches) == 1
        seen |= set(matches)
    assert seen == {0, 1, 2, 3}


def test_views_differ_between_calls_and_repeat_with_the_seed() -> None:
    first = augmentation(AugmentSettings(), 7, pixels().shape[1])[0]
    second = augmentation(AugmentSettings(), 7, pixels().shape[1])[0]
    one, two = (keras.ops.convert_to_numpy(first(pixels(), training=True)) for _ in range(2))
    assert not np.array_equal(one, two)
    assert np.array_equal(one, keras.ops.convert_to_numpy(second(pixels(), training=True)))


def test_a_turned_disc_stays_a_disc_and_keeps_its_range() -> None:
    down, right = np.mgrid[:64, :64] - 31.5
    disc = np.where(down**2 + right**2 < 20**2, 200, 40).astype(np.uint8)[None, :, :, None].repeat(3, 3)
    view = augmentation(AugmentSettings(flip=True, turn_degrees=180, zoom=0), 3, 64)[0]
    turned = keras.ops.convert_to_numpy(view(disc, training=True))
    assert 40 - 1e-3 <= turned.min() <= turned.max() <= 200 + 1e-3
    assert np.abs(turned - disc).mean() < 4


STILL: dict[str, Any] = {"flip": False, "turn_degrees": 0, "zoom": 0}


def changed(settings: AugmentSettings, images: Any, seed: int = 0) -> Any:
    x = images
    for layer in augmentation(settings, seed, images.shape[1]):
        x = layer(x, training=True)
    return keras.ops.convert_to_numpy(x)


def test_another_light_multiplies_each_channel_by_its_own_factor() -> None:
    image = np.full((64, 4, 4, 3), 100, np.uint8)
    lit = changed(AugmentSettings(**STILL, colour=0.2), image)
    assert np.ptp(lit, axis=(1, 2)).max() < 1e-3  # every pixel of a channel alike
    assert lit.min() >= 80 - 1e-3
    assert lit.max() <= 120 + 1e-3
    assert np.ptp(lit[:, 0, 0], axis=1).max() > 10  # the channels differently
    assert changed(AugmentSettings(**STILL, colour=0.5), np.full((64, 2, 2, 3), 250, np.uint8)).max() <= 255


def test_a_stretched_disc_is_wide_or_tall_and_a_moved_one_elsewhere() -> None:
    down, right = np.mgrid[:64, :64] - 31.5
    disc = np.where(down**2 + right**2 < 16**2, 200, 0).astype(np.uint8)[None, :, :, None].repeat(3, 3)
    discs = disc.repeat(50, 0)
    stretched = changed(AugmentSettings(**STILL, stretch=0.3), discs)[..., 0] > 100
    sides = np.stack([stretched.any(axis=2).sum(axis=1), stretched.any(axis=1).sum(axis=1)])
    assert (sides.prod(axis=0) / 32**2).std() < 0.1  # as large as before
    assert np.ptp(sides[0] / sides[1]) > 0.5
    moved = changed(AugmentSettings(**STILL, shift=0.2), discs)[..., 0] > 100
    middle = np.array([np.argwhere(one).mean(axis=0) for one in moved]) - 31.5
    assert np.abs(middle).max() <= 0.2 * 64 + 1
    assert middle.std(axis=0).min() > 4


@pytest.mark.skipif(BACKEND != "torch", reason="the other backends have the plain sampler alone")
def test_the_fast_sampler_reads_what_the_plain_one_reads() -> None:
    from melanoma.training import augment
    from melanoma.training.sampler import sampled

    random = np.random.default_rng(0)
    images = keras.ops.convert_to_tensor(random.integers(0, 256, (3, 17, 23, 3), dtype=np.uint8))
    rows, columns = (keras.ops.convert_to_tensor(random.uniform(-30, 50, (3, 11 * 11)), "float32") for _ in range(2))
    plain = augment._sample(images, augment._mirrored(rows, 17), augment._mirrored(columns, 23), 11)
    assert plain.shape == (3, 11, 11, 3)
    assert np.abs(keras.ops.convert_to_numpy(sampled(images, rows, columns, 11) - plain)).max() < 0.01


def test_a_smaller_view_of_a_large_image_is_that_image_made_smaller() -> None:
    import cv2

    waves = np.indices((64, 64)).sum(axis=0)[..., None] * np.array([0.1, 0.2, 0.3])
    image = (127 + 100 * np.sin(waves)).astype(np.uint8)
    (small,) = keras.ops.convert_to_numpy(augmentation(AugmentSettings(**STILL), 0, 32)[0](image[None], training=True))
    assert np.abs(small - cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)).max() < 2


# ---- schedules ----


def rate(schedule: str, step: int, **settings: float) -> float:
    optimizer = build_optimizer(TrainSettings(schedule=schedule, learning_rate=0.1, **settings), steps=10)  # type: ignore[arg-type]
    optimizer.iterations.assign(step)
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def test_inverse_time_is_keras_old_decay() -> None:
    for step in (0, 1, 500):
        assert rate("inverse_time", step, epochs=50) == pytest.approx(0.1 / (1 + 0.1 / 50 * step), rel=1e-5)


def test_cosine_rises_in_the_warm_up_and_ends_at_nothing() -> None:
    assert rate("cosine", 0, epochs=4, warmup_epochs=1) == pytest.approx(0)
    assert rate("cosine", 5, epochs=4, warmup_epochs=1) == pytest.approx(0.05)
    assert rate("cosine", 10, epochs=4, warmup_epochs=1) == pytest.approx(0.1)
    assert rate("cosine", 25, epochs=4, warmup_epochs=1) == pytest.approx(0.05)
    assert rate("cosine", 40, epochs=4, warmup_epochs=1) == pytest.approx(0, abs=1e-9)
    assert rate("cosine", 0, epochs=4, warmup_epochs=0) == pytest.approx(0.1)


def test_sizes_take_an_equal_share_of_the_epochs_each_and_none_is_over_the_images_own() -> None:
    several = load_settings("cpu", ["train.sizes_px=[64,96,128]", "train.epochs=7", "images.size_px=128"])
    assert [side_of(several, epoch) for epoch in range(7)] == [64, 64, 64, 96, 96, 128, 128]
    one = load_settings("cpu", ["images.size_px=96", "train.drawn_from_px=128"])
    assert side_of(one, 3) == 96


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["train.sizes_px=[64,128]"], "128 px cannot be drawn from images of 96 px: raise train.drawn_from_px"),
        (["train.drawn_from_px=64"], "96 px cannot be drawn from images of 64 px"),
        (["train.drawn_from_px=200"], "96 px drawn from images of 200 px would be grainy"),
        (["train.drawn_from_px=128", "images.filters=['no_noise']"], "no_noise and eroded count in pixels"),
        (["train.sizes_px=[64,80,96]", "train.epochs=2"], "train.sizes_px has 3 sides for train.epochs = 2"),
        (["model.hidden_share=0.5"], "model.hidden_share hides age, sex and site"),
        (["model.frozen_share=0.5", "model.weights=none"], "model.frozen_share would keep random weights"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_name(settings: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(told)}"):
        load_settings("cpu", ["images.size_px=96", *settings])


def test_frozen_layers_keep_their_weights_and_the_others_do_not() -> None:
    settings = ModelSettings(backbone="small", weights="none", frozen_share=0.5)
    model = build_classifier(settings, ImageSettings(size_px=32))
    (backbone,) = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    frozen = round(0.5 * len(backbone.layers))
    before = [[keras.ops.convert_to_numpy(one) for one in layer.weights] for layer in backbone.layers]
    model.compile("sgd", "binary_crossentropy")
    model.train_on_batch(pixels(4, 32).astype(np.float32), np.array([[0.0], [1], [0], [1]]))
    same = [
        all(np.array_equal(old, keras.ops.convert_to_numpy(new)) for old, new in zip(olds, layer.weights, strict=True))
        for olds, layer in zip(before, backbone.layers, strict=True)
    ]
    assert all(same[:frozen])  # the statistics of batch normalisation too
    assert not all(same[frozen:])
    assert any(before[:frozen])


def test_a_network_for_any_size_answers_as_the_one_for_its_own() -> None:
    settings, image = ModelSettings(backbone="small", weights="none"), pixels(2)
    fixed = build_classifier(settings, ImageSettings(size_px=image.shape[1]))
    free = build_classifier(settings, ImageSettings(size_px=32), any_size=True)
    free.set_weights(fixed.get_weights())
    given = image.astype(np.float32)
    assert np.allclose(free.predict_on_batch(given), fixed.predict_on_batch(given), atol=1e-6)


def test_the_averaged_weights_are_the_moving_average_and_the_others_come_back() -> None:
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    settings = TrainSettings(schedule="constant", learning_rate=0.1, averaging=0.75)
    network.compile(build_optimizer(settings, 10), "mean_squared_error")
    random, seen = np.random.default_rng(0), []
    for _ in range(4):
        network.train_on_batch(random.normal(size=(8, 2)).astype(np.float32), np.ones((8, 1), np.float32))
        seen.append(np.array(network.get_weights()[0]))
    expected = seen[0]
    for weights in seen[1:]:
        expected = 0.75 * expected + 0.25 * weights
    with averaged(network):
        assert np.allclose(network.get_weights()[0], expected, atol=1e-6)
    assert np.array_equal(network.get_weights()[0], seen[-1])


# ---- backends ----

ONE_STEP = """
import sys
import numpy as np
from melanoma.config import ImageSettings, LossSettings, ModelSettings, TrainSettings
from melanoma.models.backend import BACKEND, keras
from melanoma.models.classifier import build_classifier
from melanoma.models.losses import build_loss
from melanoma.training.train import build_optimizer
assert BACKEND == sys.argv[1], BACKEND
keras.utils.set_random_seed(0)
settings = ModelSettings(backbone="MobileNet_0.25", weights="none")
model = build_classifier(settings, ImageSettings(size_px=64), prior=0.2)
if sys.argv[3] == "write":
    model.save_weights(sys.argv[2])
model.load_weights(sys.argv[2])
model.compile(build_optimizer(TrainSettings(schedule="constant", learning_rate=0.001), 10), build_loss(LossSettings()))
random = np.random.default_rng(0)
images = random.integers(0, 256, (8, 64, 64, 3)).astype("float32")
targets = (np.arange(8) % 2).astype("float32")[:, None]
print([float(model.train_on_batch(images, targets)) for _ in range(2)])
"""


def test_one_training_step_gives_the_same_loss_on_every_backend(tmp_path: Path) -> None:
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if len(installed) < 2:
        pytest.skip(f"only {', '.join(installed)} is installed; the extras jax and tensorflow bring the others")
    losses = {}
    for number, backend in enumerate(installed):
        command = [
            sys.executable,
            "-c",
            ONE_STEP,
            backend,
            str(tmp_path / "w.weights.h5"),
            "read" if number else "write",
        ]
        environment = os.environ | {"KERAS_BACKEND": backend}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        losses[backend] = eval(done.stdout.strip().splitlines()[-1])
    print(losses)
    first = losses[installed[0]]
    for backend, found in losses.items():
        assert found[0] == pytest.approx(first[0], rel=1e-4), (backend, losses)
        assert found[1] == pytest.approx(first[1], abs=1e-3), (backend, losses)  # after one update by Adam
