# SPDX-License-Identifier: Apache-2.0
"""Mesh export on fields whose surface is known: place, level, colour, file formats."""

import json
import struct

import numpy as np
import pytest
import trimesh

from vsd_jax.program.export import export
from vsd_jax.program.terminal.errors import RunError

RADIUS = 0.5


def sphere_density(points, sharpness=60.0):
    distance = np.linalg.norm(points, axis=-1)
    return 40.0 / (1 + np.exp(sharpness * (distance - RADIUS)))


def axis_color(points):
    return np.clip(points * 0.5 + 0.5, 0, 1)


def make_mesh(density=sphere_density, *, level=20.0, closed=True, resolution=40):
    grid = export.density_grid(density, resolution=resolution, chunk=5000)
    return export.extract_mesh(
        grid, axis_color, level=level, closed=closed, min_component=0.02, chunk=999
    )


def as_trimesh(mesh):
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def test_grid_is_indexed_x_y_z():
    grid = export.density_grid(
        lambda p: p[:, 0] + 10 * p[:, 1] + 100 * p[:, 2], resolution=3, chunk=4
    )
    assert grid[2, 1, 1] == 1 and grid[1, 2, 1] == 10 and grid[1, 1, 2] == 100


def test_sphere_is_watertight_in_place_and_faces_outwards():
    mesh = make_mesh()
    solid = as_trimesh(mesh)
    assert solid.is_watertight
    np.testing.assert_allclose(solid.volume, 4 / 3 * np.pi * RADIUS**3, rtol=0.03)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), RADIUS, atol=0.01)


def test_colours_are_those_of_the_vertices():
    mesh = make_mesh()
    np.testing.assert_allclose(mesh.colors, axis_color(mesh.vertices), atol=1e-6)


def test_floaters_go_and_large_pieces_stay():
    def density(points):
        speck = np.linalg.norm(points - [0.8, 0.8, 0.8], axis=-1) < 0.06
        twin = np.linalg.norm(points + [0.7, 0.7, 0], axis=-1) < 0.2
        return sphere_density(points) + 40.0 * speck + 40.0 * twin

    pieces = as_trimesh(make_mesh(density)).split(only_watertight=False)
    assert len(pieces) == 2


def test_a_hollow_of_an_object_is_filled_and_a_room_is_not():
    def shell(points):
        radius = np.linalg.norm(points, axis=-1)
        return np.where((radius < 0.8) & (radius > 0.4), 40.0, 0.0)

    solid, room = make_mesh(shell), make_mesh(shell, closed=False)
    for mesh, pieces in ((solid, 1), (room, 2)):
        assert len(as_trimesh(mesh).split(only_watertight=False)) == pieces
    assert as_trimesh(solid).is_watertight
    np.testing.assert_allclose(
        as_trimesh(solid).volume, 4 / 3 * np.pi * 0.8**3, rtol=0.1
    )


def test_object_is_capped_at_the_border_and_a_room_is_left_open():
    def slab(points):
        return np.where(points[:, 1] < -0.5, 40.0, 0.0)

    capped, room = make_mesh(slab), make_mesh(slab, closed=False)
    assert as_trimesh(capped).is_watertight
    assert not as_trimesh(room).is_watertight
    assert np.allclose(room.vertices[:, 1], -0.5, atol=0.06)


def test_level_above_the_field_is_refused():
    with pytest.raises(RunError, match=r"export\.level"):
        make_mesh(level=1e6)


def ray_bundle(density, *, num_rays=400, num_samples=200):
    """Parallel rays along -z through a square, rendered the NeRF way."""
    generator = np.random.default_rng(0)
    offset = generator.uniform(-0.9, 0.9, (num_rays, 2))
    tdist = np.tile(np.linspace(0, 2, num_samples), (num_rays, 1))
    points = np.concatenate(
        [np.repeat(offset[:, None], num_samples, 1), 1 - tdist[..., None]], -1
    )
    sigma = density(points.reshape(-1, 3)).reshape(num_rays, num_samples)
    alpha = 1 - np.exp(-sigma * (tdist[0, 1] - tdist[0, 0]))
    through = np.cumprod(np.concatenate([np.ones((num_rays, 1)), 1 - alpha], 1), 1)
    weights = alpha * through[:, :-1]
    opacity = weights.sum(1)
    depth = (weights * tdist).sum(1) / np.maximum(opacity, 1e-6)
    return sigma, tdist, opacity, depth


@pytest.mark.parametrize("sharpness", [15.0, 60.0])
def test_chosen_level_reproduces_the_rendered_sphere(sharpness):
    sigma, tdist, opacity, depth = ray_bundle(lambda p: sphere_density(p, sharpness))
    level, overlap = export.choose_level(sigma, tdist, opacity, depth)
    assert overlap > 0.9
    mesh = make_mesh(lambda p: sphere_density(p, sharpness), level=level)
    # The rendered edge of a soft ball lies outside its half-density radius: the disc
    # of solid pixels in the 1.8 x 1.8 square is what the mesh has to cover.
    seen = np.sqrt((opacity > 0.5).mean() * 1.8**2 / np.pi)
    assert abs(np.linalg.norm(mesh.vertices, axis=1).mean() - seen) < 0.03


def test_a_given_level_has_its_own_overlap():
    bundle = ray_bundle(sphere_density)
    best, overlap = export.choose_level(*bundle)
    for level in (best, 0.3 * best):
        found, own = export.choose_level(*bundle, level=level)
        assert found == level and (own == overlap) == (level == best)
    assert own < overlap


def test_a_mesh_without_faces_is_an_error_in_words():
    empty = np.zeros((0, 3))
    with pytest.raises(RunError, match="no faces"):
        export.drop_floaters(empty, empty.astype(int), 0.1)


def test_haze_does_not_reach_the_surface():
    def hazy(points):
        return sphere_density(points) + 0.05

    level, _ = export.choose_level(*ray_bundle(hazy))
    assert level > 1


def test_what_stands_in_a_room_is_in_its_mesh():
    """All rays end in a wall that is far denser than what stands before it."""

    def room(points):
        return sphere_density(points) + 200 * np.clip(-0.6 - 2 * points[:, 2], 0, 1)

    bundle = ray_bundle(room)
    level, _ = export.choose_level(*bundle)
    assert level < sphere_density(np.zeros((1, 3)))[0] < bundle[0].max(axis=1).min()


def test_empty_scene_is_an_error_in_words():
    with pytest.raises(RunError, match="empty"):
        export.choose_level(*ray_bundle(lambda p: np.zeros(len(p))))


def test_ply_reloads_with_srgb_bytes(tmp_path):
    mesh = make_mesh()
    export.save_ply(tmp_path / "m.ply", mesh)
    loaded = trimesh.load(tmp_path / "m.ply", process=False)
    np.testing.assert_allclose(loaded.vertices, mesh.vertices, atol=1e-6)
    np.testing.assert_array_equal(
        loaded.visual.vertex_colors[:, :3], np.round(mesh.colors * 255)
    )


def read_glb(path):
    content = path.read_bytes()
    assert content[:4] == b"glTF" and struct.unpack("<I", content[8:12])[0] == len(
        content
    )
    length = struct.unpack("<I", content[12:16])[0]
    return json.loads(content[20 : 20 + length])


def test_glb_reloads_with_linear_colours_and_the_same_axes(tmp_path):
    mesh = make_mesh()
    export.save_glb(tmp_path / "m.glb", mesh, double_sided=False)
    (loaded,) = trimesh.load(tmp_path / "m.glb", process=False).geometry.values()
    np.testing.assert_allclose(loaded.vertices, mesh.vertices, atol=1e-6)
    assert as_trimesh(mesh).volume * loaded.volume > 0
    linear = export.srgb_to_linear(mesh.colors)
    np.testing.assert_allclose(
        loaded.visual.vertex_attributes["color"], linear, atol=1e-6
    )


def test_glb_says_what_the_standard_wants(tmp_path):
    export.save_glb(tmp_path / "m.glb", make_mesh(), double_sided=True)
    tree = read_glb(tmp_path / "m.glb")
    (primitive,) = tree["meshes"][0]["primitives"]
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "COLOR_0"}
    color = tree["accessors"][primitive["attributes"]["COLOR_0"]]
    assert color["componentType"] == 5126 and color["type"] == "VEC3"
    assert tree["materials"][primitive["material"]]["doubleSided"] is True
    assert "min" in tree["accessors"][primitive["attributes"]["POSITION"]]


def test_srgb_to_linear_knows_the_textbook_values():
    np.testing.assert_allclose(
        export.srgb_to_linear(np.array([0, 0.04, 0.5, 1])),
        [0, 0.0030959, 0.2140411, 1],
        atol=1e-6,
    )
