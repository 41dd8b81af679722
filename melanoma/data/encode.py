"""Words to numbers, blanks filled: learned on training rows only, saved as JSON, applied to any row.

It does not need pandas, so that scoring can use it: a table is anything that gives a column for a name. The
answer, under any of its names, is refused as a feature.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melanoma.errors import DataError, listed

if TYPE_CHECKING:
    import pandas as pd

    Table = pd.DataFrame | Mapping[str, Sequence[Any]]

FEATURES = ("age_years", "sex", "site")
NO_DIAGNOSIS = ("nan", "<na>", "none", "unknown")
ANSWERS = ("target", "benign_malignant", "diagnosis")
UNKNOWN = "unknown"
OLDEST_YEARS = 120
AGE_SCALE_YEARS = 90.0  # the oldest age in the SIIM-ISIC tables: most ages come out between 0 and 1
NOTHING_KNOWN: dict[str, list[Any]] = {"age_years": [math.nan], "sex": [None], "site": [None]}  # a table of one row
NO_AGE_YEARS = 0.0  # stands in where no training row has an age; `age_was_blank` is then 1 in all of them


@dataclass(frozen=True)
class Encoder:
    """What was learned from training rows: the median of the known ages, the words, and what is used.

    sexes, sites: sorted, then "unknown", which is also the code of a blank and of a word not seen in training.
    """

    median_age_years: float
    sexes: tuple[str, ...]
    sites: tuple[str, ...]
    inputs: tuple[str, ...] = FEATURES

    @property
    def feature_names(self) -> list[str]:
        """Name the columns of `features`, in their order."""
        ages = ["age", "age_was_blank"] if "age_years" in self.inputs else []
        return ages + [f"{name}={word}" for name, words in self._words().items() for word in words]

    def labels(self, table: "Table") -> "pd.DataFrame":
        """Turn text into labels that a person can read back: a table of numbers without blanks.

        `sex`, `site`: int64, the place of the word in `sexes` and `sites` · `age_years`: float64, years, blanks
        filled with the median · `age_was_blank`: int64, 0 or 1. Rows and index are the table's.
        """
        import pandas as pd

        columns: dict[str, NDArray[Any]] = {name: _codes(table[name], words) for name, words in self._words().items()}
        if "age_years" in self.inputs:
            columns["age_years"], blank = self._ages(table)
            columns["age_was_blank"] = blank.astype(np.int64)
        return pd.DataFrame(columns, index=getattr(table, "index", None))

    def features(self, table: "Table") -> NDArray[np.float32]:
        """Turn rows into what the network sees: float32 (rows, features), in the order of `feature_names`.

        The age is in units of 90 years, blanks filled with the median; all others are 0 or 1.
        """
        columns: list[NDArray[Any]] = []
        if "age_years" in self.inputs:
            years, blank = self._ages(table)
            columns += [years[:, None] / AGE_SCALE_YEARS, blank[:, None]]
        for name, words in self._words().items():
            columns.append(_codes(table[name], words)[:, None] == np.arange(len(words)))
        return np.concatenate(columns, axis=1, dtype=np.float32, casting="unsafe")

    def unseen(self, table: "Table") -> list[str]:
        """Remark on words that training never saw, with their counts: they become "unknown"."""
        remarks = []
        for name, words in self._words().items():
            counts = Counter(word for word in table[name] if isinstance(word, str) and word not in words)
            if counts:
                named = listed([f"{word!r} ({count:,})" for word, count in counts.most_common()])
                remarks.append(f"{counts.total():,} rows have a {name} not seen in training: {named}; taken as unknown")
        return remarks

    def knows(self, name: str, word: str) -> bool:
        """Tell whether a sex or a site was seen in training, or is not looked at."""
        return word in self._words().get(name, (word,))

    def to_json(self) -> dict[str, Any]:
        """Give plain values for a JSON file; `from_json` makes an equal encoder of them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Encoder":
        """Make an encoder of what `to_json` gave.

        Raises DataError where a value is missing, of another kind, or cannot be.
        """
        if not isinstance(values, Mapping) or set(values) != set(cls.__dataclass_fields__):
            raise DataError(f"an encoder needs exactly {', '.join(cls.__dataclass_fields__)}")
        age = values["median_age_years"]
        if isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age <= 120:
            raise DataError(f"an encoder's median_age_years is a number, not {age!r}")
        for name in ("sexes", "sites", "inputs"):
            _check_words(name, values[name])
        _check_inputs(values["inputs"])
        return cls(float(age), tuple(values["sexes"]), tuple(values["sites"]), tuple(values["inputs"]))

    def _words(self) -> dict[str, tuple[str, ...]]:
        known = {"sex": self.sexes, "site": self.sites}
        return {name: known[name] for name in ("sex", "site") if name in self.inputs}

    def _ages(self, table: "Table") -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        years = np.asarray(table["age_years"], np.float64)
        blank = np.isnan(years)
        return np.where(blank, self.median_age_years, years), blank


def one_site(text: str) -> str:
    """Spell an anatomical site in one way: case, spaces, and the ISIC site's three kinds of torso, which are one."""
    words = re.sub(r" ?/ ?", "/", " ".join(text.lower().split()))
    return re.sub(r"^(?:anterior|posterior|lateral) torso$", "torso", words)


def learn_encoder(training_rows: "Table", features: Sequence[str] = FEATURES) -> Encoder:
    """Learn the median age and the words of `sex` and `site` from training rows; others must not be passed.

    Raises DataError where a feature is the answer under another name, or is not one of FEATURES.
    """
    _check_inputs(features)
    years = np.asarray(training_rows["age_years"], np.float64)
    known = years[~np.isnan(years)]
    return Encoder(
        median_age_years=float(np.median(known)) if len(known) else NO_AGE_YEARS,
        sexes=_seen(training_rows["sex"]),
        sites=_seen(training_rows["site"]),
        inputs=tuple(features),
    )


def _seen(column: Iterable[Any]) -> tuple[str, ...]:
    return (*sorted({word for word in column if isinstance(word, str)} - {UNKNOWN}), UNKNOWN)


def _codes(column: Iterable[Any], words: tuple[str, ...]) -> NDArray[np.int64]:
    """Look each word up; a blank, which is no str, and a new word are "unknown", which comes last."""
    places = {word: place for place, word in enumerate(words)}
    return np.array([places.get(word, len(words) - 1) for word in column], np.int64)


def _check_inputs(features: Sequence[str]) -> None:
    answers = [name for name in features if name in ANSWERS]
    if answers:
        raise DataError(f"{listed(answers)} cannot be a feature: it is the answer in disguise; leave it out")
    other = [name for name in features if name not in FEATURES]
    if other or not features or len(set(features)) < len(features):
        raise DataError(f"features are some of {', '.join(FEATURES)}, each once, not: {listed(list(features))}")


def _check_words(name: str, words: Any) -> None:
    strings = isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)
    if not strings or len(set(words)) < len(words):
        raise DataError(f"an encoder's {name} are words, each once, not {words!r}")
    if name != "inputs" and (not words or words[-1] != UNKNOWN):
        raise DataError(f"an encoder's {name} end with {UNKNOWN!r}, not {words!r}")


def encode_diagnoses(table: "Table") -> tuple[NDArray[np.float32], list[str]]:
    """Mark the diagnoses of a training table: float32 (rows, diagnoses), 1 for a row's own; and their names in order.

    A row whose diagnosis is not known has none. It is what a network may learn to answer, and never what it is given.
    Raises DataError where a table names fewer than two.
    """
    cells = [str(cell).lower() for cell in table["diagnosis"]] if "diagnosis" in table else []
    names = sorted(set(cells) - set(NO_DIAGNOSIS))
    if len(names) < 2:
        raise DataError(f"the training rows name {len(names)} diagnoses; --set loss.diagnosis_share=0 does without")
    return np.array([[cell == name for name in names] for cell in cells], np.float32), names
