# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from vsd_jax.scene.mesh import tet_grid
from vsd_jax.scene.mesh.tet_grid import DIAGONAL, TET_EDGES


def place(corners):
    return corners[..., 1:] + 0.5 * corners[..., :1]


def test_tets_are_congruent_positive_and_fill_a_cell():
    tables = tet_grid.cell_tables()
    points = place(tables.corners)[tables.tets]
    volumes = np.linalg.det(points[:, 1:] - points[:, :1]) / 6
    np.testing.assert_allclose(volumes, 1 / 12)
    lengths = [
        sorted(np.linalg.norm(tet[a] - tet[b]) for a, b in TET_EDGES) for tet in points
    ]
    np.testing.assert_allclose(lengths, len(points) * [4 * [0.75**0.5] + 2 * [1.0]])


def test_tet_edges_name_the_same_vertices():
    tables = tet_grid.cell_tables()
    for tet, named in zip(tables.tets, tables.tet_edges, strict=True):
        for (a, b), (*offset, edge) in zip(TET_EDGES, named, strict=True):
            there = tables.corners[tables.edges[edge]] + [0, *offset]
            here = tables.corners[tet[[a, b]]]
            assert {tuple(v) for v in there} == {tuple(v) for v in here}


def test_neighbours_share_a_face_and_are_mutual():
    tables = tet_grid.cell_tables()
    for tet, face in itertools.product(range(12), range(4)):
        *offset, other, its_face = tables.tet_neighbours[tet, face]
        here = np.delete(tables.corners[tables.tets[tet]], face, axis=0)
        there = np.delete(tables.corners[tables.tets[other]], its_face, axis=0)
        moved = there + [0, *offset]
        assert {tuple(v) for v in moved} == {tuple(v) for v in here}
        back = tables.tet_neighbours[other, its_face]
        np.testing.assert_array_equal(
            back, [-offset[0], -offset[1], -offset[2], tet, face]
        )


def test_cases_cross_what_they_must_and_complements_are_reversed():
    cases = tet_grid.case_tables()
    np.testing.assert_array_equal(
        cases.count, [0, 1, 1, 2, 1, 2, 2, 1, 1, 2, 2, 1, 2, 1, 1, 0]
    )
    for case in range(16):
        crossed = [
            i for i, (a, b) in enumerate(TET_EDGES) if (case >> a ^ case >> b) & 1
        ]
        fan = cases.triangles[case, : cases.count[case]]
        assert sorted(set(fan.ravel().tolist())) == crossed
        sides = {
            (t[s], t[(s + 1) % 3]): f
            for t, faces in zip(fan, cases.side_face[case], strict=False)
            for s, f in enumerate(faces)
        }
        assert list(sides.values()).count(DIAGONAL) == 2 * (len(fan) == 2)
        outer = {pair for pair, face in sides.items() if face != DIAGONAL}
        opposite = cases.triangles[15 - case, : cases.count[15 - case]]
        reversed_sides = {(t[(s + 1) % 3], t[s]) for t in opposite for s in range(3)}
        assert outer <= reversed_sides


def test_case_points_from_inside_to_outside():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    cases = tet_grid.case_tables()
    for case in range(1, 15):
        inside = np.array([bool(case >> v & 1) for v in range(4)])
        outward = corners[~inside].mean(0) - corners[inside].mean(0)
        for triangle in cases.triangles[case, : cases.count[case]]:
            a, b, c = (corners[list(TET_EDGES[e])].mean(0) for e in triangle)
            assert np.cross(b - a, c - a) @ outward > 0


@pytest.mark.parametrize("resolution", [2, 5])
def test_grid_fills_the_cube_and_is_its_own_reflection(resolution):
    points = np.asarray(tet_grid.grid_positions(resolution))
    assert points.shape == (3, tet_grid.num_grid_vertices(resolution))
    np.testing.assert_allclose([points.min(), points.max()], [-1, 1], rtol=1e-6)
    np.testing.assert_allclose(points[:, ::-1], -points, atol=1e-6)
    mask = np.asarray(tet_grid.boundary_mask(resolution))
    assert (~mask).sum() == 2 * (resolution - 1) ** 3
    low = -1 + tet_grid.cell_width(resolution)
    inner = points[:, ~mask.ravel()]
    np.testing.assert_allclose(inner.min(), low, rtol=1e-5)
