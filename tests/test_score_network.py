# SPDX-License-Identifier: Apache-2.0
"""The training of phi by itself; inside the step it is tested in test_distil.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simple_scene import (
    ALPHAS_CUMPROD,
    SHAPE,
    T,
    make_prior,
    make_score,
    sample_camera,
)

from vsd_jax import presets, score_network
from vsd_jax.diffusion import exact, noise
from vsd_jax.score_network import make_score_update, score_optimizer
from vsd_jax.types import Batch, Draw, NoiseModel, Report, ScoreDraw, ScoreState

# noise_score = phi * x_t + (first number of the camera), so the loss is a parabola.
MODEL = NoiseModel(
    lambda params, noisy, t, context: (
        params[0]["scale"] * noisy + context["camera"][:, :1, None, None]
    ),
    "epsilon",
)
PHI = {"scale": jnp.float32(0.2)}
NUM, VIEWS, STEPS = 3, 2, 2


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    camera = sample_camera(jax.random.key(0))
    per_view = jnp.zeros((NUM, VIEWS))
    score = ScoreDraw(
        t=jnp.asarray(rng.integers(0, T, (NUM, STEPS, VIEWS)), jnp.int32),
        noise=jnp.asarray(rng.standard_normal((NUM, STEPS, VIEWS, *SHAPE), np.float32)),
        keep=jnp.asarray(rng.random((NUM, STEPS, VIEWS)) > 0.5),
    )
    draw = Draw(
        cameras=jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (NUM, VIEWS, *leaf.shape)), camera
        ),
        backgrounds=per_view,
        prompts={"score": jnp.zeros((NUM, VIEWS, 1, 2))},
        t=jnp.zeros((NUM, VIEWS), jnp.int32),
        noise=per_view,
        encode_noise=per_view,
        render_keys=per_view,
        method_keys=per_view,
        run_keys=per_view,
        stats_key=per_view,
        score=score,
    )
    report = Report(
        ok=jnp.ones(NUM, bool),
        residual_ms=per_view,
        opacity=jnp.ones(NUM),
        grad_norm=jnp.ones(NUM),
        regularizer={},
        render={},
    )
    latents = jnp.asarray(rng.standard_normal((NUM, VIEWS, *SHAPE), np.float32))
    return Batch(draw=draw, latents=latents, report=report)


@pytest.fixture(scope="module")
def update():
    tx = optax.sgd(0.1)
    prior = make_prior(exact.make_model(ALPHAS_CUMPROD))
    score = make_score(MODEL, tx=tx, updates=STEPS, sigma_floor=0.1)
    run = make_score_update(score, prior, axis_name=None)
    start = ScoreState(params=PHI, opt_state=tx.init(PHI))
    return jax.jit(lambda batch: run(start, batch, {}))


def reference(batch, particles):
    """Gradient descent written out, with derivatives by hand."""
    scale, losses, norms = 0.2, [], []
    drawn = batch.draw.score
    for k in range(STEPS):
        errors, slopes = [], []
        for i in particles:
            x0, eps = batch.latents[i], drawn.noise[i, k]
            noisy = noise.add_noise(x0, eps, drawn.t[i, k], ALPHAS_CUMPROD)
            noisy, eps = np.asarray(noisy), np.asarray(eps)
            # The test camera is the identity: its first number is 1, or 0 if dropped.
            shift = np.asarray(drawn.keep[i, k]).reshape(-1, 1, 1, 1)
            error = scale * noisy + shift - eps
            errors.append(error**2)
            slopes.append(2 * error * noisy)
        losses.append(np.mean(errors))
        norms.append(abs(np.mean(slopes)))
        scale -= 0.1 * np.mean(slopes)
    return scale, np.mean(losses), np.mean(norms)


@pytest.mark.parametrize("skipped", [None, 1])
def test_update_equals_gradient_descent_by_hand(update, batch, skipped):
    keep = [i for i in range(NUM) if i != skipped]
    if skipped is not None:
        ok = batch.report.ok.at[skipped].set(False)
        batch = batch.replace(
            report=batch.report.replace(ok=ok),
            latents=batch.latents.at[skipped].set(jnp.nan),
        )
    state, metrics = update(batch)
    scale, loss, norm = reference(batch, keep)
    np.testing.assert_allclose(state.params["scale"], scale, rtol=1e-4)
    np.testing.assert_allclose(metrics["score/loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(metrics["score/grad_norm"], norm, rtol=1e-4)
    assert int(metrics["score/skipped"]) == 0


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(update, batch):
    drawn = batch.draw.score
    drawn = drawn.replace(noise=drawn.noise.at[0, 1].set(jnp.inf))
    batch = batch.replace(draw=batch.draw.replace(score=drawn))
    state, metrics = update(batch)
    assert int(metrics["score/skipped"]) == 1
    assert np.isfinite(state.params["scale"]) and state.params["scale"] != 0.2


def test_sds_leaves_the_state_alone(batch):
    run = make_score_update(None, make_prior(None), axis_name=None)
    state, metrics = run("untouched", batch, {})
    assert state == "untouched" and metrics == {}


def test_warm_up_is_linear_and_then_constant():
    tx = score_optimizer(
        learning_rate=0.5, warmup_steps=4, b1=0.9, b2=0.999, weight_decay=0.0
    )
    params = {"x": jnp.zeros(1)}
    state, moves = tx.init(params), []
    for _ in range(6):
        updates, state = tx.update({"x": jnp.ones(1)}, state, params)
        moves.append(-float(updates["x"][0]))
    # Adam moves by the learning rate if all gradients are equal.
    np.testing.assert_allclose(moves, [0.125, 0.25, 0.375, 0.5, 0.5, 0.5], rtol=1e-3)


def test_lora_needs_a_network_and_names_the_others():
    levels = np.linspace(0.999, 0.001, 100).astype(np.float32)
    prior = exact.make_prior(levels, latent_shape=(1, 1, 1))
    score = score_network.lora(prior, presets.preset("object").score)
    with pytest.raises(ValueError, match="vsd.small_unet or vsd.make_score"):
        score.init(jax.random.key(0), {"means": jnp.zeros((1, 1, 1, 1))})
