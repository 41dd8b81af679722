"""A run's networks, or those of several runs together, judged on the images that each of them has not seen.

The evidence of `melanoma.judge`, and what only pictures tell: robustness, where networks looked, the model card.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.config import Settings
from melanoma.data.encode import Encoder
from melanoma.data.facts import colours, control_facts
from melanoma.evaluation import evidence
from melanoma.evaluation.answers import Answers
from melanoma.evaluation.clinical import Clinical
from melanoma.evaluation.context import Context
from melanoma.evaluation.metrics import auc
from melanoma.files import read_json
from melanoma.inference.bundle import Bundle
from melanoma.inference.engine import Choice, Engine
from melanoma.inference.explain import middle, overlaid
from melanoma.inference.predict import mean_map
from melanoma.inference.robustness import CHANGES, changed_scores
from melanoma.judge import (
    ANSWER_COLUMNS,
    Judged,
    answered,
    judge,
    seen_by_networks,
    write_calibration,
    write_page,
    write_table,
)
from melanoma.prepare import Prepared
from melanoma.report import page
from melanoma.runs import Run

MOST_CHANGED = 400  # lesions that are turned, mirrored, brightened
MOST_PASSES = 16_000  # through networks, for all their changes and views


# the places of some rows, the network that has not seen them, their images and metadata
Asked = tuple[NDArray[np.int64], Engine, NDArray[np.uint8], NDArray[np.float32] | None]


@dataclass(frozen=True)
class Trained:
    """A run's exported networks, by what they are computed, and the images that each of them has not seen."""

    bundle: Bundle
    choice: Choice
    settings: Settings
    prepared: Prepared

    def changed(self, rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
        """Score held-out images as they are and after each change, as `changed_scores` does, in the rows' order."""
        found: dict[str, NDArray[np.float64]] = {}
        for mine, engine, images, metadata in self._asked(rows):
            changed = changed_scores(engine, images, metadata, views=self.settings.evaluate.views)
            for name, scores in changed.items():
                found.setdefault(name, np.full(len(rows), np.nan))[mine] = scores
        assert not any(np.isnan(scores).any() for scores in found.values())  # a row that no network has held out
        return found

    def maps(self, rows: pd.DataFrame) -> NDArray[np.float32]:
        """Let each image's own network say which places spoke for melanoma and which against: (n, rows, columns)."""
        found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(rows)
        for mine, engine, images, metadata in self._asked(rows):
            for place, one in zip(mine, engine.answer(images, metadata).activation_map, strict=True):
                found[place] = one
        return np.stack(found)

    def _asked(self, rows: pd.DataFrame) -> Iterator[Asked]:
        """Give for each fold the places of its rows, its network, and their images and metadata."""
        known = self.prepared.table.assign(fold=self.prepared.fold).set_index("image_name")
        known = known.loc[rows["image_name"]].reset_index()
        networks = zip(self.bundle.description["networks"], self.bundle.networks_in(self.choice.precision), strict=True)
        for network, path in networks:
            mine = np.flatnonzero(known["fold"] == network["fold"])
            if len(mine):
                some, metadata = known.iloc[mine], None
                images = np.asarray(self.prepared.cache.images[self.prepared.cache.rows_of(some["image_name"])])
                if self.settings.model.metadata:
                    metadata = Encoder.from_json(network["encoder"]).features(some)
                yield mine, Engine(path, self.choice), images, metadata


def judge_run(
    run: Run,
    trained: Sequence[Trained],
    *,
    name: str = "",
    limits: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> None:
    """Write calibration.json, metrics.json, figures, report and model card from the predictions in a run's folder.

    trained: the run's own networks; or those of several runs on one dataset, whose mean the predictions are. name: of
    the report, by default the run's. limits, remarks: sentences beside those that are told of every run.

    predictions.csv and test_predictions.csv get the calibrated probability, the conformal answer, and where
    evaluate.context asks for it the probability with context, of each row.
    """
    settings, prepared = trained[0].settings, trained[0].prepared

    # ---- what is known without a look at a lesion, on the run's own folds ----------------------------------------
    table = prepared.table.assign(fold=prepared.fold, group=prepared.group)[prepared.kept]
    rows = prepared.cache.rows_of(table["image_name"])
    files = prepared.cache.index.iloc[rows]
    facts = control_facts(table, files, colours(prepared.cache.thumbnails)[rows])

    # ---- answers, and every figure of metrics.json ---------------------------------------------------------------
    predictions = seen_by_networks(run.predictions)
    group = pd.Series(prepared.group, index=prepared.table["image_name"])
    predictions["group"] = group[predictions["image_name"]].to_numpy()
    judged = judge(predictions, table, facts, settings, files)
    judged.metrics["robustness"] = _robustness(trained, judged)
    extras = []
    if run.held_out_predictions.exists():
        everything = seen_by_networks(run.held_out_predictions)
        area = auc(everything["target"], everything["probability"])
        judged.metrics["all_rows_of_held_out_patients"] = {"images": len(everything), "auc": area}
        shown = "n/a (one class only)" if area is None else f"AUC {area:.3f}"
        extras.append(
            (f"All {len(everything):,} images of the held-out patients, by the picture, without balance", shown)
        )
    _write_answers(run, judged, prepared.test, settings.evaluate.threshold)

    # ---- the page ------------------------------------------------------------------------------------------------
    histories = {
        fold: run.history(fold) for fold in sorted(set(judged.predictions["fold"])) if run.history(fold).exists()
    }
    mistakes = evidence.worst_mistakes(judged.predictions)
    pictures = [prepared.cache.images[row] for row in prepared.cache.rows_of(mistakes["image_name"])]
    maps = list(mean_map([one.maps(mistakes) for one in trained])) if len(mistakes) else []
    threshold = judged.metrics["subgroup_threshold"] or 0.5
    middles = [middle(score, one, threshold) for score, one in zip(mistakes["probability"], maps, strict=True)]
    chosen = any(one.settings.train.monitor != "none" for one in trained)  # the best epoch, by the held-out images
    made_with = read_json(run.environment)
    environment = {name: str(fact) for name, fact in made_with.items() if name not in ("command", "versions")}
    write_page(
        run,
        judged,
        page.Report(
            name=name or run.name,
            metrics=judged.metrics,
            exhibits=page.exhibits(
                judged.predictions,
                judged.controls,
                judged.metrics,
                table=table,
                histories=histories,
                monitor=settings.train.monitor,
            ),
            mistakes=mistakes,
            mistake_images=pictures,
            mistake_maps=[overlaid(*one) for one in zip(pictures, maps, middles, strict=True)],
            settings=[one.settings for one in trained],
            limits=[*limits, *(page.LIMITS if chosen else page.ELSEWHERE)],
            command=made_with["command"],
            extras=extras,
            remarks=list(dict.fromkeys([*(told for one in trained for told in one.prepared.remarks), *remarks])),
            hashes=prepared.hashes,
            environment=environment | made_with["versions"],
        ),
        _data_facts(prepared.table, table, prepared),
    )


def _robustness(trained: Sequence[Trained], judged: Judged) -> dict[str, Any] | None:
    """Turn, mirror and brighten some held-out lesions, and see whose answer changes."""
    settings, threshold = trained[0].settings, judged.metrics["subgroup_threshold"]
    passes = (len(CHANGES) + 1) * sum(one.settings.evaluate.views for one in trained)
    count = min(MOST_CHANGED, MOST_PASSES // passes, len(judged.predictions))
    if threshold is None or not count:
        return None
    rows = judged.predictions.sample(count, random_state=settings.seed).sort_values(["fold", "image_name"])
    found = [one.changed(rows) for one in trained]
    scores = {name: np.mean([one[name] for one in found], axis=0) for name in found[0]}
    if weights := judged.metrics.get("clinical", {}).get("weights"):
        clinical = Clinical.from_json(weights)
        scores = {name: clinical.apply(values, rows) for name, values in scores.items()}
    before = scores.pop("")
    views = [one.settings.evaluate.views for one in trained]
    found_of = evidence.robustness(before, scores, threshold, rows["patient_id"].to_numpy())
    return {"views": views[0] if len(set(views)) == 1 else views, **found_of}


def _write_answers(run: Run, judged: Judged, test_table: pd.DataFrame | None, threshold: float) -> None:
    """Write what turns probabilities into answers, and the answers themselves beside the probabilities."""
    calibration, rows = write_calibration(run, judged), judged.predictions
    said = {name: rows[name].to_numpy() for name in ("probability", *ANSWER_COLUMNS) if name in rows}
    said["calibrated"] = judged.answers.moved(said["calibrated"])
    write_table(run.predictions, answered(seen_by_networks(run.predictions).assign(**said), threshold))
    if run.test_predictions.exists():
        test = seen_by_networks(run.test_predictions)
        if calibration["clinical"]:
            assert test_table is not None
            known = test_table.set_index("image_name").loc[test["image_name"]]
            picture = test["probability"].to_numpy()
            with_clinical = Clinical.from_json(calibration["clinical"]).apply(picture, known)
            test = test.assign(probability=with_clinical, picture=picture)
        test = answered(test.assign(**_new_answers(judged.answers, test["probability"].to_numpy())), threshold)
        if context := calibration["context"]:
            test["with_context"] = Context.from_json(context).apply(test["probability"], test["patient_id"])
        write_table(run.test_predictions, test)


def _new_answers(answers: Answers, probability: NDArray[np.float64]) -> dict[str, Any]:
    said = answers.conformal.answer(probability) if answers.conformal else np.full(len(probability), "refer")
    return {"calibrated": answers.of_new(probability), "said": said}


def _data_facts(table: pd.DataFrame, used: pd.DataFrame, prepared: Prepared) -> dict[str, str]:
    """Say in words what the data is: what a model card and the checklists ask for."""
    ages, sites = used["age_years"], used["site"].fillna("not recorded").value_counts()
    sexes = used["sex"].fillna("not recorded").value_counts()
    blanks = {name: int(used[name].isna().sum()) for name in ("sex", "age_years", "site")}
    parts = len(set(used["fold"]) - {-1})
    quartiles = ages.quantile([0.25, 0.5, 0.75]) if ages.notna().any() else None
    return {
        "images": f"{len(used):,}",
        "patients": f"{used['patient_id'].nunique():,}",
        "melanomas": f"{int(used['target'].sum()):,}",
        "sites": ", ".join(f"{name} {count:,}" for name, count in sites.items()),
        "sexes": ", ".join(f"{name} {count:,}" for name, count in sexes.items()),
        "ages": "" if quartiles is None else "median {1:g} years, quartiles {0:g} and {2:g}".format(*quartiles),
        "blanks": ", ".join(f"{name} {count:,}" for name, count in blanks.items()),
        "duplicates": f"{len(table) - len(used):,} of {len(table):,} images were left out as duplicates or for balance",
        "source": "",
        "hashes": ", ".join(f"{name} {digest}" for name, digest in prepared.hashes.items()),
        "folds": f"{parts} folds, patients and duplicates whole" if parts > 1 else "one split, patients whole",
    }
