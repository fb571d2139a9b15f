# SPDX-License-Identifier: Apache-2.0
"""Equal wall clock: what a step of each method takes on this machine.

The budget is the time of VSD's steps at the budget of passes; a method makes as many
steps as fit. Seconds are measured once and stored, so that a leaderboard that is gone
on with has the same steps.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from vsd_jax.experiments import cells, exact_cells
from vsd_jax.experiments.leaderboard import work, worlds
from vsd_jax.experiments.leaderboard.worlds import Start
from vsd_jax.experiments.plan import Cell, Row
from vsd_jax.program.build import build
from vsd_jax.program.folder import workdir, writer
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError
from vsd_jax.types import VSDState

Path = pathlib.Path
FILE = "step_seconds.json"
YARDSTICK = "VSD"
"""Whose steps the budget is the time of."""
_BLOCKS, _BLOCK_SECONDS, _MOST = 20, 0.05, 200


def budget(
    name: str, form: str, rows: Sequence[Row], out: Path
) -> tuple[float, dict[str, float], dict[str, int]]:
    """What a world's budget of time is, and what follows.

    Args:
      name: of the world.
      form: whose steps of VSD it is the time of.
      rows: of the entries.
      out: the leaderboard's folder, with the stored seconds.

    Returns:
      (seconds of a run, seconds of a step of each row, steps of each row).

    Raises:
      ConfigError: if VSD is not among the rows.
    """
    starts = {row.name: worlds.starts_of(name, form, row)[0] for row in rows}
    if YARDSTICK not in starts:
        raise ConfigError(
            f"--equal=time: world {name} has no entry {YARDSTICK}, whose steps are the"
            " budget."
        )
    seconds = step_seconds(starts, out / FILE)
    total = starts[YARDSTICK].cell.settings["num_steps"] * seconds[YARDSTICK]
    # A little more than one, so that rounding takes none of VSD's own steps.
    steps = {
        row: max(1, int(total / each * (1 + 1e-9))) for row, each in seconds.items()
    }
    return total, seconds, steps


def step_seconds(starts: Mapping[str, Start], path: Path) -> dict[str, float]:
    """Seconds of a step of each of these cells; what is stored is not measured again.

    Unless it is of other settings, or of another machine.

    Args:
      starts: a cell of each row, by the row's name.
      path: of the file.
    """
    environment = workdir.describe_environment()
    here = work.machine(environment)
    found: dict[str, Any] = writer.read_json(path) if path.exists() else {"worlds": {}}
    seconds = {}
    for row, start in starts.items():
        known = found["worlds"].setdefault(start.world, {})
        origin = {"cell": _mark(start.cell), "machine": here}
        own = known.get(row)
        if not isinstance(own, dict) or any(own[key] != origin[key] for key in origin):
            own = {"seconds": measure(*first_move(start.cell)), **origin}
            known[row] = own | {"commit": environment["git_commit"]}
            progress.say(f"{start.world}, {row}: {1e3 * own['seconds']:.3g} ms a step")
            writer.write_json(path, found)
        seconds[row] = own["seconds"]
    return seconds


def _mark(cell: Cell) -> str:
    """Of a cell, however many steps it makes."""
    settings = {k: v for k, v in cell.settings.items() if k != "num_steps"}
    return cells.fingerprint(dataclasses.replace(cell, settings=settings))


def first_move(cell: Cell) -> tuple[VSDState, Callable[[VSDState], VSDState]]:
    """The state of a cell before its first step, and what a step does with it."""
    if cell.row.kind.startswith("exact"):
        world = exact_cells.make_world(cell.settings["exact.world"])
        return exact_cells.start(cell, cells.exact_config(cell), world)
    run = build.build(config_lib.validate(cells.make_config(cell)))
    move = lambda state: run.step(state, run.prior_params, run.prompts)[0]  # noqa: E731
    return run.init(), move


def measure(state: VSDState, move: Callable[[VSDState], VSDState]) -> float:
    """Seconds of a step after compilation: the fastest of some blocks of steps.

    The fastest, because what else the machine does only adds to it.
    """
    state = jax.block_until_ready(move(state))
    begin = time.perf_counter()
    state = jax.block_until_ready(move(state))
    once = max(time.perf_counter() - begin, 1e-6)
    number = min(max(1, round(_BLOCK_SECONDS / once)), _MOST)
    found = []
    for _ in range(_BLOCKS):
        begin = time.perf_counter()
        for _ in range(number):
            state = move(state)
        jax.block_until_ready(state)
        found.append((time.perf_counter() - begin) / number)
    return min(found)
