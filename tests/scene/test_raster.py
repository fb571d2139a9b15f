# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import mesh_shapes as shapes
import numpy as np
import pytest
import trimesh
from scipy.spatial import Delaunay
from trimesh.ray.ray_pyembree import RayMeshIntersector

from vsd_jax.scene.camera import camera_at, orbit_camera, pixel_rays
from vsd_jax.scene.mesh import capacity, raster
from vsd_jax.scene.mesh.raster import RasterSizes, Screen
from vsd_jax.scene.nerf import volume

H, W = 48, 72
N = 26
SIZES = RasterSizes(rows=40000, pixels=40000, silhouettes=1, crossings=1)


@functools.partial(jax.jit, static_argnames=("near", "capacities"))
def look(vertices, faces, view, near=0.1, capacities=SIZES):
    screen = raster.project(vertices, view, height=H, width=W, near=near)
    seen, counts = raster.find_visible(
        screen, faces, height=H, width=W, capacities=capacities
    )
    return screen, seen, counts


@functools.cache
def surface_of(shape):
    sdf = jnp.asarray(getattr(shapes, shape)(N), jnp.float32)
    return shapes.marcher(N)(sdf, jnp.zeros((3, sdf.size), jnp.float32))


def trace(surface, view):
    """(face or -1, depth along the axis or inf) by ray casting, and the rays."""
    vertices, faces, _ = shapes.triangles(surface)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    origin, directions = (np.asarray(x, float) for x in pixel_rays(view, H, W))
    directions = directions.reshape(-1, 3)
    origins = np.broadcast_to(origin, directions.shape)
    caster = RayMeshIntersector(mesh, scale_to_box=False)
    face = caster.intersects_first(origins, directions)
    plane = mesh.face_normals[face]
    distance = np.einsum("pc,pc->p", plane, mesh.triangles_center[face] - origins)
    distance /= np.einsum("pc,pc->p", plane, directions)
    depth = distance * -(directions @ np.asarray(view.cam_to_world)[:3, 2])
    return face, np.where(face >= 0, depth, np.inf)


VIEWS = [(30.0, 20.0, 3.2), (-100.0, -35.0, 2.6), (10.0, 90.0, 3.0)]


@pytest.mark.parametrize("view", VIEWS)
def test_visibility_is_that_of_ray_casting(view):
    surface = surface_of("linked_tori")
    view = orbit_camera(*view, 40.0)
    _, seen, counts = look(surface.vertices, surface.faces, view)
    assert not capacity.overflows(counts, SIZES)
    face, depth = trace(surface, view)
    got = np.asarray(seen.face)
    assert 500 < (face >= 0).sum() < 0.9 * face.size
    np.testing.assert_array_equal(got >= 0, face >= 0)
    inverse = np.asarray(seen.inverse_depth, float)
    np.testing.assert_allclose(inverse, 1 / depth, atol=1e-4)
    assert (got != face).mean() < 1e-2, "only centres on a shared side may differ"


def test_mask_is_that_of_an_opaque_ball_in_the_radiance_field():
    """Same pixels, same world: off-centre ball, image that is not square."""
    centre, radius = np.array([0.3, -0.2, 0.1]), 0.5
    sdf = jnp.asarray(shapes.ball(N, radius, tuple(centre)), jnp.float32)
    surface = shapes.marcher(N)(sdf, jnp.zeros((3, sdf.size), jnp.float32))
    view = orbit_camera(40.0, 25.0, 2.6, 40.0)

    def solid(positions, key=None):
        inside = jnp.sum((positions - centre.astype("f4")[None]) ** 2, -1) < radius**2
        return jnp.where(inside, 1e4, 0.0), jnp.zeros_like(positions)

    @jax.jit
    def opacity(view):
        origin, directions = pixel_rays(view, H, W)
        directions = directions.reshape(-1, 3)
        seen, _, _ = volume.render_rays(
            solid,
            solid,
            jnp.broadcast_to(origin, directions.shape),
            directions,
            None,
            cells=None,
            num_samples=256,
            num_fine=0,
            half_extent=1.0,
            near=0.1,
            capacity=1.0,
        )
        return seen.opacity

    nerf = np.asarray(opacity(view)) > 0.5
    _, seen, _ = look(surface.vertices, surface.faces, view)
    mesh = np.asarray(seen.face) >= 0
    assert nerf.sum() > 300
    assert (mesh != nerf).sum() <= 0.02 * nerf.sum()
    for axis in range(2):  # no shift by half a pixel either
        middles = [m.reshape(H, W).nonzero()[axis].mean() for m in (mesh, nerf)]
        assert abs(middles[0] - middles[1]) < 0.1


def flat(x, y, depth=None):
    """A screen from pixel coordinates."""
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    depth = jnp.ones_like(x) if depth is None else jnp.asarray(depth, jnp.float32)
    return Screen(x, y, depth, jnp.ones(x.shape, bool))


@jax.jit
def see(screen, faces):
    return raster.find_visible(screen, faces, height=H, width=W, capacities=SIZES)


def facing(points, faces):
    """Turns faces [F, 3] so that they look at the camera (y points down)."""
    a, b, c = points[faces].transpose(1, 2, 0)
    area = (b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]
    return np.where((area < 0)[:, None], faces, faces[:, ::-1])


@pytest.mark.parametrize("seed", range(6))
def test_no_holes_in_a_planar_triangulation(seed):
    rng = np.random.default_rng(seed)
    inner = rng.uniform(-2, [W + 1, H + 1], size=(56, 2))
    if seed % 2:
        inner = np.round(inner)  # vertices on the centres of pixels
    corners = np.array([[-3, -3], [W + 3, -3], [-3, H + 3], [W + 3, H + 3]])
    points = np.concatenate([corners, inner]).astype(np.float32)
    faces = facing(points, Delaunay(points).simplices)
    faces = np.pad(faces, ((0, 140 - len(faces)), (0, 0)))
    seen, counts = see(flat(*points.T), jnp.asarray(faces.T))
    assert not capacity.overflows(counts, SIZES)
    assert (np.asarray(seen.face) >= 0).all()
    assert counts.pixels < 1.3 * H * W  # shared sides count twice, nothing else
    np.testing.assert_allclose(seen.inverse_depth, 1, rtol=1e-5)


def pair_of_quads(far_first):
    """A large quad at depth 4 and a tilted one before its middle."""
    large = np.array([[-50, -50], [W + 50, -50], [W + 50, H + 50], [-50, H + 50]])
    small = np.array([[10, 10], [30, 10], [30, 20], [10, 20]])
    quads, depths = [large, small], [[4.0] * 4, [1.0, 2.0, 2.0, 1.0]]
    order = [0, 1] if far_first else [1, 0]
    points = np.concatenate([quads[i] for i in order]).astype(float)
    depth = np.concatenate([depths[i] for i in order])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    return flat(*points.T, depth), facing(points, faces)


@pytest.mark.parametrize("far_first", [True, False])
def test_nearest_wins_and_inverse_depth_is_linear(far_first):
    screen, faces = pair_of_quads(far_first)
    seen, _ = see(screen, jnp.asarray(faces.T))
    face = np.asarray(seen.face).reshape(H, W)
    near_faces = (2, 3) if far_first else (0, 1)
    np.testing.assert_array_equal(
        np.isin(face, near_faces).nonzero()[0], np.repeat(np.arange(10, 21), 21)
    )
    expected = np.full((H, W), 0.25)
    expected[10:21, 10:31] = np.linspace(1, 0.5, 21)
    np.testing.assert_allclose(seen.inverse_depth.reshape(H, W), expected, rtol=1e-5)


def test_back_faces_degenerate_faces_and_near_faces_are_not_drawn():
    screen, faces = pair_of_quads(True)
    flipped, _ = see(screen, jnp.asarray(faces[:, ::-1].T))
    point, _ = see(screen, jnp.zeros((3, 4), jnp.int32))
    cut = screen._replace(in_front=screen.in_front.at[0].set(False))
    some, _ = see(cut, jnp.asarray(faces.T))
    for nothing in (flipped, point):
        assert (np.asarray(nothing.face) == -1).all()
        assert not np.asarray(nothing.inverse_depth).any()
    assert not {0, 1} & set(np.unique(some.face).tolist())


def test_what_is_behind_or_at_the_camera_is_finite_and_not_drawn():
    surface = surface_of("ball")
    inside = camera_at(jnp.array([0.0, 0.0, 0.69]), 0.0, 0.0, 60.0, 0.69)
    screen, seen, _ = look(surface.vertices, surface.faces, inside)
    for leaf in jax.tree.leaves((screen, seen)):
        assert np.isfinite(np.asarray(leaf, float)).all()
    away = camera_at(jnp.array([0.0, 0.0, 3.0]), 180.0, 0.0, 60.0, 3.0)
    _, seen, _ = look(surface.vertices, surface.faces, away)
    assert (np.asarray(seen.face) == -1).all()


def test_every_capacity_is_flagged():
    surface = surface_of("linked_tori")
    view = orbit_camera(*VIEWS[0], 40.0)
    needs = look(surface.vertices, surface.faces, view)[2]
    small = SIZES._replace(pixels=int(needs.pixels) - 1)
    counts = look(surface.vertices, surface.faces, view, capacities=small)[2]
    assert counts.pixels == needs.pixels and capacity.overflows(counts, small)
    small = SIZES._replace(rows=int(needs.rows) - 1)
    counts = look(surface.vertices, surface.faces, view, capacities=small)[2]
    assert counts.rows == needs.rows and capacity.overflows(counts, small)
    with pytest.raises(ValueError, match="rows="):
        capacity.check(counts, small)


def test_guess_holds_what_is_seen_from_the_usual_distance():
    surface = surface_of("ball")
    guess = raster.guess_capacities(H, W, surface.faces.shape[1])
    counts = look(surface.vertices, surface.faces, orbit_camera(0.0, 0.0, 2.2, 40.0))[2]
    assert not capacity.overflows(counts, guess)


def test_vmap_is_a_loop():
    surface = surface_of("linked_tori")
    views = [orbit_camera(*view, 40.0) for view in VIEWS]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *views)
    mapped = jax.jit(jax.vmap(look, in_axes=(None, None, 0)))(
        surface.vertices, surface.faces, stacked
    )
    for i, view in enumerate(views):
        _, seen, counts = look(surface.vertices, surface.faces, view)
        same = np.asarray(mapped[1].face[i]) == np.asarray(seen.face)
        assert same.mean() > 0.999
        assert int(mapped[2].rows[i]) == int(counts.rows)
