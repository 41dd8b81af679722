"""Whatever stands in settings and tables: a MelanomaError comes out, or a right answer; drawn by Hypothesis."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from hypothesis import HealthCheck, example, given
from hypothesis import settings as drawing
from hypothesis import strategies as st

from melanoma.config import Settings, describe, load_settings, settings_from, to_toml
from melanoma.data.download import table_from_archive
from melanoma.data.encode import learn_encoder
from melanoma.data.folds import make_folds, read_folds, write_folds
from melanoma.data.records import read_dataset, read_sizes, read_table
from melanoma.errors import MelanomaError
from melanoma.inference.inputs import find_pictures
from melanoma.inference.submission import check_submission, examine_submission, write_submission
from melanoma.inference.words import Details
from melanoma.judge import read_predictions

# the same examples everywhere, and no clock: the fuzzer looks at time
drawing.register_profile(
    "alike", derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck), max_examples=100
)
drawing.load_profile("alike")

NAMES = [name for name, _, _ in describe()]
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANY_VALUE = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
WORDS = st.sampled_from(
    [
        "",
        "0",
        "1",
        "0.5",
        "-1",
        "nan",
        "inf",
        "male",
        "F",
        "torso",
        "malignant",
        "ISIC_1",
        "ISIC_2.jpg",
        "9" * 400,
        "../a",
    ]
)
CELL = WORDS | st.text(max_size=8)
HEADERS = [
    *(["image_name"], ["image_name", "target"], ["image_name", "fold"], ["image_name", "probability", "fold"]),
    *(["isic_id", "diagnosis_1"], ["image_name", "width", "height"], ["image", "age_approx", "target"], ["path"], []),
]
OTHERS = ["patient_id", "lesion_id", "sex", "age_approx", "site", "benign_malignant", "answer", "diagnosis", "target"]


@st.composite
def tables(draw: st.DrawFn) -> str:
    """A CSV of known and odd columns, in half of them names that are good; quoted as it should be, or not."""
    header = draw(st.sampled_from(HEADERS)) + draw(st.lists(st.sampled_from(OTHERS) | CELL, max_size=4, unique=True))
    width = max(1, len(header))
    rows = draw(st.lists(st.lists(CELL, min_size=width, max_size=width), max_size=6))
    if draw(st.booleans()):
        rows = [[f"ISIC_{number}", *row[1:]] for number, row in enumerate(rows)]
    if draw(st.booleans()):
        return pd.DataFrame(rows, columns=header or ["x"]).to_csv(index=False, sep=draw(st.sampled_from(",;")))
    return "\n".join(map(draw(st.sampled_from(",;\t")).join, [header, *rows]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples of all tests: each writes its files anew."""
    return tmp_path_factory.mktemp("drawn")


# Settings


@given(st.dictionaries(st.sampled_from([*Settings.model_fields, "x"]), ANY_VALUE, max_size=4))
def test_any_nested_values_are_settings_or_refused(values: dict[str, Any]) -> None:
    with contextlib.suppress(MelanomaError):
        settings_from(values)


@given(st.dictionaries(st.sampled_from(NAMES), PLAIN, max_size=2), st.lists(st.text(max_size=30), max_size=3))
@example({}, ["seed=" + "[" * 5000])
@example({}, ["seed=" + "9" * 5000])
@example({}, ["a" + ".a" * 5000 + "=1"])
def test_any_set_option_is_a_setting_or_refused(known: dict[str, Any], odd: list[str]) -> None:
    for overrides in ([f"{name}={value}" for name, value in known.items()], odd):
        with contextlib.suppress(MelanomaError):
            settings_from({}, overrides)


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
@example(b"seed = " + b"[" * 5000)
@example(b"seed = " + b"9" * 5000)
def test_any_recipe_file_is_read_or_refused(place: Path, content: bytes) -> None:
    (place / "recipe.toml").write_bytes(content)
    with contextlib.suppress(MelanomaError):
        load_settings(place / "recipe.toml")


@given(st.text(max_size=30))
@example("x" * 5000)
@example("/root/\0")
def test_any_name_of_a_recipe_is_found_or_refused(name: str) -> None:
    with contextlib.suppress(MelanomaError):
        load_settings(name)


@given(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**31 - 1),
            "folds": st.fixed_dictionaries(
                {"count": st.integers(1, 20), "file": st.text(st.characters(codec="utf-8"))}
            ),
            "train": st.fixed_dictionaries({"learning_rate": st.floats(0, 1, exclude_min=True)}),
            "images": st.fixed_dictionaries({"filters": st.lists(st.sampled_from(["no_noise", "eroded"]), max_size=3)}),
        }
    )
)
def test_settings_written_as_a_recipe_are_read_back_equal(place: Path, values: dict[str, Any]) -> None:
    chosen = settings_from(values)
    (place / "recipe.toml").write_text(to_toml(chosen), encoding="utf-8")
    assert load_settings(place / "recipe.toml") == chosen
    (place / "recipe.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
    assert load_settings(place / "recipe.toml") == chosen


# Tables


def _folds(path: Path) -> None:
    table, _ = read_table(path, labelled=False)
    read_folds(path, table, np.arange(len(table)))


def _training(path: Path) -> None:
    table = read_dataset(path.parent).train
    learn_encoder(table).features(table)
    make_folds(table, np.arange(len(table)), 2, 0.2, 0)


@pytest.mark.parametrize("read", [_training, _folds, read_predictions, read_sizes, table_from_archive])
@given(text=tables())
def test_any_table_is_read_or_refused(place: Path, read: Callable[[Path], object], text: str) -> None:
    (place / "train.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(MelanomaError):
        read(place / "train.csv")


@given(tables())
def test_any_table_of_pictures_gives_items_that_are_read_or_refused(place: Path, text: str) -> None:
    (place / "pictures.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    for item in find_pictures([str(place / "pictures.csv")]):
        with contextlib.suppress(MelanomaError):
            item.read()


@given(tables())
def test_any_submission_is_examined(place: Path, text: str) -> None:
    (place / "submission.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    examine_submission(place / "submission.csv", ["ISIC_1", "ISIC_2"])


@given(st.none() | st.floats(), st.none() | st.text(), st.none() | st.text(), st.none() | st.floats())
def test_any_details_of_a_patient_are_taken_or_refused(
    age_years: float | None, sex: str | None, site: str | None, prevalence: float | None
) -> None:
    with contextlib.suppress(MelanomaError):
        Details(age_years, sex, site, prevalence)


PLAIN_NAME = st.from_regex(r"[A-Z][A-Za-z0-9_]{2,9}", fullmatch=True).filter(lambda name: name.lower() != "unknown")
ROWS = st.lists(
    st.tuples(
        PLAIN_NAME,
        PLAIN_NAME,
        st.sampled_from(["female", "male", None]),
        st.none() | st.integers(0, 120),
        st.sampled_from(["torso", "head/neck", None]),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row[0],
)


@given(ROWS)
def test_a_sound_table_written_and_read_again_stays_the_same(place: Path, rows: list[tuple[Any, ...]]) -> None:
    columns = ["image_name", "patient_id", "sex", "age_years", "site", "target"]
    pd.DataFrame(rows, columns=columns).to_csv(place / "first.csv", index=False)
    table, _ = read_table(place / "first.csv", labelled=True)
    assert table[["image_name", "patient_id", "target"]].to_numpy().tolist() == [
        [row[0], row[1], row[5]] for row in rows
    ]
    table.to_csv(place / "second.csv", index=False)
    again, _ = read_table(place / "second.csv", labelled=True)
    pd.testing.assert_frame_equal(again, table)


@given(ROWS)
def test_folds_written_are_read_back(place: Path, rows: list[tuple[Any, ...]]) -> None:
    table = pd.DataFrame([row[:2] for row in rows], columns=["image_name", "patient_id"])
    fold = pd.Series(np.arange(len(table)) % 2 - 1, name="fold")
    write_folds(place / "folds.csv", table, np.arange(len(table)), fold)
    if len(table) > 1:
        assert read_folds(place / "folds.csv", table, np.arange(len(table))).equals(fold)


@given(st.dictionaries(PLAIN_NAME, st.floats(0, 1), min_size=1, max_size=12))
def test_a_submission_written_is_a_sound_one(place: Path, answers: dict[str, float]) -> None:
    names = list(answers)
    write_submission(place / "submission.csv", names[::-1], names, list(answers.values()))
    assert not [one for one in examine_submission(place / "submission.csv", names[::-1]) if one.severity == "error"]
    read = read_predictions(place / "submission.csv").set_index("image_name")["probability"]
    check_submission(names, read.index.tolist(), read.tolist())
    assert read[names].to_numpy() == pytest.approx(list(answers.values()), rel=1e-6, abs=1e-300)
