"""TRIPOD+AI and CLAIM, filled where the run knows; the rest is the author's to complete.

The items stand in tripod_ai.toml and claim.toml, each with a template over the facts below. It computes nothing.
"""

import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melanoma import RESEARCH_ONLY
from melanoma.config import Settings

CHECKLISTS = {"TRIPOD+AI": "tripod_ai.toml", "CLAIM": "claim.toml"}
BALANCE = {
    "none": "Nothing was resampled.",
    "rows": "Training rows were equalised for each anatomical site.",
    "weights": "Training rows were drawn so that both classes of each site come equally often.",
    "rows_before_folds": "Rows were equalised for each anatomical site before the split, as in the notebook.",
}


@dataclass(frozen=True)
class Item:
    """One item of a checklist; `answer` is None where the author must complete it."""

    item: str
    section: str
    asks: str
    answer: str | None


def checklist(name: str, facts: Mapping[str, str]) -> list[Item]:
    """Fill the checklist of that name, of CHECKLISTS, with facts in words; an empty fact is not known."""
    content = tomllib.loads((Path(__file__).parent / CHECKLISTS[name]).read_text(encoding="utf-8"))
    return [
        Item(row["item"], row["section"], row["asks"], _filled(row.get("answer"), facts)) for row in content["items"]
    ]


def facts_of(
    metrics: Mapping[str, Any], settings: Sequence[Settings], *, data: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, str]:
    """Say in words what a run, or several that answer together, know of themselves; what they do not know is missing.

    metrics: as `evidence.evaluate` gives them; settings: of each run; data, environment: facts in words by name.
    """
    weighed = bool(metrics.get("clinical", {}).get("weights"))
    each = [_of_settings(one, weighed=weighed) for one in settings]
    together = {name: " ".join(dict.fromkeys(one[name] for one in each)) for name in each[0]}
    if len(each) > 1:
        together["ensemble"] += f" The answer is the mean over {len(each)} runs."
    facts = {**data, **together, **_of_metrics(metrics), "command": environment.get("command", "")}
    named = [f"{name} {environment[name]}" for name in SOFTWARE if environment.get(name)]
    facts["software"] = ", ".join(named)
    facts["scoring"] = f"By the exported network, {environment['scored_by']}." if environment.get("scored_by") else ""
    return {name: fact for name, fact in facts.items() if fact}


SOFTWARE = ("python", "melanoma", "keras", "torch", "jax", "tensorflow", "numpy", "onnxruntime", "openvino")


def _missing(settings: Settings, *, weighed: bool) -> str:
    seen = "Age: the training median, and a mark that it was blank; sex and site: a category of their own."
    told = [seen] if settings.model.metadata else []
    told += ["Of what is weighed beside the score, what is not known adds nothing."] if weighed else []
    return " ".join(told) or "Age, sex and site are not used."


def _filled(template: str | None, facts: Mapping[str, str]) -> str | None:
    if template is None:
        return None
    needed = {name for _, name, _, _ in string.Formatter().parse(template) if name}
    return template.format(**facts) if all(facts.get(name) for name in needed) else None


def _of_settings(settings: Settings, *, weighed: bool) -> dict[str, str]:
    model, images, train = settings.model, settings.images, settings.train
    filters = ", ".join(images.filters) or "no filter"
    sides = " then ".join(map(str, settings.sides_px))
    inputs = "The photograph, age, sex and anatomical site." if model.metadata else "The photograph."
    if weighed:
        inputs += " Age, sex and anatomical site are weighed beside the networks' score."
    weights = model.weights.replace("\\", "/").rsplit("/", 1)[-1]
    views = settings.evaluate.views
    return {
        "use": f"{RESEARCH_ONLY} For studying how melanomas are told from other lesions on dermoscopic photographs.",
        "outcome": "Melanoma or not, as the table's target says; carcinomas count as not.",
        "predictors": f"{inputs} Diagnosis is refused as a predictor.",
        "preprocessing": f"Each image is decoded upright, {_crop(images.crop)} to {images.size_px} px, then {filters}.",
        "augmentation": f"Training images are {', '.join(_changes(settings))}.",
        "missing": _missing(settings, weighed=weighed),
        "network": f"{model.backbone} at {images.size_px} px, global average pooling, one dense sigmoid.",
        "initialisation": "At random." if weights == "none" else f"Weights of {weights}; the last layer at random.",
        "training": (
            f"{settings.loss.name} loss, Adam at {train.learning_rate:g} ({train.schedule}), batches of "
            f"{train.batch_size}, {sides} px, at most {train.epochs} epochs, seed {settings.seed}."
            f"{''.join(f' {one}' for one in _besides(settings))}"
        ),
        "selection": (
            "The last epoch. No tuning is known to the run."
            if train.monitor == "none"
            else f"The epoch with the best {train.monitor} on the held-out rows, which are also judged; patience "
            f"{train.patience}. No other tuning is known to the run."
        ),
        "imbalance": f"{BALANCE[settings.balance.method]} Loss: {settings.loss.name}.",
        "ensemble": f"For new images the mean over the folds' networks, {views} view{'s' * (views > 1)} of each image.",
        "measures": (
            "AUC, average precision, partial AUC, sensitivity and specificity at thresholds chosen on other patients, "
            "calibration intercept, slope and curve, Brier score, net benefit; controls that see no lesion."
        ),
        "uncertainty": (
            f"95 % intervals by a bootstrap over patients ({settings.evaluate.bootstrap_samples:,} resamples), "
            "DeLong's where each patient has one image, Wilson's for shares."
        ),
        "robustness_methods": "Lesions turned, mirrored and brightened: the share whose answer changes.",
        "output": (
            "A probability of melanoma; calibrated; melanoma, benign or refer; thresholds for 80, 90 and 95 % "
            "sensitivity, chosen on other patients."
        ),
        "limits": "Internal validation only; skin types are not recorded; the page lists what else it does not show.",
    }


def _changes(settings: Settings) -> list[str]:
    """Say in words what training does to images."""
    augment = settings.augment
    return [
        *(["mirrored"] if augment.flip else []),
        f"turned by up to {augment.turn_degrees:g} degrees",
        f"zoomed by up to {100 * augment.zoom:g} %",
        *([f"stretched by up to {100 * augment.stretch:g} %"] if augment.stretch else []),
        *([f"moved by up to {100 * augment.shift:g} % of their side"] if augment.shift else []),
        f"brightness and contrast changed by up to {100 * augment.brightness:g} and {100 * augment.contrast:g} %",
        *([f"each channel changed by up to {100 * augment.colour:g} %"] if augment.colour else []),
    ]


def _besides(settings: Settings) -> list[str]:
    """Say in words what else was done while training, a sentence each."""
    model, share, average = settings.model, settings.loss.diagnosis_share, settings.train.averaging
    told = [
        (share, f"A second task, weighted {share:g}, names the diagnosis; it is left out afterwards."),
        (model.frozen_share, f"The first {100 * model.frozen_share:.0f} % of the network's layers keep their weights."),
        (model.hidden_share, f"Age, sex and site are hidden of {100 * model.hidden_share:g} % of the images."),
        (average, f"What is kept is a moving average of the weights ({average:g} a step)."),
    ]
    return [sentence for used, sentence in told if used]


def _of_metrics(metrics: Mapping[str, Any]) -> dict[str, str]:
    area, said, tested = metrics["auc"], metrics["conformal"], metrics.get("robustness")
    fitted, chosen = metrics["calibration"], metrics["recalibration"]["chosen"]
    groups = [f"{row['by']} {row['name']}" for row in metrics["subgroups"] if row["suppressed"]]
    judged = list(dict.fromkeys(row["by"] for row in metrics["subgroups"] if not row["suppressed"]))
    counts = f"{metrics['images']:,} {metrics['scope']} images, {metrics['melanomas']:,} melanomas"
    parts = len(metrics["folds"])
    facts = {
        "judged": f"{counts}, in {parts} fold{'s' * (parts != 1)}.",
        "validation": f"{parts} fold{'s' * (parts != 1)}, patients and duplicates whole; judged on {counts}.",
        "subgroups_judged": ", ".join(judged),
        "subgroups_suppressed": ", ".join(groups) or "none",
        "recalibration": f"Probabilities were mended by: {chosen}, learned on other patients.",
    }
    if area["low"] is not None:
        facts["result"] = f"AUC {_reach(area)}, {area['method']}."
    known = [one for one in metrics["controls"] if one["auc"]["low"] is not None]
    if known:
        facts["controls"] = "Controls: " + ", ".join(f"{one['name']} {_reach(one['auc'])}" for one in known) + "."
    if fitted["slope"] is not None:
        facts["calibration"] = f"Calibration slope {fitted['slope']:.2f}, in the large {fitted['in_the_large']:.2f}."
    points = [point for point in metrics["operating_points"] if point["specificity"]["low"] is not None]
    facts["points"] = "; ".join(
        f"aimed at {100 * point['wanted_sensitivity']:.0f} %: sensitivity {_reach(point['sensitivity'])}, "
        f"specificity {_reach(point['specificity'])}"
        for point in points
        if point["sensitivity"]["low"] is not None
    )
    if not said["reason"]:
        facts["points"] += f"; {100 * said['refer_share']:.0f} % referred"
    if tested:
        worst = max(tested["changes"], key=lambda one: one["crossed"]["value"] or 0)
        facts["robustness"] = f"At most {100 * worst['crossed']['value']:.1f} % of answers change ({worst['name']})."
    return facts


def _crop(crop: str) -> str:
    return "cut to its middle square and resized" if crop == "centre" else "squashed"


def _reach(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
