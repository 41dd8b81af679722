"""Preparing images: two cores against one, and the memory that 33,126 images take.

    python benchmarks/prepare.py                    # large originals: what takes hours
    python benchmarks/prepare.py --images small     # thumbnails, where everything around the decoder counts most
    python benchmarks/prepare.py --memory           # a table that repeats the small images until there are 33,126

Large are the JPEGs and DICOMs of ../shared/data at 512 px, small are the JPEGs of its isic folder at 128 px; where they
are absent, the embedded dataset stands in for both. The memory is that of the process and its workers, summed: their
own, and pages of files that they have mapped (shared ones count twice), which the system takes back at need.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pandas as pd
from turns import NotHere, Stack, Work, machine, main

from melanoma.config import ImageSettings, load_settings
from melanoma.data.batches import Batches
from melanoma.data.cache import prepare_cache
from melanoma.data.sources import Source
from melanoma.data.synthetic import make_dataset
from melanoma.prepare import prepare

SHARED = Path(__file__).parents[2] / "shared/data"
SIIM_IMAGES = 33_126
COUNTS = {"large": 432, "small": 12_000}
SIZES_PX = {"large": 512, "small": 128}


def pictures(kind: str, scratch: Path) -> list[Path]:
    """List the image files of a kind."""
    if not SHARED.exists():
        make_dataset(scratch / "drawn", images=400, test_images=10)
        return sorted((scratch / "drawn").rglob("*.jpg"))
    if kind == "small":
        return sorted((SHARED / "isic/jpeg/train").glob("*.jpg"))
    return sorted([*(SHARED / "isic_originals_cc0").glob("*.jpg"), *(SHARED / "siim2020/dicom").rglob("*.dcm")])


def on(cores: int) -> Stack:
    """Make a benchmark that prepares all images on so many cores, into a new cache each time."""

    def begin(options: argparse.Namespace) -> Work:
        if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < cores:
            raise NotHere(f"a process cannot be held to {cores} of this machine's cores")
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
        folder = tempfile.TemporaryDirectory()
        count = COUNTS[options.images]
        files = islice(cycle(pictures(options.images, Path(folder.name))), count)
        sources = [Source(str(number), path) for number, path in enumerate(files)]
        settings = ImageSettings(size_px=SIZES_PX[options.images])

        def work(kept: object = folder) -> tuple[int, float]:  # the folder lives as long as the work
            with tempfile.TemporaryDirectory() as root:
                started = time.perf_counter()
                prepare_cache(Path(root), sources, settings)
                return count, time.perf_counter() - started  # without the removal

        return work

    return begin


def repeated_dataset(folder: Path, scratch: Path) -> None:
    """Write a table of 33,126 rows over the small images, and links to their files under new names."""
    source = SHARED / "isic"
    if not source.exists():
        make_dataset(scratch / "drawn", images=1600, test_images=10)
        source = scratch / "drawn"
    files = {path.stem: path.resolve() for path in source.glob("jpeg/train/*.jpg")}
    table = pd.read_csv(source / "train.csv", dtype=str)
    copies = -(-SIIM_IMAGES // len(table))
    parts = []
    for copy in range(copies):
        part = table.copy()
        for column in {"image_name", "patient_id", "lesion_id"} & set(table.columns):
            part[column] = part[column] + f"_{copy}"
        parts.append(part)
    whole = pd.concat(parts)[:SIIM_IMAGES]
    (folder / "jpeg/train").mkdir(parents=True)
    whole.to_csv(folder / "train.csv", index=False)
    for name in whole["image_name"]:
        (folder / "jpeg/train" / f"{name}.jpg").symlink_to(files[name.rsplit("_", 1)[0]])


@contextmanager
def watched(what: str) -> Iterator[None]:
    """Print how long something took and the most memory that the process and its workers had meanwhile."""
    peaks, done, started = {"VmRSS": 0, "RssAnon": 0, "RssFile": 0}, threading.Event(), time.perf_counter()

    def look() -> None:
        workers = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
        while not done.wait(0.01):
            now = dict.fromkeys(peaks, 0)
            for process in ("self", *workers.read_text().split()):
                with suppress(OSError):  # a worker that has just ended
                    lines = Path(f"/proc/{process}/status").read_text().splitlines()
                    for name, value in (line.split(":", 1) for line in lines):
                        if name in now:
                            now[name] += int(value.split()[0]) // 1024
            peaks.update({name: max(peaks[name], now[name]) for name in peaks})

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        seconds = time.perf_counter() - started
        print(
            f"{what}: {seconds:.0f} s, at most {peaks['VmRSS']} MiB together, {peaks['RssAnon']} MiB of its own, "
            f"{peaks['RssFile']} MiB of mapped files",
            flush=True,
        )


def measure_memory(size_px: int) -> None:
    """Prepare 33,126 images, then do all that training does with data for one epoch; no network is built."""
    print(f"machine: {machine()}")
    settings = load_settings("notebook", [f"images.size_px={size_px}", "balance.method=none"])
    with tempfile.TemporaryDirectory() as scratch:
        data, cache, folds = (Path(scratch) / name for name in ("data", "cache", "folds.csv"))
        repeated_dataset(data, Path(scratch))
        with watched(f"{SIIM_IMAGES:,} images at {size_px} px: table, caches, duplicates, folds"):
            prepare(data, settings, cache, folds)
        with watched("the same, prepared before"):
            prepared = prepare(data, settings, cache, folds)
        with watched("one epoch of batches, training rows and held-out rows"):
            for rows in (prepared.table[prepared.fold != 0], prepared.table[prepared.fold == 0]):
                places = prepared.cache.rows_of(rows["image_name"])
                batches = Batches(prepared.cache.images, places, rows["target"].to_numpy(np.float32), None, 32, 0)
                order = batches.order(0)
                for step in range(len(batches)):
                    batches.step(order, step)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--images", choices=list(COUNTS), default="large", help="which images to prepare")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--size-px", type=int, default=299, help="with --memory: the side of the prepared images")


if __name__ == "__main__":
    if "--memory" in sys.argv:
        options = argparse.ArgumentParser()
        add_arguments(options)
        measure_memory(options.parse_args().size_px)
    else:
        main(
            {"one core": on(1), "two cores": on(2)},
            unit="images",
            ours=["two cores"],
            description=str(__doc__).splitlines()[0],
            arguments=add_arguments,
        )
