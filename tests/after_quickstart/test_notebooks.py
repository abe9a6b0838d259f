"""The notebooks of the documentation run from the first cell to the last.

`make docs` installs what runs them; without it, there is nothing to test here.
"""

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.quickstart


@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "docs" / "notebooks"  # its paths are relative; it leaves nothing in ours
    folder.mkdir(parents=True)
    (tmp_path / "runs").symlink_to(ROOT / "runs")
    scripts = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    results = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    assert any("image/png" in one.get("data", {}) for one in results)
    assert any("%" in one.get("text", "") for one in results)
