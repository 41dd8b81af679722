"""What a control may know: each set holds what its name says, blanks stay blank, and no target is looked at."""

import numpy as np
import pandas as pd

from melanoma.data.facts import Facts, colours, control_facts

TABLE = pd.DataFrame(
    {
        "image_name": ["A", "B", "C", "D"],
        "patient_id": ["p", "q", "p", "p"],
        "sex": ["male", None, "female", "male"],
        "age_years": [40.0, np.nan, 55.0, 45.0],
        "site": ["torso", None, "head/neck", "torso"],
    }
)
FILES = pd.DataFrame({"width": [600, 1024, 600, 6000], "height": [450, 768, 450, 4000], "bytes": [1, 2, 3, 4]})


def test_the_table_alone_is_always_there_with_its_blanks() -> None:
    (name, known), *others = control_facts(TABLE).items()
    assert (name, known.names, others) == ("age, sex and site", ("age", "sex", "site"), [])
    np.testing.assert_array_equal(known.values[:, 0], [40, np.nan, 55, 45])
    np.testing.assert_array_equal(known.values[:, 1], [1, np.nan, 0, 1])
    assert known.values[1, 2:].sum() == 0  # no site: none of the sites' columns is set
    assert known.values.shape == (4, 4)


def test_files_and_patients_add_sets_of_their_own() -> None:
    sets = control_facts(TABLE, FILES, np.zeros((4, 6)))
    assert list(sets) == ["age, sex and site", "width and height", "file and patient", "all of these", "colour"]
    np.testing.assert_array_equal(sets["width and height"].values, FILES[["width", "height"]])
    by_name = dict(zip(sets["file and patient"].names, sets["file and patient"].values.T, strict=True))
    np.testing.assert_array_equal(by_name["bytes"], [1, 2, 3, 4])
    np.testing.assert_array_equal(by_name["images of the patient"], [3, 1, 3, 3])
    np.testing.assert_array_equal(by_name["age range of the patient"], [15, np.nan, 15, 15])
    assert sets["all of these"].values.shape[1] == 4 + 5
    assert "bytes" not in control_facts(TABLE, FILES[["width", "height"]])["file and patient"].names


def test_colours_are_means_and_spreads_and_know_no_shape() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2000, 4, 4, 3), np.uint8)
    found = colours(pictures)
    np.testing.assert_allclose(found[:, :3], pictures.reshape(2000, -1, 3).mean(1))
    np.testing.assert_allclose(found[:, 3:], pictures.reshape(2000, -1, 3).std(1))
    np.testing.assert_allclose(colours(pictures[:, ::-1, ::-1]), found)


def test_facts_are_joined_side_by_side() -> None:
    joined = Facts(("a",), np.zeros((2, 1))) + Facts(("b", "c"), np.ones((2, 2)))
    assert joined.names == ("a", "b", "c")
    np.testing.assert_array_equal(joined.values, [[0, 1, 1], [0, 1, 1]])
