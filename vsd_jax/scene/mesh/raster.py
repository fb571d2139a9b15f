# SPDX-License-Identifier: Apache-2.0
"""Rasteriser: which face each pixel sees.

Visibility has no gradient: faces that look at the camera are cut into rows, each row
into its exact span of pixels, and the pixels go into a depth buffer. Neighbours compute
a shared side from the same numbers and a span includes both its ends; so the spans of a
row join without gaps and a closed mesh shows no holes. What a face shows at a pixel is
the business of `scene/mesh/fragments.py`; what changes as a silhouette moves, that of
`scene/mesh/antialias.py`.

Pixels are those of `camera.pixel_rays`: on the screen, x points right and y down in
pixels, and the centre of pixel (row i, column j) is x = j, y = i. Images are flat and
component first, [C, H W]. Depth is measured along the camera's axis, scene units; its
inverse is linear on the screen. Unbatched over views and particles.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from vsd_jax.scene.mesh.capacity import expand, used
from vsd_jax.types import Camera


class RasterSizes(NamedTuple):
    """Capacities (integers) or counts (int32 scalars) of one view.

    Attributes:
      rows: rows of pixels of all faces that look at the camera.
      pixels: pixels of all those rows, hidden ones included.
      silhouettes: faces with a side on the silhouette.
      crossings: rows or columns of pixels that silhouette sides cross.
    """

    rows: int | jax.Array
    pixels: int | jax.Array
    silhouettes: int | jax.Array
    crossings: int | jax.Array


class Screen(NamedTuple):
    """Projected vertices.

    Attributes:
      x: [V] pixels to the right; an integer is a pixel's centre.
      y: [V] pixels down.
      depth: [V] along the camera's axis, scene units, >= `near`.
      in_front: [V] bool, whether the vertex is not nearer than `near`.
    """

    x: jax.Array
    y: jax.Array
    depth: jax.Array
    in_front: jax.Array


class Visibility(NamedTuple):
    """What each pixel sees; no gradient.

    Attributes:
      face: [H W] int32, -1 where empty.
      inverse_depth: [H W] 1 / scene units, 0 where empty.
      facing: [F] bool, faces that look at the camera and are not cut by `near`.
    """

    face: jax.Array
    inverse_depth: jax.Array
    facing: jax.Array


def guess_capacities(height: int, width: int, num_faces: int) -> RasterSizes:
    """Capacities to start with; what a view needs, its counts tell.

    Args:
      height: pixels.
      width: pixels.
      num_faces: capacity of the mesh.
    """
    pixels = height * width
    return RasterSizes(
        rows=min(num_faces // 2, pixels) + pixels // 2,
        pixels=pixels + pixels // 2,
        silhouettes=max(num_faces // 8, 1),
        crossings=64 * (height + width),
    )


def project(
    vertices: jax.Array, camera: Camera, *, height: int, width: int, near: float
) -> Screen:
    """Projects vertices into the pixels of `camera.pixel_rays`.

    Args:
      vertices: [3, V] scene units.
      camera: one camera.
      height: pixels.
      width: pixels.
      near: least depth > 0, scene units. Faces with a nearer vertex are not drawn.
    """
    chex.assert_axis_dimension(vertices, 0, 3)
    chex.assert_shape(camera.cam_to_world, (4, 4))
    right, up, back, position = camera.cam_to_world[:3].T.astype(vertices.dtype)
    moved = vertices - position[:, None]
    # Sums instead of a matrix product, which some accelerators round to 10 bits.
    x, y, z = (jnp.sum(axis[:, None] * moved, axis=0) for axis in (right, up, back))
    depth = jnp.maximum(-z, near)
    slope = jnp.tan(jnp.deg2rad(camera.fov_deg) / 2).astype(vertices.dtype)
    focal = height / (2 * slope)
    return Screen(
        x=(width - 1) / 2 + focal * x / depth,
        y=(height - 1) / 2 - focal * y / depth,
        depth=depth,
        in_front=-z >= near,
    )


def find_visible(
    screen: Screen,
    faces: jax.Array,
    *,
    height: int,
    width: int,
    capacities: RasterSizes,
) -> tuple[Visibility, RasterSizes]:
    """Finds the nearest face at each pixel's centre.

    Faces that look away are not drawn: this is for closed meshes seen from outside.
    Among faces at the same depth (a centre on a shared side) the last one wins.

    Args:
      screen: projected vertices.
      faces: [3, F] int32; degenerate ones are not drawn.
      height: H pixels.
      width: W pixels.
      capacities: static sizes; of these, `rows` and `pixels` are used here.

    Returns:
      What is seen, and the counts of rows and pixels (the others 0).
    """
    chex.assert_axis_dimension(faces, 0, 3)
    screen = lax.stop_gradient(screen)
    corners = [(screen.x[c], screen.y[c], 1 / screen.depth[c]) for c in faces]
    facing = _facing(corners) & jnp.all(screen.in_front[faces], axis=0)
    first, count = _row_range(corners, facing, height, width)
    row_face, rank, num_rows = expand(count, capacities.rows)
    row = first[row_face] + rank
    spans = _spans(corners, row_face, row, width)
    is_row = used(num_rows, capacities.rows)
    row_of, step, num_pixels = expand(
        jnp.where(is_row, spans.count, 0), capacities.pixels
    )
    pixel = (row * width + spans.first)[row_of] + step
    slope = spans.slope[row_of]
    inverse_depth = spans.inverse_depth[row_of] + step.astype(slope.dtype) * slope
    # Compared with the buffer that it went into: it must not be computed twice, in two
    # kernels that may round differently.
    inverse_depth = lax.optimization_barrier(inverse_depth)
    is_pixel = used(num_pixels, capacities.pixels)
    target = jnp.where(is_pixel, pixel, height * width)
    nearest = jnp.zeros(height * width, inverse_depth.dtype)
    nearest = nearest.at[target].max(inverse_depth, mode="drop")
    wins = inverse_depth >= nearest[jnp.minimum(target, height * width - 1)]
    face = jnp.full(height * width, -1, jnp.int32)
    face = face.at[jnp.where(wins, target, height * width)].max(
        row_face[row_of], mode="drop"
    )
    zero = jnp.zeros((), jnp.int32)
    counts = RasterSizes(num_rows, num_pixels, zero, zero)
    return Visibility(face, nearest, facing), counts


def _facing(corners) -> jax.Array:
    """[F] bool: counter-clockwise with y up, that is negative area with y down."""
    (x0, y0, _), (x1, y1, _), (x2, y2, _) = corners
    return (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0) < 0


def _row_range(corners, facing, height: int, width: int):
    """First row and number of rows [F] of each face that has pixels at all."""

    def centres(axis, size):
        values = jnp.stack([corner[axis] for corner in corners])
        low = jnp.clip(jnp.ceil(jnp.min(values, axis=0)), 0, size)
        high = jnp.clip(jnp.floor(jnp.max(values, axis=0)), -1, size - 1)
        return low.astype(jnp.int32), high.astype(jnp.int32)

    top, bottom = centres(1, height)
    left, right = centres(0, width)
    drawn = facing & (left <= right) & (top <= bottom)
    return top, jnp.where(drawn, bottom - top + 1, 0)


class _Spans(NamedTuple):
    """Pixels of rows (local to this file).

    `first` [R] int32 column; `count` [R] int32; `inverse_depth` [R] at the first
    column; `slope` [R] its change from column to column.
    """

    first: jax.Array
    count: jax.Array
    inverse_depth: jax.Array
    slope: jax.Array


def _spans(corners, owner, row, width: int) -> _Spans:
    """Cuts faces with rows: between the outermost crossings of their sides."""
    y = row.astype(corners[0][1].dtype)
    ends = [tuple(values[owner] for values in corner) for corner in corners]
    left, right = jnp.full_like(y, jnp.inf), jnp.full_like(y, -jnp.inf)
    depth_left, depth_right = jnp.zeros_like(y), jnp.zeros_like(y)
    for s in range(3):
        crosses, x, inverse_depth = _cross(ends[s], ends[(s + 1) % 3], y)
        is_left, is_right = crosses & (x < left), crosses & (x > right)
        left, right = jnp.where(is_left, x, left), jnp.where(is_right, x, right)
        depth_left = jnp.where(is_left, inverse_depth, depth_left)
        depth_right = jnp.where(is_right, inverse_depth, depth_right)
    first = jnp.clip(jnp.ceil(left), 0, width)
    last = jnp.clip(jnp.floor(right), -1, width - 1)
    wide = right > left
    slope = (depth_right - depth_left) / jnp.where(wide, right - left, 1)
    slope = jnp.where(wide, slope, 0)
    start = jnp.where(first <= last, depth_left + (first - left) * slope, 0)
    count = jnp.maximum(last - first + 1, 0).astype(jnp.int32)
    return _Spans(first.astype(jnp.int32), count, start, slope)


def _cross(a, b, y):
    """Where the side from a to b crosses the row y: (whether, x, inverse depth).

    From the upper end to the lower, whatever the direction of the side, so that both
    faces of a side get the same bits; exact at the ends.
    """
    down = a[1] <= b[1]
    upper = [jnp.where(down, p, q) for p, q in zip(a, b, strict=True)]
    lower = [jnp.where(down, q, p) for p, q in zip(a, b, strict=True)]
    crosses = (upper[1] <= y) & (y <= lower[1]) & (upper[1] < lower[1])
    share = (y - upper[1]) / jnp.where(crosses, lower[1] - upper[1], 1)
    x, inverse_depth = (
        jnp.where(y >= lower[1], lower[i], upper[i] + share * (lower[i] - upper[i]))
        for i in (0, 2)
    )
    return crosses, x, inverse_depth
