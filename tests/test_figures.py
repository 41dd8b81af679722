"""Figures show what they are given, in files and notebooks, and leave nothing behind."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from melanoma.config import ImageSettings
from melanoma.errors import DataError
from melanoma.evaluation.metrics import auc
from melanoma.images.filters import prepare
from melanoma.report import charts, figures

TARGET = np.array([0, 0, 1, 0, 1, 1] * 20)
PROBABILITY = np.clip(np.tile([0.1, 0.4, 0.35, 0.2, 0.7, 0.8], 20) + np.linspace(0, 0.1, 120), 0, 1)
HISTORY = {
    "loss": [0.7, 0.5, 0.4, 0.3],
    "val_loss": [0.7, 0.5, 0.45, 0.6],
    "accuracy": [0.6, 0.7, 0.8, 0.9],
    "val_accuracy": [0.55, 0.7, 0.72, 0.65],
    "val_auc": [0.6, 0.8, 0.7, 0.7],
}


def lesion(side: int = 40) -> np.ndarray:
    image = np.full((side, side + 20, 3), 220, np.uint8)
    image[10:30, 10:30] = (90, 50, 40)
    return image


def words(figure: Figure) -> str:
    return figures.rendered(figure, "svg").decode()


def test_one_lesion_is_shown_from_an_array_a_path_and_a_row(tmp_path: Path) -> None:
    path = tmp_path / "lesion.png"
    Image.fromarray(lesion()).save(path)
    row = pd.Series(
        {"image_name": "ISIC_1", "path": str(path), "target": 1, "sex": None, "site": "torso", "age_years": 45.0}
    )
    for given in (lesion(), path, str(path), row):
        shown = figures.display_one(given).axes[0]
        np.testing.assert_array_equal(shown.images[0].get_array(), lesion())
    assert figures.display_one(row).axes[0].get_title(loc="left") == "ISIC_1\nmelanoma, torso, 45 years"


def test_a_row_without_a_path_and_a_file_that_is_no_image_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ISIC_1 has no path"):
        figures.display_one(pd.Series({"image_name": "ISIC_1"}))
    with pytest.raises(DataError, match=r"absent\.jpg"):
        figures.display_one(tmp_path / "absent.jpg")
    with pytest.raises(DataError, match="uint8"):
        figures.display_one(lesion().astype(float))  # type: ignore[arg-type]


def test_original_and_processed_stand_side_by_side_with_the_filters_named() -> None:
    settings = ImageSettings(size_px=32, filters=("no_noise", "eroded"))
    left, right = figures.display(lesion(), settings).axes
    np.testing.assert_array_equal(left.images[0].get_array(), lesion())
    np.testing.assert_array_equal(right.images[0].get_array(), prepare(lesion(), settings))
    assert right.get_xlabel() == "32 px, squash → no_noise → eroded"


def test_curves_are_the_same_from_a_file_a_table_a_dict_and_keras(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    pd.DataFrame(HISTORY).to_csv(path, index=False)
    for given in (path, str(path), pd.DataFrame(HISTORY), HISTORY, SimpleNamespace(history=HISTORY)):
        loss, accuracy = figures.plot(given).axes
        assert [line.get_label() for line in loss.lines] == ["training", "validation", "best epoch (2)"]
        assert len(accuracy.lines) == 4
        np.testing.assert_array_equal(loss.lines[1].get_xydata(), np.stack([[1, 2, 3, 4], HISTORY["val_loss"]], 1))


@pytest.mark.parametrize(("monitor", "best"), [("val_auc", 2), ("val_accuracy", 3), ("val_loss", 3), ("other", 3)])
def test_the_best_epoch_is_the_monitors(monitor: str, best: int) -> None:
    assert figures.plot(HISTORY, monitor).axes[0].lines[-1].get_label() == f"best epoch ({best})"


def test_a_history_may_lack_values_but_not_everything(tmp_path: Path) -> None:
    partly = pd.DataFrame({"loss": [0.5, 0.4], "val_auc": [None, None]})
    assert [len(axes.lines) for axes in figures.plot(partly).axes] == [1, 0]
    with pytest.raises(DataError, match="a history has columns"):
        figures.plot({"epoch": [1, 2]})
    (tmp_path / "empty.csv").touch()
    for name in ("empty.csv", "absent.csv"):
        with pytest.raises(DataError, match=name):
            figures.plot(tmp_path / name)


def test_roc_curves_carry_their_auc_and_an_absent_class_is_not_applicable() -> None:
    axes = charts.roc_figure({"network": (TARGET, PROBABILITY), "control": (TARGET * 0, PROBABILITY)}).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"network: AUC {auc(TARGET, PROBABILITY):.3f}", "control: AUC n/a"]


def test_calibration_and_scores_are_drawn_even_of_one_class_or_constant_scores() -> None:
    for target, probability in ((TARGET, PROBABILITY), (TARGET * 0, PROBABILITY), (TARGET, PROBABILITY * 0), ([], [])):
        assert words(charts.calibration_figure({"network": (target, probability)}))
        assert words(charts.score_figure(target, probability, 0.5))


def test_histograms_are_shares_of_their_class() -> None:
    benign, melanoma = (bars for bars in charts.score_figure(TARGET, PROBABILITY).axes[0].patches)
    for bars in (benign, melanoma):
        corners = np.unique(bars.get_xy(), axis=0)
        assert corners[:, 1].max() <= 100


def test_every_site_shows_its_numbers_and_blanks_are_not_recorded() -> None:
    site = pd.Series(["torso"] * 12 + ["head/neck"] * 3 + [None] * 2)
    table = pd.DataFrame({"site": site, "target": [1, 1] + [0] * 10 + [0, 0, 0] + [1, 0]})
    axes = charts.site_figure(table).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["not recorded", "head/neck", "torso"]
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == ["1", "3", "10", "1  (50.0 %)", "0  (0.0 %)", "2  (16.7 %)"]


def test_mistakes_show_name_truth_and_score() -> None:
    rows = pd.DataFrame(
        {"image_name": [f"a{i}" for i in range(5)], "target": [1, 1, 0, 0, 0], "probability": [0.01] * 5}
    )
    figure = figures.mistakes_figure([lesion()] * 5, rows)
    assert figure.axes[0].get_xlabel() == "melanoma, scored 0.010"
    assert figure.axes[4].get_title(loc="left") == "a4"
    assert words(figures.mistakes_figure([], rows[:0]))
    with pytest.raises(ValueError, match="5 rows"):
        figures.mistakes_figure([lesion()], rows)


def test_text_of_a_table_is_neither_formula_nor_markup() -> None:
    site = pd.Series(["$\\frac{", "<script>alert(1)</script>"])
    drawn = words(charts.site_figure(pd.DataFrame({"site": site, "target": [0, 1]})))
    assert "<script" not in drawn


def test_a_figure_is_saved_by_its_suffix_and_is_the_same_file_when_drawn_again(tmp_path: Path) -> None:
    for name in ("roc.png", "roc.svg"):
        path, files = tmp_path / "new" / name, []
        for _ in range(2):
            figures.save(charts.roc_figure({"network": (TARGET, PROBABILITY)}), path)
            files.append(path.read_bytes())
        assert files[0] == files[1]
    with Image.open(tmp_path / "new" / "roc.png") as picture:
        assert picture.width == 720
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        figures.save(figures.plot(HISTORY), tmp_path / "roc.gif")


def test_a_notebook_shows_the_figure_without_pyplot() -> None:
    formatters = pytest.importorskip("IPython.core.formatters", reason="IPython is not installed")
    shown, _ = formatters.DisplayFormatter().format(figures.plot(HISTORY))
    assert shown["image/png"].startswith(b"\x89PNG")


def test_drawing_changes_no_setting_of_matplotlib_and_obeys_none() -> None:
    plain = words(figures.plot(HISTORY))
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30, "text.usetex": True}):
        before = dict(mpl.rcParams)
        assert words(figures.plot(HISTORY)) == plain
        assert dict(mpl.rcParams) == before


def test_figures_need_no_display_and_no_pyplot() -> None:
    code = "import sys, melanoma.report.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_epoch_is_marked_as_best_where_the_last_one_is_kept() -> None:
    history = {"loss": [0.5, 0.4, 0.3], "val_loss": [0.4, 0.3, 0.5]}
    marked, plain = (figures.plot(history, monitor) for monitor in ("val_loss", "none"))
    labels = [[line.get_label() for axes in figure.axes for line in axes.lines] for figure in (marked, plain)]
    assert "best epoch (2)" in labels[0]
    assert not any(str(label).startswith("best") for label in labels[1])
