# SPDX-License-Identifier: Apache-2.0
"""A particle that is not finite: skipped, counted, left out, and in the end renewed."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from simple_scene import (
    init_state,
    make_contexts,
    make_prior,
    make_scene,
    mixture,
    simple_step,
)
from test_distil import MODEL, PHI, SCORE, TXS, latents


@cache
def bad_step(restart_after=0):
    """A step of three particles: mark 1 renders NaN, mark 2 has a gradient of 1e25."""
    good = make_scene()

    def init(key):
        return {**good.init(key), "mark": jnp.zeros(())}

    def render(params, stats, camera, background, key, *, train):
        out = good.render(params, stats, camera, background, key, train=train)
        broken = jnp.where(params["mark"] == 1, jnp.nan, 1.0)
        steep = jnp.where(params["mark"] == 2, 1e25, 0.0)
        nothing = out.rgb - jax.lax.stop_gradient(out.rgb)
        return out.replace(rgb=out.rgb * broken + steep * nothing)

    scene = good._replace(init=init, render=render)
    prior = make_prior(MODEL)
    options = {"particles_per_step": 3, "restart_after": restart_after, **TXS}
    return scene, simple_step(scene, prior, SCORE, **options)


def bad_state(mark, **options):
    """State and run of `bad_step` with these particles marked."""
    scene, step = bad_step(**options)
    txs = {name: TXS[name] for name in ("particle_tx", "score_tx")}
    state = init_state(jax.random.key(0), scene, PHI, num_particles=3, **txs)
    params = {**state.particles.params, "mark": jnp.asarray(mark)}
    state = state.replace(particles=state.particles.replace(params=params))
    return state, lambda state: step(state, mixture(), make_contexts(2))


def test_a_gradient_whose_square_is_not_finite_is_skipped_too():
    state, run = bad_state([0.0, 2.0, 0.0])
    before = latents(state)
    state, metrics = run(state)
    np.testing.assert_array_equal(metrics["particle/skipped"], [0, 1, 0])
    np.testing.assert_array_equal(latents(state)[1], before[1])
    moments = jax.tree.leaves(state.particles.opt_state)
    assert all(np.isfinite(leaf).all() for leaf in moments)


def test_a_particle_that_is_not_finite_is_skipped_and_counted():
    state, run = bad_state([0.0, 1.0, 0.0])
    before, opt_before = latents(state), jax.tree.map(np.array, state.particles)
    phi = float(state.score.params["shift"])
    state, metrics = run(state)
    np.testing.assert_array_equal(metrics["particle/skipped"], [0, 1, 0])
    assert int(metrics["skipped"]) == 1
    np.testing.assert_array_equal(latents(state)[1], before[1])
    assert (latents(state)[[0, 2]] != before[[0, 2]]).all()
    for new, old in zip(
        jax.tree.leaves(state.particles.opt_state),
        jax.tree.leaves(opt_before.opt_state),
        strict=True,
    ):
        np.testing.assert_array_equal(new[1], old[1])
    # The score network learns from the other two.
    assert np.isfinite(metrics["score/loss"]) and int(metrics["score/skipped"]) == 0
    assert float(state.score.params["shift"]) != phi
    for name in ("residual/rms", "opacity", "particle_grad_norm"):
        assert np.isfinite(metrics[name]), name


def test_a_particle_that_stays_bad_starts_anew_and_the_others_go_on():
    state, run = bad_state([0.0, 1.0, 0.0], restart_after=3)
    sound, run_sound = bad_state([0.0, 1.0, 0.0])
    old, seen = latents(state)[1].copy(), []
    for _ in range(5):
        state, metrics = run(state)
        seen.append(np.asarray(metrics["particle/restarted"]).tolist())
        if len(seen) == 3:
            new = latents(state)[1].copy()
        if len(seen) <= 3:  # afterwards the shared score network sees all three
            sound, _ = run_sound(sound)
            np.testing.assert_array_equal(latents(state)[::2], latents(sound)[::2])
    assert seen == [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert (new != old).all() and (latents(state)[1] != new).all()
    np.testing.assert_array_equal(state.particles.skips, [0, 0, 0])
    np.testing.assert_array_equal(sound.particles.skips, [0, 3, 0])


def test_two_that_start_anew_in_one_step_differ():
    state, run = bad_state([1.0, 0.0, 1.0], restart_after=3)
    for _ in range(3):
        state, metrics = run(state)
    np.testing.assert_array_equal(metrics["particle/restarted"], [1, 0, 1])
    assert (latents(state)[0] != latents(state)[2]).all()


def test_nothing_moves_if_no_particle_is_finite():
    state, run = bad_state([1.0, 1.0, 1.0])
    state, _ = run(state)
    phi = jax.tree.map(np.array, (state.score.params, state.score.opt_state))
    state, metrics = run(state)
    assert int(metrics["skipped"]) == 3 and int(metrics["score/skipped"]) == 1
    jax.tree.map(
        np.testing.assert_array_equal,
        phi,
        (state.score.params, state.score.opt_state),
    )
