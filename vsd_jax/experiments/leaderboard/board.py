# SPDX-License-Identifier: Apache-2.0
"""Runs the leaderboard's cells that are not finished, and writes what is."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vsd_jax.experiments import truth
from vsd_jax.experiments.leaderboard import (
    clock,
    page,
    processes,
    records,
    seeds,
    work,
    worlds,
)
from vsd_jax.experiments.leaderboard.worlds import WORLDS, Start
from vsd_jax.experiments.plan import Settings
from vsd_jax.program.terminal import progress

Path = pathlib.Path


EQUAL = ("passes", "time")
"""What all methods have the same of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """What methods compete with.

    Attributes:
      form: "full", "quick" or "smoke".
      equal: one of `EQUAL`.
      tuned: world -> entry -> settings that take the place of its authors' (from
        `tuning.read`); None = the authors'.
    """

    form: str
    equal: str = "passes"
    tuned: Mapping[str, Mapping[str, Settings]] | None = None

    def record(self) -> dict[str, Any]:
        """What the leaderboard says of them."""
        found = {"form": self.form, "equal": self.equal}
        if self.tuned is None:
            return found | {"settings_of": "authors"}
        return found | {"settings_of": "tuned", "tuned": self.tuned}


def run(
    terms: Terms,
    names: Sequence[str],
    out: Path,
    *,
    jobs: int,
    command: str,
    stored: Mapping[str, Any] | None = None,
) -> str:
    """Runs the worlds of these names; writes all files after each block of a world.

    Args:
      terms: how much, and with which settings.
      names: of the worlds.
      out: the leaderboard's folder; the same one goes on.
      jobs: processes at once.
      command: for the record.
      stored: a leaderboard with the authors' settings and equal passes, which one on
        other terms is compared with.

    Returns:
      The content of `leaderboard.md`.

    Raises:
      RunError: what a run raises; finished cells stay, and the same command goes on.
    """
    todo, times = [], {}
    before = records.read_if_there(out / records.FILE)
    for name in names:
        starts, timed = starts_on(terms, name, out)
        todo += starts
        times |= {name: timed} if timed else {}
    text = ""
    # At equal time a run belongs to the machine whose time it is.
    known = {} if terms.equal == "time" else records.known_runs(before)
    for done in run_worlds(todo, out, jobs, known):
        starts, results = zip(*done, strict=True)
        begun = {start.world for start in starts}
        unfinished = collections.Counter(
            world for world, *_ in _blocks(todo) - _blocks(starts) if world in begun
        )
        found = records.collect(
            results,
            names=list(dict.fromkeys(start.world for start in starts)),
            command=command,
            terms=terms.record(),
            times=times,
            unfinished=unfinished,
            between_seeds=() if unfinished else seeds.between_seeds(done, out),
            stored=stored,
            before=before,
        )
        text = page.save(out, found, page.pictures(starts, out))
    return text


def starts_on(
    terms: Terms, name: str, out: Path
) -> tuple[Sequence[Start], dict[str, Any]]:
    """The cells of a world on these terms.

    Returns:
      (cells, at equal time the budget and each row's seconds of a step).
    """
    if terms == Terms(form=terms.form):
        return worlds.starts(name, terms.form), {}
    rows = worlds.rows(WORLDS[name])
    if terms.tuned is not None:
        rows = [
            dataclasses.replace(r, settings={**r.settings, **terms.tuned[name][r.name]})
            for r in rows
        ]
    if terms.equal == "passes":
        return worlds.all_starts(name, terms.form, rows), {}
    total, each, steps = clock.budget(name, terms.form, rows, out)
    timed = {"seconds": total, "step_seconds": each}
    return worlds.all_starts(name, terms.form, rows, steps), timed


def run_worlds(
    todo: Sequence[Start],
    out: Path,
    jobs: int,
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[list[tuple[Start, dict[str, Any]]]]:
    """Runs what is not finished, world after world, and says the time left.

    Args:
      todo: the cells.
      out: the leaderboard's folder.
      jobs: processes at once.
      known: as in `work.result_of`.

    Yields:
      After each block of a world (`block`), and at the end of the world, the cells of
      all finished blocks of it and of the worlds before it, with their results.
    """
    truth.require_renderer(start.cell for start in todo)
    results = {key(start): work.result_of(start, out, known) for start in todo}
    missing = [start for start in todo if results[key(start)] is None]
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for result in filter(None, results.values()):
        seconds[result["world"]].append(result["seconds"])
    say_left(len(todo), missing, seconds, jobs)
    names = list(dict.fromkeys(start.world for start in todo))
    for number, name in enumerate(names, 1):
        of = [start for start in todo if start.world in names[:number]]
        own = [start for start in missing if start.world == name]
        for task in processes.run(processes.tasks(own), out, jobs):
            before = _blocks(missing)
            for start in task:
                results[key(start)] = result = work.result_of(start, out)
                seconds[name].append(result["seconds"])
                missing.remove(start)
            say_left(len(todo), missing, seconds, jobs)
            left = _blocks(missing)
            if left != before and any(start.world == name for start in missing):
                done = [start for start in of if block(start) not in left]
                yield [(start, results[key(start)]) for start in done]
        yield [(start, results[key(start)]) for start in of]


def block(start: Start) -> tuple[str, str, int]:
    """What all methods of a world are ranked in: a prompt and a seed."""
    return start.world, start.cell.prompt, start.cell.seed


def _blocks(starts: Sequence[Start]) -> set[tuple[str, str, int]]:
    return {block(start) for start in starts}


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
