"""The classifier: a backbone, global average pooling, a Dense sigmoid; where asked, a metadata tower beside it."""

import math
from typing import Any

from melanoma.config import ImageSettings, ModelSettings
from melanoma.models.backbones import build_backbone, scaling_layers
from melanoma.models.backend import keras


def build_classifier(
    settings: ModelSettings,
    images: ImageSettings,
    metadata_features: int = 0,
    *,
    prior: float = 0.5,
    seed: int = 0,
    weights: str | None = None,
    plain: bool = False,
    any_size: bool = False,
) -> Any:
    """Build the Keras model that gives the probability of melanoma.

    Inputs: `image` float32 (batch, size_px, size_px, 3), or of any size, in [0, 255] and, with the metadata tower,
    `metadata` float32 (batch, metadata_features). Output: float32 (batch, 1) in [0, 1]. The last bias starts at the
    logit of `prior`. The logit is the image's share plus the table's, so an activation map tells where the former came
    from.
    weights, plain: as for `build_backbone`, which also tells what is raised.
    """
    layers, full = keras.layers, keras.config.floatx()  # the precision of what is not computed in mixed_bfloat16
    side = None if any_size else images.size_px
    image = keras.Input((side, side, 3), name="image", dtype=full)
    x = image
    for layer in scaling_layers(settings.backbone):
        x = layer(x)
    backbone = build_backbone(settings, side, weights, plain)
    for layer in backbone.layers[: round(settings.frozen_share * len(backbone.layers))]:
        layer.trainable = False
    feature_map = backbone(x)
    features = layers.GlobalAveragePooling2D(dtype=full, name="features")(feature_map)
    if settings.dropout:
        # without a seed of its own Keras on PyTorch draws from a state that no checkpoint holds
        features = layers.Dropout(settings.dropout, seed=seed, dtype=full)(features)
    start = keras.initializers.Constant(math.log(prior / (1 - prior)))
    logit = layers.Dense(1, bias_initializer=start, dtype=full, name="image_logit")(features)
    inputs = [image]
    if settings.metadata:
        metadata = keras.Input((metadata_features,), name="metadata", dtype=full)
        tower = layers.Dense(32, activation="relu", dtype=full, name="metadata_hidden")(metadata)
        share = layers.Dense(1, use_bias=False, dtype=full, name="metadata_logit")(tower)
        logit = layers.Add(dtype=full, name="logit")([logit, share])
        inputs.append(metadata)
    probability = layers.Activation("sigmoid", dtype=full, name="probability")(logit)
    return keras.Model(inputs if len(inputs) > 1 else image, probability, name="classifier")


def answering(classifier: Any) -> Any:
    """Return the same network answering with what a bundle gives: logit, activation map and features.

    Outputs: logit float32 (batch, 1); activation_map float32 (batch, height, width, 1), each place's share of the
    logit, whose mean is the image's logit (Zhou et al. 2016, arXiv:1512.04150); features float32 (batch, channels).
    """
    pooling = classifier.get_layer("features")
    feature_map = keras.ops.cast(pooling.input, keras.config.floatx())
    activation_map = classifier.get_layer("image_logit")(feature_map)
    logit = classifier.get_layer("probability").input
    inputs = classifier.inputs if len(classifier.inputs) > 1 else classifier.inputs[0]
    return keras.Model(inputs, [logit, activation_map, pooling.output])
