# SPDX-License-Identifier: Apache-2.0
"""The commands and budgets of tables that documents and notebooks give are taken."""

import json
import pathlib
import re
import shlex
import types

import pytest

from vsd_jax.experiments import __main__ as program
from vsd_jax.experiments import plan, runner
from vsd_jax.experiments.catalogue import EXPERIMENTS
from vsd_jax.experiments.plan import Budget

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def commands():
    """(page, command) of every table; those with "..." are no whole ones."""
    for path in DOCUMENTS:
        found = re.findall(
            r"python -m vsd_jax\.experiments( [^`\n]*)", path.read_text()
        )
        for line in dict.fromkeys(found):
            if "--name=" in line and "leaderboard" not in line and "..." not in line:
                yield pytest.param(line, id=f"{path.stem}:{line[8:40]}")


@pytest.mark.parametrize("line", [*commands()])
def test_a_documented_command_is_taken(line, monkeypatch):
    def run(experiment, budget, out, **options):
        assert plan.cells(experiment, budget)
        return ""

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(program.process, "prepare", lambda: None)
    program.main(shlex.split(line.split(" # ")[0]))


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/[234]_*.ipynb")))
def test_the_whole_budget_of_a_notebook_is_taken(path, monkeypatch):
    """Tests execute the smoke forms, which have budgets of their own."""
    tables = []
    names = {
        "smoke": False,
        "some": (),
        "out": path.parent,
        "Markdown": str,
        "EXPERIMENTS": EXPERIMENTS,
        "Budget": Budget,
        "runner": types.SimpleNamespace(
            run=lambda experiment, budget, out, **options: tables.append(
                plan.cells(experiment, budget)
            )
        ),
    }
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "runner.run(" in source:
            exec(source, names)
    assert tables and all(tables)
