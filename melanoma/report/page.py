"""The result of a run as a page: `exhibits` draws the figures, `write_report` writes them, `summary` says it in words.

The page needs no other file and asks the network for nothing. It computes nothing from pixels and reads no run folder:
whoever calls it gathers what it shows.
"""

import base64
import io
import operator
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

from melanoma import RESEARCH_ONLY
from melanoma.config import Settings, describe
from melanoma.evaluation.calibration import smoothed_curve
from melanoma.evaluation.control import Control
from melanoma.evaluation.metrics import Float64Array
from melanoma.evaluation.recalibration import rebased
from melanoma.files import write_text
from melanoma.images.photograph import UInt8Array
from melanoma.report.charts import (
    calibration_figure,
    precision_recall_figure,
    roc_figure,
    score_figure,
    site_figure,
)
from melanoma.report.checklists import Item
from melanoma.report.figures import COLOURS, plot, rendered
from melanoma.report.use_charts import decision_figure, forest_figure, robustness_figure

ELSEWHERE = (
    "The control is learned from the table and the file. Hair, ink, rulers and the camera's colours can also give the "
    "answer away, and no figure on this page rules that out.",
    "The intervals cover which patients happened to be in the data, not another training seed, other settings, or how "
    "many settings were tried before.",
    "Nothing here says how the network does with other cameras, clinics, skin types or ages than those of this table.",
    "Readers and devices named beside the operating points judged other lesions, of other patients.",
)
LIMITS = (
    "The epoch that was kept was chosen on the same held-out images that are judged here, so the network's figures are "
    "slightly too good; the controls' are not.",
    *ELSEWHERE,
)
LIMITS_OF_A_FILE = (
    "Whoever made these predictions must have held each patient out: this page cannot tell whether they did.",
    *ELSEWHERE,
)
# Name, sensitivity, specificity, source; on other lesions than these.
READERS = (
    ("58 dermatologists, picture alone", 0.866, 0.713, "Haenssle 2018, doi:10.1093/annonc/mdy166"),
    ("the same, with clinical data", 0.889, 0.757, "Haenssle 2018"),
    ("dermatologists, 8 hospitals", 0.734, 0.828, "Heinlein 2024, doi:10.1038/s43856-024-00598-5"),
    ("2020's winning networks, there", 0.921, 0.673, "Heinlein 2024"),
    ("DermaSensor, a device", 0.955, 0.207, "FDA 2024, DEN230008"),
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
    metrics: Mapping[str, Any]  # as `evidence.evaluate` gives them
    exhibits: Sequence[Exhibit]
    mistakes: pd.DataFrame  # as `evidence.worst_mistakes` gives them
    mistake_images: Sequence[UInt8Array]  # uint8 RGB (height, width, 3), one for each row of `mistakes`, or none at all
    command: str  # that makes this page again
    settings: Sequence[Settings] = ()  # of the run, or of each that the answers are the mean of
    mistake_maps: Sequence[UInt8Array] = ()  # the same pictures under their activation maps
    extras: Sequence[tuple[str, str]] = ()  # further figures: what, and how much
    remarks: Sequence[str] = ()  # about the data
    hashes: Mapping[str, str] | None = None
    environment: Mapping[str, str] | None = None
    limits: Sequence[str] = LIMITS
    checklists: Mapping[str, Sequence[Item]] | None = None


# ---- figures -------------------------------------------------------------------------------------------------------


def exhibits(
    predictions: pd.DataFrame,
    controls: Sequence[Control],
    metrics: Mapping[str, Any],
    *,
    table: pd.DataFrame,
    histories: Mapping[int, Any],
    monitor: str = "val_auc",
) -> list[Exhibit]:
    """Draw the report's figures.

    predictions: a row for each held-out image with target, probability and calibrated; controls: of the same rows;
    table: every image that was used, with site and target; histories: a fold's number and its history, as `plot` takes
    it; metrics: as `evidence.evaluate` gives them. Raises DataError for a history that cannot be read.
    """
    target, probability = predictions["target"].to_numpy(), predictions["probability"].to_numpy(np.float64)
    calibrated = predictions["calibrated"].to_numpy(np.float64)
    known = {control.name: (target, control.probability) for control in controls if _finite(control.probability)}
    curves = {"network": (target, probability)} | dict(list(known.items())[:1])
    found = [
        Exhibit(
            "roc",
            "ROC curve",
            "How many melanomas are found at each rate of false alarms. The dotted line is a coin. The marks are "
            "published readers, who judged other lesions: a place to look, not a contest.",
            "ROC curves; the areas under them stand in the table of figures.",
            roc_figure(curves, [(name, sensitivity, specificity) for name, sensitivity, specificity, _ in READERS]),
        ),
        Exhibit(
            "precision-recall",
            "Precision and recall",
            "Of the lesions called melanoma, how many are, at each share of those found. The dotted line is a coin.",
            "Precision against recall for the network and the control.",
            precision_recall_figure(curves),
        ),
        _calibration(target, probability, calibrated, metrics["recalibration"]["chosen"]),
        Exhibit(
            "scores",
            "Scores by class",
            "What the network said of benign images and of melanomas. The more the two overlap, the less it knows.",
            "Two histograms of the network's probabilities, one for each class.",
            score_figure(target, probability, metrics["subgroup_threshold"]),
        ),
        Exhibit(
            "decision",
            "Decision curve",
            "Net benefit for each lesion of acting from a probability on: melanomas found, less false alarms at the "
            "price that the threshold implies. Below both other lines the network is worth nothing at that threshold.",
            "Net benefit against threshold probability for the network, the control, treating all and treating none.",
            _decision(target, {"network, calibrated": calibrated} | _controls_of(known), metrics),
        ),
        Exhibit(
            "sites",
            "Images by anatomical site",
            "The labelled images of this run, on a logarithmic scale; in brackets the share of melanomas at the site.",
            "Numbers of benign images and melanomas at each anatomical site.",
            site_figure(table),
        ),
    ]
    if metrics["subgroups"]:
        caption = "AUC with its interval; groups with fewer than 10 of a class are named and not judged."
        alt = "The AUC of each subgroup; the numbers stand in the table of subgroups."
        drawn = forest_figure(metrics["subgroups"], metrics)
        found.append(Exhibit("subgroups", "Subgroups", caption, alt, drawn))
    if metrics.get("robustness"):
        caption = (
            f"Share of {metrics['robustness']['images']:,} lesions whose answer changes with the picture, at the "
            "threshold for 90 % sensitivity. The lesion is the same: every change of answer is the network's own doing."
        )
        alt = "Share of lesions that cross the threshold for each change of the picture."
        drawn = robustness_figure(metrics["robustness"]["changes"])
        found.append(Exhibit("robustness", "Robustness", caption, alt, drawn))
    for fold, history in histories.items():
        kept = "last" if monitor == "none" else "marked"
        caption = (
            f"Fold {fold}. Validation images are the ones held out; the {kept} epoch's weights were kept. The training "
            "loss is of images changed at random, and holds all that training minimises."
        )
        alt = f"Loss and accuracy of fold {fold} by epoch, training and validation."
        drawn = plot(history, monitor)
        found.append(Exhibit(f"training-fold-{fold}", f"Training, fold {fold}", caption, alt, drawn))
    return found


def _calibration(target: Any, probability: Float64Array, calibrated: Float64Array, method: str) -> Exhibit:
    curves = {"as the network says": (target, probability)}
    if method != "none":
        curves[f"calibrated ({method})"] = (target, calibrated)
    smoothed = {name: smoothed_curve(*pair) for name, pair in curves.items()}
    return Exhibit(
        "calibration",
        "Calibration",
        "On the dotted line, of 100 images scored 0.3 thirty are melanomas. Points: bins of equal numbers with 95 % "
        "Wilson intervals; lines: smoothed. Calibrated answers were learned from other patients.",
        "Share of melanomas against the probability given, in bins of equal numbers of images.",
        calibration_figure(curves, smoothed={name: one for name, one in smoothed.items() if one is not None}),
    )


def _decision(target: Any, curves: Mapping[str, Float64Array], metrics: Mapping[str, Any]) -> Figure:
    """Draw net benefit at the share of melanomas where the answers will be used."""
    own, wanted = float(np.mean(target)) if len(target) else 0.0, metrics["operating_points"][0]["prevalence"]
    if wanted is None or not 0 < own < 1 or own == wanted:
        return decision_figure(curves, target)
    moved = {name: rebased(probability, own, wanted) for name, probability in curves.items()}
    return decision_figure(moved, target, prevalence=wanted)


def _finite(values: Float64Array) -> bool:
    return bool(np.isfinite(values).all())


def _controls_of(known: Mapping[str, tuple[Any, Float64Array]]) -> dict[str, Float64Array]:
    return {name: probability for name, (_, probability) in list(known.items())[:1]}


# ---- page ----------------------------------------------------------------------------------------------------------


def write_report(path: Path, content: Report) -> None:
    """Write one self-contained HTML page, whole or not at all.

    Raises ValueError where mistakes and their images differ in number, MelanomaError where it cannot be written.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters |= {
        "number": _number,
        "percent": _percent,
        "commas": "{:,}".format,
        "range": _range,
        "percents": lambda figure: _range(figure, 100, 1),
        "signed": lambda value: "n/a" if value is None else f"{value:+.3f}".replace("-", "−"),
    }
    text = page.get_template("page.html").render(
        report=content,
        metrics=content.metrics,
        research_use=RESEARCH_ONLY,
        control=_words(content.metrics["control"]["features"]),
        meaning=meaning(content.metrics),
        strongest=strongest(content.metrics),
        place=_place,
        ticks=[0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        drawings=[(one, _inline_svg(one, number)) for number, one in enumerate(content.exhibits)],
        mistakes=_mistakes(content),
        readers=READERS,
        settings=_told(content.settings),
        checklists=content.checklists or {},
    )
    write_text(path, text)


def _mistakes(content: Report) -> list[tuple[dict[str, Any], str, str]]:
    """Give each mistake with its picture and the picture under its map, as data addresses; "" where there is none."""
    rows = content.mistakes.to_dict("records")
    none: list[str] = [""] * len(rows)
    pictures = [_jpeg(image) for image in content.mistake_images] or none
    maps = [_jpeg(image) for image in content.mistake_maps] or none
    return [({str(key): value for key, value in row.items()}, picture, over)
            for row, picture, over in zip(rows, pictures, maps, strict=True)]  # fmt: skip


def summary(found: Mapping[str, Any]) -> str:
    """Say the result in lines of plain text: the network, the control, what their difference does and does not show."""
    control = _words(found["control"]["features"])
    where = f"{found['scope']}: {found['images']:,} images, {found['melanomas']:,} melanomas"
    lines = [
        f"AUC {_in_words(found['auc'])}, {where}",
        f"control {_in_words(found['control']['auc'])}, {control} alone on the same folds",
        meaning(found),
        strongest(found),
    ]
    return "\n".join(line for line in lines if line)


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


def strongest(found: Mapping[str, Any]) -> str:
    """Say how far the network is above the strongest control; "" where that is the table alone, or there is none."""
    known = [one for one in found["controls"] if one["auc"]["value"] is not None]
    best = max(known, key=lambda one: one["auc"]["value"], default=None)
    if best is None or best["name"] == found["control"]["name"] or best["difference"]["value"] is None:
        return ""
    gap, told = best["difference"], _words(best["features"])
    size = f"{gap['value']:+.3f}" + (f", 95 % interval {gap['low']:+.3f} to {gap['high']:+.3f}" if gap["low"] else "")
    reached = f"The strongest control ({told}) reaches AUC {best['auc']['value']:.3f}"
    above = "is above it" if gap["low"] is not None and gap["low"] > 0 else "is not shown to be above it"
    return f"{reached}; the network {above} ({size}).".replace("-0", "−0")


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


def _range(figure: Mapping[str, Any], times: int = 1, digits: int = 3) -> str:
    if figure["low"] is None:
        return str(figure["reason"] or "")
    return f"{times * figure['low']:.{digits}f} to {times * figure['high']:.{digits}f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f} %"


def _told(settings: Sequence[Settings]) -> list[tuple[str, str, bool]]:
    """List each setting as (section.key, values, differs from the default): one value, or one of each run."""
    rows = []
    for name, default, _ in describe() if settings else []:
        values: list[Any] = [operator.attrgetter(name)(one) for one in settings]
        shown = [", ".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values]
        told = shown[0] if len(set(shown)) == 1 else " | ".join(shown)
        rows.append((name, told, any(str(value) != default for value in values)))
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
