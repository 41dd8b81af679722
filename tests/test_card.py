"""The model card holds what was measured, says what was not, and shows hostile text without obeying it."""

import re

import pytest
from test_report import HOSTILE, SETTINGS, evaluated, predicted

from melanoma import RESEARCH_ONLY
from melanoma.report.card import model_card

SECTIONS = ["Details", "Intended use", "Data", "Results", "Answers", "Subgroups", "Ethical considerations", "Limits"]


def card(kind: str = "usual", text: str = "torso") -> str:
    predictions = predicted().assign(site=text, sex=["male", "female"] * 100)
    if kind == "one class":
        predictions["target"] = 0
    if kind == "perfect":
        predictions["probability"] = 0.2 + 0.6 * predictions["target"]
    facts = {"images": "200", "sites": text, "blanks": ""}
    return model_card(
        text,
        evaluated(predictions),
        [SETTINGS],
        data=facts,
        environment={"command": text},
        limits=[text],
        remarks=[text],
    )


def test_every_section_is_there_with_the_measured_figures() -> None:
    written, found = card(), evaluated(predicted().assign(site="torso", sex=["male", "female"] * 100))
    assert [line[3:] for line in written.splitlines() if line.startswith("## ")][: len(SECTIONS)] == SECTIONS
    assert RESEARCH_ONLY in written
    area, control = found["auc"], found["control"]["auc"]
    for figure in (area, control):
        assert f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})" in written
    assert "blank cells" not in written


@pytest.mark.parametrize("kind", ["usual", "one class", "perfect"])
def test_what_is_undefined_is_na_with_its_reason(kind: str) -> None:
    written = card(kind)
    assert not re.search(r"\bnan\b|\bNone\b", written)
    if kind == "one class":
        assert "no melanoma among 200 images" in written


def test_hostile_text_makes_no_tag_no_link_and_no_cell() -> None:
    written = card(text=f"{HOSTILE} | [x](http://evil.example) `code` \n# heading")
    shown, command = written.rsplit("## To make it again", 1)
    assert not re.search(r"(?<!\\)[<>]", shown)
    assert not re.search(r"(?<!\\)\[", shown)
    assert not re.search(r"(?<!\\)`", shown)
    tables = [block for block in shown.split("\n\n") if block.startswith("| ")]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    assert command.count("\n    ") == 1
    assert len([line for line in command.splitlines() if line.startswith("#")]) == 0
