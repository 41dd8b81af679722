"""The model card: what the networks are, what they were judged on, how they did, and what they are not for. Markdown.

After Mitchell et al. 2019 (arXiv:1810.03993). It computes nothing: what was not measured is not mentioned, or n/a.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from melanoma import RESEARCH_ONLY
from melanoma.config import Settings


def model_card(
    name: str,
    metrics: Mapping[str, Any],
    settings: Sequence[Settings],
    *,
    data: Mapping[str, str],
    environment: Mapping[str, str],
    limits: Sequence[str],
    remarks: Sequence[str],
) -> str:
    """Write the card of a run, or of several that answer together.

    metrics: as `evidence.evaluate` gives them. settings: of each run, at least one. data, environment: facts in words
    by name; those that are missing or empty are left out. limits, remarks: sentences. Text from tables may hold
    anything; it is escaped.
    """
    parts = [
        f"# Model card: {_plain(name)}",
        RESEARCH_ONLY,
        _details(settings, environment, weighed=bool(metrics.get("clinical", {}).get("weights"))),
        _use(),
        _data(metrics, data),
        _results(metrics),
        _answers(metrics),
        _subgroups(metrics),
        _ethics(),
        _listed("Limits", limits),
        _listed("Remarks about the data", remarks),
    ]
    if environment.get("command"):
        parts.append(f"## To make it again\n\n    {_one_line(environment['command'])}")
    return "\n\n".join(part for part in parts if part) + "\n"


# ---- sections --------------------------------------------------------------------------------------------------------


def _details(settings: Sequence[Settings], environment: Mapping[str, str], *, weighed: bool) -> str:
    told = weighed or any(one.model.metadata for one in settings)
    inputs = "one dermoscopic photograph" + (", age, sex and anatomical site" if told else "")
    made = [f"{part} {environment[part]}" for part in ("melanoma", "keras", "torch", "python") if environment.get(part)]
    rows = [
        ("network", _each(settings, _network)),
        ("answers by", f"the mean over {len(settings)} runs" if len(settings) > 1 else ""),
        ("takes", inputs),
        ("gives", "a probability of melanoma; calibrated; melanoma, benign or refer; an activation map"),
        ("trained", _each(settings, _training)),
        ("scored by", environment.get("scored_by", "")),
        ("software", ", ".join(made)),
        ("licence", f"code Apache-2.0; the weights carry the images' own: {_each(settings, _licence)}"),
        ("learned from", _each(settings, lambda one: one.data.attribution)),
    ]
    return "## Details\n\n" + _table(("", ""), rows)


def _each(settings: Sequence[Settings], say: Callable[[Settings], str]) -> str:
    """Say something of each run, and once what is said of several."""
    return "; ".join(filter(None, dict.fromkeys(say(one) for one in settings)))


def _network(settings: Settings) -> str:
    model = settings.model
    return f"{model.backbone}, {settings.images.size_px} px, weights from {_file(model.weights)}"


def _training(settings: Settings) -> str:
    train = settings.train
    return f"{settings.loss.name} loss, Adam at {train.learning_rate:g}, at most {train.epochs} epochs"


def _licence(settings: Settings) -> str:
    return settings.data.licence or "not stated"


def _use() -> str:
    return (
        "## Intended use\n\n"
        "To study how melanomas can be told from other lesions on dermoscopic photographs: research, benchmarks, "
        "competitions.\n\nNot for deciding about a patient. Not for clinical photographs, other cameras or other "
        "kinds of picture without a new validation. Not for lesions of the nail, the mouth or the eye.\n\nBenign means "
        "not melanoma: other cancers, carcinomas among them, count as benign where the tables say so, and are answered "
        "so. What is rare on the whole may not be in a group, such as an age."
    )


def _data(metrics: Mapping[str, Any], data: Mapping[str, str]) -> str:
    titles = {
        "images": "images", "patients": "patients", "melanomas": "melanomas", "sites": "sites", "sexes": "sexes",
        "ages": "ages", "blanks": "blank cells", "duplicates": "duplicates", "folds": "validation", "hashes": "hashes",
    }  # fmt: skip
    rows = [(title, data[key]) for key, title in titles.items() if data.get(key)]
    rows.append(("judged on", f"{metrics['images']:,} {metrics['scope']} images, {metrics['melanomas']:,} melanomas"))
    return "## Data\n\n" + _table(("", ""), rows)


def _results(metrics: Mapping[str, Any]) -> str:
    rows = [("network", _figure(metrics["auc"]), "")]
    clinical = metrics.get("clinical")
    if clinical and clinical["weights"]:
        picture = _figure(clinical["auc_of_the_picture"])
        rows = [("network, with age, sex and site", *rows[0][1:])]
        rows += [("network, by the picture alone", picture, _figure(clinical["difference"], "+.3f"))]
    rows += [
        (f"control: {one['name']}", _figure(one["auc"]), _figure(one["difference"], "+.3f"))
        for one in metrics["controls"]
    ]
    measures = [
        ("average precision", _figure(metrics["average_precision"])),
        ("partial AUC above 80 % sensitivity (0.2 is perfect)", _figure(metrics["partial_auc"])),
        *((f"specificity at {_percent(one['sensitivity'])} sensitivity", _figure(one["specificity"]))
          for one in metrics["at_sensitivity"]),
    ]  # fmt: skip
    return (
        "## Results\n\nA control sees no lesion: what it reaches, the network has not shown.\n\n"
        + _table(("AUC of the", "95 % interval", "network minus it"), rows)
        + "\n\n"
        + _table(("Measure", "95 % interval"), measures)
    )


def _answers(metrics: Mapping[str, Any]) -> str:
    points = [
        (
            f"{_percent(point['wanted_sensitivity'])} sensitivity",
            _figure(point["sensitivity"]),
            _figure(point["specificity"]),
            _number(point["ppv"]),
            _number(point["number_needed_to_biopsy"], ".1f"),
        )
        for point in metrics["operating_points"]
    ]
    share = metrics["operating_points"][0]["prevalence"] if metrics["operating_points"] else None
    text = "## Answers\n\nThresholds were chosen on other patients; PPV and biopsies a melanoma are for a share of "
    text += f"{_number(share)} melanomas.\n\n"
    text += _table(("Aimed at", "sensitivity", "specificity", "PPV", "biopsies a melanoma"), points)
    chosen, methods = metrics["recalibration"]["chosen"], metrics["recalibration"]["cross_fitted"]
    rows = [
        (f"{name}{' (chosen)' if name == chosen else ''}", _number(one["log_loss"]), _number(one["brier"]),
         _number(one["slope"], ".2f"), _number(one["in_the_large"], ".2f"))
        for name, one in methods.items()
    ]  # fmt: skip
    text += "\n\n" + _table(("Calibration, cross-fitted", "log loss", "Brier", "slope", "in the large"), rows)
    said = metrics["conformal"]
    if said["reason"]:
        text += f"\n\nMelanoma, benign or refer: n/a, {_plain(said['reason'])}."
    else:
        melanoma, benign = (_percent(said["coverage"][name], 1) for name in ("melanoma", "benign"))
        text += (
            f"\n\nMelanoma, benign or refer at {_percent(said['level'])}: the truth is not excluded for {melanoma} of "
            f"melanomas and {benign} of benign images; {_percent(said['refer_share'], 1)} are referred."
        )
    if metrics.get("robustness"):
        changes = [
            f"{_plain(one['name'])} {_number(one['crossed']['value'])}" for one in metrics["robustness"]["changes"]
        ]
        text += "\n\nShare of lesions whose answer changes with the picture: " + ", ".join(changes) + "."
    return text


def _subgroups(metrics: Mapping[str, Any]) -> str:
    rows = [
        (
            f"{row['by']}: {row['name']}",
            f"{row['images']:,}",
            f"{row['melanomas']:,}",
            row["reason"] if row["suppressed"] else _figure(row["auc"]),
            "" if row["suppressed"] else _number(row["sensitivity"]["value"]),
            "" if row["suppressed"] else _number(row["specificity"]["value"]),
        )
        for row in metrics["subgroups"]
    ]
    if not rows:
        return ""
    heads = ("Group", "images", "melanomas", "AUC, 95 % interval", "sensitivity", "specificity")
    return "## Subgroups\n\nAt one threshold for all.\n\n" + _table(heads, rows)


def _ethics() -> str:
    return (
        "## Ethical considerations\n\n"
        "The tables do not record skin type, so nothing is known of how the network does on dark skin, which such "
        "datasets hold little of. A missed melanoma can cost a life and a false alarm a scar: no figure above weighs "
        "the two for anybody. The photographs are of people who gave them for research."
    )


def _listed(title: str, sentences: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {_plain(one)}" for one in sentences) if sentences else ""


# ---- Markdown --------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in rows if len(row) != 2 or row[1]]
    return "\n".join(lines)


def _plain(text: object) -> str:
    """Make text that Markdown shows as it is: in one line, no tag, no link, no cell, no emphasis."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", _one_line(text)).replace("://", ":\u200b//")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _file(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _number(value: float | None, form: str = ".3f") -> str:
    return "n/a" if value is None else f"{value:{form}}"


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _figure(found: Mapping[str, Any], form: str = ".3f") -> str:
    if found["value"] is None or found["low"] is None:
        return f"{_number(found['value'], form)} ({found['reason']})"
    return f"{found['value']:{form}} ({found['low']:{form}} to {found['high']:{form}})"
