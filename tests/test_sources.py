"""Finding images in every layout, and the TFRecord reader against hand-made records and real files."""

import io
import struct
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from PIL import Image

from melanoma.data.sources import Features, find_images, iterate_records, read_example
from melanoma.errors import DataError
from melanoma.images.decode import decode

SHARED = Path(__file__).parents[2] / "shared" / "data"
TFRECORDS = SHARED / "siim2020" / "tfrecords_512_red_blue_swapped"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


# Folders


@pytest.mark.parametrize(
    "place",
    [
        "jpeg/train/{}.jpg",
        "jpeg/train/{}.jpeg",
        "jpeg/train/{}.png",
        "train/{}.dcm",
        "train/{}.jpg",
        "dicom/train/{}.dcm",
        "jpeg/{}.jpg",
        "{}.JPG",
        "{}.tif",
    ],
)
def test_images_are_found_in_every_layout(tmp_path: Path, place: str) -> None:
    names = ["ISIC_0000001", "ISIC_0000002"]
    touch(tmp_path, *(place.format(name) for name in names), place.format("another"))
    found = find_images(tmp_path, names, "train")
    assert list(found) == names
    assert [source.read().decode() for source in found.values()] == [place.format(name) for name in names]


def test_train_and_test_images_may_lie_in_one_folder(tmp_path: Path) -> None:
    touch(tmp_path, "one.jpg", "two.jpg")
    assert find_images(tmp_path, ["one"], "train")["one"].path == tmp_path / "one.jpg"
    assert find_images(tmp_path, ["two"], "test")["two"].path == tmp_path / "two.jpg"


def test_the_parts_have_folders_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "jpeg/train/a.jpg", "jpeg/test/a.jpg", "jpeg/test/b.jpg")
    assert find_images(tmp_path, ["a"], "test")["a"].read() == b"jpeg/test/a.jpg"
    with pytest.raises(DataError, match=r"1 of 2 train images were not found: b;"):
        find_images(tmp_path, ["a", "b"], "train")


def test_jpeg_comes_before_dicom_before_tfrecord(tmp_path: Path) -> None:
    write_records(tmp_path / "tfrecords/train00-2.tfrec", [example(name, name) for name in ("a", "b", "c")])
    touch(tmp_path, "jpeg/train/a.jpg", "train/a.dcm", "train/b.dcm", "a.png")
    found = find_images(tmp_path, ["a", "b", "c"], "train")
    assert [found[name].path.name for name in "abc"] == ["a.jpg", "b.dcm", "train00-2.tfrec"]


def test_odd_file_names_links_and_folders_are_no_obstacle(tmp_path: Path) -> None:
    touch(tmp_path, "jpeg/train/Läsion 1.v2.jpg", "elsewhere/x.jpg", "jpeg/train/folder.jpg/inside")
    (tmp_path / "jpeg/train/linked.jpg").symlink_to(tmp_path / "elsewhere/x.jpg")
    found = find_images(tmp_path, ["Läsion 1.v2", "linked"], "train")
    assert found["linked"].read() == b"elsewhere/x.jpg"
    with pytest.raises(DataError, match="not found: folder"):
        find_images(tmp_path, ["folder"], "train")


@pytest.mark.parametrize("name", ["../secret", "..", "/etc/passwd", "a/b", "a\\b", "nul\0", ""])
def test_a_name_that_climbs_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "secret.jpg", "data/train/a.jpg")
    with pytest.raises(DataError, match="not image names but paths") as caught:
        find_images(tmp_path / "data", ["a", name], "train")
    assert "\n" not in str(caught.value)


def test_missing_images_are_named_up_to_five_with_the_places_looked_in(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"7 of 7 test images .* n0, n1, n2, n3, n4 and 2 more; .*jpeg/test"):
        find_images(tmp_path, [f"n{number}" for number in range(7)], "test")
    with pytest.raises(DataError, match="no folder"):
        find_images(tmp_path / "gone", ["a"], "train")


def test_a_file_that_goes_away_is_a_clean_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    source = find_images(tmp_path, ["a"], "train")["a"]
    source.path.unlink()
    with pytest.raises(DataError, match=r"a\.jpg cannot be read"):
        source.read()


def test_four_thousand_images_are_found_at_once(tmp_path: Path) -> None:
    names = [f"ISIC_{number:07d}" for number in range(4000)]
    touch(tmp_path, *(f"jpeg/train/{name}.jpg" for name in names))
    start = time.process_time()
    assert len(find_images(tmp_path, names, "train")) == 4000
    assert time.process_time() - start < 0.5


@needs_shared
def test_the_real_folders_are_read() -> None:
    names = [path.stem for path in (SHARED / "siim2020/dicom/train").glob("*.dcm")]
    for folder in (SHARED / "siim2020", SHARED / "siim2020/dicom"):
        assert {source.path.suffix for source in find_images(folder, names, "train").values()} == {".dcm"}
    found = find_images(SHARED / "isic", ["ISIC_0000000", "ISIC_0024306"], "train")
    assert decode(found["ISIC_0024306"].read()).shape == (150, 200, 3)


# TFRecord


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    content = b""
    while value >= 0x80:
        content, value = content + bytes([value & 0x7F | 0x80]), value >> 7
    return content + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def message(features: dict[str, bytes]) -> bytes:
    return field(1, b"".join(field(1, field(1, key.encode()) + field(2, feature)) for key, feature in features.items()))


def of_bytes(*values: bytes) -> bytes:
    return field(1, b"".join(field(1, value) for value in values))


def of_integers(*values: int) -> bytes:
    return field(3, field(1, b"".join(map(varint, values))))


def example(name: str, image: str) -> bytes:
    return message({"image": of_bytes(image.encode()), "image_name": of_bytes(name.encode()), "target": of_integers(0)})


def framed(record: bytes) -> bytes:
    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


def write_records(path: Path, records: list[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(framed, records)))


def test_the_checksum_equals_a_published_one() -> None:
    assert google_crc32c.value(b"123456789") == 0xE3069283  # RFC 3720's check value for CRC-32C


def test_an_example_is_read_feature_by_feature() -> None:
    one_by_one = field(3, b"".join(varint(1 << 3) + varint(value) for value in (7, -7)))
    floats = struct.pack("<3f", 0.5, -1.25, 3e10)
    loose_floats = field(2, b"".join(varint(1 << 3 | 5) + floats[at : at + 4] for at in (0, 4, 8)))
    record = message(
        {
            "image": of_bytes(b"\xff\xd8", b""),
            "packed": of_integers(0, 1, 300, -1, -(1 << 63), (1 << 63) - 1),
            "one by one": one_by_one,
            "floats": field(2, field(1, floats)),
            "loose floats": loose_floats,
            "none": b"",
            "ünïcode": of_bytes(b"x"),
        }
    )
    expected: Features = {
        "image": [b"\xff\xd8", b""],
        "packed": [0, 1, 300, -1, -(1 << 63), (1 << 63) - 1],
        "one by one": [7, -7],
        "floats": [0.5, -1.25, float(np.float32(3e10))],
        "loose floats": [0.5, -1.25, float(np.float32(3e10))],
        "none": [],
        "ünïcode": [b"x"],
    }
    assert read_example(record) == expected
    assert read_example(b"") == {}
    unknown = varint(9 << 3) + varint(5) + varint(10 << 3 | 1) + bytes(8) + varint(11 << 3 | 5) + bytes(4)
    assert read_example(unknown + record) == expected


@pytest.mark.parametrize(
    "record",
    [
        b"\xff" * 12,
        b"\x0a\x7fshort",
        b"\x08\x01",
        b"\x0b\x0c",
        b"\x0a",
        message({"floats": field(2, field(1, b"12345"))}),
        field(1, field(1, field(1, b"\xff\xfe"))),
    ],
)
def test_bytes_that_are_no_example_are_refused(record: bytes) -> None:
    with pytest.raises(DataError, match=r"no tf\.train\.Example"):
        read_example(record)


def test_every_cut_of_an_example_is_read_or_refused_cleanly() -> None:
    record = example("ISIC_1", "pixels")
    for end in range(len(record)):
        with pytest.raises(DataError) if end else nullcontext():
            read_example(record[:end])


def test_images_in_tfrecords_are_found_and_read_back(tmp_path: Path) -> None:
    write_records(tmp_path / "tfrecords/train00-2.tfrec", [example("a", "pixels of a"), example("b", "b!")])
    write_records(tmp_path / "train01-1.tfrec", [example("c", "")])
    write_records(tmp_path / "other/test00-1.tfrec", [example("d", "pixels of d")])
    found = find_images(tmp_path, ["d", "b", "a"], "train")
    assert list(found) == ["d", "b", "a"]
    assert [found[name].read() for name in "abd"] == [b"pixels of a", b"b!", b"pixels of d"]
    assert found["a"].offset == 0
    assert found["b"].offset == 16 + found["a"].length
    with pytest.raises(DataError, match="not found: e;"):
        find_images(tmp_path, ["a", "e"], "train")


def test_records_come_with_their_place(tmp_path: Path) -> None:
    write_records(tmp_path / "x.tfrec", [b"one", b"", b"three"])
    assert list(iterate_records(tmp_path / "x.tfrec")) == [(0, 3, b"one"), (19, 0, b""), (35, 5, b"three")]
    (tmp_path / "empty.tfrec").touch()
    assert list(iterate_records(tmp_path / "empty.tfrec")) == []
    with pytest.raises(DataError, match="cannot be read"):
        list(iterate_records(tmp_path / "gone.tfrec"))


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (flip(19), r"byte 19: its length fails its checksum"),
        (flip(19 + 9), r"byte 19: its length fails its checksum"),
        (flip(19 + 12), r"byte 19: its data fails its checksum"),
        (flip(-1), r"byte 19: its data fails its checksum"),
        (lambda content: content[:-1], r"byte 19: the file is cut short"),
        (lambda content: content[:22], r"byte 19: the file is cut short"),
        (lambda content: content[:10], r"byte 0: the file is cut short"),
        (lambda content: b"\x1f\x8b" + content, r"byte 0: its length fails its checksum"),
        (lambda content: framed(b"one") + struct.pack("<QI", 1 << 62, 0), r"byte 19: its length fails"),
    ],
)
def test_a_damaged_tfrecord_is_refused_with_file_and_byte(
    tmp_path: Path, harm: Callable[[bytes], bytes], reason: str
) -> None:
    path = tmp_path / "x.tfrec"
    path.write_bytes(harm(framed(b"one") + framed(b"the second")))
    with pytest.raises(DataError, match=r"x\.tfrec, record at " + reason):
        list(iterate_records(path))


def test_a_tfrecord_changed_after_it_was_indexed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "train00-2.tfrec"
    write_records(path, [example("a", "pixels"), example("b", "other.")])
    source = find_images(tmp_path, ["b"], "train")["b"]
    content = path.read_bytes()
    path.write_bytes(content.replace(b"other.", b"Other."))
    with pytest.raises(DataError, match="data fails its checksum"):
        source.read()
    write_records(path, [example("b", "pixels"), example("a", "other.")])
    with pytest.raises(DataError, match="no longer holds b"):
        source.read()
    path.write_bytes(content[: source.offset])
    with pytest.raises(DataError, match="no longer holds b"):
        source.read()


@needs_shared
@pytest.mark.parametrize(("name", "count"), [("train30-32.tfrec", 32), ("test38-21.tfrec", 21)])
def test_the_real_tfrecords_are_read_whole(name: str, count: int, tmp_path: Path) -> None:
    records = list(iterate_records(TFRECORDS / name))
    assert len(records) == count
    assert sum(16 + length for _, length, _ in records) == (TFRECORDS / name).stat().st_size
    examples = [read_example(record) for _, _, record in records]
    for features in examples:
        assert {"image", "image_name", "patient_id", "sex", "age_approx", "target"} <= set(features)
        with Image.open(io.BytesIO(features["image"][0])) as image:  # type: ignore[arg-type]
            assert image.size == (512, 512)
    assert {features["target"][0] for features in examples} <= {0, 1}
    content = bytearray((TFRECORDS / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="fails its checksum"):
        list(iterate_records(tmp_path / name))


@needs_shared
def test_real_images_are_found_in_the_real_tfrecords() -> None:
    names = ["ISIC_9989641", "ISIC_9895582"]  # they are in no folder
    found = find_images(SHARED / "siim2020", names, "train")
    assert all(source.path.suffix == ".tfrec" for source in found.values())
    pixels = decode(found["ISIC_9989641"].read(), name="ISIC_9989641")
    assert pixels.shape == (512, 512, 3)
    assert pixels[:, :, 2].mean() > pixels[:, :, 0].mean()  # its maker swapped red and blue
