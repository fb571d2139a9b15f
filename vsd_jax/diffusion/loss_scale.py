# SPDX-License-Identifier: Apache-2.0
"""Gradients through networks in float16, which ends at 65504 and begins at 6e-8.

The gradient of a mean over a latent is about 1e-5 for each number of it: most of what
the layers below make of that would be rounded to zero. So it is multiplied by a power
of two before it enters the network and divided by the same when it leaves, in float32
(loss scaling, arXiv:1710.03740, Sec. 3.2). The power follows from the gradient itself,
whose largest number becomes one: nothing is tuned, and nothing is carried from step to
step. A gradient that overflows in spite of it is not finite, and its update is skipped
like any other of that kind.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from vsd_jax.types import PyTree

_MAX_EXPONENT = 100  # of the power, so that it and its inverse are float32
_SCALED = contextvars.ContextVar("scaled", default=True)


@contextlib.contextmanager
def without_loss_scale() -> Iterator[None]:
    """What is traced inside can be differentiated forwards, where a tangent has the
    size of a prediction and needs no scale; backwards it is not scaled."""
    token = _SCALED.set(False)
    try:
        yield
    finally:
        _SCALED.reset(token)


def with_loss_scale(
    function: Callable[[PyTree, PyTree], jax.Array],
) -> Callable[[PyTree, PyTree], jax.Array]:
    """The same function with a gradient that float16 inside of it does not lose.

    Args:
      function: `(moving, fixed) -> float32 array`; its gradient is taken in `moving`
        alone, whose leaves are floating point (float32, or what they are cast from).

    Returns:
      The function; the gradient in `fixed` (frozen weights, timesteps) is zero.
    """

    @jax.custom_vjp
    def scaled(moving: PyTree, fixed: PyTree) -> jax.Array:
        return function(moving, fixed)

    def forward(moving, fixed):
        return jax.vjp(lambda moving: function(moving, fixed), moving)

    def backward(pull, cotangent):
        scale = unit_scale(cotangent)
        (grads,) = pull(cotangent * scale)
        return jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), grads), None

    scaled.defvjp(forward, backward)
    return lambda *given: (scaled if _SCALED.get() else function)(*given)


def unit_scale(values: jax.Array) -> jax.Array:
    """The power of two that brings the largest magnitude of `values` into [1, 2).

    Args:
      values: float32, any shape.

    Returns:
      Scalar float32 in [2^-100, 2^100]; 1 where the values are zero or not finite.
    """
    largest = jnp.max(jnp.abs(values))
    _, exponent = jnp.frexp(largest)  # largest = m 2^exponent with m in [1/2, 1)
    exponent = jnp.clip(1 - exponent, -_MAX_EXPONENT, _MAX_EXPONENT)
    sound = jnp.isfinite(largest) & (largest > 0)
    return jnp.ldexp(jnp.ones(()), jnp.where(sound, exponent, 0))
