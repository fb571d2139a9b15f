# SPDX-License-Identifier: Apache-2.0
"""Runs the cells of a table one after the other, and presents what is finished."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vsd_jax.experiments import cells, plan, present, scores, together, truth
from vsd_jax.experiments.plan import Budget, Cell, Experiment
from vsd_jax.program.folder import writer
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import DivergedError

Path = pathlib.Path


def run(
    experiment: Experiment,
    budget: Budget,
    out: Path,
    *,
    command: str,
    at_once: bool = False,
) -> str:
    """Runs what is not finished, and writes the table after each seed.

    Args:
      experiment: the table.
      budget: how much of it.
      out: its folder.
      command: for the record.
      at_once: train all runs of a row at once (`together.py`).

    Returns:
      The table.

    Raises:
      RunError: what a run raises, but for one that diverges, which the table tells as
        stopped; finished cells stay, and the same command goes on.
    """
    todo = plan.cells(experiment, budget)
    truth.require_renderer(todo)
    missing = [cell for cell in todo if not (out / cell.folder / "cell.json").exists()]
    progress.say(f"{len(todo)} cells, {len(todo) - len(missing)} of them finished.")
    if at_once:
        together.train_cells(missing, out, command=command)
    for seed in range(plan.num_seeds(experiment, budget)):
        _run_seed([cell for cell in todo if cell.seed == seed], out, missing)
        done = [cell for cell in todo if cell.seed <= seed]
        table = _present(experiment, done, out, command=command, total=len(todo))
    return table


def _run_seed(todo: Sequence[Cell], out: Path, missing: list[Cell]) -> None:
    """Runs the cells of one seed; says before each how long the rest may take."""
    spent: list[float] = []
    for cell in todo:
        begin = time.monotonic()
        if cell in missing:
            left = len(missing)
            about = f", about {_left(spent, left)} left" if spent else ""
            progress.say(
                f"\n[{left} to do{about}] {cell.row.name}: {cell.prompt}, seed"
                f" {cell.seed}"
            )
        try:
            cells.run_cell(cell, out)
        except DivergedError as error:  # a result too: the others go on
            progress.say(f"{cell.folder} is told as stopped. {error}")
            cells.note_stopped(cell, out, str(error))
        if cell in missing:
            missing.remove(cell)
            spent.append(time.monotonic() - begin)


def _left(spent: Sequence[float], number: int) -> str:
    return progress.duration(float(np.mean(spent)) * number)


def _present(
    experiment: Experiment, done: Sequence[Cell], out: Path, *, command: str, total: int
) -> str:
    """Scores what is finished, writes the files and returns the table."""
    stored = [writer.read_json(out / cell.folder / "cell.json") for cell in done]
    scored = {
        cell.folder: scores.score_cell(cell, out / cell.products)
        for cell, result in zip(done, stored, strict=True)
        if "stopped" not in result
    }
    rows = list(dict.fromkeys(cell.row.name for cell in done))
    prompts = list(dict.fromkeys(cell.prompt for cell in done))
    seeds = sorted({cell.seed for cell in done})

    def of(row: str, seed: int) -> list[Cell]:
        return [cell for cell in done if (cell.row.name, cell.seed) == (row, seed)]

    # A run of the program tells the cameras that truth is seen from; the one with most
    # particles, since with them truth's own shapes come nearer to all others.
    runs = [r for r in rows if of(r, 0)[0].row.kind in ("run", "exact")] or rows[:1]
    judged = max(runs, key=lambda r: of(r, 0)[0].settings.get("num_particles", 1))
    true = [scores.score_truth(c, out / c.products) for c in of(judged, 0)]
    by_row = {
        row: {
            seed: [scored[c.folder] for c in of(row, seed) if c.folder in scored]
            for seed in seeds
        }
        for row in rows
    }
    by_row[scores.TRUTH] = {
        seed: [scores.score_truth(c, out / c.products, seed) for c in of(judged, seed)]
        for seed in seeds
    }
    found = {}
    for row, by_seed in by_row.items():
        reference = None if row == experiment.reference else experiment.reference
        others = by_row.get(reference) if reference else None
        found[row] = scores.row_scores(by_seed, true, others)
        own = [result for result in stored if result["row"] == row]
        spent = _seconds([result for result in own if "stopped" not in result])
        if spent:
            found[row]["seconds"] = scores.spread(spent)
    shown = {
        row: _pictures(by_seed)
        for row, by_seed in by_row.items()
        if any(by_seed.values())
    }
    record = _record(experiment, stored, command=command) | {
        "rows": found,
        "unfinished": total - len(done),
        "spread_over": "seeds" if len(seeds) > 1 else "prompts",
        "budget": {"cells": len(done), "seeds": len(seeds), "prompts": prompts},
    }
    return present.save(out, record, shown, experiment.columns)


def _seconds(stored: Sequence[dict[str, Any]]) -> list[float]:
    """Of each seed the mean over prompts; of one seed those of its prompts."""
    by_seed: dict[int, list[float]] = {}
    for result in stored:
        by_seed.setdefault(result["seed"], []).append(result["cpu_seconds"])
    if len(by_seed) == 1:
        return next(iter(by_seed.values()))
    return [float(np.mean(spent)) for spent in by_seed.values()]


def _pictures(by_seed: dict[int, list[scores.Scored]]) -> np.ndarray:
    """The first seed's: all particles of one prompt, or a few views of each prompt."""
    images = [images for _, _, images in next(filter(None, by_seed.values()))]
    if images[0].shape[1] == 1:
        return images[0][:, 0]
    number = max(1, present.SHOWN // len(images))
    views = images[0].shape[1]
    return np.concatenate([block[0][:: max(1, views // number)] for block in images])


def _record(
    experiment: Experiment, stored: Sequence[dict], *, command: str
) -> dict[str, Any]:
    """What the table says of itself, from the `cell.json` of its cells."""
    priors = {cell["prior"] for cell in stored if cell["prior"]}
    commits = {cell["environment"]["git_commit"] for cell in stored}

    def minutes(name: str) -> int:
        return round(sum(cell[name] for cell in stored) / 60.0)

    return {
        "about": experiment.about,
        "command": command,
        "environment": stored[-1]["environment"],
        "commits": sorted(commits),
        "prior": ", ".join(sorted(priors)) or "in closed form",
        "cpu_minutes": minutes("cpu_seconds"),
        "wall_minutes": minutes("seconds"),
        "reference": experiment.reference,
        "cells": [
            {key: cell[key] for key in ("row", "prompt", "seed", "seconds")}
            for cell in stored
        ],
        "stopped": [
            {key: cell[key] for key in ("row", "prompt", "seed", "stopped")}
            for cell in stored
            if "stopped" in cell
        ],
    }
