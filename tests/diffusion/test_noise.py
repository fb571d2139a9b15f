# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_scene import ALPHAS_CUMPROD, T

from vsd_jax.diffusion import noise
from vsd_jax.types import NoiseModel


@pytest.fixture
def pair():
    keys = jax.random.split(jax.random.key(0), 3)
    x0 = jax.random.normal(keys[0], (5, 2, 2, 3))
    eps = jax.random.normal(keys[1], (5, 2, 2, 3))
    return x0, eps, jnp.array([0, 10, 40, 70, T - 1])


def test_add_noise_matches_numpy(pair):
    x0, eps, t = pair
    signal = ALPHAS_CUMPROD[np.asarray(t)][:, None, None, None]
    expected = np.sqrt(signal) * x0 + np.sqrt(1 - signal) * eps
    np.testing.assert_allclose(
        noise.add_noise(x0, eps, t, ALPHAS_CUMPROD), expected, atol=1e-6
    )


@pytest.mark.parametrize("kind", noise.PREDICTION_TYPES)
def test_every_prediction_type_converts_to_noise_and_x0(pair, kind):
    x0, eps, t = pair
    noisy = noise.add_noise(x0, eps, t, ALPHAS_CUMPROD)
    raw = noise.target(kind, x0, eps, t, ALPHAS_CUMPROD)
    back = noise.to_noise(raw, noisy, t, ALPHAS_CUMPROD, kind)
    np.testing.assert_allclose(back, eps, atol=2e-4)
    back = noise.to_x0(raw, noisy, t, ALPHAS_CUMPROD, kind)
    np.testing.assert_allclose(back, x0, atol=2e-4)


def test_wrong_predictions_round_trip_too(pair):
    # Affine for any output, not only for the true target: v -> noise -> x0 -> noise.
    _, raw, t = pair
    noisy = jax.random.normal(jax.random.key(5), raw.shape)
    eps = noise.to_noise(raw, noisy, t, ALPHAS_CUMPROD, "v_prediction")
    x0 = noise.to_x0(eps, noisy, t, ALPHAS_CUMPROD, "epsilon")
    np.testing.assert_allclose(
        x0, noise.to_x0(raw, noisy, t, ALPHAS_CUMPROD, "v_prediction"), atol=1e-4
    )
    np.testing.assert_allclose(
        noise.to_noise(x0, noisy, t, ALPHAS_CUMPROD, "sample"), eps, atol=1e-3
    )


def test_weightings():
    t = jnp.arange(T)
    alpha_t, sigma_t = noise.alpha_sigma(t, ALPHAS_CUMPROD, ndim=1)
    np.testing.assert_allclose(alpha_t**2 + sigma_t**2, np.ones(T), atol=1e-6)
    expected = {
        "sigma_squared": sigma_t**2,
        "uniform": jnp.ones(T),
        "alpha_sigma_squared": alpha_t * sigma_t**2,
        "sigma_over_alpha": sigma_t / alpha_t,
        "dmd": sigma_t / alpha_t,  # before its division
    }
    assert set(expected) == set(noise.WEIGHTINGS)
    for name, value in expected.items():
        weight = noise.w_t(t, ALPHAS_CUMPROD, weighting=name, ndim=1)
        np.testing.assert_allclose(weight, value, rtol=1e-6)
        assert (weight >= 0).all()


def test_sigma_over_alpha_weighs_clean_predictions(pair):
    first, second, t = pair
    noisy = first + second
    weight = noise.w_t(t, ALPHAS_CUMPROD, weighting="sigma_over_alpha", ndim=4)

    def x0(eps):
        return noise.to_x0(eps, noisy, t, ALPHAS_CUMPROD, "epsilon")

    np.testing.assert_allclose(
        weight * (first - second), x0(second) - x0(first), rtol=2e-3, atol=1e-3
    )


def test_unknown_names_are_refused(pair):
    x0, eps, t = pair
    with pytest.raises(ValueError, match="sigma_squared"):
        noise.w_t(t, ALPHAS_CUMPROD, weighting="sigma", ndim=1)
    for call in (noise.to_noise, noise.to_x0):
        with pytest.raises(ValueError, match="v_prediction"):
            call(x0, eps, t, ALPHAS_CUMPROD, "velocity")
    with pytest.raises(ValueError, match="v_prediction"):
        noise.target("velocity", x0, eps, t, ALPHAS_CUMPROD)
    with pytest.raises(ValueError, match="v_prediction"):
        noise.as_noise_fn(NoiseModel(lambda *a: a, "velocity"), ALPHAS_CUMPROD)


def test_conversion_survives_a_last_step_without_signal(pair):
    # A schedule of zero terminal SNR keeps 2^-24 of the signal (program/prior/).
    x0, noisy, _ = pair
    schedule = ALPHAS_CUMPROD.copy()
    schedule[-1] = 2.0**-24
    t = jnp.full(5, T - 1)
    eps = noise.to_noise(x0, noisy, t, schedule, "sample")
    back = noise.to_x0(eps, noisy, t, schedule, "epsilon")
    np.testing.assert_allclose(back, x0, atol=5e-3)
