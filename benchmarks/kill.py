"""How often a killed job ends as one that was never interrupted: SIGKILL at random moments, then `melanoma resume`.

python benchmarks/kill.py [--kills 50] [--seed 0]

The whole job on drawn lesions: prepare, train two folds, export, score, judge. Each attempt starts afresh, is killed at
a moment drawn evenly from the time that the job takes once its folder is there, goes on to its end, and is compared
with a job that nobody killed: weights, optimizer, random states, submission.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from turns import machine

from melanoma.data.synthetic import make_dataset
from melanoma.training.state import has_state, read_position

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from test_kill import SETTINGS, Run, differences, done, left_over, started

SETTINGS += ["train.epochs=40", "train.patience=40"]  # so that training takes as long as the rest together


def stage(run: Run) -> str:
    """Tell how far a job had come."""
    if not run.folds.exists():
        return "preparing"
    if not all(finished(run, fold) for fold in range(2)):
        return "training"
    if not (run.bundle / "model.json").exists():
        return "exporting"
    return "judging" if run.submission.exists() else "scoring"


def finished(run: Run, fold: int) -> bool:
    """Tell whether a fold was trained to its end."""
    return has_state(run.state(fold)) and read_position(run.state(fold)).finished


def main() -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random, stages, alike, tidy = np.random.default_rng(given.seed), Counter[str](), 0, 0
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        make_dataset(data, images=240, test_images=12)
        before = time.monotonic()
        plain = done(data, folder / "plain")
        whole = time.monotonic() - before
        print(f"the job takes {whole:.1f} s", flush=True)
        for number in range(given.kills):
            runs = folder / f"runs-{number}"
            process, before = started(data, runs), time.monotonic()
            while not (runs / "run" / "config.toml").exists():  # before, nothing is there to lose
                time.sleep(0.01)
            begun = time.monotonic() - before
            time.sleep(random.uniform(0, whole - begun))
            process.kill()
            process.wait()
            stages[stage(Run(runs / "run"))] += 1
            run = done(data, runs)
            differ = differences(plain, run)
            alike += not differ
            tidy += not left_over(run)
            print(f"{number + 1}: {alike} ended alike, {tidy} without anything half written", *differ[:3], flush=True)
            shutil.rmtree(runs)
    told = ", ".join(f"{count} {name}" for name, count in stages.most_common())
    print(f"{alike} of {given.kills} ended with the same weights, states and submission; killed while: {told}")


if __name__ == "__main__":
    main()
