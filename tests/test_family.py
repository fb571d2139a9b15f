# SPDX-License-Identifier: Apache-2.0
"""The family of score distillation against closed forms, on Gaussian priors.

For N(m, v) the noise prediction is sigma (x - alpha m) / (alpha^2 v + sigma^2), and the
deterministic path keeps (x_t - alpha m) / sqrt(alpha^2 v + sigma^2) constant.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax import family, residuals, vsd
from vsd_jax.types import Camera, NoiseModel, Prior

ABAR = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000)).astype(np.float32)
MEANS = {"text": 0.8, "empty": -0.3, "negative": -1.0, "source": 0.4}
MEANS |= {"score": 0.1, "score_empty": -0.2}
VARIANCE = 0.3
SHAPE = (3, 2, 2, 1)
T = jnp.array([40, 300, 900])
KEYS = jax.random.split(jax.random.key(0))
LATENTS = jax.random.normal(KEYS[0], SHAPE)
NOISE = jax.random.normal(KEYS[1], SHAPE)
CAMERAS = Camera(
    cam_to_world=jnp.zeros((3, 4, 4)),
    **dict.fromkeys(("fov_deg", "azimuth_deg", "elevation_deg", "radius"), T),
)
COMMON = {"alphas_cumprod": ABAR, "weighting": "sigma_squared"}


def levels(t):
    abar = jnp.asarray(ABAR)[t].reshape(-1, 1, 1, 1)
    return jnp.sqrt(abar), jnp.sqrt(1 - abar)


def predict(noisy, t, name):
    alpha, sigma = levels(t)
    return sigma * (noisy - alpha * MEANS[name]) / (alpha**2 * VARIANCE + sigma**2)


def noisy_latents(t=T):
    alpha, sigma = levels(t)
    return alpha * LATENTS + sigma * NOISE


def difference(first, second):
    """w (eps(first) - eps(second)): the same wherever x_t is."""
    alpha, sigma = levels(T)
    apart = MEANS[second] - MEANS[first]
    return sigma**3 * alpha * apart / (alpha**2 * VARIANCE + sigma**2)


def close(actual, expected, tolerance=1e-5):
    expected = jnp.broadcast_to(expected, SHAPE)
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance)


def test_csd_is_the_direction_between_the_means():
    close(family.csd(predict, LATENTS, NOISE, T, **COMMON), difference("text", "empty"))


def test_bridge_goes_from_the_source_to_the_text():
    residual = family.bridge(predict, LATENTS, NOISE, T, guidance_scale=3.0, **COMMON)
    close(residual, 3.0 * difference("text", "source"))


def test_nfsd_switches_its_domain_term():
    options = {"guidance_scale": 7.5, "t_switch": 200}
    residual = family.nfsd(predict, LATENTS, NOISE, T, **options, **COMMON)
    _, sigma = levels(T)
    early = sigma**2 * predict(noisy_latents(), T, "empty")
    domain = jnp.where(
        (T < 200).reshape(-1, 1, 1, 1), early, difference("empty", "negative")
    )
    close(residual, domain + 7.5 * difference("text", "empty"))


@pytest.mark.parametrize("score_scale", [1.0, 0.5])
def test_esd_is_vsd_at_scale_one(score_scale):
    options = {"guidance_scale": 7.5, "score_scale": score_scale}
    residual = family.esd(predict, LATENTS, NOISE, T, **options, **COMMON)
    noisy = noisy_latents()
    empty = predict(noisy, T, "empty")
    prior = empty + 7.5 * (predict(noisy, T, "text") - empty)
    score = predict(noisy, T, "score")
    expected = vsd.vsd_residual(prior, score, T, ABAR, weighting="sigma_squared")
    expected += (1 - score_scale) * difference("score", "score_empty")
    close(residual, expected)


def on_path(name, t, start):
    """Where the path of N(m, v) through `start` at t = 0 is at t."""
    (alpha, sigma), (alpha_0, sigma_0) = levels(t), levels(0 * t)
    spread = jnp.sqrt(alpha**2 * VARIANCE + sigma**2)
    spread_0 = jnp.sqrt(alpha_0**2 * VARIANCE + sigma_0**2)
    mean = MEANS[name]
    return alpha * mean + spread / spread_0 * (start - alpha_0 * mean)


def test_inversion_follows_the_path():
    t = jnp.array([100, 400, 800])
    end = jax.jit(
        lambda x: family.ddim_invert(
            lambda x, t: predict(x, t, "text"), x, t, alphas_cumprod=ABAR, num_steps=100
        )
    )(LATENTS)
    close(end, on_path("text", t, LATENTS), 0.02)


def test_sdi_compares_with_the_noise_of_the_path():
    options = {"guidance_scale": 1.0, "inversion_scale": 1.0, "num_inversions": 100}
    residual = jax.jit(lambda x: family.sdi(predict, x, NOISE, T, **options, **COMMON))(
        LATENTS
    )
    x_t = on_path("text", T, LATENTS)
    alpha, sigma = levels(T)
    expected = sigma**2 * predict(x_t, T, "text") - sigma * (x_t - alpha * LATENTS)
    close(residual, expected, 0.03)


def test_ism_compares_two_points_of_the_path():
    options = {"guidance_scale": 2.0, "interval": 50, "num_inversions": 100}
    t = jnp.array([60, 300, 900])
    residual = jax.jit(lambda x: family.ism(predict, x, NOISE, t, **options, **COMMON))(
        LATENTS
    )
    x_s, x_t = on_path("empty", t - 50, LATENTS), on_path("empty", t, LATENTS)
    empty, text = predict(x_t, t, "empty"), predict(x_t, t, "text")
    _, sigma = levels(t)
    guided = 2.0 * text - empty
    close(residual, sigma**2 * (guided - predict(x_s, t - 50, "empty")), 0.03)


def test_a_method_becomes_a_residual_of_the_step():
    """Bound to networks and prompts: the text embedding carries the prompt's mean."""

    def model(params, noisy, t, context):
        alpha, sigma = levels(t)
        mean = context["text"].mean((1, 2)).reshape(-1, 1, 1, 1) + params
        return sigma * (noisy - alpha * mean) / (alpha**2 * VARIANCE + sigma**2)

    def score_model(params, noisy, t, context):
        seen = context["camera"][:, :1].reshape(-1, 1, 1, 1)
        return model(params[0] * seen, noisy, t, context)

    prior = Prior(NoiseModel(model, "epsilon"), None, None, ABAR, SHAPE[1:], 2)
    eye = jnp.broadcast_to(jnp.eye(4), (3, 4, 4))
    draw = {
        "t": T,
        "noise": NOISE,
        "context": {name: jnp.full((3, 1, 1), mean) for name, mean in MEANS.items()},
        "cameras": CAMERAS.replace(cam_to_world=eye),
    }
    residual = residuals.make_family_residual(
        family.esd,
        prior,
        NoiseModel(score_model, "epsilon"),
        weighting="sigma_squared",
        guidance_scale=1.0,
        score_scale=0.5,
    )
    # phi sees the camera as a shift of 0.6; half of it is left at scale 0.5.
    alpha, sigma = levels(T)
    apart = MEANS["score"] + 0.3 - MEANS["text"]
    expected = sigma**3 * alpha * apart / (alpha**2 * VARIANCE + sigma**2)
    close(residual(LATENTS, draw, 0.6, 0.0), expected)


@pytest.mark.parametrize(
    "make",
    [residuals.make_residual, partial(residuals.make_family_residual, family.csd)],
)
def test_an_unknown_weighting_is_refused(make):
    options = {"guidance_scale": 1.0, "weighting": "sigma"}
    with pytest.raises(ValueError, match="sigma_squared"):
        make(None, None, **options)


def test_only_the_renderer_is_differentiated():
    def loss(latents):
        return jnp.sum(family.csd(predict, latents, NOISE, T, **COMMON) ** 2)

    assert not jnp.any(jax.grad(loss)(LATENTS))


def test_dreamtime_falls_and_spends_its_steps_where_the_weight_is():
    num_steps, middle, width = 500, 500.0, 125.0
    t = family.dreamtime_timesteps(ABAR, num_steps, middle=middle, width=width)
    assert t.shape == (num_steps,) and (np.diff(t) <= 0).all()
    all_t = np.arange(1000)
    abar = ABAR.astype(np.float64)
    weight = np.sqrt((1 - abar) / abar) * np.exp(
        -((all_t - middle) ** 2) / 2 / width**2
    )
    for low, high in ((300, 400), (500, 600), (700, 900)):
        share = weight[low:high].sum() / weight.sum()
        assert np.mean((t >= low) & (t < high)) == pytest.approx(share, abs=0.01)
