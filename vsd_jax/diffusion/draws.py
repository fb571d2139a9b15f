# SPDX-License-Identifier: Apache-2.0
"""Random pytrees from a single draw.

XLA needs about half a second to compile each random draw on CPU, so a network of a
hundred kernels with a draw each would compile for a minute before it starts.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

from vsd_jax.types import PyTree


def draw_like(
    key: jax.Array, shapes: PyTree, *, sample: Callable[..., jax.Array]
) -> PyTree:
    """Fills a tree with independent numbers of one distribution.

    Args:
      key: consumed.
      shapes: pytree whose leaves are shapes (tuples of int).
      sample: `(key, shape) -> numbers`, e.g. `jax.random.normal`.

    Returns:
      The same pytree with float32 arrays of these shapes.
    """
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=_is_shape)
    sizes = [math.prod(shape) for shape in leaves]
    numbers = sample(key, (sum(sizes),))
    arrays, start = [], 0
    for shape, size in zip(leaves, sizes, strict=True):
        arrays.append(numbers[start : start + size].reshape(shape))
        start += size
    return jax.tree.unflatten(treedef, arrays)


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(n, int) for n in node)
