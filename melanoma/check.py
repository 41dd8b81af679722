"""The data check: every bad row, missing image, duplicate, leak and shortcut of a dataset in one report.

An error makes a result worthless or a run fail; a remark is what a run deals with by itself, and a reader should know.
It changes nothing and trains no network.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.config import Settings
from melanoma.data.cache import Cache, remarks_on
from melanoma.data.duplicates import contradictions, dropped, groups_of
from melanoma.data.facts import colours, control_facts
from melanoma.data.folds import check_folds, make_folds, read_folds
from melanoma.data.records import SPELLINGS, Dataset, read_dataset, read_sizes, read_text
from melanoma.data.sources import find_images, spare_images
from melanoma.errors import LISTED, DataError, UsageError, listed
from melanoma.evaluation.control import control_figure, control_probabilities
from melanoma.evaluation.intervals import expected_noise
from melanoma.evaluation.metrics import auc
from melanoma.inference.submission import examine_submission
from melanoma.prepare import Counting, Twins, find_twins, prepare_images, shared_with_test, silent, under_two_patients

SCHEMA_VERSION = 1
CONTROL_FOLDS = 5
GIVEN_AWAY = 0.99  # one column with this AUC, on patients it was not learned from, is the answer in disguise
USUAL_AUC = 0.9
KNOWN_FEATURES = ("age_years", "sex", "site")
ANSWERS = ("target", "benign_malignant", "diagnosis")
Int64Array = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Finding:
    """Something found: a sentence, and under `details` every row, name or pair that it is about."""

    kind: str
    severity: Literal["error", "remark"]
    text: str
    details: list[str] = field(default_factory=list)


@dataclass
class Check:
    """What a check found, and what the controls reach on the data."""

    folder: str
    counts: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    controls: list[dict[str, Any]] = field(default_factory=list)
    not_looked_at: list[str] = field(default_factory=list)

    def error(self, kind: str, text: str, details: Sequence[str] = ()) -> None:
        """Note what makes a result worthless or a run fail."""
        self.findings.append(Finding(kind, "error", text, list(details)))

    def remark(self, kind: str, text: str, details: Sequence[str] = ()) -> None:
        """Note what a run deals with by itself."""
        self.findings.append(Finding(kind, "remark", text, list(details)))

    @contextmanager
    def trying(self, kind: str) -> Iterator[None]:
        """Note a DataError as an error of that kind, and go on."""
        try:
            yield
        except DataError as error:
            self.error(kind, str(error), error.details)

    def of(self, severity: Literal["error", "remark"]) -> list[Finding]:
        """List the findings of one severity, in the order in which they were found."""
        return [finding for finding in self.findings if finding.severity == severity]

    def to_json(self) -> dict[str, Any]:
        """Give plain values, without NaN."""
        return {
            "schema_version": SCHEMA_VERSION,
            "folder": self.folder,
            "passed": not self.of("error"),
            "counts": self.counts,
            "errors": [asdict(finding) for finding in self.of("error")],
            "remarks": [asdict(finding) for finding in self.of("remark")],
            "controls": self.controls,
            "not_looked_at": self.not_looked_at,
        }


def check_data(
    folder: Path,
    settings: Settings,
    cache_root: Path,
    *,
    images: bool = True,
    sizes: Path | None = None,
    folds: Path | None = None,
    features: Sequence[str] = (),
    submission: Path | None = None,
    counting: Counting = silent,
) -> Check:
    """Look a dataset folder over; what is wrong with it is reported, not raised.

    The controls are learned on the given folds, or on five of our own where there are none or they leak.

    images: also find, decode and compare the pictures. sizes: a CSV with image_name, width and height in pixels, used
    where the pictures are not looked at. folds: a CSV with image_name and fold that is to be held to. features: columns
    of the training table that somebody means to train on. submission: a competition file to hold against the test
    table. Raises UsageError for a column that is not there.
    """
    check = Check(str(folder))

    # ---- the tables: every bad row -------------------------------------------------------------------------------
    dataset: Dataset | None = None
    with check.trying("bad rows"):
        dataset = read_dataset(folder)
    if dataset is None:
        check.not_looked_at.append("images, duplicates, leaks and controls: the tables must be mended first")
        return check
    table = dataset.train
    _look_at_tables(check, dataset)

    # ---- the images: missing, spare, unreadable ------------------------------------------------------------------
    cache: Cache | None = None
    test_cache: Cache | None = None
    if not images:
        check.not_looked_at.append("the images: their files, bytes and looks")
    elif _all_images_are_there(check, dataset):
        with check.trying("unreadable images"):
            cache, test_cache = prepare_images(dataset, table, settings.images, cache_root, counting)
            for remark in remarks_on(cache, test_cache):
                check.remark("pixels", remark)

    # ---- duplicates, and what stands on both sides of a split ----------------------------------------------------
    twins = find_twins(table, dataset, cache, test_cache, counting)
    clean = _look_at_twins(check, table, twins)
    for text, names in shared_with_test(table, dataset.test, twins):
        check.error("leak", f"{text}; take them out of one of the two tables", names)
    fold = _given_folds(check, folds, table, twins) if folds else None

    # ---- what gives the answer away without a look at a lesion ---------------------------------------------------
    if fold is None:
        fold = _own_folds(check, table, clean, [*twins.exact, *twins.near], settings.seed)
    fold = np.where(clean, fold, -1)
    _look_for_answers(check, dataset, features, fold[clean], clean)
    files = cache.index[["width", "height", "bytes"]] if cache else _given_sizes(check, sizes, table)
    colour = colours(cache.thumbnails)[clean] if cache else None
    facts = control_facts(table[clean], None if files is None else files[clean], colour)
    rows = table[clean]
    draws = {"samples": settings.evaluate.bootstrap_samples, "seed": settings.seed}
    held = fold[clean] >= 0
    for name, known in facts.items() if held.any() else []:
        probability = control_probabilities(known.values, rows["target"], fold[clean], settings.seed)
        reached = control_figure(rows["target"][held], probability[held], rows["patient_id"][held], **draws)
        check.controls.append({"name": name, "features": list(known.names), "auc": reached})
    _look_for_shortcuts(check, None if files is None else files[clean], rows["target"])

    # ---- the competition's file ----------------------------------------------------------------------------------
    if submission is not None:
        _look_at_submission(check, submission, dataset)
    check.counts = {
        "train_images": len(table),
        "patients": int(table["patient_id"].nunique()),
        "melanomas": int(table["target"].sum()),
        "test_images": 0 if dataset.test is None else len(dataset.test),
        "duplicates_left_out": int((~clean).sum()),
        "judged_by_controls": int((fold >= 0).sum()),
        "folds": len(set(fold[fold >= 0])),
    }
    return check


def summary(check: Check) -> str:
    """Say what was found in plain text: counts, errors, remarks, and a table of the controls."""
    counts, lines = check.counts, []
    if counts:
        test = f"; {counts['test_images']:,} test images" if counts["test_images"] else ""
        share = 100 * counts["melanomas"] / max(counts["train_images"], 1)
        lines.append(
            f"{check.folder}: {counts['train_images']:,} training images of {counts['patients']:,} patients, "
            f"{counts['melanomas']:,} melanomas ({share:.1f} %){test}"
        )
    for severity, title in (("error", "errors"), ("remark", "remarks")):
        found = check.of(severity)  # type: ignore[arg-type]
        lines += ["", f"{title}: {len(found) or 'none'}"]
        for one in found:
            every = one.details if severity == "error" and len(one.details) > LISTED else []
            lines += [f"  {one.kind}: {one.text}", *(f"    {detail}" for detail in every)]
    if check.controls:
        title = f"AUC without a look at a lesion, on {counts['judged_by_controls']:,} images, patients whole"
        lines += ["", title, *_control_lines(check.controls)]
    if check.not_looked_at:
        lines += ["", "not looked at: " + "; ".join(check.not_looked_at)]
    return "\n".join(lines).strip()


def _control_lines(controls: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for control in controls:
        area, name = control["auc"], f"  {control['name']:<20}"
        if area["value"] is None:
            lines.append(f"{name} n/a: {area['reason']}")
        elif area["low"] is None:
            lines.append(f"{name} {area['value']:.3f}  ({area['reason']})")
        else:
            lines.append(f"{name} {area['value']:.3f}  95 % interval {area['low']:.3f} to {area['high']:.3f}")
    return lines


# ---- tables and images -----------------------------------------------------------------------------------------------


def _look_at_tables(check: Check, dataset: Dataset) -> None:
    for remark in dataset.remarks:
        check.remark("table", remark)
    for path, rows in ((dataset.train_file, dataset.train), (dataset.test_file, dataset.test)):
        if path is None or rows is None:
            continue
        blank = {name: int(rows[name].isna().sum()) for name in KNOWN_FEATURES}
        told = ", ".join(f"{name} {count:,}" for name, count in blank.items() if 0 < count < len(rows))
        if told:
            check.remark(
                "blanks", f"{path.name}: {told} of {len(rows):,} rows are blank; they are filled, and marked so"
            )
    if dataset.test is not None:
        for name in ("sex", "site"):
            unseen = sorted(set(dataset.test[name].dropna()) - set(dataset.train[name].dropna()))
            if unseen:
                text = f"{name}s of the test table that training never saw: {listed(unseen)}; taken as unknown"
                check.remark("unseen", text, unseen)


def _all_images_are_there(check: Check, dataset: Dataset) -> bool:
    before = len(check.findings)
    named: set[str] = set()
    for part, rows in (("train", dataset.train), ("test", dataset.test)):
        if rows is not None:
            named |= set(rows["image_name"])
            with check.trying("missing images"):
                find_images(dataset.folder, list(rows["image_name"]), part)  # type: ignore[arg-type]
    there = len(check.findings) == before
    if spare := spare_images(dataset.folder, named):
        check.remark("spare images", f"{len(spare):,} image files that no table names: {listed(spare)}", spare)
    if not there:
        check.not_looked_at.append("the images' bytes and looks: some are missing")
    return there


def _given_sizes(check: Check, sizes: Path | None, table: pd.DataFrame) -> pd.DataFrame | None:
    if sizes is None:
        check.not_looked_at.append("image sizes as a shortcut: no images, and no --sizes")
        return None
    with check.trying("sizes"):
        given = read_sizes(sizes).reindex(table["image_name"]).reset_index(drop=True)
        unknown = int(given["width"].isna().sum())
        if unknown:
            check.remark("sizes", f"{sizes.name} lacks the size of {unknown:,} of {len(table):,} images")
        return given
    return None


# ---- duplicates, leaks, folds ----------------------------------------------------------------------------------------


def _look_at_twins(check: Check, table: pd.DataFrame, twins: Twins) -> Mask:
    """Report duplicates in the training table, and mark the rows that are left when all but one of each are dropped."""
    clean = np.ones(len(table), bool)
    if against := contradictions(table, twins.exact):
        check.error("labels", f"one picture labelled both ways: {listed(against)}; correct the targets", against)
    else:
        clean = ~dropped(table, twins.exact)
    exact = [f"{one} = {other}" for one, other in twins.exact]
    if exact:
        text = f"{len(exact):,} pairs are one picture; {(~clean).sum():,} images will be dropped: {listed(exact)}"
        check.remark("duplicates", text, exact)
    patient = table.set_index("image_name")["patient_id"]
    apart = [
        f"{one} ({patient[one]}) = {other} ({patient[other]})"
        for one, other in under_two_patients(table, [*twins.exact, *twins.near])
    ]
    if apart:
        text = f"{len(apart):,} pairs are one picture under two patients, kept on one side of splits: {listed(apart)}"
        check.remark("duplicates", text, apart)
    return clean


def _given_folds(check: Check, path: Path, table: pd.DataFrame, twins: Twins) -> Int64Array | None:
    read: pd.Series[int] | None = None
    with check.trying("folds"):
        read = read_folds(path, table, np.arange(len(table)))
    if read is None:
        return None
    before = len(check.of("error"))
    with check.trying("leak"):
        check_folds(table, groups_of(table, []), read)
    place = dict(zip(table["image_name"], read, strict=True))
    for pairs, words in ((twins.exact, "are one picture"), (twins.near, "look like one picture")):
        apart = [
            f"{one} (fold {place[one]}) = {other} (fold {place[other]})"
            for one, other in pairs
            if place[one] != place[other]
        ]
        if apart:
            text = f"{path}: {len(apart):,} pairs that {words} stand on both sides of a split: {listed(apart)}"
            check.error("leak", f"{text}; put each into one fold", apart)
    leaking = len(check.of("error")) > before
    return None if leaking else np.asarray(read, np.int64)  # a control on leaking folds would be too good


def _own_folds(check: Check, table: pd.DataFrame, clean: Mask, pairs: list[tuple[str, str]], seed: int) -> Int64Array:
    """Split patients into folds for the controls; all -1 where there are too few melanomas."""
    fold = np.full(len(table), -1, np.int64)
    try:
        fold[clean] = make_folds(table[clean], groups_of(table, pairs)[clean], CONTROL_FOLDS, 0.2, seed)
    except DataError as error:
        check.not_looked_at.append(f"the controls: {error}")
    return fold


# ---- features, and the competition's file ----------------------------------------------------------------------------


def _look_for_answers(check: Check, dataset: Dataset, features: Sequence[str], fold: Int64Array, clean: Mask) -> None:
    """Refuse features that are the answer, by their name or as they alone predict it on other patients."""
    text = read_text(dataset.train_file)
    columns = {str(name): text[name] for name in text}
    ours = {spelling: name for name, spellings in SPELLINGS.items() for spelling in (name, *spellings)}
    ours["age"] = "age_years"
    there = {ours.get(name, name) for name in columns}
    chosen = [one.strip().lower() for one in features]
    for one in chosen:
        if one not in columns and ours.get(one) not in there:
            known = listed(list(columns), len(columns))
            raise UsageError(f"--features {one}: {dataset.train_file} has no such column; it has {known}")
        if ours.get(one) in ANSWERS:
            check.error("answer", f"{one} cannot be a feature: it is the answer in disguise; leave it out", [one])
    target = dataset.train["target"].to_numpy()[clean]
    held = fold >= 0
    for name, words in columns.items():
        if name in ours or not held.any():
            continue
        probability = control_probabilities(_numbers(words)[clean][:, None], target, fold)[held]
        area = None if np.isnan(probability).any() else auc(target[held], probability)
        if area is None or area < GIVEN_AWAY:
            continue
        told = f"{name} is the answer in disguise: alone it reaches AUC {area:.3f} on patients it was not learned from"
        if name in chosen:
            check.error("answer", f"{told}; leave it out", [name])
        else:
            check.remark("answer", f"{told}; it is not used", [name])


def _look_for_shortcuts(check: Check, files: pd.DataFrame | None, target: "pd.Series[int]") -> None:
    """Remark on controls that know nothing of patient or lesion, and yet tell the two classes apart."""
    for control in check.controls:
        area = control["auc"]
        if control["name"] in ("width and height", "colour") and area["low"] is not None and area["low"] > 0.5:
            told = f"{control['name']} alone: AUC {area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})"
            shares = _shares_by_size(files, target) if files is not None and control["name"] != "colour" else []
            example = f": {listed(shares, 3)}" if shares else ""
            check.remark("shortcut", f"{told}, so how a picture was taken gives answers away{example}", shares)


def _shares_by_size(files: pd.DataFrame, target: "pd.Series[int]", least: int = 100) -> list[str]:
    """Tell the share of melanomas of each frequent image size, the most frequent first."""
    size = files["width"].map("{:g}".format) + " x " + files["height"].map("{:g}".format)
    by_size = target.groupby(size.to_numpy()).agg(["size", "mean"]).sort_values("size", ascending=False)
    frequent = by_size[by_size["size"] >= least]
    return [
        f"{name}: {row['size']:,.0f} images, {100 * row['mean']:.1f} % melanomas" for name, row in frequent.iterrows()
    ]


def _numbers(column: "pd.Series[str]") -> NDArray[np.float64]:
    """Take a column's numbers, or number its words."""
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().sum() >= (column.str.strip() != "").sum():
        return numbers.to_numpy(np.float64)
    return pd.factorize(column, sort=True)[0].astype(np.float64)


def _look_at_submission(check: Check, submission: Path, dataset: Dataset) -> None:
    if dataset.test is None:
        check.error("submission", f"{submission} cannot be held against a test table: there is none")
        return
    names = list(dataset.test["image_name"])
    reference = dict(zip(names, _table_alone(dataset.train, dataset.test), strict=True))
    for finding in examine_submission(submission, names, reference=reference):
        check.findings.append(Finding("submission", finding.severity, finding.text))
    melanomas = round(len(names) * float(dataset.train["target"].mean()))
    noise = expected_noise(USUAL_AUC, melanomas, len(names) - melanomas)
    if noise is not None:
        text = f"about {melanomas:,} melanomas among {len(names):,} test images, if they are as frequent as in training"
        check.remark("submission", f"{text}: chance alone moves an AUC of {USUAL_AUC} by {noise:.3f} (one deviation)")


def _table_alone(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
    """Score the test table by age, sex and site alone: what a submission should rather agree with than contradict."""
    both = pd.concat([train, test], ignore_index=True)
    target = both["target"].fillna(0).astype(int)
    held = np.where(np.arange(len(both)) < len(train), -1, 0)
    facts = next(iter(control_facts(both).values()))
    return control_probabilities(facts.values, target, held)[len(train) :]
