"""Charts of what using a network would mean: for whom it holds, whether acting on it helps, what upsets it.

It writes nothing, and of results computes the decision curve only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from melanoma.evaluation.decision import DecisionCurve, decision_curve
from melanoma.evaluation.metrics import absent_class
from melanoma.report.charts import DOTS, SERIES, shortened
from melanoma.report.figures import COLOURS, Picture, styled

SMALL = 8.8  # points: rows stand 0.2 inches apart


# ---- subgroups -------------------------------------------------------------------------------------------------------


@styled
def forest_figure(subgroups: Sequence[Mapping[str, Any]], overall: Mapping[str, Any]) -> Figure:
    """Draw the AUC of each subgroup with its interval, under the heading of its partition; the dashed line is overall.

    subgroups: as `subgroups.subgroups` gives them; a suppressed one is listed with its reason. overall: images,
    melanomas and auc, as metrics.json has them.
    """
    lines = _forest_lines(subgroups, overall)
    figure = Picture(figsize=(5.7, 1.05 + 0.2 * len(lines)))
    words, axes = figure.subplots(1, 2, sharey=True, width_ratios=(3.1, 2.2))
    words.axis("off")
    words.set_xlim(0, 1)
    axes.set_ylim(len(lines) - 0.4, -1.4)
    _forest_columns(words, axes)
    for place, line in enumerate(lines):
        _draw_line(words, axes, place, line)
    if overall["auc"]["value"] is not None:
        axes.axvline(overall["auc"]["value"], color=COLOURS["muted"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set(xlim=_forest_range(lines), xlabel="AUC")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.spines["left"].set_visible(False)
    words.set_title("AUC by subgroup")
    return figure


def _forest_lines(subgroups: Sequence[Mapping[str, Any]], overall: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a mapping for each line, top to bottom; a heading has `by` alone."""
    lines: list[Mapping[str, Any]] = [{**overall, "name": "all images", "overall": True, "suppressed": False}]
    for row in subgroups:
        if row["by"] != lines[-1].get("by"):
            lines.append({"by": row["by"]})
        lines.append(row)
    return lines


def _forest_columns(words: Axes, axes: Axes) -> None:
    look: dict[str, Any] = {"va": "center", "fontsize": SMALL, "color": COLOURS["muted"]}
    words.text(0.7, -1, "images", ha="right", **look)
    words.text(1, -1, "melanomas", ha="right", **look)
    axes.text(1.03, -1, "AUC", transform=axes.get_yaxis_transform(), **look)


def _draw_line(words: Axes, axes: Axes, place: int, line: Mapping[str, Any]) -> None:
    look: dict[str, Any] = {"va": "center", "fontsize": SMALL}
    if "name" not in line:
        words.text(0, place + 0.1, shortened(line["by"], 2.6, SMALL), weight="bold", **look)
        return
    colour = COLOURS["muted" if line["suppressed"] else "ink"]
    words.text(0 if "overall" in line else 0.03, place, shortened(line["name"], 1.5, SMALL), color=colour, **look)
    words.text(0.7, place, f"{line['images']:,}", ha="right", color=colour, **look)
    words.text(1, place, f"{line['melanomas']:,}", ha="right", color=colour, **look)
    area = line["auc"]
    across = axes.get_yaxis_transform()
    if area["value"] is None:
        behind = {"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 1.0}
        said = shortened(area["reason"] or "n/a", 2.1, SMALL)
        axes.text(0.03, place, said, transform=across, color=colour, style="italic", bbox=behind, **look)
        return
    if area["low"] is not None:
        axes.plot([area["low"], area["high"]], [place, place], color=COLOURS["blue"], linewidth=1.6)
    marker, size = ("D", 6.0) if "overall" in line else ("s", 4.8)
    axes.plot(area["value"], place, marker, color=COLOURS["blue"], clip_on=False, markersize=size)
    axes.text(1.03, place, f"{area['value']:.3f}", transform=across, color=colour, **look)


def _forest_range(lines: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return where the scale of AUCs begins and ends: in steps of 0.05 around all that is drawn."""
    areas = [line["auc"] for line in lines if "auc" in line]
    drawn = [area[part] for area in areas for part in ("value", "low", "high") if area[part] is not None]
    if not drawn:
        return 0.5, 1.0
    low, high = np.floor(min(drawn) * 20 - 0.1) / 20, np.ceil(max(drawn) * 20 + 0.1) / 20
    return float(max(low, 0)), float(min(high, 1))


# ---- decisions -------------------------------------------------------------------------------------------------------


@styled
def decision_figure(
    curves: Mapping[str, ArrayLike],
    target: ArrayLike,
    thresholds: ArrayLike | None = None,
    prevalence: float | None = None,
) -> Figure:
    """Draw the net benefit of acting on each {name: probability}, of treating all and none, by threshold.

    Takes what `decision.decision_curve` takes, and raises what it raises; the probabilities must be calibrated.
    """
    found = decision_curve(target, curves, thresholds, prevalence)
    figure = Picture(figsize=(4.8, 4.3))
    axes = figure.subplots()
    if found is None:
        why = absent_class(target) if np.size(np.asarray(target)) else "no image"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color=COLOURS["muted"])
    else:
        _draw_decisions(axes, found)
    label = "probability of melanoma from which one acts"
    axes.set(title="Decision curve", xlabel=label, ylabel="net benefit, melanomas per lesion")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    return figure


def _draw_decisions(axes: Axes, found: DecisionCurve) -> None:
    looks = (SERIES * len(found.net_benefit))[: len(found.net_benefit)]
    for (name, benefit), (colour, line) in zip(found.net_benefit.items(), looks, strict=True):
        axes.plot(found.thresholds, benefit, line, color=COLOURS[colour], label=shortened(name, 2.2), zorder=3)
    axes.plot(found.thresholds, found.treat_all, color=COLOURS["muted"], linewidth=1.2, label="treat all")
    none: dict[str, Any] = {"color": COLOURS["ink"], "linewidth": 1.2, "linestyle": DOTS, "label": "treat none"}
    axes.plot(found.thresholds, found.treat_none, **none)
    top = max(1.08 * found.prevalence, 0.001)  # no net benefit is above the prevalence
    end = found.thresholds.max(initial=0) or 1.0
    axes.set(xlim=(-0.01 * end, end), ylim=(-0.3 * top, top))
    axes.legend(loc="upper right")


# ---- robustness ------------------------------------------------------------------------------------------------------


@styled
def robustness_figure(changes: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the share of lesions that cross the threshold when the picture is changed, in per cent, with intervals.

    changes: each with `name`, what was done to the picture, and `crossed`, a share in the form of `intervals.figure`.
    """
    figure = Picture(figsize=(4.8, 1.1 + 0.3 * max(len(changes), 1)))
    axes = figure.subplots()
    ends = [100 * (one["crossed"]["high"] or one["crossed"]["value"] or 0) for one in changes]
    end = max([1.0, *ends]) * 1.3  # room for the figure beside the bar
    for place, one in enumerate(changes):
        _draw_change(axes, place, one["crossed"], end)
    axes.set_yticks(np.arange(len(changes)), [shortened(one["name"], 1.8, 10) for one in changes])
    axes.set(xlim=(0, end), ylim=(max(len(changes), 1) - 0.4, -0.6), title="Robustness")
    axes.set_xlabel("share of lesions that cross the threshold")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %" if value <= 100 else ""))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure


def _draw_change(axes: Axes, place: int, crossed: Mapping[str, Any], end: float) -> None:
    look: dict[str, Any] = {"va": "center", "fontsize": SMALL}
    if crossed["value"] is None:
        said = shortened(crossed["reason"] or "n/a", 2.4, SMALL)
        axes.text(0.01 * end, place, said, color=COLOURS["muted"], style="italic", **look)
        return
    share, last = 100 * crossed["value"], 100 * (crossed["high"] or crossed["value"])
    axes.barh(place, share, 0.62, color=COLOURS["sky"])
    if crossed["low"] is not None:
        axes.plot([100 * crossed["low"], last], [place, place], color=COLOURS["ink"], linewidth=1.2)
    axes.text(max(last, share) + 0.02 * end, place, f"{share:.1f} %", **look)
