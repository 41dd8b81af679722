"""How often a killed job ends as one that was never interrupted: SIGKILL at random moments, then `melanoma resume`.

python benchmarks/kill.py [--kills 50] [--seed 0]

The whole job on drawn lesions: prepare, train two folds, export, score, judge. Each attempt starts afresh, is killed at
a moment drawn evenly from the time that the job takes, goes on to its end, and is compared with a job that nobody
killed: weights, optimizer, random states, submission.
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
from melanoma.training.state import has_state

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from test_kill import Run, done, left_over, same, started


def stage(run: Run) -> str:
    """Tell how far a job had come."""
    if not run.config.exists():
        return "starting"
    if not run.folds.exists():
        return "preparing"
    if not (run.bundle / "model.json").exists():
        return "training or exporting" if has_state(run.state(0)) else "before the first state"
    return "scoring or judging"


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
            process = started(data, runs)
            time.sleep(random.uniform(0, whole))
            process.kill()
            process.wait()
            stages[stage(Run(runs / "run"))] += 1
            run = done(data, runs)
            alike += same(plain, run)
            tidy += not left_over(run)
            print(f"{number + 1}: {alike} ended alike, {tidy} without anything half written", flush=True)
            shutil.rmtree(runs)
    told = ", ".join(f"{count} {name}" for name, count in stages.most_common())
    print(f"{alike} of {given.kills} ended with the same weights, states and submission; killed while: {told}")


if __name__ == "__main__":
    main()
