# SPDX-License-Identifier: Apache-2.0
"""Marching tetrahedra: from values at grid vertices to a closed, indexed mesh.

As in DMTet (arXiv:2111.04276, Sec. 3.1): a signed distance and an offset at every
vertex of a tetrahedral grid (`tet_grid.py`); the surface crosses an edge where
the distance, linear along the edge, is zero. Inside is positive. Faces are
counter-clockwise seen from outside.

Two levels of compaction: first the cells that the surface crosses, found by slices of
the grid; then, among their edges and tetrahedra only, vertices and faces. A vertex
belongs to a grid edge and exists once, so that the mesh is closed by construction; the
neighbour across each side of a face follows from constant tables. Which cells, edges
and cases there are is piecewise constant; gradients flow through the positions.

Unbatched over particles.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.scene.mesh import tet_grid
from vsd_jax.scene.mesh.capacity import compact, used
from vsd_jax.scene.mesh.surface import MeshSizes, Surface
from vsd_jax.scene.mesh.tet_grid import DIAGONAL, NUM_TETS

_NEVER_ZERO = 1e-6  # a boundary vertex is at least so far outside


class _Active(NamedTuple):
    """The crossed cells and what is inside around them (local to this file).

    `index` [C] flat cell index; `number` [m^3] cell -> place in `index`; `used` [C];
    `inside` [12, C] of the corners; `count` scalar.
    """

    index: jax.Array
    number: jax.Array
    used: jax.Array
    inside: jax.Array
    count: jax.Array


def guess_capacities(resolution: int) -> MeshSizes:
    """Capacities to start with, from a surface twice as large as that of a ball.

    The ball of radius 1/2 crosses about 1.5 n^2 cells with 4 vertices and 8 faces each
    (measured at n = 26); what a particular mesh needs, its counts tell.
    """
    cells = 1 << (3 * resolution**2).bit_length()
    return MeshSizes(cells, 4 * cells, 8 * cells)


def init_ball(resolution: int, radius: float) -> dict[str, jax.Array]:
    """Parameters of a ball around the origin: `sdf` [G] and `offsets` [3, G], zero.

    Args:
      resolution: n cells along an axis.
      radius: scene units, < 1.
    """
    positions = tet_grid.grid_positions(resolution)
    sdf = radius - jnp.sqrt(jnp.sum(positions**2, axis=0))
    return {"sdf": sdf, "offsets": jnp.zeros_like(positions)}


def marching_tetrahedra(
    sdf: jax.Array,
    offsets: jax.Array,
    *,
    resolution: int,
    max_offset: float,
    capacities: MeshSizes,
) -> Surface:
    """The zero level set of a grid of signed distances.

    The outermost layers of the grid count as outside, whatever the sign of
    `sdf` says there: a surface that would leave the cube is closed.

    Args:
      sdf: [G] signed distance at the grid vertices, > 0 inside, any unit.
      offsets: [3, G] any real; a vertex moves by `max_offset` * tanh, in cell widths.
      resolution: n, cells along an axis.
      max_offset: largest move along an axis, cell widths. Below 0.2 no tetrahedron can
        turn over.
      capacities: static sizes of the lists.

    Returns:
      The mesh, differentiable in `sdf` and `offsets`. Compare its `counts` with
      `capacities` (`scene/mesh/capacity.py`).

    Raises:
      AssertionError: when tracing, if the shapes disagree.
      ValueError: if there is no cell that is not at the boundary.
    """
    if resolution < 2:
        raise ValueError(f"A grid needs at least 2 cells an axis, got {resolution}.")
    size = tet_grid.num_grid_vertices(resolution)
    chex.assert_shape([sdf, offsets], [(size,), (3, size)])
    boundary = tet_grid.boundary_mask(resolution).reshape(-1)
    # As far outside as it was inside: the cap lies in the middle of its edges, where
    # faces have an area and `sdf` a gradient.
    outside = -jnp.maximum(jnp.abs(sdf), _NEVER_ZERO)
    sdf = jnp.where(boundary, outside, sdf)
    active = _crossed_cells(sdf > 0, resolution, capacities.cells)
    crossed = _crossed_edges(active.inside) & active.used[None]
    edges, number, num_vertices = compact(crossed.reshape(-1), capacities.vertices)
    ends = _edge_ends(edges, active, resolution)
    vertices = _crossings(
        sdf, offsets, ends, resolution=resolution, max_offset=max_offset
    )
    is_vertex = used(num_vertices, capacities.vertices)[None]
    faces, neighbours, num_faces = _faces(active, number, resolution, capacities.faces)
    return Surface(
        vertices=jnp.where(is_vertex, vertices, 0),
        faces=faces,
        neighbours=neighbours,
        counts=MeshSizes(active.count, num_vertices, num_faces),
    )


def _flat(offsets: np.ndarray, resolution: int) -> np.ndarray:
    """Offsets [..., 3] in cells -> [...] in flat cell indices."""
    side = resolution + 1
    return (offsets @ [side**2, side, 1]).astype(np.int32)


def _corner_offsets(resolution: int) -> np.ndarray:
    """[12] flat vertex index of a cell's corners relative to the cell."""
    corners = tet_grid.cell_tables().corners
    lattice = corners[:, 0] * (resolution + 1) ** 3
    return (lattice + _flat(corners[:, 1:], resolution)).astype(np.int32)


def _crossed_cells(inside: jax.Array, resolution: int, capacity: int) -> _Active:
    n = resolution
    grid = inside.reshape(2, n + 1, n + 1, n + 1)
    views = [
        grid[lattice, i : i + n, j : j + n, k : k + n]
        for lattice, i, j, k in tet_grid.cell_tables().corners
    ]
    some = functools.reduce(jnp.logical_or, views)
    every = functools.reduce(jnp.logical_and, views)
    mixed = jnp.pad(some & ~every, ((0, 1),) * 3)  # same strides as the vertices
    index, number, count = compact(mixed.reshape(-1), capacity)
    corners = index[None] + _corner_offsets(resolution)[:, None]
    return _Active(index, number, used(count, capacity), inside[corners], count)


def _crossed_edges(inside: jax.Array) -> jax.Array:
    """[12, C] corners inside -> [14, C] edges crossed."""
    first, second = tet_grid.cell_tables().edges.T
    return inside[first] != inside[second]


def _edge_ends(edges: jax.Array, active: _Active, resolution: int):
    """List of edges (edge * C + cell's place) -> flat vertex indices (inside, outside).

    Both ends come in the order of the table; who is inside is settled by the values.
    """
    kind, place = edges // active.index.size, edges % active.index.size
    table = _corner_offsets(resolution)[tet_grid.cell_tables().edges]
    cell = active.index[place]
    return [cell + jnp.asarray(column)[kind] for column in table.T]


def _crossings(sdf, offsets, ends, *, resolution: int, max_offset: float):
    """[3, V] where the surface crosses the edges."""
    values = [sdf[end] for end in ends]
    scale = max_offset * tet_grid.cell_width(resolution)
    points = [
        tet_grid.vertex_positions(end, resolution, sdf.dtype)
        + scale * jnp.tanh(offsets[:, end])
        for end in ends
    ]
    # An edge of the list is crossed, so that the difference is not zero; unused entries
    # get 1 instead.
    step = values[0] - values[1]
    crossed = (values[0] > 0) != (values[1] > 0)
    share = values[0] / jnp.where(crossed, step, 1)
    return points[0] + share[None] * (points[1] - points[0])


def _cases(active: _Active) -> jax.Array:
    """[12, C] case of each tetrahedron of the crossed cells; 0 where unused."""
    tets = tet_grid.cell_tables().tets
    bits = sum(active.inside[tets[:, v]].astype(jnp.int32) << v for v in range(4))
    return jnp.where(active.used[None], bits, 0)


class _SideTables(NamedTuple):
    """For (tetrahedron, case, triangle, side), flattened (local to this file).

    `cell`, `edge`: where the grid edge of the side's first corner is. `next_cell`,
    `next_tet`, `next_face`: the tetrahedron beyond the side and its face. All int32.
    """

    cell: np.ndarray
    edge: np.ndarray
    next_cell: np.ndarray
    next_tet: np.ndarray
    next_face: np.ndarray


@functools.cache
def _side_tables(resolution: int) -> _SideTables:
    cell, case = tet_grid.cell_tables(), tet_grid.case_tables()
    edges = cell.tet_edges[:, case.triangles]
    own = np.zeros((NUM_TETS, 1, 5), int)
    own[:, 0, 3], own[:, 0, 4] = np.arange(NUM_TETS), DIAGONAL
    beyond = np.concatenate([cell.tet_neighbours, own], axis=1)[:, case.side_face]
    columns = (
        _flat(edges[..., :3], resolution),
        edges[..., 3],
        _flat(beyond[..., :3], resolution),
        beyond[..., 3],
        beyond[..., 4],
    )
    return _SideTables(*(c.astype(np.int32).reshape(-1) for c in columns))


def _faces(active: _Active, number, resolution: int, capacity: int):
    """Faces [3, F], neighbours [3, F] and their count."""
    cases = _cases(active)
    counts = jnp.asarray(tet_grid.case_tables().count, jnp.int32)[cases].reshape(-1)
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    first, total = ends - counts, ends[-1]
    tets = jnp.arange(counts.size, dtype=jnp.int32)
    one = jnp.where(counts > 0, first, capacity)
    two = jnp.where(counts > 1, first + 1, capacity)
    owner = jnp.zeros(capacity, jnp.int32)
    owner = owner.at[one].set(2 * tets, mode="drop")
    owner = owner.at[two].set(2 * tets + 1, mode="drop")

    num_cells = active.index.size
    triangle, tet = owner % 2, owner // 2
    kind, cell = tet // num_cells, active.index[tet % num_cells]
    row = ((kind * 16 + cases.reshape(-1)[tet]) * 2 + triangle) * 3
    sides = row[None] + jnp.arange(3, dtype=jnp.int32)[:, None]
    table = _SideTables(*(jnp.asarray(t)[sides] for t in _side_tables(resolution)))

    is_face = used(total, capacity)[None]
    place = active.number[cell[None] + table.cell]
    corners = number[table.edge * num_cells + place]
    place = active.number[cell[None] + table.next_cell]
    beyond = table.next_tet * num_cells + place
    on_face = jnp.asarray(tet_grid.case_tables().face_triangle, jnp.int32).reshape(-1)
    shared = cases.reshape(-1)[beyond] * 4 + jnp.minimum(table.next_face, 3)
    other = jnp.where(table.next_face == DIAGONAL, 1 - triangle[None], on_face[shared])
    itself = jnp.arange(capacity, dtype=jnp.int32)[None]
    neighbours = jnp.where(is_face, first[beyond] + other, itself)
    return jnp.where(is_face, corners, 0), neighbours, total
