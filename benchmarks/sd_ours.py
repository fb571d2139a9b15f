# SPDX-License-Identifier: Apache-2.0
"""The program's Stable Diffusion step on random weights: whole, and part by part.

Built by `vsd_jax.program.build.build` from a folder of settings alone, as
`--mode=preflight` does; then every shape is filled with numbers
(`benchmarks/sd_models.py`). The score network shares the teacher's weights as its
frozen base (`score.path=""`).
"""

import pathlib
import sys
import tempfile
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from benchmarks import measure, sd_models
from configs import object as object_config
from vsd_jax.program.build import build
from vsd_jax.program.devices import preflight
from vsd_jax.program.prior import weights
from vsd_jax.program.settings import config as config_lib


def make_config(folder: pathlib.Path, size: str, **changes: object) -> ConfigDict:
    """`configs/object.py:sd21` on the networks of a size, with `changes`, validated."""
    sd_models.write_folder(folder, size)
    config = object_config.get_config("sd21")
    config.prior.path, config.score.path = str(folder), ""
    if size == "tiny":
        config.field.update(num_levels=2, log2_table_size=8, max_resolution=32)
        config.render.update(size=16, num_samples=8, num_fine=4, max_rays=128)
    config.update_from_flattened_dict(changes)
    return config_lib.validate(config)


def build_run(size: str, **changes: object) -> tuple[ConfigDict, build.Run]:
    """The configuration and its run, with shapes where weights would stand.

    Args:
      size: one of `sd_models.SIZES`.
      changes: keys of the configuration with other values, dots and all.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(pathlib.Path(folder), size, **changes)
        return config, build.build(config, load_weights=False)


def fill_frozen(shapes):
    """The frozen networks' parameters, one leaf after the other."""
    filled = {}
    for path, leaf in flatten_dict(shapes).items():
        component, *rest = path
        order = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(leaf.shape), (0,))
        kernel = path[-1] == "kernel"
        shape = tuple(leaf.shape[i] for i in order) if kernel else leaf.shape
        name = f"{component}.{weights.torch_name(tuple(rest))}"
        value = sd_models.weight(name, shape)
        value = weights.to_flax_layout(path, value, leaf.shape)
        filled[path] = jnp.asarray(np.ascontiguousarray(value), leaf.dtype)
    return unflatten_dict(filled)


def fill_trained(shapes):
    """LoRA and camera MLP, no longer at their start (where half the gradient is 0)."""
    flat = flatten_dict(shapes)
    return unflatten_dict(
        {
            path: jnp.asarray(sd_models.adapter(weights.torch_name(path), leaf.shape))
            for path, leaf in flat.items()
        }
    )


def fill_contexts(contexts):
    """Embedded prompts of a text encoder's size instead of zeros."""
    return {
        name: jnp.asarray(sd_models.normal(name, np.shape(value)))
        for name, value in contexts.items()
    }


def digest(tree) -> int:
    """A number that changes with any bit of any leaf."""
    value = 0
    for leaf in jax.tree.leaves(tree):
        value = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).reshape(-1), value)
    return value


def run_step(size: str, steps: int = 2, dtype: str = "float32") -> dict:
    """Compiles the step, makes the weights, takes `steps` steps and checks them.

    Args:
      size: one of `sd_models.SIZES`.
      steps: how many.
      dtype: of the networks' weights and activations, "float32" or "bfloat16".

    Returns:
      `needs` as preflight predicts, `compile_s`, `s` and `cpu_s` of each step, `peak`
      resident bytes during the steps, and the checks by name.
    """
    config, run = build_run(size, **{"prior.dtype": dtype})
    begin = time.perf_counter()
    abstract = jax.eval_shape(run.init)
    step = run.step.lower(abstract, run.prior_params, run.prompts).compile()
    report = {"compile_s": time.perf_counter() - begin}
    needs = preflight.needs_of(step, abstract, run.prior_params)
    frozen = fill_frozen(run.prior_params)
    contexts = fill_contexts(run.prompts)
    before, state = digest(frozen), run.init()
    # Copies: a view of the state would keep the step from reusing its buffers.
    start = jax.tree.map(np.array, _parts_of_state(state))
    times, cpu = [], []
    measure.reset_peak()
    for _ in range(steps):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        state, metrics = jax.block_until_ready(step(state, frozen, contexts))
        times.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - cpu_begin)
        print(f"step: {times[-1]:.0f} s", file=sys.stderr, flush=True)
    peak = measure.peak_bytes()
    end = jax.device_get(_parts_of_state(state))
    checks = {
        "finite": _finite(end) and _finite(jax.device_get(metrics)),
        "no particle skipped": bool(metrics["skipped"] == 0),
        "frozen weights unchanged": digest(frozen) == before,
    }
    for name, leaves in end.items():
        checks[f"changed: {name}"] = _changed(start[name], leaves)
    return (
        report
        | {"needs": needs._asdict(), "s": times, "cpu_s": cpu, "peak": peak}
        | checks
    )


def _parts_of_state(state) -> dict:
    """The parts that a step must move, each a list of arrays."""
    score = flatten_dict(state.score.params)
    parts = {
        "particles": state.particles.params,
        "particles' Adam moments": state.particles.opt_state,
        "LoRA up": [x for path, x in score.items() if path[-1] == "up"],
        "LoRA down": [x for path, x in score.items() if path[-1] == "down"],
        "camera MLP": score and state.score.params["camera"],
        "score network's Adam moments": state.score.opt_state,
    }
    return {name: jax.tree.leaves(tree) for name, tree in parts.items()}


def _finite(tree) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def _changed(old: list, new: list) -> bool:
    """Whether every array has an element that moved."""
    return all((a != b).any() for a, b in zip(old, new, strict=True))
