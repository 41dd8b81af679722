"""Answers in parts: what is there is not asked again, and what is not whole, or of another question, is not taken."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from melanoma import parts
from melanoma.errors import MelanomaError, UnreachableError, UsageError
from melanoma.inference.elsewhere import checked
from melanoma.inference.inputs import Item
from melanoma.inference.words import Answer, Details
from melanoma.parts import in_parts, remove_parts

ITEMS = [Item(f"{number}.jpg", bytes, f"/at/{number}.jpg", Details(number)) for number in range(10)]
ASKED = {"model": "this one", "views": None}


@pytest.fixture(autouse=True)
def parts_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 4)


def said(item: Item) -> Answer:
    return Answer(item.name, "refer", 1 / 3, 0.1 + 0.2, 0, "Refer.", remarks=["ü"], width=3, height=4)


class Answering:
    """Answers, and remembers for which pictures it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, items: Sequence[Item]) -> Iterator[Answer]:
        for item in items:
            self.asked.append(item.name)
            yield said(item)


def test_answers_pass_through_parts_unchanged_and_a_second_time_nobody_is_asked(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    for times in (1, 2):
        answering = Answering()
        assert list(in_parts(out, ITEMS, ASKED, answering)) == [said(item) for item in ITEMS]
        assert len(answering.asked) == (10 if times == 1 else 0)
    names = sorted(path.name for path in (tmp_path / "out.csv.parts").iterdir())
    assert names == ["part-00000.jsonl", "part-00001.jsonl", "part-00002.jsonl", "question.json"]
    remove_parts(out)
    assert not list(tmp_path.iterdir())


def test_only_missing_parts_are_answered_for(tmp_path: Path) -> None:
    list(in_parts(tmp_path / "out.csv", ITEMS, ASKED, Answering()))
    (tmp_path / "out.csv.parts" / "part-00001.jsonl").unlink()
    answering = Answering()
    assert list(in_parts(tmp_path / "out.csv", ITEMS, ASKED, answering)) == [said(item) for item in ITEMS]
    assert answering.asked == [item.name for item in ITEMS[4:8]]


@pytest.mark.parametrize(
    ("items", "asked"),
    [
        (ITEMS[:9], ASKED),
        ([*ITEMS[:9], Item("9.jpg", bytes, "/at/9.jpg")], ASKED),
        ([*ITEMS[:9], replace(ITEMS[9], version="replaced")], ASKED),
        (ITEMS, {**ASKED, "views": 8}),
    ],
    ids=["another picture", "another age", "a replaced picture", "other views"],
)
def test_parts_of_another_question_are_refused_and_kept(
    tmp_path: Path, items: list[Item], asked: dict[str, object]
) -> None:
    list(in_parts(tmp_path / "out.csv", ITEMS, ASKED, Answering()))
    with pytest.raises(UsageError, match=r"answers to another question \(\w+.* differ\)"):
        list(in_parts(tmp_path / "out.csv", items, asked, Answering()))
    assert len(list((tmp_path / "out.csv.parts").iterdir())) == 4


def test_what_ends_the_answers_is_no_part_and_the_same_command_goes_on(tmp_path: Path) -> None:
    def outage(items: Sequence[Item]) -> Iterator[Answer]:
        yield from map(said, items[:6])
        raise UnreachableError("the store")

    with pytest.raises(UnreachableError):
        list(in_parts(tmp_path / "out.csv", ITEMS, ASKED, outage))
    answering = Answering()
    assert list(in_parts(tmp_path / "out.csv", ITEMS, ASKED, answering)) == [said(item) for item in ITEMS]
    assert answering.asked == [item.name for item in ITEMS[4:]]


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-9], lambda text: text.replace("0.jpg", "1.jpg"), lambda text: "[]"]
)
def test_a_damaged_part_is_refused_by_name(tmp_path: Path, damage) -> None:
    list(in_parts(tmp_path / "out.csv", ITEMS, ASKED, Answering()))
    path = tmp_path / "out.csv.parts" / "part-00000.jsonl"
    path.write_text(damage(path.read_text()))
    with pytest.raises(MelanomaError, match=r"part-00000.jsonl is damaged .* remove it"):
        list(in_parts(tmp_path / "out.csv", ITEMS, ASKED, Answering()))
    (tmp_path / "out.csv.parts" / "question.json").write_text("[")
    with pytest.raises(MelanomaError, match=r"question.json cannot be read"):
        list(in_parts(tmp_path / "out.csv", ITEMS, ASKED, Answering()))


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "out.csv.parts" / "mine.txt"
    other.parent.mkdir()
    other.write_text("precious")
    with pytest.raises(UsageError, match="in the way"):
        list(in_parts(tmp_path / "out.csv", ITEMS, ASKED, Answering()))
    remove_parts(tmp_path / "out.csv")
    assert other.read_text() == "precious"


def test_each_picture_has_one_answer_in_order_or_nothing_is_written() -> None:
    answers = [said(item) for item in ITEMS]
    assert list(checked(ITEMS, iter(answers))) == answers
    for wrong in (answers[:9], [*answers, answers[0]], [answers[1], answers[0], *answers[2:]], answers[1:]):
        with pytest.raises(MelanomaError):
            list(checked(ITEMS, iter(wrong)))


def test_a_part_is_a_line_of_json_for_each_picture(tmp_path: Path) -> None:
    list(in_parts(tmp_path / "out.csv", ITEMS, ASKED, Answering()))
    lines = (tmp_path / "out.csv.parts" / "part-00002.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["8.jpg", "9.jpg"]
