# SPDX-License-Identifier: Apache-2.0
"""One step at Stable Diffusion 2.1's size on random weights: does it run, how fast?

  OMP_WAIT_POLICY=passive python -m benchmarks.sd_step [--size full] [--rounds 2]
      [--parts unet lora train vae render] [--no-step] [--no-torch]
      [--dtype bfloat16]

First the program's whole step (`configs/object.py:sd21`): its checks, memory against
what `--mode=preflight` says, seconds. Then each part in turn with PyTorch
(`benchmarks/torch_sd.py`), one process after the other, so that no two hold their
weights at once; results are compared. Prints Markdown for `docs/sd_step.md`. Needs the
`[bench]` extra, 20 GB of memory and about half an hour on two cores; `--size=tiny` is
the same in little.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import measure, sd_models

PARTS = {
    "unet": "U-Net forward, batch 2",
    "lora": "LoRA forward, batch 1",
    "train": "LoRA forward and gradient",
    "vae": "VAE encoder and gradient",
    "render": "render and gradient",
}
TOLERANCE = 2e-3
"""Largest difference of two results in float32, as a share of the largest value."""


def work(kind: str, size: str, folder: pathlib.Path) -> dict:
    """What one process does: "step:float32", "ours:unet", "torch:unet" and so on."""
    side, _, part = kind.partition(":")
    if side == "torch":
        from benchmarks import torch_sd

        noise = np.load(folder / "noise.npy") if part == "vae" else None
        run = torch_sd.make_part(size, part, rank=4, noise=noise)
        report = {"compile_s": 0.0, "share": torch_sd.share(part)}
    else:
        from benchmarks import sd_ours, sd_parts
        from vsd_jax.program.terminal import process

        process.enable_compilation_cache()
        process.reuse_freed_memory()
        if side == "step":
            return _with_memory(sd_ours.run_step(size, dtype=part))
        if part == "vae":
            np.save(folder / "noise.npy", sd_parts.vae_noise(size))
        run, seconds = sd_parts.make_part(size, part)
        report = {"compile_s": seconds, "share": 1}
    measure.reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    out = run()
    report["s"] = time.perf_counter() - wall
    report["cpu_s"] = time.process_time() - cpu
    np.savez(folder / f"{side}-{part}.npz", **out)
    return _with_memory(report)


def _with_memory(report: dict) -> dict:
    """Adds the peak of the work and that of the process with compiling, bytes."""
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": measure.peak_bytes(), "whole": whole} | report


def start(kind: str, size: str, folder: pathlib.Path) -> dict:
    """Runs `work` in a process of its own.

    Raises:
      SystemExit: if it fails.
    """
    command = [sys.executable, "-m", "benchmarks.sd_step", f"--size={size}"]
    command += [f"--work={kind}", f"--folder={folder}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{kind} ended with status {done.returncode}: {done.stdout[-2000:]}")
    report = json.loads(done.stdout.splitlines()[-1])
    print(f"<!-- {kind}: {json.dumps(report)} -->", flush=True)
    return report


def difference(part: str, folder: pathlib.Path) -> str:
    """Largest difference between both sides' results, by their largest value.

    Raises:
      SystemExit: if it is above `TOLERANCE`: the two do not compute the same.
    """
    with np.load(folder / f"ours-{part}.npz") as ours:
        with np.load(folder / f"torch-{part}.npz") as theirs:
            worst = {
                k: float(np.abs(ours[k] - theirs[k]).max() / np.abs(theirs[k]).max())
                for k in theirs.files
            }
    if any(not value <= TOLERANCE for value in worst.values()):
        sys.exit(f"{part}: the two programs differ: {worst}")
    return f"{max(worst.values()):.0e}" if worst else ""


def compare(parts: list[str], sides: list[str], args) -> list[list[str]]:
    """Rows of the table of parts; the last is their sum."""
    reports = {(side, part): [] for side in sides for part in parts}
    for _ in range(args.rounds):
        for part in parts:
            for side in sides:
                report = start(f"{side}:{part}", args.size, args.folder)
                reports[side, part].append(report)
    rows, totals = [], dict.fromkeys(sides, 0.0)
    for part in parts:
        cells = {}
        for side in sides:
            found = reports[side, part]
            cpu = statistics.median(x["cpu_s"] * x["share"] for x in found)
            wall = statistics.median(x["s"] * x["share"] for x in found)
            peak = max(x["peak"] for x in found) / 1e9
            totals[side] += cpu
            cells[side] = (cpu, f"{cpu:.1f} ({wall:.1f})", f"{peak:.1f}")
        compiled = f"{max(x['compile_s'] for x in reports[sides[0], part]):.0f}"
        rows.append([PARTS[part], *_cells(cells, sides), compiled])
        if "torch" in sides:
            rows[-1].append(difference(part, args.folder))
    sums = {side: (total, f"{total:.1f}", "") for side, total in totals.items()}
    total = ["sum", *_cells(sums, sides)]
    return [*rows, total + [""] * (len(rows[0]) - len(total))]


def _cells(cells: dict, sides: list[str]) -> list[str]:
    texts = [text for side in sides for text in cells[side][1:]]
    if len(sides) == 1:
        return texts
    return [*texts, f"{cells['ours'][0] / cells['torch'][0]:.2f}"]


def describe_step(report: dict) -> str:
    """The step's memory, time and checks as Markdown."""
    needs, peak = report["needs"], report["peak"]
    predicted = needs["memory"] + needs["program"]
    checks = {k: v for k, v in report.items() if isinstance(v, bool)}
    lines = [
        f"- parameters of the frozen networks: {needs['prior'] / 1e6:.1f} M",
        f"- compiling: {report['compile_s']:.0f} s",
        f"- steps: {', '.join(f'{x:.0f}' for x in report['s'])} s of wall clock,"
        f" {', '.join(f'{x:.0f}' for x in report['cpu_s'])} s of CPU time",
        f"- resident memory: {peak / 1e9:.2f} GB at its peak in the steps"
        f" ({report['whole'] / 1e9:.2f} GB with compiling); preflight says"
        f" {predicted / 1e9:.2f} GB ({needs['memory'] / 1e9:.2f} GB of the step),"
        f" {predicted / peak:.2f} of it",
        *(f"- {name}: {'yes' if ok else 'NO'}" for name, ok in checks.items()),
    ]
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sd_models.SIZES, default="full")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the networks in the whole step; the parts are in float32",
    )
    parser.add_argument("--no-step", action="store_true")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--work", help="what this process does (used internally)")
    parser.add_argument("--folder", type=pathlib.Path)
    return parser.parse_args(arguments)


def main() -> None:
    """Runs what is asked for and prints Markdown."""
    args = parse()
    if args.work:
        return print(json.dumps(work(args.work, args.size, args.folder)))
    if os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive":
        # Spinning OpenMP threads slow torch down on shared cores (benchmarks/nerf.py).
        sys.exit("Run with OMP_WAIT_POLICY=passive in the environment.")
    print(measure.machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        args.folder = pathlib.Path(folder)
        if not args.no_step:
            print(describe_step(start(f"step:{args.dtype}", args.size, args.folder)))
        if args.parts:
            sides = ["ours"] if args.no_torch else ["ours", "torch"]
            header = [
                "part",
                *(f"{s}: {x}" for s in sides for x in ("CPU s (wall)", "GB")),
            ]
            header += (
                ["compile s"] if args.no_torch else ["ratio", "compile s", "differ"]
            )
            print("\n" + measure.table(header, compare(args.parts, sides, args)))
    print("\n" + measure.machine())


if __name__ == "__main__":
    main()
