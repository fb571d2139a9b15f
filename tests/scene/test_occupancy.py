# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
from jitted import run

from vsd_jax.scene.nerf import occupancy

CENTRE = np.full((1, 1, 1, 3), 0.5)


def ball(positions):
    return jnp.where(jnp.sum(positions**2, axis=-1) < 0.6**2, 5.0, 0.0)


def random_mask(shape, share):
    return np.random.default_rng(0).uniform(size=shape) < share


def test_cells_cover_the_cube_in_xyz_order():
    centres = run(lambda offset: occupancy.cell_positions(4, offset), CENTRE)
    np.testing.assert_allclose(centres[0, 1, 3], [-0.75, -0.25, 0.75])


def test_grid_agrees_with_the_field_and_lookup():
    points = np.array([[0, 0, 0], [0.9, 0, 0], [0, 0.5, 0], [0, 0, 1.2]])

    @jax.jit
    def look(points):
        grid = occupancy.init_occupancy(ball, 16)
        cells = occupancy.occupied_cells(grid, threshold=0.01)
        centres = occupancy.cell_positions(16, CENTRE)
        found = occupancy.lookup(cells, points)
        return found, occupancy.lookup(cells, centres), ball(centres) > 0

    found, at_centres, expected = look(points)
    np.testing.assert_array_equal(found, [True, False, True, False])
    np.testing.assert_array_equal(at_centres, expected)


def test_update_decays_and_grows():
    @jax.jit
    def update(key_empty, key_ball):
        start = jnp.full((4, 4, 4), 2.0)
        empty = occupancy.update_occupancy(
            lambda x: jnp.zeros(x.shape[:-1]), start, key_empty, decay=0.5
        )
        return empty, occupancy.update_occupancy(ball, empty, key_ball, decay=0.5)

    empty, grown = update(jax.random.key(0), jax.random.key(1))
    np.testing.assert_allclose(empty, 1.0)
    assert np.max(grown) == 5.0 and np.min(grown) == 0.5


def test_a_nearly_empty_start_is_not_skipped_as_a_whole():
    grid = np.linspace(0.0, 1e-3, 64).reshape(4, 4, 4)
    cells = run(occupancy.occupied_cells, grid, threshold=0.01)
    assert cells.mean() > 0.3


def test_compact_lists_the_set_samples_in_order():
    mask = random_mask((7, 9), 0.3)
    index, slot = run(occupancy.compact, mask, capacity=40)
    expected = np.flatnonzero(mask)
    np.testing.assert_array_equal(index[: len(expected)], expected)
    assert (index[len(expected) :] == mask.size).all()
    back = np.where(slot < 40, index[np.minimum(slot, 39)], -1).reshape(-1)
    np.testing.assert_array_equal(back[expected], expected)
    assert (np.delete(back, expected) == -1).all()


def test_compact_beyond_capacity_keeps_the_first():
    index, slot = run(occupancy.compact, np.ones((3, 4), bool), capacity=5)
    np.testing.assert_array_equal(index, range(5))
    assert (slot.reshape(-1)[5:] == 5).all()


def test_expand_forward_and_gradient():
    mask = random_mask((5, 6), 0.4)
    rng = np.random.default_rng(1)
    values, cotangent = rng.normal(size=(20, 2)), rng.normal(size=(5, 6, 2))

    @jax.jit
    def both(values, cotangent):
        index, slot = occupancy.compact(mask, 20)

        def slowly(values):
            flat = jnp.zeros((30, 2)).at[index].set(values, mode="drop")
            return flat.reshape(5, 6, 2)

        results = []
        for spread in (lambda v: occupancy.expand(v, index, slot), slowly):
            out, pull = jax.vjp(spread, values)
            results.append((out, *pull(cotangent)))
        return results

    got, expected = both(values, cotangent)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def test_thin_leaves_small_masks_alone_and_counts_the_rest():
    mask = np.ones((64, 64), bool)
    uniform = np.random.default_rng(0).uniform(size=(64, 64))
    same, keep, overflow = run(occupancy.thin, mask, uniform, capacity=5000)
    assert same.all() and keep == 1 and overflow == 0
    thinned, keep, overflow = run(occupancy.thin, mask, uniform, capacity=1024)
    np.testing.assert_allclose(overflow, 4096 - thinned.sum(), rtol=0.03)
    assert 0.8 * 1024 < thinned.sum() <= 1024
    # All over the image, not only its last rows.
    assert (thinned.reshape(8, -1).sum(axis=1) > 60).all()
    np.testing.assert_allclose(keep, thinned.mean(), rtol=0.1)
