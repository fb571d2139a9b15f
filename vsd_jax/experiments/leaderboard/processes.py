# SPDX-License-Identifier: Apache-2.0
"""Cells in several processes at once, each with its share of the cores."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from vsd_jax.experiments.leaderboard import work
from vsd_jax.experiments.leaderboard.worlds import WORLDS, Start
from vsd_jax.program.terminal import process

Path = pathlib.Path


def tasks(todo: Iterable[Start]) -> list[list[Start]]:
    """Cells that one process runs after another.

    Those of one row and prompt on a prior in closed form share a compiled program;
    others, which take longer to run than to compile, are alone.
    """
    groups: dict[tuple, list[Start]] = {}
    for start in todo:
        cell = start.cell
        seed = 0 if WORLDS[start.world].is_exact else cell.seed
        key = (start.world, cell.row.name, cell.prompt, seed)
        groups.setdefault(key, []).append(start)
    return list(groups.values())


def run(todo: Sequence[list[Start]], out: Path, jobs: int) -> Iterator[list[Start]]:
    """Runs the tasks, `jobs` at a time, and yields each that is finished.

    Raises:
      RunError: of the first task that has one; those that run are finished first, the
        others are not begun.
    """
    if jobs == 1:
        for task in todo:
            _run_task(task, out)
            yield task
        return
    context = multiprocessing.get_context("spawn")
    shares = _shares(jobs)
    queue = context.SimpleQueue()
    for share in shares:
        queue.put(share)
    with concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_prepare, initargs=(queue,)
    ) as pool:
        waiting = {pool.submit(_run_quietly, task, out): task for task in todo}
        try:
            for done in concurrent.futures.as_completed(waiting):
                done.result()
                yield waiting[done]
        finally:
            pool.shutdown(cancel_futures=True)


def _shares(jobs: int) -> list[tuple[int, ...]]:
    """Cores for each of `jobs` processes; with more jobs than cores they share."""
    if not hasattr(os, "sched_getaffinity"):
        return [()] * jobs
    cores = sorted(os.sched_getaffinity(0))
    if jobs >= len(cores):
        return [(core,) for core in itertools.islice(itertools.cycle(cores), jobs)]
    return [tuple(cores[number::jobs]) for number in range(jobs)]


def _prepare(queue) -> None:
    """Of a new process, before JAX starts its threads."""
    share = queue.get()
    if share:
        os.sched_setaffinity(0, share)
    process.prepare()


def _run_task(task: Sequence[Start], out: Path) -> None:
    for start in task:
        work.run(start, out)


def _run_quietly(task: Sequence[Start], out: Path) -> None:
    """What several processes print at once goes into a file of each task."""
    first = task[0]
    path = out / first.world / first.cell.folder / "log.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        _run_task(task, out)
