"""What commands are told: each option's type, its line of help, and how its text is taken."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from melanoma.errors import UsageError
from melanoma.places import as_place, is_address


def _place(kind: Any, tokens: Sequence[Any]) -> Path:
    del kind
    return as_place(tokens[0].value)


def here(kind: Any, tokens: Sequence[Any]) -> Path:
    """Take a path of this machine; raises UsageError for an address."""
    del kind
    if is_address(tokens[0].value):
        raise UsageError(
            f"{tokens[0].value} is an address; only pictures, answers and the dataset of a run may be at one: give a "
            "place on this machine"
        )
    return as_place(tokens[0].value)


def here_or_hub(kind: Any, tokens: Sequence[Any]) -> str:
    """Take a path of this machine, or what begins with hf:; raises UsageError for any other address."""
    text: str = tokens[0].value
    return text if text.startswith("hf:") else str(here(kind, tokens))


Data = Annotated[
    Path,
    Parameter(
        converter=_place, help="Folder with train.csv, perhaps test.csv, and the images; or s3://... and the like."
    ),
]
Out = Annotated[
    Path | None,
    Parameter(
        converter=_place, help="Also write all answers to this .csv or .jsonl file; or to s3://... and the like."
    ),
]
Drawn = Annotated[
    Path, Parameter(converter=here, help="The PNG to write; the map as an array goes beside it, as .npy.")
]
Blended = Annotated[Path, Parameter(converter=here, help="With several runs: the file to write.")]
On = Annotated[
    Literal["ray"] | None, Parameter(help="Work on Ray's workers: of this machine, or of the cluster at --address.")
]
Address = Annotated[
    str | None, Parameter(help="Where Ray runs: auto, host:port or ray://host:port. Default: it is started here.")
]
RunFolder = Annotated[Path, Parameter(converter=here, help="A run's folder, as printed when it began.")]
RunOrFile = Annotated[
    Path,
    Parameter(converter=here, help="A run's folder; or, with --data, a CSV of anybody's held-out predictions."),
]
Judged = Annotated[
    Path,
    Parameter(converter=here, help="A run's folder, or a CSV with image_name, patient_id, target, probability."),
]
Recipe = Annotated[
    str | None, Parameter(help="A recipe's name or TOML file. Default: gpu where there is one, else cpu.")
]
Overrides = Annotated[
    list[str] | None,
    Parameter(name="--set", negative=(), help="section.key=value over the recipe, repeatable; see docs/settings.md."),
]
Devices = Annotated[
    int | None,
    Parameter(
        help="Train by JAX on so many GPUs, or parts of the CPU, of each process that a job (SLURM, MPI) starts."
    ),
]
Name = Annotated[str | None, Parameter(help="The run's name. Default: recipe and UTC time.")]
Runs = Annotated[Path, Parameter(converter=here, help="Folder in which runs and the image cache are kept.")]
Model = Annotated[
    str | None, Parameter(help="A bundle or run, or hf://owner/name@revision. Default: the package's own.")
]
Age = Annotated[float | None, Parameter(help="The patient's age, years.")]
Sex = Annotated[Literal["female", "male"] | None, Parameter(help="The patient's sex.")]
Site = Annotated[str | None, Parameter(help="The anatomical site, in the words of the training table, such as torso.")]
Prevalence = Annotated[
    float | None,
    Parameter(help="Share of melanomas among such lesions where the answer is used, 0 to 1. Default: the model's."),
]
Views = Annotated[
    Literal[1, 8] | None, Parameter(help="Ways to lay each picture down. Default: as the model was validated.")
]
Json = Annotated[bool, Parameter(negative=(), help="Print the figures as JSON.")]
