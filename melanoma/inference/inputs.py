"""From what a user points at to pictures: files, folders, globs, a table, a zip. It opens none of them yet.

A picture that is named twice is taken once, with all that a table says of its patient.
"""

import csv
import glob
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from melanoma.errors import DataError, UsageError, listed
from melanoma.inference.predict import Details

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dcm", ".dicom"}
LARGEST_BYTES = 256 * 2**20  # of one file in a zip; the largest SIIM-ISIC image has 30 MB
MOST_IN_A_ZIP = 100_000
NAMES = ("path", "file", "image_name", "image", "isic_id", "image_id")
AGES, SEXES, SITES = (
    ("age_years", "age_approx", "age"),
    ("sex",),
    ("site", "anatom_site_general", "anatom_site_general_challenge"),
)
SEX_WORDS = {"f": "female", "female": "female", "m": "male", "male": "male"}
BLANKS = {"", "na", "n/a", "nan", "unknown", "none"}


@dataclass(frozen=True)
class Item:
    """One picture: what it is called, what gives its bytes, what is known of the patient.

    place: where it is, the same for two names of one file.
    """

    name: str
    read: Callable[[], bytes]
    place: str
    details: Details = field(default_factory=Details)


def find_pictures(places: Sequence[str], details: Details | None = None) -> list[Item]:
    """List the pictures of paths: a file, a folder with all below it, a glob, a CSV, or a zip.

    details: for every picture; what a table says of one goes before. Raises DataError for a place with no picture, a
    table that cannot be read, or tables that contradict one another, UsageError without places.
    """
    if not places:
        raise UsageError("give a picture, a folder, a CSV or a zip")
    found: dict[str, Item] = {}
    for item in (item for place in places for item in _at(place)):
        earlier = found.setdefault(item.place, item)
        found[item.place] = replace(earlier, details=_together(earlier, item))
    if details is None:
        return list(found.values())
    return [replace(item, details=_filled(item.details, details)) for item in found.values()]


def _together(one: Item, other: Item) -> Details:
    """Put together what is said of one picture in two places."""
    for name in ("age_years", "sex", "site"):
        values = {getattr(one.details, name), getattr(other.details, name)} - {None}
        if len(values) > 1:
            told = " and ".join(sorted(map(str, values)))
            raise DataError(f"{one.name} is given twice, with {name} {told}: keep the row that is right")
    return _filled(one.details, other.details)


def _filled(known: Details, given: Details) -> Details:
    """Fill in what is blank."""
    return Details(
        given.age_years if known.age_years is None else known.age_years,
        known.sex or given.sex,
        known.site or given.site,
        known.prevalence or given.prevalence,
    )


def _at(place: str) -> Iterator[Item]:
    path = Path(place)
    try:
        if path.is_dir():
            yield from _in_folder(path)
        elif path.is_file():
            yield from _in_file(path)
        elif matches := sorted(glob.glob(place, recursive=True)):  # noqa: PTH207  a whole path, perhaps absolute
            for match in matches:
                if Path(match).is_dir():
                    yield from _in_folder(Path(match))
                else:
                    yield from _in_file(Path(match))
        else:
            raise DataError(f"{place} is not there: give a picture, a folder, a glob, a CSV or a zip")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"{place} cannot be read: {error}") from error


def _in_file(path: Path) -> Iterator[Item]:
    if path.suffix.lower() in (".csv", ".tsv"):
        yield from _in_table(path)
    elif path.suffix.lower() == ".zip":
        yield from _in_zip(path)
    else:
        yield _item(path)


def _item(path: Path) -> Item:
    return Item(str(path), partial(_bytes_of, path), str(path.resolve()))


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise DataError(f"{path} has over {LARGEST_BYTES >> 20} MiB and is no photograph: leave it out")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path") from error


def _in_folder(folder: Path) -> Iterator[Item]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{folder} holds no picture: looked for {', '.join(sorted(SUFFIXES))} in it and below")
    yield from (_item(path) for path in paths)


# ---- a zip -----------------------------------------------------------------------------------------------------------


def _in_zip(path: Path) -> Iterator[Item]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} is no zip file, or a damaged one: {error}") from error
    members = [one for one in archive.infolist() if Path(one.filename).suffix.lower() in SUFFIXES and not one.is_dir()]
    members = [one for one in members if not one.filename.startswith("__MACOSX/")]
    if not members or len(members) > MOST_IN_A_ZIP:
        raise DataError(f"{path} holds {len(members):,} pictures; a zip may have from 1 to {MOST_IN_A_ZIP:,}")
    for member in sorted(members, key=lambda one: one.filename):
        name = f"{path}:{member.filename}"
        yield Item(name, partial(_unzipped, archive, member, name), f"{path.resolve()}:{member.filename}")


def _unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> bytes:
    """Read a member into memory, and never more of it than a photograph may have: nothing is written anywhere."""
    try:
        with archive.open(member) as file:
            content = file.read(LARGEST_BYTES + 1)
    except Exception as error:  # zlib, lzma, a password, a header that lies: each raises its own
        raise DataError(f"{name} cannot be unpacked: {error}") from error
    if len(content) > LARGEST_BYTES:
        raise DataError(f"{name} unpacks to over {LARGEST_BYTES >> 20} MiB: leave it out")
    return content


# ---- a table ---------------------------------------------------------------------------------------------------------


def _in_table(path: Path) -> Iterator[Item]:
    rows = _rows(path)
    header = {name.strip().lower() for name in rows[0] if name is not None}
    key = next((name for name in NAMES if name in header), None)
    if key is None:
        raise DataError(
            f"{path} needs a column that names pictures: {', '.join(NAMES)}; it has {listed(sorted(header))}"
        )
    known: dict[str, Path] | None = None
    for line, row in enumerate(rows, start=2):
        cells = {name.strip().lower(): (cell or "").strip() for name, cell in row.items() if name is not None}
        name = cells[key]
        if not name:
            raise DataError(f"{path}, line {line}: {key} is blank; name a picture")
        place = path.parent / name
        if not _inside(place, path.parent):
            raise DataError(
                f"{path}, line {line}: {name!r:.80} lies outside the table's folder; put the pictures below it"
            )
        if not place.is_file():
            known = _stems(path.parent) if known is None else known
            place = known.get(name, place)
        yield Item(str(place), partial(_bytes_of, place), str(place.resolve()), _details(cells, path, line))


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.split("\n", 1)[0]
        separator = max(",;\t", key=first.count)
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    if not rows:
        raise DataError(f"{path} has no rows: give a header and a row for each picture")
    return rows


def _inside(place: Path, folder: Path) -> bool:
    return place.resolve().is_relative_to(folder.resolve())


def _stems(folder: Path) -> dict[str, Path]:
    """Find pictures below a folder by their names without suffix, as the competition's tables give them."""
    paths = sorted((path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES), reverse=True)
    return {path.stem: path for path in paths}


def _details(cells: dict[str, str], path: Path, line: int) -> Details:
    def cell(names: tuple[str, ...]) -> str | None:
        value = next((cells[name] for name in names if cells.get(name)), "")
        return None if value.lower() in BLANKS else value.lower()

    age, sex = cell(AGES), cell(SEXES)
    try:
        return Details(
            None if age is None else float(age), None if sex is None else SEX_WORDS.get(sex, sex), cell(SITES)
        )
    except (ValueError, UsageError) as error:
        raise DataError(f"{path}, line {line}: {error}") from error
