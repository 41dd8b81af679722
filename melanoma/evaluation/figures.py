"""Figures in one style: lesions before and after filters, training curves, ROC, calibration, scores, sites, mistakes.

Each function gives a matplotlib figure that a notebook shows and `save` writes. No pyplot, so nothing is left open and
no display is needed. It computes no result of its own and writes nothing but what `save` is told to.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from melanoma.config import ImageSettings
from melanoma.errors import DataError
from melanoma.evaluation.calibration import reliability
from melanoma.evaluation.metrics import Float64Array, auc, checked, roc_curve
from melanoma.files import replacing
from melanoma.images.decode import UInt8Array, as_image
from melanoma.images.filters import prepare

Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]  # name: target and probability, (rows,) each
Lesion = UInt8Array | str | Path | pd.Series
P = ParamSpec("P")
R = TypeVar("R")

# Okabe and Ito 2008, told apart with every kind of colour vision; the report changes them for a dark page.
COLOURS = {
    "ink": "#1f2328",
    "muted": "#6e7781",
    "line": "#d8dee4",
    "paper": "#ffffff",
    "blue": "#0072b2",
    "orange": "#e69f00",
    "green": "#009e73",
    "sky": "#56b4e9",
    "red": "#d55e00",
    "purple": "#cc79a7",
}
SERIES = [("blue", "-"), ("orange", "--"), ("green", "-."), ("purple", ":")]
BENIGN, MELANOMA = COLOURS["sky"], COLOURS["red"]
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure is the same everywhere
    "font.size": 10,
    "text.parse_math": False,  # a dollar sign in a table's text is a dollar sign
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.edgecolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "lines.linewidth": 1.9,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "svg.hashsalt": "melanoma",  # the same figure is the same file
}


class Picture(Figure):
    """A figure that a notebook shows by itself; a plain one needs pyplot's backend for that."""

    def _repr_png_(self) -> bytes:
        return rendered(self, "png")


def rendered(figure: Figure, kind: Literal["png", "svg"], transparent: bool = False) -> bytes:
    """Return the figure as the bytes of a PNG or SVG file; transparent leaves out the white behind it."""
    buffer = io.BytesIO()
    with style.context(STYLE, after_reset=True):
        figure.savefig(buffer, format=kind, transparent=transparent, metadata={"Date": None} if kind == "svg" else {})
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write the figure whole or not at all, as PNG or SVG by the path's suffix.

    Raises ValueError for another suffix, MelanomaError where the folder cannot be written to.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"a figure is saved as .png or .svg, not {path.name}")
    content = rendered(figure, kind)  # type: ignore[arg-type]
    with replacing(path) as aside:
        aside.write_bytes(content)


def _styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function in the house style and leave matplotlib's own settings as they were."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with style.context(STYLE, after_reset=True):
            return draw(*args, **kwargs)

    return inside


# ---- lesions ---------------------------------------------------------------------------------------------------------


@_styled
def display_one(image: Lesion) -> Figure:
    """Show one skin lesion: a path, uint8 RGB (height, width, 3), or a table row with a `path`.

    Raises DataError for a file that is no image, another kind of array, or a row without a path.
    """
    pixels, title = _lesion(image)
    figure = Picture(figsize=(4.6, 4.8))
    _show(figure.subplots(), pixels, title)
    return figure


@_styled
def display(image: Lesion, settings: ImageSettings) -> Figure:
    """Show the original beside what the network sees after the settings' resizing and filters.

    Takes what `display_one` takes, and raises what it raises.
    """
    pixels, title = _lesion(image)
    figure = Picture(figsize=(8.6, 4.6))
    left, right = figure.subplots(1, 2)
    steps = [f"{settings.size_px} px, {settings.crop}", *settings.filters]
    _show(left, pixels, title or "original")
    _show(right, prepare(pixels, settings), "processed", " → ".join(steps))
    return figure


@_styled
def mistakes_figure(images: Sequence[UInt8Array], rows: pd.DataFrame) -> Figure:
    """Show lesions with what the network said of them.

    images: uint8 RGB (height, width, 3) each; rows: as many, with image_name, target and probability.
    Raises ValueError where the numbers differ.
    """
    if len(images) != len(rows):
        raise ValueError(f"{len(images)} images do not go with {len(rows)} rows")
    across = min(max(len(images), 1), 4)
    down = -(-max(len(images), 1) // across)
    figure = Picture(figsize=(2.5 * across, 2.95 * down))
    cells = figure.subplots(down, across, squeeze=False).ravel()
    for cell in cells[len(images) :]:
        cell.axis("off")
    for cell, pixels, row in zip(cells, images, rows.itertuples(), strict=False):
        truth = "melanoma" if row.target else "benign"
        _show(cell, pixels, str(row.image_name), f"{truth}, scored {row.probability:.3f}")
        cell.title.set_fontsize(9)
    return figure


def _lesion(image: Lesion) -> tuple[UInt8Array, str]:
    """Return the pixels and what is known about them in a line or two."""
    if isinstance(image, pd.Series):
        if pd.isna(image.get("path")):
            raise DataError(f"the row of {image.get('image_name', 'an image')} has no path; give the image file itself")
        return as_image(Path(image["path"])), _told(image)
    return as_image(image), Path(image).name if isinstance(image, str | Path) else ""


def _told(row: pd.Series) -> str:
    age = "" if pd.isna(row.get("age_years")) else f"{row['age_years']:g} years"
    known = [str(row[name]) for name in ("sex", "site") if not pd.isna(row.get(name))]
    truth = [] if pd.isna(row.get("target")) else ["melanoma" if row["target"] else "benign"]
    return f"{row.get('image_name', '')}\n{', '.join([*truth, *known, *([age] if age else [])])}".strip()


def _show(axes: Axes, pixels: UInt8Array, title: str, caption: str = "") -> None:
    axes.imshow(pixels)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10, wrap=True)
    axes.set_xlabel(caption, fontsize=9.5, wrap=True)


# ---- training --------------------------------------------------------------------------------------------------------


@_styled
def plot(history: Any, monitor: str = "val_auc") -> Figure:
    """Draw loss and accuracy curves, a point an epoch, and mark the best epoch by `monitor` (or val_loss).

    history: the path of a history.csv, a DataFrame, a dict of lists, or what Keras' fit returns; of its columns loss,
    val_loss, accuracy, val_accuracy and val_auc those that are there.
    Raises DataError for a file that is no table, or a history with neither loss nor accuracy.
    """
    table = _history(history)
    figure = Picture(figsize=(8.6, 3.5))
    left, right = figure.subplots(1, 2)
    _curves(left, table, "loss", {"loss": "training", "val_loss": "validation"})
    named = {"accuracy": "training accuracy", "val_accuracy": "validation accuracy", "val_auc": "validation AUC"}
    _curves(right, table, "accuracy", named)
    best = _best_epoch(table, monitor)
    for axes in (left, right):
        if best is not None:
            axes.axvline(best, color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)), label=f"best epoch ({best})")
        if axes.lines:
            axes.legend(loc="best")
    return figure


def _history(history: Any) -> pd.DataFrame:
    if isinstance(history, str | Path):
        try:
            table = pd.read_csv(history)
        except (OSError, ValueError) as error:
            raise DataError(f"{history} cannot be read as a history: {error}") from error
    else:
        table = pd.DataFrame(getattr(history, "history", history))
    if not {"loss", "accuracy"} & set(table.columns):
        raise DataError(f"a history has columns such as loss and val_loss, not {', '.join(map(str, table.columns))}")
    return pd.DataFrame({name: pd.to_numeric(table[name], errors="coerce") for name in table.columns})


def _curves(axes: Axes, table: pd.DataFrame, title: str, names: dict[str, str]) -> None:
    looks = [("muted", "--"), ("blue", "-"), ("green", "-")]
    epochs = np.arange(1, len(table) + 1)
    for (column, label), (colour, line) in zip(names.items(), looks, strict=False):
        if column in table and table[column].notna().any():
            dot = "o" if len(table) < 15 else None  # few epochs are points, many a curve
            axes.plot(epochs, table[column], line, color=COLOURS[colour], label=label, marker=dot, markersize=4)
    axes.set(title=title.capitalize(), xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def _best_epoch(table: pd.DataFrame, monitor: str) -> int | None:
    name = next((one for one in (monitor, "val_loss") if one in table and table[one].notna().any()), None)
    if name is None:
        return None
    values = table[name].to_numpy(float)
    return int(np.nanargmin(values) if name.endswith("loss") else np.nanargmax(values)) + 1


# ---- results ---------------------------------------------------------------------------------------------------------


@_styled
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


@_styled
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


@_styled
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


@_styled
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
