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
from melanoma.errors import DataError, ModelError, UsageError
from melanoma.evaluation.clinical import Clinical
from melanoma.evaluation.conformal import Conformal
from melanoma.evaluation.recalibration import Calibrator
from melanoma.files import replacing_folder, sha256, write_bytes, write_json, write_text
from melanoma.inference.assess import Gate

SCHEMA_VERSION = 2
SUMS, MODEL, CARD, GATE = "SHA256SUMS", "model.json", "CARD.md", "gate.npz"
LARGEST_DESCRIPTION_BYTES = 2**24  # a thousand times what is written


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

        Keys: calibrator, conformal, prevalence, prevalence_of_the_data, threshold, operating_point, operating_points;
        and clinical, what weighs age, sex and site, or None.
        """
        given = self.description["answers"]
        if given is None:
            return None
        conformal = None if given["conformal"] is None else Conformal.from_json(given["conformal"])
        clinical = None if given.get("clinical") is None else Clinical.from_json(given["clinical"])
        calibrator = Calibrator.from_json(given["calibrator"])
        return {**given, "calibrator": calibrator, "conformal": conformal, "clinical": clinical}

    @property
    def has_gate(self) -> bool:
        """Whether the description tells how many lesions a gate keeps: then there is one."""
        return (self.description["gate"] or {}).get("kept") is not None

    @cached_property
    def gate(self) -> Gate | None:
        """What a picture must be like to be judged; None where too few images were there to learn it from."""
        if not self.has_gate:
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
        reason = f"it has no {SUMS}" if path.is_dir() else "there is no such folder"
        raise ModelError(f"{path} is neither a bundle nor a run with one: {reason}")
    known = listed_hashes(sums)
    for name, digest in known.items():
        if Path(name).name != name or not (folder / name).is_file() or sha256(folder / name) != digest:
            raise ModelError(f"the bundle {folder} is damaged: {name!r} is missing or differs from its hash")
    try:
        if (folder / MODEL).stat().st_size > LARGEST_DESCRIPTION_BYTES:
            raise ValueError(f"it has over {LARGEST_DESCRIPTION_BYTES:,} bytes")
        description = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        if description["schema_version"] != SCHEMA_VERSION:
            raise ModelError(f"the bundle {folder} is of another version; write it again with: melanoma export RUN")
        bundle = Bundle(folder, description)
        if not _files(bundle) <= set(known):
            raise ModelError(f"the bundle {folder} is damaged: it uses files that have no hash")
        _check(bundle)
    except (
        OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError,
        ValidationError, DataError,
    ) as error:  # fmt: skip
        raise ModelError(f"the bundle {folder} has no readable {MODEL}: {error}") from error
    return bundle


def check_place(folder: Path) -> None:
    """Raise UsageError where a bundle cannot be put: what is there must be a bundle and nothing else."""
    if not folder.exists():
        return
    known = {SUMS, *listed_hashes(folder / SUMS)} if (folder / SUMS).is_file() else set()
    if not known or {path.name for path in folder.iterdir()} - known:
        raise UsageError(f"{folder} is there already and is no bundle, or holds other files too; give another place")


def code_hash() -> str:
    """Hash the package's own source files, names and content, so that a bundle tells what it was made with."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\n{sha256(path)}\n".encode())
    return digest.hexdigest()


def listed_hashes(sums: Path) -> dict[str, str]:
    """Read a list of hashes: SHA-256 by file name; raises ModelError where it is no text."""
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{sums} cannot be read: {error}") from error
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _files(bundle: Bundle) -> set[str]:
    """Name all that is read of a bundle."""
    gate = {GATE} if bundle.has_gate else set()
    return {path.name for path in bundle.network_files} | {MODEL, CARD} | gate


def _check(bundle: Bundle) -> None:
    """Read all that is read of a description once, so that what is wrong shows now."""
    told = bundle.description
    if {type(told["name"]), type(told["data"]["licence"])} != {str}:
        raise ValueError("its name and licence are no text")
    _check_networks(bundle.runs, told["networks"])
    _ = bundle.encoders, bundle.gate
    if bundle.has_gate and not 0 <= told["gate"]["kept"] <= 1:
        raise ValueError("the share of lesions that its gate keeps is none")
    if bundle.answers is not None:
        _check_answers(bundle.answers, told["figures"])


def _check_networks(runs: Sequence[Mapping[str, Any]], networks: Sequence[Mapping[str, Any]]) -> None:
    for run in runs:
        if {type(run["views"]), type(run["metadata"])} != {int, bool} or run["views"] not in (1, 8):
            raise ValueError("a run's views or metadata cannot be")
    places = [network["run"] for network in networks]
    if not networks or {type(place) for place in places} != {int} or set(places) != set(range(len(runs))):
        raise ValueError("its networks are not those of its runs")


def _check_answers(answers: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    points = answers["operating_points"]
    thresholds = [answers["threshold"], *(point["threshold"] for point in points)]
    if {type(threshold) for threshold in thresholds} != {float} or not all(0 <= one <= 1 for one in thresholds):
        raise ValueError("its thresholds are no shares")
    for share in (answers["prevalence"], answers["prevalence_of_the_data"]):
        if share is not None and not 0 < share < 1:
            raise ValueError("its prevalence is no share")
    if answers["operating_point"] not in (None, *(point["wanted_sensitivity"] for point in points)):
        raise ValueError("its operating point is none of those that it has")
    control = figures["strongest_control"]
    _check_figures([figures["auc"], *([] if control is None else [control["auc"]])])
    _check_figures([point[name] for point in points for name in ("sensitivity", "specificity")])
    if any(point[name]["value"] is None for point in points for name in ("sensitivity", "specificity")):
        raise ValueError("an operating point has no figures")
    if not all(isinstance(limit, str) for limit in figures["limits"]) or not figures["images"] >= figures["melanomas"]:
        raise ValueError("its figures cannot be")


def _check_figures(figures: Sequence[Mapping[str, Any]]) -> None:
    for figure in figures:
        for name in ("value", "low", "high"):
            if figure[name] is not None and not 0 <= figure[name] <= 1:
                raise ValueError("one of its figures is no share")
