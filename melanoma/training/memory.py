"""Whether a training step fits into the memory: told before the first, as the system ends a process without a word.

And where memory runs out all the same, what to set.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from melanoma.errors import MelanomaError
from melanoma.machine import memory_left
from melanoma.models.backend import has_gpu
from melanoma.training.progress import say

# A step keeps what layers give for its way back: all of it in a MobileNet or an EfficientNet, three quarters in a
# DenseNet, a third in an InceptionResNetV2, whose convolution, normalisation and ReLU are computed as one.
LEAST_KEPT = 1 / 3
BYTES_PER_WEIGHT = 12  # gradient and Adam's two moments
# how PyTorch on GPU and CPU, and JAX and TensorFlow, say that there is no memory left
OUT_OF_MEMORY = (
    "out of memory", "ALLOC_FAILED", "can't allocate memory", "RESOURCE_EXHAUSTED", "OOM when allocating",
)  # fmt: skip


def check_memory(model: Any, batch_size: int) -> None:
    """Refuse batches that cannot fit into the memory that is left, and remark on those that may not; on a CPU alone.

    model: a built Keras model. Raises MelanomaError with the number of images that fits.
    """
    left = memory_left()
    if left is None or has_gpu():
        return
    fixed, an_image = model.count_params() * BYTES_PER_WEIGHT, bytes_per_image(model)
    fits = max(math.floor((left - fixed) / an_image), 0)
    told = (
        f"a training step on {batch_size:,} images takes {_gibibytes(fixed + LEAST_KEPT * an_image * batch_size)} to "
        f"{_gibibytes(fixed + an_image * batch_size)} of memory, and {_gibibytes(left)} GiB are free"
    )
    mend = what_to_set(fits)
    if fixed + LEAST_KEPT * an_image * batch_size > left:
        raise MelanomaError(f"{told}: use {mend}")
    if fits < batch_size:
        say(f"note: {told}; if the system ends it, use {mend}")


@contextmanager
def told_if_memory_runs_out(batch_size: int) -> Iterator[None]:
    """Turn what any backend raises where memory runs out into one sentence with the number to set.

    On PyTorch a GPU's batch is halved before (`melanoma.training.halving`).
    """
    try:
        yield
    except Exception as error:
        if not memory_ran_out(error):
            raise
        mend = what_to_set(batch_size // 2)
        raise MelanomaError(
            f"there is too little memory for a step on {batch_size:,} images: start a new run with {mend}"
        ) from error


def what_to_set(fits: int) -> str:
    """Say how to take less memory, where so many images fit."""
    return f"--set train.batch_size={fits}" if fits else "a smaller images.size_px or another model.backbone"


def memory_ran_out(error: Exception) -> bool:
    """Tell whether an error of any backend says that there is no memory left."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)


def bytes_per_image(model: Any) -> int:
    """Count the bytes of all that the layers of a network give for one image."""
    inside = getattr(model, "layers", [])
    if inside:
        return sum(bytes_per_image(layer) for layer in inside)
    outputs = getattr(model, "output", [])
    itemsize = {"16": 2, "64": 8}.get(str(model.compute_dtype)[-2:], 4)
    return sum(math.prod(one.shape[1:]) * itemsize for one in (outputs if isinstance(outputs, list) else [outputs]))


def _gibibytes(count: float) -> str:
    return f"{count / 2**30:.1f}"
