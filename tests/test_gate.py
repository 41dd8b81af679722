"""What is no picture of a lesion is turned away, and lesions are kept; limits are learned, saved and applied alike."""

import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from zoo import SHARED, needs_shared

from melanoma.data.clutter import draw_clutter
from melanoma.data.synthetic import make_dataset
from melanoma.errors import DataError, ModelError
from melanoma.images.decode import decode
from melanoma.images.filters import THUMBNAIL_PX, process
from melanoma.inference.assess import LOOKS, Gate, Likeness, lab, looks, quadratic, qualities, unit
from melanoma.training.gate import FEWEST, Lesions, chosen_lesions, learn_gate

Pixels = NDArray[np.uint8]
SIDE_PX = 240
WORDS = "The patient was seen in the clinic in spring; nothing was found, and a second visit was agreed upon"


# ---- pictures of no lesion, drawn here and nowhere in the package ----------------------------------------------------


def text_page(random: np.random.Generator) -> Image.Image:
    page = Image.new("RGB", (SIDE_PX, SIDE_PX), tuple(random.integers(235, 256, 3).tolist()))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(int(random.integers(9, 18)))
    for top in range(int(random.integers(5, 20)), SIDE_PX - 15, int(random.integers(14, 24))):
        draw.text((12, top), " ".join(random.choice(WORDS.split(), 7)), fill=(20, 20, 30), font=font)
    return page


def face(random: np.random.Generator) -> Image.Image:
    page = Image.new("RGB", (SIDE_PX, SIDE_PX), tuple(random.integers(120, 256, 3).tolist()))
    draw, middle = ImageDraw.Draw(page), SIDE_PX / 2 + random.normal(0, 8, 2)
    skin = tuple((np.array([225, 180, 150]) * random.uniform(0.6, 1.05)).clip(0, 255).astype(int).tolist())

    def at(dx: float, dy: float) -> tuple[float, float]:
        return middle[0] + dx, middle[1] + dy

    def oval(dx: float, dy: float, width: float, height: float, fill: tuple[int, ...]) -> None:
        draw.ellipse([*at(dx - width, dy - height), *at(dx + width, dy + height)], fill=fill)

    oval(0, -22, 78, 70, tuple(random.integers(10, 110, 3).tolist()))
    oval(0, 0, 66, 86, skin)
    for side in (-26, 26):
        oval(side, -18, 13, 8, (250, 250, 250))
        oval(side, -18, 6, 6, (60, 40, 30))
        draw.line([*at(side - 14, -36), *at(side + 14, -38)], fill=(60, 40, 30), width=4)
    draw.line([*at(0, 0), *at(-7, 20), *at(5, 22)], fill=(150, 100, 80), width=3)
    draw.arc([*at(-28, 18), *at(28, 56)], 20, 160, fill=(170, 50, 60), width=6)
    return page


def noise(random: np.random.Generator) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8))


def wall(random: np.random.Generator) -> Image.Image:
    colour = random.integers(60, 245, 3) + random.normal(0, 2, (SIDE_PX, SIDE_PX, 1))
    shade = np.linspace(1, random.uniform(0.85, 1), SIDE_PX)[:, None, None]
    return Image.fromarray((colour * shade).clip(0, 255).astype(np.uint8))


def histology(random: np.random.Generator) -> Image.Image:
    ground = np.array([235, 190, 215]) + cv2.GaussianBlur(random.normal(0, 60, (SIDE_PX, SIDE_PX, 3)), (0, 0), 6)
    page = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(page)
    for _ in range(int(random.integers(120, 400))):
        (x, y), (wide, high) = random.uniform(0, SIDE_PX, 2), random.uniform(3, 8, 2)
        draw.ellipse(
            [x - wide, y - high, x + wide, y + high],
            fill=tuple(random.integers((70, 30, 110), (130, 80, 170)).tolist()),
        )
    return page


KINDS: list[Callable[[np.random.Generator], Image.Image]] = [text_page, face, noise, wall, histology]


def drawn(number: int) -> Iterator[Pixels]:
    return (np.asarray(kind(np.random.default_rng([seed, 1]))) for kind in KINDS for seed in range(number))


def thumbnails(pictures: Iterator[Pixels] | list[Pixels]) -> Pixels:
    return np.stack([process(one, THUMBNAIL_PX) for one in pictures])


# ---- what is measured ------------------------------------------------------------------------------------------------


def test_looks_are_as_many_finite_numbers_for_any_picture() -> None:
    flat = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (0, 128, 255)])
    found = looks(np.concatenate([flat, draw_clutter(5, 64, 0)]))
    assert found.shape == (8, LOOKS)
    assert np.isfinite(found).all()


def test_looks_are_alike_however_many_are_described_at_once() -> None:
    pictures = draw_clutter(6, 64, 0)
    np.testing.assert_allclose(looks(pictures), np.concatenate([looks(one[None]) for one in pictures]), atol=1e-6)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Pixels]:
    folder = tmp_path_factory.mktemp("drawn")
    make_dataset(folder, images=500, test_images=2)
    return [process(decode(path, 128), 128) for path in sorted((folder / "jpeg" / "train").glob("*.jpg"))]


def test_a_blurred_picture_is_less_sharp_a_dark_one_less_light_a_pale_one_has_less_contrast(
    pictures: list[Pixels],
) -> None:
    lesion = pictures[3]
    changed = {
        "sharpness": cv2.GaussianBlur(lesion, (0, 0), 5),
        "lightness": (lesion * 0.3).astype(np.uint8),
        "contrast": (200 + (lesion - 200.0) * 0.05).astype(np.uint8),
    }
    before = qualities(thumbnails([lesion]), [lesion])
    for name, picture in changed.items():
        assert qualities(thumbnails([picture]), [picture])[name][0] < before[name][0]


def test_colours_are_cie_lab() -> None:
    known = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8).reshape(4, 1, 1, 3)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(lab(known)[..., 0, 0], expected, atol=0.02)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    opencv = [cv2.cvtColor(one.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB) for one in pictures]
    # OpenCV looks up tables, between whose places it draws lines
    np.testing.assert_allclose(np.moveaxis(lab(pictures), 1, -1), opencv, atol=0.5)


def test_likeness_is_the_mahalanobis_distance_of_its_covariance() -> None:
    random = np.random.default_rng(0)
    mean, axes = unit(random.normal(size=(1, 6)))[0], np.linalg.qr(random.normal(size=(6, 2)))[0].T
    variances, rest = np.array([3.0, 2.0]), 0.5
    known = Likeness(mean, axes, variances, rest, 4.0)
    covariance = axes.T @ np.diag(variances) @ axes + rest * (np.eye(6) - axes.T @ axes)
    given = random.normal(size=(9, 6)).astype(np.float32)
    away = unit(given) - mean
    expected = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away) / 4
    np.testing.assert_allclose(known.distance(given), expected, rtol=1e-9)


def test_a_quadratic_form_is_what_it_says() -> None:
    form = np.array([[2.0, 0, 1], [0, 0, 0], [1, 0, -3]])
    np.testing.assert_allclose(quadratic(form, np.array([[1.0, 5], [0, 7]])), [2 + 2 - 3, -3])


# ---- what is learned -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(pictures: list[Pixels]) -> tuple[Gate, dict[str, Any]]:
    gate, told = learn_gate(known_lesions(pictures[:300]), 2, seed=0)
    assert gate is not None
    return gate, told


def known_lesions(pictures: list[Pixels], channels: int = 12) -> Lesions:
    number = len(pictures)
    return Lesions(
        thumbnails=thumbnails(pictures),
        images=pictures,
        group=np.arange(number) // 2,
        shorter_side_px=np.full(number, 128),
        network=np.arange(number) % 2,
        features=np.random.default_rng(0).normal(2, 1, (number, channels)).astype(np.float32),
    )


def test_nearly_all_lesions_are_kept_and_the_share_is_told(
    learned: tuple[Gate, dict[str, Any]], pictures: list[Pixels]
) -> None:
    gate, told = learned
    assert told["images"] == 300
    assert 0.93 <= told["kept"] <= 1
    unseen = thumbnails(pictures[300:])
    assert (gate.strangeness(unseen) <= 1).mean() >= 0.9


def test_pages_faces_noise_walls_and_tissue_are_turned_away_with_a_reason(learned: tuple[Gate, dict[str, Any]]) -> None:
    gate, _ = learned
    every = list(drawn(12))
    features = [np.full((len(every), 12), 2, np.float32)] * 2
    sizes = [(SIDE_PX, SIDE_PX)] * len(every)
    refused = gate.reasons(sizes, thumbnails(every), [process(one, 128) for one in every], features)
    assert np.mean([bool(reasons) for reasons in refused]) >= 0.95
    assert all(reason.startswith(("it ", "there ")) for reasons in refused for reason in reasons)


def test_features_that_no_lesion_has_are_turned_away(
    learned: tuple[Gate, dict[str, Any]], pictures: list[Pixels]
) -> None:
    gate, _ = learned
    given = [(128, 128)] * 2, thumbnails([pictures[0]] * 2), [pictures[0]] * 2
    features = np.stack([np.full(12, 2.0), np.tile([40.0, -40.0], 6)]).astype(np.float32)
    known, (strange,) = gate.reasons(*given, [features] * 2)
    assert known == []
    assert "the network sees" in strange


def test_a_small_picture_is_turned_away_by_its_size_alone(
    learned: tuple[Gate, dict[str, Any]], pictures: list[Pixels]
) -> None:
    gate, _ = learned
    features = [np.zeros((1, 12), np.float32)] * 2
    ((reason,),) = gate.reasons([(40, 300)], thumbnails([pictures[0]]), [pictures[0]], features)
    assert reason == "it has 40 x 300 pixels; the shorter side needs 64"


def test_a_saved_gate_is_the_same_and_a_damaged_one_is_refused(
    learned: tuple[Gate, dict[str, Any]], pictures: list[Pixels]
) -> None:
    gate, _ = learned
    same = Gate.from_bytes(gate.to_bytes(), 2)
    given = thumbnails(pictures[:5])
    np.testing.assert_array_equal(same.strangeness(given), gate.strangeness(given))
    features = [np.random.default_rng(1).normal(size=(5, 12)).astype(np.float32)] * 2
    np.testing.assert_array_equal(same.unlikeness(features), gate.unlikeness(features))
    for content, networks in ((b"", 2), (gate.to_bytes()[:500], 2), (gate.to_bytes(), 3), (b"PK\x03\x04", 2)):
        with pytest.raises(ModelError, match=r"gate\.npz"):
            Gate.from_bytes(content, networks)


def test_a_pickled_object_in_a_gate_is_refused() -> None:
    content = io.BytesIO()
    np.savez(content, looks=np.array([{"a": 1}], dtype=object), smallest_side_px=3)
    with pytest.raises(ModelError, match=r"gate\.npz"):
        Gate.from_bytes(content.getvalue(), 1)


def test_too_few_lesions_make_no_gate_and_say_why(pictures: list[Pixels]) -> None:
    gate, told = learn_gate(known_lesions(pictures[:FEWEST]), 2, seed=0)
    assert gate is None
    assert told == {"reason": f"a network has {FEWEST // 2} held-out images, and at least {FEWEST} are needed"}


def test_the_same_lesions_and_seed_make_the_same_gate(pictures: list[Pixels]) -> None:
    one, other = (learn_gate(known_lesions(pictures[:220]), 2, seed=4)[0] for _ in range(2))
    assert one is not None and other is not None
    np.testing.assert_array_equal(one.looks, other.looks)


def test_lesions_are_chosen_from_every_network_alike() -> None:
    network = np.repeat([0, 1, 2], [9000, 100, 5000])
    chosen = chosen_lesions(network, 0)
    assert np.bincount(network[chosen]).tolist() == [1333, 100, 1333]
    assert (np.diff(chosen) > 0).all()


def test_clutter_is_the_same_for_a_seed_and_never_the_same_twice() -> None:
    one, same, other = draw_clutter(8, 64, 0), draw_clutter(8, 64, 0), draw_clutter(8, 64, 1)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.shape == (8, 64, 64, 3)
    assert len({picture.tobytes() for picture in one}) == 8


# ---- on real photographs ---------------------------------------------------------------------------------------------


@needs_shared
def test_a_gate_learned_on_real_lesions_keeps_others_and_turns_ordinary_pictures_away() -> None:
    paths = sorted((SHARED / "isic" / "jpeg" / "train").glob("*.jpg"))
    chosen = [paths[int(place)] for place in np.random.default_rng(0).permutation(len(paths))[:1400]]
    found = [decode(path, 128) for path in chosen]
    seen, unseen = found[:900], found[900:]
    gate, told = learn_gate(known_lesions([process(one, 128) for one in seen]), 2, seed=0)
    assert gate is not None and told["kept"] >= 0.95
    kept = [looked_at(gate, one) for one in unseen]
    assert np.mean(kept) >= 0.95
    others = [*drawn(12), *ordinary_photographs()]
    assert np.mean([looked_at(gate, one) for one in others]) <= 0.1


def looked_at(gate: Gate, picture: Pixels) -> bool:
    """Is it kept for its looks and qualities? Features are left out, as there is no network here."""
    thumbnail, image = process(picture, THUMBNAIL_PX), process(picture, 128)
    within = [
        gate.lowest[name] <= value[0] <= gate.highest.get(name, np.inf)
        for name, value in qualities(thumbnail[None], [image]).items()
    ]
    return all(within) and bool(gate.strangeness(thumbnail[None])[0] <= 1)


def ordinary_photographs() -> Iterator[Pixels]:
    """Those that installed packages ship as samples: flowers, buildings, portraits, animals, stones."""
    folders = {"sklearn": "datasets/images", "matplotlib": "mpl-data/sample_data", "skimage": "data"}
    found = []
    for package, folder in folders.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            below = Path(spec.origin).parent / folder
            found += sorted(path for path in below.glob("*") if path.suffix in (".jpg", ".png"))
    assert found
    for path in found:
        with suppress(DataError):  # drawings of 8 pixels among them
            yield decode(path, 256)
