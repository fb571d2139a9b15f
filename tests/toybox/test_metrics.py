# SPDX-License-Identifier: Apache-2.0
"""Scores against closed forms."""

import numpy as np
import pytest

from vsd_jax.toybox import metrics


def test_precision_counts_the_most_likely_class():
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2], [0.7, 0.3]])
    assert metrics.precision(probabilities, 0) == 0.75


def test_multi_face_index_looks_at_hidden_views_only():
    front, side = np.eye(4)[0], np.eye(4)[1]
    judged = np.stack([front, front, side, front])
    # Views: front, side, back, overhead -> hidden are the second and the third.
    assert metrics.multi_face_index(judged, np.array([0, 1, 2, 3])) == 0.5
    assert np.isnan(metrics.multi_face_index(judged[:1], np.array([0])))


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_an_image_that_shows_nothing_is_not_right(value):
    """Whatever the judge says of it: here that all are red mushrooms, seen from ahead.

    A white picture was judged a room, one that is not a number a red mushroom.
    """
    images = np.full((4, 2, 2, 3), value)
    images[:1] = 0.5
    sure = {name: np.eye(30)[[0] * 4] for name in ("kind", "strict", "colour", "view")}
    wanted = {"kind": "mushroom", "colour": "red", "background": np.ones(3)}
    found = metrics.score_images(sure, images, views=np.array([1, 1, 2, 2]), **wanted)
    assert found["multi_face_index"] == 1.0  # of the one that shows something
    for name in ("kind", "strict", "colour"):
        assert found[f"{name}_precision"] == 0.25
    rest = {name: answers[1:] for name, answers in sure.items()}
    found = metrics.score_images(rest, images[1:], views=np.full(3, 1), **wanted)
    assert np.isnan(found["multi_face_index"]) and found["strict_precision"] == 0.0


def test_saturation_ignores_the_background():
    image = np.ones((1, 4, 4, 3))
    image[0, :2] = [1.0, 0.0, 0.0]
    image[0, 2, :2] = [0.5, 0.25, 0.25]
    assert metrics.saturation(image, np.ones(3)) == pytest.approx((8 + 2 * 0.5) / 10)


def test_frechet_distance_of_gaussians_in_closed_form():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(4000, 3))
    base = (base - base.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(base.T)).T)
    moved = 2.0 * base + np.array([1.0, 0.0, -2.0])
    # |m|^2 = 5; covariances I and 4 I: tr(I + 4 I - 2 * 2 I) = 3.
    assert metrics.frechet_distance(base, moved) == pytest.approx(8.0, rel=1e-6)
    assert metrics.frechet_distance(base, base) == pytest.approx(0.0, abs=1e-8)


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 400, 4))
    assert abs(metrics.kernel_distance(first, second)) < 0.05
    assert metrics.kernel_distance(first, second + 1.0) > 1.0


def test_diversity_is_the_mean_pairwise_distance():
    features = np.zeros((3, 2, 4))
    features[1, :, 0], features[2, :, 0] = 1.0, 3.0
    assert metrics.diversity(features) == pytest.approx((1 + 3 + 2) / 3)
    assert np.isnan(metrics.diversity(features[:1]))


def test_chamfer_of_parallel_planes_is_their_distance():
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 9)] * 2), -1).reshape(-1, 2)
    low = np.c_[grid, np.zeros(len(grid))]
    assert metrics.chamfer(low, low + [0, 0, 0.05]) == pytest.approx(0.05)
