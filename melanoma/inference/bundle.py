"""The bundle: one folder that answers without a deep-learning framework. Writing, reading and checking it."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from melanoma.config import ImageSettings
from melanoma.data.encode import Encoder
from melanoma.errors import DataError, ModelError
from melanoma.evaluation.conformal import Conformal
from melanoma.evaluation.recalibration import Calibrator
from melanoma.files import replacing_folder, sha256, write_bytes, write_json, write_text
from melanoma.inference.assess import Gate

SCHEMA_VERSION = 2
SUMS, MODEL, CARD, GATE = "SHA256SUMS", "model.json", "CARD.md", "gate.npz"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and what `model.json` says of it."""

    folder: Path
    description: dict[str, Any]

    @property
    def name(self) -> str:
        """What the bundle is called."""
        return str(self.description["name"])

    @property
    def networks(self) -> list[Path]:
        """The exported networks in float32, a fold each."""
        return [self.folder / network["file"] for network in self.description["networks"]]

    @property
    def network_files(self) -> list[Path]:
        """Every file of a network, int8 ones too."""
        small = [network["int8"]["file"] for network in self.description["networks"] if "int8" in network]
        return [*self.networks, *(self.folder / name for name in small)]

    def networks_in(self, precision: str) -> list[Path]:
        """Find the files that an engine of that precision reads; raises ModelError for int8 where there are none."""
        if precision != "int8":
            return self.networks
        if not all("int8" in network for network in self.description["networks"]):
            raise ModelError(f"{self.folder} has no int8 networks: they are exported with evaluate.precision=int8")
        return [self.folder / network["int8"]["file"] for network in self.description["networks"]]

    @property
    def files(self) -> list[str]:
        """Name every file but the list of hashes, sorted."""
        return sorted(listed_hashes(self.folder / SUMS))

    @cached_property
    def sha256(self) -> str:
        """The hash of the list of hashes: it names this very bundle."""
        return sha256(self.folder / SUMS)

    @cached_property
    def runs(self) -> list[dict[str, Any]]:
        """What the networks of each run take: name, views, metadata, and `images`, settings that were checked."""
        return [{**run, "images": ImageSettings(**run["images"])} for run in self.description["runs"]]

    @cached_property
    def encoders(self) -> list[Encoder]:
        """What turns age, sex and site into numbers, by network."""
        return [Encoder.from_json(network["encoder"]) for network in self.description["networks"]]

    @cached_property
    def answers(self) -> dict[str, Any] | None:
        """What turns scores into answers: a Calibrator, a Conformal or None, thresholds; None where nothing was judged.

        Keys: calibrator, conformal, prevalence, prevalence_of_the_data, threshold, operating_point, operating_points.
        """
        given = self.description["answers"]
        if given is None:
            return None
        conformal = given["conformal"] and Conformal.from_json(given["conformal"])
        return {**given, "calibrator": Calibrator.from_json(given["calibrator"]), "conformal": conformal}

    @cached_property
    def gate(self) -> Gate | None:
        """What a picture must be like to be judged; None where too few images were there to learn it from."""
        if not (self.folder / GATE).is_file():
            return None
        return Gate.from_bytes((self.folder / GATE).read_bytes(), len(self.description["networks"]))


def write_bundle(
    folder: Path, networks: Sequence[Path], description: Mapping[str, Any], card: str, gate: Gate | None = None
) -> Bundle:
    """Write the bundle whole or not at all: the ONNX files, `model.json`, `CARD.md`, the gate, and the hash of each.

    networks: where the files are now; they may be the bundle's own. description: what `model.json` says.
    """
    with replacing_folder(folder) as aside:
        for network in networks:
            shutil.copyfile(network, aside / network.name)
        write_json(aside / MODEL, {"schema_version": SCHEMA_VERSION, **description})
        write_text(aside / CARD, card)
        if gate is not None:
            write_bytes(aside / GATE, gate.to_bytes())
        sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(aside.iterdir())]
        write_text(aside / SUMS, "".join(sums))
    return read_bundle(folder)


def read_bundle(path: Path) -> Bundle:
    """Open a bundle, or a run's bundle, after checking every file against its hash and all that is read from it.

    Raises ModelError where there is none, a file is missing or changed, or one is used that has no hash.
    """
    folder = path / "model" if (path / "model" / SUMS).is_file() else path
    sums = folder / SUMS
    if not sums.is_file():
        raise ModelError(f"{path} is neither a bundle nor a run with one: it has no {SUMS}")
    known = listed_hashes(sums)
    for name, digest in known.items():
        if Path(name).name != name or not (folder / name).is_file() or sha256(folder / name) != digest:
            raise ModelError(f"the bundle {folder} is damaged: {name!r} is missing or differs from its hash")
    try:
        description = json.loads((folder / MODEL).read_text())
        if description["schema_version"] != SCHEMA_VERSION:
            raise ModelError(f"the bundle {folder} is of another version; write it again with: melanoma export RUN")
        bundle = Bundle(folder, description)
        if not _files(bundle) <= set(known):
            raise ModelError(f"the bundle {folder} is damaged: it uses files that have no hash")
        _check(bundle)
    except (
        OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, ValidationError, DataError
    ) as error:  # fmt: skip
        raise ModelError(f"the bundle {folder} has no readable {MODEL}: {error}") from error
    return bundle


def code_hash() -> str:
    """Hash the package's own source files, names and content, so that a bundle tells what it was made with."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\n{sha256(path)}\n".encode())
    return digest.hexdigest()


def listed_hashes(sums: Path) -> dict[str, str]:
    """Read a list of hashes: SHA-256 by file name."""
    return {name: digest for digest, _, name in (line.partition("  ") for line in sums.read_text().splitlines())}


def _files(bundle: Bundle) -> set[str]:
    gate = {GATE} if (bundle.folder / GATE).exists() else set()
    return {path.name for path in bundle.network_files} | gate


def _check(bundle: Bundle) -> None:
    """Read all that is read of a description once, so that what is wrong shows now."""
    told, runs = bundle.description, bundle.runs
    if {type(told["name"]), type(told["data"]["licence"])} != {str}:
        raise ValueError("its name and licence are no text")
    if not told["networks"] or {network["run"] for network in told["networks"]} != set(range(len(runs))):
        raise ValueError("its networks are not those of its runs")
    if any(run["views"] not in (1, 8) or not isinstance(run["metadata"], bool) for run in runs):
        raise ValueError("a run's views or metadata cannot be")
    _ = bundle.encoders, bundle.gate
    if bundle.gate is not None and not 0 <= told["gate"]["kept"] <= 1:
        raise ValueError("the share of lesions that its gate keeps is none")
    answers = bundle.answers
    if answers is None:
        return
    for share in (answers["threshold"], answers["prevalence"], answers["prevalence_of_the_data"]):
        if share is not None and not 0 <= share <= 1:
            raise ValueError("its threshold or prevalence is no share")
    figures = told["figures"]
    _check_figures([figures["auc"], *([figures["strongest_control"]["auc"]] if figures["strongest_control"] else [])])
    for point in answers["operating_points"]:
        if not 0 <= point["threshold"] <= 1 or point["sensitivity"]["value"] is None:
            raise ValueError("an operating point cannot be")
        _check_figures([point["sensitivity"], point["specificity"]])
    if not all(isinstance(limit, str) for limit in figures["limits"]) or not figures["images"] >= figures["melanomas"]:
        raise ValueError("its figures cannot be")
    if answers["operating_point"] not in (
        None,
        *(point["wanted_sensitivity"] for point in answers["operating_points"]),
    ):
        raise ValueError("its operating point is none of those that it has")


def _check_figures(figures: Sequence[Mapping[str, Any]]) -> None:
    for figure in figures:
        for name in ("value", "low", "high"):
            if figure[name] is not None and not 0 <= figure[name] <= 1:
                raise ValueError("one of its figures is no share")
