# SPDX-License-Identifier: Apache-2.0
"""Volume rendering: samples -> weights -> colour, opacity, depth.

Notation: R rays, S samples a ray, K = static capacity of evaluated samples, C =
channels of a sample (1 density + the rest). `alpha` = 1 - exp(-density * width),
`weights` = alpha * transmittance (NeRF Eq. 3, arXiv:2003.08934), `opacity` = their sum.
Unbatched over particles.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vsd_jax.scene import regularizers
from vsd_jax.scene.nerf import sampling
from vsd_jax.scene.nerf.empty_space import (
    Field,
    FieldFn,
    evaluate_blocks,
    evaluate_compact,
    evaluate_dense,
)
from vsd_jax.scene.nerf.sampling import (
    Samples,
    mask_samples,
    place_samples,
    ray_points,
)
from vsd_jax.scene.vectors import unit_or_zero


class Composited(NamedTuple):
    """What a ray sees (local to the scene package).

    Attributes:
      values: [R, C - 1] weighted sums, without background.
      opacity: [R].
      depth: [R] mean distance of what is there, 0 for an empty ray.
      weights: [R, S].
    """

    values: jax.Array
    opacity: jax.Array
    depth: jax.Array
    weights: jax.Array


def composite(
    density: jax.Array, values: jax.Array, tdist: jax.Array, tmid: jax.Array
) -> Composited:
    """Accumulates samples front to back (NeRF Eq. 3).

    Args:
      density: [R, S] >= 0, per scene unit.
      values: [R, S, C - 1] whatever is to be summed.
      tdist: [R, S + 1] sorted edges.
      tmid: [R, S] sample distances.
    """
    chex.assert_equal_shape([density, tmid])
    thickness = density * jnp.diff(tdist, axis=-1)
    # Exclusive cumulative sum as a product with a triangle: within a ray only, so that
    # no precision is lost to other rays, and faster than a scan on a CPU.
    triangle = np.triu(np.ones((density.shape[1],) * 2, density.dtype), 1)
    before = jnp.matmul(thickness, triangle, precision=lax.Precision.HIGHEST)
    weights = jnp.exp(-before) * -jnp.expm1(-thickness)
    opacity = jnp.sum(weights, axis=-1)
    distance = jnp.sum(weights * tmid, axis=-1)
    mass = jnp.where(opacity > 1e-6, opacity, 1)
    depth = jnp.where(opacity > 1e-6, distance / mass, 0)
    summed = jnp.einsum("rs,rsc->rc", weights, values, precision=lax.Precision.HIGHEST)
    return Composited(summed, opacity, depth, weights)


def refine(
    field: FieldFn,
    origins,
    directions,
    samples: Samples,
    uniform,
    *,
    cells: jax.Array,
) -> Samples:
    """Adds importance samples from a first density pass where cells are occupied.

    Args:
      field: see `FieldFn`, closed over constant parameters (`lax.stop_gradient`); its
        values are not used.
      origins: [R, 3].
      directions: [R, 3].
      samples: the first pass.
      uniform: [R, F] in [0, 1).
      cells: as in `place_samples`.
    """
    density, _ = evaluate_blocks(field, origins, directions, samples)
    extra = _importance(density, samples, uniform)
    tdist, tmid, _ = sampling.merge(samples.tdist, samples.tmid, extra)
    return Samples(tdist, tmid, mask_samples(origins, directions, tmid, cells))


def evaluate_refined(
    field: Field, origins, directions, samples: Samples, uniform, *, key
) -> tuple[Samples, jax.Array, jax.Array]:
    """Adds importance samples (NeRF Sec. 5.2) and evaluates all, each of them once.

    The samples of the first pass are among those of the second: what the field holds
    there gives the importance, without noise and gradient, and is composited with what
    it holds at the new ones.

    Args:
      field: in its two steps.
      origins: [R, 3].
      directions: [R, 3].
      samples: the first pass, without a mask.
      uniform: [R, F] in [0, 1).
      key: of the field's noise; None = none.

    Returns:
      The samples, density [R, S + F] and values [R, S + F, C - 1].
    """

    def raw_at(tmid):
        points = ray_points(origins, directions, tmid)
        return field.raw(points.reshape(-1, 3)).reshape(*tmid.shape, -1)

    raw = raw_at(samples.tmid)
    density, _ = field.activate(lax.stop_gradient(raw), None)
    extra = _importance(density, samples, uniform)
    tdist, tmid, order = sampling.merge(samples.tdist, samples.tmid, extra)
    raw = jnp.concatenate([raw, raw_at(extra)], axis=1)
    density, values = field.activate(sampling.in_order(raw, order), key)
    return Samples(tdist, tmid, None), density, values


def _importance(density, samples: Samples, uniform) -> jax.Array:
    """[R, F] distances of new samples, where a first pass [R, S] sees something."""
    empty = jnp.zeros((*density.shape, 0), density.dtype)
    weights = composite(density, empty, samples.tdist, samples.tmid).weights
    return sampling.importance(samples.tdist, weights, uniform)[1]


def render_rays(
    field: Field,
    frozen_field: FieldFn,
    origins: jax.Array,
    directions: jax.Array,
    key: jax.Array | None,
    *,
    cells: jax.Array | None,
    num_samples: int,
    num_fine: int,
    half_extent: float,
    near: float,
    capacity: float,
) -> tuple[Composited, jax.Array, dict]:
    """Places samples on rays, evaluates the field there and composites.

    Args:
      field: in its two steps; values are colour, or colour and normal.
      frozen_field: the same on constant parameters, for the importance pass in
        occupied cells.
      origins: [R, 3].
      directions: [R, 3] unit.
      key: consumed; None renders without randomness and without capacity limit.
      cells: [G, G, G] bool occupied cells; None = evaluate everywhere.
      num_samples: S.
      num_fine: F importance samples added, 0 = none.
      half_extent: half size of the sampled cube, <= 1.
      near: least distance from the camera, scene units.
      capacity: share of samples evaluated at most, in (0, 1].

    Returns:
      What the rays see, normals [R, 3] (zero unless the field gives them), and scalars
      for regularisers and logs: `entropy`, `z_variance` (a sum and a number of rays)
      and `orientation` (see `regularizers`), `occupied` (share of samples in occupied
      cells), `overflow` (samples that are left out). What nobody uses is not
      computed.
    """
    keep, jitter, fine, noise_key = _randomness(key, origins, num_samples, num_fine)
    samples = place_samples(
        origins,
        directions,
        jitter,
        num_samples=num_samples,
        half_extent=half_extent,
        near=near,
        cells=cells,
    )
    overflow = jnp.zeros(())
    if num_fine and cells is not None:
        samples = refine(frozen_field, origins, directions, samples, fine, cells=cells)
    rays = (origins, directions, samples)
    if num_fine and cells is None:
        samples, density, values = evaluate_refined(field, *rays, fine, key=noise_key)
    elif cells is None or (key is not None and capacity == 1):
        density, values = evaluate_dense(field, *rays, noise_key)
    elif key is None:
        density, values = evaluate_blocks(field, *rays)
    else:
        limit = max(int(capacity * samples.mask.size), 1)
        density, values, overflow = evaluate_compact(
            field, *rays, noise_key, uniform=keep, capacity=limit
        )
    seen = composite(density, values, samples.tdist, samples.tmid)
    extras = _statistics(seen, samples, overflow)
    normals = jnp.zeros_like(directions)
    if values.shape[-1] == 6:
        normals = unit_or_zero(seen.values[:, 3:], axis=-1)
        extras["orientation"] = regularizers.orientation(
            seen.weights, values[..., 3:], directions
        )
    return seen, normals, extras


def _randomness(key, origins, num_samples: int, num_fine: int):
    """Thinning, jitter and importance draws from one pass of random bits."""
    total = num_samples + num_fine
    if key is None:
        return None, None, jnp.full((origins.shape[0], num_fine), 0.5), None
    key_bits, noise_key = jax.random.split(key)
    bits = jax.random.bits(key_bits, (origins.shape[0], total), jnp.uint32)
    high = (bits >> 16).astype(origins.dtype) * 2.0**-16
    low = (bits & 0xFFFF).astype(origins.dtype) * 2.0**-16
    return low, high[:, :num_samples], high[:, num_samples:], noise_key


def _statistics(seen: Composited, samples: Samples, overflow) -> dict:
    share = 1.0 if samples.mask is None else jnp.mean(samples.mask, dtype=jnp.float32)
    return {
        "entropy": regularizers.binary_entropy(seen.weights),
        "z_variance": regularizers.z_variance(seen.weights, samples.tmid),
        "occupied": jnp.asarray(share, jnp.float32),
        "overflow": jnp.asarray(overflow, jnp.float32),
    }


def map_rays(
    render_chunk,
    rays: dict,
    key: jax.Array,
    max_rays: int,
    *,
    keep: tuple[str, ...] = (),
):
    """Applies `render_chunk(rays, key)` to strided chunks of at most `max_rays`.

    Strided, so that each chunk sees the whole image in coarse and all chunks carry
    about the same load; rematerialised, so that memory is that of one chunk and of
    what is kept. Outputs with a ray axis come back in order. Scalars are summed
    (`overflow`) or averaged; of a pair (sum, number) both are summed, then divided, 0
    where the number is.

    Args:
      render_chunk: returns (dict of [r, ...] arrays, dict of scalars or pairs).
      rays: arrays with leading axis R.
      key: consumed.
      max_rays: static.
      keep: names (`jax.ad_checkpoint.checkpoint_name`) of what the gradient reads
        instead of computing it again.
    """
    num_rays = jax.tree.leaves(rays)[0].shape[0]
    num_chunks = next(
        n
        for n in range(max(-(-num_rays // max_rays), 1), num_rays + 1)
        if num_rays % n == 0
    )
    if num_chunks == 1:
        images, scalars = render_chunk(rays, key)
        return images, _over_chunks(scalars)
    split = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(-1, num_chunks, *x.shape[1:]), 1, 0), rays
    )
    body = jax.checkpoint(
        lambda args: render_chunk(*args),
        prevent_cse=False,
        policy=jax.checkpoint_policies.save_only_these_names(*keep),
    )
    images, scalars = lax.map(body, (split, jax.random.split(key, num_chunks)))
    images = jax.tree.map(
        lambda x: jnp.moveaxis(x, 0, 1).reshape(num_rays, *x.shape[2:]), images
    )
    return images, _over_chunks(scalars)


def _over_chunks(scalars: dict) -> dict[str, jax.Array]:
    def combine(name: str, values) -> jax.Array:
        if isinstance(values, tuple):
            total, number = map(jnp.sum, values)
            return total / jnp.maximum(number, 1)
        return jnp.sum(values) if name == "overflow" else jnp.mean(values)

    return {name: combine(name, values) for name, values in scalars.items()}
