"""One lesion under two names: found by pairs, bytes and pixels, kept together, dropped but one."""

import io
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from melanoma.data import duplicates
from melanoma.data.duplicates import contradictions, dropped, groups_of, near_duplicates, same_bytes
from melanoma.data.records import read_dataset, read_table
from melanoma.errors import DataError
from melanoma.images.filters import process

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")

# One lesion under two patient ids, in isic/train: recoloured, cut otherwise, or the same file compressed anew.
SAME_LESION = [
    ("ISIC_0014818", "ISIC_0000223"),
    ("ISIC_0014748", "ISIC_0000204"),
    ("ISIC_0030074", "ISIC_0025226"),
    ("ISIC_0034228", "ISIC_0034248"),
    ("ISIC_0012672", "ISIC_0012673"),
    ("ISIC_0014771", "ISIC_0000229"),
    ("ISIC_0000157", "ISIC_0014946"),
    ("ISIC_0012127", "ISIC_0012970"),
    ("ISIC_0014657", "ISIC_0000177"),
]


def made_table(patients: list[str], lesions: list[str | None] | None = None) -> pd.DataFrame:
    names = [f"I{row}" for row in range(len(patients))]
    columns = {"image_name": names, "patient_id": patients, "lesion_id": lesions or [None] * len(names)}
    return pd.DataFrame(columns).assign(target=0)


def test_patients_lesions_and_pairs_tie_rows_together_in_chains() -> None:
    table = made_table(["A", "B", "A", "C", "D", "E"], [None, "L", "L", None, None, None])
    groups = groups_of(table, [("I3", "I4"), ("I5", "not in the table")])
    assert groups.dtype == np.int64
    assert groups.tolist() == [0, 0, 0, 1, 1, 2]


def test_without_ties_each_row_is_its_own_group() -> None:
    assert groups_of(made_table(["A", "B", "C"]), []).tolist() == [0, 1, 2]
    assert groups_of(made_table(["A", "B", "C"], ["L", None, "M"]), []).tolist() == [0, 1, 2]


def test_all_but_the_first_of_a_set_are_dropped() -> None:
    table = made_table(["A"] * 6)
    gone = dropped(table, [("I4", "I1"), ("I5", "I4"), ("I2", "I2")])
    assert gone.tolist() == [False, False, False, False, True, True]
    assert not dropped(table, []).any()


def test_one_picture_with_two_targets_is_refused_by_name() -> None:
    table = made_table(["A"] * 4).assign(target=[0, 1, 0, 0])
    assert contradictions(table, [("I0", "I1"), ("I2", "I3")]) == ["I0 and I1"]
    with pytest.raises(DataError, match="I0 and I1"):
        dropped(table, [("I0", "I1"), ("I2", "I3")])
    assert contradictions(table.drop(columns="target"), [("I0", "I1")]) == []


def test_equal_hashes_are_paired_and_missing_ones_are_not() -> None:
    hashes = pd.Series({"A": "x", "B": "y", "C": "x", "D": None, "E": None, "F": "x"})
    assert same_bytes(hashes) == [("A", "C"), ("C", "F")]
    assert same_bytes(hashes[:2]) == []


def texture(random: np.random.Generator) -> NDArray[np.float32]:
    """Make a lesion-like picture: a dark spot of its own shape with its own detail, on pale skin."""
    noise = [cv2.GaussianBlur(random.normal(size=(64, 64)).astype(np.float32), (0, 0), s) * s for s in (1, 2, 5)]
    across = np.hypot(*np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64)))
    spot = 1 / (1 + np.exp((across + noise[2] * 0.3 - 0.5) * 20))
    grey = 190 - 100 * spot + 25 * noise[0] + 30 * noise[1] * spot
    return np.clip(grey, 0, 255).astype(np.float32)


def colour(grey: NDArray[np.float32], gains: tuple[float, float, float] = (1.0, 0.8, 0.7)) -> NDArray[np.uint8]:
    return np.clip(grey[..., None] * np.array(gains), 0, 255).astype(np.uint8)


def cut(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    return cv2.resize(grey[2:61, 3:63], (64, 64), interpolation=cv2.INTER_LINEAR)


def test_copies_are_found_and_other_lesions_are_not() -> None:
    random = np.random.default_rng(0)
    greys = [texture(random) for _ in range(60)]
    pictures = [colour(grey) for grey in greys]
    copies = [
        colour(greys[0], (0.6, 0.9, 1.0)),  # other colours
        colour(greys[1] * 0.6 + 40),  # darker and flatter
        colour(cut(greys[2])),  # cut
        colour(np.rot90(greys[3], 2)),  # by half a turn
        colour(greys[4][:, ::-1]),  # mirrored
        colour(greys[5] + random.normal(0, 3, (64, 64)).astype(np.float32)),  # compressed anew
        colour(greys[6]),
    ]
    names = [f"I{row}" for row in range(67)]
    found = near_duplicates(names, np.stack([*pictures, *copies]))
    assert found == [(f"I{row}", f"I{60 + row}") for row in range(7)]


def test_pictures_of_two_tables_are_compared_as_those_of_one() -> None:
    random = np.random.default_rng(3)
    pictures = np.stack([colour(texture(random)) for _ in range(20)])
    pictures[15], pictures[19] = np.rot90(pictures[3]), pictures[17]
    names = [f"I{row:02}" for row in range(20)]
    found = near_duplicates(names, pictures)
    assert found == [("I03", "I15"), ("I17", "I19")]
    assert near_duplicates(names, pictures[:11], pictures[11:]) == found


@pytest.mark.parametrize("turn", range(8))
def test_every_way_to_lay_a_picture_down_is_found(turn: int) -> None:
    random = np.random.default_rng(4)
    pictures = np.stack([colour(texture(random)) for _ in range(12)])
    laid = np.rot90(pictures[5], turn // 2)
    laid = laid[:, ::-1] if turn % 2 else laid
    assert near_duplicates([f"I{row:02}" for row in range(13)], pictures, laid[None]) == [("I05", "I12")]


@pytest.mark.parametrize("middle", [0.95, 0.9, 0.85, 0.8])
def test_what_is_cut_out_of_the_middle_is_found(middle: float) -> None:
    random = np.random.default_rng(5)
    pictures = np.stack([colour(texture(random)) for _ in range(12)])
    edge = round(32 * (1 - middle))
    part = cv2.resize(pictures[5][edge : 64 - edge, edge : 64 - edge], (64, 64), interpolation=cv2.INTER_LINEAR)
    assert near_duplicates([f"I{row:02}" for row in range(13)], pictures, part[None]) == [("I05", "I12")]


@pytest.mark.parametrize("share", [0.95, 0.9, 0.85, 0.8])
@pytest.mark.parametrize(("down", "right"), [(0.0, 0.0), (0.0, 0.5), (1.0, 0.5), (1.0, 1.0)])
def test_what_is_cut_off_to_a_corner_or_an_edge_is_found(share: float, down: float, right: float) -> None:
    random = np.random.default_rng(6)
    pictures = np.stack([colour(texture(random)) for _ in range(12)])
    side = round(64 * share)
    top, left = round((64 - side) * down), round((64 - side) * right)
    part = cv2.resize(pictures[5][top : top + side, left : left + side], (64, 64), interpolation=cv2.INTER_LINEAR)
    assert near_duplicates([f"I{row:02}" for row in range(13)], pictures, part[None]) == [("I05", "I12")]


@pytest.mark.parametrize("view", duplicates.VIEWS[::5])
def test_a_view_is_where_its_map_says(view: duplicates.View) -> None:
    grey = texture(np.random.default_rng(7))
    whole = cv2.resize(grey, (view.side, view.side), interpolation=cv2.INTER_AREA)
    seen = whole[view.down : view.down + 32, view.right : view.right + 32]
    moved = cv2.warpAffine(grey, duplicates._to_view(view), (64, 64), flags=cv2.INTER_LINEAR)
    inside = cv2.resize(moved, (32, 32), interpolation=cv2.INTER_AREA)[2:-2, 2:-2]
    assert np.corrcoef(inside.ravel(), seen[2:-2, 2:-2].ravel())[0, 1] > 0.99


def test_compressed_detail_is_enough_where_the_outline_is_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(8)
    grey = texture(random)
    noisy = colour(cv2.GaussianBlur(grey, (0, 0), 1.2) + random.normal(0, 5, (64, 64)).astype(np.float32))
    pictures = np.stack([colour(grey), noisy, *(colour(texture(random)) for _ in range(10))])
    names = [f"I{row:02}" for row in range(12)]
    monkeypatch.setattr(duplicates, "SURE_CORRELATION", 1.0)
    assert near_duplicates(names, pictures) == [("I00", "I01")]
    monkeypatch.setattr(duplicates, "LIKELY_CORRELATION", 1.0)
    assert near_duplicates(names, pictures) == []


def test_spots_and_dark_corners_alone_are_no_duplicates() -> None:
    random = np.random.default_rng(1)
    across = np.hypot(*np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64)))
    spot = 190 - 130 / (1 + np.exp((across - 0.3) * 15))
    corners = np.clip((1.15 - across) * 6, 0, 1)
    pictures = [colour(((spot + random.normal(0, 8, (64, 64))) * corners).astype(np.float32)) for _ in range(20)]
    assert near_duplicates([f"I{row}" for row in range(20)], np.stack(pictures)) == []


def test_very_many_pictures_of_one_kind_are_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    grey = texture(random)
    pictures = np.stack([colour(grey + random.normal(0, 2, (64, 64)).astype(np.float32)) for _ in range(40)])
    names = [f"I{row:02}" for row in range(40)]
    assert len(near_duplicates(names, pictures)) == 780
    monkeypatch.setattr(duplicates, "MOST_CANDIDATES", 100)
    assert near_duplicates(names, pictures) == list(combinations(names, 2))[:100]


def test_flat_pictures_and_no_pictures_give_no_pairs() -> None:
    flat = np.stack([np.full((64, 64, 3), level, np.uint8) for level in (0, 0, 128, 255)])
    assert near_duplicates(list("abcd"), flat) == []
    assert near_duplicates([], flat[:0]) == []


@needs_shared
def test_real_pairs_under_two_patients_are_found_and_nothing_else() -> None:
    table, _ = read_table(SHARED / "isic" / "train.csv", labelled=True)
    table = table.drop_duplicates("patient_id", keep="last")
    others = table[~table["image_name"].isin(sum(SAME_LESION, ()))]["image_name"].sample(500, random_state=0)
    names = [*sum(SAME_LESION, ()), *others]
    folder = SHARED / "isic" / "jpeg" / "train"
    thumbnails = []
    for name in names:
        with Image.open(folder / f"{name}.jpg") as image:
            thumbnails.append(np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BOX)))
    assert near_duplicates(names, np.stack(thumbnails)) == SAME_LESION


@needs_shared
@pytest.mark.parametrize(("factor", "quality"), [(1.0, 30), (1.0, 75), (0.5, 90), (0.75, 60), (2.0, 90)])
def test_real_images_compressed_anew_and_resized_are_found(factor: float, quality: int) -> None:
    folder = SHARED / "isic" / "jpeg" / "test"
    paths = sorted(folder.glob("*.jpg"))[:240:2]
    whole, copies = [], []
    for path in paths:
        with Image.open(path) as image:
            picture = image.convert("RGB")
        whole.append(process(np.asarray(picture), 64))
        buffer = io.BytesIO()
        size = (round(picture.width * factor), round(picture.height * factor))
        picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as again:
            copies.append(process(np.asarray(again.convert("RGB")), 64))
    names = [path.stem for path in paths]
    found = set(near_duplicates([*names, *(f"{name} copy" for name in names)], np.stack(whole), np.stack(copies)))
    assert np.mean([(name, f"{name} copy") in found for name in names]) >= 0.95


@needs_shared
def test_the_official_pairs_leave_32701_images_and_581_melanomas() -> None:
    dataset = read_dataset(SHARED / "siim2020")
    kept = dataset.train[~dropped(dataset.train, dataset.duplicate_pairs)]
    assert len(kept) == 32_701
    assert kept["target"].sum() == 581
    assert groups_of(dataset.train, dataset.duplicate_pairs).max() + 1 == 2_056
