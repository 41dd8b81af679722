"""The numbers of a run are whole and safe as JSON, and the page shows them to whoever opens it, wherever."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melanoma.config import EvaluateSettings, ImageSettings, Settings
from melanoma.evaluation import evidence, intervals, metrics
from melanoma.evaluation.answers import Answers, learn_answers
from melanoma.evaluation.control import Control
from melanoma.report import page as report

SETTINGS = Settings(images=ImageSettings(size_px=64, filters=("no_noise",)))
QUICK = EvaluateSettings(bootstrap_samples=200)
HISTORY = {"loss": [0.7, 0.5], "val_loss": [0.7, 0.6], "accuracy": [0.6, 0.7], "val_auc": [0.6, 0.7]}
HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x onerror=alert(1)> {{ 7*7 }} </svg> & $\\frac{"


def predicted(rows: int = 200, folds: int = 2, skill: float = 2.0) -> pd.DataFrame:
    random = np.random.default_rng(0)
    target = (np.arange(rows) % 4 == 0).astype(np.int64)
    return pd.DataFrame(
        {
            "image_name": [f"ISIC_{number}" for number in range(rows)],
            "patient_id": [f"IP_{number // 2}" for number in range(rows)],
            "fold": np.arange(rows) // 2 % folds,
            "target": target,
            "probability": 1 / (1 + np.exp(2 - skill * target - random.normal(size=rows))),
            "control": 1 / (1 + np.exp(2 - 0.5 * target - random.normal(size=rows))),
            "site": "torso",
        }
    )


def evaluated(predictions: pd.DataFrame, settings: EvaluateSettings = QUICK, seed: int = 0) -> dict[str, Any]:
    """Judge predictions beside a control that the table `predicted` made, and one that is worth nothing."""
    return evidence.evaluate(predictions, settings, seed, controls(predictions), answers(predictions, settings, seed))


def controls(predictions: pd.DataFrame) -> list[Control]:
    scores = predictions["control"].to_numpy(np.float64)
    nothing = np.random.default_rng(1).random(len(predictions))
    return [
        Control("age, sex and site", ("age", "sex", "site"), scores),
        Control("width and height", ("width", "height"), nothing),
    ]


def answers(predictions: pd.DataFrame, settings: EvaluateSettings = QUICK, seed: int = 0) -> Answers:
    columns = (predictions[name].to_numpy() for name in ("target", "probability", "patient_id"))
    return learn_answers(*columns, settings, seed)


def content(predictions: pd.DataFrame, **changes: Any) -> report.Report:
    found = evaluated(predictions)
    rows = predictions.assign(calibrated=answers(predictions).calibrated)
    shown = report.exhibits(rows, controls(predictions), found, table=predictions, histories={0: HISTORY})
    mistakes = evidence.worst_mistakes(predictions, 4)
    pictures = [np.full((400, 300, 3), 120, np.uint8)] * len(mistakes)
    given: dict[str, Any] = {
        "name": "first run",
        "metrics": found,
        "exhibits": shown,
        "mistakes": mistakes,
        "mistake_images": pictures,
        "mistake_maps": pictures,
        "settings": [SETTINGS],
        "command": "melanoma run DATA",
    }
    return report.Report(**(given | changes))


def written(tmp_path: Path, given: report.Report) -> str:
    report.write_report(tmp_path / "report.html", given)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a browser would make of a page: tags, attributes, and the text outside of style sheets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_figures_are_those_of_the_metrics() -> None:
    predictions = predicted()
    found = evaluated(predictions, seed=3)
    target, probability = predictions["target"], predictions["probability"]
    interval = intervals.auc_interval(target, probability, predictions["patient_id"], samples=200, seed=3)
    assert interval is not None
    assert found["schema_version"] == 2
    assert (found["images"], found["patients"], found["melanomas"]) == (200, 100, 50)
    assert found["auc"]["value"] == metrics.auc(target, probability)
    assert (found["auc"]["low"], found["auc"]["high"]) == (interval.low, interval.high)
    assert found["auc"]["method"] == "bootstrap over patients"
    assert found["difference"]["value"] == found["auc"]["value"] - found["control"]["auc"]["value"]
    assert found["folds"][1]["images"] == 100
    assert [point["sensitivity"] for point in found["at_sensitivity"]] == [0.8, 0.9, 0.95]
    assert found["brier_of_the_mean"] == pytest.approx(0.25 * 0.75)


@pytest.mark.parametrize("kind", ["no melanoma", "no benign", "no rows", "no control", "perfect", "constant"])
def test_what_is_undefined_is_null_with_its_reason_and_the_page_is_still_written(kind: str, tmp_path: Path) -> None:
    predictions = predicted(24, 1)
    if kind in ("no melanoma", "no benign"):
        predictions["target"] = int(kind == "no benign")
    if kind == "no rows":
        predictions = predictions[:0]
    if kind == "no control":
        predictions["control"] = np.nan
    if kind == "perfect":
        predictions["probability"] = 0.2 + 0.6 * predictions["target"]
    if kind == "constant":
        predictions["probability"] = 0.3
    found = evaluated(predictions)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["auc"]["reason"] or found["control"]["auc"]["reason"]
    assert found["difference"]["reason"] or kind in ("perfect", "constant")
    text = written(tmp_path, content(predictions, mistakes=predictions[:0], mistake_images=[], mistake_maps=[]))
    assert not re.search(r"\bnan\b|\bNone\b", Page(text).text)
    assert report.RESEARCH_ONLY in text


def test_every_patient_once_is_judged_by_delong_and_one_fold_is_held_out() -> None:
    predictions = predicted(folds=1).assign(patient_id=range(200))
    found = evaluated(predictions)
    assert found["auc"]["method"] == "DeLong"
    assert found["scope"] == "held out"


def test_the_words_follow_the_interval_of_the_difference() -> None:
    better, same = (evaluated(predicted(skill=skill)) for skill in (3.0, 0.5))
    assert "better than age, sex and site alone" in report.meaning(better)
    assert "not shown to rank these images better" in report.meaning(same)
    worse = evaluated(predicted().rename(columns={"probability": "control", "control": "probability"}))
    assert "worse than age, sex and site alone" in report.meaning(worse)
    alone = report.meaning(evaluated(predicted().assign(control=np.nan)))
    assert alone == "The network cannot be compared with age, sex and site alone: the control could not be learned."


def test_the_summary_is_three_lines_and_says_why_a_figure_is_missing() -> None:
    found = evaluated(predicted())
    network, control, words = report.summary(found).splitlines()
    assert network.startswith(f"AUC {found['auc']['value']:.3f} (95 % interval ")
    assert network.endswith("bootstrap over patients), out of fold: 200 images, 50 melanomas")
    assert control.endswith("age, sex and site alone on the same folds")
    assert words == report.meaning(found)
    none = report.summary(evaluated(predicted().assign(target=0)))
    assert none.startswith("AUC n/a (no melanoma among 200 images), out of fold")


def test_worst_mistakes_are_low_melanomas_and_high_benign_images() -> None:
    predictions = predicted()
    worst = evidence.worst_mistakes(predictions, 6)
    assert worst["target"].tolist() == [1, 1, 1, 0, 0, 0]
    assert worst["probability"][0] == predictions.loc[predictions["target"] == 1, "probability"].min()
    assert worst["probability"][3] == predictions.loc[predictions["target"] == 0, "probability"].max()
    assert len(evidence.worst_mistakes(predictions[:2], 6)) == 2


def test_the_headline_has_network_control_intervals_and_the_warning(tmp_path: Path) -> None:
    given = content(predicted(), extras=[("AUC on all rows", "0.813")], remarks=["3 images have no site."])
    text = Page(written(tmp_path, given)).text
    for figure in (given.metrics["auc"], given.metrics["control"]["auc"]):
        assert f"{figure['value']:.3f}" in text
        assert f"95 % interval {figure['low']:.3f} to {figure['high']:.3f}" in text
    for part in (report.RESEARCH_ONLY, "first run", "AUC on all rows", "3 images have no site.", "melanoma run DATA"):
        assert part in text
    assert "Fold by fold" in text
    assert all(limit in text for limit in report.LIMITS)


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(tmp_path: Path) -> None:
    text = written(tmp_path, content(predicted()))
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    addresses = [
        value or "" for name, value in page.attributes if name in ("src", "href", "xlink:href", "data", "action")
    ]
    assert addresses
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []


def test_hostile_text_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    predictions = predicted().assign(image_name=HOSTILE, site=HOSTILE)
    pairs = {HOSTILE: HOSTILE}
    given = content(
        predictions,
        name=HOSTILE,
        command=HOSTILE,
        extras=[(HOSTILE, HOSTILE)],
        remarks=[HOSTILE],
        hashes=pairs,
        environment=pairs,
    )
    page = Page(written(tmp_path, given))
    assert not {"script", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("img") == 8  # the mistakes and their maps
    assert page.text.count(HOSTILE) >= 9
    assert ("alt", f"Lesion {HOSTILE}") in page.attributes


def test_every_picture_has_a_text_and_every_id_is_its_own(tmp_path: Path) -> None:
    page = Page(written(tmp_path, content(predicted())))
    labels = [value for name, value in page.attributes if name in ("alt", "aria-label")]
    assert len(labels) == page.tags.count("img") + page.tags.count("svg") + 1  # and the ruler
    assert all(labels)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = {value[1:] for name, value in page.attributes if name == "xlink:href" and value}
    assert referred <= set(ids)


def test_figures_follow_the_pages_colours(tmp_path: Path) -> None:
    text = written(tmp_path, content(predicted()))
    assert "stroke: var(--blue, #0072b2)" in text
    assert not re.search(r"(?:fill|stroke): #(?!0{6})[0-9a-f]{6}", text)


def test_mistakes_without_their_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        report.write_report(
            tmp_path / "report.html", content(predicted(), mistake_images=[np.zeros((8, 8, 3), np.uint8)])
        )
    assert not list(tmp_path.iterdir())
