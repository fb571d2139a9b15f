# SPDX-License-Identifier: Apache-2.0
"""The smallest parts that a step needs: theta is the latent, the prior a mixture."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vsd_jax import particle, vsd
from vsd_jax.diffusion import exact, prompt
from vsd_jax.residuals import make_residual
from vsd_jax.step import make_step
from vsd_jax.types import Camera, Prior, RenderOutput, Scene

T = 100
BETAS = np.linspace(0.00085**0.5 * 3, 0.012**0.5 * 3, T) ** 2
ALPHAS_CUMPROD = np.cumprod(1.0 - BETAS).astype(np.float32)
SHAPE = (1, 1, 2)


def make_scene(shape=SHAPE, spread=1.0) -> Scene:
    """theta is the latent: g(theta, c) = theta."""

    def render(params, stats, camera, background, key, *, train):
        plane = jnp.ones(shape[:2])
        return RenderOutput(
            rgb=params["latent"],
            opacity=plane,
            depth=plane,
            normal=jnp.zeros((*shape[:2], 3)),
            extras={"mean": jnp.mean(params["latent"])},
        )

    return Scene(
        init=lambda key: {"latent": spread * jax.random.normal(key, shape)},
        init_stats=lambda params: {"count": jnp.zeros((), jnp.int32)},
        update_stats=lambda params, stats, step, key: {"count": stats["count"] + 1},
        render=render,
    )


def make_prior(model, shape=SHAPE) -> Prior:
    """A prior in latent space: encode and decode are the identity."""
    return Prior(
        model=model,
        encode=lambda params, image, key: image,
        decode=lambda params, latents: latents,
        alphas_cumprod=ALPHAS_CUMPROD,
        latent_shape=shape,
        image_size=shape[0],
    )


def sample_camera(key) -> Camera:
    unit = jax.random.uniform(key, (2,))
    return Camera(
        cam_to_world=jnp.eye(4),
        fov_deg=jnp.float32(40.0),
        azimuth_deg=360.0 * unit[0] - 180.0,
        elevation_deg=90.0 * unit[1] - 10.0,
        radius=jnp.float32(2.5),
    )


def make_contexts(num_components, num_backgrounds=1):
    """Contexts of the unconditional mixture."""
    text = jnp.zeros((len(prompt.VIEWS), num_backgrounds, 1, num_components))
    return {"text": text, "negative": text, "score": text}


DEFAULTS = {
    "sample_camera": sample_camera,
    "sample_background": particle.make_background_sampler(np.ones((1, 3)), [1.0]),
    "views": partial(prompt.hard_views, overhead_deg=60.0, front_half_angle_deg=45.0),
    "regularizer": particle.no_regularizer,
    "t_range": partial(
        vsd.two_stage_t_range,
        t_min=2,
        t_max=T - 2,
        t_max_late=T // 2,
        anneal_step=10**6,
    ),
    "score_t_range": (0, T - 1),
    "num_views": 1,
    "score_steps": 1,
    "camera_dropout": 0.1,
    "sigma_floor": 0.05,
    "subset": "rotating",
    "particle_tx": optax.sgd(0.1),
    "score_tx": optax.identity(),
}


def simple_step(scene, prior, score, **overrides):
    """`make_step` with small defaults."""
    residual = make_residual(
        prior, score, guidance_scale=1.0, weighting="sigma_squared"
    )
    options = {"residual": residual, **DEFAULTS, **overrides}
    return make_step(scene, prior, score, **options)


def mixture():
    """Two well separated modes with weights 1/4 and 3/4."""
    means = jnp.array([[-2.0, 0.0], [2.0, 0.5]]).reshape(2, *SHAPE)
    return exact.gaussian_mixture(
        means, jnp.full(means.shape, 0.04), jnp.array([0.25, 0.75])
    )
