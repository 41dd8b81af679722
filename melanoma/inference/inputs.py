"""From what a user points at to pictures: files, folders, globs, a table, a zip, addresses. It opens none of them yet.

A picture that is named twice is taken once, with all that a table says of its patient.
"""

import csv
import glob
import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from melanoma.errors import DataError, UsageError, listed
from melanoma.images.decode import SUFFIXES
from melanoma.inference.words import Details
from melanoma.places import as_place, files_below, is_address, is_remote, kind_of, matching, reaching, read_bytes

LARGEST_BYTES = 256 * 2**20  # of one file in a zip; the largest SIIM-ISIC image has 30 MB
MOST_IN_A_ZIP = 100_000
ENCRYPTED = 1  # of a zip member's flags
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
    """One picture: what it is called, what gives its bytes or raises DataError, what is known of the patient.

    place: where it is, the same for two names of one file. It can be pickled, so that another process may read it.
    """

    name: str
    read: Callable[[], bytes]
    place: str
    details: Details = field(default_factory=Details)


def find_pictures(places: Sequence[str], details: Details | None = None) -> list[Item]:
    """List the pictures of places: a file, a folder with all below it, a glob, a CSV, or a zip.

    Each but a zip may be an address such as s3://bucket/folder.

    details: for every picture; what a table says of one goes before. A place with no picture, or a row that cannot be,
    becomes an item that raises DataError when it is read, so that the others are answered. Raises UsageError without
    places.
    """
    if not places or "" in places:
        raise UsageError("give a picture, a folder, a CSV or a zip")
    found: dict[str, Item] = {}
    for item in (item for place in places for item in _at(place)):
        found[item.place] = _together(found.get(item.place, item), item)
    if details is None:
        return list(found.values())
    return [replace(item, details=_filled(item.details, details)) for item in found.values()]


def _refused(name: str, reason: str) -> Item:
    """Make an item of what cannot be read."""

    return Item(name, partial(_refuse, reason), f"refused: {reason}")


def _refuse(reason: str) -> bytes:
    raise DataError(reason)


def _together(one: Item, other: Item) -> Item:
    """Put together what is said of one picture in two places."""
    for name in ("age_years", "sex", "site"):
        values = {getattr(one.details, name), getattr(other.details, name)} - {None}
        if len(values) > 1:
            told = " and ".join(sorted(map(str, values)))
            return replace(
                _refused(one.name, f"{one.name} is given twice, with {name} {told}: keep the right row"),
                place=one.place,
            )
    return replace(one, details=_filled(one.details, other.details))


def _filled(known: Details, given: Details) -> Details:
    """Fill in what is blank."""
    return Details(
        given.age_years if known.age_years is None else known.age_years,
        known.sex or given.sex,
        known.site or given.site,
        known.prevalence or given.prevalence,
    )


def _at(place: str) -> Iterator[Item]:
    try:
        if is_address(place):
            yield from _at_address(as_place(place))
        elif Path(place).exists():
            yield from _in_path(Path(place))
        elif matches := sorted(glob.glob(place, recursive=True)):  # noqa: PTH207  a whole path, perhaps absolute
            for match in matches:
                yield from _in_path(Path(match))
        else:
            yield _refused(place, f"{place} is not there: give a picture, a folder, a glob, a CSV or a zip")
    except DataError as error:
        yield _refused(place, str(error))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        yield _refused(place, f"{place} cannot be read: {error}")


def _at_address(path: Path) -> Iterator[Item]:
    kind = kind_of(path)
    if path.suffix.lower() == ".zip":
        raise DataError(f"{path}: a zip is read on this machine only; copy it here, or unpack it there")
    if kind == "file":
        yield from _in_file(path)
    elif kind == "directory":
        yield from _in_folder(path)
    elif matches := matching(path):
        for match in matches:
            yield from _in_file(match)
    else:
        raise DataError(f"{path} is not there: give a picture, a folder, a glob or a CSV")


def _in_path(path: Path) -> Iterator[Item]:
    if path.is_dir():
        yield from _in_folder(path)
    else:
        yield from _in_file(path)


def _in_file(path: Path) -> Iterator[Item]:
    if path.suffix.lower() in (".csv", ".tsv"):
        yield from _in_table(path)
    elif path.suffix.lower() == ".zip":
        yield from _in_zip(path)
    else:
        yield _item(path)


def _item(path: Path, details: Details | None = None) -> Item:
    # names of files need not be text
    name = str(path) if is_remote(path) else os.fsencode(path).decode("utf-8", "replace")
    return Item(name, partial(_bytes_of, path), str(path.resolve()), details or Details())


def _bytes_of(path: Path) -> bytes:
    if is_remote(path):
        content = read_bytes(path, LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise DataError(f"{path} has over {LARGEST_BYTES >> 20} MiB and is no photograph: leave it out")
        return content
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading from a pipe could take for ever
            raise DataError(f"{path} is no file: give a picture, a folder, a glob, a CSV or a zip")
        if status.st_size > LARGEST_BYTES:
            raise DataError(f"{path} has over {LARGEST_BYTES >> 20} MiB and is no photograph: leave it out")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path") from error


def _in_folder(folder: Path) -> Iterator[Item]:
    paths = _pictures_below(folder)
    if not paths:
        raise DataError(f"{folder} holds no picture: looked for {', '.join(sorted(SUFFIXES))} in it and below")
    yield from (_item(path) for path in paths)


def _pictures_below(folder: Path) -> list[Path]:
    if is_remote(folder):
        return sorted((path for path in files_below(folder) if path.suffix.lower() in SUFFIXES), key=str)
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


# ---- a zip -----------------------------------------------------------------------------------------------------------


class _Zip(zipfile.ZipFile):
    """A zip that another process opens for itself."""

    def __reduce__(self) -> tuple[type, tuple[str | None]]:
        return type(self), (self.filename,)


def _in_zip(path: Path) -> Iterator[Item]:
    try:
        archive = _Zip(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} is no zip file, or a damaged one: {error}") from error
    members = [one for one in archive.infolist() if Path(one.filename).suffix.lower() in SUFFIXES and not one.is_dir()]
    members = [one for one in members if not one.filename.startswith("__MACOSX/")]
    if not members:
        raise DataError(f"{path} holds no picture: looked for {', '.join(sorted(SUFFIXES))} in it")
    if len(members) > MOST_IN_A_ZIP:
        raise DataError(f"{path} holds {len(members):,} pictures, over {MOST_IN_A_ZIP:,}: make several zips of it")
    for member in sorted(members, key=lambda one: one.filename):
        name = f"{path}:{member.filename}"
        yield Item(name, partial(_unzipped, archive, member, name), f"{path.resolve()}:{member.header_offset}")


def _unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> bytes:
    """Read a member into memory, and never more of it than a photograph may have: nothing is written anywhere."""
    if member.flag_bits & ENCRYPTED:
        raise DataError(f"{name} is encrypted: unpack the zip with its password first")
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
    stems: dict[str, Path] | None = None
    folder = path.parent.resolve()
    known = {str(one) for one in files_below(folder)} if is_remote(path) else None  # one request, not one a row
    for line, row in enumerate(rows, start=2):
        cells = {name.strip().lower(): (cell or "").strip() for name, cell in row.items() if name is not None}
        name, where = cells[key], f"{path}, line {line}"
        outside = f"{where}: {name!r:.80} lies outside the table's folder; put the pictures below it"
        try:
            place = path.parent / name
        except ValueError:  # another store's address
            yield _refused(name, outside)
            continue
        if name and not (_is_file(place) if known is None else str(place.resolve()) in known):
            stems = _stems(path.parent) if stems is None else stems
            place = stems.get(name, place)
        try:
            if not name:
                raise DataError(f"{where}: {key} is blank; name a picture")
            if None in row:
                raise DataError(f"{where} has more cells than the header: quote what holds a separator")
            if not place.resolve().is_relative_to(folder):
                raise DataError(outside)
            yield _item(place, _details(cells, where))
        except DataError as error:
            yield _refused(name or where, str(error))


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except (OSError, ValueError):  # too long, or a NUL in it
        return False


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with reaching(path):
            text = path.read_text(encoding="utf-8-sig")
        first = text.split("\n", 1)[0]
        separator = max(",;\t", key=first.count)
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV in UTF-8; save it as one") from error
    if not rows:
        raise DataError(f"{path} has no rows: give a header and a row for each picture")
    return rows


def _stems(folder: Path) -> dict[str, Path]:
    """Find pictures below a folder by their names without suffix, as the competition's tables give them."""
    return {path.stem: path for path in reversed(_pictures_below(folder))}


def _details(cells: dict[str, str], where: str) -> Details:
    def cell(names: tuple[str, ...]) -> str | None:
        value = next((cells[name] for name in names if cells.get(name)), "")
        return None if value.lower() in BLANKS else value.lower()

    age, sex = cell(AGES), cell(SEXES)
    try:
        years = None if age is None else float(age)
    except ValueError:
        raise DataError(f"{where}: the age is a number of years, not {age!r:.40}") from None
    try:
        return Details(years, None if sex is None else SEX_WORDS.get(sex, sex), cell(SITES))
    except UsageError as error:
        raise DataError(f"{where}: {error}") from error
