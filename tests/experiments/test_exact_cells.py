# SPDX-License-Identifier: Apache-2.0
"""The closed-form priors, their prompts, and what is known of them."""

import dataclasses

import numpy as np
import pytest

from vsd_jax.diffusion import exact
from vsd_jax.experiments import cells, exact_cells, plan, scores
from vsd_jax.experiments.catalogue import EXPERIMENTS
from vsd_jax.experiments.plan import Budget

pytest.importorskip("embreex")
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import named


def cell_of(table: str, row: str) -> plan.Cell:
    return plan.cells(EXPERIMENTS[table], Budget(rows=(row,), seeds=1))[0]


@pytest.mark.parametrize("name", ["plane", "images"])
def test_truth_is_what_the_text_wants(name):
    world = exact_cells.make_world(name)
    assert world.weights.sum() == pytest.approx(1.0)
    assert set(world.classes) == {0, 1, 2}
    drawn = exact_cells.truth(world, 256, seed=0)
    numbers, features, shown = scores._score_exact(
        cell_of(name, "VSD 1, own score"), drawn
    )
    assert numbers["kind_precision"] > 0.95
    assert numbers["mode_error"] < 0.2
    assert numbers["within"] == pytest.approx(1.0, abs=0.1)
    assert len(features) == len(shown) == 256


def test_prompts_allow_their_classes():
    world = exact_cells.make_world("plane")
    prompts = exact_cells.make_prompts(world, "nfsd")
    for name, number in (("text", 3), ("score", 3), ("empty", 9), ("source", 1)):
        allowed = np.asarray(prompts[name])[0, 0, 0] == 0.0
        assert allowed.sum() == number, name
    assert (np.asarray(prompts["negative"])[0, 0, 0] == 0.0).sum() == 1
    assert np.all(exact_cells.make_prompts(world, "vsd")["negative"] == 0.0)


def test_a_learned_score_begins_as_the_prior():
    world = exact_cells.make_world("plane")
    config = config_lib.validate(named.make_config("image2d", "smoke"))
    score = exact_cells._make_score("mixture", world, config)
    prompts = exact_cells.make_prompts(world, "vsd")
    text = {"text": prompts["text"][0]}
    x, t = np.full((1, 1, 1, 2), 0.3, np.float32), np.array([300])
    weights = {"target": world.mixture}
    mine = score.model.apply((score.init(None, weights), weights), x, t, text)
    theirs = exact.make_noise_fn(exact_cells.ALPHAS_CUMPROD)(world.mixture, x, t, text)
    np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_guidance_and_rate_share_a_program():
    exact_cells._make_run.cache_clear()
    found = {}
    for scale, rate in ((7.5, 0.03), (15.0, 0.03), (7.5, 0.06), (1.0, 0.03)):
        cell = cell_of("family", "VSD")
        own = {"vsd.guidance_scale": scale, "optim.image_lr": rate}
        small = {"num_particles": 4, "particles_per_step": 4, "num_steps": 3}
        cell = dataclasses.replace(cell, settings={**cell.settings, **small, **own})
        found[scale, rate] = exact_cells.run(cell, cells.exact_config(cell))
    # A guidance of 1 asks the prior for one text less.
    assert exact_cells._make_run.cache_info().misses == 2
    start = found[7.5, 0.03]
    assert all(np.abs(start - other).max() > 1e-6 for other in [*found.values()][1:])
    # Adam's first steps are as long as the rate says.
    still = dataclasses.replace(cell, settings={**cell.settings, "optim.image_lr": 0.0})
    first = exact_cells.run(still, cells.exact_config(still))
    moved = [np.abs(found[7.5, rate] - first).max() for rate in (0.03, 0.06)]
    assert moved[0] == pytest.approx(3 * 0.03, rel=0.05)
    assert moved[1] == pytest.approx(3 * 0.06, rel=0.05)


def test_the_text_is_an_argument_of_one_program():
    exact_cells._make_run.cache_clear()
    for name in ("plane", "plane:1,4,6"):
        cell = cell_of("family", "SDS")
        own = {"exact.world": name, "num_particles": 4, "num_steps": 3}
        own |= {"particles_per_step": 4}
        cell = dataclasses.replace(cell, settings={**cell.settings, **own})
        exact_cells.run(cell, cells.exact_config(cell))
    assert exact_cells._make_run.cache_info().misses == 1
