"""The straight line from rows and cache to one fold's trained network; every step can be interrupted and resumed."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.config import Settings, TrainSettings
from melanoma.data.balance import site_weights
from melanoma.data.batches import Batch, Batches
from melanoma.data.cache import Cache
from melanoma.data.encode import NOTHING_KNOWN, encode_diagnoses, learn_encoder
from melanoma.errors import DataError, MelanomaError, UsageError, listed
from melanoma.evaluation.metrics import auc
from melanoma.files import previous, sha256, write_bytes, write_json, write_text
from melanoma.machine import keep_memory
from melanoma.models.backend import BACKEND, has_bfloat16, keras, set_precision
from melanoma.models.classifier import build_classifier
from melanoma.models.losses import accuracy, build_loss, with_diagnosis
from melanoma.runs import Run
from melanoma.training.augment import augmentation
from melanoma.training.memory import check_memory, told_if_memory_runs_out
from melanoma.training.parallel import TogetherModel, scored_together
from melanoma.training.progress import Interrupted, TrainingProgress, say, stop_requests
from melanoma.training.state import Position, has_state, load_state, read_position, save_state, weights_file
from melanoma.training.team import team

SAVE_EVERY_SECONDS = 600.0  # the most of a long epoch that a kill can cost


def train_fold(  # noqa: PLR0912, PLR0915  one straight line
    run: Run,
    fold: int,
    settings: Settings,
    *,
    training: pd.DataFrame,
    validation: pd.DataFrame,
    cache: Cache,
    larger: Cache | None = None,
) -> None:
    """Train one fold's network and leave its weights, history, encoder and state in the run.

    training, validation: tables as `melanoma.data.records` makes them, a row an image of the cache. larger: the same
    images as training views are drawn from them, where they are larger.
    Goes on where an earlier attempt stopped. Raises Interrupted after saving where the user asked for a stop,
    DataError where a class is absent in training, MelanomaError where the loss is no longer a number.
    """
    standing = read_position(run.state(fold))
    team.check_same(f"epoch {standing.epoch}, step {standing.step}", f"{run.state(fold)} is")
    if standing.finished:
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
    if team.leads:
        write_json(run.encoder(fold), encoder.to_json())
    weights = site_weights(training)[0] if settings.balance.method == "weights" else None
    share = settings.loss.diagnosis_share
    diagnoses, diagnosis_names = encode_diagnoses(training) if share else (None, [])

    # ---- batches -----------------------------------------------------------------------------------------------
    def batches(rows: pd.DataFrame, weights: NDArray[np.float64] | None, cache: Cache) -> Batches:
        return Batches(
            images=cache.images,
            rows=cache.rows_of(rows["image_name"]),
            targets=rows["target"].to_numpy(np.float32),
            metadata=encoder.features(rows) if settings.model.metadata else None,
            batch_size=settings.train.batch_size,
            seed=settings.seed + fold,
            weights=weights,
        )

    train, held_out = batches(training, weights, larger or cache), batches(validation, None, cache)
    train = replace(train, diagnoses=diagnoses, share=team.share)
    if settings.model.hidden_share:
        nothing = encoder.features(NOTHING_KNOWN)[0]
        train = replace(train, hidden_share=settings.model.hidden_share, nothing_known=nothing)

    # ---- network, loss, optimizer ------------------------------------------------------------------------------
    keep_memory()
    keras.utils.set_random_seed(settings.seed + fold)
    set_precision(precision(settings.train))
    prior = 0.5 if weights is not None else float(training["target"].mean())
    ready_weights = "none" if has_state(run.state(fold)) else None  # a saved state replaces them
    build = partial(build_classifier, settings.model, settings.images, len(encoder.feature_names), prior=prior)
    classifier = build(seed=settings.seed + fold, weights=ready_weights, any_size=settings.any_size)
    model = _with_augmentation(classifier, settings, settings.seed + fold, len(diagnosis_names))
    optimizer = build_optimizer(settings.train, len(train))
    loss = build_loss(settings.loss)
    right = keras.metrics.MeanMetricWrapper(accuracy, name="accuracy")
    model.compile(optimizer, with_diagnosis(loss, share) if share else loss, metrics=[right])
    optimizer.build(model.trainable_variables)
    largest = settings.images.model_copy(update={"size_px": max(settings.sides_px)})
    check_memory(
        build_classifier(settings.model, largest, len(encoder.feature_names), weights="none")
        if settings.any_size
        else model,
        settings.train.batch_size // team.processes,
    )
    score = _scoring(classifier, settings.train.batch_size)
    few = np.arange(min(2, len(train.rows)))
    team.deal(len(few))
    model.test_on_batch(*_fed(train.batch(few)))  # fails early, and makes every variable

    # ---- epochs ------------------------------------------------------------------------------------------------
    position, saved = load_state(run.state(fold), model), time.monotonic()
    model.parts = position.parts
    lost = team.leads and not _restore_best(run.weights(fold), position)
    position.best = None if team.anyone(lost) else position.best  # the best of the coming epochs is taken
    epochs, steps = settings.train.epochs, len(train)
    progress = TrainingProgress(f"fold {fold}", epochs, steps, position.epoch * steps + position.step)
    with stop_requests() as stop_requested, progress as show, told_if_memory_runs_out(settings.train.batch_size):
        while not position.finished:
            order, started, first_step = train.order(position.epoch), time.monotonic(), position.step
            coming = train.ahead(order, first_step)
            _set_side(model, side_of(settings, position.epoch))
            for batch in map(_fed, coming):
                rows = train.chosen(order, position.step)
                team.deal(len(rows))
                logs = model.train_on_batch(*batch, return_dict=True)  # of this batch alone
                if not math.isfinite(logs["loss"]):
                    raise MelanomaError(_not_a_number(fold, position, list(training["image_name"].iloc[rows])))
                show.step(position.epoch, position.step, float(logs["loss"]))
                position.step += 1
                position.parts = model.parts
                position.images += len(rows)
                position.loss += float(logs["loss"]) * len(rows)
                position.right += float(logs["accuracy"]) * len(rows)
                stop = team.anyone(stop_requested())
                if team.leads and (stop or time.monotonic() > saved + SAVE_EVERY_SECONDS):
                    save_state(run.state(fold), model, position)
                    saved = time.monotonic()
                if stop:
                    raise Interrupted
            seconds = time.monotonic() - started
            trained = max(len(order) - first_step * train.batch_size, 0)  # none where only the validation was left
            with averaged(model):
                judged = validate(score(held_out), held_out, loss)
                watched = judged.get(settings.train.monitor)
                best = settings.train.monitor == "none" or _better(watched, position.best, settings.train.monitor)
                keep = team.anyone(best or (team.leads and not run.weights(fold).exists()))
                to_keep = weights_file(classifier) if keep and team.leads else None
            row: dict[str, Any] = {
                "epoch": position.epoch + 1,
                "loss": position.loss / position.images,
                "accuracy": position.right / position.images,
                **judged,
                "learning_rate": float(keras.ops.convert_to_numpy(optimizer.learning_rate)),
                "images_per_second": trained / seconds if trained else None,
                "waiting_share": coming.waited / seconds if trained else None,
            }
            position.history.append(row)
            position.close_epoch()
            if keep:
                position.best, position.best_epoch = watched, position.epoch
            waited = position.epoch - position.best_epoch
            position.finished = position.epoch >= epochs or waited >= settings.train.patience
            if to_keep is not None:
                write_bytes(run.weights(fold), to_keep, keep=True)
                position.best_sha256 = sha256(run.weights(fold))
            if team.leads:
                write_text(run.history(fold), pd.DataFrame(position.history).to_csv(index=False))
                save_state(run.state(fold), model, position)
            saved = time.monotonic()
            show.epoch(row, best and settings.train.monitor != "none")
            if team.anyone(stop_requested()):
                raise Interrupted


def _restore_best(weights: Path, position: Position) -> bool:
    """Let the weights file be the one that the state knows: a kill may have come between the two.

    Returns whether there is such a file, or none was written yet.
    """
    if position.best_sha256 is None:
        return True
    for path in (weights, previous(weights)):
        if path.exists() and sha256(path) == position.best_sha256:
            path.replace(weights)
            return True
    say(f"note: {weights} is damaged or missing; it is written anew in the coming epochs")
    return False


def precision(settings: TrainSettings) -> str:
    """Resolve `auto` to the Keras dtype policy that the device computes fastest."""
    if settings.precision == "auto":
        return "mixed_bfloat16" if has_bfloat16() else "float32"
    if settings.precision == "float64" and BACKEND != "jax":
        raise UsageError(f"train.precision = float64 is for JAX, and Keras runs on {BACKEND}: set KERAS_BACKEND=jax")
    return settings.precision


def build_optimizer(settings: TrainSettings, steps: int) -> Any:
    """Return the optimizer with the learning-rate schedule of the settings, for epochs of `steps` steps.

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
    average = settings.averaging or None
    others: dict[str, Any] = {"weight_decay": settings.weight_decay or None}
    others |= {"use_ema": bool(average), "ema_momentum": average or 0.99}
    if settings.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, **others)
    if BACKEND == "torch":
        from melanoma.training.adam import FusedAdam

        return FusedAdam(rate, **others)
    return keras.optimizers.Adam(rate, **others)


@contextmanager
def averaged(model: Any) -> Iterator[None]:
    """Let a model have the moving average of its weights for a while, where its optimizer keeps one.

    Source: Polyak and Juditsky 1992, doi:10.1137/0330046.
    """
    if not model.optimizer.use_ema:
        yield
        return
    variables = model.trainable_variables
    kept = _values(variables)
    model.optimizer.finalize_variable_values(variables)
    _assign(variables, _values(variables))  # own copies: JAX frees what it has answered with, and so the average itself
    try:
        yield
    finally:
        _assign(variables, kept)


def _values(variables: list[Any]) -> list[NDArray[Any]]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables: list[Any], values: list[NDArray[Any]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def side_of(settings: Settings, epoch: int) -> int:
    """Tell the side that an epoch's images are trained at, pixels."""
    sizes = settings.sides_px
    return sizes[epoch * len(sizes) // settings.train.epochs]


def _scoring(classifier: Any, batch_size: int) -> Callable[[Batches], NDArray[np.float32]]:
    """Return what gives a network's probabilities for rows, float32 (rows, 1)."""
    if team.distribution is not None:
        return scored_together(classifier, batch_size)

    def score(rows: Batches) -> NDArray[np.float32]:
        coming = rows.ahead(np.arange(len(rows.rows)))
        answers = [classifier.predict_on_batch(inputs) for inputs, _ in map(_fed, coming)]
        return np.concatenate([keras.ops.convert_to_numpy(one) for one in answers])

    return score


def validate(probabilities: NDArray[np.float32], held_out: Batches, loss: Any) -> dict[str, float | None]:
    """Return loss, accuracy at 0.5 and AUC (None where a class is absent) on the held-out rows."""
    targets = held_out.targets[:, None]
    return {
        "val_loss": float(keras.ops.convert_to_numpy(loss(targets, probabilities))),
        "val_accuracy": float(np.mean((probabilities > 0.5) == (targets > 0.5))),
        "val_auc": auc(held_out.targets, probabilities[:, 0]),
    }


def _with_augmentation(classifier: Any, settings: Settings, seed: int, diagnoses: int = 0) -> Any:
    """Put before a classifier what changes its images, and beside its answer one that names so many diagnoses."""
    image = keras.Input((settings.largest_px, settings.largest_px, 3), name="image", dtype="uint8")
    x = image
    for layer in augmentation(settings.augment, seed, side_of(settings, 0), any_size=settings.any_size):
        x = layer(x)
    kind: Any = keras.Model if team.distribution is None else TogetherModel
    if BACKEND == "torch":
        from melanoma.training.halving import HalvingModel

        kind = HalvingModel
    inputs, given = image, x
    if settings.model.metadata:
        metadata = keras.Input(classifier.inputs[1].shape[1:], name="metadata", dtype=keras.config.floatx())
        inputs, given = [image, metadata], [x, metadata]
    if not diagnoses:
        return kind(inputs, classifier(given))
    told = keras.Model(classifier.inputs, [classifier.output, classifier.get_layer("features").output])
    probability, features = told(given)
    named = keras.layers.Dense(diagnoses, activation="softmax", dtype=keras.config.floatx(), name="diagnosis")(features)
    both = keras.layers.Concatenate(dtype=keras.config.floatx(), name="both")([probability, named])
    return kind(inputs, both)


def _set_side(model: Any, side: int) -> None:
    """Let a model be trained on images of that size from here on."""
    view = model.get_layer("random_view")
    if side != view.side:
        view.side = side
        model.make_train_function(force=True)  # which a backend may have compiled for the size before


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
        f"(images {listed(names)}); what earlier epochs left is kept. Try a lower train.learning_rate"
    )
