"""The embedded dataset: drawn pictures in the layout of SIIM-ISIC 2020, for demonstrations and tests offline.

Patients come first, then their records (rows), then a picture for each record. The same seed gives the same bytes,
on any number of cores, with the same versions of NumPy, OpenCV and Pillow.
As in the real tables: several images of a patient, ages in steps of five, blanks, an official list of duplicates
(a picture saved twice), one file under two names and two patients, several cameras, one of which sees somewhat
more melanomas (a mild shortcut). Not as there: 18 % are melanomas, not 1.8 %, so that a network learns from few.
How hard it is stands in `TRAITS` and the log odds below. They were set once, so that a small network can learn the
task from nothing in a minute, and controls hold them there: age, sex and site alone reach an AUC of 0.60-0.70, a
logistic regression on colour histograms stays under 0.80.
It knows nothing of training; no figure measured on it says anything about skin.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.random import Generator
from PIL import Image

from melanoma.data.lesion import Camera, Traits, UInt8Array, draw
from melanoma.errors import DataError
from melanoma.files import replacing_folder

# Mean of each trait for benign lesions and for melanomas, 0 calm to 1 disordered; all scatter by SCATTER, so that the
# classes overlap in each.
TRAITS = {
    "size": (0.40, 0.58),
    "asymmetry": (0.28, 0.54),
    "border": (0.28, 0.58),
    "arrangement": (0.30, 0.62),
    "colours": (0.34, 0.64),
    "structure": (0.35, 0.60),
}
SCATTER = 0.20
MELANOMA_SHARE = 0.18
VERSION = 1  # raised when the same seed gives other bytes

CAMERAS = (
    Camera(256, 192, (1.00, 0.97, 0.95), contrast=1.05, tube=0.08, blur_px=0.5, noise=0.008, jpeg_quality=92),
    Camera(240, 240, (1.02, 0.91, 0.90), contrast=1.15, tube=0.25, blur_px=0.8, noise=0.014, jpeg_quality=86),
    Camera(320, 240, (0.94, 0.94, 1.00), contrast=0.97, tube=0.15, blur_px=0.6, noise=0.011, jpeg_quality=80),
)
CAMERA_SHARES = (0.45, 0.25, 0.30)
CAMERA_LOG_ODDS = (0.0, 0.35, 0.0)  # the shortcut: the second stands in a clinic that melanomas are sent to

SITES = ("torso", "lower extremity", "upper extremity", "head/neck", "palms/soles", "oral/genital")
SITE_SHARES = (0.50, 0.25, 0.15, 0.07, 0.02, 0.01)
SITE_LOG_ODDS = (0.0, -0.1, 0.35, 0.8, 0.0, 0.3)
AGE_LOG_ODDS_A_YEAR = 0.033
MALE_LOG_ODDS = 0.3

BENIGN = ("unknown", "nevus", "seborrheic keratosis", "lentigo NOS")
BENIGN_SHARES = (0.68, 0.26, 0.04, 0.02)
SKIN_TONES = (0.06, 0.11, 0.17, 0.26, 0.45, 0.75)  # melanin of Fitzpatrick's types I to VI
SKIN_SHARES = (0.18, 0.32, 0.27, 0.13, 0.07, 0.03)
BLANK_SHARE = 0.03

TEST_COLUMNS = ["image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge"]
TRAIN_COLUMNS = [*TEST_COLUMNS, "diagnosis", "benign_malignant", "target"]
WORKERS = os.cpu_count() or 1
README = """\
Synthetic: pictures and tables in the layout of SIIM-ISIC 2020, drawn by the Python package melanoma
({images:,} training and {test_images:,} test images, seed {seed}). No picture shows a person, no row is a patient.
For demonstrations and tests of software only. Public domain (CC0 1.0).
"""


def make_dataset(folder: Path, images: int = 1600, test_images: int = 200, seed: int = 0) -> None:
    """Write the tables, a README.txt that says they are synthetic, and the pictures into a new folder.

    Tables: train.csv, test.csv, sample_submission.csv and ISIC_2020_Training_Duplicates.csv. Pictures:
    jpeg/train/NAME.jpg and jpeg/test/NAME.jpg, uint8 RGB, 240 to 320 px wide. `images` counts the duplicates too.
    The targets of the test rows are written nowhere. The folder appears whole or not at all.
    Raises DataError where `folder` is not empty, or fewer than 20 training images or 1 test image are asked for.
    """
    if images < 20 or test_images < 1:
        raise DataError(f"{images} training and {test_images} test images are too few; ask for at least 20 and 1")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not an empty folder; name a new one")
    train, test = _tables(np.random.default_rng((seed, 0)), images, test_images)
    with replacing_folder(folder) as aside:
        _write_tables(aside, train, test)
        (aside / "README.txt").write_text(README.format(images=images, test_images=test_images, seed=seed))
        _write_pictures(aside / "jpeg" / "train", train, (seed, 1))
        _write_pictures(aside / "jpeg" / "test", test, (seed, 2))


# ---------------------------------------------------------------- patients, then their records


def _tables(rng: Generator, images: int, test_images: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the training and the test records: the official columns, and what the pictures are drawn from."""
    resaved = max(1, images // 100)
    patients, test_patients = _patients(rng, images - resaved - 1), _patients(rng, test_images)
    ids = _names(rng, "IP_", len(patients) + len(test_patients) + 1)
    patients["patient_id"], test_patients["patient_id"] = ids[: len(patients)], ids[len(patients) : -1]
    train = _with_copies(rng, _records(rng, patients), resaved, ids[-1])
    names = _names(rng, "ISIC_", images + test_images)
    train["image_name"] = names[:images]
    test = _records(rng, test_patients).assign(image_name=names[images:])
    return train.loc[rng.permutation(images)], test


def _names(rng: Generator, prefix: str, count: int) -> list[str]:
    """Return `count` different names of seven digits."""
    return [f"{prefix}{number:07d}" for number in rng.choice(10**7, count, replace=False)]


def _patients(rng: Generator, images: int) -> pd.DataFrame:
    """Return patients, a row each, who have 1 to 8 images each and `images` together."""
    counts = np.minimum(rng.geometric(0.4, images), 8)
    counts = np.diff(np.minimum(np.cumsum(counts), images), prepend=0)
    counts = counts[counts > 0]
    size = len(counts)
    sex = rng.choice(["female", "male"], size, p=[0.48, 0.52])
    age = np.clip(np.round(rng.normal(49, 15, size) / 5) * 5, 15, 90)
    return pd.DataFrame(
        {
            "images": counts,
            "sex": np.where(rng.random(size) < BLANK_SHARE, "", sex),
            "age_approx": np.where(rng.random(size) < BLANK_SHARE, np.nan, age),
            "tone": rng.choice(SKIN_TONES, size, p=SKIN_SHARES),
            "camera": rng.choice(len(CAMERAS), size, p=CAMERA_SHARES),
            # Blanks hide a value, they do not undo its effect; the last term is what no table knows of a person.
            "log_odds": AGE_LOG_ODDS_A_YEAR * age + MALE_LOG_ODDS * (sex == "male") + rng.normal(0, 0.3, size),
        }
    )


def _records(rng: Generator, patients: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each image of each patient: where it is, which camera saw it, what it is."""
    records = patients.loc[patients.index.repeat(patients["images"])].reset_index(drop=True)
    size = len(records)
    elsewhere = rng.choice(len(CAMERAS), size, p=CAMERA_SHARES)
    records["camera"] = np.where(rng.random(size) < 0.15, elsewhere, records["camera"])
    site = rng.choice(len(SITES), size, p=SITE_SHARES)
    named = np.where(rng.random(size) < BLANK_SHARE, "", np.array(SITES)[site])
    odds = records["log_odds"] + np.array(SITE_LOG_ODDS)[site] + np.array(CAMERA_LOG_ODDS)[records["camera"]]
    # The largest of log odds plus logistic noise: a logistic model whose share of melanomas is met exactly.
    rank = (odds + rng.logistic(0, 1, size)).rank(ascending=False)
    target = (rank <= max(2, round(MELANOMA_SHARE * size))).astype(int)
    return records.assign(
        anatom_site_general_challenge=named,
        diagnosis=np.where(target == 1, "melanoma", rng.choice(BENIGN, size, p=BENIGN_SHARES)),
        benign_malignant=np.where(target == 1, "malignant", "benign"),
        target=target,
        picture=np.arange(size),
        resaved=False,
    )


def _with_copies(rng: Generator, records: pd.DataFrame, resaved: int, patient_id: str) -> pd.DataFrame:
    """Append pictures saved a second time, smaller, and one file once more under the new `patient_id`."""
    chosen = records.loc[rng.choice(len(records), resaved + 1, replace=False)]
    again = chosen.iloc[:-1].assign(resaved=True)
    return pd.concat([records, again, chosen.iloc[-1:].assign(patient_id=patient_id)], ignore_index=True)


def _write_tables(folder: Path, train: pd.DataFrame, test: pd.DataFrame) -> None:
    """Write the four CSV files; the list of duplicates leaves out the file under two patients: it is to be found."""
    first = train.loc[~train["resaved"]].drop_duplicates("picture").set_index("picture")["image_name"]
    again = train.loc[train["resaved"]]
    pairs = pd.DataFrame({"image_name_1": again["picture"].map(first), "image_name_2": again["image_name"]})
    for name, table in {
        "train.csv": train[TRAIN_COLUMNS],
        "test.csv": test[TEST_COLUMNS],
        "sample_submission.csv": test[["image_name"]].assign(target=0),
        "ISIC_2020_Training_Duplicates.csv": pairs,
    }.items():
        table.to_csv(folder / name, index=False, lineterminator="\n")


# ---------------------------------------------------------------- a picture for each record


@dataclass(frozen=True)
class _Picture:
    """What one JPEG file is drawn from; the seed is its own, so the order of work does not matter."""

    path: Path
    seed: tuple[int, int, int]
    camera: Camera
    tone: float
    target: int
    resaved: bool


def _write_pictures(folder: Path, records: pd.DataFrame, seed: tuple[int, int]) -> None:
    """Draw the picture of every record; NumPy and OpenCV let threads run side by side."""
    folder.mkdir(parents=True)
    columns = ("image_name", "picture", "camera", "tone", "target", "resaved")
    pictures = [
        _Picture(folder / f"{name}.jpg", (*seed, number), CAMERAS[camera], tone, target, resaved)
        for name, number, camera, tone, target, resaved in zip(*(records[c].tolist() for c in columns), strict=True)
    ]
    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(_write_picture, pictures))  # the list lets an error out


def _pixels(picture: _Picture) -> UInt8Array:
    """Draw one picture: uint8 (height, width, 3) RGB."""
    rng = np.random.default_rng(picture.seed)
    traits = _traits(rng, picture.target)
    return draw(rng, picture.camera, picture.tone * rng.uniform(0.75, 1.3), traits)


def _write_picture(picture: _Picture) -> None:
    """Save one picture as JPEG; one that is saved again is a little smaller and more compressed."""
    pixels, quality = _pixels(picture), picture.camera.jpeg_quality
    if picture.resaved:
        pixels, quality = cv2.resize(pixels, None, fx=0.9, fy=0.9, interpolation=cv2.INTER_AREA), quality - 12
    Image.fromarray(pixels).save(picture.path, "JPEG", quality=quality, comment=b"synthetic, drawn by melanoma")


def _traits(rng: Generator, target: int) -> Traits:
    """Draw how disordered a lesion of this class looks."""
    scatter = rng.normal(0, SCATTER, len(TRAITS)).tolist()  # Python numbers keep the drawing in float32
    values = {name: means[target] + shift for (name, means), shift in zip(TRAITS.items(), scatter, strict=True)}
    return Traits(**{name: min(max(value, 0.0), 1.0) for name, value in values.items()})
