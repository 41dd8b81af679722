"""The result of a run: `evaluate` gives the numbers of metrics.json, `exhibits` the figures, `write_report` the page.

The page needs no other file and asks the network for nothing. It computes nothing from pixels and reads no run folder:
whoever calls it gathers what it shows.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from melanoma.config import EvaluateSettings, Settings, describe
from melanoma.evaluation import calibration, metrics
from melanoma.evaluation.figures import (
    COLOURS,
    calibration_figure,
    plot,
    rendered,
    roc_figure,
    score_figure,
    site_figure,
)
from melanoma.evaluation.metrics import Float64Array, Interval
from melanoma.files import write_text
from melanoma.images.decode import UInt8Array

SCHEMA_VERSION = 1
LEVEL = 0.95
SENSITIVITIES = (0.80, 0.90, 0.95)
CONTROL = ("age", "sex", "site")
RESEARCH_USE = "Research use only. Not a medical device. Not for diagnosis."
LIMITS = (
    "The epoch that was kept was chosen on the same held-out images that are judged here, so the network's figures are "
    "slightly too good; the control's are not.",
    "The control knows the table alone. Camera, image size, hair, ink and rulers can also give the answer away, and no "
    "figure on this page rules that out.",
    "The intervals cover which patients happened to be in the data, not another training seed, other settings, or how "
    "many settings were tried before this run.",
    "Thresholds for a given sensitivity were found on the images they are judged on.",
    "Nothing here says how the network does with other cameras, clinics, skin types or ages than those of this table.",
)


@dataclass(frozen=True)
class Exhibit:
    """A figure of the report: `name` is its file's, `caption` stands below it, `alt` tells it to who cannot see it."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Report:
    """Everything that the page shows; text is plain and may hold anything, it is escaped."""

    name: str  # of the run
    metrics: Mapping[str, Any]  # as `evaluate` gives them
    exhibits: Sequence[Exhibit]
    mistakes: pd.DataFrame  # as `worst_mistakes` gives them
    mistake_images: Sequence[UInt8Array]  # uint8 RGB (height, width, 3), one for each row of `mistakes`
    settings: Settings
    command: str  # that makes this run again
    extras: Sequence[tuple[str, str]] = ()  # further figures: what, and how much
    remarks: Sequence[str] = ()  # about the data
    hashes: Mapping[str, str] | None = None
    environment: Mapping[str, str] | None = None
    limits: Sequence[str] = LIMITS


# ---- numbers -------------------------------------------------------------------------------------------------------


def evaluate(
    predictions: pd.DataFrame, settings: EvaluateSettings, seed: int = 0, control_features: Sequence[str] = CONTROL
) -> dict[str, Any]:
    """Return the content of metrics.json: what cannot be computed is None, with the `reason` beside it, never NaN.

    predictions: a row for each held-out image with patient_id, fold, target (0 or 1), probability in [0, 1] and
    control, the probability of the control on the same folds (NaN where it could not be learned).
    Raises ValueError where a probability is NaN or outside [0, 1].
    """
    target, probability = predictions["target"].to_numpy(), predictions["probability"].to_numpy(np.float64)
    control, patient = predictions["control"].to_numpy(np.float64), predictions["patient_id"].to_numpy()
    draws: dict[str, Any] = {"samples": settings.bootstrap_samples, "seed": seed, "level": LEVEL}
    fitted = calibration.logistic_calibration(target, probability)
    undefined = (
        "" if fitted else _absent(target) or "the scores are all equal, or separate the classes without an error"
    )
    share = float(target.mean()) if len(target) else None
    folds = [_one_fold(int(str(fold)), rows) for fold, rows in predictions.groupby("fold")]
    return {
        "schema_version": SCHEMA_VERSION,
        "scope": "out of fold" if len(folds) > 1 else "held out",
        "images": len(target),
        "patients": int(predictions["patient_id"].nunique()),
        "melanomas": int(target.sum()),
        "patients_with_melanoma": int(predictions.loc[predictions["target"] == 1, "patient_id"].nunique()),
        **_ranking(target, probability, patient, draws),
        "control": {"features": list(control_features), **_ranking(target, control, patient, draws)},
        "difference": _difference(target, probability, control, patient, draws),
        "folds": folds,
        "brier": calibration.brier(target, probability),
        "brier_of_the_mean": None if share is None else share * (1 - share),
        "expected_calibration_error": calibration.expected_calibration_error(target, probability),
        "calibration": {
            "slope": fitted.slope if fitted else None,
            "intercept": fitted.intercept if fitted else None,
            "in_the_large": fitted.in_the_large if fitted else None,
            "reason": undefined or None,
        },
        "at_threshold": metrics.at_threshold(target, probability, settings.threshold),
    }


def _ranking(target: Any, probability: Float64Array, patient: Any, draws: dict[str, Any]) -> dict[str, Any]:
    """Return what depends on the order of the scores only, for the network and the control alike."""
    unknown = int(np.isnan(probability).sum())
    if unknown:
        reason = f"the control could not be learned for {unknown:,} of {len(target):,} images"
        points = [{"sensitivity": wanted, "specificity": None, "threshold": None} for wanted in SENSITIVITIES]
        return {"auc": _figure(None, None, reason), "average_precision": None, "at_sensitivity": points}
    interval = metrics.auc_interval(target, probability, patient, **draws)
    return {
        "auc": _figure(metrics.auc(target, probability), interval, _absent(target)),
        "average_precision": metrics.average_precision(target, probability),
        "at_sensitivity": [
            {
                "sensitivity": wanted,
                "specificity": metrics.specificity_at_sensitivity(target, probability, wanted),
                "threshold": metrics.threshold_at_sensitivity(target, probability, wanted),
            }
            for wanted in SENSITIVITIES
        ],
    }


def _difference(target: Any, ours: Float64Array, control: Float64Array, patient: Any, draws: dict[str, Any]) -> Any:
    if np.isnan(control).any():
        return _figure(None, None, "the control could not be learned")
    first, second = metrics.auc(target, ours), metrics.auc(target, control)
    if first is None or second is None:
        return _figure(None, None, _absent(target))
    interval = metrics.auc_difference_interval(target, ours, control, patient, **draws)
    return _figure(first - second, interval, "")


def _one_fold(fold: int, rows: pd.DataFrame) -> dict[str, Any]:
    target, control = rows["target"].to_numpy(), rows["control"].to_numpy(np.float64)
    known = not np.isnan(control).any()
    reason = _absent(target) or ("" if known else "the control could not be learned")
    return {
        "fold": fold,
        "images": len(rows),
        "melanomas": int(target.sum()),
        "auc": metrics.auc(target, rows["probability"].to_numpy(np.float64)),
        "control_auc": metrics.auc(target, control) if known else None,
        "reason": reason or None,
    }


def _figure(value: float | None, interval: Interval | None, reason: str) -> dict[str, Any]:
    """Return a value with its interval, or with the reason why one of them is missing."""
    if value is not None and interval is None:
        reason = "no interval: a class has fewer than two patients, or the scores show no spread"
    return {
        "value": value,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "level": LEVEL if interval else None,
        "method": interval.method if interval else None,
        "reason": reason or None,
    }


def _absent(target: Any) -> str:
    if target.sum() == 0:
        return f"no melanoma among {len(target):,} images"
    return f"no benign image among {len(target):,} images" if target.all() else ""


def worst_mistakes(predictions: pd.DataFrame, count: int = 8) -> pd.DataFrame:
    """Return up to `count` rows: the melanomas with the lowest probability, then the benign images with the highest."""
    ordered = predictions.sort_values(["probability", "image_name"], kind="stable")
    missed = ordered[ordered["target"] == 1].head(count - count // 2)
    alarms = ordered[ordered["target"] == 0].iloc[::-1].head(count // 2)
    return pd.concat([missed, alarms]).reset_index(drop=True)


# ---- figures -------------------------------------------------------------------------------------------------------


def exhibits(
    predictions: pd.DataFrame, table: pd.DataFrame, histories: Mapping[int, Any], settings: Settings
) -> list[Exhibit]:
    """Draw the report's figures.

    predictions: as for `evaluate`; table: every labelled image, with site and target; histories: a fold's number and
    its history, as `plot` takes it. Raises DataError for a history that cannot be read.
    """
    target, probability = predictions["target"].to_numpy(), predictions["probability"].to_numpy(np.float64)
    curves = {"network": (target, probability)}
    both = curves | ({"control": (target, predictions["control"])} if predictions["control"].notna().all() else {})
    found = [
        Exhibit(
            "roc",
            "ROC curve",
            "How many melanomas are found at each rate of false alarms. The dotted line is a coin.",
            "ROC curves; the areas under them stand in the table of figures.",
            roc_figure(both),
        ),
        Exhibit(
            "calibration",
            "Calibration",
            "On the dotted line, of 100 images scored 0.3 thirty are melanomas. Bars: 95 % Wilson intervals.",
            "Share of melanomas against the probability given, in bins of equal numbers of images.",
            calibration_figure(curves),
        ),
        Exhibit(
            "scores",
            "Scores by class",
            "What the network said of benign images and of melanomas. The more the two overlap, the less it knows.",
            "Two histograms of the network's probabilities, one for each class.",
            score_figure(target, probability, settings.evaluate.threshold),
        ),
        Exhibit(
            "sites",
            "Images by anatomical site",
            "The labelled images of this run, on a logarithmic scale; in brackets the share of melanomas at the site.",
            "Numbers of benign images and melanomas at each anatomical site.",
            site_figure(table),
        ),
    ]
    for fold, history in histories.items():
        caption = f"Fold {fold}. Validation images are the ones held out; the marked epoch's weights were kept."
        alt = f"Loss and accuracy of fold {fold} by epoch, training and validation."
        drawn = plot(history, settings.train.monitor)
        found.append(Exhibit(f"training-fold-{fold}", f"Training, fold {fold}", caption, alt, drawn))
    return found


# ---- page ----------------------------------------------------------------------------------------------------------


def write_report(path: Path, content: Report) -> None:
    """Write one self-contained HTML page, whole or not at all.

    Raises ValueError where mistakes and their images differ in number, MelanomaError where it cannot be written.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters |= {"number": _number, "percent": _percent, "commas": "{:,}".format}
    rows = content.mistakes.to_dict("records")
    text = page.get_template("report.html").render(
        report=content,
        metrics=content.metrics,
        research_use=RESEARCH_USE,
        control=_words(content.metrics["control"]["features"]),
        meaning=meaning(content.metrics),
        place=_place,
        ticks=[0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        drawings=[(one, _inline_svg(one, number)) for number, one in enumerate(content.exhibits)],
        mistakes=[(row, _jpeg(image)) for row, image in zip(rows, content.mistake_images, strict=True)],
        settings=_told(content.settings),
    )
    write_text(path, text)


def summary(found: Mapping[str, Any]) -> str:
    """Say the result in three lines of plain text: the network, the control, and what their difference means."""
    control = _words(found["control"]["features"])
    where = f"{found['scope']}: {found['images']:,} images, {found['melanomas']:,} melanomas"
    return (
        f"AUC {_in_words(found['auc'])}, {where}\n"
        f"control {_in_words(found['control']['auc'])}, {control} alone on the same folds\n{meaning(found)}"
    )


def meaning(found: Mapping[str, Any]) -> str:
    """Say in plain words what the network's difference from the control does and does not show."""
    gap, control = found["difference"], _words(found["control"]["features"])
    if gap["value"] is None:
        return f"The network cannot be compared with {control} alone: {gap['reason']}."
    if gap["low"] is None:
        return f"No interval can be given, so nothing can be said about the network against {control} alone."
    value, low, high = (f"{gap[part]:+.3f}".replace("-", "−") for part in ("value", "low", "high"))
    size = f"AUC {value}, 95 % interval {low} to {high}"
    if gap["low"] > 0:
        return (
            f"The network ranks these images better than {control} alone ({size}), so it takes something from the "
            "picture; whether that is the lesion or a trace of how the picture was taken, this figure cannot say."
        )
    if gap["high"] < 0:
        return f"The network ranks these images worse than {control} alone ({size}): the picture has not helped it."
    return (
        f"The network is not shown to rank these images better than {control} alone ({size}): the interval holds 0, so "
        "its AUC is no evidence that it has learned anything from the lesion."
    )


def _place(area: float) -> float:
    """Return where an AUC stands on the page's ruler, which goes from 0.4 to 1, in per cent of its length."""
    return round(100 * (max(area, 0.4) - 0.4) / 0.6, 2)


def _in_words(figure: Mapping[str, Any]) -> str:
    if figure["low"] is None:
        return f"{_number(figure['value'])} ({figure['reason']})"
    return f"{figure['value']:.3f} (95 % interval {figure['low']:.3f} to {figure['high']:.3f}, {figure['method']})"


def _words(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names) or "nothing"


def _number(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f} %"


def _told(settings: Settings) -> list[tuple[str, str, bool]]:
    """List each setting as (section.key, value, differs from the default)."""
    rows = []
    for name, default, _ in describe():
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        shown = ", ".join(value) if isinstance(value, tuple) else str(value)
        rows.append((name, shown, str(value) != default))
    return rows


def _jpeg(image: UInt8Array) -> str:
    """Return the picture, at most 320 px wide or high, as a data address."""
    picture, buffer = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((320, 320))
    picture.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _inline_svg(exhibit: Exhibit, number: int) -> Markup:
    """Return the figure as SVG that takes the page's colours, with ids that no other figure has."""
    text = rendered(exhibit.figure, "svg", transparent=True).decode()
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{number}-", text)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name}, {colour})")
    label = Markup('<svg role="img" aria-label="{}"').format(f"{exhibit.title}. {exhibit.alt}")
    return label + Markup(re.sub(r'^<svg width="[^"]*" height="[^"]*"', "", text))
