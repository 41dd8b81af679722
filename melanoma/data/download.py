"""Datasets fetched by their owners' own tools: Kaggle's competition by kagglehub, the ISIC Archive by isic-cli.

Both tools skip what is there already, so an interrupted download goes on when it is called again. It needs the
network and, for Kaggle, an account that has accepted the competition's rules.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pandas as pd

from melanoma.data.records import read_text
from melanoma.errors import DataError, MelanomaError, MissingExtraError, UsageError, listed
from melanoma.files import replacing, unwritable

COMPETITION = "siim-isic-melanoma-classification"
COLLECTION_2020 = 70  # the ISIC Archive's number for the 2020 challenge's training images
LICENCE = {
    "kaggle": "SIIM-ISIC 2020 (Rotemberg et al. 2021, doi:10.1038/s41597-021-00815-z): CC BY-NC 4.0, not for "
    "commercial use; Kaggle's competition rules apply too: https://www.kaggle.com/c/siim-isic-melanoma-classification/rules",
    "isic": "ISIC Archive: each image carries its own licence (CC0, CC BY or CC BY-NC), listed in metadata.csv and "
    "licenses/; name the attribution given there",
}
AT_ONCE = 100  # images that the archive is asked for by name: the question must fit into an address
# what a network learns here is melanoma or not; in the archive's words these are melanoma
MELANOMA = r"(?i)\bmelanoma\b"


def download(
    source: Literal["kaggle", "isic"],
    folder: Path,
    collection: int = COLLECTION_2020,
    limit: int = 0,
    names: Path | None = None,
) -> Path:
    """Fetch a dataset into `folder` in a layout that `run` reads, after showing its licence; returns the folder.

    collection, limit: for the ISIC Archive, which collection and how many images (0: all); names: instead of these, a
    CSV whose column image_name names the images.
    Raises MissingExtraError without the tool, MelanomaError where the tool failed; calling again goes on. DataError
    where `names` is no such table, UsageError where it is given for Kaggle.
    """
    print(f"licence: {LICENCE[source]}", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    if source == "kaggle" and names is not None:
        raise UsageError("Kaggle's images come all together; --names is for isic")
    if source == "kaggle":
        return _from_kaggle(folder)
    if names is not None:
        return _by_name(folder, names)
    images = folder / "jpeg" / "train"
    _ask_archive(images, ["--collections", str(collection), "--limit", str(limit)])
    return _with_table(folder, [table_from_archive(images / "metadata.csv")])


def _from_kaggle(folder: Path) -> Path:
    try:
        import kagglehub
    except ImportError as error:
        raise MissingExtraError("kagglehub", "download") from error
    try:
        return Path(kagglehub.competition_download(COMPETITION, output_dir=str(folder)))
    except Exception as error:  # network, login and rules each raise another library's error
        raise MelanomaError(
            f"Kaggle's download stopped ({type(error).__name__}: {error}); accept the competition's rules, log in with "
            "kagglehub.login() or a kaggle.json, and run the same command again: it goes on"
        ) from error


def _by_name(folder: Path, path: Path) -> Path:
    """Fetch the images that a table names, some at a time; what the archive says of each part is kept beside them."""
    table = read_text(path)
    names = list(dict.fromkeys(table["image_name"])) if "image_name" in table else []
    strange = [name for name in names if not re.fullmatch(r"ISIC_\d{7}", name)]
    if strange or not names:
        found = f": {listed(strange)}" if strange else ""
        raise DataError(f"{path} must name images of the ISIC Archive in a column image_name{found}")
    images, told, tables = folder / "jpeg" / "train", folder / "metadata", []
    told.mkdir(exist_ok=True)
    for start in range(0, len(names), AT_ONCE):
        part = names[start : start + AT_ONCE]
        kept = told / f"{hashlib.sha256(' '.join(part).encode()).hexdigest()[:16]}.csv"  # other names, another file
        if not kept.exists():
            _ask_archive(images, ["--search", " OR ".join(f"isic_id:{name}" for name in part)])
            (images / "metadata.csv").replace(kept)  # the tool writes it last
        tables.append(table_from_archive(kept))
    had = {name for table in tables for name in table["image_name"]}
    if lacking := [name for name in names if name not in had]:
        print(f"note: the archive has no diagnosis, or no image, of {listed(lacking)}", file=sys.stderr)
    return _with_table(folder, tables)


def _ask_archive(images: Path, wanted: list[str]) -> None:
    """Let the archive's own tool fetch images, and metadata.csv with what is known of them."""
    beside = Path(sys.executable).with_name("isic")
    tool = str(beside) if beside.exists() else shutil.which("isic")
    if tool is None:
        raise MissingExtraError("isic-cli", "download")
    if subprocess.run([tool, "image", "download", *wanted, str(images)], check=False).returncode != 0:
        raise MelanomaError("the ISIC Archive's tool stopped, see its message; run the same command again: it goes on")


def _with_table(folder: Path, tables: list[pd.DataFrame]) -> Path:
    with replacing(folder / "train.csv") as aside:
        pd.concat(tables).to_csv(aside, index=False)
    return folder


def table_from_archive(metadata: Path) -> pd.DataFrame:
    """Turn the ISIC Archive's metadata.csv into the competition's columns, undecided rows left out.

    Raises DataError where the file is no CSV or lacks its columns.
    """
    rows = read_text(metadata)
    rows = rows.mask(rows == "")
    diagnoses = sorted(name for name in map(str, rows) if name.startswith("diagnosis"))
    if "isic_id" not in rows or not diagnoses:
        raise DataError(f"{metadata} is not the ISIC Archive's metadata: it lacks isic_id or diagnosis columns")
    undecided = rows[diagnoses].isna().all(axis=1) | (rows[diagnoses] == "Indeterminate").any(axis=1)
    rows = rows[~undecided]
    melanoma = rows[diagnoses].apply(lambda column: column.str.contains(MELANOMA, na=False)).any(axis=1)
    finest = rows[diagnoses].ffill(axis=1).iloc[:, -1]
    blank = pd.Series(pd.NA, index=rows.index, dtype="string")
    lesion = rows.get("lesion_id", blank).fillna(rows["isic_id"])
    return pd.DataFrame(
        {
            "image_name": rows["isic_id"],
            "patient_id": rows.get("patient_id", blank).fillna(lesion),
            "lesion_id": rows.get("lesion_id", blank),
            "sex": rows.get("sex", blank),
            "age_approx": rows.get("age_approx", blank),
            "anatom_site_general_challenge": rows.get("anatom_site_general", blank),
            "diagnosis": finest,
            "target": melanoma.astype(int),
        }
    )
