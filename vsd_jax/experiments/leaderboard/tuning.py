# SPDX-License-Identifier: Apache-2.0
"""Settings tuned by one rule, the same for all entries, on what is never scored.

For each entry and world: first the guidance scale (a half, one and two times the
authors') at the world's own learning rate of the particles, then that rate (the same
three) at the guidance that was best. While the best stands at the edge of what was
tried, its half or its double is tried too, from a 64th to 64 times the authors'.
Each has the two prompts of the world's `tuning`, one seed, and the passes of the form.
The smallest mean Fréchet distance to truth wins; a tie is the authors'.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vsd_jax.experiments.leaderboard import board, tuned, work, worlds
from vsd_jax.experiments.leaderboard.worlds import MAIN_SCORE, WORLDS, Start
from vsd_jax.experiments.plan import Row
from vsd_jax.experiments.plan import Settings as Changes
from vsd_jax.program.folder import workdir, writer
from vsd_jax.program.settings import sections
from vsd_jax.program.terminal import progress

Path = pathlib.Path
FACTORS = (1.0, 0.5, 2.0)
"""Of guidance and of rate; the authors' first, so that they win a tie."""
FURTHEST = 64.0
"""How many times the authors', or which part of it, is tried at most."""
RULE = (
    "For each entry and world the guidance scale is tuned first (a half, one and two"
    " times the authors') at the world's own learning rate of the particles, then that"
    " rate (the same three) at the best guidance. While the best stands at the edge of"
    " what was tried, its half or its double is tried too, from a 64th to 64 times the"
    " authors', as far as the program takes it. Each is run on two prompts that are not"
    " scored, with seed 0. The smallest mean Fréchet distance to truth wins; a tie is"
    " the authors'. What fails is out."
)


class Trial(NamedTuple):
    """An entry with its guidance and rate changed by factors.

    Attributes:
      entry: its name.
      guidance: factor of the scale.
      rate: factor of the particles' learning rates.
      settings: what follows from them.
      starts: its cells.
    """

    entry: str
    guidance: float
    rate: float
    settings: Changes
    starts: Sequence[Start]


def run(form: str, names: Sequence[str], out: Path, *, jobs: int, command: str) -> str:
    """Tunes all entries of these worlds; writes `tuned.json` and `tuned.md`.

    Args:
      form: whose budget is spent: "full", "quick" or "smoke".
      names: of the worlds.
      out: the folder; the same one goes on. Cells stand in its `tuning`.
      jobs: processes at once.
      command: for the record.

    Returns:
      The content of `tuned.md`.

    Raises:
      RunError: what a run raises; finished cells stay, and the same command goes on.
    """
    environment = workdir.describe_environment()
    found: dict[str, Any] = {
        "version": tuned.VERSION,
        "form": form,
        "command": command,
        "rule": RULE,
        "commit": environment["git_commit"],
        "machine": work.machine(environment),
        "worlds": {},
    }
    text = ""
    for name in names:
        found["worlds"][name] = _tune_world(name, form, out / "tuning", jobs)
        text = tuned.markdown(found)
        writer.write_json(out / "tuned.json", found)
        writer.write_bytes(out / "tuned.md", text.encode())
    return text


def _tune_world(name: str, form: str, out: Path, jobs: int) -> dict[str, Any]:
    tried: dict[str, list[dict[str, Any]]] = {}
    competing = worlds.rows(WORLDS[name])
    for axis in ("guidance", "rate"):
        while todo := [
            trial(name, form, row, *pair)
            for row in competing
            for pair in ahead(axis, tried.get(row.name, ()))
            if is_allowed(scaled(name, row, *pair))
        ]:
            progress.say(f"{name}: {axis}")
            for each, results in _run(todo, out, jobs):
                tried.setdefault(each.entry, []).append(_record(each, results))
    return {
        "prior": tuned.prior_of(name),
        "score": MAIN_SCORE,
        "prompts": [
            {"prompt": prompt, "settings": own} for prompt, own in WORLDS[name].tuning
        ],
        "entries": {
            entry: {
                "authors": rows[0]["settings"],
                "chosen": tuned.choose(rows)["settings"],
                "tried": rows,
            }
            for entry, rows in tried.items()
        },
    }


def ahead(axis: str, tried: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """What is to be tried next along an axis: factors of (guidance, rate).

    Args:
      axis: "guidance", at rate 1, or "rate", at the best guidance.
      tried: what was tried of an entry, with its `mean` distances.

    Returns:
      Of `FACTORS` those that are missing, else the one beyond the edge if the best
      stands there and `FURTHEST` allows it, else none.
    """
    best = tuned.choose(tried)["guidance"] if axis == "rate" else 1.0

    def pair(factor: float) -> tuple[float, float]:
        return (best, factor) if axis == "rate" else (factor, 1.0)

    along = [t for t in tried if (t["guidance"], t["rate"]) == pair(t[axis])]
    known = [t[axis] for t in along]
    if missing := [pair(factor) for factor in FACTORS if factor not in known]:
        return missing
    edge = tuned.choose(along)[axis]
    beyond = {min(known): edge / 2, max(known): edge * 2}.get(edge)
    inside = beyond is not None and 1 / FURTHEST <= beyond <= FURTHEST
    return [pair(beyond)] if inside else []


def trial(name: str, form: str, row: Row, guidance: float, rate: float) -> Trial:
    """The cells of an entry with its guidance and rate times these factors."""
    settings = scaled(name, row, guidance, rate)
    changed = dataclasses.replace(
        row,
        name=f"{row.name}, guidance x {guidance:g}, rate x {rate:g}",
        settings={**row.settings, **settings},
    )
    found = worlds.tuning_starts(name, form, changed)
    return Trial(row.name, guidance, rate, settings, found)


def scaled(name: str, row: Row, guidance: float, rate: float) -> dict[str, float]:
    """The authors' guidance and rates of a row, times these factors."""
    return {
        key: value * (guidance if key == tuned.GUIDANCE else rate)
        for key, value in tuned.authors(name, row).items()
    }


def is_allowed(settings: Mapping[str, float]) -> bool:
    """Whether the program takes these settings."""
    bounds = sections.ranges()
    return all(
        bounds[key][0] <= value <= bounds[key][1] for key, value in settings.items()
    )


def _run(
    todo: Sequence[Trial], out: Path, jobs: int
) -> list[tuple[Trial, list[dict[str, Any]]]]:
    """The trials with the results of their cells."""
    starts = [start for each in todo for start in each.starts]
    done = [pair for pairs in board.run_worlds(starts, out, jobs) for pair in pairs]
    results = {board.key(start): result for start, result in done}
    return [(each, [results[board.key(s)] for s in each.starts]) for each in todo]


def _record(each: Trial, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    distances = [result["scores"].get(MAIN_SCORE) for result in results]
    whole = None not in distances
    return {
        "guidance": each.guidance,
        "rate": each.rate,
        "settings": dict(each.settings),
        "distances": distances,
        "mean": float(np.mean(distances)) if whole else None,
        "failed": [result["failed"] for result in results if result["failed"]],
        "steps": results[0]["steps"],
        "passes": results[0]["passes"],
        "cpu_seconds": sum(result["cpu_seconds"] for result in results),
        "commits": sorted({result["commit"] for result in results}),
    }
