# SPDX-License-Identifier: Apache-2.0
"""Attention in slices equals attention at once, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.diffusion import attention


def _at_once(query, key, value):
    scores = jnp.einsum("bid,bjd->bij", query, key) / jnp.sqrt(query.shape[-1])
    return jnp.einsum("bij,bjd->bid", jax.nn.softmax(scores, axis=-1), value)


def _inputs(dtype=jnp.float32):
    draws = jax.random.normal(jax.random.key(0), (3, 2, 512, 8))
    return tuple(draws.astype(dtype))


@pytest.mark.parametrize(
    "attend",
    [
        attention.self_attention,
        lambda *args: attention.sliced_attention(*args, slice_size=128),
        lambda *args: attention.sliced_attention(*args, slice_size=100),
    ],
    ids=["of this backend", "slices", "slices that do not divide"],
)
def test_equals_attention_at_once(attend):
    out, pull = jax.vjp(attend, *_inputs())
    expected, pull_expected = jax.vjp(_at_once, *_inputs())
    np.testing.assert_allclose(out, expected, atol=1e-5)
    wave = jnp.sin(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
    for a, b in zip(pull(wave), pull_expected(wave), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_large_scores_do_not_overflow():
    query, key, value = _inputs()
    out = attention.sliced_attention(1e3 * query, 1e3 * key, value, slice_size=128)
    assert np.isfinite(out).all()


def test_bfloat16_sums_in_float32():
    out = attention.sliced_attention(*_inputs(jnp.bfloat16), slice_size=128)
    assert out.dtype == jnp.bfloat16
    exact = _at_once(*(x.astype(jnp.float32) for x in _inputs(jnp.bfloat16)))
    assert np.abs(out.astype(jnp.float32) - exact).max() < 0.03


def test_memory_is_that_of_a_slice():
    def loss(attend, args):
        return jnp.sum(attend(*args) ** 2)

    def temporary(attend):
        gradient = jax.jit(jax.grad(lambda args: loss(attend, args)))
        memory = gradient.lower(_inputs()).compile().memory_analysis()
        return memory.temp_size_in_bytes

    sliced = temporary(lambda *args: attention.sliced_attention(*args, slice_size=64))
    assert sliced < 0.6 * temporary(_at_once)
