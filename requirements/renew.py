"""Write the files beside this one from pyproject.toml and constraints.txt: every package with the hashes of its files.

core.txt is what every install takes, with pip and what builds the package; EXTRA.txt is what an extra adds. They hold
for every platform and Python that the package runs on. PyTorch and its CUDA are left out, as their files differ by
where they come from. Needs uv: `make renew`.
"""

import re
import subprocess
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.with_name("pyproject.toml")
UNHASHED = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)==")
NOTE = "# Written by requirements/renew.py, not by hand.\n"


def compiled(sources: list[Path], constraints: Path, *options: str) -> list[str]:
    """Resolve for every platform: a requirement each, with the hashes of all of its files."""
    settings = ["--universal", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
    command = ["uv", "pip", "compile", *settings, "--constraint", constraints, *sources, *options]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [one for one in re.split(r"\n(?=\S)", text.strip()) if not UNHASHED.match(one)]


def main() -> None:
    """Resolve everything together, then sort it by what needs it."""
    project = tomllib.loads(PROJECT.read_text())
    with tempfile.TemporaryDirectory() as folder:
        build, pins = Path(folder, "build.in"), Path(folder, "pins.txt")
        build.write_text("\n".join(["pip", *project["build-system"]["requires"]]))
        everything = compiled([PROJECT, build], HERE.with_name("constraints.txt"), "--all-extras")
        pins.write_text("\n".join(one.partition("--hash")[0].rstrip("\\ \n") for one in everything))
        core = {name_of(one) for one in compiled([PROJECT, build], pins)}
        needed = {"core": core}
        for extra in project["project"]["optional-dependencies"]:
            needed[extra] = {name_of(one) for one in compiled([PROJECT], pins, "--extra", extra)} - core
    for part, names in needed.items():
        kept = [one for one in everything if name_of(one) in names]
        (HERE / f"{part}.txt").write_text(NOTE + "".join(f"{one}\n" for one in kept))


def name_of(requirement: str) -> str:
    """Return a requirement's name."""
    return requirement.partition("==")[0]


if __name__ == "__main__":
    main()
