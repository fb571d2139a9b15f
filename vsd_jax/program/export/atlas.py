# SPDX-License-Identifier: Apache-2.0
"""From a surface and a field of colours to a texture: fewer faces, charts, texels.

UV coordinates are glTF's: (0, 0) is the top left corner of the image, u points right,
v down. The centre of the texel in row i and column j of a W x H image lies at
u = (j + 0.5) / W, v = (i + 0.5) / H. Colours are sRGB.
"""

from typing import NamedTuple

import numpy as np

from vsd_jax.program.export import export
from vsd_jax.program.folder import writer
from vsd_jax.program.terminal.errors import RunError

GUTTER = 2
"""Texels between charts that the unwrapping is asked for."""

REACH = 1.5
"""Texels around a chart that continue it: a bilinear lookup reads up to a diagonal."""

_EXTENT = 100.0
"""Size at which a mesh is unwrapped, in the units of the tolerances there."""

_FARTHEST = 3.0
"""How far a point beside a triangle may be from its middle, in barycentric weights."""

_AT_ONCE = 2**22
"""Samples whose points are held at once; each takes some hundred bytes."""

_REMEDY = (
    " Look at the renders: if they show an object, set --config.export.texture_size=0"
    " to leave the texture out; of a NeRF also --config.export.level to a lower"
    " density."
)


class Atlas(NamedTuple):
    """A mesh that is cut into charts, and where they lie in the image.

    Attributes:
      vertex_map: [V'] int32, the vertex of the mesh that each one of the atlas is; a
        vertex on a cut stands several times.
      faces: [F, 3] int32 into the vertices of the atlas, in the order of the mesh.
      uv: [V', 2] float32 in [0, 1], see the top of the file.
      width: texels of the image.
      height: texels of the image.
    """

    vertex_map: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    width: int
    height: int


def check_surface(vertices: np.ndarray, faces: np.ndarray) -> None:
    """Refuses what cannot be unwrapped.

    Args:
      vertices: [V, 3].
      faces: [F, 3].

    Raises:
      RunError: if there is no face, no area, or a vertex that is not finite.
    """
    if not len(faces):
        raise RunError(f"The mesh is empty, so there is nothing to texture.{_REMEDY}")
    if not np.isfinite(vertices).all():
        raise RunError(
            "The mesh has vertices that are not finite, so it cannot be textured."
            " Export an earlier checkpoint."
        )
    a, b, c = (np.asarray(vertices, np.float64)[corner] for corner in faces.T)
    size = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()
    if not size > 1e-12 * np.ptp(vertices, axis=0).max() ** 2:
        raise RunError(
            f"The mesh has no area: its triangles are points or lines.{_REMEDY}"
        )


def decimate(
    vertices: np.ndarray, faces: np.ndarray, max_faces: int
) -> tuple[np.ndarray, np.ndarray]:
    """Thins a mesh by collapsing the edges whose loss is seen least.

    Args:
      vertices: [V, 3] scene units.
      faces: [F, 3].
      max_faces: faces that may be left; 0 = no limit. Missed only where every further
        collapse would turn a face over.

    Returns:
      (vertices [V', 3] float32, faces [F', 3] int32); the same if they are few enough.

    Raises:
      RunError: if the mesh is empty or has no area, or nothing is left of it.
    """
    check_surface(vertices, faces)
    if max_faces == 0 or len(faces) <= max_faces:
        return np.asarray(vertices, np.float32), np.asarray(faces, np.int32)
    import fast_simplification

    points, left = fast_simplification.simplify(
        np.asarray(vertices, np.float64),
        np.asarray(faces, np.int32),
        target_count=max_faces,
    )
    a, b, c = left.T
    left = left[(a != b) & (b != c) & (c != a)]
    if not len(left):
        raise RunError(
            f"Nothing is left of the mesh with max_faces={max_faces}."
            " Raise --config.export.max_faces, or set it to 0 (no limit)."
        )
    used, left = np.unique(left, return_inverse=True)
    return points[used].astype(np.float32), left.reshape(-1, 3).astype(np.int32)


def unwrap(vertices: np.ndarray, faces: np.ndarray, texture_size: int) -> Atlas:
    """Cuts a mesh into charts and packs them into a square image.

    The time grows faster than the number of faces; `decimate` comes before.

    Args:
      vertices: [V, 3] scene units.
      faces: [F, 3].
      texture_size: side of the image, texels.

    Raises:
      RunError: if the mesh is empty or has no area.
    """
    check_surface(vertices, faces)
    import xatlas

    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_iterations = 1  # four take twice as long for few charts less
    packing.resolution, packing.padding = texture_size, GUTTER
    packing.rotate_charts = False  # its quarter turns are mirrors
    # Its tolerances are absolute: in scene units it takes small faces for points.
    scaled = np.asarray(vertices, np.float64) - np.mean(vertices, axis=0)
    scaled *= _EXTENT / np.ptp(scaled, axis=0).max()
    packed = xatlas.Atlas()
    packed.add_mesh(scaled.astype(np.float32), np.asarray(faces, np.uint32))
    packed.generate(charts, packing)
    if not packed.chart_count:
        raise RunError(f"The mesh could not be cut into charts.{_REMEDY}")
    # What it packs is up to two fifths larger than asked for. The coordinates are
    # shares of it, so the image keeps the asked size and the gutter shrinks a little.
    vertex_map, cut, uv = packed[0]
    return Atlas(
        vertex_map=vertex_map.astype(np.int32),
        faces=cut.astype(np.int32),
        uv=np.clip(uv, 0, 1).astype(np.float32),
        width=texture_size,
        height=texture_size,
    )


def bake(
    atlas: Atlas,
    vertices: np.ndarray,
    field: export.ColorFn,
    *,
    chunk: int,
    samples_per_axis: int = 1,
) -> np.ndarray:
    """Asks a field for the colour of each texel.

    Texels just outside a chart continue its nearest face, so that a bilinear lookup at
    a cut is as good as elsewhere; the others repeat the nearest texel of a chart, so
    that smaller versions of the image (mipmaps) do not mix in a background.

    Args:
      atlas: from `unwrap`.
      vertices: [V, 3] of the mesh, scene units.
      field: sRGB colours of points; always called with `chunk` points.
      chunk: points in a call.
      samples_per_axis: samples along each side of a texel, whose mean it holds.

    Returns:
      [H, W, 3] uint8 sRGB, row 0 at the top.

    Raises:
      RunError: if no texel lies on a chart.
    """
    from scipy import ndimage

    size = np.array([atlas.width, atlas.height]) * samples_per_axis
    corners = atlas.uv[atlas.faces].astype(np.float64) * size - 0.5
    owner = _owners(corners, *size)
    if not (owner >= 0).any():
        raise RunError(
            "No texel lies on the mesh: the texture is too small for its charts. Raise"
            " --config.export.texture_size or lower --config.export.max_faces."
        )
    distance, (row, column) = ndimage.distance_transform_edt(
        owner < 0, return_indices=True
    )
    owner = owner[row, column]
    near = np.nonzero(distance <= REACH * samples_per_axis)
    image = np.zeros((*owner.shape, 3), np.float32)
    for begin in range(0, len(near[0]), _AT_ONCE):
        i, j = (index[begin : begin + _AT_ONCE] for index in near)
        weights = _barycentric(corners[owner[i, j]], j, i)
        positions = np.asarray(vertices)[atlas.vertex_map[atlas.faces[owner[i, j]]]]
        points = np.einsum("nc,ncd->nd", weights, positions).astype(np.float32)
        image[i, j] = np.clip(export.query(field, points, chunk=chunk), 0, 1)
    far = distance > REACH * samples_per_axis
    image[far] = image[row[far], column[far]]
    blocks = (atlas.height, samples_per_axis, atlas.width, samples_per_axis, 3)
    return writer.to_uint8(image.reshape(blocks).mean(axis=(1, 3)))


def _expand(count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists `count[i]` entries for each i: (i of the entry, its number among them)."""
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)


def _owners(corners: np.ndarray, width: int, height: int) -> np.ndarray:
    """Face at each texel's centre.

    Triangles are cut into rows, rows into spans of texels; both windings are drawn.

    Args:
      corners: [F, 3, 2] (x, y) in texels; an integer is a centre.
      width: texels.
      height: texels.

    Returns:
      [H, W] int64, -1 where there is none.
    """
    x, y = corners[..., 0], corners[..., 1]
    top = np.clip(np.ceil(y.min(axis=1)), 0, height).astype(int)
    bottom = np.clip(np.floor(y.max(axis=1)), -1, height - 1).astype(int)
    face, rank = _expand(np.maximum(bottom - top + 1, 0))
    row = top[face] + rank
    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for s in range(3):
        x0, x1 = x[face, s], x[face, (s + 1) % 3]
        y0, y1 = y[face, s], y[face, (s + 1) % 3]
        crosses = (np.minimum(y0, y1) <= row) & (row <= np.maximum(y0, y1)) & (y0 != y1)
        at = x0 + (row - y0) / np.where(crosses, y1 - y0, 1) * (x1 - x0)
        left = np.where(crosses, np.minimum(left, at), left)
        right = np.where(crosses, np.maximum(right, at), right)
    first = np.clip(np.ceil(left), 0, width).astype(int)
    last = np.clip(np.floor(right), -1, width - 1).astype(int)
    span, step = _expand(np.maximum(last - first + 1, 0))
    owner = np.full((height, width), -1)
    owner[row[span], first[span] + step] = face[span]
    return owner


def _barycentric(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights [N, 3] of points (x, y) [N] on triangles [N, 3, 2], also outside them.

    Bounded, so that a sliver does not throw a point beside it far away.
    """
    dx, dy = corners[..., 0] - x[:, None], corners[..., 1] - y[:, None]
    parts = [
        dx[:, (s + 1) % 3] * dy[:, (s + 2) % 3]
        - dx[:, (s + 2) % 3] * dy[:, (s + 1) % 3]
        for s in range(3)
    ]
    total = sum(parts)
    flat = total == 0
    weights = np.stack(parts, axis=1) / np.where(flat, 1, total)[:, None]
    off = np.where(flat[:, None], 0, weights - 1 / 3)
    most = np.abs(off).max(axis=1, keepdims=True)
    return 1 / 3 + off * np.minimum(1, _FARTHEST / np.maximum(most, _FARTHEST))


def lookup(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Reads an image as a viewer does: bilinear, clamped at the border.

    Args:
      texture: [H, W, 3] uint8.
      uv: [N, 2] in [0, 1], see the top of the file.

    Returns:
      [N, 3] float64 in [0, 1].
    """
    from scipy import ndimage

    places = (uv[:, ::-1] * texture.shape[:2] - 0.5).T
    channels = [
        ndimage.map_coordinates(channel, places, float, order=1, mode="nearest")
        for channel in np.moveaxis(texture, -1, 0)
    ]
    return np.stack(channels, axis=-1) / 255
