# SPDX-License-Identifier: Apache-2.0
"""The look inside the step, against priors in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
from simple_scene import (
    ALPHAS_CUMPROD,
    SHAPE,
    T,
    make_prior,
    make_scene,
    mixture,
    sample_camera,
)

from vsd_jax import inside
from vsd_jax.diffusion import exact
from vsd_jax.diffusion.guidance import PLAIN, Guidance
from vsd_jax.diffusion.noise import add_noise
from vsd_jax.types import NoiseModel, ViewWeights

MODEL = exact.make_model(ALPHAS_CUMPROD)
TIMES = jnp.array([T // 5, T // 2])


class Weighing:
    """As much of `Views` as a look asks for: always the front."""

    @staticmethod
    def weigh_prompts(azimuth_deg, elevation_deg):
        return ViewWeights(jnp.array([1.0, 0.0, 0.0, 0.0]), None)


class Phi:
    """A score network that answers phi, whatever it sees."""

    camera_dropout = 0.1

    model = NoiseModel(
        lambda params, noisy, t, context: jnp.full_like(noisy, params[0]), "sample"
    )


def look_at(latent, *, score, guidance=PLAIN, phi=0.0, prior=None):
    text = jnp.zeros((4, 1, 1, 2))
    prompts = {"text": text, "negative": text, "score": text}
    view = inside.View(sample_camera(jax.random.key(1)), jnp.ones(3), jnp.int32(0))
    look = inside.make_look(
        *(make_scene(), prior or make_prior(MODEL), score, Weighing),
        guidance_scale=1.0,
        guidance=guidance,
        size=1,
    )
    networks = (jnp.float32(phi), mixture())
    theta = ({"latent": jnp.asarray(latent).reshape(SHAPE)}, {})
    key = jax.random.key(0)
    return jax.jit(look)(theta, networks, prompts, view, key, t=TIMES)


def test_each_network_shows_its_own_x_0():
    latent = jnp.array([0.5, 0.25])
    found = look_at(latent, score=Phi, phi=0.75)
    np.testing.assert_allclose(found["render"].ravel(), latent, atol=1e-6)
    np.testing.assert_allclose(found["score"], 0.75, atol=1e-4)
    expected = np.sqrt(np.mean((0.75 - latent) ** 2))
    np.testing.assert_allclose(found["score_error"], expected, rtol=1e-3)
    assert found["noisy"].shape == found["prior"].shape == (2, *SHAPE)


def test_x_t_and_the_priors_x_0_are_those_of_the_formula():
    latent = jnp.array([0.5, 0.25]).reshape(1, *SHAPE)
    found = look_at(latent[0], score=None)
    assert "score" not in found and "score_error" not in found
    keys = jax.random.split(jax.random.key(0), 3)
    noise = jax.random.normal(keys[1], latent.shape)
    for i, t in enumerate(TIMES):
        noisy = add_noise(latent, noise, t[None], ALPHAS_CUMPROD)
        np.testing.assert_allclose(
            found["noisy"][i], jnp.clip(noisy[0], 0, 1), atol=1e-5
        )
        context = {"text": jnp.zeros((1, 1, 2))}
        predicted = MODEL.apply(mixture(), noisy, t[None], context)
        abar = ALPHAS_CUMPROD[int(t)]
        x0 = (noisy - np.sqrt(1 - abar) * predicted) / np.sqrt(abar)
        error = np.sqrt(np.mean((x0 - latent) ** 2))
        np.testing.assert_allclose(found["prior_error"][i], error, rtol=1e-3)


def test_a_prior_that_reads_the_camera_is_told_it():
    """It answers with a number of the camera's matrix."""
    model = NoiseModel(
        lambda params, noisy, t, context: (
            jnp.zeros_like(noisy) + context["camera"][:, 11].reshape(-1, 1, 1, 1)
        ),
        "sample",
    )
    prior = make_prior(model)._replace(reads_camera=True)
    latent = np.array([0.5, 0.25])
    found = look_at(latent, score=None, prior=prior)
    told = sample_camera(jax.random.key(1)).cam_to_world[2, 3]
    expected = np.sqrt(np.mean((told - latent) ** 2))
    np.testing.assert_allclose(found["prior_error"], expected, rtol=1e-3)


def test_the_guidance_is_that_of_training():
    near, far = (
        look_at([5.0, 5.0], score=None, guidance=Guidance(x0_limit=limit))
        for limit in (0.5, 0.0)
    )
    assert (near["prior_error"] > 4.4).all()  # x_0 is kept within 0.5 of 0
    assert (near["prior_error"] > far["prior_error"]).all()
