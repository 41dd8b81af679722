"""The competition's file, `image_name,target`: checked before it is written, and examined whoever wrote it.

It knows ids and probabilities, no image and no network.
"""

import csv
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from melanoma.errors import DataError, listed
from melanoma.evaluation.metrics import Float64Array, placements
from melanoma.files import write_text

COLUMNS = ["image_name", "target"]
WANTED = ",".join(COLUMNS)
LARGEST_BYTES = 64 * 2**20  # the official file has 0.4 MB; what is far larger is another file
ENOUGH_ROWS = 30  # fewer show nothing about how values are spread or ordered
MANY_TIED = 0.1  # share of rows; a network's float32 ties next to none, float16 near 0 many
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
SUFFIX = re.compile(r"\.(jpe?g|png|dcm|dicom|tiff?|bmp|webp)$", re.IGNORECASE)
VALUE_FAULTS = {
    "blank": "there is no value: write a probability for every image",
    "text": "the value is no number: write it plainly with a decimal point, such as 0.125",
    "not finite": "the value is NaN or infinite: write a number from 0 to 1",
    "outside": "the value lies outside 0 to 1: the competition's AUC takes logits all the same, but here a value is a "
    "probability, so pass logits through a sigmoid",
}


@dataclass(frozen=True)
class Finding:
    """One fault of a submission file: an `error` makes it wrong, a `remark` is worth a look."""

    severity: Literal["error", "remark"]
    text: str


@dataclass(frozen=True)
class _Row:
    line: int  # from 1, as an editor counts
    cells: list[str]


def check_submission(expected: Sequence[str], image_names: Sequence[str], probabilities: Sequence[float]) -> None:
    """Raise DataError unless the names are exactly the expected ones, each once, with a probability in [0, 1]."""
    names = list(image_names)
    if len(names) != len(probabilities):
        raise DataError(f"the submission has {len(names):,} names but {len(probabilities):,} probabilities")
    if missing := sorted(set(expected) - set(names)):
        raise DataError(f"the submission lacks {len(missing):,} images of the test table: {listed(missing)}")
    if extra := sorted(set(names) - set(expected)):
        raise DataError(f"the submission has {len(extra):,} images that the test table lacks: {listed(extra)}")
    if len(names) != len(expected):
        twice = sorted(name for name, times in Counter(names).items() if times > 1)
        raise DataError(f"the submission names images twice: {listed(twice)}")
    wrong = [n for n, p in zip(names, probabilities, strict=True) if not (math.isfinite(p) and 0 <= p <= 1)]
    if wrong:
        raise DataError(f"the submission has values that are no probability, for {listed(wrong)}")


def write_submission(
    path: Path, expected: Sequence[str], image_names: Sequence[str], probabilities: Sequence[float]
) -> None:
    """Check and write the competition's file, in the order of the test table.

    expected: the ids of the test table. probabilities: of melanoma, in [0, 1], one for each of `image_names`.
    Raises DataError as `check_submission` does; nothing is written then.
    """
    check_submission(expected, image_names, probabilities)
    by_name = dict(zip(image_names, probabilities, strict=True))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((name, f"{by_name[name]:.7g}") for name in expected)
    write_text(path, text.getvalue())


def examine_submission(
    path: Path, expected: Sequence[str], *, reference: Mapping[str, float] | None = None
) -> list[Finding]:
    """Return every fault of a file that anybody may have written, errors first; an empty list is a sound file.

    expected: the ids of the test table, in its order. reference: another score by id, higher more suspect; the file
    looks inverted where the rank correlation with it is below -0.1 and 3 standard errors below 0 (1 / sqrt(rows - 1)),
    on 30 rows at least. Nothing is raised for whatever stands in the file.
    Source: Spearman 1904, doi:10.2307/1412159.
    """
    # ---- from bytes to cells -------------------------------------------------------------------------------------
    text, findings = _read(path)
    if text is None:
        return findings
    rows, torn = _rows(text)
    places, width, rows, misnamed = _header(rows, set(expected))
    findings += torn + misnamed
    if places is None:
        return findings
    if wrong := [row.line for row in rows if len(row.cells) != width]:
        findings += [_error(f"{_where(wrong)} there are not {width} cells, as in the header: mend what is wrong there")]

    # ---- ids and values ------------------------------------------------------------------------------------------
    names, cells = ([row.cells[place] if place < len(row.cells) else "" for row in rows] for place in places)
    names, misspelt = _ids(names, list(dict.fromkeys(expected)))
    values, improper = _values(cells, [row.line for row in rows])

    # ---- what the values tell ------------------------------------------------------------------------------------
    findings += misspelt + improper + _spread(values[np.isfinite(values)])
    if reference is not None:
        findings += _inverted(names, values, reference)
    return sorted(findings, key=lambda finding: finding.severity)  # stable, and "error" stands before "remark"


def _error(text: str) -> Finding:
    return Finding("error", text)


def _remark(text: str) -> Finding:
    return Finding("remark", text)


def _where(lines: Sequence[int]) -> str:
    if len(lines) == 1:
        return f"in line {lines[0]}"
    return f"in {len(lines):,} lines ({listed([str(line) for line in lines])})"


def _shown(text: str, most: int = 40) -> str:
    """Keep what a stranger wrote to one short printable word or two."""
    plain = text if text.isprintable() else ascii(text)
    return (plain if len(plain) <= most else f"{plain[:most]}...") or "(blank)"


def _read(path: Path) -> tuple[str | None, list[Finding]]:
    """Return the file's text without its byte order mark; None where there is none to be had."""
    try:
        if not path.is_file():
            return None, [_error(f"{path} is no file: give the path of a CSV file")]
        if path.stat().st_size > LARGEST_BYTES:
            return None, [_error(f"{path} has over {LARGEST_BYTES >> 20} MiB and is no submission: give another path")]
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        return None, [_error(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return None, [_error(f"{path} is not text in UTF-8: write it as plain CSV, not as a spreadsheet or archive")]
    if not text.strip():
        return None, [_error(f"{path} is empty: write the line {WANTED} and then a line for each image")]
    marked = "the file begins with a byte order mark, which some readers take into the first name: save it without"
    return text, [_remark(marked)] if content.startswith(b"\xef\xbb\xbf") else []


def _rows(text: str) -> tuple[list[_Row], list[Finding]]:
    """Cut the text into cells, line by line, so that an open quote spoils its own line only; blank lines are left out.

    Lines may end as on Unix, Windows or an old Mac.
    """
    lines = [(number, line) for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1) if line.strip()]
    separator = next((mark for mark in ";\t" if mark in lines[0][1]), ",")
    rows, torn, findings = [], [], []
    for number, line in lines:
        try:
            rows.append(_Row(number, next(csv.reader([line], delimiter=separator))))
        except csv.Error:
            torn.append(number)
    if separator != ",":
        word = {";": "semicolons", "\t": "tabs"}[separator]
        findings.append(_error(f"the cells stand between {word}: put commas, and decimal points in the numbers"))
    if torn:
        findings.append(_error(f"{_where(torn)} a cell is far too long to be read: mend what is wrong there"))
    return rows, findings


def _header(rows: list[_Row], expected: set[str]) -> tuple[tuple[int, int] | None, int, list[_Row], list[Finding]]:
    """Return the places of id and value, how many columns there are, and the rows below the header.

    Two columns of other names are taken for id and value; None stands where id or value cannot be told.
    """
    if not rows:
        return None, 0, [], []
    header = rows[0].cells
    words = [cell.strip().casefold() for cell in header]
    if not set(COLUMNS) & set(words) and (set(header) & expected or any(map(NUMBER.fullmatch, words))):
        places = (0, 1) if len(header) == 2 else None
        return places, len(header), rows, [_error(f"the file has no header: put the line {WANTED} first")]
    findings = [] if header == COLUMNS else [_misnamed(header, words)]
    if again := [row.line for row in rows[1:] if row.cells == header]:
        findings.append(_error(f"{_where(again)} the header stands again: keep it in the first line only"))
    below = [row for row in rows[1:] if row.cells != header]
    if set(COLUMNS) <= set(words):
        return (words.index(COLUMNS[0]), words.index(COLUMNS[1])), len(header), below, findings
    return (0, 1) if len(header) == 2 else None, len(header), below, findings


def _misnamed(header: list[str], words: list[str]) -> Finding:
    advice = "give the two columns these names"
    if words == COLUMNS:
        advice = "write it in small letters without spaces"
    elif words == COLUMNS[::-1]:
        advice = "swap the columns"
    elif set(COLUMNS) <= set(words):
        others = [_shown(cell) for cell, word in zip(header, words, strict=True) if word not in COLUMNS]
        advice = f"leave out {listed(others)}" if others else "keep each column once"
        if words[0] in ("", "unnamed: 0", "index"):
            advice += ", the row numbers (index=False in pandas)"
    return _error(f"the header is {_shown(','.join(header), 80)}, not {WANTED}: {advice}")


def _ids(names: list[str], expected: list[str]) -> tuple[list[str], list[Finding]]:
    """Return the ids without spaces and suffixes, so that these faults hide no other."""
    known, findings = set(expected), []
    bare = [name.strip() for name in names]
    if spaced := [repr(_shown(name)) for name in names if name != name.strip()]:
        findings.append(_error(f"{len(spaced):,} ids have spaces around them: {listed(spaced)}; take the spaces out"))
    suffixed = [name for name in bare if name not in known and SUFFIX.search(name)]
    if suffixed:
        shown = listed([_shown(name) for name in suffixed])
        findings.append(_error(f"{len(suffixed):,} ids end as a file's name does: {shown}; write the id without it"))
        bare = [name if name in known else SUFFIX.sub("", name) for name in bare]
    counts = Counter(bare)
    missing = [name for name in expected if name not in counts]
    extra = [_shown(name) for name in counts if name not in known]
    twice = [f"{_shown(name)} ({times:,} times)" for name, times in counts.items() if times > 1]
    if missing:
        findings.append(_error(f"{len(missing):,} images of the test table are missing: {listed(missing)}; add them"))
    if extra:
        findings.append(_error(f"{len(extra):,} ids are not in the test table: {listed(extra)}; leave them out"))
    if twice:
        findings.append(_error(f"{len(twice):,} ids stand more than once: {listed(twice)}; keep one row for each"))
    if bare != expected and not (missing or extra or twice):
        findings.append(_remark("the order is not the test table's: the competition goes by the ids, others may not"))
    return bare, findings


def _values(cells: list[str], lines: list[int]) -> tuple[Float64Array, list[Finding]]:
    """Return the values, float64 (rows,), NaN where there is no finite number; those outside [0, 1] stay."""
    values, faults = np.full(len(cells), np.nan), defaultdict(list)
    for row, cell in enumerate(cells):
        text = cell.strip()
        value = float(text) if NUMBER.fullmatch(text) else math.nan
        if math.isfinite(value):
            values[row] = value
            fault = "" if 0 <= value <= 1 else "outside"
        else:
            fault = "not finite" if math.isinf(value) or NOT_FINITE.fullmatch(text) else "text" if text else "blank"
        if fault:
            faults[fault].append(lines[row])
    return values, [_error(f"{_where(faults[fault])} {text}") for fault, text in VALUE_FAULTS.items() if faults[fault]]


def _spread(known: Float64Array) -> list[Finding]:
    """Judge the finite values: all equal, labels, rounded, tied, or mostly high; each fault of ties is said once."""
    distinct, counts = np.unique(known, return_counts=True)
    tied = float(counts[counts > 1].sum()) / max(known.size, 1)
    many, findings = known.size >= ENOUGH_ROWS, []
    lost = "equal values cannot be ranked; write the probabilities in full"
    if known.size > 1 and distinct.size == 1:
        return [
            _error(f"all {known.size:,} values are {known[0]:g}, whose AUC is 0.5: write the model's probabilities")
        ]
    if known.size > 1 and set(distinct) <= {0.0, 1.0}:
        findings.append(_remark(f"the values are only 0 and 1, labels and no probabilities: {lost}"))
    elif many and distinct.size * 10 < known.size:
        findings.append(_remark(f"{known.size:,} rows share {distinct.size:,} values, as if they were rounded: {lost}"))
    elif many and tied > MANY_TIED:
        findings.append(_remark(f"{tied:.0%} of the rows share their value with another row: {lost}"))
    if many and (high := float((known > 0.5).mean())) > 0.5:
        rare = "melanoma is rare, so look whether 1 - p was written or the classes were balanced in training"
        findings.append(_remark(f"{high:.0%} of the values are above 0.5: {rare}"))
    return findings


def _inverted(names: list[str], values: Float64Array, reference: Mapping[str, float]) -> list[Finding]:
    other = np.array([reference.get(name, math.nan) for name in names], np.float64)
    both = np.isfinite(values) & np.isfinite(other)
    ours, theirs = values[both], other[both]
    if ours.size < ENOUGH_ROWS or (ours == ours[0]).all() or (theirs == theirs[0]).all():
        return []
    # A placement among one's own is the mean rank of ties, but for scale.
    correlation = float(np.corrcoef(placements(ours, ours), placements(theirs, theirs))[0, 1])
    if correlation > -0.1 or correlation * math.sqrt(ours.size - 1) > -3:
        return []
    told = f"the rank correlation with the other score of the same images is {correlation:.2f}"
    return [_remark(f"the file looks inverted: {told}; look whether 1 - p, or the other class, was written")]
