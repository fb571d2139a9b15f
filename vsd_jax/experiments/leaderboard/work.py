# SPDX-License-Identifier: Apache-2.0
"""One cell of the leaderboard: run, scored, and kept in its folder as `score.json`."""

import math
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from vsd_jax.experiments import cells, scores
from vsd_jax.experiments.leaderboard.worlds import WORLDS, Start
from vsd_jax.experiments.plan import Cell
from vsd_jax.program.folder import workdir, writer
from vsd_jax.program.terminal.errors import DivergedError
from vsd_jax.toybox import metrics

Path = pathlib.Path


def result_of(
    start: Start, out: Path, known: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any] | None:
    """What is stored of a cell; None if it is not finished.

    Args:
      start: the cell.
      out: the leaderboard's folder, with the cell's own in it.
      known: results by their `run`, for cells without a folder (`records.known_runs`).

    Returns:
      None too if it was scored in another way than now: `run` then scores it anew.

    Raises:
      RunError: if it is finished with other settings or another prior.
    """
    mark = cells.fingerprint(start.cell)
    path = _folder(start, out) / "score.json"
    if not path.exists():
        return dict(known[mark]) if known and mark in known else None
    found = writer.read_json(path)
    cells.refuse_another(found, cells.describe(start.cell), path.parent)
    old = found.get("scoring") != cells.scoring(start.cell) and not found["failed"]
    return None if old else found | {"run": mark}


def run(start: Start, out: Path) -> None:
    """Runs and scores a cell; a run that diverges is a result too: it failed.

    Raises:
      RunError: whatever else stops a run; what is finished stays.
    """
    watch, environment = cells.Stopwatch(), workdir.describe_environment()
    failed, found, true, commit = "", {}, {}, environment["git_commit"]
    try:
        cells.run_cell(start.cell, out / start.world)
        done = writer.read_json(_folder(start, out) / "cell.json")
        spent = {name: done[name] for name in ("seconds", "cpu_seconds")}
        commit = done["environment"]["git_commit"]
        found, true = score(start.cell, out / start.world / start.cell.products)
        if not all(math.isfinite(found[name]) for name in ("kind_precision",)):
            failed = "Its numbers are not finite."
    except DivergedError as error:
        failed = str(error)
        # `run_cell` has noted all seconds, these too, once there was a folder.
        spent = cells.spent_before(_folder(start, out)) or watch.spent()
    record = cells.describe(start.cell) | {
        "world": start.world,
        "method": start.cell.row.name,
        "steps": start.cell.settings["num_steps"],
        "passes": start.passes,
        **spent,
        "commit": commit,
        "scoring": cells.scoring(start.cell),
        "machine": machine(environment),
        "failed": failed,
        "scores": {} if failed else _wanted(start.world, found),
        "truth": _wanted(start.world, true),
    }
    writer.write_json(_folder(start, out) / "score.json", record)


def score(cell: Cell, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The numbers of a finished cell, and those of truth in its place.

    Truth's numbers are of many true samples; its shapes, its shares of modes, and its
    distances to these are those of another true set, as large as the cell.
    """
    many = scores.score_truth(cell, folder)
    numbers, features, _ = scores.score_truth(cell, folder, cell.seed)
    alike = ("chamfer", "mmd", "mode_error")  # what depends on how many there are
    alike = {name: numbers[name] for name in alike if name in numbers}
    true = many[0] | alike | _distances(features, many[1])
    if not _is_finite(cell, folder):
        return {"kind_precision": math.nan}, true
    numbers, features, _ = scores.score_cell(cell, folder)
    return numbers | _distances(features, many[1]), true


def machine(environment: Mapping[str, Any]) -> str:
    """Processor, its cores, and JAX's devices, in words."""
    name = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    devices = ", ".join(sorted(set(environment["devices"])))
    return f"{name}, {environment['cpu_count']} cores, {devices}"


def _folder(start: Start, out: Path) -> Path:
    return out / start.world / start.cell.folder


def _is_finite(cell: Cell, folder: Path) -> bool:
    if not cell.row.kind.startswith("exact"):
        return True  # pictures are, and an alarm has stopped the run otherwise
    samples = np.load(folder / "samples.npy", allow_pickle=False)
    return bool(np.isfinite(samples).all())


def _distances(made: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Fréchet and kernel distance of features [n, views, D]."""
    flat = [each.reshape(-1, each.shape[-1]) for each in (made, true)]
    return {
        "frechet_truth": metrics.frechet_distance(*flat),
        "kernel_truth": metrics.kernel_distance(*flat),
    }


def _wanted(world: str, found: Mapping[str, float]) -> dict[str, float]:
    return {name: float(found[name]) for name in WORLDS[world].scores if name in found}
