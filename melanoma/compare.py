"""More than one run: which ranks better, with paired intervals; and one submission from several, blended."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melanoma.errors import DataError, MelanomaError, UsageError, listed
from melanoma.evaluation import metrics
from melanoma.evaluation.answers import SENSITIVITIES
from melanoma.evaluation.blend import (
    Candidate,
    choose_blend,
    common_rows,
    nested_blend_auc,
)
from melanoma.evaluation.intervals import (
    Interval,
    delong_difference,
    figure,
    leaderboard_noise,
    ranking_differences,
    ranking_measures,
    share_interval,
)
from melanoma.evaluation.recalibration import parts_by_patient
from melanoma.files import write_json
from melanoma.inference.submission import write_submission
from melanoma.judge import read_predictions
from melanoma.runs import open_run

SCHEMA_VERSION = 1
MINIMUM_SENSITIVITY = 0.8
PUBLIC_SHARE = 0.3  # of the test images that the 2020 competition's public leaderboard was computed on


def compare_runs(first: Path, second: Path, *, samples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Compare two runs, or two tables of held-out predictions, on the images that both have judged.

    first, second: run folders, or CSVs with image_name, patient_id, target and probability. Each measure comes with
    the paired interval of its difference, first minus second, by a bootstrap over patients; the AUC also with DeLong's
    test, which takes images for independent. Raises DataError where the two are not of one dataset.
    """
    names = names_of([first, second])
    rows, remarks = common_rows([_predictions(path) for path in (first, second)], names)
    target, patient = rows["target"].to_numpy(np.int64), rows["patient_id"].to_numpy()
    one, other = (rows[name].to_numpy(np.float64) for name in names)
    named = ranking_measures(SENSITIVITIES, MINIMUM_SENSITIVITY)
    gaps = ranking_differences(target, one, other, patient, named, samples=samples, seed=seed)
    plain = {
        "auc": metrics.auc,
        "average_precision": metrics.average_precision,
        "partial_auc": lambda truth, score: metrics.partial_auc(truth, score, MINIMUM_SENSITIVITY),
    } | {f"specificity_at_{wanted}": _specificity(wanted) for wanted in SENSITIVITIES}
    absent = metrics.absent_class(target)
    measures = []
    for name, measure in plain.items():
        values = [measure(target, score) for score in (one, other)]
        measures.append(_measure(name, values, gaps[name], absent))
    loss = [(score - target) ** 2 for score in (one, other)]
    gap = share_interval(loss[0] - loss[1], np.ones(len(target), bool), patient, samples=samples, seed=seed)
    measures.append(_measure("brier", [float(each.mean()) for each in loss], gap, ""))
    paired = delong_difference(target, one, other)
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": names,
        "images": len(rows),
        "patients": int(rows["patient_id"].nunique()),
        "melanomas": int(target.sum()),
        "measures": measures,
        "delong": {
            "difference": paired.difference if paired else None,
            "standard_error": paired.standard_error if paired else None,
            "low": paired.interval.low if paired else None,
            "high": paired.interval.high if paired else None,
            "p_value": paired.p_value if paired else None,
            "reason": None if paired else absent or "the two rank these images alike",
        },
        "remarks": remarks,
    }


def summary(found: dict[str, Any]) -> str:
    """Say a comparison in a table of plain text."""
    first, second = (name[:24] for name in found["runs"])
    lines = [
        f"{found['images']:,} images of {found['patients']:,} patients, {found['melanomas']:,} melanomas",
        "",
        f"{'':<22}{first:>26}{second:>26}   difference, 95 % interval over patients",
    ]
    for one in found["measures"]:
        values = "".join(f"{'n/a' if value is None else f'{value:.4f}':>26}" for value in (one["first"], one["second"]))
        gap = one["difference"]
        told = f"{gap['value']:+.4f}" if gap["value"] is not None else "n/a"
        reach = f" ({gap['low']:+.4f} to {gap['high']:+.4f})" if gap["low"] is not None else f" ({gap['reason']})"
        lines.append(f"{one['name'].replace('_', ' '):<22}{values}   {told}{reach}")
    test = found["delong"]
    told = f"n/a, {test['reason']}" if test["p_value"] is None else _p_in_words(test["p_value"])
    lines += ["", f"DeLong's test of equal AUCs, images taken for independent: {told}", verdict(found)]
    return "\n".join([*lines, *(f"note: {remark}" for remark in found["remarks"])])


def _p_in_words(value: float) -> str:
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.2g}"


def verdict(found: dict[str, Any]) -> str:
    """Say in a sentence whether the two are told apart."""
    gap, (first, second) = found["measures"][0]["difference"], found["runs"]
    if gap["low"] is None:
        return f"{first} and {second} cannot be told apart: {gap['reason']}."
    if gap["low"] > 0 or gap["high"] < 0:
        better, worse = (first, second) if gap["low"] > 0 else (second, first)
        return f"{better} ranks these images better than {worse}: the interval of the difference in AUC leaves out 0."
    return f"{first} and {second} are not told apart by their AUC: the interval of the difference holds 0."


# ---- one submission from several runs --------------------------------------------------------------------------------


def blend_runs(folders: Sequence[Path], out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Write one submission from several runs: each alone, their mean or their mean of ranks, whichever did best.

    The choice is made on out-of-fold predictions of the images that all runs have judged, and written beside the
    submission as JSON. Raises DataError where the runs are not of one dataset, MelanomaError where a run has no test
    probabilities.
    """
    if len(folders) < 2:
        raise UsageError("blending takes two runs or more")
    names = names_of(folders)
    rows, remarks = common_rows([_predictions(folder) for folder in folders], names)
    target, scores = rows["target"].to_numpy(np.int64), rows[names].to_numpy(np.float64).T
    candidates = choose_blend(target, scores, names)
    chosen = candidates[0]
    tests = [_test_predictions(folder) for folder in folders]
    expected = list(tests[0]["image_name"])
    for name, test in zip(names, tests, strict=True):
        if list(test["image_name"]) != expected:
            raise DataError(f"{name} and {names[0]} scored different test tables; blend runs on the same dataset")
    answer = chosen.apply(np.stack([test["probability"].to_numpy(np.float64) for test in tests]))
    write_submission(out, expected, expected, list(answer))
    parts = parts_by_patient(rows["patient_id"].to_numpy(), 5, seed, target)
    found = {
        "schema_version": SCHEMA_VERSION,
        "submission": str(out),
        "chosen": _told(chosen, names),
        "candidates": [_told(one, names) for one in candidates],
        "nested_auc": nested_blend_auc(target, scores, names, parts),
        "images": len(rows),
        "leaderboard": noise_of(target, chosen.apply(scores), len(expected)),
        "remarks": remarks,
    }
    write_json(out.with_suffix(".json"), found)
    return found


def blend_summary(found: dict[str, Any]) -> str:
    """Say what was blended, and what it is worth, in plain text."""
    lines = [f"out-of-fold AUC of {found['images']:,} images that all runs have judged:"]
    for one in found["candidates"]:
        area = "n/a" if one["auc"] is None else f"{one['auc']:.4f}"
        lines.append(f"  {area}  {one['name']}{'  <- chosen' if one == found['chosen'] else ''}")
    nested = found["nested_auc"]
    if nested is not None:
        lines.append(
            f"chosen on other patients each time: {nested:.4f}; the chosen one's own figure is slightly too good"
        )
    lines += [f"note: {remark}" for remark in found["remarks"]]
    return "\n".join([*lines, noise_in_words(found["leaderboard"]), found["submission"]])


def noise_in_words(noise: dict[str, Any]) -> str:
    """Say how far chance alone moves a leaderboard's AUC."""
    told = [
        f"{one['standard_deviation']:.3f} on its {name} part (about {one['melanomas']:,} melanomas)"
        for name, one in noise.items()
        if one["standard_deviation"] is not None
    ]
    if not told:
        return "expected leaderboard noise: n/a, too few melanomas"
    return f"expected leaderboard noise, a standard deviation of AUC: {', '.join(told)}"


def noise_of(target: Any, probability: Any, test_images: int) -> dict[str, Any]:
    """Say how far chance alone moves a leaderboard's AUC, if the test table has as large a share of melanomas.

    Standard deviations of the AUC, on the public share of the test images and on the rest; None where undefined.
    """
    share, found = float(np.mean(target)), {}
    for name, part in (("public", PUBLIC_SHARE), ("private", 1 - PUBLIC_SHARE)):
        melanomas = round(test_images * part * share)
        benign = round(test_images * part) - melanomas
        both = melanomas > 0 and benign > 0
        found[name] = {
            "images": melanomas + benign,
            "melanomas": melanomas,
            "standard_deviation": leaderboard_noise(target, probability, melanomas, benign) if both else None,
        }
    return found


def _told(candidate: Candidate, names: Sequence[str]) -> dict[str, Any]:
    members = [names[member] for member in candidate.members]
    return {"name": candidate.name, "blend": candidate.blend, "runs": members, "auc": candidate.auc}


def names_of(paths: Sequence[Path]) -> list[str]:
    """Name runs by their folders; by their whole paths where two folders are named alike."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"one run is named twice among {listed([str(path) for path in paths])}; give different ones")
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _predictions(path: Path) -> pd.DataFrame:
    if path.is_file():
        return read_predictions(path)
    run = open_run(path)
    if not run.predictions.exists():
        raise MelanomaError(f"{run.predictions} is not there; first: melanoma resume {path}")
    return read_predictions(run.predictions)


def _test_predictions(folder: Path) -> pd.DataFrame:
    run = open_run(folder)
    if not run.test_predictions.exists():
        raise MelanomaError(f"{run.test_predictions} is not there: the run has no test images, or was not finished")
    return read_predictions(run.test_predictions)


def _specificity(wanted: float) -> Any:
    return lambda truth, score: metrics.specificity_at_sensitivity(truth, score, wanted)


def _measure(name: str, values: Sequence[float | None], gap: Interval | None, absent: str) -> dict[str, Any]:
    first, second = values
    difference = None if first is None or second is None else first - second
    reason = absent or ("" if gap else "the two score these images alike, or a class has fewer than two patients")
    return {"name": name, "first": first, "second": second, "difference": figure(difference, gap, reason)}
