# SPDX-License-Identifier: Apache-2.0
"""Every notebook runs from top to bottom in its smoke form, and is stored clean."""

import pathlib

import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
WEIGHTS = ROOT / "vsd_jax" / "toybox" / "weights" / "unet"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: pathlib.Path) -> list:
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def test_there_is_a_notebook():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_stored_without_outputs(path):
    for cell in cells(path):
        assert not cell.outputs and cell.execution_count is None


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the embedded prior is not there yet")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("VSD_VARIANT", "smoke")
    notebook = nbformat.read(path, 4)
    place = {"metadata": {"path": str(path.parent)}}  # where Jupyter starts it
    patience = {"timeout": None, "startup_timeout": 600}  # on a busy machine
    nbclient.NotebookClient(notebook, **patience, resources=place).execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3
