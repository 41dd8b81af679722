"""Everything that a resume needs, written aside and renamed: weights, optimizer, random states, place, history."""

import dataclasses
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melanoma.errors import MelanomaError
from melanoma.files import replacing

POSITION = "position"


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


def save_state(path: Path, model: Any, position: Position) -> None:
    """Write the state of a compiled model and its position as one file, whole or not at all."""
    from melanoma.models.backend import keras  # here alone: where training stands is read without it

    arrays = {f"v{number:05d}": keras.ops.convert_to_numpy(v) for number, v in enumerate(_variables(model))}
    arrays[POSITION] = np.frombuffer(json.dumps(dataclasses.asdict(position)).encode(), np.uint8)
    with replacing(path) as aside:
        np.savez(aside, **arrays)


def read_position(path: Path) -> Position:
    """Read where training stands without building a network; a new position where none was saved.

    Raises MelanomaError where the saved state is damaged.
    """
    return _position(_read(path)) if path.exists() else Position()


def load_state(path: Path, model: Any) -> Position:
    """Bring a freshly built, compiled model to the saved state; a new position where none was saved.

    Raises MelanomaError where the saved state is damaged or of another network.
    """
    if not path.exists():
        return Position()
    arrays = _read(path)
    variables = _variables(model)
    saved = [array for name, array in arrays.items() if name != POSITION]
    if [array.shape for array in saved] != [tuple(variable.shape) for variable in variables]:
        raise MelanomaError(f"the saved state {path} is of another network; remove it to start this fold again")
    for variable, array in zip(variables, saved, strict=True):
        variable.assign(array)
    return _position(arrays)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array; the file format carries a checksum of each, so that a changed bit is noticed."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise MelanomaError(
            f"the saved state {path} is damaged ({error}); remove it to start this fold again"
        ) from error


def _position(arrays: dict[str, NDArray[Any]]) -> Position:
    return Position(**json.loads(arrays[POSITION].tobytes()))


def _variables(model: Any) -> list[Any]:
    """List weights, seeds and optimizer, each once, in the order in which they were made."""
    every = [*model.variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in every}.values())
