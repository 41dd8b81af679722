"""timm's networks, for benchmarks. timm imports torchvision, which has no build beside CPU PyTorch on every machine.

torchvision's Python files import without its compiled half as soon as the two operators exist that it describes to the
tracer; the networks timed here use none of them.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch

DESCRIBED = ("nms", "qnms")  # what torchvision 0.28 gives a shape to while it is imported
_kept: list[Any] = []  # operators live as long as the library that defines them


def timm_network(name: str = "inception_resnet_v2", **arguments: Any) -> Any:
    """Build a network of timm with random weights and one logit; raises ImportError where timm is not installed."""
    if not _compiled_half_loads() and not _kept:
        library = torch.library.Library("torchvision", "DEF")
        for operator in DESCRIBED:
            library.define(f"{operator}() -> ()")
        _kept.append(library)
    import timm

    return timm.create_model(name, pretrained=False, num_classes=1, **arguments)


def _compiled_half_loads() -> bool:
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise ImportError("torchvision, which timm imports, is not installed")
    for library in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(library)
        except OSError:
            return False
        return True
    return False
