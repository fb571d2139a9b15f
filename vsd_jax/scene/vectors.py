# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of vectors that NeRF and mesh share."""

import jax
import jax.numpy as jnp


def unit_or_zero(vectors: jax.Array, *, axis: int) -> jax.Array:
    """The same directions with length 1; zero, with gradient zero, stays zero.

    Args:
      vectors: 3 along `axis`.
      axis: of the components.
    """
    squared = jnp.sum(vectors * vectors, axis=axis, keepdims=True)
    positive = squared > jnp.finfo(vectors.dtype).tiny
    return jnp.where(positive, vectors / jnp.sqrt(jnp.where(positive, squared, 1)), 0)
