"""What a decoder may take: it is ended where it takes more, and the next picture is read as ever."""

import os
import signal
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from mutations import png_chunk
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless
from zoo import dicom, difference, refusal, saved, scene

from melanoma.errors import DataError
from melanoma.images import contained as limits
from melanoma.images.contained import OverLimitError, contained
from melanoma.images.decode import decode
from melanoma.images.photograph import MAX_SCANNED

MANY = 200_000  # parts of a header: the same number in 20 MiB took up to 137 s before there was a limit


@pytest.fixture(autouse=True)
def no_process_yet() -> None:
    limits._close_idle()


def test_the_answer_and_the_error_are_those_of_the_work() -> None:
    assert contained(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        contained(int, "seven")
    assert contained(os.getpid) != os.getpid()


def test_a_process_is_kept_and_a_dead_one_replaced() -> None:
    first = contained(os.getpid)
    assert contained(os.getpid) == first
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert contained(os.getpid) != first


def test_work_without_an_end_is_ended_and_the_next_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SECONDS", 1.0)
    before = time.monotonic()
    with pytest.raises(OverLimitError):
        contained(time.sleep, 60)
    assert time.monotonic() - before < 20
    assert contained(int, "7") == 7


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux limits the memory of a process")
def test_work_that_takes_too_much_memory_is_refused() -> None:
    with pytest.raises(OverLimitError):
        contained(np.ones, 5 * 2**30, np.uint8)
    assert contained(np.ones, 3).sum() == 3


def test_a_decoder_that_crashes_is_a_bad_file(monkeypatch: pytest.MonkeyPatch) -> None:
    tiff, process = saved(scene(), "TIFF"), contained(os.getpid)
    monkeypatch.setattr(limits.Process, "alive", True)  # as if it died while it works
    os.kill(process, signal.SIGKILL)
    assert "ends its decoder" in refusal(tiff)
    monkeypatch.undo()
    assert np.array_equal(decode(tiff), scene())


def test_tiff_and_compressed_dicom_are_decoded_apart_and_give_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openjpeg")
    stream = saved(scene(), "JPEG2000", no_jp2=True, irreversible=False, mct=0)
    files = [saved(scene(), "TIFF", compression="tiff_lzw"), dicom(encapsulate([stream]), "RGB", JPEG2000Lossless)]
    apart = [decode(file) for file in files]
    assert limits._idle.qsize() == 1
    monkeypatch.setattr("sys.executable", "")  # as inside another program: decoded here
    for file, pixels in zip(files, apart, strict=True):
        assert difference(decode(file), pixels) == difference(pixels, scene()) == 0


def test_a_decoder_that_takes_too_long_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.0)
    assert "takes over" in refusal(saved(scene(200, 300), "TIFF"))


# Headers in many tiny parts: each is read by Python, bit by bit


def in_parts() -> dict[str, bytes]:
    """Pictures that are whole, but for a header of very many parts."""
    jpeg, png = saved(scene(), "JPEG"), saved(scene(), "PNG")
    last = png.index(b"IEND") - 4
    plain = dicom(scene().tobytes())
    # after the preamble, the group's length and the elements of the file's own header
    start = 144 + struct.unpack("<I", plain[140:144])[0]
    element = struct.pack("<HH2sH", 0x0009, 0x1000, b"LO", 0)
    items = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    items += struct.pack("<HHI", 0xFFFE, 0xE000, 0) * MANY + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return {
        "JPEG segments": jpeg[:2] + b"\xff\xef\x00\x02" * MANY + jpeg[2:],
        "JPEG fill bytes": jpeg[:2] + b"\xff" * MANY + jpeg[2:],
        "JPEG EXIF parts": jpeg[:2] + b"\xff\xe1\x00\x0aExif\0\0II" * MANY + jpeg[2:],
        "PNG chunks": png[:33] + png_chunk(b"prVt", b"") * MANY + png[33:],
        "PNG empty pixel chunks": png[:33] + png_chunk(b"IDAT", b"") * MANY + png[33:],
        "PNG chunks at the end": png[:last] + png_chunk(b"prVt", b"") * MANY + png[last:],
        "DICOM elements": plain[:start] + element * MANY + plain[start:],
        "DICOM items": plain[:start] + items + plain[start:],
    }


@pytest.mark.parametrize("name", in_parts())
def test_a_header_of_very_many_parts_is_refused_at_once(name: str) -> None:
    content, before = in_parts()[name], time.process_time()
    assert "too many parts" in refusal(content)
    assert time.process_time() - before < 2


def test_a_large_progressive_jpeg_may_have_fewer_scans() -> None:
    content = saved(np.tile(scene(100, 100), (38, 38, 1)), "JPEG", progressive=True)  # 14.4 megapixels
    assert decode(content, 64).shape[2] == 3
    last, scans = content.rindex(b"\xff\xda"), MAX_SCANNED // 3800**2 + 1
    with pytest.raises(DataError, match="scans"):
        decode(content[:-2] + content[last:-2] * scans + content[-2:])
