"""What a resume needs: written whole, checked when it is read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melanoma.errors import MelanomaError
from melanoma.files import previous
from melanoma.models.backend import keras
from melanoma.training.state import Position, has_state, load_state, read_position, save_state


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


def flip(path: Path, share: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_damaged_state_gives_way_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    path, model = tmp_path / "state.npz", compiled()
    save_state(path, model, Position(epoch=1))
    expected = step(model)
    save_state(path, model, Position(epoch=2))
    flip(path, share)
    other = compiled()
    assert load_state(path, other) == read_position(path) == Position(epoch=1)
    assert step(other) == expected
    assert "going on from the state before it" in capsys.readouterr().err
    flip(previous(path))
    for read in (read_position, lambda path: load_state(path, compiled())):
        with pytest.raises(MelanomaError, match=r"state\.npz is damaged.*previous-state\.npz is damaged.*remove"):
            read(path)


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path) -> None:
    path, model = tmp_path / "state.npz", compiled()
    saved = []
    for epoch in (1, 2):
        step(model)
        save_state(path, model, Position(epoch=epoch))
        saved.append([np.array(value) for value in model.get_weights()])
    whole = path.read_bytes()
    found = set()
    for share in np.linspace(0, 0.9999, 60):
        flip(path, share)
        other = compiled()
        epoch = load_state(path, other).epoch
        found.add(epoch)
        assert all(map(np.array_equal, other.get_weights(), saved[epoch - 1]))
        path.write_bytes(whole)
    assert found >= {1}


@pytest.mark.parametrize("cut", [0, 1, 1000])
def test_a_state_that_was_cut_gives_way_too(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "state.npz"
    for epoch in (1, 2):
        save_state(path, compiled(), Position(epoch=epoch))
    path.write_bytes(path.read_bytes()[:cut])
    assert read_position(path).epoch == 1


def test_arrays_that_are_whole_but_not_those_that_were_saved_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    save_state(path, compiled(), Position())
    with np.load(path) as saved:
        arrays = {name: saved[name] for name in saved.files}
    arrays["v00000"] = arrays["v00000"] + 1
    np.savez(path, **arrays)
    with pytest.raises(MelanomaError, match="does not have the hash"):
        read_position(path)


def test_a_state_from_before_hashes_says_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "state.npz", v00000=np.zeros(3), position=np.frombuffer(b"{}", np.uint8))
    with pytest.raises(MelanomaError, match=r"it has no hash, as those of an earlier version.*start this fold again"):
        read_position(tmp_path / "state.npz")


def test_a_kill_between_the_two_renames_leaves_the_state_before(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    save_state(path, compiled(), Position(epoch=4))
    path.replace(previous(path))
    assert has_state(path) and read_position(path).epoch == 4


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state.npz", compiled(2), Position())
    with pytest.raises(MelanomaError, match="of another network"):
        load_state(tmp_path / "state.npz", compiled(1))
