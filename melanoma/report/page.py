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

from melanoma.config import Settings, describe
from melanoma.files import write_text
from melanoma.images.decode import UInt8Array
from melanoma.report.charts import calibration_figure, roc_figure, score_figure, site_figure
from melanoma.report.figures import COLOURS, plot, rendered

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
    text = page.get_template("page.html").render(
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
