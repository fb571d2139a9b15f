# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.scene import field
from vsd_jax.scene.encoding import hash_grid

GRID = hash_grid(
    num_levels=2, features=2, log2_table_size=8, min_resolution=4, max_resolution=8
)
OBJECT = field.blob_bias(strength=10.0, radius=0.5)
SCENE = field.blob_bias(strength=-10.0, radius=2.5)


def test_object_start_is_10_at_the_centre_and_0_at_its_radius():
    points = jnp.array([[0, 0, 0], [0.5, 0, 0], [0, 0.3, 0.4], [0, 1.0, 0]])
    np.testing.assert_allclose(OBJECT(points), [10, 0, 0, -10], atol=1e-5)


def test_scene_start_is_empty_at_the_centre_and_0_at_its_radius():
    points = jnp.array([[0, 0, 0], [0, 2.5, 0]])
    np.testing.assert_allclose(SCENE(points), [-10, 0], atol=1e-5)


def test_centred_start_is_continuous_at_the_switch():
    bias = field.centred_bias(inner=OBJECT, outer=SCENE, switch_radius=5 / 6)
    at = 5 / 6
    points = jnp.array([[0, 0, 0], [at - 1e-4, 0, 0], [at + 1e-4, 0, 0], [1.0, 0, 0]])
    np.testing.assert_allclose(bias(points), [10, -6.667, -6.667, -6.0], atol=5e-3)


def test_bias_has_a_finite_gradient_at_the_origin():
    gradient = jax.grad(lambda p: OBJECT(p))(jnp.zeros(3))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("hidden", [0, 8])
def test_query_shapes_ranges_and_first_density(hidden):
    params = field.init_field(jax.random.key(0), GRID, hidden=hidden, environment=False)
    assert set(params) == {"table", "decoder"}
    points = jnp.concatenate([jnp.zeros((1, 3)), jnp.full((6, 3), 0.5)])
    density, color = field.query(params, points, GRID, density_bias=OBJECT)
    assert density.shape == (7,) and color.shape == (7, 3)
    np.testing.assert_allclose(density[0], 10, atol=0.01)
    assert (density >= 0).all() and ((color > 0) & (color < 1)).all()
    alone = field.query_density(
        params, points.reshape(7, 1, 3), GRID, density_bias=OBJECT
    )
    np.testing.assert_allclose(alone[:, 0], density, rtol=1e-6)


def test_noise_is_added_before_softplus():
    params = field.init_field(jax.random.key(0), GRID, hidden=0, environment=False)
    points = jnp.zeros((3, 3))
    noise = jnp.array([-1.0, 0.0, 2.0])
    density, _ = field.query(params, points, GRID, density_bias=OBJECT, noise=noise)
    np.testing.assert_allclose(density, jax.nn.softplus(10 + noise), atol=0.01)


def test_chunks_change_memory_not_results():
    params = field.init_field(jax.random.key(0), GRID, hidden=8, environment=False)
    params["table"] = jax.random.normal(jax.random.key(1), params["table"].shape)
    points = jax.random.uniform(jax.random.key(2), (23, 3), minval=-1, maxval=1)

    def total(params, chunk):
        density, color = field.query(
            params, points, GRID, density_bias=OBJECT, chunk=chunk
        )
        return jnp.sum(density) + jnp.sum(color**2)

    whole, parts = (jax.value_and_grad(total)(params, c) for c in (100, 7))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), whole, parts)


def test_environment():
    params = field.init_field(jax.random.key(0), GRID, hidden=0, environment=True)
    directions = field.unit_or_zero(jax.random.normal(jax.random.key(1), (5, 3)))
    color = field.environment_color(params["environment"], directions)
    assert color.shape == (5, 3) and ((color > 0) & (color < 1)).all()
    assert params["environment"]["hidden"]["kernel"].shape == (27, 16)


def test_normals_of_a_ball_point_outwards():
    points = field.unit_or_zero(jax.random.normal(jax.random.key(0), (9, 3))) * 0.5
    normals = field.density_normals(
        lambda x: jax.nn.softplus(OBJECT(x)), points, step=1e-2
    )
    np.testing.assert_allclose(normals, points / 0.5, atol=0.02)


def test_normals_are_exact_for_linear_density_and_zero_for_flat():
    slope = jnp.array([1.0, -2.0, 2.0])
    points = jax.random.normal(jax.random.key(0), (4, 3))
    normals = field.density_normals(lambda x: x @ slope, points, step=0.1)
    np.testing.assert_allclose(normals, jnp.tile(-slope / 3, (4, 1)), atol=1e-5)
    flat = field.density_normals(lambda x: jnp.ones(len(x)), points, step=0.1)
    assert not flat.any()


def test_unit_or_zero_has_finite_gradients():
    gradient = jax.grad(lambda v: jnp.sum(field.unit_or_zero(v)))(jnp.zeros((2, 3)))
    assert not gradient.any()
