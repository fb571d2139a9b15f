# SPDX-License-Identifier: Apache-2.0
"""Ranks of methods over blocks, and what may be concluded from them (NumPy, SciPy).

The methods are ranked by their error for each prompt and seed, 1 being the best and
ties sharing their mean; what failed shares the last places. Methods are then compared
by their mean ranks over blocks (Friedman's test, Nemenyi's critical difference; Demšar,
JMLR 7, 2006). A block is a prompt, whose ranks are means over its seeds, since those
are not independent; where there is but one prompt, it is a seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from vsd_jax.experiments.leaderboard.published import TABLES
from vsd_jax.experiments.leaderboard.worlds import CONTROL

LEVEL = 0.05
DRAWS = 10_000


def error(value: float | None, best: str, true: float | None = None) -> float:
    """How far a score is from the best: smaller is better; NaN if there is none.

    Args:
      value: the score.
      best: "low", "high", or "truth": as truth has it.
      true: truth's. What is lower than it has its error, since nothing is nearer to
        truth than another part of truth: a single true object is far from many.

    Raises:
      ValueError: for another `best`.
    """
    if best not in ("low", "high", "truth"):
        raise ValueError(f"best={best!r} is none of low, high and truth.")
    if value is None or (best == "truth" and true is None):
        return float("nan")
    if best == "low":
        return value if true is None else max(value, true)
    return -value if best == "high" else abs(value - (true or 0.0))


def ranks(errors: np.ndarray) -> np.ndarray:
    """[blocks, methods] errors to ranks from 1 on; NaN is worse than any number."""
    errors = np.asarray(errors, np.float64)
    return stats.rankdata(np.where(np.isnan(errors), np.inf, errors), axis=1)


def block_ranks(errors: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """[blocks, methods] ranks from errors [runs, methods] and the prompt of each run.

    A block is a prompt; a run, if all have the same prompt.
    """
    ranked, found = ranks(errors), list(dict.fromkeys(prompts))
    if len(found) < 2:
        return ranked
    same = np.array(found)[:, None] == np.array(prompts)
    return same @ ranked / same.sum(1, keepdims=True)


def friedman(ranked: np.ndarray) -> tuple[float, float]:
    """Friedman's chi square of ranks [blocks, methods], corrected for ties, and its p.

    Returns:
      NaN, NaN if there are fewer than two blocks or three methods, or all are tied.
    """
    blocks, methods = ranked.shape
    if blocks < 2 or methods < 3:
        return float("nan"), float("nan")
    sums = ranked.sum(0)
    middle = blocks * (methods + 1) / 2
    # With ties the ranks' own variance takes the place of that of 1 .. methods.
    spread = ((ranked - (methods + 1) / 2) ** 2).sum()
    if not spread:
        return float("nan"), float("nan")
    statistic = (methods - 1) * ((sums - middle) ** 2).sum() / spread
    return float(statistic), float(stats.chi2.sf(statistic, methods - 1))


def critical_difference(ranked: np.ndarray, level: float = LEVEL) -> float:
    """Nemenyi's: mean ranks that differ by less are not told apart at this level.

    As in `friedman` from the spread of the ranks [blocks, methods] themselves, which is
    smaller where they are means over seeds, or tied. Without either this is
    q sqrt(k (k + 1) / 6 B) of k methods and B blocks. NaN for a single method, and
    where all are tied.
    """
    blocks, methods = ranked.shape
    spread = ((ranked - (methods + 1) / 2) ** 2).sum()
    if not spread:
        return float("nan")
    quantile = stats.studentized_range.ppf(1 - level, methods, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(2 * spread / (methods - 1)) / blocks)


def bootstrap(ranked: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """95 % interval of each mean rank over blocks drawn with replacement.

    Of few blocks it is too narrow: in simulation it holds the mean in 75 % of cases
    with three, 84 % with five, 94 % with sixteen.

    Returns:
      [methods, 2]; NaN for a single block.
    """
    if len(ranked) < 2:
        return np.full((ranked.shape[1], 2), np.nan)
    means = ranked[_resample(len(ranked), draws, seed)].mean(1)
    return np.percentile(means, [2.5, 97.5], axis=0).T


def groups(mean_ranks: Sequence[float], difference: float) -> list[list[int]]:
    """Largest groups of methods whose mean ranks all differ by less than `difference`.

    Returns:
      Indices, best first, of groups of two or more.
    """
    order = np.argsort(mean_ranks, kind="stable")
    sorted_ranks = np.asarray(mean_ranks, np.float64)[order]
    found, reached = [], 0
    for first, rank in enumerate(sorted_ranks):
        last = int(np.searchsorted(sorted_ranks, rank + difference, side="left"))
        if last > max(reached, first + 1):
            found.append([int(index) for index in order[first:last]])
            reached = last
    return found


def spearman(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Spearman's rho of two lists and its p; NaN for fewer than three, or constants.

    p is two-sided; up to six numbers it is exact, twice the share of all orders with a
    rho as large, or as small.
    """
    if np.isnan(_rho(first, second)):
        return float("nan"), float("nan")
    found = stats.spearmanr(first, second)
    if len(first) <= 6:
        found = stats.permutation_test(
            (first,), lambda drawn: _rho(drawn, second), permutation_type="pairings"
        )
    return float(found.statistic), float(found.pvalue)


def _rho(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.spearmanr(first, second).statistic)


def agreement(
    first: np.ndarray, second: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Whether two worlds rank the same methods alike.

    Args:
      first: [blocks, methods] ranks in one world.
      second: [other blocks, methods] in the other.
      draws: of blocks, in both worlds.
      seed: of these draws.

    Returns:
      `rho` of the mean ranks, `p` and a 95 % `interval` (None for a single block).
    """
    rho, p = spearman(first.mean(0), second.mean(0))
    interval = None
    if min(len(first), len(second)) > 1 and np.isfinite(rho):
        drawn = [
            _rho(first[one].mean(0), second[other].mean(0))
            for one, other in zip(
                _resample(len(first), draws, seed),
                _resample(len(second), draws, seed + 1),
                strict=True,
            )
        ]
        interval = [float(edge) for edge in np.nanpercentile(drawn, [2.5, 97.5])]
    return {"rho": rho, "p": p, "interval": interval, "methods": first.shape[1]}


def _resample(blocks: int, draws: int, seed: int) -> np.ndarray:
    """[draws, blocks] indices of blocks, with replacement."""
    return np.random.default_rng(seed).integers(blocks, size=(draws, blocks))


def rank_board(board: Mapping[str, Any]) -> dict[str, Any]:
    """The ranking of every world and score, and how far worlds agree.

    Args:
      board: `worlds`, `cells` and `truth` of a leaderboard (`records.py`).

    Returns:
      `worlds`: world -> score -> what `rank_score` gives; `failed`: world -> method ->
      share of its runs; `between`: agreement of each two worlds by each shared score;
      `published`: that of each world's main score with each published column.
    """
    found: dict[str, Any] = {}
    ranked: dict[tuple[str, str], Table] = {}
    for world, about in board["worlds"].items():
        found[world] = {}
        for score, best in about["scores"].items():
            own = table(board, world, score, best)
            if np.isfinite(own.errors).any():
                found[world][score] = rank_score(own)
                ranked[world, score] = own
    return {
        "worlds": found,
        "failed": {world: _failed(board, world) for world in board["worlds"]},
        "between": _between(list(board["worlds"]), ranked),
        "published": [
            {"world": world, "score": about["main"], **found}
            for world, about in board["worlds"].items()
            for found in _published(ranked.get((world, about["main"])))
        ],
    }


class Table(NamedTuple):
    """All methods by one score in one world.

    Attributes:
      names: of the methods.
      values: [runs, methods], a run being a prompt and a seed; NaN if there is none.
      errors: the same, smaller is better.
      prompts: of the runs.
    """

    names: list[str]
    values: np.ndarray
    errors: np.ndarray
    prompts: list[str]


def table(board: Mapping[str, Any], world: str, score: str, best: str) -> Table:
    """Values and errors by one score.

    Only runs that all methods have made count, so that an unfinished leaderboard is a
    smaller one.
    """
    true = {
        (block["prompt"], block["seed"]): block["scores"].get(score)
        for block in board["truth"]
        if block["world"] == world
    }
    cells = _competing(board, world)
    names = list(dict.fromkeys(cell["method"] for cell in cells))
    by_block: dict[tuple[str, int], dict[str, float | None]] = {}
    for cell in cells:
        block = by_block.setdefault((cell["prompt"], cell["seed"]), {})
        block[cell["method"]] = cell["scores"].get(score)
    whole = {key: block for key, block in by_block.items() if len(block) == len(names)}
    values = [[_number(block[name]) for name in names] for block in whole.values()]
    errors = [
        [error(block[name], best, true.get(key)) for name in names]
        for key, block in whole.items()
    ]
    shape = (len(whole), len(names))
    prompts = [prompt for prompt, _ in whole]
    return Table(names, np.reshape(values, shape), np.reshape(errors, shape), prompts)


def rank_score(of: Table) -> dict[str, Any]:
    """The ranking by one score, best first."""
    names, values = of.names, of.values
    ranked = block_ranks(of.errors, of.prompts)
    blocks, methods = ranked.shape
    means, intervals = ranked.mean(0), bootstrap(ranked)
    difference = critical_difference(ranked)
    statistic, p = friedman(ranked)
    order = sorted(range(methods), key=lambda index: (means[index], names[index]))
    return {
        "blocks": blocks,
        "friedman": statistic,
        "p": p,
        "critical_difference": difference,
        "groups": [[names[i] for i in group] for group in groups(means, difference)],
        "methods": [
            {
                "method": names[i],
                "rank": float(means[i]),
                "interval": [float(edge) for edge in intervals[i]],
                **_spread(values[:, i]),
            }
            for i in order
        ],
    }


def compare(board: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How far two leaderboards rank the same methods alike, in each world of both.

    Args:
      board: a leaderboard.
      other: another one, on other terms.

    Returns:
      For each world `agreement` by its main score, and the mean ranks of each method in
      the first (`here`) and in the other (`there`).
    """
    found = []
    for world, about in board["worlds"].items():
        score = about["main"]
        if score not in other["worlds"].get(world, {"scores": ()})["scores"]:
            continue
        here, there = (
            table(each, world, score, about["scores"][score]) for each in (board, other)
        )
        shared = [name for name in here.names if name in there.names]
        first, second = ranks_of(shared, here), ranks_of(shared, there)
        if not shared or not len(first) or not len(second):
            continue
        pairs = zip(shared, first.mean(0), second.mean(0), strict=True)
        found.append(
            {
                "world": world,
                "score": score,
                **agreement(first, second),
                "ranks": [
                    {"method": name, "here": float(one), "there": float(other)}
                    for name, one, other in sorted(pairs, key=lambda row: row[1])
                ],
            }
        )
    return found


def ranks_of(shared: Sequence[str], of: Table) -> np.ndarray:
    """[blocks, shared] ranks among these alone: they depend on who competes."""
    columns = [of.names.index(name) for name in shared]
    return block_ranks(of.errors[:, columns], of.prompts)


def _between(
    names: Sequence[str], ranked: Mapping[tuple[str, str], Table]
) -> list[dict[str, Any]]:
    found = []
    pairs = [(a, b) for number, a in enumerate(names) for b in names[number + 1 :]]
    scores = list(dict.fromkeys(score for _, score in ranked))
    for pair in pairs:
        for score in scores:
            first, second = (ranked.get((world, score)) for world in pair)
            if first is None or second is None:
                continue
            shared = [name for name in first.names if name in second.names]
            alike = agreement(ranks_of(shared, first), ranks_of(shared, second))
            found.append({"worlds": list(pair), "score": score, **alike})
    return found


def _published(of: Table | None) -> list[dict[str, Any]]:
    """Agreement with each published column that shares three methods or more."""
    found = []
    for column in TABLES if of else ():
        shared = [name for name in column.values if name in of.names]
        if len(shared) < 3:
            continue
        own = ranks_of(shared, of)
        errors = [error(column.values[name], column.best) for name in shared]
        rho, p = spearman(own.mean(0), np.array(errors))
        about = {"table": column.table, "column": column.score, "methods": shared}
        found.append({**about, "rho": rho, "p": p})
    return found


def _failed(board: Mapping[str, Any], world: str) -> dict[str, float]:
    shares: dict[str, list[bool]] = {}
    for cell in _competing(board, world):
        shares.setdefault(cell["method"], []).append(bool(cell["failed"]))
    return {name: float(np.mean(failed)) for name, failed in shares.items()}


def _competing(board: Mapping[str, Any], world: str) -> list[Mapping[str, Any]]:
    return [
        cell
        for cell in board["cells"]
        if cell["world"] == world and cell["method"] != CONTROL
    ]


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _spread(values: np.ndarray) -> dict[str, float | None]:
    """Mean and sample standard deviation of what did not fail."""
    finite = values[np.isfinite(values)]
    return {
        "mean": float(finite.mean()) if len(finite) else None,
        "spread": float(finite.std(ddof=1)) if len(finite) > 1 else None,
    }
