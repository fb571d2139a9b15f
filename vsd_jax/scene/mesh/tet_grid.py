# SPDX-License-Identifier: Apache-2.0
"""Tetrahedral grid of any resolution, as constant tables of offsets.

The grid is the body-centred cubic lattice: lattice A and lattice B, B shifted by half a
cell along each axis. Every tetrahedron joins an edge of B to one of the four A edges
around it; all are congruent. Relative to a cell there are 12 tetrahedra and 14 edges,
the same for every cell, so that no list of either is ever stored.

Notation: n = cells along an axis, m = n + 1 vertices along an axis and lattice, G =
2 m^3 grid vertices. A vertex is (lattice, i, j, k); its flat index is
((lattice * m + i) * m + j) * m + k, that of a cell (i * m + j) * m + k, the index of
its A vertex (cells with an index n are padding). The tables hold offsets from a cell.

The lattice fills the cube [-1, 1]^3: index i of A stands at i - 1/4, of B at i + 1/4,
in cells of 2 / (n + 1/2) scene units. Reflecting the cube swaps A and B. The outermost
layers of both lattices are the boundary (`boundary_mask`).
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NUM_TETS, NUM_EDGES = 12, 14
TET_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
"""The six edges of a tetrahedron, as pairs of its vertices; face f is opposite f."""

DIAGONAL = 4
"""Instead of a face: the side of a triangle crosses the inside of its tetrahedron."""


class CellTables(NamedTuple):
    """What surrounds a cell; offsets are (i, j, k) in cells.

    Attributes:
      corners: [12, 4] the cell's own vertices (lattice, i, j, k).
      edges: [14, 2] edges as pairs of corners.
      tets: [12, 4] tetrahedra as corners, positively oriented.
      tet_edges: [12, 6, 4] edge of a tetrahedron -> (offset of its cell, edge there).
      tet_neighbours: [12, 4, 5] face of a tetrahedron -> (offset of the neighbour's
        cell, tetrahedron there, its face).
    """

    corners: np.ndarray
    edges: np.ndarray
    tets: np.ndarray
    tet_edges: np.ndarray
    tet_neighbours: np.ndarray


class CaseTables(NamedTuple):
    """Which triangles for which vertices inside (bit v of a case = vertex v).

    Attributes:
      count: [16] triangles, 0 to 2.
      triangles: [16, 2, 3] corners as edges of the tetrahedron, counter-clockwise seen
        from outside; side s goes from corner s to the next.
      side_face: [16, 2, 3] the face that a side lies on, or DIAGONAL.
      face_triangle: [16, 4] the triangle with a side on a face.
    """

    count: np.ndarray
    triangles: np.ndarray
    side_face: np.ndarray
    face_triangle: np.ndarray


def _place(vertex) -> np.ndarray:
    """(lattice, i, j, k) -> position in cells, up to a common shift."""
    return np.array(vertex[1:]) + 0.5 * vertex[0]


def _cell_edges() -> list[tuple]:
    unit = [tuple(int(a == axis) for a in range(3)) for axis in range(3)]
    along = [((x, 0, 0, 0), (x, *e)) for x in (0, 1) for e in unit]
    corners = itertools.product((0, 1), repeat=3)
    return along + [((1, 0, 0, 0), (0, *corner)) for corner in corners]


def _cell_tets() -> list[tuple]:
    tets = []
    for axis in range(3):
        u, v = (a for a in range(3) if a != axis)
        ends = np.zeros((2, 4), int)
        ends[:, 0] = 1
        ends[1, 1 + axis] = 1
        square = np.zeros((4, 4), int)
        square[:, 1 + axis] = 1
        square[:, 1 + u], square[:, 1 + v] = (0, 1, 1, 0), (0, 0, 1, 1)
        for a, b in zip(square, np.roll(square, -1, axis=0), strict=True):
            tet = [tuple(map(int, x)) for x in (*ends, a, b)]
            first, *rest = map(_place, tet)
            volume = np.linalg.det(np.stack(rest) - first)
            tets.append(tuple(tet if volume > 0 else tet[:2] + tet[:1:-1]))
    return tets


def _shift(vertex, offset) -> tuple:
    return (vertex[0], *(int(x + d) for x, d in zip(vertex[1:], offset, strict=True)))


def _find(table: dict, vertices, reach) -> list:
    """All (*offset, *entry) whose vertices, moved by offset, are the given ones."""
    found = []
    for offset in itertools.product(reach, repeat=3):
        key = frozenset(_shift(v, [-d for d in offset]) for v in vertices)
        found += [(*offset, *entry) for entry in table.get(key, ())]
    return found


@functools.cache
def cell_tables() -> CellTables:
    """Derives the tables of a cell from the geometry of the lattice."""
    edges, tets = _cell_edges(), _cell_tets()
    corners = sorted({vertex for edge in edges for vertex in edge})
    edge_of = {frozenset(edge): [(i,)] for i, edge in enumerate(edges)}
    faces = {}
    for i, tet in enumerate(tets):
        for f in range(4):
            key = frozenset(v for j, v in enumerate(tet) if j != f)
            faces.setdefault(key, []).append((i, f))
    tet_edges = [
        [_find(edge_of, (tet[a], tet[b]), (0, 1))[0] for a, b in TET_EDGES]
        for tet in tets
    ]
    neighbours = np.zeros((NUM_TETS, 4, 5), int)
    for i, f in itertools.product(range(NUM_TETS), range(4)):
        face = [v for j, v in enumerate(tets[i]) if j != f]
        both = _find(faces, face, (-1, 0, 1))
        (neighbours[i, f],) = (x for x in both if x != (0, 0, 0, i, f))
    return CellTables(
        np.array(corners),
        np.array([[corners.index(v) for v in edge] for edge in edges]),
        np.array([[corners.index(v) for v in tet] for tet in tets]),
        np.array(tet_edges),
        neighbours,
    )


@functools.cache
def case_tables() -> CaseTables:
    """Derives the 16 cases: crossed edges in a cycle, turned to face the outside."""
    count, triangles = np.zeros(16, int), np.zeros((16, 2, 3), int)
    side_face = np.full((16, 2, 3), DIAGONAL)
    face_triangle = np.zeros((16, 4), int)
    for case in range(1, 15):
        cycle = _crossing_cycle(case)
        fan = [cycle[:3], (cycle[0], *cycle[2:])][: len(cycle) - 2]
        count[case], triangles[case, : len(fan)] = len(fan), fan
        for k, side in itertools.product(range(len(fan)), range(3)):
            touched = TET_EDGES[fan[k][side]] + TET_EDGES[fan[k][(side + 1) % 3]]
            missing = set(range(4)) - set(touched)
            if missing:
                (face,) = missing
                side_face[case, k, side] = face
                face_triangle[case, face] = k
    return CaseTables(count, triangles, side_face, face_triangle)


def _crossing_cycle(case: int) -> tuple[int, ...]:
    """The edges that the surface crosses, in order around it."""
    inside = [v for v in range(4) if case >> v & 1]
    outside = [v for v in range(4) if v not in inside]
    pairs = [(a, b) for a in inside for b in outside]
    if len(inside) == 2:
        pairs[2:] = pairs[:1:-1]  # a quadrilateral: consecutive edges share a vertex
    cycle = tuple(TET_EDGES.index((min(p), max(p))) for p in pairs)
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])  # volume > 0
    middles = np.array([corners[list(pair)].mean(0) for pair in pairs])
    normal = np.cross(middles[1] - middles[0], middles[2] - middles[0])
    outward = corners[outside].mean(0) - corners[inside].mean(0)
    return cycle if normal @ outward > 0 else cycle[::-1]


def num_grid_vertices(resolution: int) -> int:
    """G of a grid with `resolution` cells along an axis."""
    return 2 * (resolution + 1) ** 3


def cell_width(resolution: int) -> float:
    """Edge of a cell, scene units."""
    return 2 / (resolution + 0.5)


def vertex_positions(vertices: jax.Array, resolution: int, dtype) -> jax.Array:
    """Flat vertex indices [...] -> positions [3, ...] in [-1, 1], scene units."""
    side = resolution + 1
    lattice = vertices // side**3
    index = [vertices // side**2 % side, vertices // side % side, vertices % side]
    shift = jnp.where(lattice == 1, 0.25, -0.25).astype(dtype) - resolution / 2
    return jnp.stack([i.astype(dtype) + shift for i in index]) * cell_width(resolution)


def grid_positions(resolution: int, dtype=jnp.float32) -> jax.Array:
    """Positions [3, G] of all grid vertices in [-1, 1], scene units."""
    vertices = jnp.arange(num_grid_vertices(resolution), dtype=jnp.int32)
    return vertex_positions(vertices, resolution, dtype)


def boundary_mask(resolution: int) -> jax.Array:
    """[2, m, m, m] bool: the outermost layers of both lattices.

    A face of a tetrahedron without a neighbour has all its vertices here; so a surface
    that leaves these vertices outside is closed.
    """
    index = jnp.arange(resolution + 1)
    outer = (index == 0) | (index == resolution)
    mask = outer[:, None, None] | outer[None, :, None] | outer[None, None, :]
    return jnp.broadcast_to(mask, (2, *mask.shape))
