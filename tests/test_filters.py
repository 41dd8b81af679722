"""The filters, each against a hand-made case, a library, an identity or an edge."""

from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from melanoma.config import FilterName, ImageSettings
from melanoma.errors import DataError
from melanoma.images.decode import decode
from melanoma.images.filters import (
    FILTERS,
    eroded,
    no_noise,
    prepare,
    preprocess,
    process,
    remove_hair,
    shades_of_grey,
)

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")

Pixels = NDArray[np.uint8]


def noise(height: int = 60, width: int = 90, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def lesion(side: int = 224) -> Pixels:
    """A dark, soft-edged spot with a little texture on pale skin: no hair."""
    down, across = np.mgrid[0:side, 0:side] / side - 0.5
    inside = 1 / (1 + np.exp((np.hypot(across, down * 1.3) - 0.25) * 40))
    skin, spot = np.array([225, 180, 160]), np.array([110, 70, 55])
    pixels = skin + inside[..., None] * (spot - skin)
    grain = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 12, (side, side)), (5, 5), 0)
    return (pixels + grain[..., None]).clip(0, 255).astype(np.uint8)


def with_hairs(image: Pixels) -> tuple[Pixels, NDArray[np.bool_]]:
    """Draw five dark curved hairs, as wide as a hundredth of the side; also tell where they are."""
    side, mask = image.shape[0], np.zeros(image.shape[:2], np.uint8)
    for number in range(5):
        middle = (int(side * (0.2 + 0.15 * number)), int(side * (0.9 - 0.2 * number)))
        reach = (int(side * 0.4), int(side * 0.6))
        cv2.ellipse(mask, middle, reach, 37 * number, 180, 300, 255, max(1, side // 100), cv2.LINE_AA)
    strength = mask[..., None] / 255
    return (image * (1 - strength) + np.array([35, 28, 25]) * strength).astype(np.uint8), mask > 127


# process


@pytest.mark.parametrize("size", [32, 60, 75, 128])
@pytest.mark.parametrize("crop", ["centre", "squash"])
def test_process_gives_a_square_of_the_size_asked_for(size: int, crop: str) -> None:
    squared = process(noise(), size, crop)  # type: ignore[arg-type]
    assert squared.shape == (size, size, 3)
    assert squared.dtype == np.uint8


def test_process_leaves_a_square_of_that_size_as_it_is() -> None:
    assert np.array_equal(process(noise(64, 64), 64), noise(64, 64))


def test_process_shrinks_by_the_mean_of_what_a_pixel_covers() -> None:
    image = noise(64, 64)
    means = image.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(process(image, 32) - means).max() <= 0.5
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (64, 64, 3))
    assert (np.abs(process(stripes, 32).astype(int) - 127.5) <= 1).all()


@pytest.mark.parametrize("shape", [(101, 102), (101, 130), (151, 175), (199, 200)])
def test_the_quick_way_to_shrink_to_over_half_is_as_near_as_the_plain_one(shape: tuple[int, int]) -> None:
    image = cv2.GaussianBlur(noise(*shape), (0, 0), 1.5)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    plain = cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA)
    assert np.abs(process(image, 100).astype(int) - plain).mean() < 2
    down, across = np.mgrid[0 : shape[0], 0 : shape[1]]
    ramp = np.dstack([down * 250 / shape[0], across * 250 / shape[1], down + across]).clip(0, 255).astype(np.uint8)
    plain = cv2.resize(ramp, (100, 100), interpolation=cv2.INTER_AREA)
    assert np.abs(process(ramp, 100).astype(int) - plain).max() <= 1  # nothing is moved


def test_fine_stripes_become_even_grey_and_no_coarser_stripes() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (200, 100, 3))
    for size in (100, 101, 103, 107):
        assert process(stripes, size).std() < 10  # bilinear alone: over 70, but for the first


def test_process_squashes_everything_or_keeps_the_middle() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :20], image[:, 60:] = (255, 0, 0), (0, 0, 255)
    squashed, middle = process(image, 40, "squash"), process(image, 40, "centre")
    assert (squashed[:, :8] == (255, 0, 0)).all()
    assert (squashed[:, -8:] == (0, 0, 255)).all()
    assert (middle == 0).all()


def test_process_grows_one_side_while_it_shrinks_the_other() -> None:
    narrow = np.repeat(np.linspace(0, 250, 400).astype(np.uint8)[None, :, None], 20, axis=0).repeat(3, axis=2)
    across = process(narrow, 100)[50, :, 0].astype(int)
    assert np.abs(across - np.linspace(0, 250, 100)).max() <= 3


def test_process_takes_a_path(tmp_path: Path) -> None:
    Image.fromarray(noise(640, 640)).save(tmp_path / "one.png")
    assert np.array_equal(process(tmp_path / "one.png", 64), process(noise(640, 640), 64))
    assert np.array_equal(process(str(tmp_path / "one.png"), 64), process(noise(640, 640), 64))


# no_noise, eroded


def test_no_noise_spreads_a_point_by_the_gaussian_kernel() -> None:
    image = np.zeros((11, 11, 3), np.uint8)
    image[5, 5] = 255
    kernel = np.array([1, 4, 6, 4, 1]) / 16  # what five pixels wide is made of
    assert np.abs(no_noise(image)[3:8, 3:8, 0] - 255 * np.outer(kernel, kernel)).max() <= 1
    assert np.array_equal(no_noise(image, 1), image)


def test_no_noise_makes_noise_smaller_and_keeps_the_mean() -> None:
    blurred = no_noise(noise())
    assert blurred.std() < noise().std() / 2
    assert abs(blurred.mean() - noise().mean()) < 1


def test_eroded_takes_the_darkest_neighbour() -> None:
    image = noise()
    shifts = [(down, across) for down in range(3) for across in range(3)]
    neighbours = np.stack([image[down : 58 + down, across : 88 + across] for down, across in shifts])
    assert np.array_equal(eroded(image)[1:-1, 1:-1], neighbours.min(axis=0))
    assert np.array_equal(eroded(image, 1), image)


@pytest.mark.parametrize("kernel", [0, 2, 4, -3])
def test_an_even_kernel_is_refused(kernel: int) -> None:
    for smooth in (no_noise, eroded):
        with pytest.raises(DataError, match="odd"):
            smooth(noise(), kernel)


# shades_of_grey


def test_shades_of_grey_equals_the_formula() -> None:
    image = noise() // 2
    light = (image.astype(float) ** 6).mean(axis=(0, 1)) ** (1 / 6)
    light /= np.linalg.norm(light)
    expected = (image / (light * np.sqrt(3))).clip(0, 255)
    assert np.abs(shades_of_grey(image) - expected).max() <= 0.5


def test_shades_of_grey_takes_out_a_coloured_light() -> None:
    neutral = np.repeat(noise()[:, :, :1] // 2, 3, axis=2)
    tinted = (neutral * np.array([1.2, 1.0, 0.7])).astype(np.uint8)
    red, green, blue = shades_of_grey(tinted).astype(int).mean(axis=(0, 1))
    assert max(abs(red - green), abs(blue - green)) < 1


def test_shades_of_grey_leaves_grey_black_and_red_images_as_they_are() -> None:
    for image in (np.repeat(noise()[:, :, :1], 3, axis=2), np.zeros((20, 20, 3), np.uint8)):
        assert np.array_equal(shades_of_grey(image), image)
    red = np.zeros((20, 20, 3), np.uint8)
    red[:, :, 0] = 200
    assert np.array_equal(shades_of_grey(red), red)


# remove_hair


@pytest.mark.parametrize("side", [96, 224, 448])
def test_remove_hair_removes_drawn_hairs(side: int) -> None:
    clean = lesion(side)
    hairy, where = with_hairs(clean)
    before = np.abs(hairy[where].astype(int) - clean[where]).mean()
    after = np.abs(remove_hair(hairy)[where].astype(int) - clean[where]).mean()
    assert before > 60
    assert after < before / 5
    assert np.abs(remove_hair(hairy).astype(int) - clean).mean() < 2


@pytest.mark.parametrize("side", [96, 224, 448])
def test_remove_hair_hardly_changes_an_image_without_hair(side: int) -> None:
    clean = lesion(side)
    change = np.abs(remove_hair(clean).astype(int) - clean).max(axis=2)
    assert (change > 5).mean() < 0.002
    flat = np.full((side, side, 3), 180, np.uint8)
    assert np.array_equal(remove_hair(flat), flat)


@needs_shared
def test_remove_hair_keeps_real_lesions_and_removes_hairs_drawn_over_them() -> None:
    for name in ("ISIC_0025556", "ISIC_0026356", "ISIC_0027556", "ISIC_0028356"):  # seen to be without hair
        clean = process(SHARED / "isic/jpeg/train" / f"{name}.jpg", 224)
        hairy, where = with_hairs(clean)
        assert (remove_hair(clean) != clean).any(axis=2).mean() < 0.01, name
        errors = [np.abs(image[where].astype(int) - clean[where]).mean() for image in (hairy, remove_hair(hairy))]
        assert errors[1] < errors[0] / 3, name


# the chain


def test_every_filter_of_the_settings_is_pure_and_keeps_the_shape() -> None:
    assert set(FILTERS) == set(get_args(FilterName))
    settings = ImageSettings(size_px=64)
    for name, apply in FILTERS.items():
        image = with_hairs(lesion(96))[0]
        before = image.copy()
        image.flags.writeable = False
        once, again = apply(image, settings), apply(image, settings)
        assert once.shape == image.shape, name
        assert once.dtype == np.uint8, name
        assert np.array_equal(once, again), name
        assert np.array_equal(image, before), name
        assert not np.shares_memory(once, image), name


def test_prepare_applies_the_filters_in_the_order_of_the_settings() -> None:
    settings = ImageSettings(size_px=48, filters=("eroded", "no_noise"), blur_kernel_px=7, erosion_kernel_px=5)
    small = process(noise(), 48)
    assert np.array_equal(prepare(noise(), settings), no_noise(eroded(small, 5), 7))
    assert not np.array_equal(prepare(noise(), settings), eroded(no_noise(small, 7), 5))
    assert np.array_equal(prepare(noise(), ImageSettings(size_px=48)), small)
    with pytest.raises(ValueError, match="odd"):
        ImageSettings(size_px=48, filters=("no_noise",), blur_kernel_px=4)


def test_preprocess_is_prepare_in_zero_to_one(tmp_path: Path) -> None:
    settings = ImageSettings(size_px=48, filters=("no_noise",), crop="centre")
    image = noise()
    image[0], image[1] = 0, 255
    ready = preprocess(image, settings)
    assert ready.dtype == np.float32
    assert np.array_equal(ready, prepare(image, settings).astype(np.float32) / 255)
    assert ready.min() >= 0
    assert ready.max() <= 1
    Image.fromarray(image).save(tmp_path / "one.png")
    assert np.array_equal(preprocess(tmp_path / "one.png", settings), ready)
    assert np.array_equal(decode(tmp_path / "one.png"), image)
