"""What a resume needs: written whole, checked when it is read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melanoma.errors import MelanomaError
from melanoma.models.backend import keras
from melanoma.training.state import Position, load_state, read_position, save_state


def compiled(units: int = 1) -> Any:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5, seed=0), keras.layers.Dense(units)])
    optimizer = keras.optimizers.Adam(0.1)
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    model.test_on_batch(np.ones((2, 4), np.float32), np.ones((2, units), np.float32))
    return model


def step(model: Any) -> float:
    return float(model.train_on_batch(np.ones((2, 4), np.float32), np.ones((2, 1), np.float32)))


def test_a_restored_model_goes_on_as_the_saved_one_would_have(tmp_path: Path) -> None:
    model = compiled()
    step(model)
    saved = Position(epoch=3, step=1, best=0.5, history=[{"epoch": 1, "val_auc": None}])
    save_state(tmp_path / "state.npz", model, saved)
    expected = [step(model) for _ in range(3)]
    other = compiled()
    position = load_state(tmp_path / "state.npz", other)
    assert position == saved
    assert [step(other) for _ in range(3)] == expected


def test_without_a_state_training_starts_at_the_beginning(tmp_path: Path) -> None:
    assert read_position(tmp_path / "none") == load_state(tmp_path / "none", compiled()) == Position()


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    save_state(path, compiled(), Position())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(MelanomaError, match="is damaged"):
        load_state(path, compiled())


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state.npz", compiled(2), Position())
    with pytest.raises(MelanomaError, match="of another network"):
        load_state(tmp_path / "state.npz", compiled(1))
