"""The model in the box: AUC out of fold, of all images and of each source, by its runs together and alone.

python benchmarks/box.py RUN... [--against docs/box/predictions.csv] [--views 1 8]

The RUNs are those that `make box` left, or any on the same images. Every image is scored by the networks that did not
see its lesion: by the runs together and each alone, by one view and by more, by the picture alone. --against: other
predictions of the same images, which the differences are to: what the box answers, or what it did with another seed;
with age, sex and site where they were weighed, and without. Intervals are by a bootstrap over lesions, those of
differences paired.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from turns import machine

from melanoma import pipeline
from melanoma.evaluation.intervals import auc_difference_interval, auc_interval
from melanoma.evaluation.metrics import auc
from melanoma.inference.bundle import read_bundle
from melanoma.inference.engine import Choice, Engine
from melanoma.inference.scoring import score
from melanoma.runs import open_run

FIRST_OF_HAM10000 = "ISIC_0024306"  # every image of ISIC-2017 has a lower number


def out_of_fold(run: Path, views: Sequence[int]) -> pd.DataFrame:
    """Score a run's held-out images: target, patient_id, and the probability by each number of views, by image_name."""
    opened, bundle = open_run(run), read_bundle(run)
    prepared, told = pipeline.reopen(opened, opened.settings()), bundle.runs[0]["metadata"]
    parts = []
    for network, encoder, path in zip(bundle.description["networks"], bundle.encoders, bundle.networks, strict=True):
        rows = prepared.held_out(network["fold"])
        engine, places = Engine(path, Choice("onnxruntime", "float32")), prepared.cache.rows_of(rows["image_name"])
        metadata = encoder.features(rows) if told else None
        scores = {count: score(engine, prepared.cache.images, places, metadata, views=count) for count in views}
        parts.append(rows[["image_name", "patient_id", "target"]].assign(**{f"{n}": one for n, one in scores.items()}))
    return pd.concat(parts).set_index("image_name")


def main() -> None:
    """Score, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="a run's folder")
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="predictions.csv of the same images")
    parser.add_argument("--views", type=int, nargs="+", default=[1], choices=(1, 8), help="of each picture")
    given = parser.parse_args()
    print(f"{machine()}\n")
    runs = {str(path): out_of_fold(path, given.views) for path in given.runs}
    others = {str(path): pd.read_csv(path, index_col="image_name") for path in given.against}
    shared = sorted(set.intersection(*(set(one.index) for one in [*runs.values(), *others.values()])))
    every = next(iter(runs.values())).loc[shared, ["patient_id", "target"]]
    alone = {name: [one] for name, one in runs.items()}
    ways = {}
    for name, table in others.items():
        for column in ("probability", "picture"):
            if column in table:
                ways[f"{name}, {column}"] = table.loc[shared, column]
    for name, tables in ({"together": list(runs.values())} | alone if len(runs) > 1 else alone).items():
        for views in given.views:
            mean = pd.concat([one.loc[shared, f"{views}"] for one in tables], axis=1).mean(axis=1)
            ways[f"{name}, {views} view{'s' * (views > 1)}"] = mean
    later = every.index >= FIRST_OF_HAM10000
    sources = {"all": every, "HAM10000": every[later], "ISIC-2017": every[~later]}
    print(f"| | {' | '.join(f'{name}, {len(rows):,} images' for name, rows in sources.items())} |")
    print("|---|" + "---|" * len(sources))
    usual = next(iter(ways.values()))
    for way, scores in ways.items():
        cells = []
        for rows in sources.values():
            target, patient, mine, other = rows["target"], rows["patient_id"], scores[rows.index], usual[rows.index]
            interval = auc_interval(target, mine, patient)
            told = f"{auc(target, mine):.3f} ({interval.low:.3f} to {interval.high:.3f})"
            if scores is not usual and (gap := auc_difference_interval(target, mine, other, patient)) is not None:
                told += f"; {auc(target, mine) - auc(target, other):+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
            cells.append(told)
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
