# SPDX-License-Identifier: Apache-2.0
"""The whole Stable Diffusion step as accelerators get it: lowered here, run nowhere.

  python -m benchmarks.lowering [--size full] [--dtypes float32 bfloat16]
      [--layouts one several sharded] [--platforms cuda tpu]

`jax.export` lowers the step of `configs/object.py:sd21` for a platform that is not
here. That needs shapes alone: no weight, no accelerator. What must not stand in a
program (a call back to Python, a double, a slow access: `access.py`) ends it with an
error. Several devices are the CPU's virtual ones. Prints Markdown for
`docs/sd_step.md`.
"""

import argparse
import os
import re
import sys
import time
from unittest import mock

_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):  # before jax is imported
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=2".strip()

import jax  # noqa: E402
from jax import export  # noqa: E402

from benchmarks import access, measure, sd_models, sd_ours  # noqa: E402
from vsd_jax import parallel  # noqa: E402

PLATFORMS = ("cuda", "tpu")
LAYOUTS = {
    "one": "one device",
    "several": "two particles on two devices (`pmap`)",
    "sharded": "one particle, prior over two devices (`num_shards=2`)",
}
CALLS = re.compile(r"custom_call\"?[ (]@?\"?([\w.$]+)|call_target_name = \"([^\"]+)")
FORBIDDEN = {"infeed", "outfeed", "send", "recv"}
DOUBLE = re.compile(r"[x<]f64\b")


def _spread(tree, shape: tuple[int, ...], skip: int = 0):
    """Shapes with the leading axes that a step on several devices has."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((*shape, *leaf.shape[skip:]), leaf.dtype),
        tree,
    )


def make_step(size: str, dtype: str, layout: str):
    """A jitted step of one of `LAYOUTS`, and the shapes of its arguments."""
    changes = {"prior.dtype": dtype}
    if layout == "several":
        changes |= {"num_particles": 2, "particles_per_step": 2, "num_devices": 2}
    elif layout == "sharded":
        changes |= {"num_shards": 2}
    _, run = sd_ours.build_run(size, **changes)
    state, step = jax.eval_shape(run.init), run.step
    arguments = (run.prior_params, run.prompts)
    if layout == "sharded":
        step = parallel.sharded_step(step, 2)
    elif layout == "several":
        # `jax.export` takes what `jit` made, and a pmap inside of one is the same.
        step = jax.jit(parallel.parallel_step(step))
        shared = {
            name: _spread(getattr(state, name), (2,))
            for name in ("score", "step", "key")
        }
        particles = _spread(state.particles, (2, 1), skip=1)
        state = state.replace(particles=particles, **shared)
        arguments = _spread(arguments, (2,))
    return step, (state, *arguments)


def lower(size: str, dtype: str, layout: str, platforms=PLATFORMS):
    """Exports the step for each platform.

    Yields:
      (platform, `jax.export.Exported`, seconds); tracing counts for the first.
    """
    # What is chosen by the backend must be what an accelerator would get.
    with mock.patch.object(jax, "default_backend", lambda: "gpu"):
        step, arguments = make_step(size, dtype, layout)
        for platform in platforms:
            begin = time.perf_counter()
            exported = export.export(step, platforms=[platform])(*arguments)
            yield platform, exported, time.perf_counter() - begin


def calls(text: str) -> set[str]:
    """Names of the functions outside of the program that it calls."""
    return {first or second for first, second in CALLS.findall(text)}


def faults(text: str) -> list[str]:
    """What must not stand in a lowered program (StableHLO text), each once."""
    found = sorted(name for name in calls(text) if "callback" in name.lower())
    found += sorted(FORBIDDEN & set(re.findall(r"\bstablehlo\.(\w+)", text)))
    return found + (["f64"] if DOUBLE.search(text) else [])


def rounded_products(text: str) -> list[str]:
    """Products of float32 factors that an accelerator may round: not HIGHEST."""
    return [
        line.strip()
        for line in text.splitlines()
        if re.search(r"stablehlo\.(dot_general|convolution)\b", line)
        and re.search(r"[x<]f32>", line)
        and "HIGHEST, HIGHEST" not in line
        and "#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>" not in line
    ]


def describe(
    dtype: str, layout: str, platform: str, exported: export.Exported, seconds: float
) -> list[str]:
    """A row of the table.

    Raises:
      SystemExit: if something stands in the program that must not.
    """
    text = exported.mlir_module()
    if found := faults(text) + access.slow_accesses(text):
        sys.exit(f"{platform}, {dtype}, {layout}: {found}")
    mib = len(exported.mlir_module_serialized) / 2**20
    row = [dtype, LAYOUTS[layout], platform, f"{seconds:.0f}", f"{mib:.2f}"]
    row += [f"{text.count(' = stablehlo.'):,}"]
    row += [", ".join(sorted(calls(text))) or "none", "none"]
    print("<!--", *row, "-->", flush=True)
    return row


def main() -> None:
    """Lowers what is asked for and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sd_models.SIZES, default="full")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--platforms", nargs="+", default=list(PLATFORMS))
    args = parser.parse_args()
    print(measure.machine(), f"jax {jax.__version__}", flush=True)
    pairs = [(dtype, layout) for dtype in args.dtypes for layout in args.layouts]
    rows = [
        describe(dtype, layout, *found)
        for dtype, layout in pairs
        for found in lower(args.size, dtype, layout, args.platforms)
    ]
    head = ["networks", "devices", "for", "s", "MiB", "operations", "foreign calls"]
    print(measure.table([*head, "callbacks, doubles"], rows))


if __name__ == "__main__":
    main()
