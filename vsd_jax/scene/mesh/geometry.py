# SPDX-License-Identifier: Apache-2.0
"""The geometry stage's scene: a tetrahedral grid, seen as world-space normals.

theta = {"sdf": [G], "offsets": [3, G]} (`isosurface.py`); nothing is coloured.
Each render marches the tetrahedra and draws the mesh (`view.py`); the marching
does not depend on the camera, so that mapping over views does it once.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from vsd_jax.scene.mesh import isosurface, raster, surface
from vsd_jax.scene.mesh.capacity import overflow_count
from vsd_jax.scene.mesh.raster import RasterSizes
from vsd_jax.scene.mesh.view import render_mesh, shade_normals
from vsd_jax.spec import Within
from vsd_jax.types import Params, Scene


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSpec:
    """A mesh on a tetrahedral grid, and the static capacities of its lists.

    Attributes:
      resolution: cells of the tetrahedral grid along an axis.
      max_offset: largest move of a grid vertex along an axis, in cells; more would turn
        tetrahedra over.
      surface_capacity: memory for faces, as a multiple of what a plain object needs
        (it does not change a result; a run that needs more says so).
      raster_capacity: memory for covered pixels, likewise.
    """

    resolution: Annotated[int, Within(2, 512)]
    max_offset: Annotated[float, Within(0, 0.2)]
    surface_capacity: Annotated[float, Within(0.01, 1000)]
    raster_capacity: Annotated[float, Within(0.01, 1000)]

    def mesh_sizes(self) -> surface.MeshSizes:
        """Static capacities of the mesh."""
        guess = isosurface.guess_capacities(self.resolution)
        return surface.MeshSizes(*(int(size * self.surface_capacity) for size in guess))

    def raster_sizes(self, size: int) -> RasterSizes:
        """Static capacities of a view of `size` x `size` pixels."""
        guess = raster.guess_capacities(size, size, self.mesh_sizes().faces)
        return RasterSizes(*(int(size * self.raster_capacity) for size in guess))


def geometry(spec: MeshSpec, *, size: int, radius: float, near: float) -> Scene:
    """Makes the scene of the geometry stage; its parameters fit every image size.

    Args:
      spec: see `MeshSpec`.
      size: side of the square image, pixels.
      radius: of the ball that `init` gives, scene units.
      near: least depth, scene units.

    Examples:
      >>> spec = vsd.presets.preset("geometry", "smoke").mesh
      >>> scene = vsd.mesh.geometry(spec, size=16, radius=0.5, near=0.1)
      >>> sorted(jax.eval_shape(scene.init, jax.random.key(0)))
      ['offsets', 'sdf']
    """
    return make_geometry(
        image_size=size,
        resolution=spec.resolution,
        max_offset=spec.max_offset,
        radius=radius,
        near=near,
        mesh_sizes=spec.mesh_sizes(),
        raster_sizes=spec.raster_sizes(size),
    )


def marcher(spec: MeshSpec) -> Callable[[Params], surface.Surface]:
    """`(params of the geometry stage) -> Surface`."""
    return make_marcher(
        resolution=spec.resolution,
        max_offset=spec.max_offset,
        mesh_sizes=spec.mesh_sizes(),
    )


def make_marcher(*, resolution: int, max_offset: float, mesh_sizes: surface.MeshSizes):
    """`(params) -> Surface`; arguments as in `make_geometry`."""

    def march(params: Params) -> surface.Surface:
        return isosurface.marching_tetrahedra(
            params["sdf"],
            params["offsets"],
            resolution=resolution,
            max_offset=max_offset,
            capacities=mesh_sizes,
        )

    return march


def make_geometry(
    *,
    image_size: int,
    resolution: int,
    max_offset: float,
    radius: float,
    near: float,
    mesh_sizes: surface.MeshSizes,
    raster_sizes: RasterSizes,
) -> Scene:
    """Builds the scene (unbatched over particles and cameras).

    `init` gives a ball; a run that continues a NeRF starts from other values of the
    same shape. `background` [3] is composited behind the normals, which appear as
    (n + 1) / 2. `extras`: `overflow`, the number of list entries that did not fit (0,
    or the image lacks something); `faces`; in training also `normal_consistency`
    and `laplacian`, see `scene/mesh/surface.py`.

    Args:
      image_size: side of the square image, pixels.
      resolution: n, cells of the grid along an axis.
      max_offset: of a grid vertex along an axis, in cells; below 0.2.
      radius: of the ball that `init` gives, scene units.
      near: least depth, scene units.
      mesh_sizes: static capacities of the mesh.
      raster_sizes: static capacities of a view.
    """
    march = make_marcher(
        resolution=resolution, max_offset=max_offset, mesh_sizes=mesh_sizes
    )

    def init(key):
        del key
        return isosurface.init_ball(resolution, radius)

    def render(params, stats, camera, background, key, *, train):
        del stats, key
        found = march(params)
        out, counts = render_mesh(
            found,
            camera,
            shade_normals(background),
            height=image_size,
            width=image_size,
            near=near,
            capacities=raster_sizes,
        )
        overflow = overflow_count(found.counts, mesh_sizes)
        extras = {
            "overflow": overflow + overflow_count(counts, raster_sizes),
            "faces": found.counts.faces.astype(jnp.float32),
        }
        if train:
            normals = surface.vertex_normals(found)
            extras["normal_consistency"] = surface.vertex_consistency(found, normals)
            extras["laplacian"] = surface.laplacian(found)
        return out.replace(extras=extras)

    return Scene(
        init=init,
        init_stats=lambda params: {},
        update_stats=lambda params, stats, turn, key: stats,
        render=render,
    )
