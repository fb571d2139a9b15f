# SPDX-License-Identifier: Apache-2.0
"""Multiresolution hash grid (Instant-NGP, arXiv:2201.05989) and frequency encoding.

Notation: L levels, F features per row, `rows` = table rows of all levels together,
N points. A level with resolution r has r cells and r + 1 vertices along each axis.
Index arithmetic is Instant-NGP's (its Eq. 4): x * 1 xor y * 2654435761 xor
z * 805459861, modulo a power of two; levels whose vertices fit are indexed densely.

The forward unrolls levels and corners, so that XLA fuses hash, gather and
interpolation into one loop without [N, 8] arrays. The table gradient is written by
hand. On CPU it is one serial loop over points per level, which XLA compiles to a
single kernel as long as the loop body stays small (`small_call`, guarded by a test);
elsewhere it is a chain of scatter-adds. Mapping over particles runs that loop once per
particle, because a batched loop would fall back to generic scatters.
"""

import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_PRIMES = (1, 2654435761, 805459861)


class HashGrid(NamedTuple):
    """The static layout of a grid; hashable, holds no arrays.

    Attributes:
      resolutions: cells along an axis, per level.
      offsets: first table row of each level.
      sizes: table rows of each level.
      dense: whether each level is indexed without hashing.
      features: columns of the table.
      smooth: smoothstep instead of linear interpolation.
    """

    resolutions: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    dense: tuple[bool, ...]
    features: int
    smooth: bool

    @property
    def rows(self) -> int:
        """Table rows of all levels together."""
        return sum(self.sizes)

    @property
    def width(self) -> int:
        """Length of an encoded point."""
        return self.features * len(self.resolutions)


def level_resolutions(num_levels: int, low: int, high: int) -> tuple[int, ...]:
    """Geometric progression of resolutions, floor(low * b^level).

    In float64 with a guard: float32 turns 512 into 511.99997, hence into 511.
    """
    if num_levels == 1:
        return (low,)
    growth = math.log(high / low) / (num_levels - 1)
    return tuple(
        math.floor(low * math.exp(growth * level) + 1e-6) for level in range(num_levels)
    )


def hash_grid(
    *,
    num_levels: int,
    features: int,
    log2_table_size: int,
    min_resolution: int,
    max_resolution: int,
    dense_coarse: bool = True,
    smooth: bool = False,
) -> HashGrid:
    """Lays out a grid.

    Args:
      num_levels: L >= 1.
      features: F, columns per level; above 8 the CPU backward leaves the fast path.
      log2_table_size: rows of a hashed level, as a power of two.
      min_resolution: cells along an axis at the coarsest level.
      max_resolution: the same at the finest level.
      dense_coarse: give a level whose vertices fit into the table exactly those rows
        and index them without hashing (no collisions, fewer parameters).
      smooth: smoothstep interpolation weights (continuous first derivative).

    Raises:
      ValueError: if a number makes no grid.
    """
    if num_levels < 1 or features < 1 or not 1 <= min_resolution <= max_resolution:
        raise ValueError(
            "A hash grid needs num_levels >= 1, features >= 1 and 1 <= min_resolution "
            f"<= max_resolution; got {num_levels}, {features}, {min_resolution}, "
            f"{max_resolution}."
        )
    resolutions = level_resolutions(num_levels, min_resolution, max_resolution)
    table = 2**log2_table_size
    dense = tuple(dense_coarse and (r + 1) ** 3 <= table for r in resolutions)
    sizes = tuple(
        (r + 1) ** 3 if d else table for r, d in zip(resolutions, dense, strict=True)
    )
    offsets = tuple(int(o) for o in np.cumsum((0, *sizes[:-1])))
    if sum(sizes) >= 2**31:
        raise ValueError("The table has 2^31 rows or more; int32 cannot index it.")
    return HashGrid(resolutions, offsets, sizes, dense, features, smooth)


def init_table(key: jax.Array, grid: HashGrid, scale: float = 1e-4) -> jax.Array:
    """[rows, F] float32, U(-scale, scale) as in Instant-NGP. key: consumed."""
    shape = (grid.rows, grid.features)
    return jax.random.uniform(key, shape, minval=-scale, maxval=scale)


def _corners(grid: HashGrid, level: int, xyz):
    """Table rows and weights of the 8 cell corners; xyz: three [...] in [0, 1]."""
    resolution, size = grid.resolutions[level], grid.sizes[level]
    lows, fractions = [], []
    for x in xyz:
        scaled = x * np.asarray(resolution, x.dtype)
        low = jnp.clip(jnp.floor(scaled), 0, resolution - 1)
        fraction = scaled - low
        if grid.smooth:
            fraction = fraction * fraction * (3 - 2 * fraction)
        lows.append(low.astype(jnp.uint32))
        fractions.append(fraction)
    dense = grid.dense[level]
    strides = [np.uint32(s) for s in _strides(resolution, dense)]
    ids, weights = [], []
    for corner in range(8):
        bits = [(corner >> axis) & 1 for axis in range(3)]
        a, b, c = (
            (low + np.uint32(bit)) * stride
            for low, bit, stride in zip(lows, bits, strides, strict=True)
        )
        row = a + b + c if dense else (a ^ b ^ c) & np.uint32(size - 1)
        ids.append(row.astype(jnp.int32) + np.int32(grid.offsets[level]))
        wx, wy, wz = (
            f if bit else 1 - f for f, bit in zip(fractions, bits, strict=True)
        )
        weights.append(wx * wy * wz)
    return ids, weights


def _strides(resolution: int, dense: bool) -> tuple[int, int, int]:
    return (1, resolution + 1, (resolution + 1) ** 2) if dense else _PRIMES


def _unit(positions: jax.Array):
    """Coordinates in [-1, 1]^3 -> three arrays in [0, 1] (outside: clamped)."""
    unit = jnp.clip(positions * 0.5 + 0.5, 0, 1)
    return unit[..., 0], unit[..., 1], unit[..., 2]


def encode_differentiable(table, positions, grid: HashGrid) -> jax.Array:
    """As `encode`, but plain autodiff: gradients for the positions too, and slow."""
    table, xyz = jnp.asarray(table), _unit(positions)
    out = []
    for level in range(len(grid.resolutions)):
        ids, weights = _corners(grid, level, xyz)
        out.append(
            sum(
                table.at[i].get(mode="promise_in_bounds") * w[:, None]
                for i, w in zip(ids, weights, strict=True)
            )
        )
    return jnp.concatenate(out, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _encode(table, positions, grid):
    return encode_differentiable(table, positions, grid)


def _encode_fwd(table, positions, grid):
    return _encode(table, positions, grid), positions


def _encode_bwd(grid, positions, cotangent):
    return _table_gradient(grid)(positions, cotangent), jnp.zeros_like(positions)


_encode.defvjp(_encode_fwd, _encode_bwd)


def encode(table: jax.Array, positions: jax.Array, grid: HashGrid) -> jax.Array:
    """Interpolated features of points, coarse level first.

    Any leading shape of points; unbatched over particles (map it with `vmap`).
    Reverse mode gives the table's gradient only: positions are held constant (use
    `encode_differentiable`, or finite differences, where they move).

    Args:
      table: [rows, F], see `init_table`.
      positions: [..., 3] in [-1, 1], clamped.
      grid: the layout.

    Returns:
      [..., L * F].
    """
    chex.assert_shape(table, (grid.rows, grid.features))
    chex.assert_axis_dimension(positions, -1, 3)
    flat = lax.stop_gradient(positions.reshape(-1, 3))
    return _encode(table, flat, grid).reshape(*positions.shape[:-1], grid.width)


# Particles or views up to which each has loops of its own: two views of 65,536 points
# take 13 ms so, 20 ms as a loop over loops (XLA on two cores of a CPU).
_UNROLLED = 4


@functools.lru_cache(maxsize=64)
def _table_gradient(grid: HashGrid):
    """(positions [N, 3], cotangent [N, L * F]) -> table gradient [rows, F]."""

    @jax.custom_batching.custom_vmap
    def gradient(positions, cotangent):
        return lax.platform_dependent(
            positions,
            cotangent,
            cpu=functools.partial(_gradient_loop, grid),
            default=functools.partial(_gradient_scatter, grid),
        )

    @gradient.def_vmap
    def _over_particles(axis_size, in_batched, positions, cotangent):
        batched = [
            x if is_batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            for x, is_batched in zip((positions, cotangent), in_batched, strict=True)
        ]
        if axis_size > _UNROLLED:
            return lax.map(lambda args: gradient(*args), tuple(batched)), True
        return jnp.stack([gradient(*args) for args in zip(*batched, strict=True)]), True

    return gradient


def _gradient_scatter(grid: HashGrid, positions, cotangent):
    """Chained scatter-adds, for accelerators."""
    total = jnp.zeros((grid.rows, grid.features), cotangent.dtype)
    xyz = _unit(positions)
    for level in range(len(grid.resolutions)):
        columns = slice(level * grid.features, (level + 1) * grid.features)
        for i, w in zip(*_corners(grid, level, xyz), strict=True):
            update = w[:, None] * cotangent[:, columns]
            total = total.at[i].add(update, mode="promise_in_bounds")
    return total


def _gradient_loop(grid: HashGrid, positions, cotangent):
    """One serial loop over points per level, for CPUs.

    It ends with the last point that has a cotangent: compacted samples leave the end
    of their array unused.
    """
    total = jnp.zeros((grid.rows, grid.features), cotangent.dtype)
    order = jnp.arange(1, positions.shape[0] + 1, dtype=jnp.int32)
    used = jnp.any(cotangent != 0, axis=1)
    count = jnp.max(jnp.where(used, order, 0), initial=0)
    for level in range(len(grid.resolutions)):
        add_point = _point_adder(grid, level, positions, cotangent)
        total = lax.fori_loop(np.int32(0), count, add_point, total)
    return total


def _point_adder(grid: HashGrid, level: int, positions, cotangent):
    """The body of the loop over points at one level; it must stay small."""
    zero, features = np.int32(0), grid.features

    def add_point(point, total):
        # int32 also where 64-bit types are on: the indices of a slice must agree.
        point = point.astype(np.int32)
        xyz = _unit(lax.dynamic_slice(positions, (point, zero), (1, 3))[0])
        column = np.int32(level * features)
        share = lax.dynamic_slice(cotangent, (point, column), (1, features))
        for i, w in zip(*_corners(grid, level, xyz), strict=True):
            row = lax.dynamic_slice(total, (i, zero), (1, features))
            total = lax.dynamic_update_slice(total, row + w * share, (i, zero))
        return total

    return add_point


def frequency_encode(x: jax.Array, num_octaves: int) -> jax.Array:
    """x and sin, cos of 2^k x for k < num_octaves.

    NeRF's encoding (arXiv:2003.08934, Eq. 4) without its pi and with x itself, as in
    the authors' code.

    Args:
      x: [..., D].
      num_octaves: K >= 0.

    Returns:
      [..., D * (1 + 2 K)].
    """
    scaled = [x * 2.0**octave for octave in range(num_octaves)]
    waves = [wave(s) for s in scaled for wave in (jnp.sin, jnp.cos)]
    return jnp.concatenate([x, *waves], axis=-1)
