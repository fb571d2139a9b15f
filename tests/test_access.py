# SPDX-License-Identifier: Apache-2.0
"""The rules of `benchmarks/access.py`, each on an example that must fail."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import export

from benchmarks import access
from vsd_jax.scene.nerf import encoding, sampling

IDS = jnp.array([0, 3, 3, 1])
TABLE, ROWS = jnp.ones((8, 2)), jnp.ones((4, 2))


def faults(function, *arguments, platform="cuda") -> list[str]:
    exported = export.export(jax.jit(function), platforms=[platform])(*arguments)
    return access.slow_accesses(exported.mlir_module())


SLOW = {
    "combines by multiply": (lambda x, y: x.at[IDS].multiply(y), TABLE, ROWS),
    "combines bf16 at indices that may meet": (
        lambda x, y: x.at[IDS].add(y),
        TABLE.astype("bfloat16"),
        ROWS.astype("bfloat16"),
    ),
    "scatter: single numbers": (lambda x, y: x.at[IDS, 1].add(y[:, 0]), TABLE, ROWS),
    "gather: single numbers": (lambda x: x[IDS, 1], TABLE),
}
FAST = {
    "rows that meet": (lambda x, y: x.at[IDS].add(y), TABLE, ROWS),
    "16 bits that do not meet": (
        lambda x, y: x.at[IDS].add(y, unique_indices=True),
        TABLE.astype("bfloat16"),
        ROWS.astype("bfloat16"),
    ),
    "replaced": (lambda x, y: x.at[IDS].set(y), TABLE, ROWS),
    "rows": (lambda x: x[IDS], TABLE),
    "numbers of a vector": (lambda x: x[IDS], jnp.ones(8)),
    "columns": (lambda x: x[:, IDS], jnp.ones((3, 8))),
}


@pytest.mark.parametrize("why", SLOW)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_slow_forms_are_found(why, platform):
    (found,) = faults(*SLOW[why], platform=platform)
    assert why in found and "tensor<" in found


@pytest.mark.parametrize("name", FAST)
def test_other_forms_are_not(name):
    assert not faults(*FAST[name])


def test_scatters_of_several_results_are_found():
    # As XLA prints it; JAX makes none by itself.
    text = """
    %1:2 = "stablehlo.scatter"(%a, %b, %i, %u, %v) <{unique_indices = true}> ({
    ^bb0(%x: tensor<f32>, %y: tensor<i32>):
      stablehlo.return %x, %y : tensor<f32>, tensor<i32>
    }) : (tensor<8xf32>, tensor<8xi32>, tensor<4x1xi32>, tensor<4xf32>, tensor<4xi32>)\
 -> (tensor<8xf32>, tensor<8xi32>)
"""
    (found,) = access.slow_accesses(text)
    assert "several results" in found


def test_serial_loop_of_a_cpu_is_found():
    grid = encoding.hash_grid(
        num_levels=1,
        features=2,
        log2_table_size=12,
        min_resolution=15,
        max_resolution=15,
    )
    given = (jnp.zeros((9, 3)), jnp.ones((9, 2)))
    (found,) = faults(functools.partial(encoding._gradient_loop, grid), *given)
    assert found.startswith("serial loop") and "4096x2" in found
    assert not faults(functools.partial(encoding._gradient_scatter, grid), *given)
    assert not faults(encoding._table_gradient(grid), *given)


def test_what_stands_in_for_an_operation_of_the_backend_is_not_looked_at():
    # As jax 0.12 exports a cumulative sum.
    text = """
  func.func public @main(%arg0: tensor<343xi32>) -> tensor<343xi32> {
    %0 = stablehlo.composite "chlo.scan" %arg0 {decomposition = @chlo.scan.impl}
  } loc(#loc)
  func.func private @chlo.scan.impl(%arg0: tensor<343xi32>) -> tensor<343xi32> {
    %3 = stablehlo.while(%iterArg = %c_1) {
      %8 = stablehlo.dynamic_update_slice %a, %7, %i : (tensor<343xi32>,\
 tensor<1xi32>, tensor<i64>) -> tensor<343xi32>
    }
  } loc(#loc8)
"""
    assert not access.slow_accesses(text)
    assert access.slow_accesses(text.replace("decomposition", "calls"))
    assert not faults(jnp.cumsum, jnp.ones(343, jnp.int32))


def test_importance_samples_are_not_gathered_one_by_one():
    given = (jnp.ones((2, 5)), jnp.ones((2, 4)), jnp.ones((2, 3)))
    assert not faults(sampling.importance, *given)
    columns = jnp.stack([IDS, IDS])
    assert faults(lambda x, i: jnp.take_along_axis(x, i, axis=1), given[0], columns)
