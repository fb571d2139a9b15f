# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import mesh_shapes as shapes
import numpy as np
import optax
import pytest

from vsd_jax.scene.camera import orbit_camera, pixel_rays
from vsd_jax.scene.mesh import capacity, tet_grid, view
from vsd_jax.scene.mesh.raster import RasterSizes

N, H, W = 10, 24, 32
SIZES = RasterSizes(rows=4000, pixels=2500, silhouettes=500, crossings=600)
RADIUS = 0.6


@functools.partial(jax.jit, static_argnames="capacities")
def render(sdf, camera, background, capacities=SIZES):
    surface = shapes.marcher(N)(sdf, jnp.zeros((3, sdf.size), jnp.float32))
    return view.render_mesh(
        surface,
        camera,
        view.shade_normals(background),
        height=H,
        width=W,
        near=0.1,
        capacities=capacities,
    )


def ball():
    return jnp.asarray(shapes.ball(N, RADIUS), jnp.float32)


@pytest.mark.parametrize("view", [(0.0, 0.0, 2.6), (120.0, 50.0, 2.2)])
def test_a_ball_looks_like_a_ball(view):
    camera, background = orbit_camera(*view, 40.0), jnp.array([0.2, 0.4, 0.9])
    out, counts = render(ball(), camera, background)
    capacity.check(counts, SIZES)
    origin, directions = (np.asarray(x) for x in pixel_rays(camera, H, W))
    towards = directions @ origin
    root = towards**2 - origin @ origin + RADIUS**2
    inner = root > 0.05
    assert inner.sum() > 80 and (np.asarray(out.opacity)[inner] == 1).all()
    distance = -towards[inner] - np.sqrt(root[inner])
    np.testing.assert_allclose(np.asarray(out.depth)[inner], distance, atol=0.03)
    points = origin + directions[inner] * distance[:, None]
    normal = np.asarray(out.normal)[inner]
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, rtol=1e-5)
    assert np.einsum("pc,pc->p", normal, points / RADIUS).min() > 0.97
    np.testing.assert_allclose(
        np.asarray(out.rgb)[inner], 0.5 + 0.5 * normal, atol=1e-5
    )

    outer = root < -0.2
    assert outer.sum() > 80 and not np.asarray(out.opacity)[outer].any()
    assert not np.asarray(out.depth)[outer].any()
    np.testing.assert_allclose(
        np.asarray(out.rgb)[outer], np.broadcast_to(background, (outer.sum(), 3))
    )
    area = np.asarray(out.opacity).sum()
    np.testing.assert_allclose(area, (root > 0).sum(), rtol=0.06)
    assert 0 <= out.rgb.min() and out.rgb.max() <= 1


def overlap(sdf, truth):
    inside, expected = np.asarray(sdf) > 0, np.asarray(truth) > 0
    return (inside & expected).sum() / (inside | expected).sum()


def test_a_shape_is_recovered_from_its_images_alone():
    """From a ball to an ellipsoid away from the middle, by masks and normals."""
    positions = np.asarray(tet_grid.grid_positions(N))
    scaled = (positions - np.array([[0.15], [0.0], [-0.1]])) / [[0.7], [0.4], [0.5]]
    truth = jnp.asarray(0.5 * (1 - np.linalg.norm(scaled, axis=0)), jnp.float32)
    views = [orbit_camera(a, e, 2.6, 40.0) for a, e in ((0, 10), (90, 40), (200, -30))]
    black = jnp.zeros(3)
    targets = [render(truth, view, black)[0] for view in views]
    tx = optax.adam(0.02)

    @jax.jit
    def step(sdf, state, view, rgb, opacity):
        def loss(sdf):
            out, counts = render(sdf, view, black)
            return jnp.mean((out.rgb - rgb) ** 2) + jnp.mean(
                (out.opacity - opacity) ** 2
            ), counts

        (value, counts), gradient = jax.value_and_grad(loss, has_aux=True)(sdf)
        update, state = tx.update(gradient, state)
        return optax.apply_updates(sdf, update), state, value, counts

    sdf = ball()
    state, values = tx.init(sdf), []
    start = overlap(sdf, truth)
    for i in range(90):
        k = i % len(views)
        target = targets[k]
        sdf, state, value, counts = step(
            sdf, state, views[k], target.rgb, target.opacity
        )
        assert not capacity.overflows(counts, SIZES)
        values.append(float(value))
    assert np.mean(values[-6:]) < 0.1 * np.mean(values[:3])
    assert start < 0.6 and overlap(sdf, truth) > 0.8, (start, overlap(sdf, truth))
