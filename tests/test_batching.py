"""The queue of pictures: all or none of a request is taken, and nothing spoils another's answer."""

import threading
from pathlib import Path
from typing import Any

import pytest
from zoo import saved, scene

from melanoma.inference.predict import Predictor
from melanoma.inference.words import Details
from melanoma.runs import Run
from melanoma.web.batching import Batcher, OverloadedError

LESION = saved(scene(64, 64), "JPEG")


@pytest.fixture(scope="module")
def predictor(judged: Run) -> Predictor:
    return Predictor(judged.folder)


def test_a_stopping_service_is_not_ready_and_takes_nothing_new_but_ends_what_waits(
    predictor: Predictor, lesions: list[Path]
) -> None:
    batcher = Batcher(predictor, 8)
    waiting = batcher.submit([(path.name, path.read_bytes()) for path in lesions[:6]], Details())
    batcher.close()
    assert [one.result(0).name for one in waiting] == [path.name for path in lesions[:6]]
    with pytest.raises(OverloadedError):
        batcher.submit([("a", LESION)], Details())


def test_pictures_that_were_taken_back_leave_room_in_the_queue(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, answering = threading.Event(), predictor.answer_batch
    monkeypatch.setattr(predictor, "answer_batch", lambda *given: held.wait(30) and answering(*given))
    batcher = Batcher(predictor, 4)
    busy = [batcher.submit([("a", LESION)], Details())[0] for _ in range(predictor.threads)]
    while batcher.waiting:
        threading.Event().wait(0.01)
    for future in batcher.submit([("b", LESION)] * 4, Details()):
        future.cancel()
    (later,) = batcher.submit([("c", LESION)], Details())
    held.set()
    assert [one.result(30).name for one in (*busy, later)] == ["a"] * len(busy) + ["c"]
    batcher.close()


def test_a_picture_that_fails_in_a_batch_spoils_no_other(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = predictor.answer_batch

    def fragile(items: Any, maps: bool = False) -> Any:
        if any(name == "bad" for name, _, _ in items):
            raise ZeroDivisionError
        return answering(items, maps)

    monkeypatch.setattr(predictor, "answer_batch", fragile)
    batcher = Batcher(predictor, 8)
    futures = batcher.submit([(name, LESION) for name in ("one", "bad", "other", "last")], Details())
    assert [futures[place].result(30).name for place in (0, 2, 3)] == ["one", "other", "last"]
    with pytest.raises(ZeroDivisionError):
        futures[1].result(30)
    batcher.close()
