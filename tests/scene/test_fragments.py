# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import mesh_shapes as shapes
import numpy as np

from vsd_jax.scene.camera import orbit_camera, pixel_rays
from vsd_jax.scene.mesh import fragments, raster
from vsd_jax.scene.mesh.raster import RasterSizes

H, W, N = 20, 28, 6
SIZES = RasterSizes(rows=4000, pixels=4000, silhouettes=1, crossings=1)
VIEW = (50.0, 20.0, 2.8, 45.0)


def view_of(vertices, faces, camera):
    size = {"height": H, "width": W}
    screen = raster.project(vertices, camera, near=0.1, **size)
    seen, _ = raster.find_visible(screen, faces, capacities=SIZES, **size)
    return seen, fragments.locate(screen, faces, seen, **size)


def ball(dtype):
    sdf = jnp.asarray(shapes.ball(N), dtype)
    return shapes.marcher(N)(sdf, jnp.zeros((3, sdf.size), dtype))


def test_interpolated_positions_lie_on_the_pixels_rays():
    """Perspective-correct: a position interpolated at a pixel is seen at that pixel."""
    surface, camera = ball(jnp.float32), orbit_camera(*VIEW)
    seen, points = jax.jit(view_of)(surface.vertices, surface.faces, camera)
    hit = np.asarray(seen.face) >= 0
    assert hit.sum() > 80
    positions = np.asarray(fragments.interpolate(points, surface.vertices)).T
    origin, directions = (np.asarray(x) for x in pixel_rays(camera, H, W))
    towards = positions[hit] - origin
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    np.testing.assert_allclose(towards, directions.reshape(-1, 3)[hit], atol=2e-6)
    weights = np.asarray(points.weights)
    np.testing.assert_allclose(weights.sum(axis=0), hit, atol=1e-6)
    assert weights.min() > -1e-4 and not weights[:, ~hit].any()
    depth = fragments.interpolate(
        points, jnp.linalg.norm(surface.vertices, axis=0)[None]
    )
    assert not np.asarray(depth)[0, ~hit].any()


def test_gradient_matches_finite_differences(float64):
    surface = ball(jnp.float64)
    camera = jax.tree.map(lambda x: x.astype(jnp.float64), orbit_camera(*VIEW))
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(2, H * W))
    values = jnp.asarray(rng.normal(size=(2, surface.vertices.shape[1])))

    @jax.jit
    def loss(vertices, values):
        seen, points = view_of(vertices, surface.faces, camera)
        return jnp.sum(fragments.interpolate(points, values) * pattern), seen.face

    gradients, face = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(
        surface.vertices, values
    )
    step = 1e-7
    for i, x in enumerate((surface.vertices, values)):
        direction = jnp.asarray(rng.normal(size=x.shape))
        ends = []
        for sign in (1, -1):
            moved = [surface.vertices, values]
            moved[i] = x + sign * step * direction
            value, other = loss(*moved)
            np.testing.assert_array_equal(other, face)
            ends.append(float(value))
        exact = float(jnp.vdot(gradients[i], direction))
        assert abs(exact) > 0.1
        np.testing.assert_allclose(exact, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)
