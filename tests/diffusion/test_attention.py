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


@pytest.fixture
def kernel_calls(monkeypatch):
    """A GPU whose kernel is XLA's attention; what it was called with."""
    calls, real = [], jax.nn.dot_product_attention

    def attend(*heads, implementation):
        calls.append(implementation)
        return real(*heads, implementation="xla")

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "compiles_fused", lambda shape, dtype: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
    return calls


def test_kernel_is_given_the_heads_in_its_layout(kernel_calls):
    inputs = _inputs(jnp.bfloat16)
    out, pull = jax.vjp(attention.self_attention, *inputs)
    assert kernel_calls == ["cudnn"] and out.dtype == jnp.bfloat16
    exact, pull_exact = jax.vjp(_at_once, *(x.astype(jnp.float32) for x in inputs))
    wave = jnp.sin(jnp.arange(out.size)).reshape(out.shape)
    found = (out, *pull(wave.astype(out.dtype)))
    for a, b in zip(found, (exact, *pull_exact(wave)), strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.03)


def _trace(dtype):
    shape = jax.ShapeDtypeStruct((2, 64, 64), dtype)
    out = jax.eval_shape(attention.self_attention, shape, shape, shape)
    assert out.shape == shape.shape


@pytest.mark.parametrize(
    "dtype, wanted",
    [(jnp.float16, ["cudnn"]), (jnp.bfloat16, ["cudnn"]), (jnp.float32, [])],
)
def test_kernel_takes_16_bits(kernel_calls, dtype, wanted):
    _trace(dtype)
    assert kernel_calls == wanted


def test_no_kernel_where_it_is_not_wanted(kernel_calls):
    with attention.without_kernels():
        _trace(jnp.bfloat16)
    assert not kernel_calls


def test_a_kernel_that_does_not_compile_is_not_used(kernel_calls, monkeypatch):
    monkeypatch.setattr(attention, "compiles_fused", lambda shape, dtype: False)
    _trace(jnp.bfloat16)
    assert not kernel_calls


def test_cudnn_does_not_compile_on_a_cpu():
    assert not attention.compiles_fused((2, 64, 64), jnp.dtype(jnp.bfloat16))


def test_memory_is_that_of_a_slice():
    def loss(attend, args):
        return jnp.sum(attend(*args) ** 2)

    def temporary(attend):
        gradient = jax.jit(jax.grad(lambda args: loss(attend, args)))
        memory = gradient.lower(_inputs()).compile().memory_analysis()
        return memory.temp_size_in_bytes

    sliced = temporary(lambda *args: attention.sliced_attention(*args, slice_size=64))
    assert sliced < 0.6 * temporary(_at_once)


@pytest.mark.parametrize(
    ("length", "slice_size", "slices"),
    [(12, 4, 3), (12, 5, 3), (12, 12, 0), (12, 99, 0), (13, 4, 13), (13, 12, 0)],
)
def test_any_length_is_sliced_that_can_be(length, slice_size, slices):
    """640 pixels have 6400 tokens, which 1024 does not divide and 800 does."""
    inputs = [jax.ShapeDtypeStruct((2, length, 3), jnp.float32)] * 3

    def attend(*parts):
        return attention.sliced_attention(*parts, slice_size=slice_size)

    found = [
        each.params["length"]
        for each in jax.make_jaxpr(attend)(*inputs).eqns
        if each.primitive.name == "scan"
    ]
    assert found == ([slices] if slices else [])
