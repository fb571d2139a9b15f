# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest
from jitted import run

from vsd_jax.scene import regularizers


def test_entropy_by_hand():
    np.testing.assert_allclose(run(regularizers.binary_entropy, np.array([0.5])), 1.0)
    np.testing.assert_allclose(
        run(regularizers.binary_entropy, np.array([0.25, 0.75])), 0.8112781, rtol=1e-5
    )
    assert run(regularizers.binary_entropy, np.array([0.0, 1.0])) < 1e-3


def test_opacity_terms_by_hand():
    opacity = np.array([[0.0, 1.0]])
    np.testing.assert_allclose(
        run(regularizers.sparsity, opacity), (0.1 + np.sqrt(1.01)) / 2, rtol=1e-6
    )
    np.testing.assert_allclose(run(regularizers.opacity_squared, opacity), 0.5)
    np.testing.assert_allclose(
        run(regularizers.opaque, np.full(3, 0.5)), np.log(2), rtol=1e-6
    )
    assert run(regularizers.opaque, opacity) < 0.01


@pytest.mark.parametrize(
    "term",
    [
        regularizers.binary_entropy,
        regularizers.sparsity,
        regularizers.opaque,
        regularizers.opacity_squared,
    ],
)
def test_gradients_are_finite_at_the_ends(term):
    gradient = run(jax.grad(term), np.array([0.0, 1e-10, 0.5, 1.0]))
    assert np.isfinite(gradient).all()


def test_z_variance_by_hand():
    weights = np.array([[0.5, 0.5, 0.0], [0.1, 0.0, 0.0], [0.0, 0.6, 0.0]])
    distance = np.tile(np.array([[1.0, 3.0, 9.0]]), (3, 1))
    # Ray 0: variance 1; ray 1 misses; ray 2: one surface, variance 0.
    np.testing.assert_allclose(run(regularizers.z_variance, weights, distance), (1, 2))
    assert run(regularizers.z_variance, weights * 0, distance) == (0, 0)
    first = jax.grad(lambda *given: regularizers.z_variance(*given)[0])
    gradient = run(first, weights * 0, distance)
    assert np.isfinite(gradient).all()


def test_orientation_counts_only_what_faces_away():
    directions = np.array([[0, 0, -1.0]])
    weights = np.ones((1, 2))
    towards = np.array([[[0, 0, 1.0], [0, 1, 0]]])
    assert run(regularizers.orientation, weights, towards, directions) == 0
    np.testing.assert_allclose(
        run(regularizers.orientation, weights, -towards, directions), 1.0
    )
