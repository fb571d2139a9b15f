# SPDX-License-Identifier: Apache-2.0
"""Diversity over seeds, where a run has one particle: are other seeds other objects?"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vsd_jax.experiments import cells, scores
from vsd_jax.experiments.leaderboard.worlds import Start
from vsd_jax.toybox import metrics

Path = pathlib.Path


def between_seeds(
    pairs: Iterable[tuple[Start, Mapping[str, Any]]], out: Path
) -> list[dict[str, Any]]:
    """Diversity of runs of the same method and prompt, two seeds or more.

    As that of the particles of a run: the mean distance of the judge's features, view
    by view, of each two runs (`metrics.diversity`).

    Args:
      pairs: finished cells and their results; those of several particles, those that
        failed and those without pictures in `out` are left out.
      out: the leaderboard's folder.

    Returns:
      One for each world, method and prompt: the number of `seeds`, the `diversity`, and
      that of `truth`, between other true objects from the same cameras.
    """
    groups: dict[tuple[str, str, str], list[Start]] = {}
    for start, result in pairs:
        here = (_folder(start, out) / "evaluation.png").exists()
        if is_single(start) and here and not result["failed"]:
            key = (start.world, start.cell.row.name, start.cell.prompt)
            groups.setdefault(key, []).append(start)
    true: dict[tuple[str, str], float] = {}
    found = []
    for (world, method, prompt), starts in groups.items():
        if len(starts) < 2:
            continue
        if (world, prompt) not in true:
            many = scores.score_truth(starts[0].cell, _folder(starts[0], out))[1]
            true[world, prompt] = metrics.diversity(many)
        found.append(
            {
                "world": world,
                "method": method,
                "prompt": prompt,
                "seeds": len(starts),
                "runs": [cells.fingerprint(start.cell) for start in starts],
                "diversity": metrics.diversity(_features(starts, out)),
                "truth": true[world, prompt],
            }
        )
    return found


def is_single(start: Start) -> bool:
    """Whether a run of the program in 3D, of one particle."""
    cell = start.cell
    return cell.row.kind == "run" and cell.settings.get("num_particles", 1) == 1


def _features(starts: Sequence[Start], out: Path) -> np.ndarray:
    """[seeds, views, D]"""
    return np.concatenate(
        [scores.judge_cell(start.cell, _folder(start, out))[1] for start in starts]
    )


def _folder(start: Start, out: Path) -> Path:
    return out / start.world / start.cell.products
