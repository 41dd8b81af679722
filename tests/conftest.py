"""What many tests look at: a trained run on drawn lesions, made once, from it a bundle that answers; a small disk."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from offline import watch
from tiny import TINY

from melanoma.runs import Run

SHARED = Path(__file__).parents[2] / "shared" / "data"
TOLD = Path(tempfile.mkdtemp()) / "told.txt"
watch(TOLD)
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side, a core each, and so does what they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def nobody_else_is_asked() -> Iterator[None]:
    """Fail where another machine was asked for anything, even if what asked did not mind that it got nothing."""
    yield
    if TOLD.exists():
        attempts = TOLD.read_text()
        TOLD.unlink()
        raise AssertionError(attempts)


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run of two networks that see age, sex and site too, with a gate."""
    from melanoma import pipeline
    from melanoma.data.synthetic import make_dataset

    folder = tmp_path_factory.mktemp("judged")
    make_dataset(folder / "data", images=240, test_images=12)
    settings = [*TINY, "folds.count=2", "model.metadata=true", "evaluate.precision=float32", "data.licence=CC0 1.0"]
    return pipeline.run(folder / "data", "demo", settings, name="drawn", runs=folder / "runs")


@pytest.fixture(scope="session")
def lesions(judged: Run) -> list[Path]:
    """Pictures of the kind that the bundle knows, in the order of their names."""
    return sorted((judged.folder.parents[1] / "data").rglob("*.jpg"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system in memory."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("to mount a small disk takes root on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={48 * 2**20}", "tmpfs", folder],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
