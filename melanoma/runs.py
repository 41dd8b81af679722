"""The run folder: its names, creating and opening it. Nothing else knows a path inside a run."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from melanoma.config import Settings, settings_from, to_toml
from melanoma.errors import MelanomaError, UsageError
from melanoma.files import folder_aside, locked, remove_unfinished, write_json, write_text

CACHE = "cache"  # beside the runs, shared by them


@dataclass(frozen=True)
class Run:
    """One run: a folder, and the names of what lies in it."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.name

    @property
    def config(self) -> Path:
        """Every setting, resolved, as TOML."""
        return self.folder / "config.toml"

    @property
    def environment(self) -> Path:
        """Versions, machine and backend, as JSON."""
        return self.folder / "environment.json"

    @property
    def data(self) -> Path:
        """Where the data is, its hashes, and what was remarked about it, as JSON."""
        return self.folder / "data.json"

    @property
    def folds(self) -> Path:
        """The split, as CSV."""
        return self.folder / "folds.csv"

    @property
    def bundle(self) -> Path:
        """The exported networks: what answers."""
        return self.folder / "model"

    @property
    def predictions(self) -> Path:
        """Out-of-fold probabilities, as CSV."""
        return self.folder / "predictions.csv"

    @property
    def held_out_predictions(self) -> Path:
        """Probabilities of every image of the held-out patients, where balance left some out, as CSV."""
        return self.folder / "held_out_predictions.csv"

    @property
    def test_predictions(self) -> Path:
        """Probabilities of the test images, as CSV."""
        return self.folder / "test_predictions.csv"

    @property
    def metrics(self) -> Path:
        """Every figure, as JSON."""
        return self.folder / "metrics.json"

    @property
    def calibration(self) -> Path:
        """How probabilities become answers, as plain numbers in JSON."""
        return self.folder / "calibration.json"

    @property
    def card(self) -> Path:
        """The model card, as Markdown."""
        return self.folder / "model_card.md"

    @property
    def report(self) -> Path:
        """The page for a reader."""
        return self.folder / "report.html"

    @property
    def figures(self) -> Path:
        """The folder of the report's figures."""
        return self.folder / "figures"

    @property
    def submission(self) -> Path:
        """The competition's file."""
        return self.folder / "submission.csv"

    @property
    def own(self) -> list[Path]:
        """What stands in the folder by a name of its own; any other name was given by somebody to another command."""
        return [
            *(self.config, self.environment, self.data, self.folds, self.bundle, self.predictions),
            *(self.held_out_predictions, self.test_predictions, self.metrics, self.calibration, self.card),
            *(self.report, self.submission),
        ]

    def fold(self, number: int) -> Path:
        """The folder of one fold's training."""
        return self.folder / f"fold-{number}"

    def state(self, fold: int) -> Path:
        """Everything that a resume of one fold needs."""
        return self.fold(fold) / "state.npz"

    def weights(self, fold: int) -> Path:
        """One fold's weights at its best epoch."""
        return self.fold(fold) / "best.weights.h5"

    def history(self, fold: int) -> Path:
        """One fold's curves, as CSV."""
        return self.fold(fold) / "history.csv"

    def encoder(self, fold: int) -> Path:
        """What was learned of one fold's training table, as JSON."""
        return self.fold(fold) / "encoder.json"

    def settings(self, overrides: Sequence[str] = ()) -> Settings:
        """Read the resolved configuration back, with `section.key=value` over it.

        Raises MelanomaError where it is damaged, UsageError for an override that cannot be.
        """
        try:
            saved = tomllib.loads(self.config.read_text(encoding="utf-8"))
            settings_from(saved)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, UsageError) as error:
            raise MelanomaError(f"{self.config} cannot be read: {error}") from error
        return settings_from(saved, overrides)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run for this process alone, and tidy up after one that was killed.

        Raises MelanomaError telling who holds it.
        """
        with locked(self.folder / ".lock", wait=False, what=f"the run {self.folder}"):
            for path in self.own:
                remove_unfinished(self.folder, path.name)
            for folder in (self.figures, *self.folder.glob("fold-*")):
                remove_unfinished(folder)
            yield


def default_name(recipe: str) -> str:
    """Name a run after its recipe and the time, in UTC."""
    return f"{Path(recipe).stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def create_run(
    runs: Path,
    name: str,
    settings: Settings,
    *,
    environment: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Run:
    """Make a new run folder, whole or not at all: its configuration, what it is made with, where its data is.

    Raises UsageError for a name that cannot be a folder's, MelanomaError where the folder is there already.
    """
    if Path(name).name != name or name == CACHE:
        raise UsageError(f"--name {name!r} cannot be a run's name: give one plain word; the folder around it is --runs")
    folder = runs / name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MelanomaError(f"{folder} is there already; give another --name, or go on with: melanoma resume {folder}")
    with folder_aside(folder) as aside:
        write_text(Run(aside).config, to_toml(settings))
        write_json(Run(aside).environment, environment or {})
        write_json(Run(aside).data, data or {})
        aside.chmod(0o755)
        aside.replace(folder)  # never over a run that another command began meanwhile
    return Run(folder)


def open_run(folder: Path) -> Run:
    """Open a run folder; raises MelanomaError where it is none."""
    run = Run(folder)
    if not run.config.is_file():
        reason = "it has no config.toml" if folder.is_dir() else "there is no such folder"
        raise MelanomaError(f"{folder} is not a run: {reason}")
    return run
