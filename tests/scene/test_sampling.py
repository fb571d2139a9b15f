# SPDX-License-Identifier: Apache-2.0
import numpy as np
from jitted import run

from vsd_jax.scene.nerf import sampling


def test_cube_intersections_by_hand():
    origins = np.array([[0, 0, 3.0], [0, 0, 3], [0, 0, 0], [3, 3, 3], [0, 5, 3]])
    directions = np.array(
        [[0, 0, -1.0], [0, 0, 1], [1, 0, 0], [-1, -1, -1], [0, 0, -1]]
    )
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    entry, leave = run(
        sampling.intersect_cube, origins, directions, half_extent=1.0, near=0.1
    )
    diagonal = np.sqrt(3)
    np.testing.assert_allclose(entry, [2, 0.1, 0.1, 2 * diagonal, 0.1], rtol=1e-5)
    np.testing.assert_allclose(leave, [4, 0.1, 1, 4 * diagonal, 0.1], rtol=1e-5)


def test_stratified_samples_stay_in_their_bins():
    near, far = np.array([1.0, 2.0]), np.array([3.0, 2.0])
    jitter = np.random.default_rng(0).uniform(size=(2, 5))

    def both(near, far, jitter):
        jittered = sampling.stratified(near, far, 5, jitter)
        return *jittered, sampling.stratified(near, far, 5, None)[1]

    tdist, tmid, middle = run(both, near, far, jitter)
    assert (tmid >= tdist[:, :-1]).all() and (tmid <= tdist[:, 1:]).all()
    np.testing.assert_allclose(tdist[0], np.linspace(1, 3, 6), rtol=1e-6)
    np.testing.assert_allclose(tmid[1], 2)
    np.testing.assert_allclose(middle[0], np.linspace(1.2, 2.8, 5), rtol=1e-6)


def test_importance_follows_the_weights():
    tdist = np.linspace(0.0, 1.0, 11)[None]
    weights = np.zeros((1, 10))
    weights[0, [3, 7]] = 0.75, 0.25
    uniform = np.random.default_rng(0).uniform(size=(1, 400))
    edges, tmid = run(sampling.importance, tdist, weights, uniform)
    assert edges.shape == (1, 401) and (np.diff(tmid) >= 0).all()
    np.testing.assert_allclose(((tmid > 0.3) & (tmid < 0.4)).mean(), 0.75, atol=0.02)
    np.testing.assert_allclose(((tmid > 0.7) & (tmid < 0.8)).mean(), 0.25, atol=0.02)


def test_importance_without_weights_is_uniform_and_finite():
    tdist = np.stack([np.linspace(0.0, 1.0, 5), np.full(5, 2.0)])
    _, tmid = run(sampling.importance, tdist, np.zeros((2, 4)), np.full((2, 8), 0.5))
    np.testing.assert_allclose(tmid[0], (np.arange(8) + 0.5) / 8, atol=1e-5)
    np.testing.assert_allclose(tmid[1], 2.0)


def test_merge_sorts_and_covers_the_ray():
    tdist = np.linspace(1.0, 2.0, 5)[None]
    tmid = 0.5 * (tdist[:, 1:] + tdist[:, :-1])
    edges, merged, order = run(sampling.merge, tdist, tmid, np.array([[1.9, 1.01]]))
    np.testing.assert_array_equal(order, [[5, 0, 1, 2, 3, 4]])
    assert merged.shape == (1, 6) and (np.diff(merged) > 0).all()
    assert edges[0, 0] == 1 and edges[0, -1] == 2
    assert ((merged >= edges[:, :-1]) & (merged <= edges[:, 1:])).all()


def test_place_samples_masks_missing_rays_and_empty_cells():
    cells = np.zeros((4, 4, 4), bool)
    cells[2:] = True  # x > 0 is occupied
    origins = np.array([[0.5, 0, 3.0], [-0.5, 0, 3], [0, 9, 3]])
    directions = np.tile(np.array([[0, 0, -1.0]]), (3, 1))
    samples = run(
        lambda origins, directions, cells: sampling.place_samples(
            origins,
            directions,
            None,
            num_samples=6,
            half_extent=1.0,
            near=0.1,
            cells=cells,
        ),
        origins,
        directions,
        cells,
    )
    np.testing.assert_array_equal(samples.mask.sum(axis=1), [6, 0, 0])


def test_what_accelerators_select_is_what_a_cpu_gathers():
    draws = np.random.default_rng(0)
    rows, columns = draws.normal(size=(3, 7)), draws.integers(0, 7, (3, 5))
    picked = run(sampling._select, rows, columns)
    np.testing.assert_array_equal(picked, run(sampling._pick, rows, columns))
    expected = np.take_along_axis(rows, columns, 1)
    np.testing.assert_array_equal(picked, expected.astype(picked.dtype))
