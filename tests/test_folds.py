"""Folds: groups whole, every fold alike, and a file that is believed only after a check."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma.data.duplicates import Int64Array, groups_of
from melanoma.data.folds import check_folds, make_folds, random_split_leak, read_folds, write_folds
from melanoma.data.records import read_dataset
from melanoma.errors import DataError
from melanoma.files import sha256

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")


def made_table(patients: int = 300, seed: int = 0) -> tuple[pd.DataFrame, Int64Array]:
    random = np.random.default_rng(seed)
    images = random.integers(1, 12, patients)
    patient = np.repeat(np.arange(patients), images)
    count = len(patient)
    table = pd.DataFrame(
        {
            "image_name": [f"I{row}" for row in range(count)],
            "patient_id": [f"P{number}" for number in patient],
            "lesion_id": None,
            "site": random.choice(np.array(["torso", "head/neck", None], object), count, p=[0.7, 0.2, 0.1]),
            "target": (random.random(count) < 0.05).astype(np.int64),
        }
    )
    return table, groups_of(table, [("I0", f"I{count - 1}")])


def small_table() -> tuple[pd.DataFrame, Int64Array]:
    table = pd.DataFrame(
        {
            "image_name": ["A", "B", "C", "D"],
            "patient_id": ["P", "P", "Q", "R"],
            "lesion_id": [None] * 4,
            "site": ["torso"] * 4,
            "target": [1, 0, 1, 0],
        }
    )
    return table, groups_of(table, [("C", "D")])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_no_patient_and_no_duplicate_is_in_two_folds(count: int) -> None:
    table, groups = made_table()
    fold = make_folds(table, groups, count, 0.2, seed=0)
    assert fold.groupby(table["patient_id"]).nunique().max() == 1
    assert fold.iloc[0] == fold.iloc[-1]
    assert set(fold) == (set(range(count)) if count > 1 else {0, -1})


def test_every_fold_has_its_share_of_targets_and_sites() -> None:
    table, groups = made_table()
    fold = make_folds(table, groups, 5, 0.2, seed=1)
    for column in (table["target"], table["site"].fillna("unknown")):
        counts = pd.crosstab(fold, column)
        assert (counts.max() - counts.min() <= 2 + 0.02 * counts.mean()).all()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_a_single_split_holds_out_about_its_share(share: float) -> None:
    table, groups = made_table()
    held = make_folds(table, groups, 1, share, seed=0) == 0
    assert held.mean() == pytest.approx(share, abs=0.01)
    assert table.loc[held, "target"].sum() == pytest.approx(share * table["target"].sum(), abs=2)


def test_folds_repeat_with_the_seed_and_change_with_it() -> None:
    table, groups = made_table()
    fold = make_folds(table, groups, 5, 0.2, seed=0)
    assert fold.equals(make_folds(table, groups, 5, 0.2, seed=0))
    assert not fold.equals(make_folds(table, groups, 5, 0.2, seed=1))


@pytest.mark.parametrize("count", [1, 2])
def test_every_part_gets_a_melanoma_even_where_there_are_just_enough(count: int) -> None:
    table = pd.DataFrame(
        {
            "patient_id": [f"P{row}" for row in range(40)],
            "site": ["torso"] * 40,
            "target": [1, 1] + [0] * 38,
        }
    )
    fold = make_folds(table, np.arange(40), count, 0.2, seed=0)
    assert fold[:2].nunique() == 2


def test_too_few_patients_with_melanomas_is_an_error() -> None:
    table, groups = small_table()
    with pytest.raises(DataError, match=r"2 patients with a melanoma cannot fill 3 parts"):
        make_folds(table, groups, 3, 0.2, seed=0)
    with pytest.raises(DataError, match=r"0 patients with a benign image cannot fill 2 parts"):
        make_folds(table.assign(target=1), groups, 1, 0.2, seed=0)


def test_a_written_file_is_read_back_equal_and_its_hash_returned(tmp_path: Path) -> None:
    table, groups = made_table()
    fold = make_folds(table, groups, 5, 0.2, seed=0)
    path = tmp_path / "folds.csv"
    assert write_folds(path, table, groups, fold) == sha256(path)
    assert path.read_text().splitlines()[0] == "image_name,patient_id,group,fold"
    assert read_folds(path, table, groups).equals(fold)
    shuffled = table.sample(frac=1, random_state=0)
    again = read_folds(path, shuffled.reset_index(drop=True), groups[shuffled.index])
    assert again.tolist() == fold[shuffled.index].tolist()


def test_rows_of_other_images_in_a_fold_file_are_ignored(tmp_path: Path) -> None:
    table, groups = small_table()
    (tmp_path / "folds.csv").write_text("\ufeffimage_name,fold\nD,1\nX,what\nA,0\nB,0\nC,1\n", encoding="utf-8")
    assert read_folds(tmp_path / "folds.csv", table, groups).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("A,0\nB,1\nC,1\nD,1", "patient P in folds 0 and 1"),
        ("A,0\nB,0\nC,1\nD,0", "duplicates C and D in folds 0 and 1"),
        ("A,0\nB,0\nC,1", "D are missing"),
        ("A,0\nA,0\nB,0\nC,1\nD,1", "A stand in it more than once"),
        ("A,0\nB,0\nC,1.5\nD,1", "C 1.5 have a fold that is not"),
        ("A,0\nB,0\nC,-2\nD,1", "C -2 have a fold that is not"),
        ("A,0\nB,0\nC,0\nD,0", "all rows are in fold 0"),
        ("A,-1\nB,-1\nC,-1\nD,-1", "all rows are in fold -1"),
        ("A,0,7,8\nB,0\nC,1\nD,1\nE,1,2,3,4,5", r"row 2 \(number of cells '4': the header has 2 columns"),
    ],
)
def test_a_given_file_that_leaks_or_does_not_fit_is_refused_by_name(tmp_path: Path, rows: str, message: str) -> None:
    table, groups = small_table()
    (tmp_path / "folds.csv").write_text(f"image_name,fold\n{rows}\n")
    with pytest.raises(DataError, match=message):
        read_folds(tmp_path / "folds.csv", table, groups)


def test_a_fold_file_that_is_absent_or_of_other_columns_is_refused(tmp_path: Path) -> None:
    table, groups = small_table()
    with pytest.raises(DataError, match="cannot be read"):
        read_folds(tmp_path / "folds.csv", table, groups)
    (tmp_path / "folds.csv").write_text("name,fold\nA,0\n")
    with pytest.raises(DataError, match="needs the columns image_name and fold"):
        read_folds(tmp_path / "folds.csv", table, groups)


def test_whole_groups_pass_the_check() -> None:
    table, groups = small_table()
    check_folds(table, groups, pd.Series([0, 0, -1, -1]))


def test_a_random_split_leaks_patients_with_several_images_only() -> None:
    alone = pd.DataFrame({"patient_id": [f"P{row}" for row in range(50)]})
    assert random_split_leak(alone, 0.2, seed=0) == 0
    assert random_split_leak(pd.DataFrame({"patient_id": ["P"] * 50}), 0.2, seed=0) == 1
    pairs = pd.DataFrame({"patient_id": np.repeat(np.arange(2000), 2).astype(str)})
    assert random_split_leak(pairs, 0.2, seed=0) == pytest.approx(0.8, abs=0.05)  # the other one is not held out


@needs_shared
@pytest.mark.parametrize(("name", "melanomas"), [("siim2020", 584), ("isic", 1517)])
def test_five_folds_of_a_real_table_are_alike_and_whole(name: str, melanomas: int) -> None:
    dataset = read_dataset(SHARED / name)
    table = dataset.train
    fold = make_folds(table, groups_of(table, dataset.duplicate_pairs), 5, 0.2, seed=0)
    assert table["target"].groupby(fold).sum().between(melanomas // 5 - 1, melanomas // 5 + 2).all()
    counts = pd.crosstab(fold, table["site"].fillna("unknown"))
    assert (counts.max() - counts.min() <= 4).all()
    of_image = dict(zip(table["image_name"], fold, strict=True))
    assert all(of_image[one] == of_image[other] for one, other in dataset.duplicate_pairs)
    assert fold.groupby(table["patient_id"]).nunique().max() == 1
