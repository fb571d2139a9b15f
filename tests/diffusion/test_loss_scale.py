# SPDX-License-Identifier: Apache-2.0
"""Gradients that float16 alone would lose, or turn into infinities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.diffusion.loss_scale import unit_scale, with_loss_scale

KEY = jax.random.key(0)
FIXED = jax.random.normal(KEY, (3, 5)), jnp.int32(2)


def network(moving, fixed):
    """Two products in float16, as a network's layers are."""
    weights, power = fixed
    hidden = jnp.tanh(moving["x"].astype(jnp.float16) @ weights.astype(jnp.float16))
    return (hidden @ moving["w"].astype(jnp.float16)).astype(jnp.float32) ** power


def gradient(function, size):
    moving = {"x": jnp.linspace(-1, 1, 6).reshape(2, 3), "w": 0.5 * jnp.ones((5, 2))}
    return jax.grad(lambda moving: size * jnp.sum(function(moving, FIXED)))(moving)


@pytest.mark.parametrize("size", [1.0, 1e-9, 1e-30, 1e9])
def test_gradient_of_any_size_is_that_of_one(size):
    expected = gradient(network, 1.0)
    found = gradient(with_loss_scale(network), size)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name] / size, value, rtol=2e-2, atol=1e-3)
    if size != 1.0:  # and without it the same is lost
        lost = gradient(network, size)["x"]
        assert not np.isfinite(lost).all() or not lost.any()


def test_value_is_the_same_to_the_bit():
    moving = {"x": jnp.ones((2, 3)), "w": jnp.ones((5, 2))}
    np.testing.assert_array_equal(
        with_loss_scale(network)(moving, FIXED), network(moving, FIXED)
    )


def test_what_is_not_finite_stays_so():
    for value in (jnp.inf, jnp.nan):
        found = gradient(with_loss_scale(network), value)
        assert not np.isfinite(found["w"]).any()


def test_of_several_particles_each_has_its_own():
    sizes = jnp.array([1e-9, 1.0, 0.0])

    def total(moving):
        out = jax.vmap(with_loss_scale(network), in_axes=(0, None))(moving, FIXED)
        return jnp.sum(out * sizes[:, None, None])

    moving = {"x": jnp.ones((3, 2, 3)) / 2, "w": jnp.ones((3, 5, 2))}
    found = jax.grad(total)(moving)["w"]
    np.testing.assert_allclose(found[0] / 1e-9, found[1], rtol=1e-3)
    assert found[1].all() and not found[2].any()


@pytest.mark.parametrize("largest", [3e-38, 1e-7, 1.0, 1.5, 2.0, 65504.0, 3e38])
def test_scale_is_a_power_of_two_that_leads_to_one(largest):
    scale = float(unit_scale(jnp.array([0.0, -largest, largest / 3])))
    assert np.frexp(scale)[0] == 0.5
    assert 1.0 <= largest * scale < 2.0 or scale in (2.0**100, 2.0**-100)


def test_nothing_to_scale():
    for value in (0.0, jnp.inf, jnp.nan):
        assert unit_scale(jnp.array([0.0, value])) == 1.0
