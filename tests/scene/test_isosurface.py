# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import mesh_shapes as shapes
import numpy as np
import pytest
import trimesh

from vsd_jax.scene.mesh import capacity, isosurface, surface, tet_grid
from vsd_jax.scene.mesh.surface import MeshSizes

N = 26
SMALL = 6


def march(sdf, offsets=None, resolution=N):
    if offsets is None:
        offsets = np.zeros((3, sdf.size))
    args = (jnp.asarray(x, jnp.float32) for x in (sdf, offsets))
    found = shapes.marcher(resolution)(*args)
    capacity.check(found.counts, shapes.roomy(resolution))
    return found


def sides_of(faces):
    """All sides (from, to), [3 F, 2], side by side."""
    return np.concatenate([faces[:, [s, (s + 1) % 3]] for s in range(3)])


def check_closed(faces, neighbours):
    """Each side has exactly one partner, reversed; the neighbour table names it."""
    sides = sides_of(faces)
    assert len({tuple(s) for s in sides}) == len(sides), "winding or edges disagree"
    owner = {tuple(s): i % len(faces) for i, s in enumerate(sides)}
    partner = [owner[b, a] for a, b in sides]
    np.testing.assert_array_equal(neighbours.T.ravel(), partner)


def euler(vertices, faces):
    return len(vertices) - len(faces) // 2


@pytest.mark.parametrize("moved", [False, True], ids=["plain", "moved"])
@pytest.mark.parametrize("shape", ["ball", "torus", "noise"])
def test_mesh_is_closed_wound_and_outward(shape, moved):
    sdf = getattr(shapes, shape)(N)
    found = march(sdf, shapes.random_offsets(N) if moved else None)
    vertices, faces, neighbours = shapes.triangles(found)
    assert set(faces.ravel()) == set(range(len(vertices))), "no vertex without a face"
    check_closed(faces, neighbours)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    if shape == "ball":
        assert euler(vertices, faces) == 2
        np.testing.assert_allclose(mesh.volume, 4 / 3 * np.pi * 0.7**3, rtol=0.01)
        assert (
            np.einsum("fc,fc->f", mesh.triangles_center, mesh.face_normals) > 0
        ).all()
    if shape == "torus":
        assert euler(vertices, faces) == 0
        volume = 2 * np.pi**2 * 0.55 * 0.25**2
        np.testing.assert_allclose(mesh.volume, volume, rtol=0.015)
    if shape == "noise":
        assert np.abs(vertices).max() > 0.95, "the test is about the boundary"
        assert euler(vertices, faces) < 0


def test_unused_entries_are_harmless():
    found = march(shapes.ball(N))
    num_vertices, num_faces = found.counts.vertices, found.counts.faces
    assert not np.asarray(found.vertices)[:, num_vertices:].any()
    assert not np.asarray(found.faces)[:, num_faces:].any()
    unused = np.asarray(found.neighbours)[:, num_faces:]
    itself = np.arange(num_faces, found.faces.shape[1])
    np.testing.assert_array_equal(unused, np.broadcast_to(itself, unused.shape))
    assert not np.asarray(surface.area_vectors(found))[:, num_faces:].any()


def test_all_inside_is_a_closed_box_and_all_outside_is_nothing():
    size = tet_grid.num_grid_vertices(SMALL)
    box = march(np.ones(size), resolution=SMALL)
    vertices, faces, neighbours = shapes.triangles(box)
    check_closed(faces, neighbours)
    assert euler(vertices, faces) == 2 and np.abs(vertices).max() <= 1
    nothing = march(-np.ones(size), resolution=SMALL)
    assert not any(map(int, nothing.counts))
    assert np.isfinite(np.asarray(nothing.vertices)).all()


def test_a_cap_has_no_slivers():
    """Of a slab that leaves the cube: normals of slivers would be noise."""
    slab = 0.3 - np.abs(shapes.positions(SMALL)[1])
    vertices, faces, _ = shapes.triangles(march(slab, resolution=SMALL))
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normal, axis=1)
    assert areas.min() > 0.01 * np.median(areas)


def test_plane_is_exact_also_on_grid_vertices():
    """A linear distance is met exactly; one that is zero at vertices stays closed."""
    plane = (
        np.einsum("c,cg->g", np.array([0.6, 0.0, 0.8]), shapes.positions(SMALL)) - 0.1
    )
    vertices, _, _ = shapes.triangles(march(plane, resolution=SMALL))
    inner = np.abs(vertices).max(axis=1) < 0.6  # where no cap is
    distance = vertices[inner] @ [0.6, 0.0, 0.8] - 0.1
    assert inner.sum() > 20
    np.testing.assert_allclose(distance, 0, atol=1e-6)
    level = np.round(shapes.ball(SMALL), 1)
    _, faces, neighbours = shapes.triangles(march(level, resolution=SMALL))
    assert (level == 0).any()
    check_closed(faces, neighbours)


def directional(loss, params, seed, step):
    """(autodiff, central difference) of a loss along a random direction."""
    rng = np.random.default_rng(seed)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
    gradient = jax.grad(loss)(params)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    exact = sum(jnp.vdot(g, d) for g, d in pairs)

    def moved(by):
        return loss(jax.tree.map(lambda x, d: x + by * d, params, direction))

    difference = (moved(step) - moved(-step)) / (2 * step)
    return float(exact), float(difference)


@pytest.mark.parametrize("part", ["sdf", "offsets"])
def test_gradient_matches_finite_differences(part, float64):
    params = {
        "sdf": jnp.asarray(shapes.ball(SMALL)),
        "offsets": jnp.asarray(shapes.random_offsets(SMALL)),
    }
    rng = np.random.default_rng(3)
    pattern = None

    @jax.jit
    def loss(params, pattern):
        found = shapes.marcher(SMALL)(params["sdf"], params["offsets"])
        return jnp.sum(found.vertices * pattern)

    sizes = shapes.roomy(SMALL)
    pattern = jnp.asarray(rng.normal(size=(3, sizes.vertices)))

    def of_part(x):
        return loss(params | {part: x}, pattern)

    exact, difference = directional(of_part, params[part], seed=4, step=1e-6)
    assert abs(exact) > 0.1
    np.testing.assert_allclose(exact, difference, rtol=1e-7)


def test_every_capacity_is_flagged():
    sdf = jnp.asarray(shapes.ball(SMALL), jnp.float32)
    args = sdf, jnp.zeros((3, sdf.size), jnp.float32)
    needs = MeshSizes(*map(int, shapes.marcher(SMALL)(*args).counts))
    for names in (["cells"], ["vertices", "faces"]):
        less = {name: getattr(needs, name) - 1 for name in names}
        small = shapes.roomy(SMALL)._replace(**less)
        counts = shapes.marcher(SMALL, small)(*args).counts
        assert capacity.overflows(counts, small)
        for name in names:
            assert int(getattr(counts, name)) == getattr(needs, name)
            with pytest.raises(ValueError, match=f"{name}="):
                capacity.check(counts, small)
    exact = shapes.marcher(SMALL, needs)(*args)
    assert not capacity.overflows(exact.counts, needs)
    check_closed(*shapes.triangles(exact)[1:])


def test_guess_holds_a_ball_and_little_more():
    guess = isosurface.guess_capacities(N)
    for count, size in zip(march(shapes.ball(N)).counts, guess, strict=True):
        assert 0.5 * size < count <= size


def test_vmap_is_a_loop():
    fields = np.stack([shapes.ball(SMALL), shapes.torus(SMALL), shapes.noise(SMALL)])
    fields = jnp.asarray(fields, jnp.float32)
    offsets = jnp.zeros((3, 3, fields.shape[1]), jnp.float32)
    mapped = jax.jit(jax.vmap(shapes.marcher(SMALL)))(fields, offsets)
    for i in range(3):
        one = shapes.marcher(SMALL)(fields[i], offsets[i])
        for got, expected in zip(
            jax.tree.leaves(mapped), jax.tree.leaves(one), strict=True
        ):
            np.testing.assert_allclose(got[i], expected, atol=1e-6)


def test_what_makes_no_grid_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        isosurface.marching_tetrahedra(
            jnp.zeros(16),
            jnp.zeros((3, 16)),
            resolution=1,
            max_offset=0.2,
            capacities=MeshSizes(1, 1, 1),
        )
