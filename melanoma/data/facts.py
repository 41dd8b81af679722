"""What is known of an image without a look at the lesion: the table, the file, its patient's other images, its colour.

These feed the control (evaluation/control.py): what a network must beat before it has shown anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma.machine import release

Float64Array = NDArray[np.float64]
ROWS_AT_ONCE = 1024
CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True)
class Facts:
    """Columns for a control. names: what they are, in words; values: float64 (rows, columns), NaN where unknown."""

    names: tuple[str, ...]
    values: Float64Array

    def __add__(self, other: "Facts") -> "Facts":
        """Put the columns of both side by side."""
        return Facts(self.names + other.names, np.concatenate([self.values, other.values], axis=1))


def control_facts(
    table: pd.DataFrame, files: pd.DataFrame | None = None, colour: Float64Array | None = None
) -> dict[str, Facts]:
    """Name the sets of facts that controls are learned from; the first one, the table alone, is always there.

    table: as `melanoma.data.records` makes it. files: a row for each row of the table, with width and height (pixels,
    NaN where unknown) and perhaps bytes. colour: float64 (rows, 6), as `colours` gives it.
    """
    sets = {"age, sex and site": _table(table)}
    if files is not None:
        size, patient = _columns(files, {"width": "width", "height": "height"}), _patient(table)
        stored = _columns(files, {"bytes": "bytes"}) if "bytes" in files else None
        file = size + stored if stored else size
        sets["width and height"] = size
        sets["file and patient"] = file + patient
        sets["all of these"] = sets["age, sex and site"] + file + patient
    if colour is not None:
        sets["colour"] = Facts(tuple(f"{what} of {one}" for what in ("mean", "spread") for one in CHANNELS), colour)
    return sets


def colours(thumbnails: NDArray[np.uint8]) -> Float64Array:
    """Give the mean and the standard deviation of each picture's red, green and blue, and no shape at all.

    thumbnails: uint8 RGB (images, height, width, 3). Gives float64 (images, 6): the means in [0, 255], the deviations.
    """
    found = np.empty((len(thumbnails), 6))
    for start in range(0, len(thumbnails), ROWS_AT_ONCE):  # a memory-mapped array is read bit by bit
        part = thumbnails[start : start + ROWS_AT_ONCE]
        found[start : start + len(part)] = np.concatenate([part.mean(axis=(1, 2)), part.std(axis=(1, 2))], axis=1)
        release(thumbnails)
    return found


def _table(table: pd.DataFrame) -> Facts:
    """Number sexes and give each site a column; which numbers they get is not learned from any target."""
    sex = table["sex"].map({"female": 0.0, "male": 1.0}).to_numpy(np.float64)
    sites = pd.get_dummies(table["site"]).to_numpy(np.float64)
    return Facts(("age", "sex", "site"), np.column_stack([table["age_years"].to_numpy(np.float64), sex, sites]))


def _patient(table: pd.DataFrame) -> Facts:
    patient = table.groupby("patient_id")
    images = patient["image_name"].transform("size").to_numpy(np.float64)
    oldest, youngest = (patient["age_years"].transform(which) for which in ("max", "min"))
    years = (oldest - youngest).to_numpy(np.float64)
    return Facts(("images of the patient", "age range of the patient"), np.column_stack([images, years]))


def _columns(files: pd.DataFrame, names: Mapping[str, str]) -> Facts:
    return Facts(tuple(names.values()), files[list(names)].to_numpy(np.float64))
