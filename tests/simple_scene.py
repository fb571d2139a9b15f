# SPDX-License-Identifier: Apache-2.0
"""The smallest parts that a step needs: theta is the latent, the prior a mixture."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vsd_jax import methods, parallel, particle, timesteps
from vsd_jax.diffusion import exact, prompt
from vsd_jax.distil import Distillation, Population, distil
from vsd_jax.distil import init_state as distil_state
from vsd_jax.types import Camera, NoiseModel, Prior, RenderOutput, Scene, Score, Views
from vsd_jax.views import make_background_sampler

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


two_stage = partial(
    timesteps.two_stage_t_range,
    t_min=2,
    t_max=T - 2,
    t_max_late=T // 2,
    anneal_step=10**6,
)
VIEWS = Views(
    sample_camera=sample_camera,
    sample_background=make_background_sampler(np.ones((1, 3)), [1.0]),
    weigh_prompts=partial(
        prompt.hard_views, overhead_deg=60.0, front_half_angle_deg=45.0
    ),
    make_t_range=lambda alphas_cumprod: two_stage,
    num=1,
)


def make_score(model, phi=None, **changes) -> Score | None:
    """A score network with small defaults; None for none."""
    if model is None:
        return None
    score = Score(
        model=model,
        init=lambda key, weights: {} if phi is None else phi,
        tx=optax.identity(),
        updates=1,
        t_range=(0.0, 1.0),
        camera_dropout=0.1,
        sigma_floor=0.05,
    )
    return score._replace(**changes)


def simple_run(scene, prior, model, *, phi=None, **options) -> Distillation:
    """`distil` with small defaults: SDS without a score network, else VSD.

    Options: those of `Views` and `Population`, `score_steps`, `score_tx`,
    `camera_dropout`, `regularizer`, `particle_tx`, `t_range`, `devices`.
    """
    found = {name: options.pop(name) for name in [*options] if name in Views._fields}
    t_range = options.pop("t_range", two_stage)
    found.setdefault("make_t_range", lambda alphas_cumprod: t_range)
    changes = {
        field: options.pop(name)
        for name, field in (
            ("score_steps", "updates"),
            ("score_tx", "tx"),
            ("camera_dropout", "camera_dropout"),
        )
        if name in options
    }
    make = methods.vsd if model else methods.sds
    tx, devices = options.pop("particle_tx", optax.sgd(0.1)), options.pop("devices", ())
    regularizer = options.pop("regularizer", particle.no_regularizer)
    return distil(
        scene,
        prior,
        make(guidance_scale=1.0),
        make_score(model, phi, **changes),
        VIEWS._replace(**found),
        tx=tx,
        regularizer=regularizer,
        population=Population(**options),
        devices=parallel.Devices(*devices),
    )


def simple_step(scene, prior, model, **options):
    """The step of `simple_run`."""
    return simple_run(scene, prior, model, **options).step


def init_state(key, scene, phi, *, num_particles, particle_tx, score_tx):
    """A state of `simple_run`, phi given."""
    score = make_score(NoiseModel(None, "sample"), phi, tx=score_tx)
    return distil_state(scene, score, particle_tx, key, {}, num_particles=num_particles)


def mixture():
    """Two well separated modes with weights 1/4 and 3/4."""
    means = jnp.array([[-2.0, 0.0], [2.0, 0.5]]).reshape(2, *SHAPE)
    return exact.gaussian_mixture(
        means, jnp.full(means.shape, 0.04), jnp.array([0.25, 0.75])
    )
