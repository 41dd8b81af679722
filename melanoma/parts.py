"""Answers to many pictures in parts: files beside the result, each written once and whole, until it is there.

The same command again takes the parts that are there and answers for the rest. It does not know who answers.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from melanoma.errors import MelanomaError, UsageError
from melanoma.files import write_bytes, write_json
from melanoma.inference.inputs import Item
from melanoma.inference.words import Answer
from melanoma.places import entries_of, is_remote, reaching, read_whole

PART = 256  # pictures; a multiple of what goes through a network together, so that a part more or less changes nothing
QUESTION = "question.json"
Answering = Callable[[Sequence[Item]], Iterator[Answer]]


def in_parts(out: Path, items: Sequence[Item], question: Mapping[str, Any], answering: Answering) -> Iterator[Answer]:
    """Answer for pictures in their order, from the parts beside `out` where they are there; the others are written.

    question: what the answers depend on besides the pictures: plain values. That a picture was replaced shows where
    its item has a version. answering: answers for pictures, in order.
    Raises UsageError where the parts are of another question, MelanomaError where one is damaged.
    """
    folder = _folder(out)
    groups = [items[start : start + PART] for start in range(0, len(items), PART)]
    _ask(folder, {**question, "pictures": len(items), "sha256": _hash(items)})
    there = set(_names(folder))
    names = [f"part-{number:05}.jsonl" for number in range(len(groups))]
    if done := sum(len(group) for name, group in zip(names, groups, strict=True) if name in there):
        print(f"note: going on after {done:,} of {len(items):,} pictures that were answered before", file=sys.stderr)
    missing = [group for name, group in zip(names, groups, strict=True) if name not in there]
    fresh = answering(list(chain.from_iterable(missing)))
    for name, group in zip(names, groups, strict=True):
        if name in there:
            yield from _read(folder / name, group)
            continue
        answers = list(islice(fresh, len(group)))
        lines = [json.dumps(one.to_json(), ensure_ascii=False) for one in answers]
        write_bytes(folder / name, "".join(f"{line}\n" for line in lines).encode())
        yield from answers
    _ = next(fresh, None)  # it ends, and checks that nothing is left over


def remove_parts(out: Path) -> None:
    """Remove the parts beside `out`, now that it is whole; anything else in their folder stays."""
    folder = _folder(out)
    names = _names(folder)
    ours = [name for name in names if name.startswith("part-") or name == QUESTION]
    if QUESTION not in ours:
        return
    with reaching(folder):
        for name in ours:
            (folder / name).unlink()
    if len(ours) == len(names) and not is_remote(folder):
        folder.rmdir()


def _folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _names(folder: Path) -> list[str]:
    if is_remote(folder):
        return [entry.name for entry in entries_of(folder)]
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _ask(folder: Path, question: dict[str, Any]) -> None:
    """Write down what is asked, or hold it against what was."""
    names = _names(folder)
    if QUESTION not in names or names == [QUESTION]:  # nothing is answered yet
        if QUESTION not in names and names:
            raise UsageError(f"{folder} is in the way: parts of the answers would go there; give another --out")
        write_json(folder / QUESTION, question)
        return
    try:
        before = json.loads(read_whole(folder / QUESTION))
        other = [name for name, value in question.items() if before.get(name) != value]
    except (OSError, ValueError, AttributeError) as error:
        raise MelanomaError(f"{folder / QUESTION} cannot be read ({error}): remove {folder}") from error
    if other:
        raise UsageError(
            f"{folder} holds answers to another question ({', '.join(other)} differ): finish that one by the same "
            f"command as before, remove the folder, or give another --out"
        )


def _hash(items: Sequence[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        told = item.details
        known = [told.age_years, told.sex, told.site, told.prevalence]
        digest.update(json.dumps([item.name, item.place, item.version, *known]).encode())
    return digest.hexdigest()


def _read(path: Path, items: Sequence[Item]) -> list[Answer]:
    try:
        answers = [Answer(**json.loads(line)) for line in read_whole(path).splitlines()]
        if [one.name for one in answers] != [item.name for item in items]:
            raise ValueError("its pictures are others")
    except (OSError, ValueError, TypeError) as error:
        raise MelanomaError(
            f"{path} is damaged ({error}): remove it, and its pictures are answered for again"
        ) from error
    return answers
