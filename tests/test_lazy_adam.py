# SPDX-License-Identifier: Apache-2.0
"""Rows that catch up when they are read end where dense Adam has them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import lazy_adam as lazy


def test_lazy_rows_end_where_dense_adam_has_them():
    rate, steps = 1e-2, 60
    draws = np.random.default_rng(0)
    table = jnp.asarray(draws.normal(size=(8, 2)), jnp.float32)
    tx = optax.adam(rate, b1=lazy.B1, b2=lazy.B2, eps=lazy.EPS)
    dense, moments = table, tx.init(table)
    zeros = jnp.zeros_like(table)
    state = (table, zeros, zeros, jnp.zeros(8, jnp.int32))
    moves = jnp.zeros(steps + 1)

    @jax.jit
    def both(dense, moments, state, moves, rows, gradient, step):
        whole = zeros.at[rows].add(gradient)
        update, moments = tx.update(whole, moments, dense)
        state = lazy.lazy_step(state, rows, gradient, step=step, rate=rate, moves=moves)
        moves = lazy.add_move(moves, step=step, rate=rate, ages=200)
        return optax.apply_updates(dense, update), moments, state, moves

    for step in range(1, steps + 1):
        few = 3 if step < 10 else 2  # some rows are left alone for fifty steps
        rows = jnp.asarray(draws.permutation(8 if step < 10 else 5)[:few], jnp.int32)
        gradient = jnp.asarray(draws.normal(size=(few, 2)), jnp.float32)
        dense, moments, state, moves = both(
            dense, moments, state, moves, rows, gradient, step
        )
    table, m, v, last = state
    stale = np.abs(table - dense).max()
    table, *_ = lazy.catch_up(table, m, v, last, step=steps, moves=moves)
    assert stale > 1e-2  # before it is read a row is somewhere else
    np.testing.assert_allclose(table, dense, atol=1e-5)
