# SPDX-License-Identifier: Apache-2.0
"""The critical-difference diagram of a ranking (Demšar, JMLR 7, 2006)."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure  # not pyplot, whose state a notebook shares

from vsd_jax.experiments import present

Path = pathlib.Path
_STEP, _BAR = 0.5, 0.28  # between lines of names, and between bars of groups


def save(path: Path, ranked: Mapping[str, Any], title: str) -> None:
    """Draws mean ranks on a line, and a bar over methods that are not told apart.

    Args:
      path: of the PNG.
      ranked: of one score, from `ranking.rank_score`.
      title: above it.
    """
    rows = ranked["methods"]
    number, bars = len(rows), len(ranked["groups"])
    half = math.ceil(number / 2)
    low = 0.4 + _BAR * bars + _STEP * half
    figure = Figure(figsize=(9.5, 0.5 * low + 1.3))
    axis = figure.subplots()
    axis.set(xlim=(1 - 0.35 * number, number * 1.35), ylim=(-low - 0.3, 1.6))
    axis.set_axis_off()
    axis.plot([1, number], [0, 0], color="0.2", lw=1)
    for rank in range(1, number + 1):
        axis.plot([rank, rank], [0, 0.12], color="0.2", lw=1)
        axis.text(rank, 0.2, str(rank), ha="center", va="bottom", fontsize=8)
    for index, row in enumerate(rows):
        _name(axis, index, row, number=number, top=0.4 + _BAR * bars)
    places = {row["method"]: row["rank"] for row in rows}
    for level, group in enumerate(ranked["groups"]):
        ends = [places[name] for name in group]
        height = -0.25 - _BAR * level
        axis.plot(
            [min(ends) - 0.08, max(ends) + 0.08],
            [height, height],
            color="tab:red",
            lw=3,
            solid_capstyle="butt",
        )
    _difference(axis, ranked["critical_difference"])
    axis.set_title(title, fontsize=10)
    present.finish(figure, path)


def _name(axis, index: int, row: Mapping, *, number: int, top: float) -> None:
    """One method's line from its rank to its name: the better half on the left."""
    half = math.ceil(number / 2)
    is_left = index < half
    height = -top - _STEP * (index if is_left else number - 1 - index)
    edge = 0.6 if is_left else number + 0.4
    axis.plot([row["rank"], row["rank"], edge], [0, height, height], c="0.5", lw=0.8)
    axis.text(
        edge + (-0.1 if is_left else 0.1),
        height,
        f"{row['method']}  ({row['rank']:.1f})",
        ha="right" if is_left else "left",
        va="center",
        fontsize=8,
    )


def _difference(axis, difference: float) -> None:
    if math.isfinite(difference):
        axis.plot([1, 1 + difference], [1.0, 1.0], color="tab:red", lw=2)
        text = f"critical difference {difference:.1f}"
        axis.text(1 + difference / 2, 1.08, text, ha="center", va="bottom", fontsize=8)
