# SPDX-License-Identifier: Apache-2.0
"""A closed triangle mesh in arrays of fixed size: normals and regularisers.

Arrays are component first ([3, V], [3, F]): XLA's CPU backend gathers scalars far
faster than rows. On a closed mesh every edge is two sides of faces, in opposite
directions; so a sum over edges is half a sum over sides, without any list of edges.
Unbatched over particles.
"""

from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from vsd_jax.scene.mesh.capacity import used
from vsd_jax.scene.vectors import unit_or_zero


class MeshSizes(NamedTuple):
    """Capacities (integers) or counts (int32 scalars) of a mesh's lists.

    Attributes:
      cells: cells of the grid that the surface crosses.
      vertices: of the mesh.
      faces: of the mesh.
    """

    cells: int | jax.Array
    vertices: int | jax.Array
    faces: int | jax.Array


@flax.struct.dataclass(kw_only=True)
class Surface:
    """A closed triangle mesh (unbatched).

    Entries beyond `counts` are unused: vertices are 0, faces degenerate (three times
    vertex 0) and their own neighbours.

    Attributes:
      vertices: [3, V] scene units.
      faces: [3, F] int32, counter-clockwise seen from outside.
      neighbours: [3, F] int32, the face across side s (from corner s to the next).
      counts: true counts; where one exceeds the array, the mesh has holes.
    """

    vertices: jax.Array
    faces: jax.Array
    neighbours: jax.Array
    counts: MeshSizes


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


def area_vectors(surface: Surface) -> jax.Array:
    """[3, F] outward normals of the faces, as long as twice their area; 0 if unused."""
    a, b, c = (surface.vertices[:, corner] for corner in surface.faces)
    return jnp.cross(b - a, c - a, axis=0)


def vertex_normals(surface: Surface) -> jax.Array:
    """[3, V] unit outward normals: faces around a vertex, weighted by area.

    Zero where a vertex is unused.
    """
    total, area = jnp.zeros_like(surface.vertices), area_vectors(surface)
    for corner in surface.faces:
        total = total.at[:, corner].add(area)
    return unit_or_zero(total, axis=0)


def face_consistency(surface: Surface) -> jax.Array:
    """Mean over edges of 1 - cos of the angle between the two face normals.

    The regulariser of the paper's published code. Slivers have normals with huge
    gradients here; `vertex_consistency` is the tamer one.
    """
    normals = unit_or_zero(area_vectors(surface), axis=0)
    cosines = (jnp.sum(normals * normals[:, n], axis=0) for n in surface.neighbours)
    return _mean_over_sides(surface, [1 - cosine for cosine in cosines])


def vertex_consistency(surface: Surface, normals: jax.Array) -> jax.Array:
    """Mean over edges of 1 - cos of the angle between the normals of their ends.

    threestudio's regulariser.

    Args:
      surface: the mesh.
      normals: [3, V] unit, see `vertex_normals`.
    """
    chex.assert_equal_shape([surface.vertices, normals])
    ends = [normals[:, corner] for corner in surface.faces]
    cosines = [jnp.sum(ends[s] * ends[(s + 1) % 3], axis=0) for s in range(3)]
    return _mean_over_sides(surface, [1 - cosine for cosine in cosines])


def laplacian(surface: Surface) -> jax.Array:
    """Mean over vertices of the length of sum over neighbours of (v - neighbour).

    The uniform Laplacian, not divided by the number of neighbours, as in the paper's
    published code and in threestudio. Scene units.
    """
    total = jnp.zeros_like(surface.vertices)
    for s in range(3):
        start, end = surface.faces[s], surface.faces[(s + 1) % 3]
        step = surface.vertices[:, start] - surface.vertices[:, end]
        total = total.at[:, start].add(step)
    squared = jnp.sum(total**2, axis=0)
    moved = squared > 0
    lengths = jnp.where(moved, jnp.sqrt(jnp.where(moved, squared, 1)), 0)
    return jnp.sum(lengths) / jnp.maximum(surface.counts.vertices, 1)


def _mean_over_sides(surface: Surface, values) -> jax.Array:
    """Mean of three [F], one for each side, over the faces in use."""
    num_faces = surface.counts.faces
    is_face = used(num_faces, surface.faces.shape[1])
    total = sum(jnp.sum(jnp.where(is_face, value, 0)) for value in values)
    return total / jnp.maximum(3 * num_faces, 1)
