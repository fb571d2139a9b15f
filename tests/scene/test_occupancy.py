# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.scene import occupancy


def ball(positions):
    return jnp.where(jnp.linalg.norm(positions, axis=-1) < 0.6, 5.0, 0.0)


def test_cells_cover_the_cube_in_xyz_order():
    centres = occupancy.cell_positions(4, jnp.full((1, 1, 1, 3), 0.5))
    np.testing.assert_allclose(centres[0, 1, 3], [-0.75, -0.25, 0.75])


def test_grid_agrees_with_the_field_and_lookup():
    grid = occupancy.init_occupancy(ball, 16)
    cells = occupancy.occupied_cells(grid, threshold=0.01)
    points = jnp.array([[0, 0, 0], [0.9, 0, 0], [0, 0.5, 0], [0, 0, 1.2]])
    np.testing.assert_array_equal(
        occupancy.lookup(cells, points), [True, False, True, False]
    )
    centres = occupancy.cell_positions(16, jnp.full((1, 1, 1, 3), 0.5))
    np.testing.assert_array_equal(occupancy.lookup(cells, centres), ball(centres) > 0)


def test_update_decays_and_grows():
    empty = occupancy.update_occupancy(
        lambda x: jnp.zeros(x.shape[:-1]),
        jnp.full((4, 4, 4), 2.0),
        jax.random.key(0),
        decay=0.5,
    )
    np.testing.assert_allclose(empty, 1.0)
    grown = occupancy.update_occupancy(ball, empty, jax.random.key(1), decay=0.5)
    assert grown.max() == 5.0 and grown.min() == 0.5


def test_a_nearly_empty_start_is_not_skipped_as_a_whole():
    grid = jnp.linspace(0.0, 1e-3, 64).reshape(4, 4, 4)
    assert occupancy.occupied_cells(grid, threshold=0.01).mean() > 0.3


def test_compact_lists_the_set_samples_in_order():
    mask = jax.random.bernoulli(jax.random.key(0), 0.3, (7, 9))
    index, slot = occupancy.compact(mask, 40)
    expected = np.flatnonzero(mask)
    np.testing.assert_array_equal(index[: len(expected)], expected)
    assert (index[len(expected) :] == mask.size).all()
    back = np.where(slot < 40, index[jnp.minimum(slot, 39)], -1).reshape(-1)
    np.testing.assert_array_equal(back[expected], expected)
    assert (np.delete(back, expected) == -1).all()


def test_compact_beyond_capacity_keeps_the_first():
    index, slot = occupancy.compact(jnp.ones((3, 4), bool), 5)
    np.testing.assert_array_equal(index, range(5))
    assert (slot.reshape(-1)[5:] == 5).all()


def test_expand_forward_and_gradient():
    mask = jax.random.bernoulli(jax.random.key(0), 0.4, (5, 6))
    index, slot = occupancy.compact(mask, 20)
    values = jax.random.normal(jax.random.key(1), (20, 2))

    def spread_slowly(values):
        flat = jnp.zeros((30, 2)).at[index].set(values, mode="drop")
        return flat.reshape(5, 6, 2)

    got, pull = jax.vjp(lambda v: occupancy.expand(v, index, slot), values)
    expected, pull_slowly = jax.vjp(spread_slowly, values)
    np.testing.assert_allclose(got, expected)
    cotangent = jax.random.normal(jax.random.key(2), got.shape)
    np.testing.assert_allclose(pull(cotangent)[0], pull_slowly(cotangent)[0])


def test_thin_leaves_small_masks_alone_and_counts_the_rest():
    mask = jnp.ones((64, 64), bool)
    uniform = jax.random.uniform(jax.random.key(0), (64, 64))
    same, keep, overflow = occupancy.thin(mask, uniform, 5000)
    assert same.all() and keep == 1 and overflow == 0
    thinned, keep, overflow = occupancy.thin(mask, uniform, 1024)
    assert overflow == 4096 - 1024
    assert 0.8 * 1024 < thinned.sum() <= 1024
    # All over the image, not only its last rows.
    assert (thinned.reshape(8, -1).sum(axis=1) > 60).all()
    np.testing.assert_allclose(keep, thinned.mean(), rtol=0.1)
