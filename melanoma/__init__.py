"""Train, judge and use melanoma classifiers on skin-lesion photographs.

The public names below are imported on first use, so that `import melanoma` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from melanoma.check import check_data as check_data
    from melanoma.compare import blend_runs as blend_runs
    from melanoma.compare import compare_runs as compare_runs
    from melanoma.config import load_settings as load_settings
    from melanoma.data.records import read_dataset as read_dataset
    from melanoma.data.synthetic import make_dataset as make_dataset
    from melanoma.errors import MelanomaError as MelanomaError
    from melanoma.images.decode import decode as decode
    from melanoma.images.filters import eroded as eroded
    from melanoma.images.filters import no_noise as no_noise
    from melanoma.images.filters import preprocess as preprocess
    from melanoma.images.filters import process as process
    from melanoma.inference.explain import explain as explain
    from melanoma.inference.predict import Predictor as Predictor
    from melanoma.inference.words import Details as Details
    from melanoma.judge import judge_file as judge_file
    from melanoma.models.classifier import build_classifier as build_classifier
    from melanoma.models.losses import focal_loss as focal_loss
    from melanoma.pipeline import resume as resume
    from melanoma.pipeline import run as run
    from melanoma.report.figures import display as display
    from melanoma.report.figures import display_one as display_one
    from melanoma.report.figures import plot as plot
    from melanoma.runs import open_run as open_run

RESEARCH_ONLY = "Research use only. Not a medical device. Not for diagnosis."
_PLACES = {
    "Details": "melanoma.inference.words",
    "MelanomaError": "melanoma.errors",
    "Predictor": "melanoma.inference.predict",
    "blend_runs": "melanoma.compare",
    "build_classifier": "melanoma.models.classifier",
    "check_data": "melanoma.check",
    "compare_runs": "melanoma.compare",
    "decode": "melanoma.images.decode",
    "display": "melanoma.report.figures",
    "display_one": "melanoma.report.figures",
    "eroded": "melanoma.images.filters",
    "explain": "melanoma.inference.explain",
    "focal_loss": "melanoma.models.losses",
    "judge_file": "melanoma.judge",
    "load_settings": "melanoma.config",
    "make_dataset": "melanoma.data.synthetic",
    "no_noise": "melanoma.images.filters",
    "open_run": "melanoma.runs",
    "plot": "melanoma.report.figures",
    "preprocess": "melanoma.images.filters",
    "process": "melanoma.images.filters",
    "read_dataset": "melanoma.data.records",
    "resume": "melanoma.pipeline",
    "run": "melanoma.pipeline",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'melanoma' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(_PLACES)
