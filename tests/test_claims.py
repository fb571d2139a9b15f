# SPDX-License-Identifier: Apache-2.0
"""The paper's claims on targets that are known exactly (arXiv:2305.16213, Sec. 3).

64 particles, theta = x_0 in the plane. With the score of the particles' own
distribution VSD follows the gradient flow of E_t KL(q_t || p_t), whose minimum is the
target; SDS moves each particle to the maximum of a smoothed density.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simple_scene import (
    ALPHAS_CUMPROD,
    SHAPE,
    T,
    init_state,
    make_prior,
    make_scene,
    simple_step,
)

from vsd_jax.diffusion import exact
from vsd_jax.types import NoiseModel

NUM = 64
NOISE_FN = exact.make_noise_fn(ALPHAS_CUMPROD)
CENTRES = np.array([[-1.5, -1.5], [-1.5, 1.5], [1.5, -1.5], [1.5, 1.5]], np.float32)
WEIGHTS = np.array([0.1, 0.2, 0.3, 0.4])
STD = 0.25
MODES = exact.gaussian_mixture(
    CENTRES.reshape(4, *SHAPE), np.full((4, *SHAPE), STD**2), WEIGHTS
)

# The prior's parameters carry the current particles beside the target, so that the
# score network can be the exact score of their empirical distribution.
TARGET = NoiseModel(
    lambda params, noisy, t, context: NOISE_FN(
        params["target"], noisy, t, uncond(noisy, params["target"])
    ),
    "epsilon",
)
OWN = NoiseModel(
    lambda params, noisy, t, context: NOISE_FN(
        params[1]["own"], noisy, t, uncond(noisy, params[1]["own"])
    ),
    "epsilon",
)
# A Gaussian whose mean and variance phi must be learned from the renders.
LEARNED = NoiseModel(
    lambda params, noisy, t, context: NOISE_FN(
        learned_mixture(params[0]), noisy, t, exact.empty_context(noisy.shape[0], 1)
    ),
    "epsilon",
)


def uncond(noisy, params):
    return exact.empty_context(noisy.shape[0], len(params["log_weights"]))


def learned_mixture(phi):
    return exact.gaussian_mixture(
        phi["mean"][None], jnp.exp(phi["log_variance"])[None], jnp.ones(1)
    )


def points(state):
    return state.particles.params["latent"]


@cache
def make_run(score, *, steps, learning_rate, spread, score_steps):
    """(scene, optimizers, step); the same arguments are compiled once."""
    scene = make_scene(spread=spread)
    txs = {
        "particle_tx": optax.sgd(optax.linear_schedule(learning_rate, 0.0, steps)),
        "score_tx": optax.adam(optax.linear_schedule(0.05, 0.0, score_steps * steps)),
    }
    step = simple_step(
        scene,
        make_prior(TARGET),
        score,
        particles_per_step=NUM,
        score_steps=score_steps,
        **txs,
    )
    return scene, txs, step


def distil(
    score, own, phi, *, steps=300, learning_rate=1.0, spread=1.0, score_steps=1, **how
):
    """Runs `num_steps` of `steps`; `own(points)` is the particles' distribution."""
    scene, txs, step = make_run(
        score,
        steps=steps,
        learning_rate=learning_rate,
        spread=spread,
        score_steps=score_steps,
    )
    state = init_state(jax.random.key(0), scene, phi, num_particles=NUM, **txs)
    text = jnp.zeros((4, 1, 1, 1))
    contexts = {"text": text, "negative": text, "score": text}
    for _ in range(how.get("num_steps", steps)):
        prior_params = {"target": how.get("target", MODES), "own": own(points(state))}
        state, metrics = step(state, prior_params, contexts)
    return np.asarray(points(state)).reshape(NUM, 2), metrics


@jax.jit
def empirical(x):
    return exact.image_set(jnp.array(x), jnp.ones(NUM))


def mode_shares(x):
    mode = ((x[:, None] - CENTRES) ** 2).sum(-1).argmin(1)
    return np.bincount(mode, minlength=4) / NUM, mode


def test_vsd_covers_every_mode_with_its_weight():
    x, _ = distil(OWN, empirical, {})
    shares, mode = mode_shares(x)
    np.testing.assert_allclose(shares, WEIGHTS, atol=0.06)
    np.testing.assert_allclose(
        [x[mode == k].std(0).mean() for k in range(4)], STD, rtol=0.35
    )
    for k, centre in enumerate(CENTRES):
        np.testing.assert_allclose(x[mode == k].mean(0), centre, atol=0.25)


def test_sds_collapses():
    x, _ = distil(None, lambda x: {}, {})
    shares, _ = mode_shares(x)
    assert shares[3] > 0.8, "SDS should crowd into the heaviest mode"
    assert (shares > 0).sum() <= 2


def test_vsd_with_a_learned_score_reaches_mean_and_variance():
    mean = np.array([0.8, -0.5], np.float32)
    variance = np.array([0.3, 0.8], np.float32)
    target = exact.gaussian_mixture(
        mean.reshape(1, *SHAPE), variance.reshape(1, *SHAPE), [1.0]
    )
    phi = {"mean": jnp.zeros(SHAPE), "log_variance": jnp.zeros(SHAPE)}
    x, metrics = distil(
        LEARNED,
        lambda x: {},
        phi,
        target=target,
        steps=600,
        learning_rate=0.5,
        spread=0.5,
        score_steps=2,
    )
    np.testing.assert_allclose(x.mean(0), mean, atol=0.08)
    np.testing.assert_allclose(x.var(0), variance, rtol=0.2)
    assert abs(np.corrcoef(x.T)[0, 1]) < 0.35
    assert metrics["residual/rms"] < 0.1


def test_residual_vanishes_for_the_score_of_the_particles_own_distribution():
    # Score = the target's density written differently: every component 16 times.
    copies = exact.gaussian_mixture(
        np.tile(CENTRES.reshape(4, *SHAPE), (16, 1, 1, 1)),
        np.full((NUM, *SHAPE), STD**2),
        np.tile(WEIGHTS / 16, 16),
    )
    _, metrics = distil(OWN, lambda x: copies, {}, num_steps=2)
    assert metrics["residual/rms"] < 1e-5
    other = exact.gaussian_mixture(
        np.zeros((NUM, *SHAPE)), np.ones((NUM, *SHAPE)), np.ones(NUM)
    )
    _, metrics = distil(OWN, lambda x: other, {}, num_steps=2)
    assert metrics["residual/rms"] > 0.05


@pytest.mark.parametrize("t", [10, T // 2, T - 5])
def test_vsd_at_the_fixed_point_is_balanced_on_average(t):
    # E over q_t of the residual with q = p vanishes even for a wrong network that is
    # unbiased; and for particles away from the target it points to the target.
    key = jax.random.key(0)
    x = 0.5 + 0.2 * jax.random.normal(key, (256, *SHAPE))
    target = exact.gaussian_mixture(
        np.zeros((1, *SHAPE)), np.full((1, *SHAPE), 0.04), [1.0]
    )
    own = exact.gaussian_mixture(
        np.full((1, *SHAPE), 0.5), np.full((1, *SHAPE), 0.04), [1.0]
    )
    ts, context = jnp.full((256,), t), exact.empty_context(256, 1)
    difference = NOISE_FN(target, x, ts, context) - NOISE_FN(own, x, ts, context)
    # A descent step x - eta * residual moves towards zero by the same for every x.
    assert (difference > 0).all()
    assert float(jnp.ptp(difference)) < 1e-3 * float(difference.mean()) + 1e-5
