# SPDX-License-Identifier: Apache-2.0
"""Equal wall clock: steps follow from seconds, which are measured once and stored."""

import time

import jax.numpy as jnp
import pytest
import tiny_runs

from vsd_jax.experiments import __main__ as program
from vsd_jax.experiments import cells
from vsd_jax.experiments.leaderboard import clock, records, worlds
from vsd_jax.program.build import build
from vsd_jax.program.folder import writer
from vsd_jax.program.terminal.errors import ConfigError

pytest.importorskip("embreex")
pytestmark = pytest.mark.usefixtures("three_entries")
SECONDS = {"SDS": 0.4, "VSD": 1.0, "CSD": 5.0}


@pytest.fixture
def timed(monkeypatch):
    """What is measured: the cell's name, and the seconds above."""
    asked = []
    monkeypatch.setattr(clock, "first_move", lambda cell: (cell.row.name, None))
    measure = lambda name, move: asked.append(name) or SECONDS[name]  # noqa: E731
    monkeypatch.setattr(clock, "measure", measure)
    return asked


def start(out, *more):
    program.main(["--name=leaderboard", f"--out={out}", *more])


def test_a_step_is_timed_without_its_compilation():
    calls = []

    def move(state):
        time.sleep(0.2 if not calls else 0.004)
        calls.append(state)
        return state + 1

    assert 0.004 <= clock.measure(jnp.zeros(()), move) < 0.02
    assert len(calls) > 20


def test_all_have_the_time_of_vsd(timed, tmp_path):
    rows = worlds.rows(worlds.WORLDS["plane"])
    total, seconds, steps = clock.budget("plane", "full", rows, tmp_path)
    assert total == 600.0 and seconds == SECONDS
    assert steps == {"SDS": 1500, "VSD": 600, "CSD": 120}
    own = worlds.all_starts("plane", "full", rows, steps)
    found = {each.cell.row.name: each.cell.settings["num_steps"] for each in own}
    assert found == {**steps, worlds.CONTROL: 1} and len(own) == 4 * 5
    passes = {each.cell.row.name: each.passes for each in own}
    assert passes == {"SDS": 3000, "VSD": 3000, "CSD": 240, worlds.CONTROL: 2}


def test_a_step_that_takes_longer_than_the_budget_is_made(timed, monkeypatch, tmp_path):
    monkeypatch.setitem(SECONDS, "CSD", 1e6)
    rows = worlds.rows(worlds.WORLDS["plane"])
    assert clock.budget("plane", "quick", rows, tmp_path)[2]["CSD"] == 1


def test_without_vsd_there_is_no_budget(timed, tmp_path):
    rows = worlds.rows(worlds.WORLDS["plane"])
    rows = [row for row in rows if row.name != "VSD"]
    with pytest.raises(ConfigError, match="world plane has no entry VSD"):
        clock.budget("plane", "full", rows, tmp_path)


def test_a_leaderboard_at_equal_time(timed, tmp_path, capsys):
    more = ("--worlds", "plane", "--smoke", "--equal=time")
    start(tmp_path, *more)
    assert timed == ["SDS", "VSD", "CSD"]
    stored = writer.read_json(tmp_path / clock.FILE)
    rows = stored["worlds"]["plane"]
    assert {row: own["seconds"] for row, own in rows.items()} == SECONDS
    assert all(own["machine"] and own["commit"] is not None for own in rows.values())
    found = records.read(tmp_path / "leaderboard.json")
    assert found["equal"] == "time" and found["worlds"]["plane"]["seconds"] == 3.0
    steps = {cell["method"]: cell["steps"] for cell in found["cells"]}
    assert steps == {"SDS": 7, "VSD": 3, "CSD": 1, worlds.CONTROL: 1}
    assert {cell["equal"] for cell in found["cells"]} == {"time"}
    markdown = (tmp_path / "leaderboard.md").read_text()
    assert "the same wall clock" in markdown and "| ms a step |" in markdown
    assert "The prior is a closed form here" in markdown
    assert "network passes for each particle" not in markdown
    # Gone on with, it takes the stored seconds, whatever a step takes now.
    SECONDS_NOW = dict.fromkeys(SECONDS, 9.0)
    timed.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "measure", lambda name, move: SECONDS_NOW[name])
        patch.setattr(cells, "_KINDS", {})
        start(tmp_path, *more)
    assert records.read(tmp_path / "leaderboard.json")["cells"] == found["cells"]
    path = tmp_path / "mine.py"
    path.write_text("def mine(views):\n    return views.guided(7.5) - views.noise\n")
    with pytest.raises(ConfigError, match="of equal time"):
        start(tmp_path, f"--submit={path}")


@pytest.mark.parametrize("world", ["plane", "objects"])
def test_real_steps_are_timed(world, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "build", tiny_runs.make_run)
    monkeypatch.setattr(clock, "_BLOCK_SECONDS", 1e-3)
    row = worlds.rows(worlds.WORLDS[world])[0]
    starts = {row.name: worlds.starts_of(world, "smoke", row)[0]}
    found = clock.step_seconds(starts, tmp_path / clock.FILE)
    assert 0.0 < found["SDS"] < 5.0
    assert clock.step_seconds(starts, tmp_path / clock.FILE) == found


@pytest.mark.parametrize("what", ["form", "machine", "older file"])
def test_seconds_of_something_else_are_measured_anew(
    timed, tmp_path, monkeypatch, what
):
    rows = worlds.rows(worlds.WORLDS["plane"])
    clock.budget("plane", "full", rows, tmp_path)
    clock.budget("plane", "full", rows, tmp_path)
    assert timed == ["SDS", "VSD", "CSD"]
    if what == "machine":
        monkeypatch.setattr(clock.work, "machine", lambda environment: "another")
    elif what == "older file":
        writer.write_json(tmp_path / clock.FILE, {"worlds": {"plane": SECONDS}})
    form = "smoke" if what == "form" else "full"
    clock.budget("plane", form, rows, tmp_path)
    assert timed == 2 * ["SDS", "VSD", "CSD"]
