"""Everything that a resume needs, written aside and renamed: weights, optimizer, random states, place, history.

Two states are kept, each with a hash of all that is in it. Where the newest is missing or damaged the one before is
taken: training repeats the steps between them, and ends where it would have ended.
"""

import dataclasses
import hashlib
import io
import json
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melanoma.errors import MelanomaError
from melanoma.files import previous, read_arrays, replacing

POSITION, HASH = "position", "sha256"


@dataclasses.dataclass
class Position:
    """Where training stands: the next step, this epoch's sums so far, the best epoch, and the curves.

    best_sha256: of the weights file of the best epoch. parts: in which a step is made, as a GPU's memory allows.
    """

    epoch: int = 0
    step: int = 0
    images: int = 0
    loss: float = 0.0
    right: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    best_sha256: str | None = None
    finished: bool = False
    parts: int = 1
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def close_epoch(self) -> None:
        """Go to the first step of the next epoch."""
        self.epoch, self.step, self.images, self.loss, self.right = self.epoch + 1, 0, 0, 0.0, 0.0


def save_state(path: Path, model: Any, position: Position) -> None:
    """Write the state of a compiled model and its position as one file, whole or not at all; keep the one before."""
    from melanoma.models.backend import keras  # here alone: where training stands is read without it

    arrays = {f"v{number:05d}": keras.ops.convert_to_numpy(v) for number, v in enumerate(_variables(model))}
    arrays[POSITION] = np.frombuffer(json.dumps(dataclasses.asdict(position)).encode(), np.uint8)
    arrays[HASH] = np.frombuffer(_hash(arrays), np.uint8)
    with replacing(path, keep=True) as aside:
        np.savez(aside, **arrays)


class _Memory(io.BytesIO):
    """A file that is not on the disk, under the name that Keras wants for weights."""

    def __str__(self) -> str:
        return ".weights.h5"


def weights_file(model: Any) -> memoryview:
    """Give a network's weights as the bytes of a Keras .weights.h5 file.

    Written to a full disk by HDF5 itself, such a file would end the process by a fault in memory.
    """
    file = _Memory()
    model.save_weights(file)
    return file.getbuffer()


def has_state(path: Path) -> bool:
    """Tell whether a state was saved."""
    return path.exists() or previous(path).exists()


def read_position(path: Path) -> Position:
    """Read where training stands without building a network; a new position where none was saved.

    Raises MelanomaError where both states are damaged.
    """
    arrays = _newest(path)
    return Position() if arrays is None else _position(arrays)


def load_state(path: Path, model: Any) -> Position:
    """Bring a freshly built, compiled model to the saved state; a new position where none was saved.

    Raises MelanomaError where both states are damaged, or of another network.
    """
    arrays = _newest(path)
    if arrays is None:
        return Position()
    variables = _variables(model)
    saved = [array for name, array in arrays.items() if name != POSITION]
    if [array.shape for array in saved] != [tuple(variable.shape) for variable in variables]:
        raise MelanomaError(f"the saved state {path} is of another network; remove it to start this fold again")
    for variable, array in zip(variables, saved, strict=True):
        variable.assign(array)
    return _position(arrays)


def _newest(path: Path) -> dict[str, NDArray[Any]] | None:
    """Read the newest state that is whole; None where none was saved."""
    faults = []
    for place in (path, previous(path)):
        if not place.exists():
            continue
        try:
            arrays = _read(place)
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            faults.append(f"{place} is damaged ({error})")
            continue
        if faults:
            print(f"note: {faults[0]}; going on from the state before it", file=sys.stderr)
        return arrays
    if faults:
        raise MelanomaError(f"the saved state {'; '.join(faults)}: remove {path.parent} to start this fold again")
    return None


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array; raises ValueError, or what NumPy and zipfile raise, where anything is not as it was written."""
    with path.open("rb") as file:
        arrays = read_arrays(file, path.stat().st_size)
    if HASH not in arrays:
        raise ValueError("it has no hash, as those of an earlier version")
    if arrays.pop(HASH).tobytes() != _hash(arrays):
        raise ValueError("its content does not have the hash that was written with it")
    return arrays


def _hash(arrays: dict[str, NDArray[Any]]) -> bytes:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _position(arrays: dict[str, NDArray[Any]]) -> Position:
    return Position(**json.loads(arrays[POSITION].tobytes()))


def _variables(model: Any) -> list[Any]:
    """List weights, seeds and optimizer, each once, in the order in which they were made."""
    every = [*model.variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in every}.values())
