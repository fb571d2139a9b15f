# SPDX-License-Identifier: Apache-2.0
"""Meshes and grids of distances that several tests use."""

import functools

import jax
import numpy as np

from vsd_jax.scene.mesh import isosurface, tet_grid
from vsd_jax.scene.mesh.surface import MeshSizes


def positions(resolution):
    return np.asarray(tet_grid.grid_positions(resolution), np.float64)


def ball(resolution, radius=0.7, centre=(0.0, 0.0, 0.0)):
    moved = positions(resolution) - np.array(centre)[:, None]
    return radius - np.linalg.norm(moved, axis=0)


def torus(resolution, major=0.55, minor=0.25, centre=(0.0, 0.0, 0.0), axis=1):
    p = positions(resolution) - np.array(centre)[:, None]
    across = np.delete(p, axis, axis=0)
    return minor - np.hypot(np.linalg.norm(across, axis=0) - major, p[axis])


def noise(resolution, waves=30, seed=0):
    """A smooth random field that crosses the boundary of the cube."""
    rng = np.random.default_rng(seed)
    frequency = rng.normal(scale=4.0, size=(waves, 3))
    phase = rng.uniform(0, 2 * np.pi, size=(waves, 1))
    return np.cos(frequency @ positions(resolution) + phase).sum(axis=0) / waves**0.5


def random_offsets(resolution, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, tet_grid.num_grid_vertices(resolution)))


def roomy(resolution):
    """Capacities that also hold a box around everything."""
    return MeshSizes(*(factor * resolution**2 for factor in (10, 40, 80)))


@functools.cache
def marcher(resolution, capacities=None):
    """The compiled `(sdf, offsets) -> Surface`."""
    function = functools.partial(
        isosurface.marching_tetrahedra,
        resolution=resolution,
        max_offset=0.2,
        capacities=capacities or roomy(resolution),
    )
    return jax.jit(function)


def triangles(surface):
    """Vertices [V, 3], faces [F, 3] and neighbours [F, 3] that are in use."""
    num_vertices, num_faces = surface.counts.vertices, surface.counts.faces
    return (
        np.asarray(surface.vertices.T)[:num_vertices],
        np.asarray(surface.faces.T)[:num_faces],
        np.asarray(surface.neighbours.T)[:num_faces],
    )


def linked_tori(resolution):
    """Two rings through each other: each hides a part of itself and of the other."""
    one = torus(resolution, 0.5, 0.16, centre=(-0.25, 0.0, 0.0), axis=1)
    two = torus(resolution, 0.5, 0.16, centre=(0.25, 0.0, 0.0), axis=2)
    return np.maximum(one, two)
