"""Pictures to answers on the command line: a table or JSON lines for many, a picture of the map for one."""

import csv
import io
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melanoma.errors import UsageError
from melanoma.files import replacing, write_bytes
from melanoma.inference.bundle import RESEARCH_ONLY
from melanoma.inference.inputs import Item, find_pictures
from melanoma.inference.predict import ERROR, FEW, Answer, Details, Predictor, in_percent

if TYPE_CHECKING:  # to answer needs none of what draws
    from melanoma.inference.explain import Explanation

COLUMNS = [
    "name", "status", "probability", "score", "label", "words", "reasons", "remarks", "error", "width", "height",
    "model", "model_sha256", "model_auc", "use",
]  # fmt: skip
Counting = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
NAME_WIDTH = 36


def answer_pictures(
    places: Sequence[str],
    model: Path | str,
    details: Details | None = None,
    *,
    views: int | None = None,
    precision: str = "float32",
    counting: Counting | None = None,
) -> tuple[Predictor, Iterator[Answer]]:
    """Answer for all pictures of some places, in their order; the predictor comes along, as it knows the model.

    Raises DataError where a place holds no picture, ModelError as Predictor does; a bad picture becomes an answer.
    """
    items = find_pictures(places, details)
    predictor = Predictor(model, precision=precision, views=views, few=len(items) <= FEW)
    return predictor, _counted(predictor, items, counting if len(items) > FEW else None)


def print_answers(
    predictor: Predictor, answers: Iterator[Answer], *, as_json: bool = False, out: Path | None = None
) -> int:
    """Print answers as they come, and write them to `out`, a .csv or .jsonl, where given. Return how many failed."""
    if out is not None and out.suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"--out {out} must end with .csv or .jsonl")
    every: list[Answer] = []
    if not as_json:
        print(f"{'picture':<{NAME_WIDTH}} {'answer':<15} {'probability':>11}")
    for one in answers:
        shown = json.dumps(told(predictor, one), ensure_ascii=False) if as_json else _line(one, in_full=predictor.few)
        print(shown, flush=True)
        every.append(one)
    if not as_json:
        print(f"\n{summary(predictor, every)}")
    if out is not None:
        write_answers(out, predictor, every)
    return sum(one.status == ERROR for one in every)


def told(predictor: Predictor, answer: Answer) -> dict[str, Any]:
    """Give an answer with the model that it comes from, as plain values."""
    return {**answer.to_json(), **predictor.source}


def summary(predictor: Predictor, answers: Sequence[Answer]) -> str:
    """Say what stands above, and what it is worth, in a few lines."""
    counts = ", ".join(f"{count:,} {status}" for status, count in Counter(one.status for one in answers).items())
    lines = [f"{len(answers):,} picture{'s' * (len(answers) != 1)}: {counts}"]
    lines += [f"note: {remark}" for remark in dict.fromkeys(text for one in answers for text in one.remarks)]
    share = predictor.answers["prevalence"]
    held = "" if share is None else f"; probabilities hold where {100 * share:.1f} % are melanomas, or for --prevalence"
    lines.append(f"{predictor.worth}{held}")
    return "\n".join([*lines, RESEARCH_ONLY])


def write_answers(path: Path, predictor: Predictor, answers: Sequence[Answer]) -> None:
    """Write answers whole or not at all: a CSV row, or a JSON line, each."""
    rows = [told(predictor, one) for one in answers]
    text = io.StringIO()
    if path.suffix.lower() == ".csv":
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_bytes(path, text.getvalue().encode())


def explain_picture(
    place: str, model: Path | str, out: Path, details: Details | None = None, views: int | None = None
) -> "Explanation":
    """Draw where the network looked: a PNG at `out`, and beside it the map as an array, `.npy`.

    Raises DataError where the picture cannot be read, UsageError where `place` is more than one.
    """
    from melanoma.inference.explain import explain, sheet

    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out} ends with .png")
    items = find_pictures([place], details)
    if len(items) > 1:
        raise UsageError(f"{place} holds {len(items):,} pictures; explain takes one")
    predictor = Predictor(model, views=views, few=True)
    explanation = explain(predictor, items[0].read(), items[0].details, items[0].name)
    write_bytes(out, sheet(explanation, items[0].name, f"{predictor.worth}. {RESEARCH_ONLY}"))
    with replacing(out.with_suffix(".npy")) as aside:
        np.save(aside, np.asarray(explanation.answer.activation_map))
    return explanation


def _counted(predictor: Predictor, items: list[Item], counting: Counting | None) -> Iterator[Answer]:
    stream = predictor.stream((item.name, item.read, item.details) for item in items)
    if counting is None:
        yield from stream
        return
    with counting("answering", "images") as show:
        for number, answer in enumerate(stream, start=1):
            yield answer
            show(number, len(items))


def _line(answer: Answer, *, in_full: bool) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in answer.name)
    if len(name) > NAME_WIDTH:
        name = f"...{name[3 - NAME_WIDTH :]}"
    shown = "" if answer.probability is None else in_percent(answer.probability)
    reason = answer.error or "; ".join(answer.reasons)
    line = f"{name:<{NAME_WIDTH}} {answer.status:<15} {shown:>11}{f'  {reason}' if reason else ''}"
    if not in_full or answer.probability is None:
        return line
    return f"{line}\n{textwrap.fill(answer.words, 100, initial_indent='  ', subsequent_indent='  ')}"


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return "; ".join(value)
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, str) and value[:1] in "=+-@\t\r":  # a spreadsheet would run it
        return f"'{value}"
    return "" if value is None else value
