# SPDX-License-Identifier: Apache-2.0
"""Where along a ray to look: the cube, stratified samples, importance samples.

Notation: R rays, S samples. `tdist` [R, S + 1] are bin edges, `tmid` [R, S] the one
sample of each bin; both are distances from the camera in scene units.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from vsd_jax.scene.nerf.occupancy import lookup

PLACES = "places"
"""Name of the distances along rays and of their order: what is always kept for the
gradient (`jax.checkpoint`), since they have none and an importance pass is long."""


class Samples(NamedTuple):
    """Samples along rays: edges [R, S + 1], points [R, S], skip mask [R, S]."""

    tdist: jax.Array
    tmid: jax.Array
    mask: jax.Array | None


def intersect_cube(
    origins: jax.Array, directions: jax.Array, *, half_extent: float, near: float
) -> tuple[jax.Array, jax.Array]:
    """Where rays enter and leave the cube [-half_extent, half_extent]^3.

    Args:
      origins: [R, 3], outside or inside.
      directions: [R, 3] unit; components may be zero.
      half_extent: scene units.
      near: least distance from the camera.

    Returns:
      entry and exit [R] with near <= entry <= exit; equal for a ray that misses.
    """
    tiny = jnp.asarray(1e-9, directions.dtype)
    signed = jnp.where(directions < 0, -1, 1) * jnp.maximum(jnp.abs(directions), tiny)
    first = (-half_extent - origins) / signed
    second = (half_extent - origins) / signed
    entry = jnp.max(jnp.minimum(first, second), axis=-1)
    leave = jnp.min(jnp.maximum(first, second), axis=-1)
    entry = jnp.maximum(entry, near)
    # A ray that misses must not carry the far-away numbers of parallel faces.
    return jnp.where(leave > entry, entry, near), jnp.where(leave > entry, leave, near)


def stratified(
    near: jax.Array, far: jax.Array, num_samples: int, jitter: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Equal bins between near and far with one sample in each.

    Args:
      near: [R].
      far: [R] >= near.
      num_samples: S.
      jitter: [R, S] in [0, 1), place in the bin; None = the middle.

    Returns:
      tdist [R, S + 1] and tmid [R, S].
    """
    width = ((far - near) / num_samples)[:, None]
    edge = jnp.arange(num_samples + 1, dtype=near.dtype)[None]
    tdist = near[:, None] + edge * width
    place = 0.5 if jitter is None else jitter
    return tdist, near[:, None] + (edge[:, :-1] + place) * width


def importance(
    tdist: jax.Array, weights: jax.Array, uniform: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Adds samples where the weights of a first pass are (NeRF Sec. 5.2).

    Args:
      tdist: [R, S + 1] bin edges of the first pass.
      weights: [R, S] >= 0; held constant. A floor keeps every bin reachable.
      uniform: [R, F] in [0, 1), made stratified here: one draw per 1 / F of the mass.

    Returns:
      tdist [R, F + 1] and tmid [R, F] of the new samples, sorted.
    """
    chex.assert_equal_shape_prefix([tdist, weights, uniform], 1)
    num_new = uniform.shape[1]
    weights = lax.stop_gradient(weights) + 1e-4
    cdf = jnp.cumsum(weights, axis=-1)
    cdf = jnp.pad(cdf / cdf[:, -1:], ((0, 0), (1, 0)))
    share = (jnp.arange(num_new, dtype=tdist.dtype)[None] + uniform) / num_new
    bins = jnp.sum(share[:, :, None] >= cdf[:, None, 1:-1], axis=-1)
    low, high = _pick(cdf, bins), _pick(cdf, bins + 1)
    start, stop = _pick(tdist, bins), _pick(tdist, bins + 1)
    tmid = start + (stop - start) * (share - low) / (high - low)
    tmid = checkpoint_name(tmid, PLACES)
    return _edges_between(tmid, tdist[:, 0], tdist[:, -1]), tmid


def _pick(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """rows [R, S] at columns [R, F] of each: [R, F], no gradient to what is picked."""
    rows = lax.stop_gradient(rows)
    gather = functools.partial(jnp.take_along_axis, axis=1)
    return lax.platform_dependent(rows, columns, cpu=gather, default=_select)


def _select(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The same numbers for accelerators, where gathers of single numbers are slow."""
    chosen = columns[:, :, None] == jnp.arange(rows.shape[1])[None, None]
    return jnp.sum(jnp.where(chosen, rows[:, None], 0), axis=-1)


def merge(
    tdist: jax.Array, tmid: jax.Array, extra: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sorts first-pass and new samples into one set; edges lie half-way.

    Args:
      tdist: [R, S + 1].
      tmid: [R, S].
      extra: [R, F].

    Returns:
      tdist [R, S + F + 1], tmid [R, S + F] and `order` [R, S + F]: which of the S
      first and F new ones each of them is, for `in_order`.
    """
    both = jnp.concatenate([tmid, extra], axis=1)
    source = lax.broadcasted_iota(jnp.int32, both.shape, 1)
    merged, order = lax.sort((both, source), dimension=1, num_keys=1)
    merged, order = checkpoint_name((merged, order), PLACES)
    return _edges_between(merged, tdist[:, 0], tdist[:, -1]), merged, order


def in_order(values: jax.Array, order: jax.Array) -> jax.Array:
    """Values [R, S, C] of each ray in an order [R, S] of its samples (`merge`)."""
    num_rays, total = order.shape
    start = total * jnp.arange(num_rays, dtype=order.dtype)
    rows = values.reshape(num_rays * total, -1).at[order + start[:, None]]
    # Unique: the gradient writes each row once, it need not add.
    return rows.get(mode="promise_in_bounds", unique_indices=True)


def _edges_between(tmid, near, far):
    between = 0.5 * (tmid[:, 1:] + tmid[:, :-1])
    return jnp.concatenate([near[:, None], between, far[:, None]], axis=1)


def place_samples(
    origins: jax.Array,
    directions: jax.Array,
    uniform: jax.Array | None,
    *,
    num_samples: int,
    half_extent: float,
    near: float,
    cells: jax.Array | None,
) -> Samples:
    """Stratified samples in the cube and which of them lie in occupied cells.

    Args:
      origins: [R, 3].
      directions: [R, 3] unit.
      uniform: [R, S] jitter in [0, 1); None = bin middles.
      num_samples: S.
      half_extent: half size of the sampled cube, <= 1.
      near: least distance from the camera, scene units.
      cells: [G, G, G] bool; None = nothing is skipped.
    """
    entry, leave = intersect_cube(
        origins, directions, half_extent=half_extent, near=near
    )
    tdist, tmid = stratified(entry, leave, num_samples, uniform)
    tmid = checkpoint_name(tmid, PLACES)
    return Samples(tdist, tmid, mask_samples(origins, directions, tmid, cells))


def mask_samples(origins, directions, tmid, cells):
    """[R, S] bool: in an occupied cell, on a ray that meets the cube; None = all."""
    if cells is None:
        return None
    hit = lookup(cells, ray_points(origins, directions, tmid))
    return hit & (tmid[:, -1:] > tmid[:, :1])


def ray_points(origins, directions, tmid):
    """[R, S, 3] positions at the distances `tmid` [R, S]."""
    return origins[:, None] + directions[:, None] * tmid[..., None]
