"""Rows and cache to batches."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from melanoma.data.batches import Batches


def batches(count: int = 10, weights: NDArray[np.float64] | None = None, seed: int = 0) -> Batches:
    images = np.arange(count * 2).astype(np.uint8)[:, None, None, None].repeat(3, 3)
    rows = np.arange(count)[::-1] * 2  # every second image, backwards
    targets = (np.arange(count) % 2).astype(np.float32)
    metadata = np.arange(count, dtype=np.float32)[:, None]
    return Batches(images, rows, targets, metadata, batch_size=4, seed=seed, weights=weights)


def test_an_epoch_sees_every_row_once_with_its_own_target_and_metadata() -> None:
    made = batches()
    order = made.order(3)
    seen = []
    for step in range(len(made)):
        (images, metadata), targets = made.step(order, step)
        for image, row, target in zip(images[:, 0, 0, 0], metadata[:, 0], targets[:, 0], strict=True):
            assert image == (9 - row) * 2
            assert target == row % 2
            seen.append(int(row))
    assert sorted(seen) == list(range(10))
    assert len(made) == 3


def test_any_step_can_be_found_again_from_the_seed() -> None:
    first, second = batches(), batches()
    assert np.array_equal(first.order(5), second.order(5))
    assert not np.array_equal(first.order(5), first.order(6))
    assert not np.array_equal(first.order(5), batches(seed=1).order(5))
    again = second.step(second.order(5), 1)
    for one, other in zip(first.step(first.order(5), 1)[0], again[0], strict=True):
        assert np.array_equal(one, other)


def test_weights_draw_rows_as_often_as_they_say() -> None:
    weights = np.array([0.5, 0.5, *[0.0] * 8])
    drawn = np.concatenate([batches(weights=weights).order(epoch) for epoch in range(200)])
    assert set(drawn) == {0, 1}
    assert abs(np.mean(drawn) - 0.5) < 0.05


def test_batches_read_ahead_are_those_read_one_by_one() -> None:
    made = batches()
    order = made.order(2)
    for first_step in (0, 1, 3):
        coming = made.ahead(order, first_step)
        seen = list(coming)
        assert len(seen) == len(made) - first_step
        assert coming.waited >= 0
        for step, ((images, metadata), targets) in enumerate(seen, first_step):
            (expected_images, expected_metadata), expected_targets = made.step(order, step)
            assert np.array_equal(images, expected_images)
            assert np.array_equal(metadata, expected_metadata)
            assert np.array_equal(targets, expected_targets)


def test_a_fault_while_reading_ahead_is_raised_where_its_batch_would_have_come() -> None:
    made = batches()
    coming = iter(made.ahead(np.array([0, 1, 2, 3, 99])))
    next(coming)
    with pytest.raises(IndexError):
        list(coming)


def test_diagnoses_stand_behind_the_targets_of_their_rows() -> None:
    diagnoses = np.eye(10, 3, dtype=np.float32)
    plain, both = batches(), replace(batches(), diagnoses=diagnoses)
    chosen = np.array([9, 2, 5])
    assert np.array_equal(both.batch(chosen)[1], np.column_stack([plain.batch(chosen)[1], diagnoses[chosen]]))
    assert plain.batch(chosen)[1].shape == (3, 1)


def test_a_share_of_the_rows_loses_its_metadata() -> None:
    made = replace(batches(400), hidden_share=0.25, nothing_known=np.array([-1], np.float32))
    (_, metadata), _ = made.batch(np.arange(400))
    hidden = metadata[:, 0] == -1
    assert 0.15 < hidden.mean() < 0.35
    assert np.array_equal(metadata[~hidden, 0], np.arange(400)[~hidden])
