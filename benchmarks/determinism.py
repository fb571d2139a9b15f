# SPDX-License-Identifier: Apache-2.0
"""What a hash grid's gradient costs when its sums must keep their order.

  python -m benchmarks.determinism

Three formulations of the same sums in turn: the serial loop that a CPU uses, the
scatter-adds that accelerators use (atomic on a GPU, hence not repeatable to the bit),
and updates sorted by row, which any backend sums in the same order every time.
"""

import jax
import jax.numpy as jnp

from benchmarks.measure import machine, median_cpu_ms, table
from vsd_jax.scene.nerf import encoding

POINTS = 131_072


def gradient_sorted(grid, positions, cotangent):
    """As `encoding._gradient_scatter`, each row's updates summed in a fixed order."""
    total = jnp.zeros((grid.rows, grid.features), cotangent.dtype)
    xyz = encoding._unit(positions)
    for level in range(len(grid.resolutions)):
        columns = slice(level * grid.features, (level + 1) * grid.features)
        ids, weights = encoding._corners(grid, level, xyz)
        rows = jnp.concatenate(ids)
        updates = jnp.concatenate([w[:, None] * cotangent[:, columns] for w in weights])
        order = jnp.argsort(rows, stable=True)
        total += jax.ops.segment_sum(
            updates[order], rows[order], grid.rows, indices_are_sorted=True
        )
    return total


def main() -> None:
    """Command line."""
    grid = encoding.hash_grid(
        num_levels=8,
        features=2,
        log2_table_size=15,
        min_resolution=16,
        max_resolution=256,
    )
    keys = jax.random.split(jax.random.key(0))
    positions = jax.random.uniform(keys[0], (POINTS, 3), minval=-1.0)
    cotangent = jax.random.normal(keys[1], (POINTS, grid.width))
    forms = {
        "serial loop": encoding._gradient_loop,
        "scatter-adds": encoding._gradient_scatter,
        "sorted sums": gradient_sorted,
    }
    jitted = {
        name: jax.jit(lambda x, c, form=form: form(grid, x, c))
        for name, form in forms.items()
    }
    first = jitted["serial loop"](positions, cotangent)
    for name, form in jitted.items():
        off = jnp.abs(form(positions, cotangent) - first).max()
        assert off < 1e-4, f"{name} differs by {off}"
    calls = {
        name: lambda form=form: jax.block_until_ready(form(positions, cotangent))
        for name, form in jitted.items()
    }
    spent = median_cpu_ms(calls, rounds=5)
    base = spent["serial loop"]
    rows = [[name, f"{t:.1f} ms", f"{t / base:.1f}"] for name, t in spent.items()]
    print(table(["formulation", "CPU time", "of the loop's"], rows))
    print(f"\n{POINTS} points, 8 levels of 2 features; {machine()}")


if __name__ == "__main__":
    main()
