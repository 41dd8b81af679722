"""The whole job: prepare, train, export, score, evaluate, submit. Each step takes files and leaves files.

What imports a deep-learning framework stands inside the steps that build a network: the others are quick without it.
"""

import json
import os
import platform
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.bundling import bundle_runs, check_bundling, encoder_of, export, report_beside
from melanoma.compare import noise_in_words, noise_of
from melanoma.config import Settings, load_settings
from melanoma.data.cache import Cache
from melanoma.data.encode import Encoder
from melanoma.errors import MelanomaError, UsageError
from melanoma.files import read_json, replacing_folder, write_json
from melanoma.inference.bundle import SUMS, Bundle, check_place, read_bundle, write_bundle
from melanoma.inference.engine import Engine, choose
from melanoma.inference.scoring import score
from melanoma.inference.submission import examine_submission, write_submission
from melanoma.judge import PREDICTION_COLUMNS, answered, read_predictions, told, write_table
from melanoma.judge_run import Trained, judge_run
from melanoma.machine import cores, installed_version
from melanoma.places import as_place, is_folder
from melanoma.prepare import Prepared, prepare
from melanoma.runs import CACHE, Run, create_run, default_name, open_run
from melanoma.training.gate import Lesions, chosen_lesions, learn_gate
from melanoma.training.progress import Interrupted, counting, note
from melanoma.training.team import team, telling


def run(
    data: Path | str,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    runs: Path | str = "runs",
    devices: int | None = None,
) -> Run:
    """Do the whole job: from a dataset folder to networks, a report and a submission file.

    recipe: a recipe's name or a TOML file, by default `gpu` where there is one, else `cpu`. overrides:
    "section.key=value" each. name: of the run, by default recipe and UTC time. runs: the folder that runs and the
    image cache are kept in. devices: as for `training_on`. Raises MelanomaError, and Interrupted after saving where
    Ctrl-C was pressed.
    """
    with training_on(devices):
        begun = start(data, recipe, overrides, name=name, runs=runs)
        finish(begun)
    return begun


def resume(folder: Path | str, devices: int | None = None) -> Run:
    """Go on with a run from where it stands to its report; raises MelanomaError where the folder is no run."""
    with training_on(devices):
        opened = open_run(Path(folder))
        finish(opened)
    return opened


@contextmanager
def training_on(devices: int | None) -> Iterator[None]:
    """Train on so many devices by JAX, and with the other processes where a job started several; None: on one, alone.

    Raises what `melanoma.training.parallel.join` raises, and MelanomaError where another process is lost.
    """
    if devices is None:
        yield
        return
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from melanoma.training.parallel import join, leave

    join(devices)
    with telling():
        try:
            yield
        except Interrupted:  # all of them, after the same step
            leave()
            raise
        finally:
            if team.processes == 1:  # else the others may be gone
                leave()


def start(
    data: Path | str,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    runs: Path | str = "runs",
) -> Run:
    """Create a run folder for a dataset, as `run` does; nothing is written where an argument is wrong."""
    asked = json.dumps([str(data), recipe, list(overrides), name, team.devices])
    data, runs, recipe = as_place(data), Path(runs), recipe or default_recipe()
    team.check_same(asked, "what is to be trained (DATA, recipe, settings, name, devices) is")
    name = team.told(name or default_name(recipe))
    with team.leading():
        if not team.leads:
            return _seen(runs / name)
        return _created(data, recipe, overrides, name, runs)


def _created(data: Path, recipe: str, overrides: Sequence[str], name: str, runs: Path) -> Run:
    from melanoma.models.backbones import build_backbone, check_weights
    from melanoma.models.losses import build_loss

    settings = _resolved(load_settings(recipe, overrides))
    if not is_folder(data):
        raise MelanomaError(f"the dataset folder {data} is not there")
    if settings.folds.file and not Path(settings.folds.file).is_file():
        raise MelanomaError(f"the fold file {settings.folds.file} is not there")
    team.check_batch(settings.train.batch_size)
    build_loss(settings.loss)
    check_weights(settings.model)
    build_backbone(settings.model, settings.images.size_px)  # weights that cannot be had fail now, not after an hour
    if min(settings.sides_px) < settings.images.size_px:  # and so do images that are too small for the network
        build_backbone(settings.model, min(settings.sides_px), weights="none")
    command = ["melanoma", "run", str(data), "--recipe", recipe, *(f"--set={override}" for override in overrides)]
    return create_run(
        runs,
        name,
        settings,
        environment={"command": shlex.join(command), **environment(settings)},
        data={"folder": str(data.resolve()), "cache": str((runs / CACHE).resolve())},
    )


def _seen(folder: Path) -> Run:
    """Open the run that the first process has created."""
    if not folder.is_dir():
        raise MelanomaError(
            f"{folder} is not seen here: --runs must lie on a file system that all processes share, and DATA too"
        )
    return open_run(folder)


def default_recipe() -> str:
    """Name the recipe for this machine, and say so."""
    from melanoma.models.backend import has_gpu

    recipe = "gpu" if has_gpu() else "cpu"
    note(f"no recipe given; using {recipe}")
    return recipe


def finish(run: Run) -> None:
    """Take a run from wherever it stands to its report and submission file; raises what the steps raise."""
    with holding(run):
        settings = run.settings()

        # ---- prepare: table, pixels, duplicates, folds -----------------------------------------------------------
        prepared = reopen(run, settings)

        # ---- train: a network for each fold ----------------------------------------------------------------------
        train(run, settings, prepared)
        if not team.leads:
            return

        # ---- export: the networks as one bundle that needs no framework ------------------------------------------
        export(run, settings, prepared)

        # ---- score: every held-out and every test image, by the bundle -------------------------------------------
        score_run(run, settings, prepared)

        # ---- evaluate: the figures and the page ------------------------------------------------------------------
        evaluate(run, settings, prepared)

        # ---- seal: into the bundle what turns its scores into answers --------------------------------------------
        seal(run, settings, prepared)

        # ---- submit: the competition's file ----------------------------------------------------------------------
        submit(run, prepared)


def holding(run: Run) -> AbstractContextManager[None]:
    """Hold a run for this process, or for the one that leads it."""
    return run.held() if team.leads else nullcontext()


def reopen(run: Run, settings: Settings) -> Prepared:
    """Prepare a run's data, or find it prepared; raises MelanomaError where the tables changed since the run began."""
    with team.leading():
        prepared = _reopened(run, settings)
    team.meet()
    return prepared


def _reopened(run: Run, settings: Settings) -> Prepared:
    known = read_json(run.data)
    folder, cache, hashes = as_place(known["folder"]), Path(known["cache"]), known.get("hashes")
    try:
        prepared = prepare(folder, settings, cache, run.folds, known=hashes, counting=counting)
    except MelanomaError:
        if hashes is None and team.leads:  # nothing has come of it yet: its name is free once the data is mended
            shutil.rmtree(run.folder)
            note(f"{run.folder} is removed again, as nothing came of it; mend what follows and run the same command")
        raise
    if not team.leads:
        return prepared
    for remark in prepared.remarks if hashes is None else []:
        note(remark)
    write_json(run.data, known | {"hashes": prepared.hashes, "remarks": prepared.remarks})
    return prepared


def train(run: Run, settings: Settings, prepared: Prepared) -> None:
    """Train each fold's network; a finished fold is left as it is, an interrupted one goes on."""
    from melanoma.models.backend import BACKEND
    from melanoma.training.train import train_fold

    team.check_batch(settings.train.batch_size)
    began_on = read_json(run.environment)["backend"]
    if began_on != BACKEND:
        note(f"this run began on {began_on} and goes on with {BACKEND}: its weights will not be bit for bit the same")
    with nullcontext() if team.distribution is None else team.distribution.scope():
        for fold in range(prepared.folds):
            rows = {"training": prepared.training(fold, settings), "validation": prepared.held_out(fold)}
            train_fold(run, fold, settings, **rows, cache=prepared.cache, larger=prepared.larger)
    if team.distribution is not None:
        from melanoma.training.parallel import leave

        leave()


def score_run(run: Run, settings: Settings, prepared: Prepared) -> None:
    """Write the out-of-fold and the test probabilities, computed by the bundle."""
    bundle = read_bundle(run.bundle)
    choice = choose(settings.evaluate.engine, settings.evaluate.precision)
    note(f"scoring by {choice}")
    write_json(run.environment, read_json(run.environment) | {"scored_by": str(choice)})
    held_out, test, threshold = [], [], settings.evaluate.threshold
    for fold, path in enumerate(bundle.networks_in(choice.precision)):
        engine, encoder = Engine(path, choice), encoder_of(run, fold)
        # rows that balance left out are scored too where their patient is held out
        rows = prepared.table[prepared.fold == fold] if _balanced_first(settings) else prepared.held_out(fold)
        probabilities = _score(engine, encoder, settings, rows, cache=prepared.cache, what=f"scoring fold {fold}")
        held_out.append(rows[["image_name", "patient_id", "target"]].assign(fold=fold, probability=probabilities))
        if prepared.test is not None and prepared.test_cache is not None:
            for remark in encoder.unseen(prepared.test):
                note(remark)
            what = f"scoring test by network {fold}"
            test.append(_score(engine, encoder, settings, prepared.test, cache=prepared.test_cache, what=what))
    everything = answered(pd.concat(held_out).sort_index(), threshold)
    validated = everything[prepared.kept[everything.index]]
    write_table(run.predictions, validated[PREDICTION_COLUMNS])
    if _balanced_first(settings):
        write_table(run.held_out_predictions, everything[PREDICTION_COLUMNS])
    if prepared.test is not None:
        ids = prepared.test[["image_name", "patient_id"]]
        write_table(run.test_predictions, answered(ids.assign(probability=np.mean(test, axis=0)), threshold))


def evaluate(run: Run, settings: Settings, prepared: Prepared) -> None:
    """Write what a sceptic asks for: calibrated answers, metrics.json, figures, report, model card."""
    judge_run(run, [_trained(run, settings, prepared)])


def _trained(run: Run, settings: Settings, prepared: Prepared) -> Trained:
    choice = choose(settings.evaluate.engine, settings.evaluate.precision)
    return Trained(read_bundle(run.bundle), choice, settings, prepared)


def seal(run: Run, settings: Settings, prepared: Prepared) -> Bundle:
    """Write into the bundle what turns its scores into answers, all of it learned from held-out images.

    Calibration, thresholds and figures are those of calibration.json and metrics.json; the gate, which turns pictures
    away that are no lesions, is learned here, once for the same networks.
    """
    bundle = read_bundle(run.bundle)
    description, gate = bundle.description, bundle.gate
    if description["gate"] is None:
        note("learning what lesion photographs look like, to turn other pictures away")
        gate, description["gate"] = learn_gate(
            _lesions(bundle, settings, prepared), len(bundle.networks), settings.seed
        )
    description |= told(
        read_json(run.metrics), read_json(run.calibration), settings.evaluate.threshold, [settings.images.size_px]
    )
    description["runs"][0]["views"] = settings.evaluate.views  # those of the scores that were judged
    return write_bundle(run.bundle, bundle.network_files, description, run.card.read_text(encoding="utf-8"), gate)


def export_judged(run: Run, settings: Settings, prepared: Prepared) -> Bundle:
    """Write a trained run's bundle with all that its answers need; what is there already is kept."""
    bundle = export(run, settings, prepared)
    if bundle.answers is not None:
        return bundle
    score_run(run, settings, prepared)
    evaluate(run, settings, prepared)
    return seal(run, settings, prepared)


def export_runs(runs: Sequence[Run], folder: Path) -> Bundle:
    """Write the bundles of several runs as one, which answers by their mean; each run is exported first where needed.

    The mean is judged on the images that every run has held out; its report is written beside `folder`.
    Raises DataError where the runs are not of one dataset, or share too few held-out images.
    """
    check_bundling(runs, folder)
    trained = []
    with ExitStack() as held:
        for run in runs:
            held.enter_context(run.held())
            settings = run.settings()
            prepared = reopen(run, settings)
            export_judged(run, settings, prepared)
            trained.append(_trained(run, settings, prepared))
        bundle = bundle_runs(runs, trained, folder)
    submit(report_beside(folder), trained[0].prepared)
    note(f"their mean is judged in {report_beside(folder).report}")
    return bundle


def publish(model: Path, address: str) -> str:
    """Copy a bundle, or a run's bundle, into a folder or to hf://owner/name; return where it is now."""
    bundle = read_bundle(model)
    if address.startswith("hf:"):
        from melanoma.inference.hub import push_bundle

        return push_bundle(bundle.folder, address, bundle.description["data"]["licence"] or None)
    check_place(Path(address))
    if Path(address).resolve().is_relative_to(bundle.folder.resolve()):
        raise UsageError(f"{address} lies in the bundle itself; give another place")
    with replacing_folder(Path(address)) as aside:
        for name in (SUMS, *bundle.files):
            shutil.copyfile(bundle.folder / name, aside / name)
    return str(read_bundle(Path(address)).folder)


def submit(run: Run, prepared: Prepared) -> None:
    """Write the competition's file from the test probabilities; a dataset without a test table has none."""
    if prepared.test is None:
        note("the dataset has no test.csv, so there is no submission.csv")
        return
    if not run.test_predictions.exists():
        raise MelanomaError(f"{run.test_predictions} is not there; first: melanoma resume {run.folder}")
    predictions = pd.read_csv(run.test_predictions, dtype={"image_name": str})
    expected = list(prepared.test["image_name"])
    write_submission(run.submission, expected, list(predictions["image_name"]), list(predictions["probability"]))
    for finding in examine_submission(run.submission, expected):
        note(f"{run.submission.name}: {finding.text}")
    if run.predictions.exists():
        held_out = read_predictions(run.predictions)
        note(noise_in_words(noise_of(held_out["target"], held_out["probability"], len(expected))))


def environment(settings: Settings) -> dict[str, Any]:
    """Describe what a run is made with: versions, machine, backend, precision."""
    from melanoma.models.backend import BACKEND

    packages = ["melanoma", "keras", BACKEND, "numpy", "pandas", "pillow", "opencv-python-headless"]
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": cores(),
        "backend": BACKEND,
        "devices": team.devices,
        "processes": team.processes,
        "precision": settings.train.precision,
        "versions": {package: installed_version(package) for package in [*packages, "onnxruntime", "openvino"]},
    }


def _resolved(settings: Settings) -> Settings:
    """Pin what would otherwise depend on where and when a run is resumed: paths, precisions, and what scores.

    Which precision scores faster is found by timing, so a busy machine may choose otherwise each time.
    """
    from melanoma.training.train import precision

    model, folds = settings.model, settings.folds
    if model.weights not in ("imagenet", "none"):
        model = model.model_copy(update={"weights": str(Path(model.weights).expanduser().resolve())})
    if folds.file:
        folds = folds.model_copy(update={"file": str(Path(folds.file).expanduser().resolve())})
    train = settings.train.model_copy(update={"precision": precision(settings.train)})
    choice = choose(settings.evaluate.engine, settings.evaluate.precision)
    evaluating = settings.evaluate.model_copy(update={"engine": choice.engine, "precision": choice.precision})
    return settings.model_copy(update={"model": model, "folds": folds, "train": train, "evaluate": evaluating})


def _lesions(bundle: Bundle, settings: Settings, prepared: Prepared) -> Lesions:
    """Gather held-out images, each with the features that a network has of it that was not trained on it."""
    kept = np.flatnonzero(prepared.kept & (prepared.fold >= 0))
    kept = kept[chosen_lesions(prepared.fold[kept], settings.seed)]
    rows, network = prepared.table.iloc[kept], prepared.fold[kept].astype(np.int64)
    places, cache = prepared.cache.rows_of(rows["image_name"]), prepared.cache
    choice = choose(settings.evaluate.engine, settings.evaluate.precision)
    features: list[Any] = [None] * len(kept)
    for fold, path in enumerate(bundle.networks_in(choice.precision)):
        held = np.flatnonzero(network == fold)
        metadata = bundle.encoders[fold].features(rows.iloc[held]) if settings.model.metadata else None
        output = Engine(path, choice).answer(cache.images[places[held]], metadata)
        for row, values in zip(held, output.features, strict=True):
            features[row] = values
    sides = cache.index[["width", "height"]].min(axis=1).to_numpy()[places]
    images = [cache.images[place] for place in places]
    group = prepared.group[kept]
    return Lesions(cache.thumbnails[places], images, group, sides, network, np.stack(features))


def _balanced_first(settings: Settings) -> bool:
    return settings.balance.method == "rows_before_folds"


def _score(
    engine: Engine, encoder: Encoder, settings: Settings, rows: pd.DataFrame, *, cache: Cache, what: str
) -> NDArray[np.float64]:
    metadata = encoder.features(rows) if settings.model.metadata else None
    with counting(what, "images") as show:
        places = cache.rows_of(rows["image_name"])
        return score(engine, cache.images, places, metadata, views=settings.evaluate.views, progress=show)
