"""What training minimises; each loss takes targets and probabilities of shape (batch, 1)."""

from collections.abc import Callable
from typing import Any

from melanoma.config import LossSettings
from melanoma.errors import UsageError
from melanoma.models.backend import keras


def focal_loss(gamma: float = 2.0, alpha: float = 0.25) -> Any:
    """Return the focal loss of Lin et al. 2017 (arXiv:1708.02002) as a Keras loss.

    For a probability p given to the true class: -a (1 - p)^gamma log(p), with a = alpha for melanomas and 1 - alpha
    for benign images, averaged over the batch.
    Targets: float (batch, 1), 0 or 1. Probabilities: float (batch, 1) in [0, 1].
    """
    return keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, alpha=alpha, gamma=gamma, name="focal_loss")


LOSSES: dict[str, Callable[[LossSettings], Any]] = {
    "focal": lambda settings: focal_loss(settings.gamma, settings.alpha),
    "cross_entropy": lambda settings: keras.losses.BinaryCrossentropy(label_smoothing=settings.label_smoothing),
}


def with_diagnosis(loss: Any, share: float) -> Any:
    """Return a loss that also asks for the diagnosis: `loss`, and `share` times the cross-entropy of the diagnoses.

    Targets: float (batch, 1 + diagnoses), 0 or 1 and a 1 for the diagnosis; one that is not known costs nothing.
    Outputs: float (batch, 1 + diagnoses), the probability of melanoma and those of the diagnoses.
    """
    ops = keras.ops

    def both(targets: Any, outputs: Any) -> Any:
        lost = -ops.sum(targets[:, 1:] * ops.log(ops.maximum(outputs[:, 1:], keras.config.epsilon())), axis=1)
        return loss(targets[:, :1], outputs[:, :1]) + share * ops.mean(lost)

    return both


def accuracy(targets: Any, outputs: Any) -> Any:
    """Tell which images are on their target's side of 0.5: float (batch,), of the first columns alone."""
    return keras.ops.cast(keras.ops.equal(outputs[:, 0] > 0.5, targets[:, 0] > 0.5), "float32")


def build_loss(settings: LossSettings) -> Any:
    """Return the Keras loss that the settings name; raises UsageError for an unknown name, with the known ones."""
    if settings.name not in LOSSES:
        raise UsageError(f"there is no loss {settings.name!r}; known: {', '.join(LOSSES)}")
    return LOSSES[settings.name](settings)
