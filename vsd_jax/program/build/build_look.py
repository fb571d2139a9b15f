# SPDX-License-Identifier: Apache-2.0
"""From the configuration to the look inside the step (`vsd_jax/inside.py`)."""

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax import inside
from vsd_jax.program.build import build_method, build_scene
from vsd_jax.program.build.build_field import Config
from vsd_jax.types import NoiseModel, Prior, Scene

_WITHOUT_GUIDANCE = ("csd", "bridge")
_CANDIDATES = 32


def make_look(
    config: Config, scene: Scene, prior: Prior, score: NoiseModel | None
) -> inside.Look:
    """The look with the prior's guidance of `vsd.method`."""
    method = config.vsd.method
    guided = method not in _WITHOUT_GUIDANCE
    known = method not in build_method.FAMILY
    return inside.make_look(
        scene,
        prior,
        score,
        views=build_method.make_views(config),
        guidance_scale=config.vsd.guidance_scale if guided else 1.0,
        x0_limit=config.vsd.x0_limit if known else 0.0,
        size=min(config.render.size, 2 * config.log.sheet_size),
        unconditional="negative" if known else "empty",
    )


def make_view(config: Config) -> inside.View:
    """The same view at every look: of the training law, as much in front as it goes."""
    sample = build_scene.make_camera_sampler(config)
    keys = jax.random.split(jax.random.key(config.seed), _CANDIDATES)
    cameras = jax.vmap(sample)(keys)
    front = np.abs(cameras.azimuth_deg) + np.abs(
        cameras.elevation_deg - config.eval.elevation_deg
    )
    colors, shares, _ = build_scene.make_backgrounds(config)
    index = int(np.argmax(shares))
    return inside.View(
        camera=jax.tree.map(lambda leaf: leaf[int(np.argmin(front))], cameras),
        background=jnp.asarray(colors[index]),
        background_index=jnp.int32(index),
    )
