"""Charts of results: ROC, calibration, scores, sites. Arrays in, a matplotlib figure in the house style out.

It computes no result of its own and writes nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from melanoma.evaluation.calibration import reliability
from melanoma.evaluation.metrics import Float64Array, auc, checked, roc_curve
from melanoma.report.figures import COLOURS, Picture, styled

Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]  # name: target and probability, (rows,) each
SERIES = [("blue", "-"), ("orange", "--"), ("green", "-."), ("purple", ":")]
BENIGN, MELANOMA = COLOURS["sky"], COLOURS["red"]


@styled
def roc_figure(curves: Curves) -> Figure:
    """Draw the ROC curve of each {name: (target, probability)}, its AUC in the legend; n/a where a class is absent.

    Raises ValueError as `metrics.auc` does.
    """
    figure, axes = _square("1 - specificity", "sensitivity")
    for (name, (target, probability)), (colour, line) in zip(curves.items(), _looks(curves), strict=True):
        area = auc(target, probability)
        nothing = np.empty(0)
        across, upwards = (nothing, nothing) if area is None else roc_curve(target, probability)[:2]
        shown = "n/a" if area is None else f"{area:.3f}"
        axes.plot(across, upwards, line, color=colour, label=f"{name}: AUC {shown}")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title="ROC curve")
    axes.legend(loc="lower right")
    return figure


@styled
def calibration_figure(curves: Curves, bins: int = 15) -> Figure:
    """Draw the share of melanomas against the probability, in equal-mass bins with 95 % Wilson bars, for each curve.

    Raises ValueError as `calibration.brier` does.
    """
    figure, axes = _square("probability that was given", "share of melanomas that was found")
    highest = 0.0
    for (name, (target, probability)), (colour, line) in zip(curves.items(), _looks(curves), strict=True):
        found = reliability(target, probability, bins)
        reach = [found.melanomas - found.low, found.high - found.melanomas]
        axes.errorbar(found.probability, found.melanomas, np.maximum(reach, 0), color=colour, elinewidth=1, fmt="none")
        axes.plot(found.probability, found.melanomas, line, color=colour, marker="o", markersize=4.5, label=name)
        highest = max([highest, *found.probability, *found.high])
    end = min(1.0, highest * 1.05) or 1.0
    axes.set(xlim=(-0.02 * end, end), ylim=(-0.02 * end, end), title="Calibration")
    axes.legend(loc="upper left")
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
        axes.axvline(at, color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)), label=f"threshold {threshold:g}")
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


def _square(across: str, upwards: str) -> tuple[Figure, Axes]:
    figure = Picture(figsize=(4.8, 4.6))
    axes = figure.subplots()
    axes.set(aspect="equal", xlabel=across, ylabel=upwards)
    axes.axline((0, 0), slope=1, color=COLOURS["muted"], linewidth=1, linestyle=(0, (1, 2)))
    return figure, axes


def _looks(curves: Curves) -> list[tuple[str, str]]:
    return [(COLOURS[colour], line) for colour, line in (SERIES * len(curves))[: len(curves)]]


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
