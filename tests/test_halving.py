"""Where a GPU's memory runs out a step is made in parts, and the weights change as by the whole batch."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TINY

from melanoma import pipeline
from melanoma.data.synthetic import make_dataset
from melanoma.errors import MelanomaError
from melanoma.models.backend import BACKEND, keras
from melanoma.training.memory import told_if_memory_runs_out
from melanoma.training.state import read_position

if BACKEND != "torch":
    pytest.skip("PyTorch alone halves", allow_module_level=True)

import torch

from melanoma.training.halving import HalvingModel

RNG = np.random.default_rng(0)
IMAGES = RNG.random((10, 8, 8, 3), np.float32)
TARGETS = (np.arange(10) % 2).astype(np.float32)[:, None]


@keras.saving.register_keras_serializable()
class SmallGpu(keras.layers.Layer):  # type: ignore[misc]
    """Has memory for so many images."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits, self.asked = fits, list[int]()

    def call(self, images: Any) -> Any:
        self.asked.append(len(images))
        if images.device.type != "meta" and len(images) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
        return images


def model(fits: int) -> tuple[Any, SmallGpu]:
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    image, small = keras.Input((8, 8, 3)), SmallGpu(10**6)
    x = keras.layers.Conv2D(4, 3, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01))(small(image))
    answer = keras.layers.Dense(1, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(x))
    made = HalvingModel(image, answer)
    made.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=[keras.metrics.BinaryAccuracy()])
    small.fits = fits
    return made, small


@pytest.mark.parametrize(("fits", "sizes"), [(5, [5, 5]), (4, [3, 3, 3, 1]), (1, [1] * 10)])
def test_a_step_in_parts_changes_weights_and_figures_as_the_whole_step_does(
    fits: int, sizes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    (whole, _), (halved, small) = model(10), model(fits)
    for _ in range(3):
        expected, found = (one.train_on_batch(IMAGES, TARGETS, return_dict=True) for one in (whole, halved))
        assert found == pytest.approx(expected, abs=1e-6)
    assert small.asked[-len(sizes) :] == sizes
    for one, other in zip(whole.get_weights(), halved.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)
    assert f"in {len(sizes)} parts of up to {sizes[0]} images" in capsys.readouterr().err
    assert whole.parts == 1


def test_weights_of_single_images_count_in_parts_too() -> None:
    (whole, _), (halved, _) = model(10), model(3)
    share = RNG.random(10).astype(np.float32)
    losses = [one.train_on_batch(IMAGES, TARGETS, sample_weight=share)[0] for one in (whole, halved)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    for one, other in zip(whole.get_weights(), halved.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


def test_one_image_that_is_too_much_is_one_sentence() -> None:
    with pytest.raises(MelanomaError, match=r"on one image: use a smaller images\.size_px"):
        model(0)[0].train_on_batch(IMAGES, TARGETS)


def test_a_run_goes_on_in_parts_and_a_resumed_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes: list[int] = []
    plain = HalvingModel.__call__

    def on_a_small_gpu(self: Any, images: Any, *given: Any, training: bool = False, **more: Any) -> Any:
        if training and isinstance(images, torch.Tensor | np.ndarray):
            sizes.append(len(images))
            if len(images) > 8:
                raise torch.OutOfMemoryError("CUDA out of memory")
            if len(sizes) == 12:
                os.kill(os.getpid(), 2)  # Ctrl-C: the step is finished, and all is saved
        return plain(self, images, *given, training=training, **more)

    make_dataset(tmp_path / "data", images=60)
    monkeypatch.setattr(HalvingModel, "__call__", on_a_small_gpu)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(tmp_path / "data", "demo", [*TINY, "folds.count=2"], name="small", runs=tmp_path / "runs")
    state = next(tmp_path.rglob("state.npz"))
    assert read_position(state).parts == 2
    assert "in 2 parts of up to 8 images" in capsys.readouterr().err
    sizes.clear()
    run = pipeline.resume(tmp_path / "runs" / "small")
    assert sizes[0] <= 8, "nothing was tried again"
    assert run.report.exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."),
        RuntimeError("OOM when allocating tensor with shape[64,299,299,32]"),
        MemoryError(),
    ],
)
def test_whatever_says_that_memory_ran_out_is_one_sentence_with_the_number_to_set(error: Exception) -> None:
    for images, mend in ((32, r"--set train\.batch_size=16$"), (1, r"a smaller images\.size_px")):
        told = f"too little memory for a step on {images} images: start a new run with {mend}"
        with pytest.raises(MelanomaError, match=told), told_if_memory_runs_out(images):
            raise error


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), told_if_memory_runs_out(32):
        raise ZeroDivisionError
