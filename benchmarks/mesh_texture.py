# SPDX-License-Identifier: Apache-2.0
"""A step of the texture stage for `benchmarks/mesh.py`."""

import jax
import jax.numpy as jnp

from benchmarks.mesh_scenes import (
    NEAR,
    bumpy,
    fit_surface,
    fit_view,
    make_adam_step,
    start_params,
    view,
)
from vsd_jax.scene.mesh import texture
from vsd_jax.scene.nerf.encoding import hash_grid, init_table

FULL = hash_grid(
    num_levels=16,
    features=2,
    log2_table_size=19,
    min_resolution=16,
    max_resolution=2048,
)


def make_texture_loss(found, size, encode, grid=FULL):
    """`loss(params, stats)` of one view of a surface, and its arguments."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"table": init_table(keys[0], grid)}
    params["decoder"] = 0.1 * jax.random.normal(keys[1], (grid.width, 3))
    scene = texture.make_texture(
        image_size=size,
        init=None,
        color=lambda p, x: jax.nn.sigmoid(encode(p["table"], x, grid) @ p["decoder"]),
        behind=lambda p, directions, background: background[None],
        near=NEAR,
        capacity=0.5,
        empty=lambda: found,
        raster_sizes=fit_view(found, size),
    )
    stats = {"surface": found}

    def loss(params, stats):
        out = scene.render(params, stats, view(), jnp.ones(3), None, train=True)
        return jnp.mean(out.rgb**2)

    return loss, (params, stats)


def make_texture_step(resolution, size, encode):
    """`step()` of the texture stage: draw, colour by a full-size grid, Adam."""
    found, _ = fit_surface(start_params(bumpy(resolution)), resolution)
    loss, (params, stats) = make_texture_loss(found, size, encode)
    return make_adam_step(loss, params, 1e-2, stats)[0]
