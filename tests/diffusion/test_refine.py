# SPDX-License-Identifier: Apache-2.0
"""Tests of the refining head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.diffusion import refine
from vsd_jax.program.prior.diffusion_prior import patchify

SHAPE = (2, 4, 4, 48)


@pytest.fixture(scope="module")
def refiner():
    module = refine.Refiner(channels=8, depth=1, factor=2)
    latents = jnp.zeros(SHAPE)
    params = jax.jit(module.init)(jax.random.key(0), latents, latents, jnp.full(2, 0.5))
    return jax.jit(module.apply), params


def test_split_patches_are_the_patches_of_a_finer_cut():
    image = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    coarse, fine = patchify(image, 4), patchify(image, 2)
    np.testing.assert_array_equal(refine.split_patches(coarse, 2), fine)
    np.testing.assert_array_equal(refine.join_patches(fine, 2), coarse)
    pixels = refine.split_patches(coarse, 4)
    np.testing.assert_array_equal(pixels, 2.0 * image - 1.0)
    np.testing.assert_array_equal(refine.join_patches(pixels, 4), coarse)


def test_starts_as_the_best_linear_estimate(refiner):
    """u errs by N(0, v), x_t by sigma / alpha: their combination errs least."""
    apply, params = refiner
    keys = jax.random.split(jax.random.key(1), 3)
    x0 = jax.random.uniform(keys[0], SHAPE, minval=-1.0)
    v, signal = refine.START_VARIANCE, 1.0 / (1.0 + 0.1**2)
    coarse = x0 + v**0.5 * jax.random.normal(keys[1], SHAPE)
    noise = jax.random.normal(keys[2], SHAPE)
    noisy = signal**0.5 * x0 + (1.0 - signal) ** 0.5 * noise
    refined = apply(params, noisy, coarse, jnp.full(2, signal))
    expected = 1.0 / (1.0 / v + 1.0 / 0.1**2)
    assert np.mean((refined - x0) ** 2) == pytest.approx(expected, rel=0.1)
    assert expected < 0.6 * min(v, 0.1**2)


def test_keeps_the_estimate_under_noise_and_the_image_without(refiner):
    apply, params = refiner
    keys = jax.random.split(jax.random.key(2), 2)
    noisy, coarse = (jax.random.normal(key, SHAPE) for key in keys)
    loud = apply(params, noisy, coarse, jnp.full(2, 2.0**-24))
    np.testing.assert_allclose(loud, coarse, atol=1e-4)
    silent = apply(params, noisy, coarse, jnp.full(2, 1.0 - 1e-6))
    np.testing.assert_allclose(silent, noisy, atol=1e-3)


def test_trains_to_show_what_is_given():
    """Stripes that u lacks come back from x_t, better than the linear estimate."""
    module = refine.Refiner(channels=16, depth=1, factor=2)
    stripes = jnp.broadcast_to(
        jnp.where(jnp.arange(16) % 4 < 2, 1.0, -1.0)[:, None, None], (16, 16, 3)
    )
    signal = jnp.full(4, 1.0 / 1.3**2)

    def draw(key):
        keys = jax.random.split(key, 2)
        size = 0.3 * jax.random.uniform(keys[0], (4, 1, 1, 1))
        x0 = patchify(0.5 + 0.5 * size * stripes[None], 4)
        noise = jax.random.normal(keys[1], x0.shape)
        return x0, jnp.sqrt(signal[0]) * x0 + jnp.sqrt(1.0 - signal[0]) * noise

    def loss(params, key):
        x0, noisy = draw(key)
        refined = module.apply(params, noisy, jnp.zeros_like(x0), signal)
        return jnp.mean((refined - x0) ** 2)

    zeros = jnp.zeros((4, 4, 4, 48))
    start = jax.jit(module.init)(jax.random.key(0), zeros, zeros, signal)
    step = jax.jit(jax.value_and_grad(loss))
    params, moment = start, jax.tree.map(jnp.zeros_like, start)
    for index in range(150):
        _, grads = step(params, jax.random.key(index))
        moment = jax.tree.map(lambda m, g: 0.9 * m + g, moment, grads)
        params = jax.tree.map(lambda p, m: p - 0.05 * m, params, moment)
    before, after = (step(p, jax.random.key(10_000))[0] for p in (start, params))
    assert after < 0.5 * before
