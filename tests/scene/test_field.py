# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.presets import preset
from vsd_jax.scene.nerf import decoder as decoder_lib
from vsd_jax.scene.nerf import field
from vsd_jax.scene.nerf.encoding import encode, hash_grid
from vsd_jax.scene.nerf.nerf import nerf
from vsd_jax.scene.vectors import unit_or_zero

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


def random_params(hidden, environment=False):
    """Parameters of the real shape with numbers that are far from the real start."""
    shapes = jax.eval_shape(
        functools.partial(
            field.init_field, grid=GRID, hidden=hidden, environment=environment
        ),
        jax.random.key(0),
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


@pytest.mark.parametrize("hidden", [0, 8])
def test_first_density_is_the_bias(hidden):
    @jax.jit
    def start(key, points):
        params = field.init_field(key, GRID, hidden=hidden, environment=False)
        assert set(params) == {"table", "decoder"}
        return field.query(params, points, GRID, density_bias=OBJECT)

    points = np.concatenate([np.zeros((1, 3)), np.full((6, 3), 0.5)]).astype("f4")
    density, color = start(jax.random.key(0), points)
    assert density.shape == (7,) and color.shape == (7, 3)
    np.testing.assert_allclose(density[0], 10, atol=0.01)
    assert (density >= 0).all() and ((color > 0) & (color < 1)).all()


def test_noise_is_added_before_softplus():
    params = random_params(0)
    points = np.random.default_rng(1).uniform(-1, 1, (5, 3)).astype("f4")
    noise = np.array([-1.0, 0.0, 2.0, 9.0, -9.0], np.float32)

    @jax.jit
    def query(params, points, noise):
        plain, _ = field.query(params, points, GRID, density_bias=OBJECT)
        raw = field.query_raw(params, points, GRID, density_bias=OBJECT)
        noisy, _ = field.activate(raw, noise=noise)
        alone = field.query_density(params, points[:, None], GRID, density_bias=OBJECT)
        return plain, noisy, alone

    plain, noisy, alone = (
        np.asarray(x, np.float64) for x in query(params, points, noise)
    )
    before = np.log(np.expm1(plain))
    np.testing.assert_allclose(noisy, np.log1p(np.exp(before + noise)), rtol=1e-3)
    np.testing.assert_allclose(alone[:, 0], plain, rtol=1e-5)


def test_density_scale_is_a_factor_after_softplus():
    params = random_params(0)
    points = np.random.default_rng(1).uniform(-1, 1, (5, 3)).astype("f4")
    bound = {"density_bias": OBJECT}
    plain, color = field.query(params, points, GRID, **bound)
    dense, same = field.query(params, points, GRID, density_scale=10.0, **bound)
    np.testing.assert_allclose(dense, 10 * plain, rtol=1e-6)
    np.testing.assert_array_equal(color, same)


@pytest.mark.parametrize("init", ["object", "scene", "object_in_scene"])
def test_the_start_is_the_same_with_any_density_scale(init):
    given = preset("room").replace({"field.init": init})
    points = jnp.linspace(-1, 1, 64)[:, None] * jnp.ones((1, 3))
    start = {}
    for scale in (1.0, 10.0):
        spec = given.replace({"field.density_scale": scale}).field
        before = field.make_density_bias(spec)(points)
        start[scale] = scale * jax.nn.softplus(before)
    np.testing.assert_allclose(start[10.0], start[1.0], rtol=1e-4, atol=1e-30)
    scaled = given.replace({"field.density_scale": 10.0}).nerf
    theta = nerf(scaled, size=4).init(jax.random.key(0))
    densities = [
        field.query(
            theta,
            points,
            field.make_grid(spec),
            density_bias=field.make_density_bias(spec),
            density_scale=spec.density_scale,
        )[0]
        for spec in (given.field, scaled.field)
    ]
    np.testing.assert_allclose(*densities, rtol=0.05, atol=1e-30)


def test_chunks_change_memory_not_results():
    params = random_params(8)
    points = np.random.default_rng(2).uniform(-1, 1, (23, 3)).astype("f4")

    def total(params, chunk):
        features = encode(params["table"], points, GRID)
        raw = decoder_lib.decode(params["decoder"], features, chunk=chunk)
        density, color = field.activate(raw)
        return jnp.sum(density) + jnp.sum(color**2)

    run = jax.jit(jax.value_and_grad(total), static_argnums=1)
    whole, parts = run(params, 100), run(params, 7)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        whole,
        parts,
    )


def test_environment():
    params = random_params(0, environment=True)["environment"]
    directions = np.random.default_rng(1).normal(size=(5, 3)).astype("f4")
    color = jax.jit(field.environment_color)(params, directions)
    assert color.shape == (5, 3) and ((color > 0) & (color < 1)).all()
    assert params["hidden"]["kernel"].shape == (27, 16)


def test_normals_of_a_ball_point_outwards():
    points = np.random.default_rng(0).normal(size=(9, 3))
    points = (0.5 * points / np.linalg.norm(points, axis=1, keepdims=True)).astype("f4")
    normals = jax.jit(
        functools.partial(
            field.density_normals, lambda x: jax.nn.softplus(OBJECT(x)), step=1e-2
        )
    )(points)
    np.testing.assert_allclose(normals, points / 0.5, atol=0.02)


def test_normals_are_exact_for_linear_density_and_zero_for_flat():
    slope = jnp.array([1.0, -2.0, 2.0])
    points = np.random.default_rng(0).normal(size=(4, 3)).astype("f4")
    normals = field.density_normals(lambda x: x @ slope, points, step=0.1)
    np.testing.assert_allclose(normals, jnp.tile(-slope / 3, (4, 1)), atol=1e-5)
    flat = field.density_normals(lambda x: jnp.ones(len(x)), points, step=0.1)
    assert not flat.any()


def test_unit_or_zero_has_finite_gradients():
    gradient = jax.grad(lambda v: jnp.sum(unit_or_zero(v, axis=-1)))(jnp.zeros((2, 3)))
    assert not gradient.any()


def test_chunked_decoder_has_the_gradients_of_the_plain_one(float64):
    rng = np.random.default_rng(0)
    as_double = lambda x: jnp.asarray(x + 0.1 * rng.normal(size=x.shape))  # noqa: E731
    decoder = jax.tree.map(as_double, decoder_lib.init_decoder(jax.random.key(0), 6, 5))
    features, weight = rng.normal(size=(11, 6)), rng.normal(size=(11, 4))

    def gradients(decode):
        total = lambda d, f: jnp.sum(weight * decode(d, f))  # noqa: E731
        return jax.value_and_grad(total, argnums=(0, 1))(decoder, features)

    chunked, whole = (
        jax.tree.leaves(gradients(functools.partial(decoder_lib.decode, chunk=chunk)))
        for chunk in (4, 11)
    )
    for found, expected in zip(chunked, whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_softplus_has_its_derivative_everywhere():
    x = jnp.asarray([-90.0, -20.0, 0.0, 3.0, 50.0])
    found = jax.vmap(jax.grad(field._softplus))(x)
    np.testing.assert_allclose(found, jax.vmap(jax.grad(jax.nn.softplus))(x), rtol=1e-5)
