# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import mesh_shapes as shapes
import numpy as np
import pytest

from vsd_jax.scene.camera import orbit_camera
from vsd_jax.scene.mesh import capacity, raster
from vsd_jax.scene.mesh.antialias import antialias
from vsd_jax.scene.mesh.raster import RasterSizes, Screen
from vsd_jax.scene.mesh.surface import MeshSizes, Surface

SIDE, FINE, N = 96, 768, 26
SIZES = RasterSizes(rows=20000, pixels=12000, silhouettes=1000, crossings=2000)
FINE_SIZES = RasterSizes(rows=150000, pixels=300000, silhouettes=1, crossings=1)
VIEW = (30.0, 25.0, 3.2, 40.0)


def mask_of(seen):
    return (seen.face >= 0).astype(seen.inverse_depth.dtype)[None]


def render_mask(vertices, surface, camera, size=SIDE, capacities=SIZES):
    """Antialiased mask [H W] and counts."""
    surface, size = surface.replace(vertices=vertices), dict(height=size, width=size)
    screen = raster.project(vertices, camera, near=0.1, **size)
    seen, counts = raster.find_visible(
        screen, surface.faces, capacities=capacities, **size
    )
    image, more = antialias(
        mask_of(seen), screen, surface, seen, capacities=capacities, **size
    )
    return image[0], jax.tree.map(jnp.add, counts, more)


@jax.jit
def render_truth(vertices, faces, camera):
    """The mask [H, W] of a box filter: a finer one averaged; and counts."""
    size = dict(height=FINE, width=FINE)
    screen = raster.project(vertices, camera, near=0.1, **size)
    seen, counts = raster.find_visible(screen, faces, capacities=FINE_SIZES, **size)
    split = mask_of(seen).reshape(SIDE, FINE // SIDE, SIDE, FINE // SIDE)
    return jnp.mean(split, axis=(1, 3)), counts


def pattern():
    """Smooth weights [H, W] of the pixels."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = rng.normal(scale=4, size=(6, 2)) @ np.stack([x.ravel(), y.ravel()])
    return np.cos(waves + rng.uniform(0, 6, (6, 1))).sum(axis=0).reshape(SIDE, SIDE)


def motions(vertices):
    """Three translations, growth and four smooth warps, each [3, V]."""
    rng = np.random.default_rng(6)
    one = np.ones_like(vertices[0])
    moves = [np.eye(3)[axis][:, None] * one for axis in range(3)] + [vertices]
    for _ in range(4):
        waves = rng.normal(scale=3, size=(3, 3)) @ vertices
        moves.append(np.sin(waves + rng.uniform(0, 6, (3, 1))))
    return moves


@jax.jit
def loss_and_gradient(vertices, surface, camera):
    def loss(vertices):
        mask, counts = render_mask(vertices, surface, camera)
        return jnp.sum(mask * pattern().reshape(-1)), (mask, counts)

    (_, aux), gradient = jax.value_and_grad(loss, has_aux=True)(vertices)
    return gradient, *aux


@pytest.mark.parametrize("shape", ["ball", "linked_tori"])
def test_gradient_is_that_of_the_true_image(shape):
    """Against central differences of the box-filtered mask, which is 8 x 8 finer."""
    sdf = jnp.asarray(getattr(shapes, shape)(N), jnp.float32)
    surface = shapes.marcher(N)(sdf, jnp.zeros((3, sdf.size), jnp.float32))
    camera = orbit_camera(*VIEW)
    gradient, mask, counts = loss_and_gradient(surface.vertices, surface, camera)
    assert not capacity.overflows(counts, SIZES)
    step, got, expected = 0.008, [], []
    for move in motions(np.asarray(surface.vertices, float)):
        got.append(float(np.vdot(np.asarray(gradient, float), move)))
        ends = []
        for sign in (1, -1):
            moved = surface.vertices + sign * step * jnp.asarray(move, jnp.float32)
            truth, fine_counts = render_truth(moved, surface.faces, camera)
            assert not capacity.overflows(fine_counts, FINE_SIZES)
            ends.append(float(np.sum(np.asarray(truth, float) * pattern())))
        expected.append((ends[0] - ends[1]) / (2 * step))
    got, expected = np.array(got), np.array(expected)
    slope = got @ expected / (expected @ expected)
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert 0.9 < slope < 1.1 and error < 0.1, (slope, error)

    truth, _ = render_truth(surface.vertices, surface.faces, camera)
    truth, mask = np.asarray(truth).ravel(), np.asarray(mask)
    edge = (truth > 0) & (truth < 1)
    rmse = np.sqrt(np.mean((mask - truth)[edge] ** 2))
    hard = np.sqrt(np.mean((np.round(truth) - truth)[edge] ** 2))
    assert rmse < 0.08 < 0.25 < hard, (rmse, hard)
    assert mask.min() >= 0 and mask.max() <= 1


def test_derivative_is_that_of_the_code(float64):
    """Against finite differences of the same chain, where nothing jumps."""
    side, n = 16, 6
    sizes = RasterSizes(rows=2000, pixels=2000, silhouettes=500, crossings=500)
    sdf = jnp.asarray(shapes.ball(n))
    surface = shapes.marcher(n)(sdf, jnp.zeros((3, sdf.size)))
    camera = jax.tree.map(lambda x: x.astype(jnp.float64), orbit_camera(*VIEW))
    weights = np.random.default_rng(0).normal(size=side**2)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(vertices):
        mask, counts = render_mask(vertices, surface, camera, side, sizes)
        return jnp.sum(mask * weights), counts

    (_, counts), gradient = loss(surface.vertices)
    assert not capacity.overflows(counts, sizes)
    assert np.abs(gradient).max() > 1
    rng, step = np.random.default_rng(1), 1e-8
    for _ in range(3):
        move = rng.normal(size=gradient.shape)
        ahead, behind = (
            float(loss(surface.vertices + s * step * move)[0][0]) for s in (1, -1)
        )
        exact = float(jnp.vdot(gradient, move))
        np.testing.assert_allclose(exact, (ahead - behind) / (2 * step), rtol=1e-5)


def box(left, right, top, bottom, near=1.0):
    """A closed box seen straight on (four corners twice, far ones behind), side 8."""
    x = np.array([left, right, right, left] * 2, float)
    y = np.array([top, top, bottom, bottom] * 2, float)
    depth = np.repeat([near, near + 0.5], 4)
    quads = [[0, 3, 2, 1], [4, 5, 6, 7]]
    quads += [[i, (i + 1) % 4, (i + 1) % 4 + 4, i + 4] for i in range(4)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    sides = {(f[s], f[(s + 1) % 3]): i for i, f in enumerate(faces) for s in range(3)}
    neighbours = [[sides[f[(s + 1) % 3], f[s]] for s in range(3)] for f in faces]
    surface = Surface(
        vertices=jnp.zeros((3, 8)),
        faces=jnp.asarray(faces.T, jnp.int32),
        neighbours=jnp.asarray(np.array(neighbours).T, jnp.int32),
        counts=MeshSizes(0, 8, 12),
    )
    x, y, depth = (jnp.asarray(v, jnp.float32) for v in (x, y, depth))
    return Screen(x, y, depth, jnp.ones(8, bool)), surface


def join(one, two):
    """Two boxes as one mesh."""
    (screen, surface), (other_screen, other) = one, two
    screen = Screen(*map(lambda *x: jnp.concatenate(x), screen, other_screen))
    faces = jnp.concatenate([surface.faces, other.faces + 8], axis=1)
    neighbours = jnp.concatenate([surface.neighbours, other.neighbours + 12], axis=1)
    return screen, surface.replace(faces=faces, neighbours=neighbours)


BOX_SIZES = RasterSizes(200, 200, 24, 200)


@functools.partial(jax.jit, static_argnames="capacities")
def draw(screen, surface, colors, capacities=BOX_SIZES):
    """8 x 8 image of faces' colours [F] over 0, without and with antialiasing."""
    size = dict(height=8, width=8)
    seen, _ = raster.find_visible(screen, surface.faces, capacities=capacities, **size)
    image = jnp.where(seen.face >= 0, colors[jnp.maximum(seen.face, 0)], 0)[None]
    smooth, counts = antialias(
        image, screen, surface, seen, capacities=capacities, **size
    )
    return image.reshape(8, 8), smooth.reshape(8, 8), counts


@pytest.mark.parametrize("right", [4.8, 5.0, 5.2])
def test_straight_sides_cover_exactly(right):
    screen, surface = box(1.75, right, 2.25, 5.5)
    _, smooth, counts = draw(screen, surface, jnp.ones(12))
    columns = np.clip(np.minimum(np.arange(8) + 0.5, right) - 1.75, 0, 1)
    columns = np.clip(np.minimum(columns, right + 0.5 - np.arange(8)), 0, 1)
    np.testing.assert_allclose(smooth[4], columns, atol=1e-6)
    np.testing.assert_allclose(smooth[:, 4], [0, 0, 0.25, 1, 1, 1, 0, 0], atol=1e-6)
    assert counts.silhouettes > 0 and counts.crossings == 2 * (3 + 3) + (right > 5) * 2


def test_a_hidden_silhouette_changes_nothing_and_a_visible_one_blends():
    large, small = box(0.7, 6.3, 0.7, 6.3), box(2.3, 4.6, 2.3, 4.6, near=3.0)
    colors = jnp.concatenate([jnp.full(12, 0.5), jnp.ones(12)])
    _, alone, _ = draw(*join(large, small), colors * (jnp.arange(24) < 12))
    _, both, _ = draw(*join(large, small), colors)
    np.testing.assert_array_equal(both, alone)
    before = box(2.3, 4.6, 2.3, 4.6, near=0.4)
    hard, smooth, _ = draw(*join(large, before), colors)
    inner = np.asarray(smooth - hard)[3]
    # Right: the pixel 5 (centre 5, left end 4.5) is covered for a tenth.
    np.testing.assert_allclose(inner[2:6], [0.1, 0, 0, 0.05], atol=1e-6)


def test_of_several_crossings_between_two_centres_the_outermost_counts():
    one, two = box(1.75, 4.7, 2.25, 5.5), box(1.75, 4.8, 2.25, 5.5, near=1.2)
    _, smooth, _ = draw(*join(one, two), jnp.ones(24))
    np.testing.assert_allclose(smooth[4, 4:7], [1, 0.3, 0], atol=1e-6)


def test_shares_of_a_pixel_stay_convex():
    """Four sides replace more than the whole of it."""
    _, smooth, _ = draw(*box(3.9, 4.1, 3.9, 4.1), jnp.ones(12))
    assert 0 <= smooth.min() and smooth[4, 4] < 1e-6


def test_every_capacity_is_flagged():
    screen, surface = box(1.75, 5.0, 2.25, 5.5)
    needs = draw(screen, surface, jnp.ones(12))[2]
    for name in ("silhouettes", "crossings"):
        small = BOX_SIZES._replace(**{name: int(getattr(needs, name)) - 1})
        counts = draw(screen, surface, jnp.ones(12), capacities=small)[2]
        assert int(getattr(counts, name)) == int(getattr(needs, name))
        assert capacity.overflows(counts, small)


def test_vmap_is_a_loop():
    scenes = [box(1.75, right, 2.25, 5.5) for right in (4.8, 5.0, 5.2)]
    screens = jax.tree.map(lambda *x: jnp.stack(x), *(s for s, _ in scenes))
    mapped = jax.jit(jax.vmap(draw, in_axes=(0, None, None)))(
        screens, scenes[0][1], jnp.ones(12)
    )
    for i, (screen, surface) in enumerate(scenes):
        expected = draw(screen, surface, jnp.ones(12))[1]
        np.testing.assert_allclose(mapped[1][i], expected, atol=1e-6)
