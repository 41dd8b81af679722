"""Pictures to answers on the command line: a table or JSON lines for many, a picture of the map for one."""

import csv
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melanoma import RESEARCH_ONLY
from melanoma.cluster import Sent
from melanoma.data.workers import InOrder
from melanoma.errors import UsageError, printable
from melanoma.files import replacing, write_bytes
from melanoma.inference.bundle import code_hash
from melanoma.inference.elsewhere import Asked, answer_batches, batches, checked, names_of, packed
from melanoma.inference.inputs import Item, find_pictures
from melanoma.inference.predict import FEW, Predictor
from melanoma.inference.words import ERROR, Answer, Details, in_percent
from melanoma.parts import Answering, in_parts, remove_parts
from melanoma.places import as_place

if TYPE_CHECKING:  # to answer needs none of what draws
    from melanoma.inference.explain import Explanation

COLUMNS = [
    "name", "status", "probability", "prevalence", "score", "label", "words", "reasons", "remarks", "error",
    "width", "height", "model", "model_sha256", "model_auc", "model_limits", "use",
]  # fmt: skip
Counting = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
NAME_WIDTH = 36


def answer_pictures(
    places: Sequence[str],
    model: Path | str | None = None,
    details: Details | None = None,
    *,
    views: int | None = None,
    precision: str = "float32",
    out: Path | None = None,
    counting: Counting | None = None,
    spread: InOrder | None = None,
) -> tuple[Predictor, Generator[Answer]]:
    """Answer for all pictures of some places, in their order; the predictor comes along, as it knows the model.

    out: a file that will be written: it may be none of those that are read. spread: Ray's, to work on them there; with
    `out` their answers are kept in parts beside it until that is whole. Raises UsageError without a place,
    ModelError as Predictor does, UnreachableError where a store cannot be reached; a bad picture, or a place with none,
    becomes an answer.
    """
    items = find_pictures(places, details)
    _keep_inputs([*(str(as_place(place).resolve()) for place in places), *(item.place for item in items)], [out])
    predictor = Predictor(model, precision=precision, views=views, few=len(items) <= FEW)
    if spread is None:
        answers = _stream(predictor, items)
    elif out is None:
        answers = answering(predictor, spread, views)(items)
    else:
        question = {**asdict(_asked(predictor, views)), "code": code_hash()}
        answers = in_parts(out, items, question, answering(predictor, spread, views))
    return predictor, _counted(answers, len(items), counting if len(items) > FEW else None)


def _keep_inputs(read: Sequence[str], written: Sequence[Path | None]) -> None:
    """Raise UsageError where what is to be written would replace something that is read. read: resolved places."""
    for path in written:
        if path is not None and str(path.resolve()) in read:
            raise UsageError(f"{path} is one of the things that are read: give another --out")


def print_answers(
    predictor: Predictor,
    answers: Iterator[Answer],
    *,
    prevalence: float | None = None,
    as_json: bool = False,
    out: Path | None = None,
    parts: bool = False,
) -> int:
    """Print answers as they come, and write them to `out`, a .csv or .jsonl, where given. Return how many failed.

    prevalence: the share of melanomas that was asked for; without it the model's own is told with the answers. parts:
    whether the answers come by parts beside `out`, which are removed when it is whole.
    `out` appears whole at the end, or not at all. Raises UsageError where it is of another kind, MelanomaError where
    it cannot be written: before anything is answered.
    """
    if out is not None and out.suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"--out {out} must end with .csv or .jsonl")
    counts, remarks = Counter[str](), dict[str, None]()
    with ExitStack() as stack:
        write = _writer(stack.enter_context(replacing(out)), stack) if out else lambda row: None
        if not as_json:
            print(f"{'picture':<{NAME_WIDTH}} {'answer':<15} {'probability':>11}")
        for one in answers:
            row = told(predictor, one, prevalence)
            print(json.dumps(row, ensure_ascii=False) if as_json else _line(one, in_full=predictor.few), flush=True)
            write(row)
            counts[one.status] += 1
            remarks |= dict.fromkeys(one.remarks)
    if out is not None and parts:
        remove_parts(out)
    if not as_json:
        print(f"\n{summary(predictor, counts, list(remarks), prevalence)}")
    return counts[ERROR]


def told(predictor: Predictor, answer: Answer, prevalence: float | None) -> dict[str, Any]:
    """Give an answer with the share of melanomas that it holds for and the model that it comes from."""
    return {**answer.to_json(), "prevalence": prevalence or predictor.answers["prevalence"], **predictor.source}


def summary(predictor: Predictor, counts: Mapping[str, int], remarks: Sequence[str], prevalence: float | None) -> str:
    """Say what stands above, and what it is worth, in a few lines."""
    every = sum(counts.values())
    lines = [f"{every:,} picture{'s' * (every != 1)}: " + ", ".join(f"{one:,} {name}" for name, one in counts.items())]
    lines += [f"note: {remark}" for remark in remarks]
    share = prevalence or predictor.answers["prevalence"]
    other = "as --prevalence says" if prevalence else "or for --prevalence"
    held = "" if share is None else f"; probabilities hold where {100 * share:.3g} % are melanomas, {other}"
    return "\n".join([*map(printable, [*lines, f"{predictor.worth}{held}"]), limits_of(predictor), RESEARCH_ONLY])


def limits_of(predictor: Predictor) -> str:
    """Say where the model's answers hold, in lines of at most 100 characters."""
    return textwrap.fill(printable(_limits(predictor)), 100)


def _limits(predictor: Predictor) -> str:
    return f"limits: {' '.join(predictor.source['model_limits'])}"


def _writer(path: Path, stack: ExitStack) -> Callable[[dict[str, Any]], object]:
    """Open a file of answers: what is given is a CSV row each, or a line of JSON."""
    file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))
    if path.suffix.lower() == ".jsonl":
        return lambda row: file.write(json.dumps(row, ensure_ascii=False) + "\n")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    return lambda row: writer.writerow([_cell(row[name]) for name in COLUMNS])


def explain_picture(
    place: str, model: Path | str | None, out: Path, details: Details | None = None, views: int | None = None
) -> tuple[Predictor, "Explanation"]:
    """Draw where the network looked: a PNG at `out`, and beside it the map as an array, `.npy`.

    The predictor comes along, as it knows the model. Raises DataError where the picture cannot be read, UsageError
    where `place` is more than one.
    """
    from melanoma.inference.explain import explain, sheet

    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out} must end with .png")
    items = find_pictures([place], details)
    if len(items) > 1:
        raise UsageError(f"{place} holds {len(items):,} pictures; explain takes one")
    _keep_inputs([items[0].place], [out, out.with_suffix(".npy")])
    predictor = Predictor(model, views=views, few=True)
    explanation = explain(predictor, items[0].read(), items[0].details, items[0].name)
    write_bytes(out, sheet(explanation, items[0].name, f"{predictor.worth}. {_limits(predictor)} {RESEARCH_ONLY}"))
    with replacing(out.with_suffix(".npy")) as aside:
        np.save(aside, np.asarray(explanation.answer.activation_map))
    return predictor, explanation


def _stream(predictor: Predictor, items: Sequence[Item]) -> Iterator[Answer]:
    return predictor.stream((item.name, item.read, item.details) for item in items)


def answering(predictor: Predictor, spread: InOrder, views: int | None = None) -> Answering:
    """Return what answers for pictures, in their order, on Ray's workers. spread: Ray's; the model goes there now."""
    fetch = Sent(packed(predictor.bundle)).fetch
    work = partial(answer_batches, asked=_asked(predictor, views), fetch=fetch)

    def in_order(items: Sequence[Item]) -> Iterator[Answer]:
        answers = spread(work, batches(items, predictor), names_of)
        return checked(items, chain.from_iterable(answers))

    return in_order


def _asked(predictor: Predictor, views: int | None) -> Asked:
    choice = predictor.choice
    return Asked(predictor.bundle.sha256, choice.engine, choice.precision, views, predictor.few)


def _counted(answers: Iterator[Answer], count: int, counting: Counting | None) -> Generator[Answer]:
    if counting is None:
        yield from answers
        return
    with counting("answering", "images") as show:
        for number, answer in enumerate(answers, start=1):
            yield answer
            show(number, count)


def _line(answer: Answer, *, in_full: bool) -> str:
    name = printable(answer.name)
    if len(name) > NAME_WIDTH:
        name = f"...{name[3 - NAME_WIDTH :]}"
    shown = "" if answer.probability is None else in_percent(answer.probability)
    reason = printable(answer.error or "; ".join(answer.reasons))
    line = f"{name:<{NAME_WIDTH}} {answer.status:<15} {shown:>11}{f'  {reason}' if reason else ''}"
    if not in_full or answer.probability is None:
        return line
    return f"{line}\n{textwrap.fill(answer.words, 100, initial_indent='  ', subsequent_indent='  ')}"


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value)
    text = "; ".join(value) if isinstance(value, list) else value
    if isinstance(text, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")):  # a spreadsheet would run it
        return f"'{text}"
    return "" if text is None else text
