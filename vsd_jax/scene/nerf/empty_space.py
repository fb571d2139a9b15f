# SPDX-License-Identifier: Apache-2.0
"""The field at samples: everywhere, or only where a mask says so.

Notation as in `volume.py`: R rays, S samples a ray, K = static capacity, C = channels
of a sample (1 density + the rest). All three return the same for the same mask, as
long as the capacity holds.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vsd_jax.scene.nerf import occupancy
from vsd_jax.scene.nerf.sampling import Samples, ray_points

FieldFn = Callable[[jax.Array, jax.Array | None], tuple[jax.Array, jax.Array]]
"""`(positions [N, 3], key or None) -> density [N], colour and more [N, C - 1]`."""


class Field(NamedTuple):
    """A `FieldFn` in its two steps, for who orders or keeps what lies between.

    Attributes:
      raw: positions [N, 3] -> [N, C]: what the field holds there, costly.
      activate: (raw [..., C], key or None) -> density [...], colour and more
        [..., C - 1]: each sample by itself, cheap; with noise if there is a key.
    """

    raw: Callable[[jax.Array], jax.Array]
    activate: FieldFn

    def __call__(self, positions, key):
        """Density and values at positions."""
        return self.activate(self.raw(positions), key)


BLOCK = 32768
"""Samples evaluated at a time where no gradient is needed; memory, not a result."""


def _pick_points(origins, directions, tmid, index):
    """[K, 3] positions of the compacted samples; unused slots repeat the last one."""
    index = jnp.minimum(index, tmid.size - 1)
    ray = index // tmid.shape[1]
    return origins[ray] + directions[ray] * tmid.reshape(-1)[index][:, None]


def evaluate_dense(field: FieldFn, origins, directions, samples: Samples, key=None):
    """The field at every sample, masked samples emptied afterwards.

    Returns:
      density [R, S] and values [R, S, C - 1].
    """
    points = ray_points(origins, directions, samples.tmid)
    density, values = field(points.reshape(-1, 3), key)
    density = density.reshape(samples.tmid.shape)
    if samples.mask is not None:
        density = jnp.where(samples.mask, density, 0)
    return density, values.reshape(*samples.tmid.shape, -1)


def evaluate_compact(
    field: FieldFn, origins, directions, samples: Samples, key, *, uniform, capacity
):
    """The field at the unmasked samples, at most `capacity` of them.

    Args:
      field: see `FieldFn`.
      origins: [R, 3].
      directions: [R, 3].
      samples: with a mask.
      key: for the field; None = none.
      uniform: [R, S] decides which samples go if they are too many.
      capacity: K, static.

    Returns:
      density [R, S], values [R, S, C - 1] and the number of samples left out.
    """
    mask, keep, overflow = occupancy.thin(samples.mask, uniform, capacity)
    index, slot = occupancy.compact(mask, capacity)
    density, values = field(_pick_points(origins, directions, samples.tmid, index), key)
    packed = jnp.concatenate([density[:, None] / keep, values], axis=1)
    spread = occupancy.expand(packed, index, slot)
    return spread[..., 0], spread[..., 1:], overflow


def evaluate_blocks(
    field: FieldFn, origins, directions, samples: Samples, *, block: int = BLOCK
):
    """As `evaluate_compact` without capacity: blocks of samples until all are done.

    The number of blocks follows the data, so nothing is left out; there is no reverse
    mode through it.

    Returns:
      density [R, S] and values [R, S, C - 1].
    """
    total = samples.mask.size
    block = min(block, total)
    index, slot = occupancy.compact(samples.mask, -(-total // block) * block)
    count = jnp.sum(samples.mask, dtype=jnp.int32)

    def evaluate(start):
        chosen = lax.dynamic_slice(index, (start,), (block,))
        points = _pick_points(origins, directions, samples.tmid, chosen)
        density, values = field(points, None)
        return jnp.concatenate([density[:, None], values], axis=1)

    shape = jax.eval_shape(evaluate, jax.ShapeDtypeStruct((), jnp.int32))
    packed = lax.fori_loop(
        np.int32(0),
        (count + block - 1) // block,
        lambda i, out: lax.dynamic_update_slice(
            out, evaluate(i * block), (i * block, np.int32(0))
        ),
        jnp.zeros((index.shape[0], shape.shape[1]), shape.dtype),
    )
    spread = occupancy.expand(packed, index, slot)
    return spread[..., 0], spread[..., 1:]
