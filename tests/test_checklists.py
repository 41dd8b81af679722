"""The checklists hold every item, are filled where the run knows, and leave the rest to the author."""

import re
import string
import tomllib
from pathlib import Path

import pytest
from test_report import SETTINGS, evaluated, predicted

from melanoma.config import load_settings
from melanoma.report import checklists
from melanoma.report.checklists import CHECKLISTS, checklist, facts_of

DATA = {
    "images": "200", "patients": "100", "melanomas": "50", "sites": "torso 200", "sexes": "male 200",
    "ages": "median 50", "blanks": "sex 0", "duplicates": "none left out.",
    "hashes": "train.csv 12ab", "folds": "2 folds",
}  # fmt: skip
ENVIRONMENT = {"command": "melanoma run {x} <b>", "keras": "3.15", "scored_by": "ONNX Runtime in float32"}


def facts() -> dict[str, str]:
    predictions = predicted().assign(sex=["male", "female"] * 100)
    found = evaluated(predictions)
    found["robustness"] = {"changes": [{"name": "turned", "crossed": {"value": 0.1}}]}
    return facts_of(found, [SETTINGS], data=DATA, environment=ENVIRONMENT)


@pytest.mark.parametrize(("name", "last"), [("TRIPOD+AI", 27), ("CLAIM", 44)])
def test_every_item_is_there_once_and_in_order(name: str, last: int) -> None:
    items = [one.item for one in checklist(name, {})]
    assert len(set(items)) == len(items)
    numbers = [int(re.match(r"\d+", item).group()) for item in items]  # type: ignore[union-attr]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, last + 1))
    assert all(one.asks and one.section for one in checklist(name, {}))


def test_tripod_has_its_52_items() -> None:
    assert len(checklist("TRIPOD+AI", {})) == 52


@pytest.mark.parametrize("name", CHECKLISTS)
def test_templates_name_only_facts_that_a_run_can_give(name: str) -> None:
    text = (Path(checklists.__file__).parent / CHECKLISTS[name]).read_text()
    for row in tomllib.loads(text)["items"]:
        needed = {field for _, field, _, _ in string.Formatter().parse(row.get("answer", "")) if field}
        assert needed <= set(facts()), row["item"]


@pytest.mark.parametrize(("name", "least"), [("TRIPOD+AI", 30), ("CLAIM", 28)])
def test_what_a_run_knows_is_filled_and_nothing_else(name: str, least: int) -> None:
    filled = [one for one in checklist(name, facts()) if one.answer]
    assert len(filled) >= least
    assert not [one for one in filled if re.search(r"\bNone\b|\bnan\b|\{\w+\}(?<!\{x\})", one.answer or "")]
    templates = tomllib.loads((Path(checklists.__file__).parent / CHECKLISTS[name]).read_text())["items"]
    constant = [row["item"] for row in templates if "answer" in row and "{" not in row["answer"]]
    assert [one.item for one in checklist(name, {}) if one.answer] == constant


def test_all_that_training_does_is_told() -> None:
    more = ["train.drawn_from_px=192", "train.sizes_px=[128,160]", "images.size_px=160", "model.frozen_share=0.2"]
    settings = load_settings("box", [*more, "model.metadata=true", "model.hidden_share=0.4"])
    told = facts_of(evaluated(predicted()), [settings], data=DATA, environment=ENVIRONMENT)
    for words in ("stretched by up to 10 %", "moved by up to 5 %", "each channel changed"):
        assert words in told["augmentation"]
    for words in ("128 then 160 px", "names the diagnosis", "keep their weights", "hidden of 40 %"):
        assert words in told["training"]
    assert "moving average" not in told["training"]


def test_ethics_funding_and_protocol_are_the_authors() -> None:
    answers = {one.item: one.answer for one in checklist("TRIPOD+AI", facts())}
    assert all(answers[item] is None for item in ("17", "18a", "18b", "18c", "18d", "19", "25"))


def test_braces_and_markup_in_values_survive() -> None:
    answers = {one.item: one.answer for one in checklist("TRIPOD+AI", facts())}
    assert "melanoma run {x} <b>" in (answers["18f"] or "")


def test_an_undefined_result_leaves_its_items_to_the_author() -> None:
    found = evaluated(predicted().assign(target=0))
    known = facts_of(found, [SETTINGS], data=DATA, environment={})
    answers = {one.item: one.answer for one in checklist("CLAIM", known)}
    assert answers["37"] is None
    assert answers["42"] is None
