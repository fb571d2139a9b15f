# SPDX-License-Identifier: Apache-2.0
"""Self-attention over many tokens, some queries at a time.

At 64 x 64 latents the scores of one layer of Stable Diffusion are 5 heads x 4096 x 4096
numbers, 336 MB in float32: written, read three times, and kept for the gradient. Here
they are computed a slice of queries at a time, and again for the gradient (as in
arXiv:2112.05682, over queries only). GPUs of NVIDIA have a kernel for all of it.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import chex
import jax
import jax.numpy as jnp
from jax import lax

MANY_TOKENS = 1024
"""Tokens from which slices pay; below, the scores are small."""
_CPU_SLICE, _SLICE = 256, 1024
_KERNELS = contextvars.ContextVar("kernels", default=True)


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """What is traced inside is sliced: it can be differentiated forwards and spread
    over devices along any axis, which a kernel cannot."""
    token = _KERNELS.set(False)
    try:
        yield
    finally:
        _KERNELS.reset(token)


@functools.partial(jax.checkpoint, prevent_cse=False)
def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Attention of all queries at once; as `sliced_attention`."""
    scaled = query * query.shape[-1] ** -0.5
    scores = jnp.einsum("bid,bjd->bij", scaled, key, preferred_element_type=jnp.float32)
    largest = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    # Divided after the sum over values: 64 numbers a query instead of 4096.
    out = jnp.einsum(
        "bij,bjd->bid",
        weights.astype(value.dtype),
        value,
        preferred_element_type=jnp.float32,
    )
    return (out / jnp.sum(weights, axis=-1, keepdims=True)).astype(value.dtype)


def sliced_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, slice_size: int
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v (arXiv:1706.03762, Eq. 1), a slice of queries at once.

    Args:
      query: [B, N, d]; heads belong to B.
      key: [B, M, d].
      value: [B, M, d].
      slice_size: queries at a time, at most: the largest number that divides N, or all
        at once if that is less than a quarter of it.

    Returns:
      [B, N, d] in the dtype of `value`; scores and sums are float32.
    """
    chex.assert_rank([query, key, value], 3)
    batch, length, width = query.shape
    divisors = (n for n in range(min(slice_size, length), 0, -1) if length % n == 0)
    largest = next(divisors)
    if largest == length or 4 * largest < slice_size:
        return attend(query, key, value)
    slices = query.reshape(batch, -1, largest, width).swapaxes(0, 1)
    out = lax.map(lambda part: attend(part, key, value), slices)
    return out.swapaxes(0, 1).reshape(batch, length, width)


def fused_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """As `sliced_attention`, by cuDNN's kernel: reverse mode alone, softmax float32."""
    heads = (x.swapaxes(0, 1)[None] for x in (query, key, value))  # [1, N, B, d]
    out = jax.nn.dot_product_attention(*heads, implementation="cudnn")
    return out[0].swapaxes(0, 1)


def _has_kernel(query: jax.Array, key: jax.Array, value: jax.Array) -> bool:
    """Whether cuDNN's kernel takes these inputs on the device that is here."""
    alike = query.shape == key.shape == value.shape
    alike = alike and query.dtype == key.dtype == value.dtype
    sixteen = query.dtype in (jnp.bfloat16, jnp.float16)
    if not (_KERNELS.get() and alike and sixteen):
        return False
    return compiles_fused(query.shape, jnp.dtype(query.dtype))


@functools.lru_cache(maxsize=64)
def compiles_fused(shape: tuple[int, int, int], dtype: jnp.dtype) -> bool:
    """Whether `fused_attention` and its gradient compile here, for inputs of a shape.

    Which cards, lengths and widths cuDNN takes is its own business, so it is asked. A
    program that is lowered for a GPU elsewhere does without the kernel.
    """

    def loss(*inputs):
        return jnp.sum(fused_attention(*inputs).astype(jnp.float32))

    inputs = [jax.ShapeDtypeStruct(shape, dtype)] * 3
    try:
        jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*inputs).compile()
    except Exception:  # of whatever layer of XLA or cuDNN refuses
        return False
    return True


def self_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Attention as the backend likes it: by a kernel where there is one, else sliced.

    On a CPU the scores of a slice fit into its cache.
    """
    if jax.default_backend() == "gpu" and _has_kernel(query, key, value):
        return fused_attention(query, key, value)
    if jax.default_backend() != "cpu":
        # Few slices, so that they are large enough to fill the device.
        return sliced_attention(query, key, value, slice_size=_SLICE)

    def one_head(part):
        whole = (x[None] for x in part)
        return sliced_attention(*whole, slice_size=_CPU_SLICE)[0]

    return lax.map(one_head, (query, key, value))
