"""From what a user points at to pictures: files, folders, globs, a table, a zip, addresses. It opens none of them yet.

A picture that is named twice is taken once, with all that a table says of its patient.
"""

import csv
import glob
import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from melanoma.errors import DataError, UsageError, listed
from melanoma.images.decode import SUFFIXES
from melanoma.inference.words import Details
from melanoma.places import as_place, files_below, is_remote, looked_up, matching, read_bytes, read_whole

LARGEST_BYTES = 256 * 2**20  # of one file in a zip; the largest SIIM-ISIC image has 30 MB
MOST_IN_A_ZIP = 100_000
FEW_ROWS = 64  # of a table in a store: a request each takes some seconds together
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

    place: where it is, the same for two names of one file. version: what changes with its content, as far as it is
    told without a request of its own: size and time of a file, a store's hash in a listing, else "".
    It can be pickled, so that another process may read it, from any folder.
    """

    name: str
    read: Callable[[], bytes]
    place: str
    details: Details = field(default_factory=Details)
    version: str = ""


def find_pictures(places: Sequence[str], details: Details | None = None) -> list[Item]:
    """List the pictures of places: a file, a folder with all below it, a glob, a CSV, or a zip.

    Each but a zip may be an address such as s3://bucket/folder.

    details: for every picture; what a table says of one goes before. A place with no picture, or a row that cannot be,
    becomes an item that raises DataError when it is read, so that the others are answered. Raises UsageError without
    places, UnreachableError where a store cannot be reached.
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
    path = as_place(place)
    try:
        if is_remote(path):
            yield from _at_address(path)
        elif path.exists():
            yield from _in_path(path)
        elif matches := sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207  a whole path, perhaps absolute
            for match in matches:
                yield from _in_path(Path(match))
        else:
            yield _refused(place, f"{place} is not there: give a picture, a folder, a glob, a CSV or a zip")
    except DataError as error:
        yield _refused(place, str(error))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        yield _refused(place, f"{place} cannot be read: {error}")


def _at_address(path: Path) -> Iterator[Item]:
    kind, version = looked_up(path)
    if path.suffix.lower() == ".zip":
        raise DataError(f"{path}: a zip is read on this machine only; copy it here, or unpack it there")
    if kind == "file":
        yield from _in_file(path, version)
    elif kind == "directory":
        yield from _in_folder(path)
    elif matches := matching(path):
        for match, version in matches.items():
            yield from _in_file(match, version)
    else:
        raise DataError(f"{path} is not there: give a picture, a folder, a glob or a CSV")


def _in_path(path: Path) -> Iterator[Item]:
    if path.is_dir():
        yield from _in_folder(path)
    else:
        yield from _in_file(path)


def _in_file(path: Path, version: str = "") -> Iterator[Item]:
    if path.suffix.lower() in (".csv", ".tsv"):
        yield from _in_table(path)
    elif path.suffix.lower() == ".zip":
        yield from _in_zip(path)
    else:
        yield _item(path, version)


def _item(path: Path, version: str = "", details: Details | None = None) -> Item:
    """Make an item of a file of this machine, or of an object with what its store told of its version."""
    place, told = str(path.resolve()), details or Details()
    if is_remote(path):
        return Item(str(path), partial(_bytes_of, path), place, told, version)
    # names of files need not be text; read from where this process is, wherever that is done
    name = os.fsencode(path).decode("utf-8", "replace")
    return Item(name, partial(_bytes_of, path.absolute()), place, told, _stamp(path))


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # who reads it says so
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _bytes_of(path: Path) -> bytes:
    if is_remote(path):
        content = read_bytes(path, 0, LARGEST_BYTES + 1)
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
    found = files_below(folder) if is_remote(folder) else {}
    paths = _pictures(found) if is_remote(folder) else _pictures_below(folder)
    if not paths:
        raise DataError(f"{folder} holds no picture: looked for {', '.join(sorted(SUFFIXES))} in it and below")
    yield from (_item(path, found.get(path, "")) for path in paths)


def _pictures_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _pictures(found: Iterable[Path]) -> list[Path]:
    """Keep the pictures of a store's objects, in the order of their names."""
    return sorted((path for path in found if path.suffix.lower() in SUFFIXES), key=str)


# ---- a zip -----------------------------------------------------------------------------------------------------------


class _Zip(zipfile.ZipFile):
    """A zip that another process opens for itself."""

    def __reduce__(self) -> tuple[type, tuple[str | None]]:
        return type(self), (self.filename,)


def _in_zip(path: Path) -> Iterator[Item]:
    try:
        archive = _Zip(path.absolute())
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
        read, place = partial(_unzipped, archive, member, name), f"{path.resolve()}:{member.header_offset}"
        yield Item(name, read, place, version=_stamp(path))


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
    folder = path.parent.resolve()
    below: _Here | _Stored = _Stored(path.parent, len(rows)) if is_remote(path) else _Here(path.parent)
    for line, row in enumerate(rows, start=2):
        cells = {name.strip().lower(): (cell or "").strip() for name, cell in row.items() if name is not None}
        name, where = cells[key], f"{path}, line {line}"
        try:
            if not name:
                raise DataError(f"{where}: {key} is blank; name a picture")
            if None in row:
                raise DataError(f"{where} has more cells than the header: quote what holds a separator")
            place, version = below.named(name)
            if place is None or not place.resolve().is_relative_to(folder):
                raise DataError(f"{where}: {name!r:.80} lies outside the table's folder; put the pictures below it")
            yield _item(place, version, _details(cells, where))
        except DataError as error:
            yield _refused(name or where, str(error))


class _Here:
    """The pictures below a table's folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def named(self, name: str) -> tuple[Path | None, str]:
        """Find what a row names: a path from the folder, or the name of a picture at any depth without its suffix."""
        place = self._folder / name
        try:
            there = place.is_file()
        except (OSError, ValueError):  # too long, or a NUL in it
            there = False
        return (place if there else self._stems.get(name, place)), ""

    @cached_property
    def _stems(self) -> dict[str, Path]:
        return {path.stem: path for path in reversed(_pictures_below(self._folder))}


class _Stored:
    """The same for a table in a store. Few rows are looked up one by one: the folder may hold a whole bucket."""

    def __init__(self, folder: Path, rows: int) -> None:
        self._folder, self._few = folder.resolve(), rows <= FEW_ROWS

    def named(self, name: str) -> tuple[Path | None, str]:
        """Find what a row names, and its version; None for what lies outside, which nobody is asked about."""
        try:
            place = (self._folder / name).resolve()
        except ValueError:  # another store's address
            return None, ""
        if not place.is_relative_to(self._folder):
            return None, ""
        if self._few:
            kind, version = looked_up(place)
            if kind == "file":
                return place, version
        place = place if place in self._listed else self._stems.get(name, place)
        return place, self._listed.get(place, "")

    @cached_property
    def _listed(self) -> dict[Path, str]:
        return files_below(self._folder)

    @cached_property
    def _stems(self) -> dict[str, Path]:
        return {path.stem: path for path in reversed(_pictures(self._listed))}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        text = io.TextIOWrapper(io.BytesIO(read_whole(path)), encoding="utf-8-sig").read()
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
