"""The same training by one process and by several on this machine: losses of every step, AUC of every epoch, pace.

    python benchmarks/parallel.py DATA
    python benchmarks/parallel.py DATA --precision float64 --optimizer sgd
    python benchmarks/parallel.py DATA --processes 2 --pin --backbone MobileNet_0.75 --side 128

Prints, for each number of processes, how far it is from one process alone. They meet on loopback, by the variables that
JAX reads; each computes on a device of its own, which is a part of the CPU here. With --pin each has a core of its own,
and so has the one that is alone: the ratio of their paces is what a second core brings.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

STEPS = 20  # whose losses are compared
LONGEST_SECONDS = 1200


def main() -> None:
    """Train by one process, then by others, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a dataset folder")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--limit", type=int, default=0, help="so many images of the table; 0: all")
    parser.add_argument("--side", type=int, default=64, help="of the images, pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--rate", type=float, default=1e-4, help="learning rate; at high ones rounding grows into chaos"
    )
    parser.add_argument("--pin", action="store_true", help="a core for each process (Linux)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    given = parser.parse_args()
    settings = {
        "train.precision": given.precision, "train.optimizer": given.optimizer, "train.epochs": given.epochs,
        "train.patience": given.epochs, "train.batch_size": given.batch, "train.learning_rate": given.rate,
        "model.backbone": given.backbone, "model.weights": "none", "images.size_px": given.side,
        "data.limit": given.limit,
    }  # fmt: skip
    overrides = [*(f"{name}={value}" for name, value in settings.items()), *given.overrides]
    with tempfile.TemporaryDirectory() as folder:
        alone = trained(given.data, Path(folder), 1, overrides, pin=given.pin)
        print(f"1 process: {len(alone['losses'])} steps, {told(alone)}")
        for count in given.processes:
            together = trained(given.data, Path(folder), count, overrides, pin=given.pin)
            pairs = list(zip(alone["losses"], together["losses"], strict=True))
            apart = [abs(one - other) / abs(one) for one, other in pairs]
            if "VERBOSE" in os.environ:
                print(*(f"{share:.0e}" for share in apart))
            auc = max(abs(one - other) for one, other in zip(alone["auc"], together["auc"], strict=True))
            print(
                f"{count} processes: {told(together)}; first {STEPS} losses up to {max(apart[:STEPS]):.1e} apart "
                f"(relative), all {max(apart):.1e}; AUC up to {auc:.1e} apart, at the end "
                f"{abs(alone['auc'][-1] - together['auc'][-1]):.1e}; {together['pace'][-1] / alone['pace'][-1]:.2f} "
                "times the pace"
            )


def trained(
    data: Path, folder: Path, count: int, overrides: list[str], devices: int = 1, *, pin: bool = False
) -> dict[str, Any]:
    """Train by so many processes of so many devices; return the losses of all steps, and each epoch's AUC and pace."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name = f"{count}-{time.monotonic_ns()}"
    command = [
        sys.executable, "-c", RECORDED, "train", str(data), "--recipe", "demo", "--runs", str(folder), "--name", name,
        *(f"--set={one}" for one in overrides),
    ]  # fmt: skip
    environment = os.environ | {"KERAS_BACKEND": "jax", "LOSSES": str(folder / f"{name}.json")}
    started = []
    for number in range(count):
        job = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": count, "JAX_PROCESS_ID": number}
        if count > 1:
            environment |= {key: str(value) for key, value in job.items()}
        quiet = None if number == 0 and "VERBOSE" in os.environ else subprocess.DEVNULL
        started.append(
            subprocess.Popen(
                [
                    *(["taskset", "-c", str(number)] if pin else []),
                    *command,
                    *(["--devices", str(devices)] if count * devices > 1 else []),
                ],
                env=environment,
                stdout=quiet,
                stderr=quiet,
            )
        )
    if any(code != 0 for code in [process.wait(LONGEST_SECONDS) for process in started]):
        raise SystemExit(f"{shown(command)} failed; VERBOSE=1 shows what it says")
    history = pd.read_csv(folder / name / "fold-0" / "history.csv")
    losses = json.loads((folder / f"{name}.json").read_text())
    return {"losses": losses, "auc": list(history["val_auc"]), "pace": list(history["images_per_second"])}


def told(run: dict[str, Any]) -> str:
    """Say how a run went."""
    return f"AUC {run['auc'][-1]:.4f}, {run['pace'][-1]:.0f} images/s in the last epoch"


def shown(command: list[str]) -> str:
    """Show a command without the program that it is given."""
    return " ".join(["melanoma", *command[3:]])


# the command line, with each step's loss noted by the process that leads
RECORDED = """
import atexit, json, os, pathlib, sys
from melanoma.cli import main
from melanoma.training.progress import TrainingProgress

losses = []
TrainingProgress.step = lambda self, epoch, step, loss: losses.append(loss)
if os.environ.get("JAX_PROCESS_ID", "0") == "0":
    atexit.register(lambda: pathlib.Path(os.environ["LOSSES"]).write_text(json.dumps(losses)))
sys.argv[0] = "melanoma"
main()
"""

if __name__ == "__main__":
    main()
