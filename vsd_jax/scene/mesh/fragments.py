# SPDX-License-Identifier: Apache-2.0
"""Values of vertices at pixels, differentiable in values and vertices.

Deferred: which face a pixel sees is known and constant (`raster.py`); where on
that face it looks is computed here from the projected vertices. Images are flat and
component first, [C, H W]. Unbatched over views and particles.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vsd_jax.scene.mesh.raster import Screen, Visibility


class Fragments(NamedTuple):
    """Where on its face each pixel looks.

    Attributes:
      corners: [3, H W] int32 vertices of the face.
      weights: [3, H W] barycentric coordinates on the face in space; 0 where empty.
    """

    corners: jax.Array
    weights: jax.Array


def locate(
    screen: Screen, faces: jax.Array, seen: Visibility, *, height: int, width: int
) -> Fragments:
    """Perspective-correct barycentric coordinates, differentiable in the vertices.

    Args:
      screen: projected vertices.
      faces: [3, F] int32.
      seen: from `find_visible` of the same screen.
      height: H pixels.
      width: W pixels.
    """
    covered = seen.face >= 0
    corners = faces[:, jnp.maximum(seen.face, 0)]
    pixel = jnp.arange(height * width, dtype=jnp.int32)
    column = (pixel % width).astype(screen.x.dtype)
    row = (pixel // width).astype(screen.y.dtype)
    x = [screen.x[c] - column for c in corners]
    y = [screen.y[c] - row for c in corners]
    parts = [
        (x[(s + 1) % 3] * y[(s + 2) % 3] - x[(s + 2) % 3] * y[(s + 1) % 3])
        / screen.depth[corners[s]]
        for s in range(3)
    ]
    total = sum(parts)
    inverse = 1 / jnp.where(covered & (total != 0), total, 1)
    weights = jnp.stack([jnp.where(covered, part * inverse, 0) for part in parts])
    return Fragments(corners, weights)


def interpolate(fragments: Fragments, attributes: jax.Array) -> jax.Array:
    """Values of vertices at the pixels.

    Args:
      fragments: from `locate`.
      attributes: [A, V].

    Returns:
      [A, H W], 0 where a pixel is empty.
    """
    pairs = zip(fragments.corners, fragments.weights, strict=True)
    return sum(attributes[:, corner] * weight[None] for corner, weight in pairs)
