# SPDX-License-Identifier: Apache-2.0
"""Speed of the hash-grid NeRF's training step against a tuned PyTorch one.

  OMP_WAIT_POLICY=passive python -m benchmarks.nerf [--rounds 7] [--parts small full]

Needs the `[bench]` extra (torch). Checks first, in float64, that both compute the same
image and the same gradients; then times both in turn in this process (see
`benchmarks/measure.py`) and prints Markdown for `docs/performance.md`.
"""

import argparse
import os
import sys

if os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive":
    # Spinning OpenMP threads slow torch down up to 44-fold on shared cores; the
    # comparison would be worthless.
    sys.exit("Run with OMP_WAIT_POLICY=passive in the environment.")

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import measure, torch_nerf
from benchmarks.nerf_step import (
    make_grid,
    make_jax_loss,
    make_scene,
    make_update,
    random_params,
    wave_like,
)
from benchmarks.torch_nerf_step import make_torch_step, torch_inputs

SMALL = dict(size=64, samples=64, levels=8, log2_table=15, finest=512)
FULL = dict(size=32, samples=64, levels=16, log2_table=19, finest=2048)
SKIP = dict(occupancy_resolution=32, capacity=0.25)


def compile_step(work, particles=0, **choices):
    """The compiled donating step and its first arguments."""
    step, args = make_update(work, **choices)
    if particles:
        args = jax.tree.map(lambda x: jnp.stack([x] * particles), args)
        step = jax.vmap(step)
    jitted = jax.jit(step, donate_argnums=(0, 1))
    return jitted.lower(*args).compile(), args


def make_step(work, particles=0, **choices):
    """`step()`: forward, backward and Adam, in place; returns when done."""
    compiled, (params, moments, stats, key) = compile_step(work, particles, **choices)
    carry = [params, moments]

    def run():
        carry[0], carry[1], extras = compiled(*carry, stats, key)
        return jax.block_until_ready(extras)

    return run


def check_equality(work):
    """Largest differences of image and gradients in float64, relative to the largest.

    Raises:
      SystemExit: if the two programs do not compute the same.
    """
    with jax.enable_x64(True):
        scene = make_scene(work)
        params = jax.tree.map(lambda x: x.astype(jnp.float64), random_params(scene))
        value = jax.value_and_grad(
            make_jax_loss(scene, wave_like(work), train=False),
            has_aux=True,
        )
        (_, out), gradient = jax.jit(value)(params, {}, jax.random.key(0))
        rays, bounds, wave = torch_inputs(work, torch.float64)
        image, expected = torch_nerf.value_and_gradient(
            torch_nerf.flatten(params),
            rays,
            wave,
            grid=make_grid(work),
            bounds=bounds,
            num_samples=work["samples"],
        )
        got = torch_nerf.flatten(gradient) | {
            "image": np.asarray(out.rgb).reshape(-1, 3)
        }
        expected = expected | {"image": image}
        worst = {
            name: float(np.abs(got[name] - x).max() / np.abs(x).max())
            for name, x in expected.items()
        }
    if max(worst.values()) > 1e-9:
        sys.exit(f"The two programs differ: {worst}")
    return worst


def against_torch(name, work, bar, rounds):
    """Rows of the comparison with PyTorch and with our own dense step."""
    times = measure.median_cpu_ms(
        {
            "torch": make_torch_step(work),
            "dense": make_step(work),
            "skip": make_step(work, **SKIP),
            "linear": make_step(work, hidden=0, **SKIP),
        },
        rounds,
    )
    ms = {k: f"{v:.0f}" for k, v in times.items()}
    return [
        [f"{name}: tuned torch", ms["torch"], "1", ""],
        _row(f"{name}: ours, dense", times, "dense", "torch", bar),
        _row(f"{name}: ours, capacity 25 %", times, "skip", "dense", 0.40),
        [f"{name}: the same, linear decoder", ms["linear"], "", ""],
    ]


def _row(label, times, name, base, bar):
    ratio = times[name] / times[base]
    verdict = "yes" if ratio <= bar else "NO"
    return [
        label,
        f"{times[name]:.0f}",
        f"{ratio:.2f} of {base}",
        f"<= {bar:.2f}: {verdict}",
    ]


def scaling(rounds):
    """Rows of the scaling exponents and of the cost of particles."""
    base = SMALL | dict(size=32)
    axes = {
        "pixels": ([32, 64, 96], lambda s: base | dict(size=s), 2, 1.15),
        "samples a ray": ([16, 64, 256], lambda s: base | dict(samples=s), 1, 1.15),
        "rows a level": (
            [2**12, 2**14, 2**16],
            lambda s: base | dict(log2_table=s.bit_length() - 1),
            1,
            0.10,
        ),
    }
    rows = []
    for axis, (sizes, work_of, power, bar) in axes.items():
        times = measure.median_cpu_ms(
            {str(s): make_step(work_of(s)) for s in sizes}, rounds
        )
        slope = measure.exponent([s**power for s in sizes], list(times.values()))
        points = ", ".join(f"{s}: {t:.0f} ms" for s, t in times.items())
        verdict = "yes" if slope <= bar else "NO"
        rows.append([axis, points, f"{slope:.2f}", f"<= {bar:.2f}: {verdict}"])
    times = measure.median_cpu_ms(
        {str(n): make_step(SMALL, n, **SKIP) for n in (1, 4)}, rounds
    )
    ratio = times["4"] / times["1"]
    points = ", ".join(f"{n}: {t:.0f} ms" for n, t in times.items())
    verdict = "yes" if ratio <= 5.5 else "NO"
    rows.append(["particles", points, f"{ratio:.1f} x", f"<= 5.5 x: {verdict}"])
    return rows


def memory():
    """Temporary memory of the compiled steps, MB."""
    rows = []
    for name, choices in (("dense", {}), ("capacity 25 %", SKIP)):
        stats = compile_step(SMALL, **choices)[0].memory_analysis()
        megabytes = stats.temp_size_in_bytes / 1e6
        bar = "<= 150" if name == "dense" else ""
        rows.append([f"small, {name}", f"{megabytes:.0f}", bar])
    return rows


def compare(name, work, bar, rounds):
    """Prints the check of equality, then the comparison with PyTorch."""
    worst = max(check_equality(work | dict(size=16)).values())
    print(f"\nEquality in float64, {name}: {worst:.0e} of the largest value.\n")
    header = ["step (forward, backward, Adam)", "CPU ms", "ratio", "bar"]
    print(measure.table(header, against_torch(name, work, bar, rounds)), flush=True)


def main():
    """Runs the parts that are asked for and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--parts", nargs="+", default=["small", "full", "scaling", "memory"]
    )
    args = parser.parse_args()
    print(measure.machine(), f"jax {jax.__version__}, torch {torch.__version__}")
    if "small" in args.parts:
        compare("small", SMALL, 0.30, args.rounds)
    if "full" in args.parts:
        compare("full", FULL, 0.40, args.rounds)
    if "scaling" in args.parts:
        header = ["axis", "CPU ms", "exponent or ratio", "bar"]
        print("\n" + measure.table(header, scaling(max(args.rounds // 2, 3))))
    if "memory" in args.parts:
        header = ["XLA temporary memory", "MB", "bar"]
        print("\n" + measure.table(header, memory()))
    print("\n" + measure.machine())


if __name__ == "__main__":
    main()
