# SPDX-License-Identifier: Apache-2.0
"""Steps of scenes alone, with Adam, for `benchmarks/accelerator_parts.py`."""

from collections.abc import Callable

import jax
import optax

from benchmarks import mesh_scenes, mesh_texture
from vsd_jax.scene.nerf import encoding

NERF = {
    "full": dict(size=128, samples=64, levels=16, log2_table=19, finest=2048),
    "tiny": dict(size=8, samples=8, levels=2, log2_table=8, finest=32),
}
"""A million samples a step, as Instant-NGP takes (2^18 to 2^20, arXiv:2201.05989)."""
_TINY_GRID = encoding.hash_grid(
    num_levels=2,
    features=2,
    log2_table_size=8,
    min_resolution=16,
    max_resolution=32,
)


def texture_update(found, size: str) -> tuple[Callable, tuple]:
    """`step(params, moments, stats)` of the texture stage, and its first arguments.

    Args:
      found: the surface.
      size: "full" (512 pixels, 2^19 rows a level) or "tiny".
    """
    pixels, grid = (512, mesh_texture.FULL) if size == "full" else (16, _TINY_GRID)
    loss, (params, stats) = mesh_texture.make_texture_loss(
        found, pixels, encoding.encode, grid
    )
    tx = optax.adam(1e-2)

    def step(params, moments, stats):
        gradient = jax.grad(loss)(params, stats)
        update, moments = tx.update(gradient, moments, params)
        return optax.apply_updates(params, update), moments

    return step, (params, tx.init(params), stats)


def surface(size: str):
    """The parameters of a bumpy ball and the ball, at the paper's resolution."""
    resolution = 104 if size == "full" else 6
    params = mesh_scenes.start_params(mesh_scenes.bumpy(resolution))
    return params, *mesh_scenes.fit_surface(params, resolution)
