"""How the fuzzer damages a file: blindly, byte by byte, and by what its format is made of.

Each mutation takes a Random, the bytes and the other seeds, and gives other bytes; the same Random gives the same.
"""

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

from test_sources import field, framed, varint

Mutate = Callable[[Random, bytes, Sequence[bytes]], bytes]
Places = list[tuple[int, int, int]]  # of the parts that a file is made of: start, start of the content, end

NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 17, 255, 256, 4096, 32_767, 32_768, 65_535, 65_536, 2**24, 2**31 - 1, 2**31)
NUMBERS = (*NUMBERS, 2**32 - 2, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
SIDES = (0, 1, 15, 16, 64, 1000, 7999, 8000, 8001, 20_000, 65_535)  # around the least side and the most pixels
MOST_BYTES = 2**20  # of one input: growth by doubling stops here


def mutated(random: Random, content: bytes, others: Sequence[bytes], by_format: Mutate) -> bytes:
    """Damage `content` from one to eight times, every other time by its format."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4, 8))):
        content = (by_format if random.random() < 0.5 else blindly)(random, content, others)[:MOST_BYTES]
    return content


# Any bytes


def blindly(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change, take out, put in, double, swap or cut, wherever it hits."""
    if not content:
        return random.choice(others)
    at = random.randrange(len(content))
    if random.random() < 0.4:  # headers stand first
        at = min(at, random.randrange(600))
    end = min(len(content), at + random.choice((1, 2, 4, 16, 64, 1000, 30_000)))
    head, block, tail = content[:at], content[at:end], content[end:]
    other = random.choice(others)
    return random.choice(
        (
            lambda: head + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :],
            lambda: head + random.randbytes(1) + content[at + 1 :],
            lambda: head + bytes([random.choice((0, 1, 127, 128, 254, 255))]) + content[at + 1 :],
            lambda: _overwritten(content, at, _number(random)),
            lambda: head + tail,
            lambda: head + block * 2 + tail,
            lambda: head + block * random.choice((10, 100, 1000)) + tail,
            lambda: head + random.randbytes(len(block)) + content[at:],
            lambda: head + bytes([random.choice((0, 255))]) * len(block) + tail,
            lambda: head + other[random.randrange(len(other) or 1) :],
            lambda: head + other[at : at + len(block)] + tail,
            lambda: tail + block + head,
            lambda: head,
        )
    )()


def _number(random: Random) -> bytes:
    size = random.choice((1, 2, 4, 8))
    value = random.choice((*NUMBERS, random.getrandbits(64))) & (1 << 8 * size) - 1
    return value.to_bytes(size, random.choice(("little", "big")))


def _overwritten(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def _moved_part(random: Random, content: bytes, others: Sequence[bytes], places: Callable[[bytes], Places]) -> bytes:
    """Take out, double, repeat, move or exchange one of the parts that a file is made of."""
    parts, other = places(content), random.choice(others)
    strangers = places(other)
    if not parts:
        return blindly(random, content, others)
    start, _, end = random.choice(parts)
    part, rest = content[start:end], content[:start] + content[end:]
    to, _, _ = random.choice(parts)
    stranger = b""
    if strangers:
        begin, _, stop = random.choice(strangers)
        stranger = other[begin:stop]
    times = random.choice((2, 2, 3, 20, 200))
    return random.choice(
        (
            lambda: rest,
            lambda: content[:start] + part * times + content[end:],
            lambda: rest[:to] + part + rest[to:],
            lambda: content[:start] + stranger + content[end:],
            lambda: content[:start] + stranger + content[start:],
        )
    )()


# JPEG: segments of a marker, a length that counts itself, and content


def jpeg(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Move segments, and change markers, lengths, sizes, tables and the number of scans."""
    parts = jpeg_segments(content)
    if not parts or random.random() < 0.25:
        return _moved_part(random, content, others, jpeg_segments)
    start, inner, end = random.choice(parts)
    frames = [part for part in parts if content[part[0] + 1] in (0xC0, 0xC1, 0xC2) and part[2] - part[1] > 5]
    frame = random.choice(frames or parts)
    side = struct.pack(">H", random.choice(SIDES))
    return random.choice(
        (
            lambda: _overwritten(content, start + 1, random.choice((random.randbytes(1), *MARKERS))),
            lambda: _overwritten(content, start + 2, struct.pack(">H", random.choice(NUMBERS) & 0xFFFF)),
            lambda: _overwritten(
                content, start + 2, struct.pack(">H", max(0, end - inner + random.randint(-3, 5)) & 0xFFFF)
            ),
            lambda: _overwritten(content, random.randrange(inner, max(end, inner + 1)), random.randbytes(1)),
            lambda: _overwritten(content, frame[1] + random.choice((1, 3)), side),
            lambda: _overwritten(content, frame[1] + random.choice((0, 5, 6, 7, 8)), random.randbytes(1)),
            lambda: content[: random.randrange(start, len(content))] + b"\xff\xd9",
            lambda: content[:start] + b"\xff\xda" * random.choice((2, 90, 120, 5000)) + content[start:],
        )
    )()


MARKERS = [bytes([marker]) for marker in (*range(0xC0, 0xE3), 0xED, 0xEE, 0xFE, 0xFF, 0x01, 0x00)]


def jpeg_segments(content: bytes) -> Places:
    """Walk the segments up to the end of the first scan's header."""
    found, at = [], 2
    while at + 4 <= len(content) and content[at] == 0xFF and len(found) < 100:
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        found.append((at, at + 4, min(end, len(content))))
        if content[at + 1] == 0xDA:
            later = content.find(b"\xff\xc4", end)  # the next scan of a progressive one begins with its tables
            end = later if later > 0 else len(content)
        at = end
    return found


# PNG, WEBP, TIFF, BMP: the first two in chunks, all of them full of numbers in their first bytes


def picture(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Move and change chunks, a PNG's sums made right again; put sides and other numbers where headers have them."""
    if not content.startswith(b"\x89PNG") or random.random() < 0.1:
        if random.random() < 0.2:
            return _moved_part(random, content, others, riff_chunks)
        at = random.randrange(120) if random.random() < 0.7 else max(0, len(content) - random.randrange(1, 300))
        sides = struct.pack(random.choice("<>") + random.choice("HI"), random.choice(SIDES))
        return _overwritten(content, at, random.choice((sides, _number(random))))
    if random.random() < 0.25:
        return _moved_part(random, content, others, png_chunks)
    start, inner, end = random.choice(png_chunks(content) or [(8, 16, len(content))])
    data = content[inner : max(inner, end - 4)]
    name = random.choice((content[start + 4 : start + 8], content[start + 4 : start + 8], *PNG_NAMES))
    if name == b"IHDR" and random.random() < 0.5:
        data = _overwritten(data, random.choice((0, 4)), struct.pack(">I", random.choice(SIDES)))
    elif name == b"IHDR":
        data = _overwritten(data, random.randrange(8, 13), bytes([random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))]))
    elif name == b"IDAT" and random.random() < 0.5:
        data = zlib.compress(random.choice((b"", b"\0" * 10_000_000, random.randbytes(20_000))))
    else:
        data = blindly(random, data, others)
    return content[:start] + png_chunk(name, data) + content[end:]


PNG_NAMES = [b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT"]


def png_chunk(name: bytes, data: bytes) -> bytes:
    """Write a chunk with its right sum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_chunks(content: bytes) -> Places:
    """Walk the chunks: each with its length, name and sum around the data."""
    return _chunks(content, 8, lambda head: 12 + int.from_bytes(head[:4], "big"))


def riff_chunks(content: bytes) -> Places:
    """Walk a WEBP's chunks."""
    return _chunks(content, 12, _riff_length) if content[:4] == b"RIFF" else []


def _riff_length(head: bytes) -> int:
    length = 8 + int.from_bytes(head[4:8], "little")
    return length + length % 2


def _chunks(content: bytes, at: int, length_by: Callable[[bytes], int], head: int = 8) -> Places:
    """Walk what begins with a head of so many bytes, which tells how long the whole of it is."""
    found: Places = []
    while at + head <= len(content) and len(found) < 1000:
        end = at + length_by(content[at : at + head])
        found.append((at, at + head, min(end, len(content))))
        at = end
    return found


# DICOM: elements of a tag, mostly a VR, a length and a value


def dicom(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Move elements, and change tags, VRs, lengths, values, the transfer syntax and the photometric interpretation."""
    parts = dicom_elements(content)
    if not parts or random.random() < 0.2:
        return _moved_part(random, content, others, dicom_elements)
    start, inner, end = random.choice(parts)
    fixed = {2: struct.pack("<H", random.choice((*SIDES, *NUMBERS)) & 0xFFFF)}.get(end - inner, _number(random))
    words = random.choice(
        (b"1", b"-1", b"0", b"1e400", b"nan", b"65535", b"1\\2", b"9" * 400, b"", b"\xff\xfe", b"a^b")
    )
    tag, vr = struct.pack("<HH", *random.choice(TAGS)), random.choice(VRS)
    return random.choice(
        (
            lambda: _overwritten(content, start, tag),
            lambda: _overwritten(content, start + 4, vr),
            lambda: _overwritten(content, start + 6, struct.pack("<H", random.choice(NUMBERS) & 0xFFFF)),
            lambda: _overwritten(content, inner - 4, struct.pack("<I", random.choice(NUMBERS) & 0xFFFFFFFF)),
            lambda: _overwritten(content, inner, fixed),
            lambda: _overwritten(content, inner, random.randbytes(max(1, min(8, end - inner)))),
            lambda: _overwritten(content, random.randrange(inner, max(end, inner + 1)), _number(random)),
            lambda: content[:start] + dicom_element(tag, vr, random.choice((words, fixed))) + content[end:],
            lambda: content[:start] + dicom_element(tag, vr, fixed) + content[start:],
            lambda: _with_value(content, (2, 0x10), b"UI", random.choice(SYNTAXES)),
            lambda: _with_value(content, (0x28, 4), b"CS", random.choice(COLOURS)),
        )
    )()


VRS = [b"US", b"OB", b"OW", b"UN", b"SQ", b"CS", b"DS", b"IS", b"UI", b"LO", b"PN", b"SS", b"UL", b"FD", b"AT", b"??"]
TAGS = [
    *((0x28, low) for low in (2, 4, 6, 8, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103, 0x1050, 0x1051, 0x1052, 0x1053)),
    *((0x28, low) for low in (*range(0x1101, 0x1104), *range(0x1201, 0x1204), *range(0x1221, 0x1224), 0x3000, 0x3010)),
    *((2, 0), (2, 0x10), (8, 5), (0x10, 0x10), (0x7FE0, 0x10), (0x7FE0, 8), (0x7FE0, 1), (0x5400, 0x1010)),
    *((0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD), (0xFFFF, 0xFFFF), (0, 0)),
]
SYNTAXES = [b"1.2.840.10008.1.2" + end for end in (b"", b".1", b".2", b".5", b".1.99", b".1.98", b".9", b".4.100")]
SYNTAXES += [b"1.2.840.10008.1.2.4.%d" % end for end in (50, 51, 57, 70, 80, 81, 90, 91, 92, 106, 110, 201, 202, 203)]
COLOURS = [b"RGB", b"YBR_FULL", b"YBR_FULL_422", b"YBR_ICT", b"YBR_RCT", b"MONOCHROME1", b"MONOCHROME2"]
COLOURS += [b"PALETTE COLOR", b"XYZ", b""]
LONG_VRS = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"OL")


def _with_value(content: bytes, tag: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    wanted = struct.pack("<HH", *tag)
    for start, _, end in dicom_elements(content):
        if content[start : start + 4] == wanted:
            return content[:start] + dicom_element(wanted, vr, value) + content[end:]
    return content


def dicom_element(tag: bytes, vr: bytes, value: bytes) -> bytes:
    """Write an explicit little-endian element, its length right."""
    value += b"\0" * (len(value) % 2)
    if vr in LONG_VRS:
        return tag + vr + b"\0\0" + struct.pack("<I", len(value)) + value
    return tag + vr + struct.pack("<H", len(value) & 0xFFFF) + value


def dicom_elements(content: bytes) -> Places:
    """Walk the elements behind the preamble, explicit or implicit; those of undefined length are entered."""
    found, at = [], 132
    while at + 8 <= len(content) and len(found) < 300:
        vr = content[at + 4 : at + 6]
        if vr in LONG_VRS:
            inner, length = at + 12, int.from_bytes(content[at + 8 : at + 12], "little")
        elif vr.isalpha() and vr.isupper():
            inner, length = at + 8, int.from_bytes(content[at + 6 : at + 8], "little")
        else:
            inner, length = at + 8, int.from_bytes(content[at + 4 : at + 8], "little")
        end = inner if length == 2**32 - 1 or vr == b"SQ" else inner + length
        found.append((at, inner, min(end, len(content))))
        at = end
    return found


# TFRecord: frames with sums, and protocol buffers in them


def tfrecord(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Damage what is in a record, blindly or by its fields, and frame it with the right sums; move records."""
    if random.random() < 0.15:
        return _moved_part(random, content, others, tfrecord_frames)
    parts = tfrecord_frames(content)
    if not parts:
        return framed(content)
    start, inner, end = random.choice(parts)
    record = content[inner : max(inner, end - 4)]
    deep = (b"\x0a" + varint(random.choice(NUMBERS))) * random.choice((1, 3, 10_000))
    record = random.choice(
        (
            lambda: blindly(random, record, others),
            lambda: _overwritten(record, random.randrange(min(len(record), 64) or 1), random.randbytes(1)),
            lambda: _overwritten(record, random.randrange(len(record) or 1), varint(random.choice(NUMBERS))),
            lambda: record + field(random.randrange(1, 4), blindly(random, record, others)),
            lambda: field(random.randrange(0, 20), record),
            lambda: deep + record,
            lambda: field(1, field(1, field(1, b"image") + field(2, field(random.randrange(5), record[:9])))) + record,
        )
    )()
    return content[:start] + framed(record) + content[end:]


def tfrecord_frames(content: bytes) -> Places:
    """Walk the frames."""
    return _chunks(content, 0, lambda head: 16 + int.from_bytes(head[:8], "little"), 12)


# CSV: rows and cells


def table(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change cells, columns, rows, the separator, quotes, the ends of lines and the encoding."""
    text = content.decode("utf-8", "replace")
    separator = ";" if text.partition("\n")[0].count(";") else ","
    rows = [line.split(separator) for line in re.split(r"\r\n|\n|\r", text)]
    row = random.randrange(len(rows)) if random.random() < 0.8 else 0
    column = random.randrange(len(rows[row]))
    cell = random.choice((*CELLS, *HEADERS, random.choice(random.choice(rows))))
    choice = random.randrange(12)
    if choice <= 4:
        rows[row][column] = cell
    elif choice == 5:
        rows[0][random.randrange(len(rows[0]))] = random.choice(HEADERS)
    elif choice == 6:
        for one in rows:
            del one[column : column + 1]
    elif choice == 7:
        rows = [[*one, cell] for one in rows]
    elif choice == 8:
        rows[row:row] = [rows[row]] * random.choice((1, 2, 300))
    elif choice == 9:
        rows[row] = rows[row] * random.choice((0, 2, 1000))
    elif choice == 10:
        separator = random.choice((",", ";", "\t", "|", " "))
    else:
        random.shuffle(rows)
    end = random.choice(("\n", "\n", "\n", "\r\n", "\r", "\n\n"))
    encoding = random.choice(("utf-8",) * 9 + ("utf-8-sig", "latin-1", "utf-16", "utf-8-sig", "utf-32"))
    return end.join(map(separator.join, rows)).encode(encoding, "replace")


HEADERS = [
    *("image_name", "image", "isic_id", "path", "file", "patient_id", "lesion_id", "sex", "age_approx", "age", "site"),
    *("anatom_site_general_challenge", "benign_malignant", "target", "probability", "fold", "answer", "source"),
    *("diagnosis", "diagnosis_1", "width", "height", "IMAGE_NAME", ""),
]
CELLS = [
    *("", " ", "0", "1", "-1", "1.0", "0.5", "nan", "NaN", "inf", "-inf", "1e400", "1e-400", "0x1F", "1_000", "９"),
    *("9" * 25, "9" * 5000, "True", "malignant", "female", "..", "../x", "a/b", "a\\b", "nul\0", "\x1b[2J", "\u202e"),
    *('"', '""', '"a', 'a"b', "'", ",", ";", "\n", "\ufeff", "\ud7ff", "é" * 300, "x" * 140_000, "=1+1", "1j"),
    *("2020-01-01", "inf%", "+5", "1,5", "ISIC_1.jpg", "ISIC_1.jpg.jpg", "~", "*", "[", "e" * 70_000, "unknown"),
]
