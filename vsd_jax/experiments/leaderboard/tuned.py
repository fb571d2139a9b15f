# SPDX-License-Identifier: Apache-2.0
"""Tuned settings as a file and as a table: `tuned.json` and `tuned.md`."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vsd_jax.experiments import cells, present
from vsd_jax.experiments.leaderboard import worlds
from vsd_jax.experiments.leaderboard.worlds import WORLDS
from vsd_jax.experiments.plan import Row
from vsd_jax.experiments.plan import Settings as Changes
from vsd_jax.program.folder import writer
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError

Path = pathlib.Path
VERSION = 1
GUIDANCE = "vsd.guidance_scale"


def read(path: Path, names: Sequence[str], form: str) -> dict[str, dict[str, Changes]]:
    """The chosen settings of a `tuned.json`, for a leaderboard of these worlds.

    Raises:
      ConfigError: if it cannot be read, or is of other worlds, entries, authors'
        settings, another prior, or of a smoke form.
    """
    try:
        found = writer.read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--settings={path} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ConfigError(
            f"--settings={path} is no tuned.json of version {VERSION}; --tune makes it."
        )
    if found["form"] == "smoke" != form:
        raise ConfigError(
            f"--settings={path} is of a smoke form and means nothing; run --tune."
        )
    for name in names:
        _check(path, found["worlds"], name)
    return {
        name: {
            entry: own["chosen"]
            for entry, own in found["worlds"][name]["entries"].items()
        }
        for name in names
    }


def _check(path: Path, known: Mapping[str, Any], name: str) -> None:
    """Raises ConfigError where a file's world is not the one that would be run."""
    if name not in known:
        raise ConfigError(
            f"--settings={path} is not tuned in world {name} but in"
            f" {', '.join(known)}: give --worlds, or --tune it there."
        )
    rows = {row.name: row for row in worlds.rows(WORLDS[name])}
    entries = known[name]["entries"]
    for here, there, what in (
        (rows, entries, "lacks"),
        (entries, rows, "has, and this version does not,"),
    ):
        missing = [entry for entry in here if entry not in there]
        if missing:
            raise ConfigError(
                f"--settings={path} {what} the entry {missing[0]!r} of world {name};"
                " run --tune anew."
            )
    if known[name]["prior"] != prior_of(name):
        raise ConfigError(
            f"--settings={path} was tuned in world {name} with the prior"
            f" {known[name]['prior'] or 'in closed form'}, but here is"
            f" {prior_of(name) or 'one in closed form'}; run --tune anew."
        )
    for entry, row in rows.items():
        if entries[entry]["authors"] != authors(name, row):
            raise ConfigError(
                f"--settings={path} was tuned around other settings of {entry!r} than"
                f" world {name} has now; run --tune anew."
            )


def authors(name: str, row: Row) -> dict[str, float]:
    """Guidance and rates of a row as they stand."""
    config = cells.make_config(worlds.starts_of(name, "quick", row)[0].cell)
    flat = config_lib.flatten(config)
    return {key: float(flat[key]) for key in (GUIDANCE, *WORLDS[name].rates)}


def prior_of(name: str) -> str:
    """Fingerprint of a world's prior; "" = in closed form."""
    return "" if WORLDS[name].is_exact else cells.prior_fingerprint()


def choose(tried: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The smallest mean distance; of equal ones the first, and so if all failed."""
    return min(tried, key=lambda t: math.inf if t["mean"] is None else t["mean"])


def markdown(found: Mapping[str, Any]) -> str:
    """A table for each world: what was chosen, and what it brought."""
    commit = found["commit"]
    shown = commit[:7] + "+" * commit.endswith("+changes") if commit else "unknown"
    origin = f"`{found['command']}`, commit {shown}, {found['machine']}."
    parts = ["# Tuned settings", found["rule"], origin]
    if found["form"] == "smoke":
        parts.append("A smoke run of a few steps: its numbers mean nothing.")
    for name, world in found["worlds"].items():
        parts += [f"## {name}", _about(name, world), _table(world)]
    return "\n\n".join(parts) + "\n"


def _about(name: str, world: Mapping[str, Any]) -> str:
    prompts = "; ".join(
        each["settings"].get("exact.world", f'"{each["prompt"]}"')
        for each in world["prompts"]
    )
    rows = [row for own in world["entries"].values() for row in own["tried"]]
    spent = progress.duration(sum(row["cpu_seconds"] for row in rows))
    moved = [
        entry
        for entry, own in world["entries"].items()
        if own["chosen"] != own["authors"]
    ]
    rates = ", ".join(f"`{key}`" for key in WORLDS[name].rates)
    return (
        f"Asked for, and not scored: {prompts}. Prior"
        f" {world['prior'] or 'in closed form'}. The rate is {rates}. {len(rows)}"
        f" settings with {len(world['prompts'])} prompts each, {spent} of processor"
        f" time; {len(moved)} of {len(world['entries'])} entries leave their authors'"
        " settings."
    )


def _table(world: Mapping[str, Any]) -> str:
    distance = present.HEADS[world["score"]][0]
    heads = ["entry", "authors' guidance", "rate", "chosen guidance", "rate"]
    heads += [f"{distance}, authors'", f"{distance}, chosen"]
    rows = []
    for entry, own in world["entries"].items():
        best = choose(own["tried"])
        shown = [number for each in ("authors", "chosen") for number in say(own[each])]
        rows.append([entry, *shown, *map(_distance, (own["tried"][0], best))])
    return present.table(heads, rows)


def say(settings: Changes) -> tuple[str, str]:
    """Guidance scale and rates as they are written."""
    rates = [f"{value:g}" for key, value in settings.items() if key != GUIDANCE]
    return f"{settings[GUIDANCE]:g}", ", ".join(rates)


def _distance(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "failed"
    each = ", ".join(f"{value:.3g}" for value in row["distances"])
    return f"{row['mean']:.3g} ({each})"
