"""What several commands are told in the same way: each with its type and its line of help."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Data = Annotated[Path, Parameter(help="Folder with train.csv, perhaps test.csv, and the images.")]
RunFolder = Annotated[Path, Parameter(help="A run's folder, as printed when it began.")]
Judged = Annotated[Path, Parameter(help="A run's folder, or a CSV with image_name, patient_id, target, probability.")]
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
Runs = Annotated[Path, Parameter(help="Folder in which runs and the image cache are kept.")]
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
