"""How long the whole evidence takes for 33,126 predictions: figures, 2,000 bootstraps, page, with the official table.

python benchmarks/evidence.py --data ../shared/data/siim2020 --sizes ../shared/data/siim2020/train_image_sizes.csv

The predictions are drawn: an AUC of about 0.9 on the table's own targets. What is timed is the command that anybody
would type, in a process of its own, imports included; five times, and the median is the figure.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd


def drawn_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write a prediction for each row of the table."""
    random = np.random.default_rng(0)
    logit = 1.8 * table["target"] + random.normal(size=len(table)) - 4
    rows = table[["image_name"]].assign(probability=1 / (1 + np.exp(-logit)))
    rows.to_csv(path, index=False)


def main() -> None:
    """Time the command and print each run and the median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the official tables")
    parser.add_argument("--sizes", type=Path, required=True, help="the originals' widths and heights")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--bootstraps", type=int, default=2000)
    given = parser.parse_args()
    table = pd.read_csv(given.data / "train.csv")
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        predictions, out = Path(folder) / "predictions.csv", Path(folder) / "report"
        drawn_predictions(table, predictions)
        command = [sys.executable, "-m", "melanoma", "evaluate", str(predictions), "--data", str(given.data)]
        command += ["--sizes", str(given.sizes), "--out", str(out)]
        command += ["--set", f"evaluate.bootstrap_samples={given.bootstraps}"]
        for _ in range(given.runs):
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
            print(f"{len(table):,} predictions, {given.bootstraps:,} bootstraps: {seconds[-1]:.1f} s")
        size = (out / "report.html").stat().st_size / 1e6
    print(f"median {median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}); page {size:.2f} MB")


if __name__ == "__main__":
    main()
