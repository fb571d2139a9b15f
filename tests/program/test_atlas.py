# SPDX-License-Identifier: Apache-2.0
"""Thinning, charts, texels and lookup of baked textures, on surfaces that are known."""

import numpy as np
import pytest
import trimesh

from vsd_jax.program.export import atlas, textured
from vsd_jax.program.terminal.errors import RunError

SIZE = 128
SHAPES = {
    "sphere": trimesh.creation.icosphere(subdivisions=3, radius=0.8),
    "box": trimesh.creation.box((1.0, 1.4, 0.6)),
    "torus": trimesh.creation.torus(0.6, 0.25, major_sections=32, minor_sections=16),
}
(_upper,) = np.nonzero(SHAPES["sphere"].triangles_center[:, 1] > 0)
SHAPES["open"] = SHAPES["sphere"].submesh([_upper], append=True)


def place_color(points):
    return 0.5 + 0.5 * points


def wave_color(points):
    return 0.5 + 0.5 * np.sin(25 * points)


def bake(shape, color=place_color, *, size=SIZE, samples_per_axis=1):
    return textured.bake_mesh(
        shape.vertices,
        shape.faces,
        color,
        texture_size=size,
        max_faces=0,
        chunk=999,
        samples_per_axis=samples_per_axis,
    )


def uv_triangles(cut):
    return cut.uv[cut.faces].astype(np.float64)


def areas(triangles):
    """[F] of triangles in the plane or in space."""
    if triangles.shape[-1] == 2:
        triangles = np.pad(triangles, ((0, 0), (0, 0), (0, 1)))
    a, b, c = triangles.transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def texel_length(mesh):
    """Scene units from one texel to the next."""
    corners = mesh.vertices[mesh.atlas.vertex_map[mesh.atlas.faces]]
    share = areas(uv_triangles(mesh.atlas)).sum()
    return np.sqrt(areas(corners).sum() / share) / mesh.atlas.width


def cut_points(mesh, num, seed=0):
    """Random points on the sides where charts end: (points, uv)."""
    faces, random = mesh.atlas.faces, np.random.default_rng(seed)
    sides = np.concatenate([faces[:, [s, (s + 1) % 3]] for s in range(3)])
    _, inverse, count = np.unique(
        np.sort(sides, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    sides = random.choice(sides[count[inverse.ravel()] == 1], num)
    share = random.random((num, 1))
    place = mesh.vertices[mesh.atlas.vertex_map]
    return (
        (1 - share) * values[sides[:, 0]] + share * values[sides[:, 1]]
        for values in (place, mesh.atlas.uv)
    )


def errors(mesh, color, points, uv):
    return np.abs(atlas.lookup(mesh.texture, uv) - color(points)).max(axis=1)


@pytest.fixture(scope="module", params=SHAPES)
def shape(request):
    return SHAPES[request.param]


@pytest.fixture(scope="module")
def placed(shape):
    return bake(shape)


def test_every_face_has_its_place(shape, placed):
    cut = placed.atlas
    np.testing.assert_array_equal(cut.vertex_map[cut.faces], shape.faces)
    assert (areas(uv_triangles(cut)) > 0).all()
    assert cut.uv.min() >= 0 and cut.uv.max() <= 1
    assert placed.texture.shape == (SIZE, SIZE, 3) and placed.texture.dtype == np.uint8


def test_no_triangles_lie_on_each_other(placed):
    cut, fine = placed.atlas, 2048
    owner = atlas._owners(uv_triangles(cut) * fine - 0.5, fine, fine)
    covered = (owner >= 0).mean()
    assert covered == pytest.approx(areas(uv_triangles(cut)).sum(), rel=2e-3)


def test_any_point_finds_its_colour(placed):
    # The colours are linear in space: less than a texel's change is left.
    tolerance = 0.5 * texel_length(placed) + 1 / 255
    for points, uv in (textured.sample_surface(placed, 5000), cut_points(placed, 2000)):
        assert errors(placed, place_color, points, uv).max() < tolerance


@pytest.mark.parametrize("samples_per_axis", [1, 2])
def test_cuts_are_hardly_worse_than_the_rest(samples_per_axis):
    mesh = bake(
        SHAPES["torus"], wave_color, size=256, samples_per_axis=samples_per_axis
    )
    away = errors(mesh, wave_color, *textured.sample_surface(mesh, 10_000))
    at_cuts = errors(mesh, wave_color, *cut_points(mesh, 10_000))
    assert np.quantile(away, 0.95) < 0.02
    for level in (0.5, 0.95):
        assert np.quantile(at_cuts, level) < 1.5 * np.quantile(away, level)


def test_error_is_that_of_the_lookup():
    mesh = bake(SHAPES["box"])
    found = textured.texture_error(mesh, place_color, chunk=999, num_points=3000)
    assert 0 < found["median"] < found["p95"] < 0.5 / 255 + 1e-3
    worse = textured.texture_error(
        mesh, lambda p: place_color(p) + 0.1, chunk=999, num_points=3000
    )
    assert worse["median"] == pytest.approx(0.1, abs=0.01)


def test_no_background_is_left_and_calls_have_one_size():
    sizes = set()

    def color(points):
        sizes.add(len(points))
        return np.full((len(points), 3), 0.6)

    assert (bake(SHAPES["sphere"], color).texture == 153).all()
    assert sizes == {999}


def test_texels_are_the_same_in_parts(monkeypatch):
    whole = bake(SHAPES["box"]).texture
    monkeypatch.setattr(atlas, "_AT_ONCE", 1000)
    np.testing.assert_array_equal(bake(SHAPES["box"]).texture, whole)


def test_texels_hold_the_mean_of_their_samples():
    def stripes(points):  # far finer than a texel
        return np.repeat(np.floor(points.sum(axis=1, keepdims=True) * 999) % 2, 3, 1)

    def spread(samples):
        mesh = bake(SHAPES["box"], stripes, samples_per_axis=samples)
        return atlas.lookup(mesh.texture, textured.sample_surface(mesh, 5000)[1]).std()

    assert spread(4) < 0.4 * spread(1)


def test_lookup_is_bilinear_and_clamped():
    texture = np.zeros((2, 2, 3), np.uint8)
    texture[0, 1] = 255
    uv = np.array([[0.75, 0.25], [0.5, 0.25], [0.5, 0.5], [1, 0], [0, 1]])
    found = atlas.lookup(texture, uv)[:, 0]
    np.testing.assert_allclose(found, [1, 0.5, 0.25, 1, 0])


def test_point_beside_a_sliver_stays_near():
    corners = np.array([[[0.0, 0.0], [1.0, 0.0], [0.5, 1e-9]], [[1.0, 1.0]] * 3])
    weights = atlas._barycentric(corners, np.array([0.5, 3]), np.array([1.0, 3]))
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert np.abs(weights).max() < 4


@pytest.mark.parametrize("name", ["sphere", "torus"])
def test_thinning_keeps_the_volume_and_the_budget(name):
    shape = SHAPES[name].subdivide()
    vertices, faces = atlas.decimate(shape.vertices, shape.faces, 900)
    assert len(faces) <= 900
    thin = trimesh.Trimesh(vertices, faces, process=False)
    assert thin.is_watertight
    assert thin.volume == pytest.approx(shape.volume, rel=0.01)
    assert set(faces.ravel()) == set(range(len(vertices)))


def test_few_faces_and_no_limit_change_nothing():
    shape = SHAPES["sphere"]
    for limit in (0, len(shape.faces)):
        vertices, faces = atlas.decimate(shape.vertices, shape.faces, limit)
        np.testing.assert_allclose(vertices, shape.vertices, atol=1e-6)
        np.testing.assert_array_equal(faces, shape.faces)


TRIANGLE = np.array([[0, 1, 2]])


@pytest.mark.parametrize(
    ("vertices", "faces", "word"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3), int), r"empty.*export\.level"),
        (np.ones((3, 3)), TRIANGLE, r"no area.*export\.level"),
        (np.arange(3.0)[:, None] * np.ones(3), TRIANGLE, r"no area.*export\.level"),
        (np.diag([1, np.nan, 1]), TRIANGLE, "not finite.*checkpoint"),
    ],
)
def test_what_is_no_surface_is_refused(vertices, faces, word):
    for call in (atlas.decimate, atlas.unwrap):
        with pytest.raises(RunError, match=word):
            call(vertices, faces, 64)


def test_limits_that_leave_nothing_are_refused():
    shape = SHAPES["box"]
    with pytest.raises(RunError, match=r"export\.max_faces"):
        atlas.decimate(shape.vertices, shape.faces, 1)
    specks = np.full((3, 2), 0.5, np.float32) + 1e-4
    cut = atlas.Atlas(np.arange(3), TRIANGLE, specks, 2, 2)
    with pytest.raises(RunError, match=r"export\.texture_size"):
        atlas.bake(cut, np.eye(3), place_color, chunk=99)
