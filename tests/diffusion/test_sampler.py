# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_scene import ALPHAS_CUMPROD, SHAPE, mixture

from vsd_jax.diffusion import exact, sampler
from vsd_jax.diffusion.guidance import Guidance


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_follow_the_exact_mixture(eta):
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
            eta=eta,
            key=jax.random.key(3),
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
        {**context, "negative": exact.empty_context(num, 2)["text"]},
        alphas_cumprod=ALPHAS_CUMPROD,
        num_steps=25,
        guidance_scale=2.0,
        guidance=Guidance(x0_limit=3.0),
    )
    assert (np.asarray(x)[..., 0] < 0).all()
    assert np.abs(x).max() <= 3.0


def test_ddim_refuses_what_cannot_be_meant():
    args = (exact.make_noise_fn(ALPHAS_CUMPROD), mixture(), jnp.zeros((1, *SHAPE)))
    context = exact.empty_context(1, 2)
    with pytest.raises(ValueError, match="num_steps"):
        sampler.ddim_sample(*args, context, alphas_cumprod=ALPHAS_CUMPROD, num_steps=0)
    with pytest.raises(ValueError, match="negative prompt"):
        sampler.ddim_sample(
            *args,
            context,
            alphas_cumprod=ALPHAS_CUMPROD,
            num_steps=2,
            guidance_scale=3.0,
        )
    with pytest.raises(ValueError, match="key"):
        sampler.ddim_sample(
            *args, context, alphas_cumprod=ALPHAS_CUMPROD, num_steps=2, eta=1.0
        )


def test_ddpm_noise_is_that_of_the_posterior():
    """One step from T - 1, x_0 known: mean and variance of arXiv:2006.11239, Eq. 7."""
    x0, num, num_t = 0.7, 20_000, len(ALPHAS_CUMPROD)
    start = jnp.full((num, 1), 0.4)

    def noise_fn(params, x, t, context):
        signal = jnp.asarray(ALPHAS_CUMPROD)[t][:, None]
        return (x - jnp.sqrt(signal) * x0) / jnp.sqrt(1 - signal)

    seen = []

    def spy(params, x, t, context):
        seen.append(x)
        return noise_fn(params, x, t, context)

    with jax.disable_jit():
        sampler.ddim_sample(
            spy,
            {},
            start,
            {"text": None},
            alphas_cumprod=ALPHAS_CUMPROD,
            num_steps=2,
            eta=1.0,
            key=jax.random.key(0),
        )
    middle = int(np.round(np.linspace(num_t - 1, 0, 2, endpoint=False))[1])
    a, b = (float(ALPHAS_CUMPROD[i]) for i in (num_t - 1, middle))
    x = np.asarray(seen[1])
    beta = 1 - a / b
    mean = b**0.5 * beta / (1 - a) * x0 + (a / b) ** 0.5 * (1 - b) / (1 - a) * 0.4
    assert x.mean() == pytest.approx(mean, abs=0.02)
    assert x.var() == pytest.approx(beta * (1 - b) / (1 - a), rel=0.05)
