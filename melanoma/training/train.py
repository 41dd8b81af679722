"""The straight line from rows and cache to one fold's trained network; every step can be interrupted and resumed."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.config import Settings, TrainSettings
from melanoma.data.balance import site_weights
from melanoma.data.batches import Batch, Batches
from melanoma.data.cache import Cache
from melanoma.data.encode import learn_encoder
from melanoma.errors import DataError, MelanomaError, listed
from melanoma.evaluation.metrics import auc
from melanoma.files import previous, sha256, write_bytes, write_json, write_text
from melanoma.machine import keep_memory
from melanoma.models.backend import BACKEND, has_bfloat16, keras
from melanoma.models.classifier import build_classifier
from melanoma.models.losses import build_loss
from melanoma.runs import Run
from melanoma.training.augment import augmentation
from melanoma.training.memory import check_memory, told_if_memory_runs_out
from melanoma.training.progress import Interrupted, TrainingProgress, say, stop_requests
from melanoma.training.state import Position, has_state, load_state, read_position, save_state, weights_file

SAVE_EVERY_SECONDS = 600.0  # the most of a long epoch that a kill can cost


def train_fold(  # noqa: PLR0915  one straight line
    run: Run, fold: int, settings: Settings, *, training: pd.DataFrame, validation: pd.DataFrame, cache: Cache
) -> None:
    """Train one fold's network and leave its weights, history, encoder and state in the run.

    training, validation: tables as `melanoma.data.records` makes them, a row an image of the cache.
    Goes on where an earlier attempt stopped. Raises Interrupted after saving where the user asked for a stop,
    DataError where a class is absent in training, MelanomaError where the loss is no longer a number.
    """
    if read_position(run.state(fold)).finished:
        return
    if training["target"].nunique() < 2:
        raise DataError(f"fold {fold} has only one class among its {len(training):,} training rows: nothing to learn")

    if validation["target"].nunique() < 2 and settings.train.monitor == "val_auc":
        raise DataError(
            f"fold {fold} has only one class among its {len(validation):,} held-out rows, so there is no AUC to watch; "
            "use other folds, or --set train.monitor=val_loss"
        )

    # ---- what the training rows say of the table ---------------------------------------------------------------
    encoder = learn_encoder(training)
    write_json(run.encoder(fold), encoder.to_json())
    weights = site_weights(training)[0] if settings.balance.method == "weights" else None

    # ---- batches -----------------------------------------------------------------------------------------------
    def batches(rows: pd.DataFrame, weights: NDArray[np.float64] | None) -> Batches:
        return Batches(
            images=cache.images,
            rows=cache.rows_of(rows["image_name"]),
            targets=rows["target"].to_numpy(np.float32),
            metadata=encoder.features(rows) if settings.model.metadata else None,
            batch_size=settings.train.batch_size,
            seed=settings.seed + fold,
            weights=weights,
        )

    train, held_out = batches(training, weights), batches(validation, None)

    # ---- network, loss, optimizer ------------------------------------------------------------------------------
    keep_memory()
    keras.utils.set_random_seed(settings.seed + fold)
    keras.config.set_dtype_policy(precision(settings.train))
    prior = 0.5 if weights is not None else float(training["target"].mean())
    ready_weights = "none" if has_state(run.state(fold)) else None  # a saved state replaces them
    classifier = build_classifier(
        settings.model,
        settings.images,
        len(encoder.feature_names),
        prior=prior,
        seed=settings.seed + fold,
        weights=ready_weights,
    )
    model = _with_augmentation(classifier, settings, settings.seed + fold)
    optimizer = build_optimizer(settings.train, len(train))
    model.compile(optimizer, build_loss(settings.loss), metrics=[keras.metrics.BinaryAccuracy(name="accuracy")])
    optimizer.build(model.trainable_variables)
    check_memory(model, settings.train.batch_size)
    model.test_on_batch(*_fed(train.batch(np.arange(min(2, len(train.rows))))))  # fails early, and makes every variable

    # ---- epochs ------------------------------------------------------------------------------------------------
    position, saved = load_state(run.state(fold), model), time.monotonic()
    model.parts = position.parts
    _restore_best(run.weights(fold), position)
    epochs, steps = settings.train.epochs, len(train)
    progress = TrainingProgress(f"fold {fold}", epochs, steps, position.epoch * steps + position.step)
    with stop_requests() as stop_requested, progress as show, told_if_memory_runs_out(settings.train.batch_size):
        while not position.finished:
            order, started, first_step = train.order(position.epoch), time.monotonic(), position.step
            coming = train.ahead(order, first_step)
            for batch in map(_fed, coming):
                logs = model.train_on_batch(*batch, return_dict=True)  # of this batch alone
                if not math.isfinite(logs["loss"]):
                    names = training["image_name"].iloc[order[position.step * train.batch_size :][: train.batch_size]]
                    raise MelanomaError(_not_a_number(fold, position, list(names)))
                show.step(position.epoch, position.step, float(logs["loss"]))
                position.step += 1
                position.parts = model.parts
                position.images += len(batch[1])
                position.loss += float(logs["loss"]) * len(batch[1])
                position.right += float(logs["accuracy"]) * len(batch[1])
                if stop_requested() or time.monotonic() > saved + SAVE_EVERY_SECONDS:
                    save_state(run.state(fold), model, position)
                    saved = time.monotonic()
                if stop_requested():
                    raise Interrupted
            seconds = time.monotonic() - started
            trained = max(len(order) - first_step * train.batch_size, 0)  # none where only the validation was left
            row: dict[str, Any] = {
                "epoch": position.epoch + 1,
                "loss": position.loss / position.images,
                "accuracy": position.right / position.images,
                **validate(classifier, held_out, model.loss),
                "learning_rate": float(keras.ops.convert_to_numpy(optimizer.learning_rate)),
                "images_per_second": trained / seconds if trained else None,
                "waiting_share": coming.waited / seconds if trained else None,
            }
            best = _better(row[settings.train.monitor], position.best, settings.train.monitor)
            position.history.append(row)
            position.close_epoch()
            if best or not run.weights(fold).exists():
                position.best, position.best_epoch = row[settings.train.monitor], position.epoch
                write_bytes(run.weights(fold), weights_file(classifier), keep=True)
                position.best_sha256 = sha256(run.weights(fold))
            waited = position.epoch - position.best_epoch
            position.finished = position.epoch >= epochs or waited >= settings.train.patience
            write_text(run.history(fold), pd.DataFrame(position.history).to_csv(index=False))
            save_state(run.state(fold), model, position)
            saved = time.monotonic()
            show.epoch(row, best)
            if stop_requested():
                raise Interrupted


def _restore_best(weights: Path, position: Position) -> None:
    """Let the weights file be the one that the state knows: a kill may have come between the two.

    Where there is none such any more, the best of the coming epochs is taken.
    """
    if position.best_sha256 is None:
        return
    for path in (weights, previous(weights)):
        if path.exists() and sha256(path) == position.best_sha256:
            path.replace(weights)
            return
    say(f"note: {weights} is damaged or missing; the best of the coming epochs is taken")
    position.best = None


def precision(settings: TrainSettings) -> str:
    """Resolve `auto` to the Keras dtype policy that the device computes fastest."""
    if settings.precision == "auto":
        return "mixed_bfloat16" if has_bfloat16() else "float32"
    return settings.precision


def build_optimizer(settings: TrainSettings, steps: int) -> Any:
    """Return Adam with the learning-rate schedule of the settings, for epochs of `steps` steps.

    inverse_time is Keras' old `Adam(decay=rate / epochs)`: rate / (1 + decay * step). cosine rises over the warm-up,
    then falls to 0 as half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983).
    """
    schedules = keras.optimizers.schedules
    rate: Any = settings.learning_rate
    if settings.schedule == "inverse_time":
        rate = schedules.InverseTimeDecay(settings.learning_rate, 1, settings.learning_rate / settings.epochs)
    if settings.schedule == "cosine":
        warmup = min(round(settings.warmup_epochs * steps), settings.epochs * steps - 1)
        rate = schedules.CosineDecay(
            0.0 if warmup else settings.learning_rate,
            settings.epochs * steps - warmup,
            warmup_target=settings.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    adam: Any = keras.optimizers.Adam
    if BACKEND == "torch":
        from melanoma.training.adam import FusedAdam

        adam = FusedAdam
    return adam(rate, weight_decay=settings.weight_decay or None)


def validate(classifier: Any, held_out: Batches, loss: Any) -> dict[str, float | None]:
    """Return loss, accuracy at 0.5 and AUC (None where a class is absent) on the held-out rows."""
    coming = held_out.ahead(np.arange(len(held_out.rows)))
    probabilities = np.concatenate(
        [keras.ops.convert_to_numpy(classifier.predict_on_batch(inputs)) for inputs, _ in map(_fed, coming)]
    )
    targets = held_out.targets[:, None]
    return {
        "val_loss": float(keras.ops.convert_to_numpy(loss(targets, probabilities))),
        "val_accuracy": float(np.mean((probabilities > 0.5) == (targets > 0.5))),
        "val_auc": auc(held_out.targets, probabilities[:, 0]),
    }


def _with_augmentation(classifier: Any, settings: Settings, seed: int) -> Any:
    image = keras.Input((settings.images.size_px, settings.images.size_px, 3), name="image", dtype="uint8")
    x = image
    for layer in augmentation(settings.augment, seed):
        x = layer(x)
    kind: Any = keras.Model
    if BACKEND == "torch":
        from melanoma.training.halving import HalvingModel

        kind = HalvingModel
    if not settings.model.metadata:
        return kind(image, classifier(x))
    metadata = keras.Input(classifier.inputs[1].shape[1:], name="metadata", dtype="float32")
    return kind([image, metadata], classifier([x, metadata]))


def _fed(batch: Batch) -> tuple[Any, NDArray[np.float32]]:
    """Bring a batch into the form that a Keras model takes: a lone input stands without a list."""
    inputs, targets = batch
    return (inputs if len(inputs) > 1 else inputs[0]), targets


def _better(value: float | None, best: float | None, monitor: str) -> bool:
    """Tell whether a value beats the best so far; a value that is undefined beats nothing."""
    if value is None or best is None:
        return value is not None
    return value < best if monitor == "val_loss" else value > best


def _not_a_number(fold: int, position: Position, names: list[str]) -> str:
    return (
        f"the loss of fold {fold} is no longer a number at epoch {position.epoch + 1}, step {position.step + 1} "
        f"(images {listed(names)}); the weights of the best epoch are kept. Try a lower train.learning_rate"
    )
