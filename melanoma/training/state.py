"""Everything that a resume needs, written aside and renamed: weights, optimizer, random states, place, history."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from melanoma.errors import MelanomaError
from melanoma.files import replacing_folder, sha256, write_json
from melanoma.models.backend import keras


@dataclasses.dataclass
class Position:
    """Where training stands: the next step, this epoch's sums so far, the best epoch, and the curves."""

    epoch: int = 0
    step: int = 0
    images: int = 0
    loss: float = 0.0
    right: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    finished: bool = False
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def close_epoch(self) -> None:
        """Go to the first step of the next epoch."""
        self.epoch, self.step, self.images, self.loss, self.right = self.epoch + 1, 0, 0, 0.0, 0.0


def save_state(folder: Path, model: Any, position: Position) -> None:
    """Write the state of a compiled model and its position as one folder, whole or not at all."""
    with replacing_folder(folder) as aside:
        arrays = {f"v{number:05d}": keras.ops.convert_to_numpy(v) for number, v in enumerate(_variables(model))}
        np.savez(aside / "variables.npz", **arrays)
        content = dataclasses.asdict(position) | {"sha256": sha256(aside / "variables.npz")}
        write_json(aside / "state.json", content)


def read_position(folder: Path) -> Position:
    """Read where training stands without building a network; a new position where none was saved."""
    path = folder / "state.json"
    if not path.is_file():
        return Position()
    content = json.loads(path.read_text())
    content.pop("sha256")
    return Position(**content)


def load_state(folder: Path, model: Any) -> Position:
    """Bring a freshly built, compiled model to the saved state; a new position where none was saved.

    Raises MelanomaError where the saved state is damaged or of another network.
    """
    if not (folder / "state.json").is_file():
        return Position()
    if sha256(folder / "variables.npz") != json.loads((folder / "state.json").read_text())["sha256"]:
        raise MelanomaError(f"the saved state {folder} is damaged; remove it to start this fold again")
    with np.load(folder / "variables.npz", allow_pickle=False) as arrays:
        variables = _variables(model)
        if [arrays[name].shape for name in arrays.files] != [tuple(v.shape) for v in variables]:
            raise MelanomaError(f"the saved state {folder} is of another network; remove it to start this fold again")
        for variable, name in zip(variables, arrays.files, strict=True):
            variable.assign(arrays[name])
    return read_position(folder)


def _variables(model: Any) -> list[Any]:
    """List weights, seeds and optimizer, each once, in the order in which they were made."""
    every = [*model.variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in every}.values())
