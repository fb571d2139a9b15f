# SPDX-License-Identifier: Apache-2.0
"""The scenes of the geometry and the texture stage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.scene.camera import orbit_camera, pixel_rays
from vsd_jax.scene.mesh import geometry, texture
from vsd_jax.scene.mesh.raster import RasterSizes
from vsd_jax.scene.mesh.surface import MeshSizes
from vsd_jax.scene.nerf import field
from vsd_jax.scene.nerf.encoding import hash_grid

N, SIZE, RADIUS = 8, 16, 0.6
MESH_SIZES = MeshSizes(400, 1600, 3200)
RASTER_SIZES = RasterSizes(rows=2000, pixels=1200, silhouettes=300, crossings=400)
GRID = hash_grid(
    num_levels=2, features=2, log2_table_size=8, min_resolution=4, max_resolution=8
)
CAMERA = orbit_camera(30.0, 20.0, 2.6, 40.0)


def key():
    """A fresh one: the tests refuse a key that is used twice."""
    return jax.random.key(0)


def make_geometry(mesh_sizes=MESH_SIZES, raster_sizes=RASTER_SIZES):
    return geometry.make_geometry(
        image_size=SIZE,
        resolution=N,
        max_offset=0.2,
        radius=RADIUS,
        near=0.1,
        mesh_sizes=mesh_sizes,
        raster_sizes=raster_sizes,
    )


@pytest.fixture(scope="module")
def ball():
    march = geometry.make_marcher(resolution=N, max_offset=0.2, mesh_sizes=MESH_SIZES)
    return jax.jit(march)(make_geometry().init(key()))


def make_texture(ball, capacity=1.0, environment=False):
    return texture.make_texture(
        image_size=SIZE,
        init=functools.partial(
            field.init_field, grid=GRID, hidden=4, environment=environment
        ),
        color=functools.partial(field.query_color, grid=GRID),
        behind=field.background_color,
        near=0.1,
        capacity=capacity,
        empty=lambda: jax.tree.map(jnp.zeros_like, ball),
        raster_sizes=RASTER_SIZES,
    )


def test_geometry_has_gradients_and_regularizers():
    scene = make_geometry()
    params, background = scene.init(key()), jnp.zeros(3)

    @jax.jit
    def loss(params):
        out = scene.render(params, {}, CAMERA, background, key(), train=True)
        return jnp.mean(out.rgb[..., 0]) + jnp.mean(out.opacity), out.extras

    grads, extras = jax.grad(loss, has_aux=True)(params)
    assert extras["overflow"] == 0 and extras["faces"] > 100
    # A ball's neighbouring normals differ little, and more on a coarser grid.
    assert 0 < extras["normal_consistency"] < 0.1 and extras["laplacian"] > 0
    for name in ("sdf", "offsets"):
        moved = np.abs(np.asarray(grads[name])) > 0
        assert np.isfinite(grads[name]).all() and 0.01 < moved.mean() < 0.9


@pytest.mark.parametrize(
    ("mesh_sizes", "raster_sizes"),
    [
        (MESH_SIZES._replace(faces=100), RASTER_SIZES),
        (MESH_SIZES, RASTER_SIZES._replace(pixels=40)),
    ],
)
def test_what_does_not_fit_is_counted(mesh_sizes, raster_sizes):
    scene = make_geometry(mesh_sizes, raster_sizes)
    out = jax.jit(
        lambda params: scene.render(
            params, {}, CAMERA, jnp.zeros(3), key(), train=False
        )
    )(scene.init(key()))
    assert out.extras["overflow"] > 20


def render(scene, params, surface, background=(1.0, 0.5, 0.0), *, train=True):
    stats = {"surface": surface}
    call = jax.jit(
        lambda params, stats: scene.render(
            params, stats, CAMERA, jnp.asarray(background), key(), train=train
        )
    )
    return call(params, stats)


def test_texture_shows_the_field_at_the_surface(ball):
    scene = make_texture(ball)
    params = scene.init(key())
    params["table"] = jax.random.normal(key(), params["table"].shape)
    out = render(scene, params, ball)
    origin, directions = pixel_rays(CAMERA, SIZE, SIZE)
    points = np.asarray(origin) + np.asarray(directions * out.depth[..., None])
    color = field.query_color(params, points.reshape(-1, 3), GRID)
    expected = np.asarray(color).reshape(SIZE, SIZE, 3)
    # Inside of the silhouette, where no pixel is blended with its neighbour.
    inner = np.asarray(out.depth > 0)
    shifted = [np.roll(inner, d, a) for a in (0, 1) for d in (-1, 1)]
    inner = np.logical_and.reduce([inner, *shifted])
    assert inner.sum() > 30 and out.extras["overflow"] == 0
    np.testing.assert_allclose(np.asarray(out.rgb)[inner], expected[inner], atol=2e-3)
    corner = np.asarray(out.rgb)[0, 0]
    np.testing.assert_allclose(corner, (1.0, 0.5, 0.0), atol=1e-6)
    # The same colours as the NeRF of the same parameters.
    bias = field.blob_bias(strength=10.0, radius=0.5)
    _, same = field.query(params, points.reshape(-1, 3), GRID, density_bias=bias)
    np.testing.assert_allclose(color, same, atol=1e-6)


def test_texture_moves_no_vertex(ball):
    scene = make_texture(ball)

    def loss(params, vertices):
        surface = ball.replace(vertices=vertices)
        out = scene.render(
            params, {"surface": surface}, CAMERA, jnp.zeros(3), key(), train=True
        )
        return jnp.mean(out.rgb) + jnp.mean(out.opacity)

    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(scene.init(key()), ball.vertices)
    assert not np.asarray(grads[1]).any()
    assert np.asarray(grads[0]["table"]).any()
    assert np.asarray(grads[0]["decoder"]["out"]["bias"])[1:].all()


def test_texture_counts_pixels_that_did_not_fit(ball):
    scene = make_texture(ball, capacity=0.1)
    out = render(scene, scene.init(key()), ball)
    covered = int((np.asarray(out.depth) > 0).sum())
    assert out.extras["overflow"] == covered - int(0.1 * SIZE**2) > 0
    judged = render(scene, scene.init(key()), ball, train=False)
    assert judged.extras["overflow"] == 0
    whole = render(make_texture(ball), scene.init(key()), ball)
    np.testing.assert_allclose(judged.rgb, whole.rgb, atol=1e-6)


def test_texture_stands_before_its_environment(ball):
    scene = make_texture(ball, environment=True)
    params = scene.init(key())
    out = render(scene, params, ball, background=(-1.0, -1.0, -1.0))
    _, directions = pixel_rays(CAMERA, SIZE, SIZE)
    behind = field.environment_color(params["environment"], directions)
    np.testing.assert_allclose(out.rgb[0], behind[0], atol=1e-6)
    plain = render(scene, params, ball)
    np.testing.assert_allclose(plain.rgb[0, 0], (1.0, 0.5, 0.0), atol=1e-6)
