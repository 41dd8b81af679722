"""Where the bytes of each image are: JPEG folders, DICOM folders, TFRecord files, or one plain folder.

It reads file names, and of TFRecord files the frames (length and data carry a checksum each) and the protobuf
messages in them. It does not know what the bytes show.
"""

import io
import os
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import google_crc32c

from melanoma.errors import DataError, listed
from melanoma.places import Entry, as_place, entries_of, is_folder, is_remote, reaching, read_bytes, read_whole
from melanoma.protobuf import fields, varint

Features = dict[str, list[bytes] | list[int] | list[float]]

# Where several files hold an image the first suffix wins, then the first folder; TFRecord files come last.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dcm")
_FOLDERS = ("jpeg/{part}", "{part}", "dicom/{part}", "jpeg", "dicom", ".")
FRAME = 16  # bytes around the data of a TFRecord's record
_RECORD_SUFFIXES = (".tfrec", ".tfrecord", ".tfrecords")


@dataclass(frozen=True)
class Source:
    """Where one image's file is: a file of its own, or a record of a TFRecord file.

    offset: the record's first byte, its frame included; length: bytes of its data, -1 for a file of its own.
    """

    image_name: str
    path: Path
    offset: int = 0
    length: int = -1

    @property
    def suffix(self) -> str:
        """How the name of the image's file ends; a record has none."""
        return self.path.suffix if self.length < 0 else ""

    def read(self) -> bytes:
        """Return the image file's bytes; of a TFRecord, after checking both checksums.

        Raises DataError where the file is gone, cut short, or not what it was when it was found.
        """
        try:
            if self.length < 0:
                return read_whole(self.path)
            place = f"{self.path}, record at byte {self.offset:,}"
            if is_remote(self.path):  # no more than that: a store's file would read far ahead
                frame = read_bytes(self.path, self.offset, self.offset + FRAME + self.length)
                record = _next_record(io.BytesIO(frame), place, len(frame))
            else:
                with self.path.open("rb") as file:
                    file.seek(self.offset)
                    record = _next_record(file, place, self.path.stat().st_size - self.offset)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror}): check the path") from error
        features = _example_at(record or b"", self.path, self.offset)
        if _name_in(features) != self.image_name:
            raise DataError(f"{place}: it no longer holds {self.image_name}; start again with the file as it is now")
        return _bytes_of(features, "image")


def find_images(folder: Path, names: Sequence[str], part: Literal["train", "test"]) -> dict[str, Source]:
    """Find every image in whichever layout: JPEG before other files before DICOM before TFRecord.

    folder: the dataset's; names: image names without suffix. Returns a source for each name, in their order.
    Raises DataError for names that are no file names, and for images that are nowhere.
    """
    _check_names(names)
    if not is_folder(folder):
        raise DataError(f"{folder} is no folder: give the one that holds the images")
    found = _in_folders(folder, frozenset(names), part)
    for path in _record_files(folder, part):
        if len(found) == len(set(names)):
            break
        found = {**_in_records(path, frozenset(names)), **found}
    missing = [name for name in names if name not in found]
    if missing:
        places = ", ".join(place.format(part=part) for place in _FOLDERS)
        raise DataError(
            f"{len(missing):,} of {len(names):,} {part} images were not found: {listed(missing)}; looked in "
            f"{folder} for {places} and *.tfrec: put them there, or take their rows out of the table",
            missing,
        )
    return {name: found[name] for name in names}


def iterate_records(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Read a TFRecord file from its start, checking every checksum.

    Yields (offset of the record's frame, length of its data, its data), all in bytes.
    Raises DataError naming file and byte where a record is cut short or fails a checksum.
    Source of the format: tensorflow/core/lib/io/record_writer.h.
    """
    try:
        with reaching(path), path.open("rb") as file:
            size, offset = path.stat().st_size, 0
            while (record := _next_record(file, f"{path}, record at byte {offset:,}", size - offset)) is not None:
                yield offset, len(record), record
                offset = file.tell()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path") from error


def read_example(record: bytes) -> Features:
    """Parse a serialised tf.train.Example: feature name to its values.

    Raises DataError for bytes that are no such message.
    Source of the format: tensorflow/core/example/example.proto and the protobuf encoding guide.
    """
    try:
        return {
            bytes(key).decode(): _values(feature)
            for features in _parts(memoryview(record), 1)
            for entry in _parts(features, 1)
            for key, feature in [(_last(entry, 1), _last(entry, 2))]
        }
    except (ValueError, IndexError, TypeError, struct.error) as error:
        raise DataError("the record is no tf.train.Example: make the TFRecord file again") from error


def spare_images(folder: Path, names: Collection[str]) -> list[str]:
    """List the image files in the dataset's folders that no table names, sorted; TFRecord files are not looked into."""
    places = {place.format(part=part) for place in _FOLDERS for part in ("train", "test")}
    entries = [os.path.splitext(entry.name) for place in places for entry in _entries(folder / place)]  # noqa: PTH122
    return sorted({stem for stem, suffix in entries if suffix.lower() in _SUFFIXES and stem not in names})


# Folders


def _check_names(names: Sequence[str]) -> None:
    wrong = [repr(name) for name in names if name in ("", ".", "..") or any(sign in name for sign in "/\\\0")]
    if wrong:
        raise DataError(f"not image names but paths: {listed(wrong)}; give file names without suffix")


def _in_folders(folder: Path, names: Collection[str], part: str) -> dict[str, Source]:
    best: dict[str, tuple[int, int, str]] = {}
    for place_rank, place in enumerate(_FOLDERS):
        for entry in _entries(folder / place.format(part=part)):
            stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122 - ten times quicker than a Path each
            if stem in names and suffix.lower() in _SUFFIXES and entry.is_file():
                rank = (_SUFFIXES.index(suffix.lower()), place_rank, entry.path)
                best[stem] = min(best.get(stem, rank), rank)
    return {name: Source(name, as_place(path)) for name, (_, _, path) in best.items()}


def _entries(folder: Path) -> list[os.DirEntry[str]] | list[Entry]:
    if is_remote(folder):
        return entries_of(folder)
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror}): check its permissions") from error


# TFRecord files


def _record_files(folder: Path, part: str) -> list[Path]:
    inner = [as_place(entry.path) for entry in _entries(folder) if entry.is_dir()]
    files = [as_place(entry.path) for place in (folder, *inner) for entry in _entries(place)]
    files = [path for path in files if path.suffix.lower() in _RECORD_SUFFIXES]
    return sorted(files, key=lambda path: (not path.name.startswith(part), path))


def _in_records(path: Path, names: Collection[str]) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for offset, length, record in iterate_records(path):
        features = _example_at(record, path, offset)
        name = _name_in(features)
        if name in names and "image" in features:
            found.setdefault(name, Source(name, path, offset, length))
    return found


def _next_record(file: BinaryIO, place: str, left: int) -> bytes | None:
    """Read the record that begins here, None at the end. left: bytes from here to the end."""
    header = file.read(12)
    if not header:
        return None
    if len(header) < 12:
        raise DataError(f"{place}: the file is cut short; take a fresh copy")
    length, length_sum = struct.unpack("<QI", header)
    if _masked_sum(header[:8]) != length_sum:
        raise DataError(f"{place}: its length fails its checksum; take a fresh copy of the file")
    if FRAME + length > left:
        raise DataError(f"{place}: the file is cut short; take a fresh copy")
    record = file.read(length)
    if file.read(4) != struct.pack("<I", _masked_sum(record)):
        raise DataError(f"{place}: its data fails its checksum; take a fresh copy of the file")
    return record


def _masked_sum(data: bytes) -> int:
    # CRC-32C, turned by 15 bits, plus a constant: sums of data that holds sums itself are weak otherwise.
    crc = google_crc32c.value(data)
    return int(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


# tf.train.Example: Features in field 1; a map in its field 1; an entry is a key (1) and a feature (2);
# a feature is a list of bytes (1), floats (2) or int64 (3), the values in its field 1


def _example_at(record: bytes, path: Path, offset: int) -> Features:
    try:
        return read_example(record)
    except DataError as error:
        raise DataError(f"{path}, record at byte {offset:,}: {error}") from error


def _name_in(features: Features) -> str:
    return _bytes_of(features, "image_name").decode(errors="replace")


def _bytes_of(features: Features, key: str) -> bytes:
    values = features.get(key)
    return values[0] if values and isinstance(values[0], bytes) else b""


def _values(feature: memoryview) -> list[bytes] | list[int] | list[float]:
    for number, content in fields(feature):
        values = [value for field, value in fields(_message(content)) if field == 1]
        if number == 1:
            return [bytes(_message(value)) for value in values]
        if number == 2:  # four bytes each, one by one or packed: the same bytes
            packed = b"".join(_message(value) for value in values)
            return list(struct.unpack(f"<{len(packed) // 4}f", packed))
        if number == 3:
            numbers = [one for value in values for one in _integers(value)]
            return [one - (1 << 64) if one >> 63 else one for one in numbers]
    return []


def _integers(value: int | memoryview) -> Iterator[int]:
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        one, at = varint(value, at)
        yield one


def _parts(message: memoryview, field: int) -> list[memoryview]:
    return [_message(value) for number, value in fields(message) if number == field]


def _last(message: memoryview, field: int) -> memoryview:
    return (_parts(message, field) or [memoryview(b"")])[-1]


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number where a message is expected")
    return value
