"""Charts of scores against the truth: ROC, precision and recall, calibration, classes, sites.

Arrays in, a matplotlib figure in the house style out. It computes no result of its own and writes nothing. What using a
network would mean is in use_charts.py.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from melanoma.evaluation.calibration import reliability
from melanoma.evaluation.metrics import Float64Array, auc, average_precision, checked, roc_curve
from melanoma.report.figures import COLOURS, STYLE, Picture, styled

Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]  # name: target and probability, (rows,) each
SERIES = [("blue", "-"), ("orange", "--"), ("green", "-."), ("purple", ":")]
MARKS = "osD^vPX*"  # single points
DOTS = (0, (1, 2))
NONE: Mapping[str, Sequence[ArrayLike]] = MappingProxyType({})
BENIGN, MELANOMA = COLOURS["sky"], COLOURS["red"]


@styled
def roc_figure(curves: Curves, points: Sequence[tuple[str, float, float]] = ()) -> Figure:
    """Draw the ROC curve of each {name: (target, probability)}, its AUC in the legend; n/a where a class is absent.

    points: (name, sensitivity, specificity) of others, such as published readers; marked, and listed below the axes.
    Raises ValueError as `metrics.auc` does.
    """
    figure, axes = _square("1 - specificity", "sensitivity")
    _coin(axes)
    for name, target, probability, look in _each(curves):
        area = auc(target, probability)
        nothing = np.empty(0)
        across, upwards = (nothing, nothing) if area is None else roc_curve(target, probability)[:2]
        axes.plot(across, upwards, **look, label=f"{shortened(name, 2.1)}: AUC {_in_words(area)}")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title="ROC curve")
    axes.legend(loc="lower right")
    if points:
        _legend_below(figure, _draw_points(axes, points), "sensitivity / specificity of others")
    return figure


@styled
def precision_recall_figure(curves: Curves) -> Figure:
    """Draw the share of melanomas among the lesions called so at each sensitivity, for each {name: (target, score)}.

    The base line is the share of melanomas among all: what a coin reaches. Raises ValueError as `metrics.auc` does.
    """
    figure, axes = _square("sensitivity", "melanomas among the lesions called so")
    shares = []
    for name, target, probability, look in _each(curves):
        area, across, upwards = None, np.empty(0), np.empty(0)
        if auc(target, probability) is not None:
            area, share = average_precision(target, probability), float(np.mean(np.asarray(target)))
            across, upwards = _precision_steps(target, probability)
            shares.append(share)
        label = f"{shortened(name, 2.2)}: average precision {_in_words(area)}"
        axes.plot(across, upwards, **look, drawstyle="steps-pre", label=label)
    for share in dict.fromkeys(shares):
        axes.axhline(share, color=COLOURS["muted"], linewidth=1, linestyle=DOTS, label=f"a coin: {100 * share:.1f} %")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title="Precision and recall")
    _legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure


@styled
def calibration_figure(curves: Curves, bins: int = 15, smoothed: Mapping[str, Sequence[ArrayLike]] = NONE) -> Figure:
    """Draw the share of melanomas against the probability, in equal-mass bins with 95 % Wilson bars, for each curve.

    smoothed: for some of the names the smoothed share, as (probability, share, low, high), each float (points,) in
    [0, 1]; it is then the line, with its band, and the bins are points. Below the axes: where the probabilities lie.
    Raises ValueError as `calibration.brier` does.
    """
    figure, axes = _square("probability that was given", "share of melanomas that was found")
    _coin(axes)
    highest = 0.0
    for (name, target, probability, look), mark in zip(_each(curves), MARKS * len(curves), strict=False):
        found = reliability(target, probability, bins)
        reach = np.maximum([found.melanomas - found.low, found.high - found.melanomas], 0)
        dots: dict[str, Any] = {"color": look["color"], "elinewidth": 1, "fmt": mark, "markersize": 4.5}
        axes.errorbar(found.probability, found.melanomas, reach, **dots)
        across, upwards, low, high = map(np.asarray, smoothed.get(name, (found.probability, found.melanomas, [], [])))
        if low.size:
            axes.fill_between(across, low, high, color=look["color"], alpha=0.15, linewidth=0)
        named: dict[str, Any] = {"marker": mark, "markevery": [], "markersize": 4.5, "label": shortened(name, 3)}
        axes.plot(across, upwards, **look, **named)  # the mark is for the legend; the bins have their own
        highest = max([highest, *found.probability, *found.high])
    end = min(1.0, highest * 1.05) or 1.0
    axes.set(xlim=(-0.02 * end, end), ylim=(-0.02 * end, end), title="Calibration")
    axes.legend(loc="upper left")
    figure.set_figheight(5.8)  # what is below the axes must not make the square smaller: the layout errs there
    _draw_spread(axes, curves, end)
    return figure


@styled
def score_figure(target: ArrayLike, probability: ArrayLike, threshold: float | None = None) -> Figure:
    """Draw how probabilities are spread in each class: shares of the class, on a scale that opens up both ends.

    Raises ValueError as `metrics.auc` does.
    """
    truth, scores = checked(target, probability)
    places = _logit(scores)
    edges = np.linspace(*_padded(places), 41).tolist()
    figure = Picture(figsize=(4.8, 4.0))
    axes = figure.subplots()
    for named, of_class, colour in (("benign", ~truth, BENIGN), ("melanoma", truth, MELANOMA)):
        weights = np.full(of_class.sum(), 100 / max(of_class.sum(), 1))
        label = f"{named} ({of_class.sum():,})"
        look: Any = {"facecolor": (colour, 0.35), "edgecolor": colour, "linewidth": 1.6, "histtype": "stepfilled"}
        axes.hist(places[of_class], edges, weights=weights, label=label, **look)
    if threshold is not None:
        at = float(_logit(np.array([threshold]))[0])
        axes.axvline(at, color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)), label=f"threshold {threshold:.3g}")
    axes.set(title="Scores by class", xlabel="probability of melanoma", ylabel="share of the class, %")
    axes.grid(visible=False, axis="x")
    _probability_ticks(axes, *_padded(places))
    axes.legend(loc="best")
    return figure


@styled
def site_figure(table: pd.DataFrame) -> Figure:
    """Draw the numbers of benign images and melanomas of each anatomical site, on a logarithmic scale.

    table: columns site (missing where not recorded) and target.
    """
    site = table["site"].astype(object).where(table["site"].notna(), "not recorded")
    counts = pd.crosstab(site, table["target"].astype(int)).reindex(columns=[0, 1], fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(kind="stable").index]
    figure = Picture(figsize=(4.8, 1.3 + 0.46 * max(len(counts), 1)))
    axes = figure.subplots()
    for target, shift, colour, label in ((0, 0.2, BENIGN, "benign"), (1, -0.2, MELANOMA, "melanoma")):
        axes.barh(np.arange(len(counts)) + shift, counts[target], 0.38, left=0, color=colour, label=label)
        for place, number in enumerate(counts[target]):
            share = f"  ({100 * number / counts.iloc[place].sum():.1f} %)" if target else ""
            axes.text(max(number, 0.6) * 1.12, place + shift, f"{number:,}{share}", va="center", fontsize=8.5)
    axes.set_xscale("log")
    axes.set(xlim=(0.5, max(counts.to_numpy().max(initial=1) * 12, 10)), title="Images by anatomical site")
    axes.set_yticks(np.arange(len(counts)), [str(name)[:40] for name in counts.index])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.minorticks_off()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def shortened(text: object, inches: float, points: float = 9.5) -> str:
    """Return the text in one line, cut to this width in letters of this size; what does not print is left out."""
    line = "".join(letter for letter in " ".join(str(text)[:200].split()) if letter.isprintable())
    font = FontProperties(family=str(STYLE["font.family"]), size=points)
    for letters in range(len(line), 0, -1):
        shown = line if letters == len(line) else line[:letters].rstrip() + "…"
        if text_to_path.get_text_width_height_descent(shown, font, ismath=False)[0] <= 72 * inches:
            return shown
    return ""


def _square(across: str, upwards: str) -> tuple[Figure, Axes]:
    figure = Picture(figsize=(4.8, 4.6))
    axes = figure.subplots()
    axes.set(aspect="equal", xlabel=across, ylabel=upwards)
    return figure, axes


def _coin(axes: Axes) -> None:
    axes.axline((0, 0), slope=1, color=COLOURS["muted"], linewidth=1, linestyle=DOTS)


def _precision_steps(target: ArrayLike, probability: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Return sensitivity and precision wherever a melanoma is found; the area under the steps is average precision."""
    false_rate, sensitivity, _ = roc_curve(target, probability)
    share = float(np.mean(np.asarray(target)))
    found = np.flatnonzero(np.diff(sensitivity) > 0) + 1
    hits, false_alarms = share * sensitivity[found], (1 - share) * false_rate[found]
    precision = hits / (hits + false_alarms)
    return np.append(0, sensitivity[found]), np.append(precision[0], precision)


def _each(curves: Curves) -> list[tuple[str, ArrayLike, ArrayLike, dict[str, Any]]]:
    """Return name, target, probability and the look of each curve."""
    looks = (SERIES * len(curves))[: len(curves)]
    return [
        (name, target, probability, {"color": COLOURS[colour], "linestyle": line})
        for (name, (target, probability)), (colour, line) in zip(curves.items(), looks, strict=True)
    ]


def _in_words(area: float | None) -> str:
    return "n/a" if area is None else f"{area:.3f}"


def _draw_points(axes: Axes, points: Sequence[tuple[str, float, float]]) -> list[Line2D]:
    """Mark each (name, sensitivity, specificity) with a shape of its own; their words stand elsewhere."""
    look: dict[str, Any] = {"markersize": 8, "color": COLOURS["ink"], "markeredgecolor": COLOURS["paper"], "zorder": 3}
    drawn = []
    for place, (name, sensitivity, specificity) in enumerate(points):
        label = f"{shortened(name, 2.8)}: {sensitivity:.3f} / {specificity:.3f}"
        mark = MARKS[place % len(MARKS)]
        drawn += axes.plot(1 - specificity, sensitivity, mark, **look, clip_on=False, label=label)
    return drawn


def _legend_below(figure: Figure, handles: Sequence[Artist], title: str = "") -> None:
    """List what is drawn below the axes, where it cannot lie upon a curve, and make the figure so much higher."""
    lines = len(handles) + bool(title)
    # Half an inch to spare: the layout errs where the height, not the width, decides how large square axes are.
    figure.set_figheight(figure.get_figheight() + 0.5 + 0.21 * lines)
    legend = figure.legend(handles=handles, loc="outside lower left", title=title or None, alignment="left")
    legend.get_title().set_fontsize(9.5)


def _draw_spread(axes: Axes, curves: Curves, end: float) -> None:
    """Draw below the axes how many images have which probability, as outlines on a logarithmic scale."""
    axes.tick_params(labelbottom=False)
    below = axes.inset_axes((0, -0.2, 1, 0.16), sharex=axes)
    below.set_yscale("log", nonpositive="clip")
    most = 1
    for _, _, probability, look in _each(curves):
        counts, edges = np.histogram(np.asarray(probability, np.float64), 50, (0, end))
        below.stairs(counts, edges, baseline=0.5, color=look["color"], linestyle=look["linestyle"], linewidth=1.2)
        most = max(most, int(counts.max()))
    below.set(ylim=(0.5, most * 2), ylabel="images", xlabel=axes.get_xlabel())
    below.set_yticks([1, 10 ** int(np.log10(max(most, 10)))])
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    below.minorticks_off()
    axes.set_xlabel("")


def _logit(scores: Float64Array) -> Float64Array:
    clipped = np.clip(scores, 1e-5, 1 - 1e-5)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _padded(places: Float64Array) -> tuple[float, float]:
    """Return where the scale of scores begins and ends: around the scores, at least from 0.2 to 0.8."""
    return min(places.min(initial=0) - 0.2, -1.4), max(places.max(initial=0) + 0.2, 1.4)


def _probability_ticks(axes: Axes, low: float, high: float) -> None:
    shown = [0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999]
    if high - low < 11:
        shown = [0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.997, 0.999]
    ticks = [value for value in shown if low <= _logit(np.array([value]))[0] <= high]
    axes.set_xticks(_logit(np.array(ticks)), [f"{value:g}" for value in ticks])
    axes.set_xlim(low, high)
