# SPDX-License-Identifier: Apache-2.0
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.scene.nerf import encoding

GRID = dict(
    num_levels=3,
    features=2,
    log2_table_size=7,
    min_resolution=3,
    max_resolution=12,
)


encode = jax.jit(encoding.encode, static_argnums=2)


def make(**changes):
    grid = encoding.hash_grid(**(GRID | changes))
    rng = np.random.default_rng(0)
    table = rng.normal(size=(grid.rows, grid.features)).astype(np.float32)
    positions = rng.uniform(-1, 1, (37, 3)).astype(np.float32)
    return grid, table, positions


def encode_slowly(table, positions, grid):
    """Instant-NGP Eq. 4 and trilinear interpolation, one point at a time."""
    table, positions = np.asarray(table, np.float64), np.asarray(positions, np.float64)
    out = np.zeros((len(positions), grid.width))
    for p, position in enumerate(positions):
        for level, r in enumerate(grid.resolutions):
            scaled = np.clip(position * 0.5 + 0.5, 0, 1) * r
            low = np.clip(np.floor(scaled).astype(int), 0, r - 1)
            f = scaled - low
            if grid.smooth:
                f = f * f * (3 - 2 * f)
            for bits in np.ndindex(2, 2, 2):
                x, y, z = (int(v) for v in low + bits)
                if grid.dense[level]:
                    row = x + (r + 1) * (y + (r + 1) * z)
                else:
                    mixed = x ^ (y * 2654435761 % 2**32) ^ (z * 805459861 % 2**32)
                    row = mixed % grid.sizes[level]
                weight = np.prod(np.where(bits, f, 1 - f))
                columns = slice(level * grid.features, (level + 1) * grid.features)
                out[p, columns] += weight * table[grid.offsets[level] + row]
    return out


@pytest.mark.parametrize("dense_coarse,smooth", [(True, False), (False, True)])
def test_matches_the_slow_reference(dense_coarse, smooth):
    grid, table, positions = make(dense_coarse=dense_coarse, smooth=smooth)
    positions[:3] = [[1.0], [-1.0], [1.5]]
    expected = encode_slowly(table, positions, grid)
    got = encode(table, positions, grid)
    np.testing.assert_allclose(got, expected, atol=5e-6)


def test_layout():
    grid, _, _ = make()
    assert grid.resolutions == (3, 6, 12)
    assert grid.sizes == (64, 128, 128) and grid.offsets == (0, 64, 192)
    assert grid.rows == 320 and grid.width == 6
    assert make(dense_coarse=False)[0].sizes == (128,) * 3


@pytest.mark.parametrize("high", [256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("num_levels", [2, 8, 16])
def test_finest_level_is_not_off_by_one(num_levels, high):
    assert encoding.level_resolutions(num_levels, 16, high)[-1] == high
    assert encoding.level_resolutions(num_levels, 16, high)[0] == 16


def test_impossible_grids_are_refused():
    with pytest.raises(ValueError, match="hash grid needs"):
        encoding.hash_grid(**(GRID | dict(max_resolution=2)))
    with pytest.raises(ValueError, match="int32"):
        encoding.hash_grid(**(GRID | dict(log2_table_size=31, dense_coarse=False)))


def test_interpolation_reproduces_a_linear_function():
    grid = encoding.hash_grid(
        num_levels=1,
        features=1,
        log2_table_size=10,
        min_resolution=4,
        max_resolution=4,
    )
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 5, dtype=np.float32)] * 3, indexing="ij")
    table = (2 * x - y + 0.5 * z).reshape(-1, 1)
    positions = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
    expected = positions @ np.array([[2.0], [-1.0], [0.5]])
    got = encode(table, positions, grid)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("route", ["_gradient_loop", "_gradient_scatter"])
@pytest.mark.parametrize("dense_coarse", [True, False])
def test_table_gradient_equals_autodiff_in_float64(float64, route, dense_coarse):
    grid, table, positions = make(dense_coarse=dense_coarse)
    positions = positions.astype(np.float64)
    cotangent = np.random.default_rng(2).normal(size=(37, grid.width))
    cotangent[[5, *range(30, 37)]] = 0  # unused slots at the end, and one before

    @jax.jit
    def both(positions, cotangent):
        _, pull = jax.vjp(
            lambda t: encoding.encode_differentiable(t, positions, grid),
            jnp.asarray(table, jnp.float64),
        )
        return getattr(encoding, route)(grid, positions, cotangent), *pull(cotangent)

    got, expected = both(positions, cotangent)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [3, encoding._UNROLLED + 1])
def test_particles_map_equals_loop_and_positions_are_held(number):
    grid, table, positions = make()
    tables = np.stack([table * (number - 2 * i) for i in range(number)])
    many = np.stack([np.roll(positions, i, 0) / (i + 1) for i in range(number)])

    def loss(table, positions):
        return jnp.sum(encoding.encode(table, positions, grid) ** 2)

    one = jax.jit(jax.grad(loss, argnums=(0, 1)))
    mapped = jax.jit(jax.vmap(jax.grad(loss)))(tables, many)
    shared = jax.jit(jax.vmap(jax.grad(loss), in_axes=(0, None)))(tables, positions)
    for i in range(number):
        np.testing.assert_allclose(mapped[i], one(tables[i], many[i])[0], atol=1e-5)
        np.testing.assert_allclose(shared[i], one(tables[i], positions)[0], atol=1e-5)
    assert not one(table, positions)[1].any()


def test_gradients_of_encode_and_of_the_differentiable_version():
    grid, table, positions = make()

    @jax.jit
    def gradients(table, positions):
        def total(encode, *args):
            return jnp.sum(jnp.sin(encode(*args, grid)))

        return [
            jax.grad(functools.partial(total, encode), argnums=(0, 1))(table, positions)
            for encode in (encoding.encode, encoding.encode_differentiable)
        ]

    (got, held), (expected, moved) = gradients(table, positions)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert not held.any() and jnp.abs(moved).max() > 0


def compile_gradient(route, grid, num_points):
    shapes = (
        jax.ShapeDtypeStruct((num_points, 3), jnp.float32),
        jax.ShapeDtypeStruct((num_points, grid.width), jnp.float32),
    )
    return jax.jit(getattr(encoding, route), static_argnums=0).lower(grid, *shapes)


def test_guard_cpu_loop_is_compiled_as_one_kernel():
    """The cliff: if XLA stops doing this, a training step is some 25 times slower."""
    grid = encoding.hash_grid(
        num_levels=4,
        features=2,
        log2_table_size=12,
        min_resolution=8,
        max_resolution=64,
    )
    num_points = 4096
    loop = compile_gradient("_gradient_loop", grid, num_points).compile()
    text = loop.as_text()
    if "small_call" in text:
        assert text.count('xla_cpu_small_call="true"') >= 4
        return
    # Another XLA may name it differently; then only a gross slow-down is a failure.
    scatter = compile_gradient("_gradient_scatter", grid, num_points).compile()
    positions = np.random.default_rng(0).uniform(size=(num_points, 3))
    positions, cotangent = (
        positions.astype(np.float32),
        jnp.ones((num_points, grid.width)),
    )
    spent = {}
    for name, compiled in (("loop", loop), ("scatter", scatter)):
        compiled(positions, cotangent)[0, 0].block_until_ready()
        begin = time.process_time()
        compiled(positions, cotangent)[0, 0].block_until_ready()
        spent[name] = time.process_time() - begin
    assert spent["loop"] < 3 * spent["scatter"], spent


def test_frequency_encoding():
    x = np.array([[0.1, -0.5, 2.0]], np.float32)
    got = encoding.frequency_encode(x, 2)
    expected = np.concatenate(
        [x, np.sin(x), np.cos(x), np.sin(2 * x), np.cos(2 * x)], axis=-1
    )
    assert got.shape == (1, 15)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert encoding.frequency_encode(x, 0).shape == (1, 3)


def test_init_table_is_small_and_uniform():
    grid, _, _ = make()
    table = encoding.init_table(jax.random.key(0), grid)
    assert table.shape == (grid.rows, 2) and jnp.abs(table).max() <= 1e-4
    assert table.std() > 4e-5
