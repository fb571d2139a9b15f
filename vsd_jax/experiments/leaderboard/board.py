# SPDX-License-Identifier: Apache-2.0
"""Runs the leaderboard's cells that are not finished, and writes what is."""

import collections
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vsd_jax.experiments.leaderboard import page, processes, records, work, worlds
from vsd_jax.experiments.leaderboard.worlds import Start
from vsd_jax.program.terminal import progress

Path = pathlib.Path


def run(form: str, names: Sequence[str], out: Path, *, jobs: int, command: str) -> str:
    """Runs the worlds of these names, and writes all files after each of them.

    Args:
      form: "full", "quick" or "smoke".
      names: of the worlds.
      out: the leaderboard's folder; the same one goes on.
      jobs: processes at once.
      command: for the record.

    Returns:
      The content of `leaderboard.md`.

    Raises:
      RunError: what a run raises; finished cells stay, and the same command goes on.
    """
    todo = [start for name in names for start in worlds.starts(name, form)]
    text = ""
    for done in run_worlds(todo, out, jobs):
        starts, results = zip(*done, strict=True)
        found = records.collect(
            results,
            form=form,
            names=list(dict.fromkeys(start.world for start in starts)),
            command=command,
        )
        text = page.save(out, found, page.pictures(starts, out))
    return text


def run_worlds(
    todo: Sequence[Start], out: Path, jobs: int
) -> Iterator[list[tuple[Start, dict[str, Any]]]]:
    """Runs what is not finished, world after world, and says the time left.

    Yields:
      After each world the cells of it and of those before it, with their results.
    """
    results = {key(start): work.result_of(start, out) for start in todo}
    missing = [start for start in todo if results[key(start)] is None]
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for result in filter(None, results.values()):
        seconds[result["world"]].append(result["seconds"])
    say_left(len(todo), missing, seconds, jobs)
    names = list(dict.fromkeys(start.world for start in todo))
    for number, name in enumerate(names, 1):
        own = [start for start in missing if start.world == name]
        for task in processes.run(processes.tasks(own), out, jobs):
            for start in task:
                results[key(start)] = result = work.result_of(start, out)
                seconds[name].append(result["seconds"])
                missing.remove(start)
            say_left(len(todo), missing, seconds, jobs)
        done = [start for start in todo if start.world in names[:number]]
        yield [(start, results[key(start)]) for start in done]


def key(start: Start) -> tuple[str, str]:
    """What tells a cell from another."""
    return start.world, start.cell.folder


def say_left(
    total: int, missing: Sequence[Start], seconds: Mapping[str, list[float]], jobs: int
) -> None:
    """Prints how many cells are finished and how long the others may take."""
    text = f"{total - len(missing)} of {total} cells are finished"
    left = seconds_left(missing, seconds, jobs)
    if left is not None:
        text += f", about {progress.duration(left)} left"
    progress.say(f"[{text}]")


def seconds_left(
    missing: Sequence[Start], seconds: Mapping[str, list[float]], jobs: int
) -> float | None:
    """Of the cells that are missing, by the mean of those of their world.

    Returns:
      None if nothing is missing, or a world has no finished cell to tell from.
    """
    number = collections.Counter(start.world for start in missing)
    if not number or any(not seconds.get(world) for world in number):
        return None
    means = {world: sum(seconds[world]) / len(seconds[world]) for world in number}
    return sum(means[world] * count for world, count in number.items()) / jobs
