# SPDX-License-Identifier: Apache-2.0
"""One compilation instead of one for each small operation."""

import functools

import jax
import numpy as np


def run(function, *args, **static):
    """`function(*args, **static)` under jit, the result as NumPy arrays."""
    result = jax.jit(functools.partial(function, **static))(*args)
    return jax.tree.map(np.asarray, result)
