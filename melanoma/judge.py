"""Held-out predictions to evidence: calibrated answers, controls beside them, figures, one page.

Anybody's predictions will do, with the table that they belong to; `melanoma.judge_run` adds networks and pictures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melanoma.config import Settings
from melanoma.data.duplicates import dropped, groups_of
from melanoma.data.facts import Facts, control_facts
from melanoma.data.folds import make_folds
from melanoma.data.records import read_dataset, read_sizes, read_text
from melanoma.errors import DataError, listed
from melanoma.evaluation import evidence
from melanoma.evaluation.answers import PARTS, Answers, learn_answers
from melanoma.evaluation.clinical import cross_fitted_clinical, fit_clinical
from melanoma.evaluation.context import cross_fitted_context, fit_context
from melanoma.evaluation.control import Control, control_probabilities
from melanoma.evaluation.intervals import auc_difference_interval, auc_interval, figure
from melanoma.evaluation.metrics import auc
from melanoma.evaluation.recalibration import parts_by_patient
from melanoma.files import replacing, sha256, write_json, write_text
from melanoma.report import page
from melanoma.report.card import model_card
from melanoma.report.checklists import CHECKLISTS, checklist, facts_of
from melanoma.report.figures import mistakes_figure, save
from melanoma.runs import Run

PREDICTION_COLUMNS = ["image_name", "patient_id", "fold", "target", "probability", "answer"]
ANSWER_COLUMNS = ["picture", "calibrated", "said", "with_context"]  # what judging writes beside them
CONTROL_FOLDS = 5
MOST_NAMED = 4  # groups of a kind, in the limits that go with every answer
OPERATING_POINT = 0.9  # sensitivity that labels aim at
LIMITS_OF_A_BUNDLE = [
    "The figures are of single networks on images of patients that they were not trained on; several networks of one "
    "bundle answer together, which was not measured and is rarely worse.",
    "It was validated on the dataset that it was made from: other cameras, clinics, skin types and ages may differ, "
    "and skin type is not recorded there.",
    "It knows photographs taken through a dermatoscope, and no clinical photographs, nails, mouths or eyes.",
    "Benign means not melanoma: other cancers count as benign where its dataset's target says so, and are answered so.",
    "A probability holds for the share of melanomas that it is given for; the operating point and refer do not shift.",
    "What is rare on the whole may not be in a group, such as an age. Patients are what its tables call so: in some of "
    "them each lesion, or each image.",
]
LIMIT_OF_CLINICAL = (
    "Its figures are with age, sex and site, which move the answer as they went with melanomas in its dataset; by the "
    "picture alone the AUC is {}, and what thresholds and refer then do was not measured."
)
FROM_THE_TABLE = ["site", "sex", "age_years", "source"]


@dataclass(frozen=True)
class Judged:
    """Predictions with what was learned of them.

    predictions: a row an image with what the table knows of it, and its cross-fitted answer: `calibrated`, `said`.
    Where age, sex and site are weighed too, `probability` is with them and `picture` without.
    """

    predictions: pd.DataFrame
    controls: list[Control]
    answers: Answers
    metrics: dict[str, Any]


def judge(
    predictions: pd.DataFrame, table: pd.DataFrame, facts: Mapping[str, Facts], settings: Settings, files: Any = None
) -> Judged:
    """Judge held-out predictions against what is known without a look at a lesion.

    predictions: a row an image with image_name, patient_id, fold, target, probability, group. table: the rows that were
    used, as `melanoma.data.records` makes them, with fold and group; facts: of its rows; files: width and height of its
    rows, where known. Raises ValueError where a probability is NaN or outside [0, 1].
    """
    place = pd.Index(table["image_name"]).get_indexer(pd.Index(predictions["image_name"]))
    target, fold = table["target"].to_numpy(), table["fold"].to_numpy(np.int64)
    controls = [
        Control(name, known.names, control_probabilities(known.values, target, fold, settings.seed)[place])
        for name, known in facts.items()
    ]
    known = [name for name in FROM_THE_TABLE if name in table]
    rows = predictions.reset_index(drop=True).assign(**{name: table[name].to_numpy()[place] for name in known})
    if files is not None:
        rows = rows.assign(width=files["width"].to_numpy()[place], height=files["height"].to_numpy()[place])
    judging, clinical = settings.evaluate, None
    if judging.clinical:
        clinical, rows = _with_clinical(rows, settings)
    answers = learn_answers(rows["target"], rows["probability"], rows["group"], judging, settings.seed)
    rows = rows.assign(calibrated=answers.calibrated, said=answers.said)
    metrics = evidence.evaluate(rows, judging, settings.seed, controls, answers)
    if clinical:
        metrics["clinical"] = clinical
    if judging.context:
        metrics["with_context"], in_context = _with_context(rows, answers, settings)
        rows = rows.assign(with_context=in_context)
    return Judged(rows, controls, answers, metrics)


def _with_clinical(rows: pd.DataFrame, settings: Settings) -> tuple[dict[str, Any], pd.DataFrame]:
    """Weigh age, sex and site beside the scores, cross-fitted, and tell what that gains."""
    target, picture, patient = (rows[name].to_numpy() for name in ("target", "probability", "patient_id"))
    part = parts_by_patient(rows["group"], PARTS, settings.seed, target=target)
    scores, learned = cross_fitted_clinical(target, picture, rows, part), None
    if not np.isnan(scores).any():
        learned = fit_clinical(target, picture, rows)
    alone = auc(target, picture)
    if learned is None or alone is None:
        reason = "age, sex and site are not known of enough patients, or the scores tell nothing"
        return {"difference": figure(None, None, reason), "weights": None}, rows
    draws: dict[str, Any] = {"samples": settings.evaluate.bootstrap_samples, "seed": settings.seed}
    told = {
        "auc_of_the_picture": figure(alone, auc_interval(target, picture, patient, **draws)),
        "difference": figure(
            (auc(target, scores) or 0.0) - alone, auc_difference_interval(target, scores, picture, patient, **draws)
        ),
        "weights": learned.to_json(),
    }
    return told, rows.assign(probability=scores, picture=picture)


def _with_context(rows: pd.DataFrame, answers: Answers, settings: Settings) -> tuple[dict[str, Any], Any]:
    """Judge scores that also look at the patient's other images; give them, cross-fitted, too."""
    target, probability, patient = (rows[name].to_numpy() for name in ("target", "probability", "patient_id"))
    scores, learned = cross_fitted_context(target, probability, patient, answers.part), None
    if not np.isnan(scores).any():
        learned = fit_context(target, probability, patient)
    if learned is None:
        return {"auc": figure(None, None, "no patient's images tell more together than alone"), "weights": None}, np.nan
    interval = auc_interval(target, scores, patient, samples=settings.evaluate.bootstrap_samples, seed=settings.seed)
    return {"auc": figure(auc(target, scores), interval), "weights": learned.to_json()}, scores


# ---- what a bundle tells of itself -----------------------------------------------------------------------------------


def told(
    metrics: Mapping[str, Any], calibration: Mapping[str, Any], threshold: float, sides_px: Iterable[int]
) -> dict[str, Any]:
    """Pick what a bundle tells of itself: its `answers` and its out-of-fold `figures`, ready for JSON.

    threshold: of the label, where no operating point could be found. sides_px: of the pictures that its networks see.
    """
    points = [
        point
        for point in metrics["operating_points"]
        if point["threshold"] is not None
        and all(point[name]["value"] is not None for name in ("sensitivity", "specificity"))
    ]
    wanted = next((point for point in points if point["wanted_sensitivity"] == OPERATING_POINT), None)
    learned = ("calibrator", "conformal", "prevalence", "prevalence_of_the_data", "clinical", "context")
    answers = {
        **{name: calibration[name] for name in learned},
        "threshold": wanted["threshold"] if wanted else threshold,
        "operating_point": OPERATING_POINT if wanted else None,
        "operating_points": points,
    }
    kept = ("scope", "images", "patients", "melanomas", "auc", "average_precision", "conformal", "at_sensitivity")
    known = [one for one in metrics["controls"] if one["auc"]["value"] is not None]
    strongest = max(known, key=lambda one: one["auc"]["value"], default=None)
    control = strongest and {name: strongest[name] for name in ("name", "auc", "difference")}
    figures = {**{name: metrics[name] for name in kept}, "strongest_control": control}
    weighed = []
    if answers["clinical"]:
        figures["auc_of_the_picture"] = metrics["clinical"]["auc_of_the_picture"]
        weighed = [LIMIT_OF_CLINICAL.format(_interval(figures["auc_of_the_picture"]))]
    figures["limits"] = [*LIMITS_OF_A_BUNDLE, *weighed, *_limits(metrics, sides_px)]
    return {"answers": answers, "figures": figures}


def _limits(metrics: Mapping[str, Any], sides_px: Iterable[int]) -> list[str]:
    """Say what a network cannot see, on whom it was hardly tried, and on whom it did clearly worse."""
    sides = " or ".join(f"{side} x {side}" for side in sorted(set(sides_px)))
    limits = [f"It sees {sides} pixels of a picture: what only a closer look shows is lost to it."]
    groups, whole = metrics["subgroups"], metrics["auc"]["value"]
    few = [f"{group['by']} {group['name']}" for group in groups if group["suppressed"]]
    if few:
        limits.append(f"It was not judged on groups with few melanomas or few benign images: {_some(few)}.")
    judged = [group for group in groups if not group["suppressed"] and group["auc"]["high"] is not None]
    if whole is None:
        return limits
    # two names may be of the same images, as a camera's size and its clinic's prefix are
    worse = {
        (group["images"], group["auc"]["value"]): group for group in reversed(judged) if group["auc"]["high"] < whole
    }
    worst = sorted(worse.values(), key=lambda group: float(group["auc"]["value"]))
    if worst:
        told = [f"{group['by']} {group['name']} (AUC {_interval(group['auc'])})" for group in worst]
        limits.append(f"It did worse than on the whole on {_some(told)}.")
    return limits


def _some(groups: Sequence[str]) -> str:
    left = len(groups) - MOST_NAMED
    more = f" and {left} more group{'s' * (left > 1)} that its card lists" if left > 0 else ""
    return f"{', '.join(groups[:MOST_NAMED])}{more}"


def _interval(area: Mapping[str, float]) -> str:
    return f"{area['value']:.3f}, {area['low']:.3f} to {area['high']:.3f}"


# ---- anybody's predictions -------------------------------------------------------------------------------------------


def judge_file(
    predictions: Path, data: Path, out: Path, settings: Settings, *, sizes: Path | None = None, command: str = ""
) -> Run:
    """Judge a CSV of anybody's held-out predictions with its dataset's tables; no image is opened.

    predictions: a CSV with image_name and probability (or target, as in a submission), perhaps fold. data: the folder
    of the training table that holds these images. out: gets metrics.json, report.html and figures, as a run folder has
    them. sizes: a CSV with image_name, width, height. Raises DataError where the file does not go with the table.
    """
    given = seen_by_networks(predictions) if settings.evaluate.clinical else read_predictions(predictions)
    dataset = read_dataset(data)
    table = dataset.train
    unknown = given.loc[~given["image_name"].isin(table["image_name"]), "image_name"].tolist()
    if unknown:
        raise DataError(f"{predictions} has {len(unknown):,} images that {dataset.train_file} lacks: {listed(unknown)}")
    table = table[table["image_name"].isin(given["image_name"])].reset_index(drop=True)
    group = groups_of(table, dataset.duplicate_pairs)
    twice = dropped(table, dataset.duplicate_pairs)
    remarks = [f"{len(table):,} of {len(dataset.train):,} images of {dataset.train_file.name} are judged"]
    remarks += [f"{twice.sum():,} duplicates are left out; the first of each set is kept"] if twice.any() else []
    table, group = table[~twice].reset_index(drop=True), group[~twice]
    fold = np.full(len(table), -1, np.int64)
    try:
        fold = np.asarray(make_folds(table, group, CONTROL_FOLDS, 0.2, settings.seed), np.int64)
    except DataError as error:
        remarks.append(f"the controls could not be learned: {error}")
    table = table.assign(group=group, fold=fold)
    files = read_sizes(sizes).reindex(table["image_name"]).reset_index(drop=True) if sizes else None
    rows = given.set_index("image_name").loc[table["image_name"]].reset_index()
    rows = rows[["image_name", "probability"]].assign(
        **{name: table[name] for name in ("patient_id", "target", "group")},
        fold=rows["fold"].astype(int) if "fold" in rows else 0,
    )
    judged = judge(rows, table, control_facts(table, files), settings, files)
    judged.metrics["scope"] = "given"
    mistakes = evidence.worst_mistakes(judged.predictions)
    run = Run(out)
    write_calibration(run, judged)
    write_page(
        run,
        judged,
        page.Report(
            name=predictions.stem,
            metrics=judged.metrics,
            exhibits=page.exhibits(judged.predictions, judged.controls, judged.metrics, table=table, histories={}),
            mistakes=mistakes,
            mistake_images=[],
            mistake_maps=[],
            command=command,
            remarks=[*dataset.remarks, *remarks],
            hashes={predictions.name: sha256(predictions), dataset.train_file.name: sha256(dataset.train_file)},
            limits=page.LIMITS_OF_A_FILE,
        ),
        {},
    )
    return run


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a table of predictions: image_name and patient_id as text, probability float64 in [0, 1].

    Where it has no column probability, target is it, as in a submission. Raises DataError for a file that is no such
    table, an image that is there twice, or a value that is no probability.
    """
    text = read_text(path)
    if "probability" not in text and "target" in text:
        text = text.rename(columns={"target": "probability"})
    if not {"image_name", "probability"} <= set(text):
        raise DataError(
            f"{path} needs the columns image_name and probability; it has {listed([str(one) for one in text])}"
        )
    values = _probabilities(path, text, "probability")
    twice = text.loc[text["image_name"].duplicated(), "image_name"].tolist()
    if twice:
        raise DataError(f"{path} has images twice: {listed(twice)}; keep one row for each", twice)
    numbers = {name: _numbers(path, text, name) for name in ("target", "fold", "answer") if name in text}
    return text.assign(probability=values, **numbers)


def _probabilities(path: Path, text: pd.DataFrame, name: str) -> pd.Series:
    values = pd.to_numeric(text[name], errors="coerce").astype("float64")
    wrong = text.loc[~values.between(0, 1), "image_name"].tolist()
    if wrong:
        raise DataError(f"{path} has {len(wrong):,} values that are no probability, for {listed(wrong)}", wrong)
    return values


def seen_by_networks(path: Path) -> pd.DataFrame:
    """Read predictions as the networks made them, without what judging wrote beside them or weighed into them.

    Raises DataError as `read_predictions` does.
    """
    table = read_predictions(path)
    if "picture" in table:
        table["probability"] = _probabilities(path, table, "picture")
    return table.drop(columns=ANSWER_COLUMNS, errors="ignore")


def _numbers(path: Path, text: pd.DataFrame, name: str) -> pd.Series:
    """Read a column of small whole numbers; only a fold cannot be blank."""
    numbers = pd.to_numeric(text[name], errors="coerce").astype("float64")
    blank = (text[name] == "") & (name != "fold")
    wrong = text.loc[~(blank | (numbers % 1 == 0) & (numbers.abs() < 1e6)), "image_name"].tolist()
    if wrong:
        raise DataError(f"{path} has {len(wrong):,} values of {name} that are no whole number: {listed(wrong)}", wrong)
    return numbers if blank.any() else numbers.astype("int64")


# ---- files -----------------------------------------------------------------------------------------------------------


def write_page(run: Run, judged: Judged, report: page.Report, data: Mapping[str, str]) -> None:
    """Write metrics.json, the figures, the model card where there are settings of a model, and the page last."""
    settings, environment = report.settings or [Settings()], report.environment or {}
    facts = facts_of(judged.metrics, settings, data=data, environment={**environment, "command": report.command})
    write_json(run.metrics, judged.metrics)
    for exhibit in report.exhibits:
        save(exhibit.figure, run.figures / f"{exhibit.name}.png")
    if report.mistake_images:
        save(mistakes_figure(report.mistake_images, report.mistakes), run.figures / "mistakes.png")
    if report.settings:
        told: dict[str, Any] = {"data": data, "environment": environment}
        card = model_card(report.name, judged.metrics, settings, **told, limits=report.limits, remarks=report.remarks)
        write_text(run.card, card)
        report = replace(report, checklists={name: checklist(name, facts) for name in CHECKLISTS})
    page.write_report(run.report, report)


def write_calibration(run: Run, judged: Judged) -> dict[str, Any]:
    """Write calibration.json, and return what stands in it."""
    points = {str(point["wanted_sensitivity"]): point["threshold"] for point in judged.metrics["operating_points"]}
    weights = {
        name: judged.metrics.get(metric, {}).get("weights")
        for name, metric in (("clinical", "clinical"), ("context", "with_context"))
    }
    calibration = {**judged.answers.to_json(), "thresholds": points, **weights}
    write_json(run.calibration, calibration)
    return calibration


def answered(rows: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Add the answer as 0 or 1 beside the probability."""
    return rows.assign(answer=(rows["probability"] >= threshold).astype(int))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV whole or not at all; floats keep what tells them apart."""
    with replacing(path) as aside:
        table.to_csv(aside, index=False, float_format="%.9g")
