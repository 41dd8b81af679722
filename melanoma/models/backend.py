"""Chooses Keras' backend once, before Keras is first imported: every other module takes `keras` from here.

`KERAS_BACKEND` where it is set, else PyTorch, JAX or TensorFlow, whichever is installed, in that order.
"""

import functools
import importlib.util
import os
import sys
import warnings

from melanoma.errors import MissingExtraError, UsageError
from melanoma.machine import multiplies_bfloat16_faster, processor_flags

BACKENDS = ("torch", "jax", "tensorflow")


def installed_backends() -> list[str]:
    """Name the backends that could be imported, in the order of preference, without importing one."""
    return [name for name in BACKENDS if importlib.util.find_spec(name)]


def _choose() -> str:
    if "keras" in sys.modules:  # whoever imported it first has chosen
        return str(sys.modules["keras"].backend.backend())
    wanted = os.environ.get("KERAS_BACKEND", "")
    if wanted and wanted not in BACKENDS:
        raise UsageError(f"KERAS_BACKEND is {wanted!r}; known: {', '.join(BACKENDS)}")
    names = [name for name in installed_backends() if wanted in ("", name)]
    if not names or not importlib.util.find_spec("keras"):
        missing = wanted or "a deep-learning framework for Keras"
        raise MissingExtraError(missing, wanted if wanted in ("jax", "tensorflow") else "train")
    return names[0]


BACKEND = _choose()
os.environ["KERAS_BACKEND"] = BACKEND
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets at length otherwise
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations inside the frameworks are not the user's to mend
    import keras

__all__ = ["BACKEND", "BACKENDS", "has_bfloat16", "has_gpu", "installed_backends", "keras", "set_precision"]


def has_gpu() -> bool:
    """Tell whether the chosen backend sees a GPU."""
    if BACKEND == "torch":
        import torch

        return bool(torch.cuda.is_available())
    if BACKEND == "jax":
        import jax

        return any(device.platform == "gpu" for device in jax.devices())
    import tensorflow

    return bool(tensorflow.config.list_physical_devices("GPU"))


def set_precision(policy: str) -> None:
    """Let Keras compute in this dtype policy from here on; float64 is for JAX, which has to be told of it."""
    if BACKEND == "jax":
        import jax
        from keras.src.backend.common import dtypes

        jax.config.update("jax_enable_x64", policy == "float64")
        # Keras rounds what its operations and batch normalisation take on JAX, whatever the policy
        dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64" if policy == "float64" else "float32"
    keras.config.set_floatx("float64" if policy == "float64" else "float32")
    keras.config.set_dtype_policy(policy)


@functools.cache
def has_bfloat16() -> bool:
    """Tell whether the device multiplies bfloat16 much faster than float32.

    GPUs since about 2020 do: PyTorch tells, JAX and TensorFlow are believed. Of CPUs `multiplies_bfloat16_faster`
    tells; without AMX only PyTorch's kernels are known to gain.
    """
    if not has_gpu():
        return multiplies_bfloat16_faster() and (BACKEND == "torch" or "amx_bf16" in processor_flags())
    if BACKEND == "torch":
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True
