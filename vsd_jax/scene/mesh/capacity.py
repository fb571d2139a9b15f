# SPDX-License-Identifier: Apache-2.0
"""Lists of varying length in arrays of fixed size.

Sizes are static under `jit`, so what is selected is written into an array with a
capacity. A capacity too small drops entries silently; hence whoever selects returns the
true count beside the result, and the caller compares: `overflows` inside a program,
`grow` or `check` outside. Counts and capacities are the same NamedTuple, of arrays and
of integers.
"""

from typing import TypeVar

import chex
import jax
import jax.numpy as jnp
from jax import lax

Sizes = TypeVar("Sizes", bound=tuple)
"""A NamedTuple of integers (capacities) or of int32 scalars (counts)."""


def compact(mask: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lists where a mask is true.

    Args:
      mask: [N] bool.
      size: capacity.

    Returns:
      indices [size] int32, ascending, 0 where unused; number [N] int32, the place of
      an entry among the true ones (meaningless where false); count, int32, which may
      exceed `size`.
    """
    chex.assert_rank(mask, 1)
    number = jnp.cumsum(mask, dtype=jnp.int32) - 1
    target = jnp.where(mask, number, size)
    indices = jnp.zeros(size, jnp.int32)
    order = jnp.arange(mask.size, dtype=jnp.int32)
    return indices.at[target].set(order, mode="drop"), number, number[-1] + 1


def expand(counts: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Repeats each index as often as its count says.

    Args:
      counts: [N] int32 >= 0.
      size: capacity.

    Returns:
      owner [size] int32, the index that an entry repeats; rank [size] int32, which
      repetition it is; total, int32, which may exceed `size`. Entries from `total` on
      are meaningless, but indices in range.
    """
    chex.assert_rank(counts, 1)
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    starts = ends - counts
    target = jnp.where(counts > 0, starts, size)
    order = jnp.arange(counts.size, dtype=jnp.int32)
    marks = jnp.zeros(size, jnp.int32).at[target].set(order, mode="drop")
    # Owners ascend, so that the last mark is the largest so far.
    owner = lax.associative_scan(jnp.maximum, marks)
    return owner, jnp.arange(size, dtype=jnp.int32) - starts[owner], ends[-1]


def used(count: jax.Array, size: int) -> jax.Array:
    """[size] bool: which entries of a list are in use."""
    return jnp.arange(size, dtype=jnp.int32) < count


def overflows(counts: Sizes, capacities: Sizes) -> jax.Array:
    """Scalar bool: whether anything was dropped."""
    pairs = zip(counts, capacities, strict=True)
    return jnp.any(jnp.stack([jnp.asarray(c) > size for c, size in pairs]))


def overflow_count(counts: Sizes, capacities: Sizes) -> jax.Array:
    """Scalar float32: how many entries were dropped, of all lists together."""
    pairs = zip(counts, capacities, strict=True)
    dropped = [jnp.maximum(jnp.asarray(c) - size, 0) for c, size in pairs]
    return jnp.sum(jnp.stack(dropped)).astype(jnp.float32)


def grow(counts: Sizes, capacities: Sizes) -> Sizes:
    """The next capacities: what was too small becomes a power of two above the count.

    A list made from one that overflowed is counted too low: call it again with what
    the next attempt returns, until nothing changes. Powers of two keep the number of
    compilations low.

    Args:
      counts: integers; of several meshes or views, their maxima.
      capacities: integers.
    """
    pairs = zip(map(int, counts), capacities, strict=True)
    sizes = (size if c <= size else 1 << c.bit_length() for c, size in pairs)
    return type(capacities)(*sizes)


def check(counts: Sizes, capacities: Sizes) -> None:
    """Raises if anything was dropped.

    Raises:
      ValueError: names what was too small and what to use instead.
    """
    enough = grow(counts, capacities)
    if enough != capacities:
        small = ", ".join(
            f"{name}={size} (needs {int(count)})"
            for name, size, count in zip(
                capacities._fields, capacities, counts, strict=True
            )
            if int(count) > size
        )
        raise ValueError(
            f"Too small a capacity: {small}. The result lacks what did not fit. Try "
            f"again with {enough}, and once more if that says the same."
        )
