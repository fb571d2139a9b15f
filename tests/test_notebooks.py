# SPDX-License-Identifier: Apache-2.0
"""Every notebook runs from top to bottom in its smoke form, and is stored clean."""

import pathlib

import nbformat
import pytest
import tiny_runs

ROOT = pathlib.Path(__file__).parents[1]
PATHS = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]"
# A table's runs have a step of a few operations.
FAKE_RUNS = (
    PATHS
    + """
import tiny_runs
from vsd_jax.program.build import build
build.build = tiny_runs.make_run
"""
)
# A small prior with random weights, whose step is compiled sooner.
TINY_PRIOR = """
given = vsd.load_prior
vsd.load_prior = lambda name, **options: given('{folder}', **options)
"""
TINY_OPTION = "options += ['--config.prior.path={folder}']"
WEIGHTS = ROOT / "vsd_jax" / "toybox" / "weights" / "unet"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def put_before(notebook, text: str, code: str) -> None:
    """Inserts a cell of `code` before the first one with `text`."""
    (place, *_) = (i for i, c in enumerate(notebook.cells) if text in c.source)
    notebook.cells.insert(place, nbformat.v4.new_code_cell(code))


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
def test_notebook_runs(path, monkeypatch, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("VSD_VARIANT", "smoke")
    notebook = nbformat.read(path, 4)
    if path.stem in ("2_the_2d_experiment", "3_the_ablation"):
        put_before(notebook, "from vsd_jax.experiments import runner", FAKE_RUNS)
    if path.stem == "1_vsd_from_scratch":
        code = TINY_PRIOR.format(folder=tiny_runs.write_prior(tmp_path / "prior"))
        put_before(notebook, "vsd.load_prior(", code)
    if path.stem == "5_colab":
        code = TINY_OPTION.format(folder=tiny_runs.write_prior(tmp_path / "prior"))
        put_before(notebook, 'program("--mode', code)
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
