"""Charts show what they are given, in the house's colours, whatever the names and however little there is."""

import re

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from melanoma.evaluation.decision import decision_curve
from melanoma.evaluation.intervals import Interval, figure
from melanoma.evaluation.metrics import average_precision
from melanoma.report import charts, figures, use_charts

RANDOM = np.random.default_rng(0)
TARGET = (RANDOM.random(300) < 0.3).astype(int)
PROBABILITY = np.clip(RANDOM.normal(0.3 + 0.3 * TARGET, 0.2), 0, 1)
CURVES = {"network": (TARGET, PROBABILITY), "control": (TARGET, 1 - PROBABILITY)}
READERS = [("58 dermatologists", 0.866, 0.713), ("with clinical data", 0.889, 0.757)]
HOSTILE = "$\\frac{ <script>alert(1)</script>\n\x00 & " + "W" * 300
NOTHING = figure(None, None, "fewer than 10 melanomas")
OVERALL = {"images": 300, "melanomas": 90, "auc": figure(0.85, Interval(0.8, 0.9, "DeLong"))}


def group(by: str, name: str, value: float | None = 0.8) -> dict[str, object]:
    area = NOTHING if value is None else figure(value, Interval(value - 0.1, value + 0.05, "DeLong"))
    return {"by": by, "name": name, "images": 1234, "melanomas": 56, "auc": area, "suppressed": value is None}


def texts(drawn: Figure) -> list[str]:
    return [text.get_text() for axes in drawn.axes for text in axes.texts]


def legend(drawn: Figure) -> list[str]:
    return [text.get_text() for text in drawn.legends[0].get_texts()]


# ---- ROC, precision and recall -----------------------------------------------------------------------------------


def test_published_readers_stand_where_they_are_and_are_listed_below() -> None:
    drawn = charts.roc_figure(CURVES, READERS)
    axes = drawn.axes[0]
    assert [tuple(line.get_xydata()[0]) for line in axes.lines[-2:]] == [
        pytest.approx((1 - specificity, sensitivity)) for _, sensitivity, specificity in READERS
    ]
    assert legend(drawn) == ["58 dermatologists: 0.866 / 0.713", "with clinical data: 0.889 / 0.757"]
    assert len({line.get_marker() for line in axes.lines[-2:]}) == 2
    assert len(axes.get_legend().get_texts()) == 2


@pytest.mark.parametrize("number", [1, 2, 6, 12])
def test_the_list_of_readers_lies_below_the_axes_and_inside_the_figure(number: int) -> None:
    drawn = charts.roc_figure(CURVES, (READERS * 6)[:number])
    drawn.draw_without_rendering()
    box, axes = drawn.legends[0].get_window_extent(), drawn.axes[0]
    assert box.y0 >= 0
    assert box.x1 <= drawn.bbox.x1
    assert axes.xaxis.label.get_window_extent().y0 > box.y1
    assert axes._left_title.get_window_extent().y1 < drawn.bbox.y1  # type: ignore[attr-defined]


def test_the_area_under_the_drawn_precision_is_average_precision() -> None:
    drawn = charts.precision_recall_figure(CURVES)
    for (name, given), line in zip(CURVES.items(), drawn.axes[0].lines, strict=False):
        across, upwards = line.get_xydata().T
        assert line.get_drawstyle() == "steps-pre"
        assert np.sum(np.diff(across) * upwards[1:]) == pytest.approx(average_precision(*given))
        assert f"{name}: average precision {average_precision(*given):.3f}" in legend(drawn)


def test_the_base_line_of_precision_is_the_share_of_melanomas() -> None:
    drawn = charts.precision_recall_figure(CURVES)
    assert drawn.axes[0].lines[-1].get_ydata() == pytest.approx([TARGET.mean()] * 2)
    assert legend(drawn)[-1] == f"a coin: {100 * TARGET.mean():.1f} %"
    assert legend(charts.precision_recall_figure({"one": (TARGET * 0, PROBABILITY), "none": ([], [])})) == [
        "one: average precision n/a",
        "none: average precision n/a",
    ]


# ---- calibration -------------------------------------------------------------------------------------------------


def test_a_smoothed_curve_is_drawn_as_given_with_its_band() -> None:
    given = np.linspace(0.1, 0.9, 5)
    smooth = (given, given**2, given**2 - 0.01, given**2 + 0.01)
    axes = charts.calibration_figure(CURVES, smoothed={"network": smooth}).axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_array_equal(lines["network"], np.stack(smooth[:2], axis=1))
    bands = [one for one in axes.collections if isinstance(one, PolyCollection)]
    assert len(bands) == 1
    corners = bands[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == pytest.approx((0.0, 0.82))


def test_below_the_calibration_every_image_in_sight_is_counted() -> None:
    drawn = charts.calibration_figure({"network": (TARGET, PROBABILITY)})
    below = drawn.axes[0].child_axes[0]
    counts = below.patches[0].get_data().values  # type: ignore[attr-defined]
    end = drawn.axes[0].get_xlim()[1]
    assert counts.sum() == (end >= PROBABILITY).sum()
    assert below.get_xlim() == drawn.axes[0].get_xlim()


# ---- subgroups ---------------------------------------------------------------------------------------------------


def test_a_forest_has_a_heading_a_partition_and_the_numbers_of_each_group() -> None:
    rows = [group("site", "torso", 0.8), group("site", "head/neck", 0.7), group("sex", "male", 0.9)]
    drawn = use_charts.forest_figure(rows, OVERALL)
    words = [text.get_text() for text in drawn.axes[0].texts]
    assert [word for word in words if word in ("site", "torso", "head/neck", "sex", "male", "all images")] == [
        "all images", "site", "torso", "head/neck", "sex", "male",
    ]  # fmt: skip
    assert (words.count("1,234"), words.count("56"), words.count("90")) == (3, 3, 1)
    intervals = [tuple(line.get_xdata()) for line in drawn.axes[1].lines if len(line.get_xdata()) == 2]
    assert intervals[:4] == [(0.8, 0.9), *(pytest.approx((value - 0.1, value + 0.05)) for value in (0.8, 0.7, 0.9))]
    points = [line.get_xdata()[0] for line in drawn.axes[1].lines if len(line.get_xdata()) == 1]
    assert points == [0.85, 0.8, 0.7, 0.9]
    assert tuple(drawn.axes[1].lines[-1].get_xdata()) == (0.85, 0.85)


def test_a_suppressed_group_is_listed_with_its_reason_and_no_point() -> None:
    drawn = use_charts.forest_figure([group("site", "palms/soles", None)], OVERALL)
    muted = [
        text for axes in drawn.axes for text in axes.texts if text.get_text() in ("palms/soles", NOTHING["reason"])
    ]
    assert [text.get_color() for text in muted] == [figures.COLOURS["muted"]] * 2
    assert len([line for line in drawn.axes[1].lines if len(line.get_xdata()) == 1]) == 1


def test_every_interval_is_inside_the_scale() -> None:
    drawn = use_charts.forest_figure([group("site", "torso", 0.31), group("site", "arm", 0.93)], OVERALL)
    low, high = drawn.axes[1].get_xlim()
    assert 0 <= low <= 0.21
    assert 0.98 <= high <= 1


def test_no_two_texts_of_a_forest_of_thirty_rows_touch() -> None:
    names = ["lower extremity", HOSTILE, "6000 × 4000", "not recorded", "patient_id prefix"]
    rows = [group(f"part {place // 5}", names[place % 5], 0.8 if place % 4 else None) for place in range(30)]
    drawn = use_charts.forest_figure(rows, OVERALL)
    drawn.draw_without_rendering()
    shown = [text for axes in drawn.axes for text in axes.texts]
    boxes = [text.get_window_extent() for text in shown]
    touching = [(i, j) for i, box in enumerate(boxes) for j in range(i) if box.overlaps(boxes[j])]
    assert [(shown[i].get_text(), shown[j].get_text()) for i, j in touching] == []
    assert all(drawn.bbox.x0 <= box.x0 and box.x1 <= drawn.bbox.x1 for box in boxes)


# ---- decisions, robustness ---------------------------------------------------------------------------------------


def test_a_decision_figure_shows_the_curve_that_was_computed() -> None:
    scores = {"network": PROBABILITY, "control": np.full(300, 0.3)}
    for prevalence in (None, 0.05):
        found = decision_curve(TARGET, scores, prevalence=prevalence)
        assert found
        axes = use_charts.decision_figure(scores, TARGET, prevalence=prevalence).axes[0]
        expected = [*found.net_benefit.values(), found.treat_all, found.treat_none]
        for line, benefit in zip(axes.lines, expected, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), np.stack([found.thresholds, benefit], axis=1))
        assert [line.get_label() for line in axes.lines] == ["network", "control", "treat all", "treat none"]
        assert axes.get_ylim()[1] > found.prevalence


def test_a_decision_that_cannot_be_judged_says_why() -> None:
    assert texts(use_charts.decision_figure({"a": PROBABILITY}, TARGET * 0, prevalence=0.1)) == [
        "no melanoma among 300 images"
    ]
    assert texts(use_charts.decision_figure({"a": []}, [])) == ["no image"]


def test_bars_of_robustness_are_per_cent_and_an_unknown_one_says_why() -> None:
    crossed = figure(0.065, Interval(0.05, 0.08, "Wilson"))
    changes = [{"name": "rotated", "crossed": crossed}, {"name": "hair", "crossed": figure(None, None, "no hair")}]
    drawn = use_charts.robustness_figure(changes)
    bars = [patch for patch in drawn.axes[0].patches if isinstance(patch, Rectangle)]
    assert [bar.get_width() for bar in bars] == [pytest.approx(6.5)]
    assert tuple(drawn.axes[0].lines[0].get_xdata()) == pytest.approx((5, 8))
    assert texts(drawn) == ["6.5 %", "no hair"]
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["rotated", "hair"]


# ---- all ---------------------------------------------------------------------------------------------------------

ONE_CLASS = {HOSTILE: (TARGET * 0, PROBABILITY), "": (TARGET * 0 + 1, PROBABILITY), "none": ([], [])}
HOSTILE_ROWS = [group(HOSTILE, HOSTILE), group(HOSTILE, "", None)]
UNDEFINED = {"images": 0, "melanomas": 0, "auc": figure(None, None, HOSTILE)}
DRAWN = {
    "roc": lambda: charts.roc_figure(CURVES, READERS),
    "roc, hostile": lambda: charts.roc_figure(ONE_CLASS, [(HOSTILE, 0.0, 1.0)] * 10),
    "precision": lambda: charts.precision_recall_figure(CURVES),
    "precision, hostile": lambda: charts.precision_recall_figure(ONE_CLASS),
    "calibration": lambda: charts.calibration_figure(CURVES),
    "calibration, hostile": lambda: charts.calibration_figure(ONE_CLASS, smoothed={HOSTILE: ([0.5],) * 4}),
    "calibration, certain": lambda: charts.calibration_figure({"a": (TARGET, TARGET)}),
    "forest": lambda: use_charts.forest_figure([group("site", "torso")], OVERALL),
    "forest, hostile": lambda: use_charts.forest_figure(HOSTILE_ROWS, UNDEFINED),
    "forest, nothing": lambda: use_charts.forest_figure([], OVERALL),
    "decision": lambda: use_charts.decision_figure({"network": PROBABILITY}, TARGET),
    "decision, hostile": lambda: use_charts.decision_figure({HOSTILE: PROBABILITY}, TARGET * 0),
    "decision, certain": lambda: use_charts.decision_figure({"a": PROBABILITY}, TARGET * 0 + 1),
    "decision, no score": lambda: use_charts.decision_figure({}, TARGET),
    "robustness": lambda: use_charts.robustness_figure([{"name": "a", "crossed": figure(1.0, None)}]),
    "robustness, hostile": lambda: use_charts.robustness_figure([{"name": HOSTILE, "crossed": UNDEFINED["auc"]}]),
    "robustness, nothing": lambda: use_charts.robustness_figure([]),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_chart_can_be_drawn_in_the_houses_colours_and_holds_no_markup(name: str) -> None:
    drawn = figures.rendered(DRAWN[name](), "svg", transparent=True).decode()
    assert "<script" not in drawn
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) <= set(figures.COLOURS.values())


def test_text_is_cut_to_the_width_it_gets_and_keeps_to_a_line() -> None:
    assert charts.shortened("head/neck", 2) == "head/neck"
    assert charts.shortened("  two\n lines\x00 ", 2) == "two lines"
    cut = charts.shortened("W" * 300, 2)
    assert cut.endswith("…")
    assert 10 < len(cut) < len(charts.shortened("i" * 300, 2))
    assert charts.shortened("", 2) == charts.shortened("W", 0) == ""
