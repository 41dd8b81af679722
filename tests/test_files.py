"""Files appear whole or not at all."""

import threading
from pathlib import Path

import pytest

from melanoma.config import Settings
from melanoma.errors import DataError, MelanomaError
from melanoma.files import (
    ASIDE,
    locked,
    read_json,
    replacing,
    replacing_folder,
    resuming_folder,
    sha256,
    write_json,
    write_text,
)
from melanoma.runs import Run, create_run


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with replacing_folder(folder) as aside:
        (aside / "a").write_text("old")
    with pytest.raises(RuntimeError), replacing_folder(folder) as aside:
        (aside / "a").write_text("half")
        raise RuntimeError
    assert (folder / "a").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    for name in ("first", "second"):
        with replacing_folder(folder) as aside:
            (aside / name).write_text(name)
    assert [file.name for file in folder.iterdir()] == ["second"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MelanomaError, match="cannot be written"):
        write_text(tmp_path / "file" / "below.txt", "")


def test_a_folder_whose_file_cannot_be_written_is_what_is_told(tmp_path: Path) -> None:
    with pytest.raises(MelanomaError, match="bundle cannot be written"), replacing_folder(tmp_path / "bundle") as aside:
        (aside / "file").write_text("")
        write_text(aside / "file" / "below.txt", "")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, move = tmp_path / "bundle", Path.replace
    write_text(folder / "a", "old")

    def full(path: Path, target: Path) -> Path:
        if target == folder and not path.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        return move(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MelanomaError, match="No space"), replacing_folder(folder) as aside:
        (aside / "a").write_text("new")
    assert (folder / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_who_holds_a_run_removes_what_a_kill_left_and_nothing_that_another_command_writes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    killed = [path.with_name(f"{ASIDE}{path.name}.x") for path in (run.state(0), run.metrics, run.figures / "roc.png")]
    killed.append(tmp_path / f"{ASIDE}model.x" / "model.json")
    others = [tmp_path / f"{ASIDE}answers.csv.x", tmp_path / "mine" / f"{ASIDE}metrics.json.x"]
    for path in [*killed, *others]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    with run.held():
        pass
    assert sorted(tmp_path.rglob(f"{ASIDE}*")) == sorted(others)


def test_of_two_commands_that_begin_one_run_the_second_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(tmp_path, "one", Settings(seed=1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: False)  # as it was when the second looked
        with pytest.raises(MelanomaError, match="one cannot be written"):
            create_run(tmp_path, "one", Settings(seed=2))
    assert run.settings().seed == 1
    assert list(tmp_path.iterdir()) == [run.folder]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_json_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(MelanomaError, match=r"data\.json cannot be read"):
        read_json(tmp_path / "data.json")


def test_nan_never_reaches_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"auc": float("nan")})
    assert not list(tmp_path.iterdir())


def test_the_hash_is_the_files_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_held_lock_is_refused_with_its_holder(tmp_path: Path) -> None:
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path / ".lock", wait=False, what="the run"):
            held.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    lock = locked(tmp_path / ".lock", wait=False, what="the run")
    with pytest.raises(MelanomaError, match="the run is in use by process"), lock:
        pass
    leave.set()
    thread.join()
    with locked(tmp_path / ".lock", wait=False, what="the run"):
        pass


def test_a_folder_that_was_interrupted_is_found_again_and_then_appears_whole(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt), resuming_folder(folder) as partial:
        (partial / "a").write_text("half")
        raise KeyboardInterrupt
    assert not folder.exists()
    with resuming_folder(folder) as partial:
        assert (partial / "a").read_text() == "half"
        (partial / "a").write_text("whole")
    assert (folder / "a").read_text() == "whole"
    assert [file.name for file in tmp_path.iterdir()] == ["cache"]


def test_a_folder_that_can_never_be_finished_is_removed(tmp_path: Path) -> None:
    with pytest.raises(DataError), resuming_folder(tmp_path / "cache") as partial:
        (partial / "a").write_text("half")
        raise DataError("bad image")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_no_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(MelanomaError, match="cannot be written"), resuming_folder(tmp_path / "cache"):
        raise OSError
    assert not list(tmp_path.iterdir())
