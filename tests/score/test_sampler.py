# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_scene import ALPHAS_CUMPROD, SHAPE, mixture

from vsd_jax.score import exact, sampler


def test_ddim_samples_the_exact_mixture():
    params, num = mixture(), 256
    start = jax.random.normal(jax.random.key(1), (num, *SHAPE))
    sample = jax.jit(
        lambda params, start: sampler.ddim_sample(
            exact.make_noise_fn(ALPHAS_CUMPROD),
            params,
            start,
            exact.empty_context(num, 2),
            alphas_cumprod=ALPHAS_CUMPROD,
            num_steps=50,
        )
    )
    x = np.asarray(sample(params, start)).reshape(num, 2)
    right = x[:, 0] > 0
    assert abs(right.mean() - 0.75) < 0.08
    np.testing.assert_allclose(x[right].mean(0), [2.0, 0.5], atol=0.08)
    np.testing.assert_allclose(x[right].std(0), [0.2, 0.2], atol=0.06)


def test_ddim_guidance_follows_the_condition():
    params, num = mixture(), 64
    start = jax.random.normal(jax.random.key(2), (num, *SHAPE))
    context = exact.restrict(num, np.array([True, False]))
    x = sampler.ddim_sample(
        exact.make_noise_fn(ALPHAS_CUMPROD),
        params,
        start,
        context,
        alphas_cumprod=ALPHAS_CUMPROD,
        num_steps=25,
        context_uncond=exact.empty_context(num, 2),
        guidance_scale=2.0,
        x0_limit=3.0,
    )
    assert (np.asarray(x)[..., 0] < 0).all()
    assert np.abs(x).max() <= 3.0


def test_ddim_refuses_what_cannot_be_meant():
    args = (exact.make_noise_fn(ALPHAS_CUMPROD), mixture(), jnp.zeros((1, *SHAPE)))
    context = exact.empty_context(1, 2)
    with pytest.raises(ValueError, match="num_steps"):
        sampler.ddim_sample(*args, context, alphas_cumprod=ALPHAS_CUMPROD, num_steps=0)
    with pytest.raises(ValueError, match="context_uncond"):
        sampler.ddim_sample(
            *args,
            context,
            alphas_cumprod=ALPHAS_CUMPROD,
            num_steps=2,
            guidance_scale=3.0,
        )
