"""The competition's file: `image_name,target`, checked before it is written. It knows only ids and probabilities."""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from melanoma.errors import DataError, listed
from melanoma.files import write_text


def check_submission(expected: Sequence[str], image_names: Sequence[str], probabilities: Sequence[float]) -> None:
    """Raise DataError unless the names are exactly the expected ones, each once, with a probability in [0, 1]."""
    names = list(image_names)
    if len(names) != len(probabilities):
        raise DataError(f"the submission has {len(names):,} names but {len(probabilities):,} probabilities")
    if missing := sorted(set(expected) - set(names)):
        raise DataError(f"the submission lacks {len(missing):,} images of the test table: {listed(missing)}")
    if extra := sorted(set(names) - set(expected)):
        raise DataError(f"the submission has {len(extra):,} images that the test table lacks: {listed(extra)}")
    if len(names) != len(expected):
        twice = sorted(name for name, times in Counter(names).items() if times > 1)
        raise DataError(f"the submission names images twice: {listed(twice)}")
    wrong = [n for n, p in zip(names, probabilities, strict=True) if not (math.isfinite(p) and 0 <= p <= 1)]
    if wrong:
        raise DataError(f"the submission has values that are no probability, for {listed(wrong)}")


def write_submission(
    path: Path, expected: Sequence[str], image_names: Sequence[str], probabilities: Sequence[float]
) -> None:
    """Check and write the competition's file, in the order of the test table.

    expected: the ids of the test table. probabilities: of melanoma, in [0, 1], one for each of `image_names`.
    Raises DataError as `check_submission` does; nothing is written then.
    """
    check_submission(expected, image_names, probabilities)
    by_name = dict(zip(image_names, probabilities, strict=True))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_name", "target"])
    writer.writerows((name, f"{by_name[name]:.7g}") for name in expected)
    write_text(path, text.getvalue())
