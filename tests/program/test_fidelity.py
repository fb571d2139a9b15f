# SPDX-License-Identifier: Apache-2.0
"""A baked mesh re-rendered: equal to the field it was baked from, unlike another."""

import jax
import jax.numpy as jnp
import mesh_shapes as shapes
import numpy as np
import pytest

from vsd_jax.program.export import fidelity, textured
from vsd_jax.scene.camera import orbit_camera
from vsd_jax.scene.mesh import raster, view

N, SIZE = 10, 64
SIZES = raster.RasterSizes(rows=9000, pixels=9000, silhouettes=900, crossings=2000)
CAMERAS = [orbit_camera(30.0, 10.0, 2.6, 40.0), orbit_camera(200.0, -40.0, 2.6, 40.0)]
BACKGROUND = np.array([1.0, 0.5, 0.0])


def color(points):
    return 0.5 + 0.45 * np.sin(6 * np.asarray(points))


@pytest.fixture(scope="module")
def ball():
    offsets = jnp.zeros((3, shapes.positions(N).shape[1]))
    return shapes.marcher(N)(jnp.asarray(shapes.ball(N), jnp.float32), offsets)


@pytest.fixture(scope="module")
def baked(ball):
    vertices, faces, _ = shapes.triangles(ball)
    return textured.bake_mesh(
        np.asarray(vertices, np.float32),
        faces,
        color,
        texture_size=256,
        max_faces=0,
        chunk=4096,
        samples_per_axis=2,
    )


def show(ball):
    """The renders of the field on the mesh itself."""

    @jax.jit
    def draw(camera):
        def shade(seen):
            rgb = 0.5 + 0.45 * jnp.sin(6 * seen.position)
            return jnp.where(seen.hit[None], rgb, jnp.asarray(BACKGROUND)[:, None])

        options = dict(height=SIZE, width=SIZE, near=0.05, capacities=SIZES)
        return view.render_mesh(ball, camera, shade, **options)[0].rgb

    return lambda camera: np.asarray(draw(camera))


def test_baked_mesh_looks_like_its_field(ball, baked):
    options = dict(size=SIZE, background=BACKGROUND)
    psnr = fidelity.baked_psnr(baked, show(ball), CAMERAS, **options)
    assert psnr > 35
    other = baked._replace(texture=baked.texture[::-1])
    assert fidelity.baked_psnr(other, show(ball), CAMERAS, **options) < psnr - 10


def test_neighbours_of_the_baked_mesh_are_those_of_the_surface(ball, baked):
    surface = fidelity.as_surface(baked)
    _, faces, neighbours = shapes.triangles(ball)
    np.testing.assert_array_equal(surface.faces.T, faces)
    np.testing.assert_array_equal(surface.neighbours.T, neighbours)
