"""A run's trained networks to its bundle, each proven equal to what was trained, or several runs' bundles to one."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from melanoma import RESEARCH_ONLY
from melanoma.compare import names_of
from melanoma.config import Settings
from melanoma.data.encode import Encoder
from melanoma.errors import DataError, MelanomaError, MissingExtraError, ModelError, UsageError, listed
from melanoma.evaluation.blend import common_rows
from melanoma.files import folder_aside, read_json, replacing_folder, sha256, write_json
from melanoma.inference.assess import Gate
from melanoma.inference.bundle import SUMS, Bundle, check_place, code_hash, read_bundle, write_bundle
from melanoma.inference.engine import Precision
from melanoma.judge import PREDICTION_COLUMNS, answered, seen_by_networks, told, write_table
from melanoma.judge_run import Trained, judge_run
from melanoma.machine import installed_version
from melanoma.prepare import Prepared
from melanoma.runs import Run
from melanoma.training.progress import note, say
from melanoma.training.quantize import CALIBRATION_IMAGES, measured_loss, quantize_network, remarks_on, shrink_network
from melanoma.training.state import read_position

LIMIT_OF_A_MEAN = (
    "The figures are of the mean over runs, in each of which one network judged patients that it was not trained on; "
    "where a run has several networks they answer together, which was not measured and is rarely worse."
)
COMPARED_IMAGES = 200  # that an exported network is proven equal on
EXPORT_ALONE = (
    "import sys; from pathlib import Path; from melanoma import bundling, pipeline, runs; "
    "from melanoma.config import Settings; "
    "run = runs.open_run(Path(sys.argv[1])); settings = Settings.model_validate_json(sys.argv[2]); "
    "bundling.export(run, settings, pipeline.reopen(run, settings))"
)


def export(run: Run, settings: Settings, prepared: Prepared) -> Bundle:
    """Write each fold's network into the run's bundle, proven equal on held-out images; a bundle of these is kept.

    What is lost where weights are then kept in fewer bits, or all is computed in int8, is measured.

    Raises MelanomaError where a fold is not trained to its end.
    """
    folds = range(prepared.folds)
    positions = {fold: read_position(run.state(fold)) for fold in folds}
    unfinished = [str(fold) for fold, position in positions.items() if not position.finished]
    if unfinished:
        raise MelanomaError(
            f"fold {', '.join(unfinished)} is not trained to its end; first: melanoma resume {run.folder}"
        )
    weights = {fold: _checked_weights(run, fold, positions[fold].best_sha256) for fold in folds}
    if (bundle := _exported(run)) is not None:
        known = bundle.description["networks"]
        computed, storage = settings.evaluate.precision == "int8", settings.evaluate.storage
        as_wanted = all(("int8" in one or not computed) and _storage(one) == storage for one in known)
        if {network["fold"]: network["weights"] for network in known} == weights and as_wanted:
            return bundle
    from melanoma.models.backend import BACKEND

    if BACKEND != "torch":
        return _export_by_torch(run, settings)
    from melanoma.training.export import export_network

    with folder_aside(run.bundle) as aside:
        networks, paths = [], []
        for fold in folds:
            encoder = encoder_of(run, fold)
            held_out = prepared.held_out(fold).head(COMPARED_IMAGES)
            images = prepared.cache.images[prepared.cache.rows_of(held_out["image_name"])]
            metadata = encoder.features(held_out) if settings.model.metadata else None
            path = aside / f"fold-{fold}.onnx"
            equality = export_network(path, run.weights(fold), settings, images, metadata)
            paths.append(path)
            row: dict[str, Any] = {"file": path.name, "run": 0, "fold": fold, "weights": weights[fold]}
            row["encoder"] = encoder.to_json()
            row["largest_difference"] = equality
            if settings.evaluate.precision == "int8":
                row["int8"] = _quantized(run, fold, settings, prepared, path)
                paths.append(path.with_name(row["int8"]["file"]))
            if settings.evaluate.storage != "float32":
                row["kept"] = {"in": settings.evaluate.storage, **_shrunk(run, fold, settings, prepared, path)}
            networks.append(row)
        used = {
            "name": run.name,
            "backbone": settings.model.backbone,
            "images": settings.images.model_dump(mode="json"),
            "views": settings.evaluate.views,
            "metadata": settings.model.metadata,
        }
        description = {
            "name": run.name,
            "runs": [used],
            "networks": networks,
            "answers": None,
            "figures": None,
            "gate": None,
            "data": {"licence": settings.data.licence, "hashes": prepared.hashes},
            "code": {"melanoma": installed_version("melanoma"), "sha256": code_hash()},
            "use": RESEARCH_ONLY,
        }
        card = f"# {run.name}\n\n{RESEARCH_ONLY}\n\nNot yet judged.\n"
        bundle = write_bundle(run.bundle, paths, description, card)
    say(f"exported {len(networks)} network{'s' if len(networks) > 1 else ''} to {run.bundle}")
    return bundle


def _checked_weights(run: Run, fold: int, known: str | None) -> str:
    """Return the hash of a fold's best weights; raises MelanomaError where they are not what training wrote."""
    path = run.weights(fold)
    found = sha256(path) if path.exists() else "missing"
    if known not in (None, found):
        raise MelanomaError(
            f"{path} is damaged or missing: remove {path.parent}, and train this fold again with: "
            f"melanoma resume {run.folder}"
        )
    return found


def _exported(run: Run) -> Bundle | None:
    """Open the run's bundle; None where there is none, or an earlier version wrote it or damage befell it."""
    if not (run.bundle / SUMS).is_file():
        return None
    try:
        return read_bundle(run.bundle)
    except ModelError as error:
        note(f"the bundle is written anew: {error}")
        return None


def _quantized(run: Run, fold: int, settings: Settings, prepared: Prepared, network: Path) -> dict[str, Any]:
    """Write a fold's network in int8 beside `network`; say, and return, what it loses on the held-out images."""
    encoder, cache = _encoder_used(run, fold, settings), prepared.cache
    seen = prepared.training(fold, settings)
    seen = seen.sample(min(CALIBRATION_IMAGES, len(seen)), random_state=settings.seed)
    path = network.with_suffix(".int8.onnx")
    images = cache.images[cache.rows_of(seen["image_name"])]
    row = quantize_network(path, network, images, None if encoder is None else encoder.features(seen))
    row["held_out"] = _lost(prepared, fold, network, path, "evaluate.precision=int8", precision="int8", encoder=encoder)
    return row


def _storage(network: Mapping[str, Any]) -> str:
    """Tell how a bundle's network keeps its weights."""
    return str(network["kept"]["in"]) if "kept" in network else "float32"


def _shrunk(run: Run, fold: int, settings: Settings, prepared: Prepared, network: Path) -> dict[str, Any]:
    """Keep the weights of a fold's network in fewer bits; say, and return, what it loses on the held-out images."""
    whole, storage = network.with_suffix(".whole"), settings.evaluate.storage
    assert storage != "float32"
    shutil.copyfile(network, whole)
    shrink_network(network, storage)
    encoder = _encoder_used(run, fold, settings)
    lost = _lost(prepared, fold, whole, network, f"evaluate.storage={storage}", precision="float32", encoder=encoder)
    whole.unlink()
    return lost


def _lost(
    prepared: Prepared,
    fold: int,
    network: Path,
    rounded: Path,
    setting: str,
    *,
    precision: Precision,
    encoder: Encoder | None,
) -> dict[str, Any]:
    """Measure, and say, what a network loses by a setting that rounds, on the images that it was not trained on."""
    rows, cache = prepared.held_out(fold), prepared.cache
    metadata = None if encoder is None else encoder.features(rows)
    places, target = cache.rows_of(rows["image_name"]), rows["target"].to_numpy(np.int64)
    lost = measured_loss(network, rounded, cache.images, places, metadata=metadata, target=target, precision=precision)
    for remark in remarks_on(lost, fold, setting):
        note(remark)
    return lost


def encoder_of(run: Run, fold: int) -> Encoder:
    """Read what turns age, sex and site into numbers for a fold's network."""
    return Encoder.from_json(read_json(run.encoder(fold)))


def _encoder_used(run: Run, fold: int, settings: Settings) -> Encoder | None:
    return encoder_of(run, fold) if settings.model.metadata else None


def _export_by_torch(run: Run, settings: Settings) -> Bundle:
    """Let PyTorch write the networks that another backend trained: the weights are the same."""
    from melanoma.models.backend import installed_backends

    if "torch" not in installed_backends():
        raise MissingExtraError("PyTorch, which writes the ONNX files,", "train")
    command = [sys.executable, "-c", EXPORT_ALONE, str(run.folder), settings.model_dump_json()]
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    done = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise MelanomaError(f"PyTorch could not write the networks of {run.folder}; its message is above")
    return read_bundle(run.bundle)


# ---- one bundle from several runs ------------------------------------------------------------------------------------


def report_beside(folder: Path) -> Run:
    """Name the folder that gets what a run folder would hold of a bundle of several runs: their mean, judged."""
    return Run(folder.with_name(f"{folder.name}-report"))


def check_bundling(runs: Sequence[Run], folder: Path) -> None:
    """Raise UsageError or DataError where the runs cannot become one bundle in `folder`: before any work is done."""
    check_place(folder)
    report = report_beside(folder)
    ours = {path.name for path in report.own} - {report.config.name} | {report.figures.name}
    if report.folder.exists() and any(path.name not in ours for path in report.folder.iterdir()):
        raise UsageError(f"{report.folder}, where the report goes, is there already; give another folder")
    names = names_of([run.folder for run in runs])
    if len({read_json(run.data)["folder"] for run in runs}) > 1:
        raise DataError(f"{listed(names)} are not of one dataset folder, so their mean cannot be judged")
    settings = [run.settings() for run in runs]
    if len({one.images.crop for one in settings}) > 1:
        raise DataError(
            f"{listed(names)} cut pictures differently (images.crop), so their maps cannot be laid together"
        )
    if any(one.evaluate.precision == "int8" for one in settings):
        raise UsageError("a bundle of several runs is computed in float32; judge each with evaluate.precision=float32")


def bundle_runs(runs: Sequence[Run], trained: Sequence[Trained], folder: Path) -> Bundle:
    """Write the bundles of several runs as one, judged anew: each run's probability counts alike.

    Calibration, thresholds, figures and card are of the mean, on the images that every run
    has held out, by the first run's evaluate settings. The report goes into the folder that `report_beside` names.
    """
    names, report = names_of([run.folder for run in runs]), report_beside(folder)
    bundles = [one.bundle for one in trained]
    with replacing_folder(report.folder) as aside:
        remarks = _write_mean(Run(aside), runs, names)
        made = [read_json(run.environment)["command"] for run in runs]
        joined = shlex.join(["melanoma", "export", *[str(run.folder) for run in runs], "--to", str(folder)])
        write_json(Run(aside).environment, read_json(runs[0].environment) | {"command": " && ".join([*made, joined])})
        judge_run(Run(aside), trained, name=folder.name, limits=[LIMIT_OF_A_MEAN], remarks=remarks)
    sides = [one.settings.images.size_px for one in trained]
    threshold = trained[0].settings.evaluate.threshold
    facts = told(read_json(report.metrics), read_json(report.calibration), threshold, sides)
    facts["figures"]["limits"] = [LIMIT_OF_A_MEAN, *facts["figures"]["limits"][1:]]
    gate, gate_facts = _gate_of(bundles)
    description: dict[str, Any] = {**bundles[0].description, **facts, "name": folder.name, "gate": gate_facts}
    licences = dict.fromkeys(bundle.description["data"]["licence"] for bundle in bundles)
    description["data"] = description["data"] | {"licence": "; ".join(filter(None, licences))}
    description |= {"runs": [], "networks": []}
    files: list[Path] = []
    with folder_aside(folder) as aside:
        for place, (name, bundle) in enumerate(zip(names, bundles, strict=True)):
            description["runs"] += [{**run, "name": name} for run in bundle.description["runs"]]
            for network in bundle.description["networks"]:
                renamed = {**network, "file": f"run-{place}-{network['file']}", "run": place}
                renamed.pop("int8", None)
                shutil.copyfile(bundle.folder / network["file"], aside / renamed["file"])
                files.append(aside / renamed["file"])
                description["networks"].append(renamed)
        return write_bundle(folder, files, description, report.card.read_text(encoding="utf-8"), gate)


def _write_mean(mean: Run, runs: Sequence[Run], names: list[str]) -> list[str]:
    """Write the means of several runs' probabilities as a run's; return remarks on what is not in all of them."""
    threshold = runs[0].settings().evaluate.threshold
    remarks: list[str] = []
    for path in ("predictions", "held_out_predictions"):
        files = [getattr(run, path) for run in runs]
        if not all(file.exists() for file in files):
            continue
        tables = [seen_by_networks(file) for file in files]
        rows, found = common_rows(tables, names)
        remarks += found if path == "predictions" else []
        fold = tables[0].set_index("image_name").loc[rows["image_name"], "fold"].to_numpy()
        if any((one.set_index("image_name").loc[rows["image_name"], "fold"] != fold).any() for one in tables[1:]):
            remarks.append(f"{listed(names)} were not split alike: folds are told as {names[0]} was split")
        rows = answered(rows.assign(fold=fold, probability=rows[names].mean(axis=1)), threshold)
        write_table(getattr(mean, path), rows[PREDICTION_COLUMNS])
    tests = [seen_by_networks(run.test_predictions) for run in runs if run.test_predictions.exists()]
    if len(tests) == len(runs):  # of one table, as runs are reopened only where it is unchanged
        probability = np.mean([one["probability"] for one in tests], axis=0)
        rows = tests[0][["image_name", "patient_id"]].assign(probability=probability)
        write_table(mean.test_predictions, answered(rows, threshold))
    return list(dict.fromkeys(remarks))


def _gate_of(bundles: Sequence[Bundle]) -> tuple[Gate | None, dict[str, Any]]:
    """Let the first bundle's gate know the features of all networks; no gate where a run has none."""
    gates = [bundle.gate for bundle in bundles]
    known = [gate for gate in gates if gate is not None]
    if len(known) < len(gates):
        return None, {"reason": "not every run has one"}
    likeness = tuple(likeness for gate in known for likeness in gate.likeness)
    shares = [bundle.description["gate"]["kept"] for bundle in bundles]
    told = {"images": None, "kept": min(shares), "reason": "the least of what each run's own gate keeps"}
    return replace(known[0], likeness=likeness), told
