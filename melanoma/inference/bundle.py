"""The bundle: one folder that answers without a deep-learning framework. Writing, reading and checking it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melanoma.errors import ModelError
from melanoma.files import replacing_folder, sha256, write_json, write_text

SCHEMA_VERSION = 1
RESEARCH_ONLY = "Research use only. Not a medical device. Not for diagnosis."


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and what `model.json` says of it."""

    folder: Path
    description: dict[str, Any]

    @property
    def networks(self) -> list[Path]:
        """The exported networks in float32, a fold each."""
        return [self.folder / network["file"] for network in self.description["networks"]]

    def networks_in(self, precision: str) -> list[Path]:
        """Find the files that an engine of that precision reads; raises ModelError for int8 where there are none."""
        if precision != "int8":
            return self.networks
        if not all("int8" in network for network in self.description["networks"]):
            raise ModelError(f"{self.folder} has no int8 networks: they are exported with evaluate.precision=int8")
        return [self.folder / network["int8"]["file"] for network in self.description["networks"]]


def write_bundle(folder: Path, networks: Sequence[Path], description: dict[str, Any], card: str) -> Bundle:
    """Write the bundle whole or not at all: the ONNX files, `model.json`, `CARD.md` and the hash of each.

    `description["networks"]` gets a row a network; the rest is kept as it is.
    """
    with replacing_folder(folder) as aside:
        for network in networks:
            shutil.copyfile(network, aside / network.name)
        write_json(aside / "model.json", {"schema_version": SCHEMA_VERSION, **description})
        write_text(aside / "CARD.md", card)
        sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(aside.iterdir())]
        write_text(aside / "SHA256SUMS", "".join(sums))
    return read_bundle(folder)


def read_bundle(path: Path) -> Bundle:
    """Open a bundle, or a run's bundle, after checking every file against its hash.

    Raises ModelError where there is none, or a file is missing, added or changed.
    """
    folder = path / "model" if (path / "model" / "SHA256SUMS").is_file() else path
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise ModelError(f"{path} is neither a bundle nor a run with one: it has no SHA256SUMS")
    known = {name: digest for digest, _, name in (line.partition("  ") for line in sums.read_text().splitlines())}
    for name, digest in known.items():
        if Path(name).name != name or not (folder / name).is_file() or sha256(folder / name) != digest:
            raise ModelError(f"the bundle {folder} is damaged: {name!r} is missing or differs from its hash")
    try:
        description = json.loads((folder / "model.json").read_text())
        bundle = Bundle(folder, description)
        if description["schema_version"] != SCHEMA_VERSION or not _named(bundle) <= set(known):
            raise ModelError(f"the bundle {folder} is of another version, or names networks that have no hash")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the bundle {folder} has no readable model.json: {error}") from error
    return bundle


def _named(bundle: Bundle) -> set[str]:
    rows = bundle.description["networks"]
    return {row["file"] for row in rows} | {row["int8"]["file"] for row in rows if "int8" in row}
