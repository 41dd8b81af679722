"""Words to numbers: learned on training rows, the same after JSON, and never from the answer."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import OneHotEncoder

from melanoma.data.encode import NO_AGE_YEARS, Encoder, encode_diagnoses, learn_encoder
from melanoma.errors import DataError

TRAIN = pd.DataFrame(
    {
        "sex": ["male", "female", None, "male"],
        "age_years": [40.0, np.nan, 50.0, 60.0],
        "site": ["torso", "head/neck", "torso", None],
        "target": [0, 1, 0, 0],
    }
)


def test_a_hand_made_table_becomes_the_expected_labels() -> None:
    encoder = learn_encoder(TRAIN)
    assert encoder == Encoder(50.0, ("female", "male", "unknown"), ("head/neck", "torso", "unknown"))
    labels = encoder.labels(TRAIN)
    assert labels["sex"].tolist() == [1, 0, 2, 1]
    assert labels["site"].tolist() == [1, 0, 1, 2]
    assert labels["age_years"].tolist() == [40, 50, 50, 60]
    assert labels["age_was_blank"].tolist() == [0, 1, 0, 0]
    assert not labels.isna().any(axis=None)


def test_a_hand_made_table_becomes_the_expected_features() -> None:
    encoder = learn_encoder(TRAIN)
    features = encoder.features(TRAIN)
    assert features.dtype == np.float32
    assert features.shape == (4, len(encoder.feature_names))
    assert encoder.feature_names == [
        "age", "age_was_blank", "sex=female", "sex=male", "sex=unknown",
        "site=head/neck", "site=torso", "site=unknown",
    ]  # fmt: skip
    np.testing.assert_allclose(features[1], [50 / 90, 1, 1, 0, 0, 1, 0, 0], rtol=1e-6)


def test_the_one_hot_columns_are_those_of_scikit_learn() -> None:
    words = TRAIN[["sex", "site"]].astype(object).fillna("unknown")
    encoder = learn_encoder(TRAIN)
    theirs = OneHotEncoder(categories=[list(encoder.sexes), list(encoder.sites)], sparse_output=False)
    np.testing.assert_array_equal(encoder.features(TRAIN)[:, 2:], theirs.fit_transform(words))


def test_a_word_not_seen_in_training_is_unknown_and_counted() -> None:
    encoder = learn_encoder(TRAIN)
    rows = pd.DataFrame({"sex": ["male"] * 3, "age_years": [1.0] * 3, "site": ["palm", "palm", "torso"]})
    assert encoder.labels(rows)["site"].tolist() == [2, 2, 1]
    assert encoder.unseen(rows) == ["2 rows have a site not seen in training: 'palm' (2); taken as unknown"]
    assert encoder.unseen(TRAIN) == []


def test_no_row_outside_training_changes_what_was_learned() -> None:
    encoder = learn_encoder(TRAIN)
    encoder.features(TRAIN.assign(age_years=99.0, site="elsewhere"))
    assert encoder == learn_encoder(TRAIN)


def test_json_brings_back_an_equal_encoder() -> None:
    encoder = learn_encoder(TRAIN.assign(age_years=[0.1, 0.2, 0.3, np.nan]), features=("site", "age_years"))
    assert Encoder.from_json(json.loads(json.dumps(encoder.to_json()))) == encoder


@pytest.mark.parametrize(
    "change",
    [
        {"median_age_years": None},
        {"median_age_years": float("nan")},
        {"median_age_years": True},
        {"sexes": "unknown"},
        {"sexes": ["female"]},
        {"sites": ["torso", "torso", "unknown"]},
        {"sites": [1, "unknown"]},
        {"inputs": ["target"]},
        {"extra": 1},
    ],
)
def test_a_damaged_encoder_file_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataError):
        Encoder.from_json(learn_encoder(TRAIN).to_json() | change)


def test_an_encoder_file_with_a_value_missing_is_refused() -> None:
    with pytest.raises(DataError, match="needs exactly"):
        Encoder.from_json({"sexes": ["unknown"]})


@pytest.mark.parametrize("name", ["diagnosis", "benign_malignant", "target"])
def test_the_answer_is_refused_as_a_feature(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} cannot be a feature: it is the answer in disguise"):
        learn_encoder(TRAIN, features=("sex", name))


@pytest.mark.parametrize("features", [("width",), (), ("sex", "sex")])
def test_only_known_features_are_learned_each_once(features: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="features are some of age_years, sex, site"):
        learn_encoder(TRAIN, features=features)


def test_some_features_can_be_left_out() -> None:
    encoder = learn_encoder(TRAIN, features=("sex",))
    assert encoder.feature_names == ["sex=female", "sex=male", "sex=unknown"]
    assert list(encoder.labels(TRAIN)) == ["sex"]
    assert encoder.features(TRAIN).shape == (4, 3)


def test_training_rows_without_any_age_get_the_documented_one() -> None:
    encoder = learn_encoder(TRAIN.assign(age_years=np.nan))
    assert encoder.median_age_years == NO_AGE_YEARS
    assert np.isfinite(encoder.features(TRAIN)).all()


def test_rows_need_not_be_a_pandas_table() -> None:
    encoder = learn_encoder(TRAIN)
    row = {"sex": [None], "age_years": [None], "site": ["torso"]}
    np.testing.assert_allclose(encoder.features(row)[0], [50 / 90, 1, 0, 0, 1, 0, 1, 0], rtol=1e-6)


def test_the_encoder_is_there_without_pandas() -> None:
    code = "import sys, melanoma.data.encode; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_diagnoses_are_marked_by_name_and_what_is_unknown_has_none() -> None:
    table = {"diagnosis": ["nevus", "Melanoma", None, "unknown", np.nan, "nevus", "seborrheic keratosis"]}
    marks, names = encode_diagnoses(table)
    assert names == ["melanoma", "nevus", "seborrheic keratosis"]
    assert marks.dtype == np.float32
    assert marks.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("table", [{"target": [0, 1]}, {"diagnosis": ["nevus", "unknown"]}])
def test_a_table_without_two_diagnoses_is_refused_as_a_second_task(table: dict[str, list[object]]) -> None:
    with pytest.raises(DataError, match=r"loss\.diagnosis_share=0"):
        encode_diagnoses(table)
