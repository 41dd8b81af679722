"""The map is Grad-CAM's, lies as the picture lies, and is drawn so that nobody takes it for more than it is."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melanoma.config import settings_from
from melanoma.errors import DataError
from melanoma.inference.explain import explain, logit, overlaid, png, sheet
from melanoma.inference.predict import Predictor
from melanoma.inference.scoring import dihedral, laid_back
from melanoma.inference.words import Details, in_percent
from melanoma.models.backend import BACKEND, keras
from melanoma.models.classifier import answering, build_classifier
from melanoma.runs import Run


@pytest.mark.skipif(BACKEND != "torch", reason="gradients are taken by PyTorch")
@pytest.mark.parametrize(
    ("backbone", "size_px"),
    [("small", 64), ("MobileNet", 64), ("ResNet50", 64), ("EfficientNetV2B0", 64), ("DenseNet121", 64)],
)
@pytest.mark.parametrize("features", [0, 3])
def test_the_map_is_grad_cam_by_gradients_for_any_backbone(backbone: str, size_px: int, features: int) -> None:
    import torch

    keras.utils.set_random_seed(0)
    sections = {"model": {"backbone": backbone, "metadata": bool(features)}, "images": {"size_px": size_px}}
    settings = settings_from(sections)
    classifier = build_classifier(settings.model, settings.images, features, weights="none", plain=True)
    pictures = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (2, size_px, size_px, 3)).astype(np.float32))
    given = [pictures, torch.full((2, features), 0.7)] if features else pictures
    _, found, _ = answering(classifier)(given, training=False)

    image_logit = classifier.get_layer("image_logit")
    outputs = [classifier.get_layer("features").input, classifier.get_layer("probability").input]
    feature_map, whole = keras.Model(classifier.inputs, outputs)(given, training=False)
    feature_map = feature_map.detach().requires_grad_()
    pooled = classifier.get_layer("features")(feature_map)
    share = image_logit(pooled)
    share.sum().backward()
    weights = feature_map.grad.mean(dim=(1, 2), keepdim=True)  # Selvaraju et al. 2017, equation 1
    grad_cam = (weights * feature_map).sum(dim=-1).detach().numpy()  # equation 2, without throwing away what is against

    places = grad_cam.shape[1] * grad_cam.shape[2]
    bias = float(image_logit.bias.value.detach().numpy()[0])
    found = found.detach().numpy()[..., 0]
    np.testing.assert_allclose(found, places * grad_cam + bias, rtol=1e-4, atol=1e-4)
    # all places together are the image's share of the logit, which is the whole of it without a table
    np.testing.assert_allclose(found.mean(axis=(1, 2)), share.detach().numpy()[:, 0], rtol=1e-4, atol=1e-4)
    assert np.allclose(share.detach().numpy(), whole.detach().numpy(), atol=1e-4) == (not features)


def test_maps_of_turned_and_mirrored_views_are_laid_back_as_the_picture_lies() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 1), dtype=np.uint8)
    views = np.stack([view[..., 0].astype(np.float32) for view in dihedral(pictures, 8)])
    for view in laid_back(views):
        np.testing.assert_array_equal(view, pictures[..., 0])


def test_an_explanation_comes_from_the_bundle_alone_and_tells_the_images_share(
    judged: Run, lesions: list[Path]
) -> None:
    predictor = Predictor(judged.folder, few=True, views=1)
    known, unknown = (explain(predictor, lesions[3], details) for details in (Details(80, "male", "torso"), Details()))
    np.testing.assert_array_equal(known.answer.activation_map, unknown.answer.activation_map)
    assert known.answer.score != unknown.answer.score
    assert known.image.shape == (32, 32, 3)
    assert known.original.ndim == 3
    assert known.overlay.shape == known.image.shape
    assert known.colours.shape == (32, 32, 4)


def test_what_a_place_says_is_red_for_and_blue_against_the_operating_point() -> None:
    image, shares = np.full((40, 40, 3), 128, np.uint8), np.zeros((2, 2), np.float32)
    shares[0, 0], shares[1, 1] = 3, -3
    drawn = overlaid(image, shares).astype(int)
    assert drawn[2, 2, 0] > drawn[2, 2, 2] + 40
    assert drawn[37, 37, 2] > drawn[37, 37, 0] + 40
    above = overlaid(image, shares, middle=-9).astype(int)
    assert (above[..., 0] > above[..., 2]).all()  # every place speaks for more than so low a point


def test_a_sheet_is_a_picture_with_three_panels_and_whatever_name(judged: Run, lesions: list[Path]) -> None:
    explanation = explain(Predictor(judged.folder, few=True), lesions[0])
    drawn = Image.open(io.BytesIO(sheet(explanation, "bad\x00name\u202e.jpg", "footer " * 60)))
    assert drawn.format == "PNG"
    assert drawn.width > 3 * 400
    saved = np.asarray(Image.open(io.BytesIO(png(explanation.image))))
    np.testing.assert_array_equal(saved, explanation.image)


def test_a_picture_that_cannot_be_read_cannot_be_explained(judged: Run) -> None:
    with pytest.raises(DataError, match="nothing"):
        explain(Predictor(judged.folder, few=True), b"nothing", name="nothing")


@pytest.mark.parametrize(
    ("probability", "said"), [(0, "under 0.1 %"), (0.0004, "under 0.1 %"), (0.5, "50.0 %"), (0.9999, "over 99.9 %")]
)
def test_no_probability_is_told_as_a_certainty(probability: float, said: str) -> None:
    assert in_percent(probability) == said


def test_a_logit_is_finite_at_the_ends() -> None:
    assert logit(0.5) == 0
    assert np.isfinite([logit(0), logit(1)]).all()
    assert json.dumps(logit(0))
