"""The competition's file: what is written, and what is found in a file that anybody may have written."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from melanoma.errors import DataError
from melanoma.inference.submission import Finding, examine_submission, write_submission

NAMES = [f"ISIC_{number:07d}" for number in range(200)]
VALUES = np.random.default_rng(0).beta(1, 20, len(NAMES)).tolist()
SOUND = "image_name,target\n" + "".join(f"{name},{value:.7g}\n" for name, value in zip(NAMES, VALUES, strict=True))


def examined(tmp_path: Path, content: str | bytes, expected: list[str], **others: dict[str, float]) -> list[Finding]:
    path = tmp_path / "submission.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return examine_submission(path, expected, **others)


def table(values: list[object]) -> str:
    rows = zip(NAMES, values, strict=False)
    return "image_name,target\n" + "".join(f"{name},{value}\n" for name, value in rows)


# ---- what is written -------------------------------------------------------------------------------------------------


def test_the_file_has_two_columns_in_the_test_tables_order(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    write_submission(path, ["b", "a"], ["a", "b"], [0.25, 1e-9])
    assert path.read_text() == "image_name,target\nb,1e-09\na,0.25\n"


@pytest.mark.parametrize(
    ("names", "probabilities", "message"),
    [
        (["a"], [0.5], "lacks 1 images of the test table: b"),
        (["a", "b", "c"], [0.5] * 3, "that the test table lacks: c"),
        (["a", "b", "b"], [0.5] * 3, "names images twice: b"),
        (["a", "b"], [0.5], "2 names but 1 probabilities"),
        (["a", "b"], [0.5, float("nan")], "no probability, for b"),
        (["a", "b"], [0.5, 1.5], "no probability, for b"),
    ],
)
def test_a_wrong_submission_is_refused_and_nothing_is_written(
    tmp_path: Path, names: list[str], probabilities: list[float], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write_submission(tmp_path / "submission.csv", ["a", "b"], names, probabilities)
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_found_sound(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    write_submission(path, NAMES, NAMES[::-1], VALUES[::-1])
    assert examine_submission(path, NAMES, reference=dict(zip(NAMES, VALUES, strict=True))) == []


# ---- one fault, one finding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("target,image_name\n0.1,a\n0.2,b\n", "the header is target,image_name, not image_name,target: swap"),
        ("Image_Name, Target\na,0.1\nb,0.2\n", "the header is Image_Name, Target, not .* small letters"),
        (",image_name,target\n0,a,0.1\n1,b,0.2\n", r"leave out \(blank\), the row numbers \(index=False"),
        ("image_name,target,fold\na,0.1,0\nb,0.2,0\n", "leave out fold$"),
        ("image_name,target,target\na,0.1,0.1\nb,0.2,0.2\n", "keep each column once"),
        ("id,score\na,0.1\nb,0.2\n", "the header is id,score, not image_name,target: give"),
        ("a,0.1\nb,0.2\n", "has no header: put the line image_name,target first"),
        ("a\nb\n", "has no header"),
        ("a,b,c\nx,y,z\n", "has no header"),
        ("x,y,z\na,0.1,0\n", "the header is x,y,z, not"),
        ("image_name,target\na,0.1\nimage_name,target\nb,0.2\n", "in line 3 the header stands again"),
        ("image_name;target\na;0.1\nb;0.2\n", "the cells stand between semicolons"),
        ("image_name\ttarget\na\t0.1\nb\t0.2\n", "the cells stand between tabs"),
        ("image_name,target\na,0.1\nb,0.2,0.3\n", "in line 3 there are not 2 cells"),
        ("image_name,target\na,0.1\n", "1 images of the test table are missing: b"),
        ("image_name,target\n", "2 images of the test table are missing: a, b"),
        ("image_name,target\na,0.1\nb,0.2\nc,0.3\n", "1 ids are not in the test table: c"),
        ("image_name,target\na,0.1\nb,0.2\nb,0.3\n", r"1 ids stand more than once: b \(2 times\)"),
        ("image_name,target\na.jpg,0.1\nb.JPG,0.2\n", "2 ids end as a file's name does: a.jpg, b.JPG"),
        ("image_name,target\na ,0.1\n b,0.2\n", "2 ids have spaces around them: 'a ', ' b'"),
        ('image_name,target\na,"0,1"\nb,0.2\n', "in line 2 the value is no number: .* decimal point"),
        ("image_name,target\na,1_0\nb,0.2\n", "in line 2 the value is no number"),
        ("image_name,target\na,nan\nb,-inf\n", r"in 2 lines \(2, 3\) the value is NaN or infinite"),
        ("image_name,target\na,1e999\nb,0.2\n", "in line 2 the value is NaN or infinite"),
        ("image_name,target\na,\nb,0.2\n", "in line 2 there is no value"),
        ("image_name,target\na,-2.5\nb,1.0001\n", r"in 2 lines \(2, 3\) .* takes logits all the same, but here"),
        ("image_name,target\na,0.5\nb,.5\n", "all 2 values are 0.5, whose AUC is 0.5"),
        ("", "is empty"),
        (" \n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"PK\x03\x04\x00\x00", "is not text in UTF-8"),
        ("image_name,target\na,0.1\nb,0.2\n".encode("utf-16"), "is not text in UTF-8"),
        (f"image_name,target\na,0.1\nb,0.2\n{'x' * 200_000},0.3\n", "in line 4 a cell is far too long"),
        (f"{'x' * 200_000}\n", "in line 1 a cell is far too long"),
        (f"image_name,target\na,{'1' * 130_000}x\nb,0.1\n", "in line 2 the value is no number"),
    ],
)
def test_each_fault_is_one_error_that_says_where(tmp_path: Path, content: str | bytes, message: str) -> None:
    (found,) = examined(tmp_path, content, ["a", "b"])
    assert found.severity == "error"
    assert re.search(message, found.text), found.text


def test_all_faults_are_told_at_once_and_errors_come_first(tmp_path: Path) -> None:
    content = "\ufeffTarget;image_name\r\n0,5;a.jpg\r\n2;b\r\n;b\r\nnan;d\r\n"
    found = examined(tmp_path, content, ["a", "b", "c"])
    told = [
        "stand between semicolons", "the header is Target,image_name", "a.jpg", "are missing: c", "test table: d",
        r"b \(2 times\)", "in line 4 there is no value", "in line 2 the value is no number",
        "in line 5 the value is NaN", "in line 3 the value lies outside", "byte order mark",
    ]  # fmt: skip
    assert [bool(re.search(text, one.text)) for text, one in zip(told, found, strict=True)] == [True] * len(told)
    assert [one.severity for one in found] == ["error"] * 10 + ["remark"]


def test_up_to_five_are_named_with_their_count(tmp_path: Path) -> None:
    (missing,) = examined(tmp_path, "\n".join(SOUND.splitlines()[:151]), NAMES)
    assert f"50 images of the test table are missing: {', '.join(NAMES[150:155])} and 45 more" in missing.text
    (outside,) = examined(tmp_path, SOUND.replace(",0.", ",7."), NAMES)[:1]
    assert re.match(r"in [\d,]+ lines \(2, 3, 4, 5, 6 and \d+ more\) the value lies outside", outside.text)


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n\n"])
def test_line_ends_quotes_and_spaces_before_a_value_are_no_fault(tmp_path: Path, end: str) -> None:
    quoted = SOUND.replace("ISIC_0000003", '"ISIC_0000003"').replace(",0.", ", 0.")
    assert examined(tmp_path, quoted.replace("\n", end), NAMES) == []


def test_an_open_quote_spoils_its_own_line_only(tmp_path: Path) -> None:
    found = examined(tmp_path, SOUND.replace("ISIC_0000003", '"ISIC_0000003'), NAMES)
    assert [one.text.split(":")[0] for one in found if "missing" in one.text] == [
        "1 images of the test table are missing"
    ]


def test_what_is_no_file_or_too_large_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path, tmp_path / "absent.csv", tmp_path / "nul\0.csv", Path("/dev/null")):
        (found,) = examine_submission(path, NAMES)
        assert found.severity == "error"
        assert "is no file" in found.text or "cannot be read" in found.text
    monkeypatch.setattr("melanoma.inference.submission.LARGEST_BYTES", 1 << 20)
    (found,) = examined(tmp_path, SOUND + "\n" * (1 << 20), NAMES)
    assert "has over 1 MiB" in found.text


def test_whatever_stands_in_the_file_nothing_is_raised(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sound = SOUND[:600].encode()
    pieces = [
        b"\xef\xbb\xbf",
        b"\r",
        b'"',
        b";",
        b",,",
        b"\n\n",
        b"\0",
        b"\xff",
        b"nan",
        b"1e999",
        b".jpg",
        b" ",
        b"\x1c",
    ]
    for _ in range(500):
        content = sound
        for _ in range(random.integers(1, 8)):
            cut, end = np.sort(random.integers(0, len(content) + 1, 2))
            content = (
                content[:cut] + pieces[random.integers(len(pieces))] + content[end if random.random() < 0.3 else cut :]
            )
        found = examined(tmp_path, content, NAMES[:20], reference=dict(zip(NAMES, VALUES, strict=True)))
        assert all(one.text.isprintable() and len(one.text) < 600 for one in found)


def test_an_empty_test_table_is_taken(tmp_path: Path) -> None:
    assert examined(tmp_path, "image_name,target\n", []) == []


# ---- what the values tell --------------------------------------------------------------------------------------------


def test_another_order_is_a_remark(tmp_path: Path) -> None:
    (found,) = examined(tmp_path, SOUND, NAMES[::-1])
    assert (found.severity, "the order is not the test table's" in found.text) == ("remark", True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 1] * 100, "only 0 and 1"),
        ([round(value, 1) for value in VALUES], "200 rows share [2-9] values"),
        (VALUES[:150] + [VALUES[0]] * 50, "26% of the rows share their value"),
        ([1 - value for value in VALUES], "100% of the values are above 0.5"),
    ],
)
def test_values_that_spoil_the_ranking_are_remarked(tmp_path: Path, values: list[object], message: str) -> None:
    (found,) = examined(tmp_path, table(values), NAMES)
    assert found.severity == "remark"
    assert re.search(message, found.text), found.text


def test_a_few_rows_show_nothing_about_the_spread(tmp_path: Path) -> None:
    assert examined(tmp_path, table([0.9, 0.8, 0.9, 0.9]), NAMES[:4]) == []


def test_a_file_turned_against_another_score_looks_inverted(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.05, len(NAMES))
    other = np.round(np.array(VALUES) + noise, 2)  # with ties
    reference = dict(zip(NAMES, other.tolist(), strict=True))
    assert examined(tmp_path, SOUND, NAMES, reference=reference) == []
    found = examined(tmp_path, table([0.4 - value for value in VALUES]), NAMES, reference=reference)
    assert max(VALUES) < 0.4
    expected = spearmanr([0.4 - value for value in VALUES], other).statistic
    assert [one.text.split(";")[0] for one in found] == [
        f"the file looks inverted: the rank correlation with the other score of the same images is {expected:.2f}"
    ]


def test_too_few_rows_or_a_chance_correlation_do_not_look_inverted(tmp_path: Path) -> None:
    turned = {name: -value for name, value in zip(NAMES, VALUES, strict=True)}
    few = dict(list(turned.items())[:29])
    assert examined(tmp_path, SOUND, NAMES, reference=few) == []
    assert len(examined(tmp_path, SOUND, NAMES, reference=dict(list(turned.items())[:30]))) == 1
    assert examined(tmp_path, SOUND, NAMES, reference=dict.fromkeys(NAMES, 0.5)) == []
    assert examined(tmp_path, SOUND, NAMES, reference=dict.fromkeys(NAMES, float("nan"))) == []
    chance = np.random.default_rng(3).random(len(NAMES)).tolist()
    assert examined(tmp_path, SOUND, NAMES, reference=dict(zip(NAMES, chance, strict=True))) == []


def test_neither_pandas_nor_scikit_learn_is_needed() -> None:
    code = (
        "import sys, melanoma.inference.submission; sys.exit(bool({'pandas', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
