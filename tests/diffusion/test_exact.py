# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm
from simple_scene import ALPHAS_CUMPROD, T

from vsd_jax.diffusion import exact, noise

SHAPE = (2, 1, 3)
BATCH, NUM = 7, 4


@pytest.fixture
def case():
    keys = jax.random.split(jax.random.key(0), 4)
    params = exact.gaussian_mixture(
        jax.random.normal(keys[0], (NUM, *SHAPE)),
        jax.random.uniform(keys[1], (NUM, *SHAPE), minval=0.01, maxval=2.0),
        jnp.array([1.0, 2.0, 3.0, 0.5]),
    )
    noisy = 2.0 * jax.random.normal(keys[2], (BATCH, *SHAPE))
    t = jnp.array([0, 5, 20, 50, 80, 95, T - 1])
    text = jax.random.normal(keys[3], (BATCH, 1, NUM))
    return params, noisy, t, {"text": text}


def test_log_density_matches_scipy(case):
    params, noisy, t, context = case
    signal = ALPHAS_CUMPROD[np.asarray(t)].reshape(-1, 1, 1, 1, 1)
    logits = np.asarray(params["log_weights"]) + np.asarray(context["text"])[:, 0]
    logits = logits - logsumexp(logits, axis=1, keepdims=True)
    parts = norm.logpdf(
        np.asarray(noisy)[:, None],
        np.sqrt(signal) * np.asarray(params["means"]),
        np.sqrt(signal * np.asarray(params["variances"]) + 1 - signal),
    )
    expected = logsumexp(logits + parts.sum(axis=(2, 3, 4)), axis=1)
    found = exact.log_density(params, noisy, t, context, ALPHAS_CUMPROD)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_noise_is_the_gradient_of_the_log_density(case):
    params, noisy, t, context = case

    def total(x):
        return exact.log_density(params, x, t, context, ALPHAS_CUMPROD).sum()

    _, sigma_t = noise.alpha_sigma(t, ALPHAS_CUMPROD, ndim=4)
    expected = -sigma_t * jax.grad(total)(noisy)
    found = exact.make_noise_fn(ALPHAS_CUMPROD)(params, noisy, t, context)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_noise_is_the_posterior_mean_of_the_noise():
    # Tweedie: for one Gaussian E[noise | x_t] is linear regression of noise on x_t.
    params = exact.gaussian_mixture(
        jnp.full((1, 1, 1, 1), 0.7), jnp.full((1, 1, 1, 1), 0.3), jnp.ones(1)
    )
    t, num = 40, 20_000
    keys = jax.random.split(jax.random.key(3))
    eps = jax.random.normal(keys[0], (num, 1, 1, 1))
    x0 = 0.7 + jnp.sqrt(0.3) * jax.random.normal(keys[1], (num, 1, 1, 1))
    ts = jnp.full((num,), t)
    noisy = noise.add_noise(x0, eps, ts, ALPHAS_CUMPROD)
    slope, intercept = np.polyfit(np.ravel(noisy), np.ravel(eps), 1)
    at = jnp.array([-1.0, 2.0]).reshape(2, 1, 1, 1)
    found = exact.make_noise_fn(ALPHAS_CUMPROD)(
        params, at, jnp.full((2,), t), exact.empty_context(2, 1)
    )
    np.testing.assert_allclose(
        np.ravel(found), slope * np.ravel(at) + intercept, atol=0.03
    )


def test_image_set_denoises_to_its_images():
    images = jax.random.normal(jax.random.key(1), (3, *SHAPE))
    params = exact.image_set(images, jnp.ones(3))
    noise_fn = exact.make_noise_fn(ALPHAS_CUMPROD)
    t = jnp.zeros(3, jnp.int32)
    eps = jax.random.normal(jax.random.key(2), images.shape)
    noisy = noise.add_noise(images, eps, t, ALPHAS_CUMPROD)
    found = noise_fn(params, noisy, t, exact.empty_context(3, 3))
    x0 = noise.to_x0(found, noisy, t, ALPHAS_CUMPROD, "epsilon")
    np.testing.assert_allclose(x0, images, atol=1e-3)


def test_restrict_is_the_mixture_of_the_allowed_components(case):
    params, noisy, t, _ = case
    allowed = np.array([False, True, False, True])
    part = exact.gaussian_mixture(
        params["means"][allowed], params["variances"][allowed], jnp.array([2.0, 0.5])
    )
    noise_fn = exact.make_noise_fn(ALPHAS_CUMPROD)
    np.testing.assert_allclose(
        noise_fn(params, noisy, t, exact.restrict(BATCH, allowed)),
        noise_fn(part, noisy, t, exact.empty_context(BATCH, 2)),
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="At least one"):
        exact.restrict(BATCH, np.zeros(NUM, bool))


def test_finite_far_away(case):
    params, noisy, t, context = case
    found = exact.make_noise_fn(ALPHAS_CUMPROD)(params, 1e4 * noisy, t, context)
    assert np.isfinite(found).all()


def test_restricted_contexts_can_be_mixed(case):
    params, noisy, t, _ = case
    texts = [
        exact.restrict(1, np.arange(NUM) == k)["text"] * weight
        for k, weight in ((0, 1.0), (1, 0.0))
    ]
    context = {"text": jnp.broadcast_to(sum(texts), (BATCH, 1, NUM))}
    noise_fn = exact.make_noise_fn(ALPHAS_CUMPROD)
    wanted = noise_fn(params, noisy, t, exact.restrict(BATCH, np.arange(NUM) == 0))
    np.testing.assert_array_equal(noise_fn(params, noisy, t, context), wanted)
