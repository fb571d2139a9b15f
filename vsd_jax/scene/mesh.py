# SPDX-License-Identifier: Apache-2.0
"""One view of a closed mesh as normals: the whole chain from surface to image.

project -> visible faces -> normals there -> over the background -> antialiased
silhouettes. The image is what the geometry stage gives to the prior: (n + 1) / 2 with
smooth world-space normals (the paper's published code, arXiv:2305.16213). Unbatched
over views and particles.
"""

import chex
import jax
import jax.numpy as jnp

from vsd_jax.scene import fragments, raster
from vsd_jax.scene.antialias import antialias
from vsd_jax.scene.raster import RasterSizes
from vsd_jax.scene.surface import Surface, unit_or_zero, vertex_normals
from vsd_jax.state import Camera, RenderOutput


def render_normals(
    surface: Surface,
    camera: Camera,
    background: jax.Array,
    *,
    height: int,
    width: int,
    near: float,
    capacities: RasterSizes,
) -> tuple[RenderOutput, RasterSizes]:
    """Renders smooth normals over a background.

    Args:
      surface: the mesh.
      camera: one camera, outside the mesh.
      background: [3] in [0, 1].
      height: H pixels.
      width: W pixels.
      near: least depth > 0, scene units; faces with a nearer vertex are not drawn.
      capacities: static sizes of the lists.

    Returns:
      `rgb` = (n + 1) / 2 and `opacity`, antialiased; `normal` and `depth` (along the
      ray) at the pixels' centres. And the counts to compare with `capacities`.
    """
    chex.assert_shape(background, (3,))
    size = {"height": height, "width": width}
    screen = raster.project(surface.vertices, camera, near=near, **size)
    seen, counts = raster.find_visible(
        screen, surface.faces, capacities=capacities, **size
    )
    points = fragments.locate(screen, surface.faces, seen, **size)
    normal = unit_or_zero(fragments.interpolate(points, vertex_normals(surface)))
    depth = fragments.interpolate(points, screen.depth[None])[0]
    hit = seen.face >= 0
    color = jnp.where(hit[None], 0.5 + 0.5 * normal, background[:, None])
    image = jnp.concatenate([color, hit[None].astype(color.dtype)])
    image, more = antialias(image, screen, surface, seen, capacities=capacities, **size)
    out = RenderOutput(
        rgb=_as_image(image[:3], height, width),
        opacity=image[3].reshape(height, width),
        depth=depth.reshape(height, width) * _ray_lengths(camera, height, width),
        normal=_as_image(normal, height, width),
        extras={},
    )
    return out, jax.tree.map(jnp.add, counts, more)


def _as_image(flat: jax.Array, height: int, width: int) -> jax.Array:
    """[C, H W] -> [H, W, C]."""
    return jnp.moveaxis(flat.reshape(-1, height, width), 0, -1)


def _ray_lengths(camera: Camera, height: int, width: int) -> jax.Array:
    """[H, W] distance along the ray for each unit of depth along the axis."""
    slope = jnp.tan(jnp.deg2rad(camera.fov_deg) / 2) * 2 / height
    x = (jnp.arange(width) - (width - 1) / 2) * slope
    y = (jnp.arange(height) - (height - 1) / 2) * slope
    return jnp.sqrt(1 + x[None, :] ** 2 + y[:, None] ** 2)
