# SPDX-License-Identifier: Apache-2.0
"""Pytrees: tests, choices and norms over all leaves; `vmap` that spares one copy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vsd_jax.types import PyTree


def all_finite(tree: PyTree) -> jax.Array:
    """True if every element of every leaf is finite; true for an empty tree."""
    return jnp.array(True) & jax.tree.reduce(
        jnp.logical_and, jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree), True
    )


def select_tree(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where the scalar condition holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def global_norm(tree: PyTree) -> jax.Array:
    """Euclidean norm over all leaves; 0 for an empty tree."""
    squares = jax.tree.map(lambda leaf: jnp.sum(leaf**2), tree)
    return jnp.sqrt(jax.tree.reduce(jnp.add, squares, jnp.zeros(())))


def without_weak_types(tree: PyTree) -> PyTree:
    """The same values, each leaf of a dtype of its own.

    `jnp.full(n, 0.5)` is weakly typed, what a step makes of it is not: a jitted step
    would be compiled anew for its second and for its third call.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), tree)


def merge_axes(tree: PyTree) -> PyTree:
    """[m, V, ...] -> [m * V, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape((-1,) + leaf.shape[2:]), tree)


def over_axis(fn: Callable, num: int) -> Callable:
    """`vmap` of `fn`, or a plain call when the mapped axis has length one.

    XLA's gathers and convolutions with a batch axis of one are slower on CPU than
    those without it, and one particle or one view is the common case.
    """
    if num != 1:
        return jax.vmap(fn)

    def single(*args):
        out = fn(*jax.tree.map(lambda leaf: leaf[0], args))
        return jax.tree.map(lambda leaf: leaf[None], out)

    return single
