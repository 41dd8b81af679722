"""The data check finds what was planted, names it, and lets a sound dataset pass."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melanoma.check import Check, check_data, summary
from melanoma.config import load_settings
from melanoma.data.synthetic import make_dataset
from melanoma.errors import UsageError

SHARED = Path(__file__).parents[2] / "shared" / "data"
SETTINGS = load_settings("demo", ["images.size_px=32", "evaluate.bootstrap_samples=100"])
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "data"
    make_dataset(folder, images=240, test_images=20)
    return folder


@pytest.fixture
def data(sound: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil; JPEG files are hard links, which nothing here writes into."""
    shutil.copytree(sound, tmp_path / "data")
    return tmp_path / "data"


def checked(folder: Path, **options: Any) -> Check:
    return check_data(folder, SETTINGS, folder.parent / "cache", **options)


def change(path: Path, how: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    how(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def texts(check: Check, severity: str) -> str:
    return "\n".join(
        f"{one.kind}: {one.text} {' | '.join(one.details)}" for one in check.findings if one.severity == severity
    )


def image(folder: Path, name: str) -> Path:
    return next(folder.rglob(f"{name}.jpg"))


def test_a_sound_dataset_passes_and_its_controls_are_told(data: Path) -> None:
    found = checked(data)
    assert found.of("error") == []
    names = [control["name"] for control in found.controls]
    assert names[0] == "age, sex and site"
    assert len(names) == 5
    assert all(0 < control["auc"]["value"] < 1 for control in found.controls)
    assert found.counts["train_images"] == 240
    told = summary(found)
    assert "errors: none" in told
    assert "age, sex and site" in told
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["passed"] is True


def test_every_bad_row_of_both_tables_is_named_at_once(data: Path) -> None:
    change(data / "train.csv", lambda table: table.assign(age_approx=["400"] * 12 + ["40"] * (len(table) - 12)))
    change(data / "test.csv", lambda table: table.assign(sex=["other", *table["sex"][1:]]))
    found = checked(data, images=False)
    (error,) = found.of("error")
    assert error.kind == "bad rows"
    assert len(error.details) == 13
    assert all(detail in summary(found) for detail in error.details)
    assert "train.csv row 2 (age_approx '400'" in error.details[0]
    assert any(detail.startswith("test.csv row 2 (sex 'other'") for detail in error.details)
    assert found.not_looked_at


def test_missing_images_are_all_named_and_spare_ones_remarked(data: Path) -> None:
    names = list(pd.read_csv(data / "train.csv")["image_name"][:7])
    for name in names:
        image(data, name).unlink()
    spare = image(data, str(pd.read_csv(data / "train.csv")["image_name"][8]))
    shutil.copy(spare, spare.with_name("NOBODYS.jpg"))
    found = checked(data)
    (error,) = found.of("error")
    assert error.kind == "missing images"
    assert sorted(error.details) == sorted(names)
    assert "NOBODYS" in texts(found, "remark")


def test_an_unreadable_image_is_an_error_by_name(data: Path) -> None:
    name = str(pd.read_csv(data / "train.csv")["image_name"][3])
    path = image(data, name)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
    assert name in texts(checked(data), "error")


@pytest.fixture
def folds(data: Path) -> Path:
    table = pd.read_csv(data / "train.csv")
    patients = {name: number % 3 for number, name in enumerate(sorted(set(table["patient_id"])))}
    table = table[["image_name"]].assign(fold=table["patient_id"].map(patients))
    table.to_csv(data.parent / "folds.csv", index=False)
    return data.parent / "folds.csv"


def test_folds_that_keep_patients_whole_pass(data: Path, folds: Path) -> None:
    assert checked(data, images=False, folds=folds).of("error") == []


def test_a_patient_on_both_sides_of_a_split_is_refused_by_name(data: Path, folds: Path) -> None:
    table = pd.read_csv(data / "train.csv")
    several = table["patient_id"].value_counts().index[0]
    names = list(table.loc[table["patient_id"] == several, "image_name"])
    change(folds, lambda rows: rows.assign(fold=rows["fold"].mask(rows["image_name"] == names[0], "7")))
    found = checked(data, images=False, folds=folds)
    assert [error.kind for error in found.of("error")] == ["leak"]
    assert several in texts(found, "error")


def two_patients(data: Path) -> tuple[str, str]:
    """Take one benign image each of two patients, none of whose pictures are there twice as it is."""
    table = pd.read_csv(data / "train.csv")
    content = [image(data, name).read_bytes() for name in table["image_name"]]
    repeated = set(table.loc[pd.Series(content).duplicated(keep=False), "patient_id"])
    benign = table[(table["target"] == 0) & ~table["patient_id"].isin(repeated)].drop_duplicates("patient_id")
    return str(benign["image_name"].iloc[0]), str(benign["image_name"].iloc[1])


def copied(data: Path, one: str, other: str, quality: int | None = None) -> None:
    """Put the picture of `one` under the name of `other`: the same bytes, or compressed anew."""
    source, goal = image(data, one), image(data, other)
    content = source.read_bytes()
    goal.unlink()
    if quality is None:
        goal.write_bytes(content)
    else:
        with Image.open(source) as picture:
            picture.save(goal, quality=quality)


@pytest.mark.parametrize("quality", [None, 60])
def test_a_duplicate_under_another_id_is_remarked_and_refused_across_folds(
    data: Path, folds: Path, quality: int | None
) -> None:
    one, other = two_patients(data)
    copied(data, one, other, quality)
    found = checked(data)
    assert found.of("error") == []
    assert one in texts(found, "remark")
    assert other in texts(found, "remark")
    change(folds, lambda rows: rows.assign(fold=np.where(rows["image_name"] == one, "0", rows["fold"])))
    patient = pd.read_csv(data / "train.csv").set_index("image_name")["patient_id"]
    place = patient.reindex(pd.read_csv(folds)["image_name"]).to_numpy()
    change(
        folds,
        lambda rows: rows.assign(
            fold=np.where(place == patient[one], "0", np.where(place == patient[other], "1", rows["fold"]))
        ),
    )
    apart = checked(data, folds=folds)
    assert {error.kind for error in apart.of("error")} == {"leak"}
    assert one in texts(apart, "error")
    assert other in texts(apart, "error")


@pytest.mark.parametrize("quality", [None, 60])
def test_a_training_image_in_the_test_table_is_a_leak_by_name(data: Path, quality: int | None) -> None:
    one, other = two_patients(data)[0], str(pd.read_csv(data / "test.csv")["image_name"][0])
    copied(data, one, other, quality)
    found = checked(data)
    assert [error.kind for error in found.of("error")] == ["leak"]
    assert f"{other} = {one}" in texts(found, "error")


def test_a_patient_in_both_tables_is_a_leak_by_name(data: Path) -> None:
    patient = str(pd.read_csv(data / "train.csv")["patient_id"][0])
    change(data / "test.csv", lambda rows: rows.assign(patient_id=[patient, *rows["patient_id"][1:]]))
    assert patient in texts(checked(data, images=False), "error")


def test_one_picture_labelled_both_ways_is_an_error(data: Path) -> None:
    table = pd.read_csv(data / "train.csv")
    one, other = (str(table.loc[table["target"] == target, "image_name"].iloc[0]) for target in (0, 1))
    copied(data, one, other)
    assert "labels" in [error.kind for error in checked(data).of("error")]


@pytest.mark.parametrize("name", ["diagnosis", "benign_malignant", "target", "Diagnosis "])
def test_the_answer_as_a_feature_is_refused_by_name(data: Path, name: str) -> None:
    change(data / "train.csv", lambda rows: rows.assign(diagnosis=np.where(rows["target"] == "1", "melanoma", "nevus")))
    found = checked(data, images=False, features=["age_approx", "sex", name])
    (error,) = found.of("error")
    assert error.details == [name.strip().lower()]


def test_a_column_that_is_the_answer_under_another_name_is_found_by_what_it_predicts(data: Path) -> None:
    words = {"0": "watch", "1": "operate"}
    change(data / "train.csv", lambda rows: rows.assign(plan=rows["target"].map(words), room=range(len(rows))))
    (error,) = checked(data, images=False, features=["plan", "room"]).of("error")
    assert error.details == ["plan"]
    unasked = checked(data, images=False)
    assert unasked.of("error") == []
    assert "plan is the answer in disguise" in texts(unasked, "remark")


def test_a_feature_that_is_not_there_is_a_wrong_call(data: Path) -> None:
    with pytest.raises(UsageError, match="no such column"):
        checked(data, images=False, features=["age", "colour"])


def test_sizes_feed_the_control_and_what_is_wrong_with_them_is_told(data: Path) -> None:
    table = pd.read_csv(data / "train.csv")
    sizes = table[["image_name"]].assign(width=600 + 400 * table["target"], height=450)
    sizes.iloc[5:].to_csv(data.parent / "sizes.csv", index=False)
    found = checked(data, images=False, sizes=data.parent / "sizes.csv")
    size = next(control for control in found.controls if control["name"] == "width and height")
    assert size["auc"]["value"] > 0.95
    assert "5 of 240" in texts(found, "remark")
    assert "shortcut" in [one.kind for one in found.of("remark")]
    sizes.assign(width=0).to_csv(data.parent / "sizes.csv", index=False)
    assert [one.kind for one in checked(data, images=False, sizes=data.parent / "sizes.csv").of("error")] == ["sizes"]


def test_a_submission_is_held_against_the_test_table(data: Path) -> None:
    names = pd.read_csv(data / "test.csv")["image_name"]
    path = data.parent / "submission.csv"
    pd.DataFrame({"image_name": names, "target": np.linspace(0, 0.4, len(names))}).to_csv(path, index=False)
    assert checked(data, images=False, submission=path).of("error") == []
    pd.DataFrame({"image_name": names[1:], "target": 0.3}).to_csv(path, index=False)
    assert {one.kind for one in checked(data, images=False, submission=path).of("error")} == {"submission"}


def test_a_submission_that_contradicts_the_table_looks_inverted(tmp_path: Path) -> None:
    random, sexes = np.random.default_rng(0), np.array(["male", "female"])
    for name, rows in (("train", 400), ("test", 200)):
        old = random.random(rows) < 0.5
        target = (random.random(rows) < np.where(old, 0.6, 0.05)).astype(int)
        table = pd.DataFrame(
            {
                "image_name": [f"{name}{row}" for row in range(rows)],
                "patient_id": [f"{name}{row}" for row in range(rows)],
                "sex": sexes[random.integers(2, size=rows)],
                "age_approx": np.where(old, 75, 30),
                "anatom_site_general_challenge": "torso",
                "target": target,
            }
        )
        (table if name == "train" else table.drop(columns="target")).to_csv(tmp_path / f"{name}.csv", index=False)
        score = np.where(old, 0.3, 0.1) + random.random(rows) / 10
        submission = pd.DataFrame({"image_name": table["image_name"], "target": score})
    submission.to_csv(tmp_path / "right.csv", index=False)
    submission.assign(target=0.45 - submission["target"]).to_csv(tmp_path / "inverted.csv", index=False)
    (tmp_path / "data").mkdir()
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).rename(tmp_path / "data" / name)
    right = checked(tmp_path / "data", images=False, submission=tmp_path / "right.csv")
    assert "inverted" not in texts(right, "remark")
    assert "chance alone moves" in texts(right, "remark")
    assert "inverted" in texts(checked(tmp_path / "data", images=False, submission=tmp_path / "inverted.csv"), "remark")


def test_too_few_melanomas_leave_the_controls_out_with_the_reason(data: Path) -> None:
    change(data / "train.csv", lambda rows: rows.assign(target=["1", *["0"] * (len(rows) - 1)], benign_malignant=""))
    found = checked(data, images=False)
    assert any("melanoma" in reason for reason in found.not_looked_at)
    assert found.controls == []
    assert "cannot fill 5 parts" in summary(found)


@needs_shared
def test_controls_on_the_official_table_reach_what_is_known() -> None:
    folder = SHARED / "siim2020"
    found = check_data(folder, SETTINGS, folder, images=False, sizes=folder / "train_image_sizes.csv")
    assert found.of("error") == []
    reached = {control["name"]: control["auc"]["value"] for control in found.controls}
    assert 0.64 < reached["age, sex and site"] < 0.70
    assert 0.76 < reached["width and height"] < 0.81
    assert 0.82 < reached["all of these"] < 0.87
    assert found.counts["judged_by_controls"] == 32_701
