"""The smallest settings with which the whole job still learns something."""

TINY = [
    "images.size_px=32",
    "model.backbone=small",
    "model.weights=none",
    "train.epochs=2",
    "train.batch_size=16",
    "evaluate.bootstrap_samples=100",
    "evaluate.views=1",
]
