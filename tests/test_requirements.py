"""What is installed is what is pinned, and every file of it has its hash."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
PARTS = {"core": [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], "pip"], **EXTRAS}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(part: str) -> dict[str, str]:
    """Read one file: what follows each name."""
    lines = (ROOT / "requirements" / f"{part}.txt").read_text().split("\n", 1)[1]
    entries = re.split(r"\n(?=\S)", lines.strip()) if lines.strip() else []
    return {plain(name): rest for name, _, rest in (entry.partition("==") for entry in entries)}


@pytest.mark.parametrize("part", PARTS)
def test_every_dependency_is_there_with_the_hash_of_each_of_its_files(part: str) -> None:
    known = requirements("core") | requirements(part)
    for name, rest in known.items():
        version, *hashes = rest.split(" \\\n    --hash=")
        assert re.match(r"[\w.!+]+( ;.*)?$", version), name
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), name
    needed = {plain(re.split(r"[ ;<>=!~\[]", one)[0]) for one in PARTS[part]} - {"torch"}
    assert needed <= set(known)


def test_what_is_installed_has_the_pinned_versions() -> None:
    pins = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    pinned = {plain(name): version for name, version in pins}
    for part in PARTS:
        for name, rest in requirements(part).items():
            assert rest.split()[0] == pinned.get(name, rest.split()[0]), f"{part}: {name}; make renew"


def test_there_is_a_file_for_every_extra_and_no_other() -> None:
    assert {path.stem for path in (ROOT / "requirements").glob("*.txt")} == set(PARTS)
