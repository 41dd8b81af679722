"""A dataset folder to what training and scoring need: a checked table, prepared images, groups that stay whole, folds.

It builds no network and needs no deep-learning framework.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.config import ImageSettings, Settings
from melanoma.data.balance import equalise_sites
from melanoma.data.cache import Cache, prepare_cache
from melanoma.data.duplicates import dropped, groups_of, near_duplicates, same_bytes
from melanoma.data.folds import make_folds, random_split_leak, read_folds, write_folds
from melanoma.data.records import Dataset, read_dataset, take
from melanoma.data.sources import find_images
from melanoma.errors import DataError, listed
from melanoma.files import sha256

Counting = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
THUMBNAIL_PX = 64


@contextmanager
def silent(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show no progress."""
    del what, unit
    yield lambda done, total: None


@dataclass(frozen=True)
class Prepared:
    """A dataset ready for training.

    table: a row an image, in the order of `train.csv`. cache, test_cache: their pixels.
    kept: bool (rows,), rows that are trained on or validated on. fold: int64 (rows,), the fold that a row is held out
    in, -1 for never. group: int64 (rows,), rows that must stay together share a number.
    remarks: what a reader of the results should know about the data. hashes: of the tables, the folds, the caches.
    """

    table: pd.DataFrame
    cache: Cache
    test: pd.DataFrame | None
    test_cache: Cache | None
    kept: NDArray[np.bool_]
    fold: NDArray[np.int64]
    group: NDArray[np.int64]
    remarks: list[str]
    hashes: dict[str, str]

    def held_out(self, fold: int) -> pd.DataFrame:
        """The rows that a fold's network is validated on."""
        rows: pd.DataFrame = self.table.loc[self.kept & (self.fold == fold)]
        return rows

    def training(self, fold: int, settings: Settings) -> pd.DataFrame:
        """The rows that a fold's network learns from, equalised where the settings say so."""
        rows: pd.DataFrame = self.table.loc[self.kept & (self.fold != fold)]
        if settings.balance.method == "rows":
            rows, _ = equalise_sites(rows, settings.seed)
        return rows


def prepare(
    folder: Path, settings: Settings, cache_root: Path, folds_file: Path, counting: Counting = silent
) -> Prepared:
    """Read, check, decode and split a dataset; the split is written to `folds_file`, or read where it is there already.

    Raises DataError for bad rows, missing or unreadable images, and folds that split a patient.
    """
    # ---- the table -----------------------------------------------------------------------------------------------
    dataset = read_dataset(folder)
    table = take(dataset.train, settings.data.limit, settings.seed).reset_index(drop=True)
    remarks = list(dataset.remarks)
    if len(table) < len(dataset.train):
        remarks.append(f"data.limit: {len(table):,} of {len(dataset.train):,} training images are used")

    # ---- the pixels ----------------------------------------------------------------------------------------------
    cache, test_cache = prepare_images(dataset, table, settings.images, cache_root, counting)

    # ---- what must stay together, and what is there twice --------------------------------------------------------
    hashes = pd.Series(cache.index["sha256"].to_numpy(), index=table["image_name"])
    here = set(table["image_name"])
    official = [pair for pair in dataset.duplicate_pairs if here.issuperset(pair)]
    exact = [*official, *same_bytes(hashes)]
    near = near_duplicates(list(table["image_name"]), _thumbnails(cache, counting))
    group = groups_of(table, [*exact, *near])
    kept = np.ones(len(table), bool)
    twice = dropped(table, exact)
    if settings.data.duplicates == "drop" and twice.any():
        kept &= ~twice
        remarks.append(f"{twice.sum():,} duplicates are left out; the first of each set is kept")
    remarks += _near_remarks(table, near)

    # ---- balance and folds ---------------------------------------------------------------------------------------
    if settings.balance.method == "rows_before_folds":
        equal, notes = equalise_sites(table[kept], settings.seed)
        kept = table.index.isin(equal.index)
        remarks += [f"{len(equal):,} rows are left after equal numbers for each site", *notes]
        leak = random_split_leak(equal, settings.folds.validation_share, settings.seed)
        remarks.append(
            f"a random split by image would have put {leak:.0%} of the validation images beside training images of the "
            "same patient; this split puts none"
        )
    fold = _folds(table, kept, group, settings, folds_file)
    return Prepared(
        table,
        cache,
        dataset.test,
        test_cache,
        kept,
        fold,
        group,
        remarks,
        hashes={
            "train.csv": sha256(dataset.train_file),
            **({"test.csv": sha256(dataset.test_file)} if dataset.test_file else {}),
            "folds.csv": sha256(folds_file),
            "cache": cache.key,
            **({"test cache": test_cache.key} if test_cache else {}),
        },
    )


def prepare_images(
    dataset: Dataset, table: pd.DataFrame, settings: ImageSettings, cache_root: Path, counting: Counting = silent
) -> tuple[Cache, Cache | None]:
    """Decode and filter the table's images, and the test table's, into caches below `cache_root`.

    Raises DataError for images that are missing or cannot be read.
    """
    caches: list[Cache | None] = []
    for part, rows in (("train", table), ("test", dataset.test)):
        if rows is None:
            caches.append(None)
            continue
        names = list(rows["image_name"])
        found = find_images(dataset.folder, names, "train" if part == "train" else "test")
        with counting(f"preparing {part}", "images") as show:
            caches.append(prepare_cache(cache_root, [found[name] for name in names], settings, show))
    train_cache, test_cache = caches
    assert train_cache is not None
    return train_cache, test_cache


def _folds(
    table: pd.DataFrame, kept: NDArray[np.bool_], group: NDArray[np.int64], settings: Settings, file: Path
) -> NDArray[np.int64]:
    """Read the run's folds, or the given file's, or make them on the kept rows; rows left out go with their group."""
    given = Path(settings.folds.file) if settings.folds.file and not file.exists() else file
    if settings.folds.file and not given.exists():
        raise DataError(f"the fold file {given} is not there")
    if given.exists():
        fold = read_folds(given, table, group)
        if given != file:
            write_folds(file, table, group, fold)
        return np.asarray(fold, np.int64)
    made = make_folds(table[kept], group[kept], settings.folds.count, settings.folds.validation_share, settings.seed)
    by_group = pd.Series(np.asarray(made, np.int64), index=group[kept]).groupby(level=0).first()
    fold = pd.Series(group).map(by_group).fillna(-1).astype(np.int64)
    write_folds(file, table, group, fold)
    return np.asarray(fold, np.int64)


def _thumbnails(cache: Cache, counting: Counting) -> NDArray[np.uint8]:
    """Shrink every prepared image: uint8 (rows, 64, 64, 3)."""
    small = np.empty((len(cache.images), THUMBNAIL_PX, THUMBNAIL_PX, 3), np.uint8)
    with counting("looking for duplicates", "images") as show:
        for row, image in enumerate(cache.images):
            small[row] = cv2.resize(image, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
            show(row + 1, len(small))
    return small


def _near_remarks(table: pd.DataFrame, near: list[tuple[str, str]]) -> list[str]:
    patient = table.set_index("image_name")["patient_id"]
    apart = [f"{first} and {second}" for first, second in near if patient[first] != patient[second]]
    if not apart:
        return []
    one = len(apart) == 1
    return [
        f"{len(apart):,} {'pair of images looks' if one else 'pairs of images look'} like one picture under two "
        f"patient ids and {'is' if one else 'are'} kept on one side of every split: {listed(apart)}"
    ]
