# SPDX-License-Identifier: Apache-2.0
"""The leaderboard's tables: headings, and rows of what is shown and sorted by."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vsd_jax.experiments import present, scores
from vsd_jax.experiments.leaderboard import tuned
from vsd_jax.experiments.leaderboard.records import Board
from vsd_jax.experiments.leaderboard.worlds import CONTROL

RHO = (("rho", ".2f"), ("p", ".2g"))
"""How a correlation is written."""
Cell = tuple[str, Any]
"""What is shown and what is sorted by."""
Table = tuple[list[str], list[list[Cell]]]


def world_table(board: Board, world: str) -> Table:
    """Headings and rows of a world, best first by its main score.

    The last ones are the control, if it was run, and truth.
    """
    ranking = board["ranking"]["worlds"][world]
    main = board["worlds"][world]["main"]
    columns = [name for name in board["worlds"][world]["scores"] if name in ranking]
    heads = [
        "method",
        "mean rank",
        "over blocks",
        *(present.HEADS[n][0] for n in columns),
    ]
    heads += ["failed", "steps", "processor seconds", *_more_heads(board)]
    by_method = {
        name: {row["method"]: row for row in ranking[name]["methods"]}
        for name in columns
    }
    rows = []
    for best in ranking[main]["methods"] if main in ranking else ():
        name = best["method"]
        values = [by_method[column][name] for column in columns]
        rows.append(
            [
                (name, name),
                (f"{best['rank']:.1f}", best["rank"]),
                _interval(best["interval"]),
                *(
                    (present.number(value, column), value["mean"])
                    for value, column in zip(values, columns, strict=True)
                ),
                *_costs(board, world, name),
                *_more(board, world, name),
            ]
        )
    blanks = [("", None)] * len(_more_heads(board))
    last = {CONTROL: control_scores(board, world), scores.TRUTH: _truth(board, world)}
    for name, blocks in last.items():
        if blocks:
            rows.append([*_unranked(name, blocks, columns), *blanks])
    return heads, rows


def control_scores(board: Board, world: str) -> list[Mapping[str, float]]:
    """Those of the control, one for each block; empty if it was not run."""
    return [
        cell["scores"]
        for cell in board["cells"]
        if (cell["world"], cell["method"]) == (world, CONTROL)
    ]


def _truth(board: Board, world: str) -> list[Mapping[str, float]]:
    return [b["scores"] for b in board["truth"] if b["world"] == world]


def _more_heads(board: Board) -> list[str]:
    """Of columns that only leaderboards on other terms than the default have."""
    timed = ["ms a step"] if board.get("equal") == "time" else []
    return timed + (["guidance", "rate"] if "tuned" in board else [])


def _more(board: Board, world: str, method: str) -> list[Cell]:
    cells: list[Cell] = []
    if board.get("equal") == "time":
        found = board["worlds"][world]["step_seconds"].get(method)
        cells.append(plain(None if found is None else 1e3 * found, ".3g"))
    if "tuned" in board:
        own = board["tuned"][world].get(method)
        shown = tuned.say(own) if own else ("–", "–")
        cells += [(text, text) for text in shown]
    return cells


def comparisons(board: Board) -> dict[str, Table]:
    """Tables of agreement by their titles, without empty ones."""
    found = {
        "Are objects of other seeds different?": seeds_table(board),
        "Against the authors' settings at equal passes": compared_table(board),
        "Do the worlds agree?": between_table(board),
        "Do they agree with rankings on Stable Diffusion?": published_table(board),
    }
    return {title: (heads, rows) for title, (heads, rows) in found.items() if rows}


def between_table(board: Board) -> Table:
    """How far each two worlds agree, by each score that both have."""
    heads = ["worlds", "ranked by", "methods", "Spearman's rho", "p", "over blocks"]
    rows = []
    for found in board["ranking"]["between"]:
        worlds = " and ".join(found["worlds"])
        score = present.HEADS[found["score"]][0]
        rows.append(
            [
                (worlds, worlds),
                (score, score),
                (str(found["methods"]), found["methods"]),
                plain(found["rho"], ".2f"),
                plain(found["p"], ".2g"),
                _interval(found["interval"], ".2f"),
            ]
        )
    return heads, rows


def published_table(board: Board) -> Table:
    """How far each world agrees with what others found with Stable Diffusion."""
    heads = ["published table", "its column", "world", "ranked by", "methods of both"]
    rows = []
    for found in board["ranking"]["published"]:
        score = present.HEADS[found["score"]][0]
        texts = (found["table"], found["column"], found["world"], score)
        rows.append(
            [
                *((text, text) for text in texts),
                (", ".join(found["methods"]), len(found["methods"])),
                *(plain(found[key], form) for key, form in RHO),
            ]
        )
    return [*heads, "Spearman's rho", "p"], rows


def compared_table(board: Board) -> Table:
    """The mean rank of each method here and on the stored leaderboard."""
    heads = ["world", "method", "mean rank here", "there", "difference"]
    rows = [
        [
            (found["world"], found["world"]),
            (row["method"], row["method"]),
            *(plain(row[name], ".1f") for name in ("here", "there")),
            plain(row["here"] - row["there"], "+.1f"),
        ]
        for found in board.get("compared", ())
        for row in found["ranks"]
    ]
    return heads, rows


def seeds_table(board: Board) -> Table:
    """Diversity over seeds of each method, mean over prompts, truth's beside it."""
    heads = ["world", "method", "diversity over seeds", "truth's", "seeds", "prompts"]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in board.get("between_seeds", ()):
        groups.setdefault((each["world"], each["method"]), []).append(each)
    rows = []
    for (world, method), found in groups.items():
        numbers = sorted({each["seeds"] for each in found})
        low, high = numbers[0], numbers[-1]
        shown = str(low) if low == high else f"{low} to {high}"
        cells: list[Cell] = [(world, world), (method, method)]
        for name in ("diversity", "truth"):
            score = scores.spread([each[name] for each in found])
            cells.append((present.number(score, "diversity"), score["mean"]))
        rows.append([*cells, (shown, low), (str(len(found)), len(found))])
    return heads, rows


def _costs(board: Board, world: str, method: str) -> list[Cell]:
    own = [
        cell
        for cell in board["cells"]
        if (cell["world"], cell["method"]) == (world, method)
    ]
    failed = float(np.mean([bool(cell["failed"]) for cell in own]))
    seconds = float(np.mean([cell["cpu_seconds"] for cell in own]))
    steps = own[0]["steps"]
    return [
        (f"{100 * failed:.0f} %", failed),
        (str(steps), steps),
        (f"{seconds:.0f}", seconds),
    ]


def _unranked(
    name: str, blocks: Sequence[Mapping[str, float]], columns: Sequence[str]
) -> list[Cell]:
    cells: list[Cell] = []
    for column in columns:
        values = [b[column] for b in blocks if b.get(column) is not None]
        score = scores.spread(values)
        cells.append((present.number(score, column), score["mean"]))
    return [(name, name), ("", None), ("", None), *cells, *_BLANKS]


_BLANKS: tuple[Cell, ...] = (("", None),) * 3


def plain(value: float | None, form: str) -> Cell:
    """A number as it is written; a dash if there is none."""
    if value is None or not math.isfinite(value):
        return "–", None
    return f"{value:{form}}", value


def _interval(edges: Sequence[float] | None, form: str = ".1f") -> Cell:
    if edges is None or not all(
        edge is not None and math.isfinite(edge) for edge in edges
    ):
        return "–", None
    low, high = edges
    return f"{low:{form}} to {high:{form}}", low
