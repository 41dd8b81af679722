"""The house keeps its plan: rooms import downwards only, files stay readable, the README's tree is the real one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "melanoma"
# from the ground up; a room imports only from rooms before it
ROOMS = [
    "__init__", "errors", "machine", "child", "protobuf", "places", "files", "config", "runs", "images", "data",
    "evaluation", "report", "inference", "models", "training", "prepare", "check", "judge", "judge_run", "compare",
    "bundling", "pipeline", "cluster", "parts", "answer", "web", "doctor", "options", "ending", "cli", "__main__",
]  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))
BACKENDS = {"torch", "jax", "tensorflow"}
MAY_NAME_A_BACKEND = {
    "models/backend.py", "models/channels_last.py", "models/fused.py", "models/steps.py", "training/adam.py",
    "models/efficientnet_lite.py", "training/halving.py",
    "training/export.py", "training/sampler.py", "training/parallel.py", "training/team.py",
}  # fmt: skip
SCORING_NEVER_IMPORTS = BACKENDS | {"keras", "pandas", "sklearn", "melanoma.models", "melanoma.training"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_above_it(path: Path) -> None:
    own = ROOMS.index(room(path))
    for name in imports(path):
        if name.startswith("melanoma.") and (other := name.split(".")[1]) in ROOMS and room(path) != "__init__":
            assert ROOMS.index(other) <= own, f"{path.name} imports {name}"


def test_imports_inside_a_room_make_no_circle() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in MODULES]
    graph = dict(zip(names, map(imports, MODULES), strict=True))

    def reached(name: str, seen: frozenset[str]) -> None:
        assert name not in seen, f"a circle of imports through {name}"
        for other in graph[name]:
            if other in graph and other != "melanoma":
                reached(other, seen | {name})

    for name in graph:
        if name not in ("melanoma", "melanoma.cli"):
            reached(name, frozenset())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_backends_are_imported_only_where_the_plan_says(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    if str(path.relative_to(PACKAGE)) not in MAY_NAME_A_BACKEND:
        assert not roots & BACKENDS
    if room(path) == "inference":
        assert not {name for name in imports(path) if any(name.startswith(never) for never in SCORING_NEVER_IMPORTS)}


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "tests").glob("*.py"))], ids=lambda path: path.name)
def test_no_file_is_over_500_lines_and_each_says_what_it_is(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_readmes_tree_is_the_real_one() -> None:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    tree = next(block for block in blocks if block.startswith("melanoma/"))
    named = set(re.findall(r"[\w.]+\.(?:py|toml)", tree)) - {"__init__.py"}
    real = {path.name for path in [*MODULES, *PACKAGE.glob("recipes/*.toml")]} - {"__init__.py"}
    assert named == real


def test_every_promise_of_security_names_tests_that_are_there() -> None:
    rows = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| ")][1:]
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named, row
        for file, name in named:
            assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"


def test_no_module_hides_a_public_name() -> None:
    import melanoma

    modules = {path.stem for path in PACKAGE.iterdir()}
    assert not modules & set(melanoma.__all__)  # importing melanoma.NAME would put the module in its place
