# SPDX-License-Identifier: Apache-2.0
"""Adam over the rows of a hash table that a step touches: same result, what price?

  python -m benchmarks.lazy_adam [--side 64] [--samples 64]

Adam (arXiv:1412.6980) moves a row also when its gradient is zero. Of a row with moments
(m, v) after step s, that nothing touched up to step t, the moves add up to

  m / sqrt(v) * sum_{j=s+1}^{t} rate_j r^(j-s) sqrt(1 - b2^j) / (1 - b1^j),
  r = b1 / sqrt(b2),

as long as eps is nothing beside sqrt(v). The sum is the same for all rows that stand
after one step, so a row can catch up by one product when it is next read. Prints how
many rows a render reads, and CPU milliseconds of both forms in turn.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure, nerf_step
from vsd_jax.scene import camera
from vsd_jax.scene.nerf import encoding, sampling

B1, B2, EPS = 0.9, 0.99, 1e-15


def add_move(moves: jax.Array, *, step, rate, ages: int) -> jax.Array:
    """Adds a step's term to the sums above, kept by s: moves [steps + 1].

    Terms of more than `ages` steps are left out: r^200 is 2e-9.
    """
    age = 1 + jnp.arange(ages)
    power = (B1 / B2**0.5) ** age
    term = rate * power * jnp.sqrt(1 - B2**step) / (1 - B1**step)
    since = jnp.where(age <= step, step - age, len(moves))
    return moves.at[since].add(term, mode="drop", unique_indices=False)


def catch_up(table, m, v, last, *, step, moves):
    """Rows [K, F] that stand after `last` [K] as dense Adam has them after `step`."""
    age = (step - last)[:, None].astype(m.dtype)
    moved = jnp.where(v > 0, m / jnp.sqrt(jnp.where(v > 0, v, 1)), 0)
    return table - moves[last][:, None] * moved, m * B1**age, v * B2**age


def lazy_step(state, rows, gradient, *, step, rate, moves):
    """Catches up `rows` [K] (each once) and moves them by Adam.

    Args:
      state: table [N, F], m, v and last [N] int32, the step after which they stand.
      rows: [K]; N = none.
      gradient: [K, F].
      step: the number of this step, from 1.
      rate: learning rate.
      moves: of the steps before, see `add_move`.
    """
    table, m, v, last = (x.at[rows].get(mode="fill", fill_value=0) for x in state)
    table, m, v = catch_up(table, m, v, last, step=step - 1, moves=moves)
    m, v = B1 * m + (1 - B1) * gradient, B2 * v + (1 - B2) * gradient**2
    hat_m, hat_v = m / (1 - B1**step), v / (1 - B2**step)
    table = table - rate * hat_m / (jnp.sqrt(hat_v) + EPS)
    news = (table, m, v, jnp.full_like(last, step))
    return tuple(
        old.at[rows].set(new, mode="drop") for old, new in zip(state, news, strict=True)
    )


def touched(grid, side: int, samples: int) -> np.ndarray:
    """Rows that a render reads (sorted), one view of `side` x `side` pixels."""
    origin, directions = camera.pixel_rays(nerf_step.make_view(), side, side)
    directions = directions.reshape(-1, 3)
    origins = jnp.broadcast_to(origin, directions.shape)
    near, far = sampling.intersect_cube(origins, directions, half_extent=1.0, near=0.1)
    jitter = jax.random.uniform(jax.random.key(0), (len(near), samples))
    _, tmid = sampling.stratified(near, far, samples, jitter)
    points = sampling.ray_points(origins, directions, tmid).reshape(-1, 3)
    xyz = encoding._unit(points)
    read = np.zeros(grid.rows, bool)
    for level in range(len(grid.resolutions)):
        for ids in encoding._corners(grid, level, xyz)[0]:
            read[np.asarray(ids)] = True
    return np.flatnonzero(read)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--samples", type=int, default=64, help="a ray")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    work = dict(levels=16, log2_table=19, finest=2048)
    grid = nerf_step.make_grid(work)
    rows = touched(grid, args.side, args.samples)
    print(f"{len(rows):,} of {grid.rows:,} rows: {len(rows) / grid.rows:.0%}")
    table = encoding.init_table(jax.random.key(0), grid)
    tx = optax.adam(1e-2, b1=B1, b2=B2, eps=EPS)

    def dense(params, state, gradient):
        update, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, update), state

    def lazy(state, rows, gradient, step):
        moves = add_move(jnp.zeros(1000), step=step, rate=1e-2, ages=200)
        return lazy_step(state, rows, gradient, step=step, rate=1e-2, moves=moves)

    dense, lazy = jax.jit(dense, donate_argnums=(0, 1)), jax.jit(lazy, donate_argnums=0)
    whole = jnp.full(table.shape, 1e-3)
    some = jnp.full((len(rows), grid.features), 1e-3)
    zeros = jnp.zeros_like
    states = {"dense": (table + 0, tx.init(table))}
    last = jnp.zeros(grid.rows, jnp.int32)
    states["lazy"] = (table + 0, zeros(table), zeros(table), last)
    ids = jnp.asarray(rows, jnp.int32)

    def run_dense():
        states["dense"] = jax.block_until_ready(dense(*states["dense"], whole))

    def run_lazy():
        states["lazy"] = jax.block_until_ready(lazy(states["lazy"], ids, some, 2))

    spent = measure.median_cpu_ms({"dense": run_dense, "lazy": run_lazy}, args.rounds)
    lines = [[name, f"{ms:.0f}"] for name, ms in spent.items()]
    print(measure.table(["Adam, 2^19 rows a level", "CPU ms"], lines))
    print(f"\n{measure.machine()}, jax {jax.__version__}")


if __name__ == "__main__":
    main()
