# SPDX-License-Identifier: Apache-2.0
"""Skipping empty space with static shapes: an occupancy grid and compaction.

Notation: G cells along an axis over the cube [-1, 1]^3, N = samples of all rays, K =
static capacity. The grid holds a decaying maximum of the density (Instant-NGP,
arXiv:2201.05989, App. C; the grid of nerfacc, arXiv:2210.04847).

More occupied samples than capacity is no error and never a silent one: samples are
thinned at random over the whole image, the survivors stand for the lost ones (their
density is divided by the probability of survival, so the optical depth keeps its
expectation), and the number that was not evaluated is returned. Cutting at K instead
would delete the bottom rows of the image.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

DensityFn = Callable[[jax.Array], jax.Array]


def cell_positions(resolution: int, offset: jax.Array) -> jax.Array:
    """[G, G, G, 3] points of [-1, 1]^3, one in each cell, indexed [x, y, z].

    Args:
      resolution: G.
      offset: [G, G, G, 3] or [1, 1, 1, 3] position in the cell, in [0, 1].
    """
    index = jnp.stack(
        jnp.meshgrid(*[jnp.arange(resolution, dtype=jnp.float32)] * 3, indexing="ij"),
        axis=-1,
    )
    return (index + offset) * (2 / resolution) - 1


def init_occupancy(density_fn: DensityFn, resolution: int) -> jax.Array:
    """[G, G, G] density at the cell centres."""
    centres = cell_positions(resolution, jnp.full((1, 1, 1, 3), 0.5))
    return lax.stop_gradient(density_fn(centres))


def update_occupancy(
    density_fn: DensityFn, occupancy: jax.Array, key: jax.Array, *, decay: float
) -> jax.Array:
    """max(decay * old, density at a random point of each cell). key: consumed.

    Args:
      density_fn: [G, G, G, 3] -> [G, G, G].
      occupancy: [G, G, G].
      key: typed key.
      decay: in [0, 1]; .95 in nerfacc.
    """
    chex.assert_rank(occupancy, 3)
    offset = jax.random.uniform(key, (*occupancy.shape, 3))
    density = density_fn(cell_positions(occupancy.shape[0], offset))
    return lax.stop_gradient(jnp.maximum(decay * occupancy, density))


def occupied_cells(occupancy: jax.Array, *, threshold: float) -> jax.Array:
    """[G, G, G] bool: density above the threshold, or above the mean if that is less.

    The mean keeps a scene that starts nearly empty from being skipped as a whole.
    """
    return occupancy > jnp.minimum(threshold, jnp.mean(occupancy))


def lookup(cells: jax.Array, positions: jax.Array) -> jax.Array:
    """Whether the cell of each point [..., 3] is occupied; False outside the cube."""
    resolution, flat_cells = cells.shape[0], jnp.asarray(cells).reshape(-1)
    scaled = (positions * 0.5 + 0.5) * resolution
    index = jnp.clip(scaled.astype(jnp.int32), 0, resolution - 1)
    strides = (resolution * resolution, resolution, 1)
    flat = sum(index[..., axis] * stride for axis, stride in enumerate(strides))
    inside = jnp.all(jnp.abs(positions) <= 1, axis=-1)
    return flat_cells.at[flat].get(mode="promise_in_bounds") & inside


def thin(
    mask: jax.Array, uniform: jax.Array, capacity: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Drops random samples where more than `capacity` are set.

    Args:
      mask: [R, S] bool.
      uniform: [R, S] in [0, 1), independent of the samples' contents.
      capacity: K, static.

    Returns:
      the thinned mask; the probability of survival, a scalar in (0, 1]; how many
      are likely to be dropped (float32, 0 if all fit).
    """
    count = jnp.sum(mask, dtype=jnp.int32).astype(jnp.float32)
    # Four standard deviations below capacity: the survivors fit all but surely.
    target = max(capacity - 4 * capacity**0.5, 0.5 * capacity)
    keep = jnp.where(count > capacity, target / jnp.maximum(count, 1), 1)
    return mask & (uniform < keep), keep, (1 - keep) * count


def compact(mask: jax.Array, capacity: int) -> tuple[jax.Array, jax.Array]:
    """Positions of the set samples, in order, in an array of static length.

    Args:
      mask: [R, S] bool.
      capacity: K, static; set samples beyond it are left out.

    Returns:
      index: [K] int32 into the flat R * S samples; R * S where unused.
      slot: [R, S] int32 in [0, K], where each sample stands in `index`; K = nowhere.
    """
    chex.assert_rank(mask, 2)
    flags = mask.astype(jnp.int32)
    row_ends = jnp.cumsum(jnp.sum(flags, axis=1))
    # A row's running count as a product with a triangle: cheaper than a cumsum, and
    # exact, because the counts are far below 2^24.
    triangle = np.triu(np.ones((mask.shape[1],) * 2, np.float32), 1)
    before = jnp.matmul(
        flags.astype(jnp.float32), triangle, precision=lax.Precision.HIGHEST
    ).astype(jnp.int32)
    slot = (row_ends - jnp.sum(flags, axis=1))[:, None] + before
    slot = jnp.where(mask & (slot < capacity), slot, capacity)
    index = jnp.full(capacity, mask.size, jnp.int32)
    order = jnp.arange(mask.size, dtype=jnp.int32)
    index = index.at[slot.reshape(-1)].set(order, mode="drop")
    return index, slot


@jax.custom_vjp
def expand(values: jax.Array, index: jax.Array, slot: jax.Array) -> jax.Array:
    """Puts compacted values back in place; zero where no sample was evaluated.

    A gather forward and a gather backward, where a scatter would be serial on a CPU.

    Args:
      values: [K, C].
      index: [K], see `compact`.
      slot: [R, S], see `compact`.

    Returns:
      [R, S, C].
    """
    del index
    capacity = values.shape[0]
    rows = values.at[jnp.minimum(slot, capacity - 1)].get(mode="promise_in_bounds")
    return jnp.where((slot < capacity)[..., None], rows, 0)


def _expand_fwd(values, index, slot):
    return expand(values, index, slot), (index, slot.shape)


def _expand_bwd(residuals, cotangent):
    index, (rays, samples) = residuals
    total = rays * samples
    flat = cotangent.reshape(total, -1)
    rows = flat.at[jnp.minimum(index, total - 1)].get(mode="promise_in_bounds")
    return jnp.where((index < total)[:, None], rows, 0), None, None


expand.defvjp(_expand_fwd, _expand_bwd)
