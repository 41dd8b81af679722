"""What the processor can do is read, not timed: it is the same at every start."""

from pathlib import Path

import pytest

from melanoma import machine


def told(monkeypatch: pytest.MonkeyPatch, text: str | None) -> bool:
    """Let Linux tell this of the processor."""

    def read_text(path: Path) -> str:
        assert path == Path("/proc/cpuinfo")
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    return machine.multiplies_bfloat16_faster()


@pytest.mark.parametrize(
    ("maker", "flags", "faster"),
    [
        ("GenuineIntel", "fpu avx512f avx512_bf16 amx_bf16 amx_tile", True),
        ("GenuineIntel", "fpu avx512f avx512_bf16", False),
        ("AuthenticAMD", "fpu avx512f avx512_bf16", True),
        ("AuthenticAMD", "fpu avx2", False),
    ],
)
def test_bfloat16_is_chosen_by_what_the_processor_says(
    monkeypatch: pytest.MonkeyPatch, maker: str, flags: str, faster: bool
) -> None:
    text = f"processor\t: 0\nvendor_id\t: {maker}\nmodel name\t: X\nflags\t\t: {flags}\n\nprocessor\t: 1\n"
    assert told(monkeypatch, text) is faster


def test_a_system_that_does_not_tell_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, None) is False
    assert told(monkeypatch, "processor : 0\nBogoMIPS : 50.00\nFeatures : fp asimd bf16\n") is False


def test_a_process_may_be_limited_to_fewer_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_most_cores", None)
    there = machine.cores()
    assert not machine.cores_are_limited()
    machine.limit_cores(1)
    assert machine.cores() == 1 and machine.cores_are_limited()
    machine.limit_cores(there + 5)
    assert machine.cores() == there
