"""A dataset folder to what training and scoring need: a checked table, prepared images, groups that stay whole, folds.

It builds no network and needs no deep-learning framework.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.config import ImageSettings, Settings
from melanoma.data.balance import equalise_sites, site_weights
from melanoma.data.cache import Cache, prepare_cache, remarks_on
from melanoma.data.duplicates import VERSION, Pair, dropped, groups_of, near_duplicates, same_bytes
from melanoma.data.folds import make_folds, random_split_leak, read_folds, write_folds
from melanoma.data.records import Dataset, read_dataset, take
from melanoma.data.sources import find_images
from melanoma.data.workers import InOrder
from melanoma.errors import DataError, listed
from melanoma.files import read_json, sha256, write_json

Counting = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]


@contextmanager
def silent(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show no progress."""
    del what, unit
    yield lambda done, total: None


@dataclass(frozen=True)
class Prepared:
    """A dataset ready for training.

    table: a row an image, in the order of `train.csv`. cache, test_cache: their pixels. larger: the training table's
    once more, as training images are drawn from them.
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
    larger: Cache

    @property
    def folds(self) -> int:
        """How many folds are held out in turn."""
        return int(self.fold.max()) + 1

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
    folder: Path,
    settings: Settings,
    cache_root: Path,
    folds_file: Path,
    *,
    known: Mapping[str, str] | None = None,
    counting: Counting = silent,
) -> Prepared:
    """Read, check, decode and split a dataset; the split is written to `folds_file`, or read where it is there already.

    known: hashes of an earlier time, by the names of `Prepared.hashes`.
    Raises DataError for bad rows, missing or unreadable images, folds that split a patient, and whatever differs from
    its known hash.
    """
    # ---- the table -----------------------------------------------------------------------------------------------
    dataset = read_dataset(folder)
    table = take(dataset.train, settings.data.limit, settings.seed).reset_index(drop=True)
    remarks = list(dataset.remarks)
    hashes = {path.name: sha256(path) for path in (dataset.train_file, dataset.test_file) if path}
    _refuse_changes(hashes, known or {})
    if len(table) < len(dataset.train):
        remarks.append(f"data.limit: {len(table):,} of {len(dataset.train):,} training images are used")

    # ---- the pixels ----------------------------------------------------------------------------------------------
    cache, test_cache = prepare_images(dataset, table, settings.images, cache_root, counting)
    larger = prepare_larger(dataset, table, settings, cache_root, counting) or cache
    remarks += remarks_on(cache, test_cache)

    # ---- what must stay together, and what is there twice --------------------------------------------------------
    hashes |= {"cache": cache.key} | ({"test cache": test_cache.key} if test_cache else {})
    hashes |= {"larger cache": larger.key} if larger is not cache else {}
    _refuse_changes(hashes, known or {})
    twins = find_twins(table, dataset, cache, test_cache, counting)
    group = groups_of(table, [*twins.exact, *twins.near])
    kept = np.ones(len(table), bool)
    twice = dropped(table, twins.exact)
    if settings.data.duplicates == "drop" and twice.any():
        kept &= ~twice
        remarks.append(f"{twice.sum():,} duplicates are left out; the first of each set is kept")
    remarks += twin_remarks(table, twins) + [text for text, _ in shared_with_test(table, dataset.test, twins)]

    # ---- balance and folds ---------------------------------------------------------------------------------------
    if settings.balance.method == "rows_before_folds":
        equal, notes = equalise_sites(table[kept], settings.seed)
        kept = table["image_name"].isin(equal["image_name"]).to_numpy()
        remarks += [f"{len(equal):,} rows are left after equal numbers for each site", *notes]
        leak = random_split_leak(equal, settings.folds.validation_share, settings.seed)
        remarks.append(
            f"a random split by image would have put {leak:.0%} of the validation images beside training images of the "
            "same patient; this split puts none"
        )
    together = groups_of(table, twins.exact)  # what a given file is held to: near duplicates are a judgement
    fold, notes = _folds(table, kept, settings, folds_file, group=group, together=together)
    hashes["folds.csv"] = sha256(folds_file)
    _refuse_changes(hashes, known or {})
    prepared = Prepared(table, cache, dataset.test, test_cache, kept, fold, group, [*remarks, *notes], hashes, larger)
    return replace(prepared, remarks=[*prepared.remarks, *_balance_remarks(prepared, settings)])


def prepare_images(
    dataset: Dataset,
    table: pd.DataFrame,
    settings: ImageSettings,
    cache_root: Path,
    counting: Counting = silent,
    *,
    spread: InOrder | None = None,
) -> tuple[Cache, Cache | None]:
    """Decode and filter the table's images, and the test table's, into caches below `cache_root`.

    spread: what works on them elsewhere, as for `prepare_cache`.
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
            caches.append(prepare_cache(cache_root, [found[name] for name in names], settings, show, spread))
    train_cache, test_cache = caches
    assert train_cache is not None
    return train_cache, test_cache


def prepare_larger(
    dataset: Dataset,
    table: pd.DataFrame,
    settings: Settings,
    cache_root: Path,
    counting: Counting = silent,
    *,
    spread: InOrder | None = None,
) -> Cache | None:
    """Decode the table's images as training images are drawn from them, into their own cache; None without need."""
    if settings.largest_px == settings.images.size_px:
        return None
    images = settings.images.model_copy(update={"size_px": settings.largest_px})

    def named(what: str, unit: str) -> AbstractContextManager[Callable[[int, int], None]]:
        return counting(f"{what} at {settings.largest_px} px", unit)

    return prepare_images(replace(dataset, test=None), table, images, cache_root, named, spread=spread)[0]


@dataclass(frozen=True)
class Twins:
    """Pairs of image names that are one picture.

    exact: both in the training table, by the official list or the same bytes. near: both in the training table, by
    their looks, exact ones not repeated. test_exact, test_near: a training image, then an image of the test table.
    """

    exact: list[Pair]
    near: list[Pair]
    test_exact: list[Pair]
    test_near: list[Pair]


def find_twins(
    table: pd.DataFrame, dataset: Dataset, cache: Cache | None, test_cache: Cache | None, counting: Counting = silent
) -> Twins:
    """Look for pictures that are there twice, within the training table and across the two tables.

    table: the rows of the training table that `cache` was made of. Without a cache the official pairs are all there is.
    """
    here = set(table["image_name"])
    official = [pair for pair in dataset.duplicate_pairs if here.issuperset(pair)]
    if cache is None:
        return Twins(official, [], [], [])
    content = pd.Series(cache.index["sha256"].to_numpy(), index=table["image_name"])
    exact = [*official, *same_bytes(content)]
    test_exact = list[Pair]()
    if test_cache is not None:
        in_test = test_cache.index.set_index("sha256")["image_name"]
        shared = content[content.isin(in_test.index)]
        test_exact = [
            (name, str(in_test.loc[[digest]].iloc[0])) for name, digest in zip(shared.index, shared, strict=True)
        ]
    known = {frozenset(pair) for pair in (*exact, *test_exact)}
    found = [pair for pair in _look_alikes(cache, test_cache, counting) if frozenset(pair) not in known]
    near = [pair for pair in found if here.issuperset(pair)]
    test_near = [pair for pair in found if (pair[0] in here) != (pair[1] in here)]  # training images come first
    return Twins(exact, near, test_exact, test_near)


def _look_alikes(cache: Cache, test_cache: Cache | None, counting: Counting) -> list[Pair]:
    """Pair the images of one or two caches that look alike; what was found once is kept beside the pixels."""
    caches = [one for one in (cache, test_cache) if one is not None]
    kept = cache.folder / f"look-alikes-{VERSION}-{test_cache.key if test_cache else 'alone'}.json"
    if kept.exists():
        return [(first, second) for first, second in read_json(kept)]
    names = [name for one in caches for name in one.index["image_name"]]
    with counting("looking for near duplicates", "images") as show:
        found = near_duplicates(names, *(one.thumbnails for one in caches))
        show(len(names), len(names))
    write_json(kept, found)
    return found


def twin_remarks(table: pd.DataFrame, twins: Twins) -> list[str]:
    """Say which training images look like one picture under two patient ids."""
    apart = [f"{first} and {second}" for first, second in under_two_patients(table, twins.near)]
    if not apart:
        return []
    one = len(apart) == 1
    return [
        f"{len(apart):,} {'pair of images looks' if one else 'pairs of images look'} like one picture under two "
        f"patient ids and {'is' if one else 'are'} kept on one side of every split: {listed(apart)}"
    ]


def under_two_patients(table: pd.DataFrame, pairs: list[Pair]) -> list[Pair]:
    """Keep the pairs whose images belong to different patients."""
    patient = table.set_index("image_name")["patient_id"]
    return [(first, second) for first, second in pairs if patient[first] != patient[second]]


def shared_with_test(table: pd.DataFrame, test: pd.DataFrame | None, twins: Twins) -> list[tuple[str, list[str]]]:
    """Say what stands in both tables, since a test figure is then too good: each sentence with all the names."""
    if test is None:
        return []
    patients = sorted(set(table["patient_id"]) & set(test["patient_id"]))
    found = [
        (patients, "patient stands in both tables", "patients stand in both tables"),
        (_paired(twins.test_exact), "test file is a training image too", "test files are training images too"),
        (_paired(twins.test_near), "test image looks like a training image", "test images look like training images"),
    ]
    told = [(names, one if len(names) == 1 else many) for names, one, many in found if names]
    return [(f"{len(names):,} {words}: {listed(names)}", names) for names, words in told]


def _paired(pairs: list[Pair]) -> list[str]:
    return [f"{other} = {name}" for name, other in pairs]


def _folds(
    table: pd.DataFrame,
    kept: NDArray[np.bool_],
    settings: Settings,
    file: Path,
    *,
    group: NDArray[np.int64],
    together: NDArray[np.int64],
) -> tuple[NDArray[np.int64], list[str]]:
    """Read the run's folds, or the given file's, or make them on the kept rows; rows left out go with their group."""
    given = file if file.exists() or not settings.folds.file else Path(settings.folds.file)
    if given == file and not file.exists():
        count, share = settings.folds.count, settings.folds.validation_share
        made = np.asarray(make_folds(table[kept], group[kept], count, share, settings.seed), np.int64)
        by_group = pd.Series(made, index=group[kept]).groupby(level=0).first()
        write_folds(file, table, group, pd.Series(group).map(by_group).fillna(-1).astype(np.int64))
        given = file
    read = read_folds(given, table, together)
    fold = np.asarray(read, np.int64)
    used = set(fold[kept]) - {-1}
    if used != set(range(len(used))) or not used:
        raise DataError(f"{given} must number its folds 0, 1, 2, ... without a gap; among the rows used are {used}")
    if given == file:
        return fold, []
    write_folds(file, table, group, read)
    notes = [f"the {len(used)} folds of {given.name} are used; folds.count and folds.validation_share are not"]
    apart = pd.Series(fold).groupby(group).nunique().gt(1).sum()
    return fold, [*notes, *([f"{apart:,} sets of near duplicates stand on both sides of its split"] if apart else [])]


def _refuse_changes(found: Mapping[str, str], known: Mapping[str, str]) -> None:
    changed = [name for name in found if name in known and found[name] != known[name]]
    if changed:
        raise DataError(f"{', '.join(changed)} changed since the run began; start a new run")


def _balance_remarks(prepared: Prepared, settings: Settings) -> list[str]:
    """Say which sites have none of one class among the training rows of each fold, where balance meets them."""
    remarks = []
    for fold in range(int(prepared.fold.max()) + 1):
        rows = prepared.table.loc[prepared.kept & (prepared.fold != fold)]
        if settings.balance.method == "rows":
            remarks += [f"fold {fold}: {note}" for note in equalise_sites(rows, settings.seed)[1]]
        if settings.balance.method == "weights":
            remarks += [f"fold {fold}: {note}" for note in site_weights(rows)[1]]
    return remarks
