"""SIIM-ISIC tables, in the competition's spelling and the ISIC site's, to one checked table, a row an image.

Every cell is checked, and every bad row reported at once. It does not know where the images are
(data/sources.py), nor which rows show one lesion (data/duplicates.py).
"""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from melanoma.data.encode import OLDEST_YEARS, one_site
from melanoma.errors import DataError, listed
from melanoma.places import is_folder, is_remote, reaching, read_whole

# Our name of a column: the spellings in which it is read, the first one present counts.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "image_name": ("image_name", "image", "isic_id", "image_id"),
    "patient_id": ("patient_id", "patient"),
    "lesion_id": ("lesion_id", "lesion"),
    "sex": ("sex",),
    "age_years": ("age_approx", "age_years"),
    "site": ("anatom_site_general_challenge", "anatom_site_general", "site"),
    "target": ("target",),
    "benign_malignant": ("benign_malignant",),
    "diagnosis": ("diagnosis",),
    "source": ("source", "attribution", "institution"),
}
ANSWERS = {"target", "benign_malignant"}
LABELS = {"0": 0, "0.0": 0, "false": 0, "benign": 0, "1": 1, "1.0": 1, "true": 1, "malignant": 1}
SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
EMPTY = ("", "na", "n/a", "nan")
BLANKS = (*EMPTY, "unknown")
MOST_COLUMNS = 1000  # the ISIC Archive's tables have some thirty; what follows takes time and memory for each
STRAY = " \t\r\n\"'"


class Fault(NamedTuple):
    """A cell that cannot be used: its line in the file (the header is line 1), column, value and reason."""

    row: int
    column: str
    value: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """The tables of a dataset folder, checked, and what was noticed while reading them."""

    folder: Path
    train: pd.DataFrame
    test: pd.DataFrame | None
    duplicate_pairs: list[tuple[str, str]]
    remarks: list[str]
    train_file: Path
    test_file: Path | None


def read_table(path: Path, labelled: bool) -> tuple[pd.DataFrame, list[str]]:
    """Read one CSV to a checked table and remarks on what was ignored or missing.

    table: a row an image, in the file's order; columns `image_name`, `patient_id` str · `lesion_id` str or
    missing · `sex` "female", "male" or missing · `age_years` float64, years 0 to 120 or NaN · `site` str in
    lower case or missing · `target` int64 0 or 1 (only where `labelled`) · `diagnosis` and `source` str or
    missing (only where the file has them).
    Raises DataError naming the bad rows, all of them at once, or what is wrong with the file as a whole.
    """
    header, rows = _read_rows(path)
    places = _find_columns(path, header, labelled)
    cells = _cells(rows, len(header), places)
    faults = _wrong_width(header, rows)
    names, name_faults = _names(cells["image_name"])
    patients, lesions, patient_remarks = _owners(path, names, _filled(cells["patient_id"]), _filled(cells["lesion_id"]))
    sexes, sex_faults = _sexes(_filled(cells["sex"]))
    ages, age_faults = _ages(_filled(cells["age_years"]))
    sites = _filled(cells["site"]).map(one_site, na_action="ignore").astype(cells["site"].dtype)  # text, all blank too
    columns = {"image_name": names, "patient_id": patients, "lesion_id": lesions}
    columns |= {"sex": sexes, "age_years": ages, "site": sites}
    faults += name_faults + sex_faults + age_faults
    if labelled:
        columns["target"], label_faults = _targets(cells, "target" if "target" in places else "benign_malignant")
        faults += label_faults
    if "source" in places:
        columns["source"] = _filled(cells["source"])
    if "diagnosis" in places:
        columns["diagnosis"] = _filled(cells["diagnosis"], EMPTY)  # "unknown" is a diagnosis there
    if faults:
        raise _bad_rows(path, faults, {name: header[place] for name, place in places.items()})
    table = pd.DataFrame(columns).reset_index(drop=True)
    unused = [name for place, name in enumerate(header) if name and place not in places.values()]
    blank = [name for name in ("sex", "age_years", "site") if table[name].isna().all()]
    remarks = [f"{path.name}: columns not used: {', '.join(unused)}"] if unused else []
    remarks += [f"{path.name}: blank in every row, so not used: {', '.join(blank)}"] if blank else []
    return table, remarks + patient_remarks


def read_dataset(folder: Path) -> Dataset:
    """Read a folder's training table, test table and duplicate pairs, and check them against each other.

    The training table is `train.csv`, else the one CSV whose name holds `GroundTruth`, else `train`; the test
    table, which may be absent, is `test.csv` or the one CSV whose name holds `Test_Metadata`; every
    `*uplicate*.csv` is a list of pairs of training images.
    Raises DataError where there is no training table, several could be meant, or an image is in both tables.
    """
    if is_remote(folder) and not is_folder(folder):
        raise DataError(f"{folder} is not there, or no folder: give the one of a dataset")
    with reaching(folder):
        train_path = _find_csv(folder, "train.csv", ("groundtruth", "train"))
        test_path = _find_csv(folder, "test.csv", ("test_metadata",))
    if train_path is None:
        raise DataError(f"{folder} holds no train.csv; give the folder of a dataset")
    train, test, remarks = _read_both(train_path, test_path)
    pairs, pair_remarks = _read_duplicates(folder, set(train["image_name"]))
    return Dataset(folder, train, test, pairs, remarks + pair_remarks, train_path, test_path)


def read_text(path: Path) -> pd.DataFrame:
    """Read every cell as text, under the header's names in lower case.

    Raises DataError where the file is no CSV, or has rows of another width than its header.
    """
    header, rows = _read_rows(path)
    if faults := _wrong_width(header, rows):
        raise _bad_rows(path, faults, {})
    places = {name.lower(): place for place, name in enumerate(header) if name}
    columns = {name: [row[place].strip(STRAY) for row in rows.values()] for name, place in places.items()}
    table: pd.DataFrame = pd.DataFrame(columns, dtype="str")
    return table


def read_sizes(path: Path) -> pd.DataFrame:
    """Read the original sizes of images: columns width and height, float64, pixels, indexed by image name.

    Raises DataError where a column is missing, an image is there twice, or a size is no positive number.
    """
    text = read_text(path)
    if not {"image_name", "width", "height"} <= set(text):
        raise DataError(
            f"{path} needs the columns image_name, width and height; it has {listed([str(name) for name in text])}"
        )
    columns = {name: pd.to_numeric(text[name], errors="coerce").astype("float64") for name in ("width", "height")}
    sizes = pd.DataFrame(columns)
    wrong = text.loc[~(sizes > 0).all(axis=1) | text["image_name"].duplicated(), "image_name"].tolist()
    if wrong:
        raise DataError(f"{path} gives no one size in pixels for {listed(wrong)}; mend these rows", wrong)
    sizes.index = pd.Index(text["image_name"])
    return sizes


def _read_both(train_path: Path, test_path: Path | None) -> tuple[pd.DataFrame, pd.DataFrame | None, list[str]]:
    """Read the training and the test table, and report the faults of both at once."""
    tables, remarks, faults = [], [], []
    for path in (train_path, test_path):
        try:
            table, notes = read_table(path, labelled=path == train_path) if path else (None, [])
        except DataError as error:
            faults.append(error)
        else:
            tables.append(table)
            remarks += notes
    if faults:
        raise DataError("; ".join(map(str, faults)), [detail for error in faults for detail in error.details])
    train, test = tables
    assert train is not None
    if test is not None:
        both = train.loc[train["image_name"].isin(test["image_name"]), "image_name"].tolist()
        if both:
            where = f"{train_path} and {test_path.name if test_path else ''}"
            raise DataError(f"{where} share {listed(both)}; remove them from one of the two", both)
    return train, test, remarks


def take(table: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """Take at most `limit` rows at random, patients whole, the share of melanomas about kept; 0 takes all.

    Rows keep their order. Raises DataError where the limit is smaller than every patient's number of images.
    """
    if limit == 0 or limit >= len(table):
        return table
    target = table["target"].to_numpy() if "target" in table else np.zeros(len(table), np.int64)
    patients, codes = np.unique(table["patient_id"].to_numpy(dtype=object), return_inverse=True)
    images = np.bincount(codes, minlength=len(patients))
    melanomas = np.bincount(codes, target, minlength=len(patients)).astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(patients))
    order = order[np.argsort(melanomas[order] == 0, kind="stable")]  # patients with a melanoma first
    wanted = max(1, round(limit * float(target.mean())))
    chosen = np.zeros(len(patients), bool)
    for patient in order:
        if melanomas[patient] <= wanted and images[patient] <= limit:
            chosen[patient] = True
            wanted -= melanomas[patient]
            limit -= images[patient]
    if not chosen.any():
        raise DataError(f"a limit of {limit} takes no whole patient; the smallest has {images.min()} images")
    return table[chosen[codes]].reset_index(drop=True)


def _read_rows(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """Read a CSV as text: the header, and the rows that are not empty by the line of the file each ends on.

    Python's own reader: it keeps line numbers, and tells a short row from a blank cell.
    """
    try:
        with io.TextIOWrapper(io.BytesIO(read_whole(path)), encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = ";" if first.count(";") > first.count(",") else ","
            header = [name.strip(STRAY) for name in next(csv.reader([first], delimiter=separator), [])]
            reader = csv.reader(file, delimiter=separator)
            numbered = [(reader.line_num + 1, row) for row in reader if any(row)]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV in UTF-8 ({error}); save it as one") from error
    if not numbered:
        raise DataError(f"{path} has no rows")
    if len(header) > MOST_COLUMNS:
        raise DataError(f"{path} has {len(header):,} columns, over {MOST_COLUMNS:,}, and is no table of images")
    return header, dict(numbered)


def _find_columns(path: Path, header: list[str], labelled: bool) -> dict[str, int]:
    """Give the place of each of our columns that the file has; refuse doubled and missing ones."""
    words = [name.lower() for name in header]
    doubled = sorted(name for name, times in Counter(words).items() if name and times > 1)
    if doubled:
        raise DataError(f"{path} has the column {listed(doubled)} more than once; keep one of each")
    places = {}
    for name, spellings in SPELLINGS.items():
        present = [words.index(word) for word in spellings if word in words]
        if present and (labelled or name not in ANSWERS):
            places[name] = present[0]
    if "image_name" not in places:
        raise DataError(f"{path} has no column image_name; its columns are {listed(header)}")
    if labelled and not ANSWERS & set(places):
        raise DataError(f"{path} has no column target or benign_malignant; training needs one of them")
    return places


def _wrong_width(header: list[str], rows: dict[int, list[str]]) -> list[Fault]:
    reason = f"the header has {len(header)} columns"
    counts = {line: len(row) for line, row in rows.items() if len(row) != len(header)}
    return [Fault(line, "number of cells", str(count), reason) for line, count in counts.items()]


def _cells(rows: dict[int, list[str]], width: int, places: dict[str, int]) -> pd.DataFrame:
    """Put text under our names, indexed by line in the file; columns that the file lacks are all blank."""
    whole = {line: row for line, row in rows.items() if len(row) == width}
    text = {name: [row[place].strip(STRAY) for row in whole.values()] for name, place in places.items()}
    return pd.DataFrame(text, index=list(whole), dtype="str").reindex(columns=list(SPELLINGS), fill_value="")


def _filled(text: pd.Series, blanks: tuple[str, ...] = BLANKS) -> pd.Series:
    """Make the words that mean nothing a missing value."""
    return text.mask(text.str.lower().isin(blanks))


def _faults(text: pd.Series, wrong: pd.Series, column: str, reason: str) -> list[Fault]:
    return [Fault(int(str(line)), column, str(value), reason) for line, value in text[wrong].items()]


def _names(text: pd.Series) -> tuple[pd.Series, list[Fault]]:
    """Take a file's suffix off each image name; refuse blanks, doubles, and what names a folder."""
    names = text.str.replace(r"(?i)\.(?:jpe?g|png|dcm)$", "", regex=True)
    faults = _faults(text, names.str.lower().isin(EMPTY), "image_name", "blank")
    outside = names.str.contains(r"[/\\\x00-\x1f]") | names.isin([".", ".."])
    faults += _faults(text, outside, "image_name", "a path, not a name")  # it could leave the image folder
    first = names[~names.duplicated()]
    lines = pd.Series(first.index, index=first.to_numpy())
    for line, name in names[names.duplicated() & (names != "")].items():
        faults.append(Fault(int(str(line)), "image_name", name, f"already in row {lines[name]}"))
    return names, faults


def _owners(
    path: Path, names: pd.Series, patients: pd.Series, lesions: pd.Series
) -> tuple[pd.Series, pd.Series, list[str]]:
    """Name a patient for every row: the lesion where the patient is blank, else the image itself."""
    by_lesion = int((patients.isna() & lesions.notna()).sum())
    alone = int((patients.isna() & lesions.isna()).sum())
    missing = f"{path.name}: {{:,}} rows without patient_id: "
    remarks = [missing.format(by_lesion) + "the lesion stands for the patient"] if by_lesion else []
    remarks += [missing.format(alone) + "each image counts as a patient of its own"] if alone else []
    return patients.fillna(lesions).fillna(names), lesions, remarks


def _sexes(text: pd.Series) -> tuple[pd.Series, list[Fault]]:
    words = text.str.lower()
    wrong = words.notna() & ~words.isin(SEXES)
    return words.map(SEXES).astype(text.dtype), _faults(text, wrong, "sex", "neither female, male nor blank")


def _ages(text: pd.Series) -> tuple[pd.Series, list[Fault]]:
    ages = pd.to_numeric(text, errors="coerce").astype("float64")
    wrong = text.notna() & ~ages.between(0, OLDEST_YEARS)
    return ages, _faults(text, wrong, "age_years", f"not a number of years from 0 to {OLDEST_YEARS}")


def _targets(cells: pd.DataFrame, column: str) -> tuple[pd.Series, list[Fault]]:
    """Read 0 or 1 from `column`; `benign_malignant`, where it is filled in, must agree."""
    labels = cells[column].str.lower().map(LABELS)
    faults = _faults(cells[column], labels.isna(), column, f"not one of {', '.join(LABELS)}")
    words = cells["benign_malignant"].str.lower().map(LABELS)
    against = labels.notna() & words.notna() & (labels != words)
    faults += _faults(cells["benign_malignant"], against, "benign_malignant", "contradicts target")
    return labels.fillna(-1).astype("int64"), faults


def _bad_rows(path: Path, faults: list[Fault], known: dict[str, str]) -> DataError:
    """Put all faults, in the file's order, into one sentence."""
    texts = [
        f"row {line} ({known.get(column, column)} {value!r}: {reason})"
        for line, column, value, reason in sorted(faults)
    ]
    rows = len({fault.row for fault in faults})
    sentence = f"{path} has {rows:,} bad row{'s' * (rows > 1)}, to be mended or removed: {listed(texts)}"
    return DataError(sentence, [f"{path.name} {text}" for text in texts])


def _find_csv(folder: Path, name: str, parts: tuple[str, ...]) -> Path | None:
    """Find a table by its name, or else the only one whose name holds the first of `parts` that any holds."""
    if (folder / name).is_file():
        return folder / name
    tables = sorted(path for path in folder.glob("*.csv") if "uplicate" not in path.name)
    for part in parts:
        fitting = [path for path in tables if part in path.name.lower()]
        if len(fitting) > 1:
            names = listed([path.name for path in fitting])
            raise DataError(f"{folder} holds several tables that could be its {name}: {names}; rename one")
        if fitting:
            return fitting[0]
    return None


def _read_duplicates(folder: Path, names: set[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Read every list of duplicate pairs in the folder, less the pairs whose images are not in the table."""
    pairs: list[tuple[str, str]] = []
    remarks = []
    with reaching(folder):
        paths = sorted(folder.glob("*uplicate*.csv"))
    for path in paths:
        header, rows = _read_rows(path)
        wrong = {len(header), *map(len, rows.values())} - {2}
        if wrong:
            raise DataError(f"{path} has {max(wrong)} columns; a list of duplicates has two, of image names")
        given = [(first.strip(STRAY), second.strip(STRAY)) for first, second in rows.values()]
        kept = [pair for pair in given if names.issuperset(pair)]
        pairs += kept
        ignored = len(given) - len(kept)
        if ignored:
            remarks.append(f"{path.name}: {ignored:,} pairs ignored: their images are not in the table")
    return pairs, remarks
