"""What is known of a patient, what is said of a picture, and in which words."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melanoma.data.encode import OLDEST_YEARS, one_site
from melanoma.errors import UsageError

NOT_ASSESSABLE, ERROR = "not assessable", "error"
SAID = {
    "melanoma": "Suspect: so high a score is rare among benign lesions.",
    "benign": "Not suspect of melanoma, and of nothing else: so low a score is rare among melanomas.",
    "refer": "Refer: the score alone does not tell, so the lesion should be seen by somebody who can.",
}


@dataclass(frozen=True)
class Details:
    """What is known of a patient, and how answers are wanted. Blank is not known.

    age_years: 0 to 120. sex: female or male. site: the anatomical site, a word of the bundle's, in any of the
    spellings that tables have. prevalence: the share of melanomas among such lesions where the answer is used, in
    (0, 1); without it the bundle's own.
    """

    age_years: float | None = None
    sex: str | None = None
    site: str | None = None
    prevalence: float | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be."""
        if self.age_years is not None and not 0 <= self.age_years <= OLDEST_YEARS:
            raise UsageError(f"an age is from 0 to {OLDEST_YEARS} years, not {self.age_years:g}")
        if self.sex is not None and self.sex not in ("female", "male"):
            raise UsageError(f"sex is female or male, or left out, not {self.sex!r:.40}")
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise UsageError(f"a prevalence is a share above 0 and below 1, not {self.prevalence:g}")
        if self.site is not None:
            object.__setattr__(self, "site", one_site(self.site))


@dataclass(frozen=True)
class Answer:
    """What is said of one picture.

    status: melanoma, benign, refer, not assessable, or error. probability: calibrated, for the prevalence where it is
    used. score: the networks' own, with what age, sex and site add, which ranks lesions best. label: 1 from the
    operating point on. words: all of that in a sentence or two. reasons: why it is not assessable. width, height: of
    the original, pixels. activation_map: float32 (rows, columns), each place's share of the logit; only where it was
    asked for.
    """

    name: str
    status: str
    probability: float | None = None
    score: float | None = None
    label: int | None = None
    words: str = ""
    reasons: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    error: str | None = None
    width: int | None = None
    height: int | None = None
    activation_map: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Give plain values, without the map."""
        values = asdict(replace(self, activation_map=None))
        del values["activation_map"]
        return values


def in_percent(probability: float) -> str:
    """Say a probability so that no answer looks like a certainty."""
    if probability < 0.001:
        return "under 0.1 %"
    if probability > 0.999:
        return "over 99.9 %"
    return f"{100 * probability:.1f} %"


def in_words(score: float, status: str, threshold: float, point: Mapping[str, Any] | None) -> str:
    """Say in plain words what a score is worth.

    status: melanoma, benign or refer. point: the operating point that `threshold` is of, with the sensitivity and
    specificity that it reached; None where the threshold was set, not measured.
    """
    place = "At or above" if score >= threshold else "Below"
    if point is None:
        return f"{SAID[status]} {place} the threshold {threshold:.3g}, which was set, not measured."
    found, passed = (point[name]["value"] for name in ("sensitivity", "specificity"))
    return (
        f"{SAID[status]} {place} the operating point that found {100 * found:.0f} % of the melanomas and passed "
        f"{100 * passed:.0f} % of the benign lesions of patients whom the networks had not seen."
    )
