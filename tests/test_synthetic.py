"""The embedded dataset: its layout, same bytes, blanks, duplicates, and the controls that fix how hard it is."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from melanoma.data import synthetic
from melanoma.data.lesion import Traits, draw
from melanoma.data.synthetic import CAMERAS, make_dataset
from melanoma.errors import DataError

SIIM_TEST = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge"
SIIM_TRAIN = f"{SIIM_TEST},diagnosis,benign_malignant,target"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "small"
    make_dataset(path, images=100, test_images=12, seed=7)
    return path


@pytest.fixture(scope="module")
def train(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "train.csv", dtype={"image_name": str})


def full_size_table(seed: int) -> pd.DataFrame:
    """The training table of the embedded dataset; drawing all its pictures would take too long here."""
    return synthetic._tables(np.random.default_rng((seed, 0)), 1600, 200)[0]


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def out_of_fold_auc(features: NDArray[np.float64], table: pd.DataFrame) -> float:
    """AUC of a standardised logistic regression, patients whole."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    answers = cross_val_predict(
        model, features, table["target"], groups=table["patient_id"], cv=folds, method="predict_proba"
    )
    return float(roc_auc_score(table["target"], answers[:, 1]))


def colour_features(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Histograms of red, green and blue in 8 bins each; mean and spread of those and of hue, saturation, value."""
    both = np.concatenate([pixels, cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)], axis=2).reshape(-1, 6)
    bins = [np.histogram(both[:, channel], 8, (0, 256))[0] / len(both) for channel in range(3)]
    return np.concatenate([*bins, both.mean(axis=0), both.std(axis=0)])


def test_the_tables_have_the_columns_of_the_competition(folder: Path) -> None:
    headers = {path.name: path.read_text().split("\n")[0] for path in folder.glob("*.csv")}
    assert headers == {
        "train.csv": SIIM_TRAIN,
        "test.csv": SIIM_TEST,
        "sample_submission.csv": "image_name,target",
        "ISIC_2020_Training_Duplicates.csv": "image_name_1,image_name_2",
    }
    assert "Synthetic" in (folder / "README.txt").read_text()


def test_every_row_has_a_picture_and_every_picture_a_row(folder: Path, train: pd.DataFrame) -> None:
    test = pd.read_csv(folder / "test.csv")
    assert (len(train), len(test)) == (100, 12)
    for part, table in (("train", train), ("test", test)):
        assert {path.stem for path in (folder / "jpeg" / part).iterdir()} == set(table["image_name"])
    assert not set(train["image_name"]) & set(test["image_name"])
    assert not set(train["patient_id"]) & set(test["patient_id"])
    assert pd.read_csv(folder / "sample_submission.csv")["image_name"].tolist() == test["image_name"].tolist()


def test_pictures_are_those_of_the_cameras_and_say_that_they_are_synthetic(folder: Path) -> None:
    sizes = set()
    for path in (folder / "jpeg" / "test").iterdir():
        with Image.open(path) as image:
            assert image.info["comment"] == b"synthetic, drawn by melanoma"
            assert np.asarray(image).std() > 5
            sizes.add(image.size)
    assert sizes <= {(camera.width_px, camera.height_px) for camera in CAMERAS}


def test_target_diagnosis_and_benign_malignant_say_the_same(train: pd.DataFrame) -> None:
    melanoma = train["target"] == 1
    assert ((train["diagnosis"] == "melanoma") == melanoma).all()
    assert ((train["benign_malignant"] == "malignant") == melanoma).all()


def test_the_official_pairs_are_one_picture_of_one_patient_saved_twice(folder: Path, train: pd.DataFrame) -> None:
    pairs = pd.read_csv(folder / "ISIC_2020_Training_Duplicates.csv")
    rows = train.set_index("image_name")
    assert len(pairs) == 1
    for first, second in pairs.itertuples(index=False):
        assert rows.loc[first].equals(rows.loc[second])
        pixels = [cv2.imread(str(folder / "jpeg" / "train" / f"{name}.jpg")) for name in (first, second)]
        small = [cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).astype(int) for image in pixels]
        assert pixels[0].shape != pixels[1].shape
        assert np.abs(small[0] - small[1]).mean() < 3


def test_one_file_stands_under_two_names_and_two_patients(folder: Path, train: pd.DataFrame) -> None:
    found = pd.Series({Path(name).stem: digest for name, digest in hashes(folder / "jpeg").items()})
    same = found[found.duplicated(keep=False)]
    pair = train.set_index("image_name").loc[same.index.tolist()]
    assert len(same) == 2
    assert pair["patient_id"].nunique() == 2
    assert pair["target"].tolist() in ([0, 0], [1, 1])


def test_two_runs_give_the_same_bytes_whatever_the_number_of_workers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "WORKERS", 1)
    make_dataset(tmp_path / "again", images=100, test_images=12, seed=7)
    assert hashes(tmp_path / "again") == hashes(folder)


def test_another_seed_gives_another_dataset(folder: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path / "other", images=20, test_images=1, seed=8)
    assert not set(hashes(tmp_path / "other" / "jpeg").values()) & set(hashes(folder / "jpeg").values())
    assert pd.read_csv(tmp_path / "other" / "train.csv")["target"].sum() >= 2


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not an empty folder"):
        make_dataset(tmp_path, images=20, test_images=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 20"):
        make_dataset(tmp_path / "tiny", images=19)
    assert not (tmp_path / "tiny").exists()


def test_the_full_size_table_is_unbalanced_has_blanks_and_patients_with_both_classes() -> None:
    table = full_size_table(seed=0).replace("", np.nan)
    patients = table.groupby("patient_id")["target"].agg(["size", "nunique"])
    assert 0.15 < table["target"].mean() < 0.20
    assert table["age_approx"].dropna().mod(5).eq(0).all()
    assert table[["sex", "age_approx", "anatom_site_general_challenge"]].isna().mean().between(0.01, 0.06).all()
    assert (patients["nunique"] == 2).sum() > 50
    assert patients["size"].between(1, 9).all()  # 8, and one of them saved twice


def test_age_sex_and_site_alone_reach_060_to_070() -> None:
    for seed in range(3):
        table = full_size_table(seed)
        sites = pd.get_dummies(table["anatom_site_general_challenge"])
        age = table["age_approx"].fillna(table["age_approx"].median())
        features = np.column_stack([age, table["sex"] == "male", sites]).astype(float)
        assert 0.60 <= out_of_fold_auc(features, table) <= 0.70


def test_colour_histograms_stay_under_080() -> None:
    table = full_size_table(seed=0).drop_duplicates("picture").iloc[:320]
    columns = ("picture", "camera", "tone", "target")
    pictures = [
        synthetic._Picture(Path(), (0, 1, number), CAMERAS[camera], tone, target, resaved=False)
        for number, camera, tone, target in zip(*(table[name].tolist() for name in columns), strict=True)
    ]
    with synthetic.ThreadPoolExecutor(synthetic.WORKERS) as threads:
        features = list(threads.map(lambda picture: colour_features(synthetic._pixels(picture)), pictures))
    assert 0.5 < out_of_fold_auc(np.stack(features), table) < 0.80


def test_a_picture_depends_on_its_generator_only() -> None:
    traits = Traits(size=0.5, asymmetry=0.5, border=0.5, arrangement=0.5, colours=0.5, structure=0.5)
    for camera in CAMERAS:
        first, second = (draw(np.random.default_rng(3), camera, 0.1, traits) for _ in range(2))
        assert first.shape == (camera.height_px, camera.width_px, 3)
        assert first.dtype == np.uint8
        assert np.array_equal(first, second)
