"""The competition's file."""

from pathlib import Path

import pytest

from melanoma.errors import DataError
from melanoma.inference.submission import write_submission


def test_the_file_has_two_columns_in_the_test_tables_order(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    write_submission(path, ["b", "a"], ["a", "b"], [0.25, 1e-9])
    assert path.read_text() == "image_name,target\nb,1e-09\na,0.25\n"


@pytest.mark.parametrize(
    ("names", "probabilities", "message"),
    [
        (["a"], [0.5], "lacks 1 images of the test table: b"),
        (["a", "b", "c"], [0.5] * 3, "that the test table lacks: c"),
        (["a", "b", "b"], [0.5] * 3, "names images twice: b"),
        (["a", "b"], [0.5], "2 names but 1 probabilities"),
        (["a", "b"], [0.5, float("nan")], "no probability, for b"),
        (["a", "b"], [0.5, 1.5], "no probability, for b"),
    ],
)
def test_a_wrong_submission_is_refused_and_nothing_is_written(
    tmp_path: Path, names: list[str], probabilities: list[float], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write_submission(tmp_path / "submission.csv", ["a", "b"], names, probabilities)
    assert not list(tmp_path.iterdir())
