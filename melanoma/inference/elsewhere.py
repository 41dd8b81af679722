"""Answers from other processes, on other machines perhaps: the bundle travels as bytes, and each opens it once.

Pictures go there by their places, and are read there. It does not know what carries all this.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from melanoma.errors import MelanomaError, listed
from melanoma.inference.bundle import SUMS, Bundle
from melanoma.inference.inputs import Item
from melanoma.inference.predict import CHUNK, Predictor
from melanoma.inference.words import Answer
from melanoma.places import is_address, read_ahead

Files = dict[str, bytes]


@dataclass(frozen=True)
class Asked:
    """What a worker is to be: the bundle by its hash, and how it answers. Engine and precision are chosen already."""

    sha256: str
    engine: str
    precision: str
    views: int | None
    few: bool


def packed(bundle: Bundle) -> Files:
    """Read all files of a bundle: content by name."""
    return {name: (bundle.folder / name).read_bytes() for name in (SUMS, *bundle.files)}


def batches(items: Sequence[Item], predictor: Predictor) -> list[list[Item]]:
    """Split pictures as `Predictor.stream` does, so that the same ones go through a network together."""
    size = CHUNK * predictor.engines[0].batch
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def names_of(batch: Sequence[Item]) -> str:
    """Name the first few pictures of a batch."""
    return listed([item.name for item in batch])


def answer_batches(batches: Sequence[Sequence[Item]], asked: Asked, fetch: Callable[[], Files]) -> list[list[Answer]]:
    """Answer for batches of pictures on the caller's thread.

    fetch: gives the bundle's files, where this process has not opened it yet.
    """
    predictor, every = _opened(asked, fetch), [item for batch in batches for item in batch]
    with closing(read_ahead([item.read for item in every], any(is_address(item.place) for item in every))) as contents:
        return [
            predictor.answer_batch([(item.name, next(contents), item.details) for item in batch]) for batch in batches
        ]


_open: dict[Asked, Predictor] = {}


def _opened(asked: Asked, fetch: Callable[[], Files]) -> Predictor:
    if asked not in _open:
        _open.clear()  # one model at a time
        with tempfile.TemporaryDirectory() as folder:
            for name, content in fetch().items():
                Path(folder, name).write_bytes(content)
            _open[asked] = Predictor(
                folder, engine=asked.engine, precision=asked.precision, views=asked.views, few=asked.few
            )
    return _open[asked]


def checked(items: Sequence[Item], answers: Iterator[Answer]) -> Iterator[Answer]:
    """Pass answers on, each held against its picture: every one has one, in order, and nothing else has.

    Raises MelanomaError otherwise.
    """
    for item in items:
        answer = next(answers, None)
        if answer is None or answer.name != item.name:
            raise MelanomaError(f"{item.name} has no answer at its place: this is a fault of the package")
        yield answer
    if next(answers, None) is not None:
        raise MelanomaError("there are more answers than pictures: this is a fault of the package")
