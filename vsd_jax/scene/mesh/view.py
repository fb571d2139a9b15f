# SPDX-License-Identifier: Apache-2.0
"""One view of a closed mesh: the whole chain from surface to image.

project -> visible faces -> colours there, over the background -> antialiased
silhouettes. Deferred: colours are asked for at pixels, not at vertices. Unbatched over
views and particles.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from vsd_jax.scene.mesh import fragments, raster
from vsd_jax.scene.mesh.antialias import antialias
from vsd_jax.scene.mesh.raster import RasterSizes
from vsd_jax.scene.mesh.surface import Surface, vertex_normals
from vsd_jax.scene.vectors import unit_or_zero
from vsd_jax.types import Camera, RenderOutput


class Seen(NamedTuple):
    """What the pixels of a view see; zero where they are empty.

    Attributes:
      hit: [H W] bool, whether there is a face.
      face: [H W] int32, which one; -1 where there is none.
      weights: [3, H W] barycentric coordinates on it, in space.
      position: [3, H W] scene units.
      normal: [3, H W] smooth, unit.
    """

    hit: jax.Array
    face: jax.Array
    weights: jax.Array
    position: jax.Array
    normal: jax.Array


Shade = Callable[[Seen], jax.Array]
"""`(seen) -> colours [3, H W] in [0, 1]`, the background where nothing is hit."""


def render_mesh(
    surface: Surface,
    camera: Camera,
    shade: Shade,
    *,
    height: int,
    width: int,
    near: float,
    capacities: RasterSizes,
) -> tuple[RenderOutput, RasterSizes]:
    """Renders a mesh, differentiable in its vertices and in what `shade` closes over.

    Args:
      surface: the mesh.
      camera: one camera, outside the mesh.
      shade: see `Shade`.
      height: H pixels.
      width: W pixels.
      near: least depth > 0, scene units; faces with a nearer vertex are not drawn.
      capacities: static sizes of the lists.

    Returns:
      `rgb` and `opacity`, antialiased; `normal` and `depth` (along the ray) at the
      pixels' centres. And the counts to compare with `capacities`.
    """
    size = {"height": height, "width": width}
    screen = raster.project(surface.vertices, camera, near=near, **size)
    visible, counts = raster.find_visible(
        screen, surface.faces, capacities=capacities, **size
    )
    points = fragments.locate(screen, surface.faces, visible, **size)
    seen = Seen(
        hit=visible.face >= 0,
        face=visible.face,
        weights=points.weights,
        position=fragments.interpolate(points, surface.vertices),
        normal=unit_or_zero(
            fragments.interpolate(points, vertex_normals(surface)), axis=0
        ),
    )
    depth = fragments.interpolate(points, screen.depth[None])[0]
    color = shade(seen)
    image = jnp.concatenate([color, seen.hit[None].astype(color.dtype)])
    image, more = antialias(
        image, screen, surface, visible, capacities=capacities, **size
    )
    out = RenderOutput(
        rgb=_as_image(image[:3], height, width),
        opacity=image[3].reshape(height, width),
        depth=depth.reshape(height, width) * _ray_lengths(camera, height, width),
        normal=_as_image(seen.normal, height, width),
        extras={},
    )
    return out, jax.tree.map(jnp.add, counts, more)


def shade_normals(background: jax.Array) -> Shade:
    """(n + 1) / 2 over a background [3] in [0, 1].

    World-space normals, the geometry stage's image (the paper's published code,
    arXiv:2305.16213).
    """
    chex.assert_shape(background, (3,))
    return lambda seen: jnp.where(
        seen.hit[None], 0.5 + 0.5 * seen.normal, background[:, None]
    )


def _as_image(flat: jax.Array, height: int, width: int) -> jax.Array:
    """[C, H W] -> [H, W, C]."""
    return jnp.moveaxis(flat.reshape(-1, height, width), 0, -1)


def _ray_lengths(camera: Camera, height: int, width: int) -> jax.Array:
    """[H, W] distance along the ray for each unit of depth along the axis."""
    slope = jnp.tan(jnp.deg2rad(camera.fov_deg) / 2) * 2 / height
    x = (jnp.arange(width) - (width - 1) / 2) * slope
    y = (jnp.arange(height) - (height - 1) / 2) * slope
    return jnp.sqrt(1 + x[None, :] ** 2 + y[:, None] ** 2)
