# SPDX-License-Identifier: Apache-2.0
"""The results as data: what `leaderboard.json` and `leaderboard.csv` hold."""

import csv
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vsd_jax.experiments.leaderboard import ranking, worlds
from vsd_jax.program.folder import writer
from vsd_jax.program.terminal.errors import RunError

Path = pathlib.Path
Board = Mapping[str, Any]
VERSION = 1
FILE = "leaderboard.json"
SCHEMA = {
    "world": "where methods compete",
    "method": "its name; standing still = the control, which has no rank",
    "prompt": "the text; a block is a prompt and a seed",
    "seed": "of the run, from 0",
    "score": "name of the number",
    "value": "the number; empty if the run failed or has none",
    "best": "high, low, or truth: nearest to the value that truth has",
    "truth": "the same of many true samples (of distances and shapes: of another set)",
    "failed": "why the run failed; empty if it did not",
    "steps": "training steps of the run",
    "passes": "network passes for each particle and view",
    "equal": "what all methods have the same of: passes or time",
    "settings_of": "authors, tuned (by --tune), or own (a submitted method's)",
    "seconds": "wall clock of the run",
    "cpu_seconds": "processor time of the run",
    "prior": "fingerprint of the prior's weights; empty = in closed form",
    "commit": "of the code; +changes = edited since",
    "machine": "processor, cores, devices of JAX",
    "run": "fingerprint of its settings and prior: the same one is not run again",
}
"""Columns of `leaderboard.csv`, one line for each cell and score; a leaderboard of
before has its own."""
_OF_CELL = tuple(name for name in SCHEMA if name not in ("score", "value", "best"))
_OF_BOARD = {"equal": "passes", "settings_of": "authors"}
"""What holds for all cells but where one says otherwise, and was meant before."""
_OF_OLD = {"run": ""}


def collect(
    results: Sequence[Mapping[str, Any]],
    *,
    names: Sequence[str],
    command: str,
    terms: Mapping[str, Any],
    times: Mapping[str, Mapping[str, Any]] | None = None,
    unfinished: Mapping[str, int] | None = None,
    between_seeds: Sequence[Mapping[str, Any]] = (),
    stored: Board | None = None,
    before: Board | None = None,
) -> dict[str, Any]:
    """The leaderboard of these cells, with their ranking.

    Args:
      results: what `work.result_of` gives of each cell.
      names: of the worlds.
      command: for the record.
      terms: `form`, and what `board.Terms` says beside it.
      times: at equal time, world -> budget and steps in seconds.
      unfinished: world -> how many of its blocks are not there yet.
      between_seeds: from `seeds.between_seeds`.
      stored: what a leaderboard on other terms than the default ones is compared with,
        if it has the same form.
      before: what the folder's `leaderboard.json` held: nothing of it is lost. What is
        not among `results` waits under "kept", and is not ranked.
    """
    own = {name: terms.get(name, usual) for name, usual in _OF_BOARD.items()}
    kept = ("scores", *(name for name in _OF_CELL if name != "truth"))
    true = {
        (cell["world"], cell["prompt"], cell["seed"]): cell["truth"]
        for cell in results
        if cell["truth"]
    }
    form, timed = terms["form"], times or {}
    left = {name: {"unfinished": n} for name, n in (unfinished or {}).items() if n}
    found = {
        "version": VERSION,
        "command": command,
        **terms,
        **own,
        "schema": SCHEMA,
        "worlds": {
            name: describe_world(name, form) | timed.get(name, {}) | left.get(name, {})
            for name in names
        },
        "not_run": [name for name in worlds.WORLDS if name not in names],
        "truth": [
            {"world": world, "prompt": prompt, "seed": seed, "scores": scores}
            for (world, prompt, seed), scores in true.items()
        ],
        "cells": [
            {name: {**_OF_OLD, **own, **cell}[name] for name in kept}
            for cell in results
        ],
        "between_seeds": _of_most_seeds(between_seeds, before, names, results),
        "kept": _kept(results, before),
    }
    found["ranking"] = ranking.rank_board(found)
    if own != _OF_BOARD and stored is not None and stored["form"] == form:
        found["compared"] = ranking.compare(found, stored)
    return found


def describe_world(name: str, form: str) -> dict[str, Any]:
    """What is said of a world beside its cells."""
    world = worlds.WORLDS[name]
    sizes = world.forms["quick" if form == "smoke" else form]
    return {
        "about": world.about,
        "scores": dict(world.scores),
        "main": worlds.MAIN_SCORE,
        "particles": sizes.particles,
        "passes": sizes.passes,
        "vsd_moves": sizes.vsd_moves,
    }


def lines(board: Board) -> Iterator[dict[str, Any]]:
    """The lines of `leaderboard.csv`."""
    for cell in with_truth(board):
        for score, best in board["worlds"][cell["world"]]["scores"].items():
            line = {"score": score, "value": cell["scores"].get(score)}
            line |= {"best": best, "truth": cell["truth"].get(score)}
            yield {name: {**cell, **line}[name] for name in board["schema"]}


def with_truth(board: Board) -> list[dict[str, Any]]:
    """The cells, each with the scores of truth in its block: what `collect` takes."""
    true = {
        (block["world"], block["prompt"], block["seed"]): block["scores"]
        for block in board["truth"]
    }
    return [
        {**cell, "truth": true.get((cell["world"], cell["prompt"], cell["seed"]), {})}
        for cell in board["cells"]
    ]


def known_runs(board: Board | None) -> dict[str, dict[str, Any]]:
    """The runs of a leaderboard by their `run`, those that wait too.

    So a leaderboard goes on where nothing but `leaderboard.json` came along.
    """
    found = {}
    for cell in [*board.get("kept", ()), *with_truth(board)] if board else ():
        if cell.get("run"):
            own = {name: cell[name] for name in cell if name not in _OF_BOARD}
            found[cell["run"]] = own
    return found


def _kept(results: Sequence[Board], before: Board | None) -> list[dict[str, Any]]:
    """The cells of before, with their truth, that the results do not hold."""
    if before is None:
        return []
    marks = {cell.get("run") for cell in results} - {None, ""}
    places = {_place(cell) for cell in results}
    return [
        cell
        for cell in [*before.get("kept", ()), *with_truth(before)]
        if cell.get("run") not in marks
        and (cell.get("run") or _place(cell) not in places)
    ]


def _place(cell: Board) -> tuple:
    return tuple(cell[name] for name in ("world", "method", "prompt", "seed"))


def _of_most_seeds(
    found: Sequence[Board],
    before: Board | None,
    names: Sequence[str],
    results: Sequence[Board],
) -> list[dict[str, Any]]:
    """Diversities over seeds, found and of before, of each the one of most seeds.

    Of before only those of runs that stand among the results now.
    """
    best: dict[tuple, dict[str, Any]] = {}
    marks = {cell.get("run") for cell in results}
    earlier = (before or {}).get("between_seeds", ())
    earlier = [each for each in earlier if set(each.get("runs", ())) <= marks]
    for each in [*earlier, *found]:
        key = tuple(each[name] for name in ("world", "method", "prompt"))
        if each["world"] in names and each["seeds"] >= best.get(key, each)["seeds"]:
            best[key] = dict(each)
    return [*best.values()]


def csv_text(board: Board) -> str:
    """The content of `leaderboard.csv`."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(board["schema"]), lineterminator="\n")
    table.writeheader()
    table.writerows(lines(board))
    return text.getvalue()


def read_if_there(path: Path) -> dict[str, Any] | None:
    """As `read`; None if there is no such file.

    Raises:
      RunError: as `read`.
    """
    return read(path) if path.exists() else None


def read(path: Path) -> dict[str, Any]:
    """Reads a `leaderboard.json`.

    Raises:
      RunError: if it is not there, or not of this version.
    """
    try:
        found = writer.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as a leaderboard: {error}") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise RunError(
            f"{path} is no leaderboard of version {VERSION}; give another folder, and"
            " run --name=leaderboard there."
        )
    return found
