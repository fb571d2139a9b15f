# SPDX-License-Identifier: Apache-2.0
"""How well a baked mesh shows what it was baked from."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.program.export.textured import TexturedMesh
from vsd_jax.scene.mesh import raster
from vsd_jax.scene.mesh.capacity import grow
from vsd_jax.scene.mesh.raster import RasterSizes
from vsd_jax.scene.mesh.surface import MeshSizes, Surface
from vsd_jax.scene.mesh.view import Seen, render_mesh
from vsd_jax.types import Camera

NEAR = 0.05


def baked_psnr(
    baked: TexturedMesh,
    show: Callable[[Camera], np.ndarray],
    cameras: list[Camera],
    *,
    size: int,
    background: np.ndarray,
) -> float:
    """Peak signal-to-noise ratio of a baked mesh's renders, dB.

    The mesh is drawn as a viewer would: thinned faces, texture read bilinearly.

    Args:
      baked: the mesh.
      show: the renders that it should equal, `(camera) -> [size, size, 3]`.
      cameras: where from.
      size: side of the renders, pixels.
      background: [3] of those renders.
    """
    surface = as_surface(baked)
    corners = baked.atlas.uv[baked.atlas.faces]  # [F, 3, 2]
    uv = jnp.asarray(np.moveaxis(corners, 0, -1))  # [3, 2, F]
    texture = jnp.asarray(baked.texture, jnp.float32) / 255
    color = jnp.asarray(background, jnp.float32)
    sizes = raster.guess_capacities(size, size, surface.faces.shape[1])
    errors = []
    for camera in cameras:
        arguments = (surface, uv, texture, camera, color)
        mine, counts = _draw(*arguments, size=size, sizes=sizes)
        while (enough := grow(RasterSizes(*map(int, counts)), sizes)) != sizes:
            sizes = enough
            mine, counts = _draw(*arguments, size=size, sizes=sizes)
        errors.append(np.mean((np.asarray(mine) - show(camera)) ** 2))
    return float(-10 * np.log10(max(np.mean(errors), 1e-12)))


@functools.partial(jax.jit, static_argnames=("size", "sizes"))
def _draw(surface, uv, texture, camera, background, *, size: int, sizes: RasterSizes):
    def shade(seen: Seen) -> jax.Array:
        places = uv[:, :, jnp.maximum(seen.face, 0)]  # [3, 2, H W]
        place = jnp.sum(places * seen.weights[:, None], axis=0)
        rgb = _read(texture, place)
        return jnp.where(seen.hit[None], rgb, background[:, None])

    out, counts = render_mesh(
        surface,
        camera,
        shade,
        height=size,
        width=size,
        near=NEAR,
        capacities=sizes,
    )
    return out.rgb, counts


def _read(texture: jax.Array, uv: jax.Array) -> jax.Array:
    """Bilinear values [3, N] of an image [H, W, 3] at uv [2, N], origin at the top."""
    height, width = texture.shape[:2]
    places = [uv[1] * height - 0.5, uv[0] * width - 0.5]
    read = functools.partial(
        jax.scipy.ndimage.map_coordinates, coordinates=places, order=1, mode="nearest"
    )
    return jnp.stack([read(texture[..., channel]) for channel in range(3)])


def as_surface(baked: TexturedMesh) -> Surface:
    """The mesh as a `surface.Surface`; its own neighbour at a border."""
    faces = baked.atlas.vertex_map[baked.atlas.faces]
    number = len(faces)
    side_of = {}
    for face, corners in enumerate(faces.tolist()):
        for s in range(3):
            side_of[corners[s], corners[(s + 1) % 3]] = face
    neighbours = [
        [
            side_of.get((corners[(s + 1) % 3], corners[s]), face)
            for face, corners in enumerate(faces.tolist())
        ]
        for s in range(3)
    ]
    counts = (0, len(baked.vertices), number)
    return Surface(
        vertices=jnp.asarray(baked.vertices.T),
        faces=jnp.asarray(faces.T, jnp.int32),
        neighbours=jnp.asarray(neighbours, jnp.int32),
        counts=MeshSizes(*(jnp.int32(count) for count in counts)),
    )
