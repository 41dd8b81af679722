"""The house style of figures, lesions before and after filters, training curves.

Each function gives a matplotlib figure that a notebook shows and `save` writes. No pyplot, so nothing is left open and
no display is needed. It computes no result of its own and writes nothing but what `save` is told to.
"""

import io
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from melanoma.config import ImageSettings
from melanoma.errors import DataError
from melanoma.files import replacing
from melanoma.images.decode import as_image
from melanoma.images.filters import prepare
from melanoma.images.photograph import UInt8Array

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
RED, BLUE = np.array([213, 94, 0]), np.array([0, 114, 178])
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


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function in the house style and leave matplotlib's own settings as they were."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with style.context(STYLE, after_reset=True):
            return draw(*args, **kwargs)

    return inside


# ---- lesions ---------------------------------------------------------------------------------------------------------


@styled
def display_one(image: Lesion) -> Figure:
    """Show one skin lesion: a path, uint8 RGB (height, width, 3), or a table row with a `path`.

    Raises DataError for a file that is no image, another kind of array, or a row without a path.
    """
    pixels, title = _lesion(image)
    figure = Picture(figsize=(4.6, 4.8))
    _show(figure.subplots(), pixels, title)
    return figure


@styled
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


@styled
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


@styled
def plot(history: Any, monitor: str = "val_auc") -> Figure:
    """Draw loss and accuracy curves, a point an epoch, and mark the best by `monitor` (or val_loss), if not "none".

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
    if monitor == "none":  # the last is kept
        return None
    name = next((one for one in (monitor, "val_loss") if one in table and table[one].notna().any()), None)
    if name is None:
        return None
    values = table[name].to_numpy(float)
    return int(np.nanargmin(values) if name.endswith("loss") else np.nanargmax(values)) + 1
