# SPDX-License-Identifier: Apache-2.0
"""From the configuration to the scenes of the mesh stages."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.program.build.build_field import Config, make_grid
from vsd_jax.scene.nerf import field
from vsd_jax.scene.mesh import geometry, isosurface, raster, texture
from vsd_jax.scene.mesh.raster import RasterSizes
from vsd_jax.scene.mesh.surface import MeshSizes, Surface
from vsd_jax.types import Params, PyTree, Scene

KINDS = ("geometry", "texture")
"""Values of `field.kind` that are a stage on a mesh."""

ROOM = {
    "geometry": "--config.mesh.surface_capacity=2 --config.mesh.raster_capacity=2",
    "texture": "--config.render.capacity=1 --config.mesh.raster_capacity=2",
}
"""What makes room in each; a run may go on with other values of these."""


def mesh_sizes(config: Config) -> MeshSizes:
    """Static capacities of the mesh."""
    guess = isosurface.guess_capacities(config.mesh.resolution)
    return MeshSizes(*(int(size * config.mesh.surface_capacity) for size in guess))


def raster_sizes(config: Config, size: int) -> RasterSizes:
    """Static capacities of a view of `size` x `size` pixels."""
    guess = raster.guess_capacities(size, size, mesh_sizes(config).faces)
    return RasterSizes(*(int(size * config.mesh.raster_capacity) for size in guess))


def make_marcher(config: Config) -> Callable[[Params], Surface]:
    """`(params of the geometry stage) -> Surface`."""
    return geometry.make_marcher(
        resolution=config.mesh.resolution,
        max_offset=config.mesh.max_offset,
        mesh_sizes=mesh_sizes(config),
    )


def make_scene(config: Config, *, size: int) -> Scene:
    """The scene of a mesh stage, with the same theta at every size."""
    sizes, near = raster_sizes(config, size), config.render.near
    if config.field.kind == "geometry":
        return geometry.make_geometry(
            image_size=size,
            resolution=config.mesh.resolution,
            max_offset=config.mesh.max_offset,
            radius=config.field.object_radius,
            near=near,
            mesh_sizes=mesh_sizes(config),
            raster_sizes=sizes,
        )
    grid = make_grid(config)
    return texture.make_texture(
        image_size=size,
        init=functools.partial(
            field.init_field,
            grid=grid,
            hidden=config.field.hidden,
            environment=config.field.environment,
        ),
        color=functools.partial(field.query_color, grid=grid),
        behind=field.background_color,
        near=near,
        capacity=config.render.capacity,
        empty=empty_surface(mesh_sizes(config)),
        raster_sizes=sizes,
    )


def empty_surface(sizes: MeshSizes) -> Surface:
    """A mesh without faces, in arrays of the right shapes."""
    return Surface(
        vertices=jnp.zeros((3, sizes.vertices)),
        faces=jnp.zeros((3, sizes.faces), jnp.int32),
        neighbours=jnp.broadcast_to(
            jnp.arange(sizes.faces, dtype=jnp.int32), (3, sizes.faces)
        ),
        counts=MeshSizes(*(jnp.zeros((), jnp.int32) for _ in sizes)),
    )


def extract(
    config: Config, params: PyTree, stats: PyTree
) -> tuple[np.ndarray, np.ndarray]:
    """The mesh of one particle of a mesh stage: vertices [V, 3], faces [F, 3] int32."""
    if config.field.kind == "geometry":
        found = jax.jit(make_marcher(config))(params)
    else:
        found = stats["surface"]
    num_vertices, num_faces = int(found.counts.vertices), int(found.counts.faces)
    vertices = np.asarray(found.vertices.T, np.float32)[:num_vertices]
    return vertices, np.asarray(found.faces.T, np.int32)[:num_faces]


@functools.lru_cache(maxsize=2)
def make_color(config: Config) -> Callable[[PyTree, jax.Array], jax.Array]:
    """`(params, points [N, 3]) -> sRGB [N, 3]` of the texture stage."""
    grid = make_grid(config)
    return jax.jit(lambda params, points: field.query_color(params, points, grid))
