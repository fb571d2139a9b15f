# SPDX-License-Identifier: Apache-2.0
"""Antialiased silhouettes, and with them the gradient of what is visible.

A silhouette is where a face that looks at the camera meets one that looks away. Its
sides are followed over the image: a steep one crosses rows of pixels, a flat one
columns. At a crossing it runs between two adjacent pixel centres; the pixel in whose
half it runs is blended with the other one by the share that the other side covers
(the pair's blending is that of Laine et al., arXiv:2011.03277, Sec. 3.5).

Deviation: there, pairs of pixels are found first and a silhouette counts only if its
face is seen at one of the two centres. Close to the silhouette the faces of a fine mesh
are thinner than a pixel and mostly seen at none, so that most of the gradient is lost.
Here the sides are found first, and tested against the depth buffer only. The silhouette
of a fine mesh zigzags; of its crossings between the same two centres only the outermost
counts, or the gradient would be too large.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from vsd_jax.scene.mesh.capacity import compact, expand, used
from vsd_jax.scene.mesh.raster import RasterSizes, Screen, Visibility
from vsd_jax.scene.mesh.surface import Surface


class _Crossings(NamedTuple):
    """Silhouette sides at rows or columns (local to this file), all [E].

    `start`, `end` vertices of the side; `steep` whether it crosses rows; `line` the
    row (steep) or column; `used`.
    """

    start: jax.Array
    end: jax.Array
    steep: jax.Array
    line: jax.Array
    used: jax.Array


def antialias(
    image: jax.Array,
    screen: Screen,
    surface: Surface,
    seen: Visibility,
    *,
    height: int,
    width: int,
    capacities: RasterSizes,
) -> tuple[jax.Array, RasterSizes]:
    """Blends pixels along the visible silhouettes.

    Args:
      image: [C, H W] colours, mask or whatever else, background included.
      screen: projected vertices; the gradient of the silhouette goes here.
      surface: the mesh.
      seen: from `raster.find_visible`.
      height: H pixels.
      width: W pixels.
      capacities: static sizes; of these, `silhouettes` and `crossings` are used here.

    Returns:
      The image, each pixel a convex combination of itself and its four neighbours, and
      the counts of silhouettes and crossings (the others 0).
    """
    chex.assert_shape(image, (None, height * width))
    found, counts = _find_crossings(
        lax.stop_gradient(screen),
        surface,
        seen.facing,
        shape=(height, width),
        capacities=capacities,
    )
    blended, other, weight = _blends(screen, seen, found, height, width)
    change = image[:, other] - image[:, blended]
    # Where more than the whole pixel would be replaced, the shares are scaled down.
    total = jnp.zeros(height * width, weight.dtype).at[blended].add(weight)
    weight = weight / jnp.maximum(total, 1)[blended]
    return image.at[:, blended].add(weight[None] * change), counts


def _find_crossings(screen: Screen, surface, facing, *, shape, capacities):
    """Lists the crossings of all silhouette sides, visible or not."""
    sides = facing[None] & ~facing[surface.neighbours]
    index, _, num_faces = compact(jnp.any(sides, axis=0), capacities.silhouettes)
    listed = sides[:, index] & used(num_faces, capacities.silhouettes)[None]
    start = surface.faces[:, index]
    end = jnp.roll(start, -1, axis=0)
    dx, dy = screen.x[end] - screen.x[start], screen.y[end] - screen.y[start]
    steep = jnp.abs(dy) >= jnp.abs(dx)
    along = [jnp.where(steep, screen.y[v], screen.x[v]) for v in (start, end)]
    limit = jnp.where(steep, *shape).astype(dx.dtype)
    # Half open, so that a line through a joint meets one of the two sides only.
    first, last = (
        jnp.clip(jnp.ceil(bound), 0, limit).astype(jnp.int32)
        for bound in (jnp.minimum(*along), jnp.maximum(*along))
    )
    counts = jnp.where(listed, last - first, 0).reshape(-1)
    owner, rank, total = expand(counts, capacities.crossings)
    start, end, steep, first = (x.reshape(-1) for x in (start, end, steep, first))
    crossings = _Crossings(
        start=start[owner],
        end=end[owner],
        steep=steep[owner],
        line=first[owner] + rank,
        used=used(total, capacities.crossings),
    )
    zero = jnp.zeros((), jnp.int32)
    return crossings, RasterSizes(zero, zero, num_faces, total)


def _blends(screen: Screen, seen: Visibility, found: _Crossings, height, width):
    """Pixels to blend [E], what with [E], and by how much [E], 0 where hidden."""
    steep = found.steep
    ends = [(screen.x[v], screen.y[v], screen.depth[v]) for v in found[:2]]
    (along_a, along_b), (across_a, across_b) = (
        [jnp.where(steep, *((y, x) if lengthwise else (x, y))) for x, y, _ in ends]
        for lengthwise in (True, False)
    )
    # A side that crosses a line has a length; unused entries get 1 instead.
    length = jnp.where(found.used, along_b - along_a, 1)
    share = (found.line.astype(length.dtype) - along_a) / length
    across = across_a + share * (across_b - across_a)
    low = lax.stop_gradient(jnp.floor(across))
    limit = jnp.where(steep, width, height) - 2
    inside = found.used & (low >= 0) & (low <= limit.astype(low.dtype))
    column = jnp.where(inside, low, 0).astype(jnp.int32)
    line = jnp.where(inside, found.line, 0)
    first = jnp.where(steep, line * width + column, column * width + line)
    second = first + jnp.where(steep, 1, width).astype(jnp.int32)

    # The face lies on the side of the second pixel if its side runs down or left.
    on_second = jnp.where(steep, along_b > along_a, along_b < along_a)
    behind = jnp.where(on_second, first, second)
    inverse = [1 / depth for _, _, depth in ends]
    nearness = lax.stop_gradient(inverse[0] + share * (inverse[1] - inverse[0]))
    visible = inside & (seen.inverse_depth[behind] < nearness)

    beyond = across - low - 0.5  # how far in the second pixel's half
    reach = lax.stop_gradient(jnp.where(on_second, -beyond, beyond))
    kind = 2 * steep.astype(jnp.int32) + on_second.astype(jnp.int32)
    visible = _outermost(
        visible, reach, first + height * width * kind, 4 * height * width
    )
    weight = jnp.where(visible, jnp.abs(beyond), 0)
    in_second = beyond > 0
    blended = jnp.where(in_second, second, first)
    return blended, jnp.where(in_second, first, second), weight


def _outermost(visible, reach, slot, num_slots: int):
    """Of the visible crossings [E] in a slot, the one that reaches farthest."""
    reach = lax.optimization_barrier(reach)  # compared with itself, so rounded once
    best = jnp.full(num_slots, -1, reach.dtype)
    best = best.at[jnp.where(visible, slot, num_slots)].max(reach, mode="drop")
    return visible & (reach >= best[slot])
