"""Age, sex and site beside a score: what they add is found again, unknown ones add nothing, patients are kept apart."""

import json
from typing import Any

import numpy as np
import pytest

from melanoma.errors import DataError
from melanoma.evaluation.clinical import Clinical, cross_fitted_clinical, fit_clinical
from melanoma.evaluation.metrics import auc

UNKNOWN: dict[str, list[Any]] = {"age_years": [np.nan], "sex": [None], "site": [np.nan]}


def drawn(rows: int = 6000, seed: int = 0) -> tuple[Any, Any, dict[str, Any]]:
    """Draw images whose target follows a score, and in the old and on the head more than the score says."""
    random = np.random.default_rng(seed)
    table: dict[str, Any] = {
        "age_years": np.where(random.random(rows) < 0.1, np.nan, random.uniform(20, 85, rows).round()),
        "sex": random.choice(np.array(["female", "male", None], object), rows),
        "site": random.choice(np.array(["torso", "head/neck", "unknown"], object), rows, p=[0.6, 0.3, 0.1]),
    }
    seen = random.normal(-1, 1.5, rows)
    logit = seen + np.nan_to_num(0.6 * (table["age_years"] - 50) / 10) + 1.5 * (table["site"] == "head/neck")
    return random.random(rows) < 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(-seen)), table


def test_what_was_put_in_is_found_again() -> None:
    target, score, table = drawn(40_000)
    learned = fit_clinical(target, score, table)
    assert learned is not None
    assert learned.logit == pytest.approx(1, abs=0.05) and learned.linear == pytest.approx(0.6, abs=0.05)
    assert learned.site["head/neck"] - learned.site["torso"] == pytest.approx(1.5, abs=0.1)
    assert abs(learned.sex["male"] - learned.sex["female"]) < 0.1 and set(learned.site) == {"head/neck", "torso"}
    away = learned.added({"age_years": [80.0], "sex": [None], "site": [None]})
    assert away[0] == pytest.approx(0.6 * (80 - learned.years) / 10, abs=0.2)


def test_what_is_unknown_adds_nothing_and_known_things_cancel_out_over_the_rows() -> None:
    target, score, table = drawn()
    learned = fit_clinical(target, score, table)
    assert learned is not None
    assert learned.added(UNKNOWN).tolist() == [0.0]
    assert learned.added({"age_years": [np.nan], "sex": ["other"], "site": ["moon"]}).tolist() == [0.0]
    assert not learned.knows("site", "moon") and learned.knows("sex", "male")
    for name in ("age_years", "sex", "site"):
        known = [one not in ("unknown", None) if name != "age_years" else not np.isnan(one) for one in table[name]]
        alone = {
            **{other: [None if other != "age_years" else np.nan] * sum(known) for other in table},
            name: table[name][known],
        }
        assert learned.added(alone).mean() == pytest.approx(0, abs=1e-9)


def test_they_help_on_other_patients_and_each_part_is_scored_by_what_the_others_taught() -> None:
    target, score, table = drawn()
    part = np.arange(len(target)) % 3
    found = cross_fitted_clinical(target, score, table, part)
    before, after = auc(target, score), auc(target, found)
    assert before is not None and after is not None and after > before + 0.02
    learned = fit_clinical(target[part != 1], score[part != 1], {name: one[part != 1] for name, one in table.items()})
    assert learned is not None
    by_hand = learned.apply(score[part == 1], {name: one[part == 1] for name, one in table.items()})
    np.testing.assert_array_equal(found[part == 1], by_hand)
    flipped = np.where(part == 1, ~target, target)  # the answers of a part do not reach its own probabilities
    np.testing.assert_array_equal(cross_fitted_clinical(flipped, score, table, part)[part == 1], found[part == 1])


def test_nothing_is_learned_of_one_class_or_of_patients_that_nothing_is_known_of() -> None:
    target, score, table = drawn(200)
    blank = {name: values * 200 for name, values in UNKNOWN.items()}
    assert fit_clinical(np.ones(200, int), score, table) is None
    assert fit_clinical(target, score, blank) is None
    assert fit_clinical([], [], {"age_years": [], "sex": [], "site": []}) is None
    assert fit_clinical(target, 1 - score, table) is None  # it would turn the ranking round
    with pytest.raises(ValueError, match="outside 0 to 1"):
        fit_clinical(target, score * 3, table)
    assert np.isnan(cross_fitted_clinical(target, score, blank, np.arange(200) % 2)).all()


def test_weights_go_through_json_and_wrong_ones_are_refused() -> None:
    learned = fit_clinical(*drawn(500))
    assert learned is not None
    values = json.loads(json.dumps(learned.to_json()))
    assert Clinical.from_json(values) == learned
    wrong: list[Any] = [
        [], {}, values | {"more": 1}, values | {"logit": None}, values | {"linear": float("nan")},
        values | {"years": 1e300}, values | {"square": True}, values | {"sex": []}, values | {"site": {"torso": "1"}},
        values | {"logit": 0.0},
    ]  # fmt: skip
    for one in wrong:
        with pytest.raises(DataError, match="clinical weight"):
            Clinical.from_json(one)
