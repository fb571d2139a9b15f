# SPDX-License-Identifier: Apache-2.0
"""Ranks against tables made by hand, against SciPy's own, and against their meaning."""

import numpy as np
import pytest
from scipy import stats

from vsd_jax.experiments.leaderboard import ranking

# Demšar (JMLR 7, 2006), Table 5(a): q at 0.05 by the number of methods.
QUANTILES = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 10: 3.164}


def drawn_ranks(blocks, methods, seed=0):
    return ranking.ranks(np.random.default_rng(seed).random((blocks, methods)))


def test_critical_difference_is_demsar_s():
    for methods, quantile in QUANTILES.items():
        expected = quantile * np.sqrt(methods * (methods + 1) / (6 * 14))
        found = ranking.critical_difference(drawn_ranks(14, methods))
        assert found == pytest.approx(expected, abs=2e-3)
    # His example: four classifiers on 14 data sets.
    ranked = drawn_ranks(14, 4)
    assert ranking.critical_difference(ranked) == pytest.approx(1.25, abs=0.01)
    assert ranking.critical_difference(ranked, 0.1) == pytest.approx(1.12, abs=0.01)
    for nothing in (np.ones((3, 1)), np.full((3, 4), 2.5)):
        assert np.isnan(ranking.critical_difference(nothing))


def test_as_many_are_told_apart_by_chance_where_ranks_are_means_over_seeds():
    """Methods that do not differ: of all draws one in twenty tells some pair apart."""
    prompts = [prompt for prompt in "abcdef" for _ in range(3)]
    draws, apart = 400, 0
    for draw in range(draws):
        ranked = ranking.block_ranks(drawn_ranks(18, 8, seed=draw), prompts)
        apart += np.ptp(ranked.mean(0)) > ranking.critical_difference(ranked)
    assert 0.02 < apart / draws < 0.09


def test_friedman_with_ties_is_scipy_s():
    errors = np.random.default_rng(3).integers(0, 4, size=(14, 5)).astype(float)
    expected = stats.friedmanchisquare(*errors.T)
    assert ranking.friedman(ranking.ranks(errors)) == pytest.approx(tuple(expected))


def test_friedman_without_ties_is_the_textbook_s():
    ranked = ranking.ranks(np.random.default_rng(0).random((6, 5)))
    n, k = ranked.shape
    known = 12 / (n * k * (k + 1)) * (ranked.sum(0) ** 2).sum() - 3 * n * (k + 1)
    assert ranking.friedman(ranked)[0] == pytest.approx(known)
    assert ranking.friedman(np.tile([1.0, 2.0, 3.0], (4, 1)))[0] == pytest.approx(8.0)


def test_ties_share_a_rank_and_what_failed_is_last():
    found = ranking.ranks([[2.0, 1.0, 1.0, np.nan], [np.nan, 3.0, np.nan, 1.0]])
    assert found.tolist() == [[3.0, 1.5, 1.5, 4.0], [3.5, 2.0, 3.5, 1.0]]
    assert np.isnan(ranking.friedman(np.full((3, 4), 2.5))).all()


def test_errors_point_at_what_is_best():
    assert ranking.error(0.3, "low") == 0.3 and ranking.error(0.3, "high") == -0.3
    assert ranking.error(0.5, "truth", 0.75) == ranking.error(1.0, "truth", 0.75)
    assert ranking.error(0.7, "truth", 0.0) == 0.7
    # What is nearer to truth than another true set is as near as that.
    assert ranking.error(0.3, "low", 0.4) == ranking.error(0.4, "low", 0.4) == 0.4
    assert ranking.error(0.5, "low", 0.4) == 0.5
    assert np.isnan(ranking.error(None, "low"))
    assert np.isnan(ranking.error(1.0, "truth", None))
    with pytest.raises(ValueError, match="best='middle'"):
        ranking.error(1.0, "middle")


def test_the_bootstrap_s_interval_is_that_of_the_mean():
    ranked = ranking.ranks(np.random.default_rng(1).random((400, 5)))
    low, high = ranking.bootstrap(ranked).T
    mean, error = ranked.mean(0), ranked.std(0) / 20
    np.testing.assert_allclose(low, mean - 1.96 * error, atol=0.02)
    np.testing.assert_allclose(high, mean + 1.96 * error, atol=0.02)
    same = np.tile([2.0, 1.0], (5, 1))
    assert ranking.bootstrap(same).tolist() == [[2.0, 2.0], [1.0, 1.0]]
    assert np.isnan(ranking.bootstrap(same[:1])).all()


def test_groups_are_the_largest_that_no_difference_separates():
    assert ranking.groups([4.0, 1.0, 2.0, 3.0], 1.5) == [[1, 2], [2, 3], [3, 0]]
    assert ranking.groups([1.0, 1.2, 1.4, 9.0], 1.0) == [[0, 1, 2]]
    assert ranking.groups([1.0, 3.0, 5.0], 1.0) == []
    assert ranking.groups([1.0, 2.0], 1.0) == []  # they differ by that much


def test_agreement_of_two_worlds():
    forward = np.tile(np.arange(1.0, 6), (3, 1))
    assert ranking.agreement(forward, forward)["rho"] == pytest.approx(1.0)
    against = ranking.agreement(forward, forward[:, ::-1])
    assert against["interval"] == pytest.approx([against["rho"]] * 2) == [-1.0, -1.0]
    one = np.arange(5.0)
    swapped = ranking.spearman(one, np.array([2.0, 1, 3, 5, 4]))[0]
    assert swapped == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert np.isnan(ranking.spearman(one, np.ones(5))[0])
    assert ranking.agreement(forward[:1], forward)["interval"] is None


def cell(method, seed, value, world="w", **more):
    scores = {} if value is None else {"s": value}
    return {
        "world": world,
        "method": method,
        "prompt": "p",
        "seed": seed,
        "failed": "nan" if value is None else "",
        "scores": scores,
        **more,
    }


def board(values, best="low", true=None):
    """{method: one value a seed} in the world "w"."""
    cells = [
        cell(name, seed, value)
        for name, row in values.items()
        for seed, value in enumerate(row)
    ]
    blocks = range(max(map(len, values.values())))
    truth = [
        {"world": "w", "prompt": "p", "seed": seed, "scores": {"s": true}}
        for seed in blocks
    ]
    about = {"main": "s", "scores": {"s": best}}
    return {"worlds": {"w": about}, "cells": cells, "truth": truth}


VALUES = {"a": [1.0, 5.0, 3.0], "b": [2.0, 4.0, 2.0], "c": [9.0, 9.0, None]}


def test_a_board_is_ranked():
    found = ranking.rank_board(board(VALUES))
    ranked = found["worlds"]["w"]["s"]
    assert [row["method"] for row in ranked["methods"]] == ["b", "a", "c"]
    assert [row["rank"] for row in ranked["methods"]] == pytest.approx(
        [4 / 3, 5 / 3, 3]
    )
    assert ranked["methods"][2]["mean"] == 9.0 and ranked["blocks"] == 3
    assert found["failed"]["w"] == pytest.approx({"a": 0, "b": 0, "c": 1 / 3})
    high = ranking.rank_board(board(VALUES, "high"))["worlds"]["w"]["s"]["methods"]
    assert [row["method"] for row in high] == ["c", "a", "b"]  # c failed once
    near = ranking.rank_board(board(VALUES, "truth", 4.5))["worlds"]["w"]["s"]
    assert [row["method"] for row in near["methods"]] == ["a", "b", "c"]  # tied


def test_seeds_of_a_prompt_are_no_blocks_of_their_own():
    errors = [[1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [3.0, 2.0, 1.0]]
    found = ranking.block_ranks(np.array(errors), ["p", "p", "q"])
    assert found.tolist() == [[1.5, 1.5, 3.0], [3.0, 2.0, 1.0]]
    alone = ranking.block_ranks(np.array(errors), ["p", "p", "p"])
    np.testing.assert_array_equal(alone, ranking.ranks(errors))
    # The same runs twice, as if of other seeds: no more is known than before.
    once = board(VALUES)
    other = board({name: row[::-1] for name, row in VALUES.items()})["cells"]
    once["cells"] += [each | {"prompt": "q"} for each in other]
    again = [each | {"seed": each["seed"] + 10} for each in once["cells"]]
    twice = once | {"cells": once["cells"] + again}
    first, second = (
        ranking.rank_board(each)["worlds"]["w"]["s"] for each in (once, twice)
    )
    assert first["blocks"] == second["blocks"] == 2
    assert first["critical_difference"] == second["critical_difference"]
    assert [row["rank"] for row in first["methods"]] == pytest.approx(
        [row["rank"] for row in second["methods"]]
    )


def test_the_order_of_cells_changes_nothing():
    straight = board(VALUES)
    turned = straight | {"cells": straight["cells"][::-1]}
    first, second = map(ranking.rank_board, (straight, turned))
    by_name = [
        sorted(each["worlds"]["w"]["s"]["methods"], key=lambda row: row["method"])
        for each in (first, second)
    ]
    for one, other in zip(*by_name, strict=True):
        assert one["rank"] == other["rank"] and one["mean"] == other["mean"]
        # The draws are of blocks, whose order is another.
        np.testing.assert_allclose(one["interval"], other["interval"], atol=0.34)


def test_only_blocks_that_all_have_run_count():
    found = ranking.rank_board(board(VALUES | {"b": [2.0, 4.0]}))
    assert found["worlds"]["w"]["s"]["blocks"] == 2


def test_worlds_are_compared_by_the_methods_they_share():
    both = board({"a": [1.0, 1.0], "b": [2.0, 2.0], "c": [3.0, 3.0], "x": [0.0, 0.0]})
    both["worlds"]["v"] = {"main": "s", "scores": {"s": "high"}}
    both["cells"] += [
        cell(name, seed, value, "v")
        for name, value in {"a": 1.0, "b": 2.0, "c": 3.0, "y": 4.0}.items()
        for seed in range(2)
    ]
    (found,) = ranking.rank_board(both)["between"]
    assert found["worlds"] == ["w", "v"] and found["methods"] == 3
    assert found["rho"] == pytest.approx(-1.0)


def test_two_boards_are_compared_by_the_methods_they_share():
    one, other = board(VALUES), board({"c": [1.0], "b": [2.0], "a": [3.0], "x": [0.0]})
    (found,) = ranking.compare(one, other)
    ranks = {row["method"]: (row["here"], row["there"]) for row in found["ranks"]}
    # Among a, b and c alone: x, the best of the other, takes no place.
    assert ranks == {
        "a": (pytest.approx(5 / 3), 3.0),
        "b": (pytest.approx(4 / 3), 2.0),
        "c": (3.0, 1.0),
    }
    assert [row["method"] for row in found["ranks"]] == ["b", "a", "c"]
    assert found["rho"] == pytest.approx(-0.5) and found["methods"] == 3
    assert ranking.compare(one, {"worlds": {}}) == []
