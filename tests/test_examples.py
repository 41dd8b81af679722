"""The notebook in examples/ runs from top to bottom."""

import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra notebook is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra notebook is not installed")

STORY = Path(__file__).parents[1] / "examples" / "story.ipynb"


@pytest.mark.filterwarnings("default")  # the kernel is another process; its client's warnings are not ours
def test_the_story_runs_and_shows_its_pictures(tmp_path: Path) -> None:
    notebook = nbformat.read(STORY, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "commit the story without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in str(output)]
    assert len(pictures) >= 4
    assert (tmp_path / "runs" / "story" / "submission.csv").is_file()
    shutil.rmtree(tmp_path / "runs")
