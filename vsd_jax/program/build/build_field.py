# SPDX-License-Identifier: Apache-2.0
"""From the configuration to the radiance field of a NeRF or a texture."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vsd_jax.scene.nerf import field
from vsd_jax.scene.nerf.encoding import HashGrid, hash_grid
from vsd_jax.types import PyTree

Config = Any
"""A validated `FrozenConfigDict` (`program/settings/config.py`)."""


def make_grid(config: Config) -> HashGrid:
    """The hash grid's layout."""
    return hash_grid(
        num_levels=config.field.num_levels,
        features=config.field.features,
        log2_table_size=config.field.log2_table_size,
        min_resolution=config.field.min_resolution,
        max_resolution=config.field.max_resolution,
        smooth=config.field.smooth,
    )


def make_density_bias(config: Config) -> field.DensityBias:
    """The initialisation of the density."""
    centre = jnp.array(config.field.init_centre)
    inner = field.blob_bias(
        strength=config.field.object_strength,
        radius=config.field.object_radius,
        centre=centre,
    )
    outer = field.blob_bias(
        strength=config.field.scene_strength, radius=config.field.scene_radius
    )
    if config.field.init == "object_in_scene":
        return field.centred_bias(
            inner=inner,
            outer=outer,
            switch_radius=config.field.switch_radius,
            centre=centre,
        )
    return inner if config.field.init == "object" else outer


@functools.lru_cache(maxsize=2)
def make_field(config: Config) -> Callable[[PyTree, jax.Array], tuple]:
    """`(params, points [N, 3]) -> density [N], colour [N, 3]` of a NeRF."""
    grid, bias = make_grid(config), make_density_bias(config)
    return jax.jit(
        lambda params, points: field.query(params, points, grid, density_bias=bias)
    )
