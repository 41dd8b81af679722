"""What one image costs on one core, part by part: to answer for it, and to prepare it for training.

    taskset -c 0 python benchmarks/cost.py FOLDER
    taskset -c 0 python benchmarks/cost.py FOLDER --size 299

FOLDER: pictures. Prints milliseconds and bytes an image, and the hours that a million and a hundred million would take
one core: docs/scale.md works with them.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from melanoma.answer import told
from melanoma.config import ImageSettings
from melanoma.data.cache import prepare_cache
from melanoma.data.sources import Source
from melanoma.images.decode import decode_and_tell
from melanoma.images.filters import THUMBNAIL_PX
from melanoma.inference.inputs import Item, find_pictures
from melanoma.inference.predict import CHUNK, Predictor
from melanoma.inference.words import Details
from melanoma.machine import limit_cores

ROUNDS = 3


def main() -> None:
    """Time each part over the same images, a few rounds of all of them, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a folder of pictures")
    parser.add_argument("--model", help="a bundle or a run; by default the one in the box")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", type=int, default=128, help="side of prepared images, pixels")
    given = parser.parse_args()
    limit_cores(1)
    items = find_pictures([given.folder])[: given.images]
    predictor = Predictor(given.model)
    print(f"{len(items)} images, {predictor.worth}, {predictor.choice}, one core")
    answering(items, predictor)
    preparing(items, given.size)


def answering(items: Sequence[Item], predictor: Predictor) -> None:
    """Time the parts of an answer. They are made one after the other here: none hides behind another."""
    largest = max(*(run["images"].size_px for run in predictor.bundle.runs), THUMBNAIL_PX)
    size = CHUNK * predictor.engines[0].batch
    contents = [item.read() for item in items]
    pictures = [predictor.read(item.name, content) for item, content in zip(items, contents, strict=True)]
    batches = [range(start, min(start + size, len(items))) for start in range(0, len(items), size)]

    def judge() -> None:
        for batch in batches:
            predictor.judge([pictures[number] for number in batch], [Details()] * len(batch))

    def answer() -> list[Any]:
        return [
            one
            for batch in batches
            for one in predictor.answer_batch([(items[number].name, contents[number], None) for number in batch])
        ]

    found = {"read the file": milliseconds(lambda: [item.read() for item in items], len(items))}
    found["decode"] = milliseconds(lambda: [decode_and_tell(one, largest, "image") for one in contents], len(items))
    read = milliseconds(lambda: [predictor.read("image", one) for one in contents], len(items))
    networks, whole = milliseconds(judge, len(items)), milliseconds(answer, len(items))
    found |= {"resize for the networks": read - found["decode"], f"{len(predictor.engines)} networks": networks}
    found["gate, calibration, words"] = whole - read - networks
    shown("answer", found)
    rows = [json.dumps(told(predictor, one, None), ensure_ascii=False) for one in answer()]
    print(f"  file {mean_size(contents):,.0f} bytes, answer as JSON {mean_size(rows):,.0f} bytes")


def preparing(items: Sequence[Item], side: int) -> None:
    """Time the preparation of a cache, as `melanoma prepare` makes it."""
    sources = [Source(f"{number}", Path(item.place)) for number, item in enumerate(items)]
    times = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            cache = prepare_cache(Path(folder), sources, ImageSettings(size_px=side))
            times.append((time.perf_counter() - started) / len(items) * 1000)
            room = sum(path.stat().st_size for path in cache.folder.iterdir()) / len(items)
    shown(f"prepare at {side} px", {"decode, filter, hash, write": statistics.median(times)})
    print(f"  in the cache {room:,.0f} bytes")


def milliseconds(work: Callable[[], object], images: int) -> float:
    """Return what work takes an image: the median of a few rounds, after one that is not counted."""
    work()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) / images * 1000)
    return statistics.median(times)


def shown(what: str, parts: dict[str, float]) -> None:
    """Print the parts of a cost and their sum."""
    whole = sum(parts.values())
    million, hundred = (cost_in_hours(whole, images) for images in (1e6, 1e8))
    print(f"{what}: {whole:.2f} ms, {1000 / whole:.1f} images/s; a million {million}, a hundred million {hundred}")
    for name, cost in parts.items():
        print(f"  {name:<28} {cost:6.2f} ms {cost / whole:5.0%}")


def cost_in_hours(cost: float, images: float) -> str:
    """Say how long one core takes."""
    return f"{cost * images / 3.6e6:,.1f} core hours"


def mean_size(texts: Sequence[str | bytes]) -> float:
    """Return the mean length in bytes."""
    return statistics.mean(len(one.encode() if isinstance(one, str) else one) for one in texts)


if __name__ == "__main__":
    main()
