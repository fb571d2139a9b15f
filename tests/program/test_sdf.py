# SPDX-License-Identifier: Apache-2.0
"""From a noisy density with floaters and a cavity to distances."""

import functools

import mesh_shapes as shapes
import numpy as np
import pytest

from vsd_jax.program.export import sdf
from vsd_jax.program.terminal.errors import RunError
from vsd_jax.scene.mesh import tet_grid

R, RADIUS, LEVEL, N = 48, 0.55, 20.0, 16
CELL = 2 / (R - 1)
distances = functools.partial(sdf.signed_distance, smoothing=1.0, min_component=0.02)


def nodes():
    axis = np.linspace(-1, 1, R)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))


def soft_ball(centre=(0, 0, 0), radius=RADIUS, width=0.02):
    moved = nodes() - np.array(centre).reshape(3, 1, 1, 1)
    distance = np.linalg.norm(moved, axis=0) - radius
    return 2 * LEVEL / (1 + np.exp(distance / width))


def noisy_scene():
    rng = np.random.default_rng(0)
    density = soft_ball() * np.exp(0.3 * rng.normal(size=(R,) * 3))
    density = np.maximum(density, soft_ball((0.8, 0.8, 0.8), 0.12))  # a floater
    hole = np.linalg.norm(nodes() - 0.1, axis=0) < 0.15
    return np.where(hole, 0.1, density).astype(np.float32)


def test_distances_are_those_of_the_ball():
    found = distances(noisy_scene(), LEVEL)
    truth = RADIUS - np.linalg.norm(nodes(), axis=0)
    near = np.abs(truth) < 2 * CELL
    assert near.sum() > 1000
    assert np.abs(found - truth)[near].max() < 0.8 * CELL
    np.testing.assert_allclose(found, truth, atol=2.5 * CELL)
    assert found.dtype == np.float32


def normal_error(field):
    """Mean angle in degrees between vertex normals and the ball's."""
    positions = np.asarray(tet_grid.grid_positions(N))
    values = sdf.sample_grid(field.astype(np.float32), positions)
    surface = shapes.marcher(N)(values, np.zeros_like(positions))
    import trimesh

    vertices, faces, _ = shapes.triangles(surface)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    radius = np.linalg.norm(vertices, axis=1)
    outer = radius > 0.35  # not the cavity
    cosine = np.einsum("vc,vc->v", mesh.vertex_normals, vertices)[outer] / radius[outer]
    pieces = len(mesh.split(only_watertight=False))
    return np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean(), pieces


def test_the_mesh_is_one_piece_and_smoother_than_that_of_clamped_densities():
    density = noisy_scene()
    ours, pieces = normal_error(distances(density, LEVEL))
    peers, more_pieces = normal_error(np.clip(density - LEVEL, -1, 1))
    assert pieces == 1 and more_pieces > 1
    assert ours <= 0.5 * peers, (ours, peers)


def test_parts_that_do_not_touch_stay():
    """A robot's head, a lamp's shade."""
    density = np.maximum(soft_ball(), soft_ball((0.0, 0.8, 0.0), 0.18))
    found = sdf.signed_distance(density, LEVEL, smoothing=0.0, min_component=0.02)
    assert sdf.sample_grid(found, np.array([[0.0], [0.8], [0.0]]))[0] > 0.1
    alone = sdf.signed_distance(density, LEVEL, smoothing=0.0, min_component=0.5)
    assert sdf.sample_grid(alone, np.array([[0.0], [0.8], [0.0]]))[0] < 0


def test_values_between_the_nodes_are_linear():
    field = nodes()[0] + 2 * nodes()[1] - nodes()[2]
    points = np.array([[0.11, -0.93], [0.5, 0.2], [-0.7, 1.0]])
    expected = points[0] + 2 * points[1] - points[2]
    np.testing.assert_allclose(sdf.sample_grid(field, points), expected, atol=1e-5)


def test_an_empty_scene_is_refused_with_the_key_to_change():
    with pytest.raises(RunError, match=r"export\.level"):
        sdf.signed_distance(
            np.full((8, 8, 8), 1.0), 2.0, smoothing=1.0, min_component=0.02
        )


def hollow_ball(opening):
    """A ball with a hollow inside, and a straight passage of so many nodes from +x."""
    distance = np.linalg.norm(nodes(), axis=0)
    solid = (distance < 0.8) & (distance > 0.4)
    low = (R - opening) // 2
    middle = slice(low, low + opening)
    solid[R // 2 :, middle, middle] = False
    return solid


@pytest.mark.parametrize(("opening", "is_filled"), [(0, 1), (1, 1), (2, 1), (5, 0)])
def test_a_hollow_is_filled_where_no_wide_passage_leads(opening, is_filled):
    solid = hollow_ball(opening)
    found = sdf.enclosed(solid)
    inside = np.linalg.norm(nodes(), axis=0) < 0.35
    assert not (found & solid).any()
    assert found[inside].mean() == pytest.approx(is_filled, abs=0.02)
    outside = np.linalg.norm(nodes(), axis=0) > 0.8
    assert not found[outside].any()
    whole = solid | found
    assert not sdf.enclosed(whole).any()  # once is enough


def test_what_is_open_stays_open():
    """A cup, a gap that is seen through, and a solid that touches the border."""
    x, y, z = nodes()
    cup = (np.hypot(x, z) < 0.7) & (np.abs(y) < 0.7)
    cup &= ~((np.hypot(x, z) < 0.5) & (y > -0.5))
    slats = (np.abs(x) < 0.7) & (np.abs(y) < 0.7) & (np.abs(z) < 0.06)
    slats[R // 2 - 1 : R // 2 + 2] = False  # three nodes wide
    for solid in (cup, slats, y < 0.3):
        assert not sdf.enclosed(solid).any()
