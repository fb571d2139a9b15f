# SPDX-License-Identifier: Apache-2.0
"""One command that measures everything on the accelerator that is here.

  python -m benchmarks.accelerator --out=runs/accelerator [--size tiny] [--parts step]
      [--seconds 540] [--no-torch]

One JSON file a part in `--out`: the same command goes on with those that are missing,
also after it was cut off, and none is begun when `--seconds` are over. A part that
fails is noted and does not end the others; delete its file to try it again. Where
PyTorch is installed, each part that it has too is measured on the same card right after
ours (`accelerator_torch.py`). At the end all of `--out` as one table, `table.md`, and
`parts.png`. `--size=tiny` runs the same parts in little, on a CPU.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs room
if "--size=tiny" in sys.argv:  # which compiles, and computes next to nothing
    _flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = _flags.strip()

import jax  # noqa: E402

from benchmarks import accelerator_parts, measure, sd_models  # noqa: E402
from vsd_jax.program.folder import writer  # noqa: E402
from vsd_jax.program.terminal import process  # noqa: E402

HEADER = ["part", "ms", "PyTorch ms", "of PyTorch's", "GB", "TFLOP", "of the peak"]
HEADER += ["estimate ms", "compile s"]
MISSING = "not measured"


def with_torch(part: str, size: str) -> dict[str, float]:
    """Milliseconds of PyTorch by the name of our row; {} where it has no such part."""
    if importlib.util.find_spec("torch") is None:
        return {}
    from benchmarks import accelerator_torch

    return accelerator_torch.measure(part, size)


def run_part(part: str, size: str, *, torch: bool) -> dict:
    """Measures one part; what fails is in the result."""
    begin = time.perf_counter()
    found = {"part": part, "size": size, "rows": []}
    found |= {"device": jax.local_devices()[0].device_kind, "jax": jax.__version__}
    found |= {"python": platform.python_version(), "machine": measure.machine()}
    try:
        for row in accelerator_parts.PARTS[part](size):
            found["rows"].append(row)
            print(f"{part}: {row['name']}: {row.get('ms', 0):.1f} ms", flush=True)
        theirs = with_torch(part, size) if torch else {}
        for row in found["rows"]:
            if row["name"] in theirs:
                row["torch_ms"] = theirs[row["name"]]
    except Exception as error:  # out of memory, a kernel that is not there: the next
        found["error"] = f"{type(error).__name__}: {error}"[:2000]
        traceback.print_exc()
    return found | {"seconds": time.perf_counter() - begin}


def read(out: Path) -> dict[str, dict]:
    """What is in `out`, by part, in the order of `PARTS`."""
    files = ((part, out / f"{part}.json") for part in accelerator_parts.PARTS)
    return {part: json.loads(file.read_text()) for part, file in files if file.exists()}


def cells(row: dict) -> list[str]:
    """A row of the table; `MISSING` where no number is."""

    def show(value, form=".1f"):
        return MISSING if not value else format(value, form)

    ms, theirs, card = row.get("ms"), row.get("torch_ms"), accelerator_parts.card()
    rate = 1e-9 * row.get("flops", 0) / ms if ms else 0  # TFLOP / s
    return [
        row["name"],
        row.get("note") or show(ms),
        show(theirs),
        show(theirs and ms / theirs, ".2f"),
        show(1e-9 * row.get("bytes", 0), ".2f"),
        show(1e-12 * row.get("flops", 0), ".3g"),
        show(rate / card.half if card else 0, ".0%"),
        show(row.get("estimate_ms")),
        show(row.get("compile_s")),
    ]


def report(out: Path) -> str:
    """Writes `table.md` and `parts.png`; returns the table."""
    found = read(out)
    rows, lines = [], []
    for part, content in found.items():
        rows += [cells(row) for row in content["rows"]]
        if "error" in content:
            rows.append([f"{part} FAILED", *[MISSING] * (len(HEADER) - 1)])
            lines.append(f"- {part}: {content['error'].splitlines()[0]}")
    missing = accelerator_parts.PARTS.keys() - found.keys()
    rows += [[part, *[MISSING] * (len(HEADER) - 1)] for part in sorted(missing)]
    kinds = {content["device"] for content in found.values()}
    head = f"{', '.join(sorted(kinds))}; jax {jax.__version__}; {measure.machine()}"
    text = "\n".join([head, "", measure.table(HEADER, rows), "", *lines]) + "\n"
    writer.write_bytes(out / "table.md", text.encode())
    _plot(out / "parts.png", found)
    return text


def _plot(file: Path, found: dict[str, dict]) -> None:
    """Milliseconds of all parts, ours and PyTorch's."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    rows = [r for content in found.values() for r in content["rows"] if r.get("ms")]
    fig, axis = plt.subplots(figsize=(8, 1 + 0.3 * len(rows)), layout="constrained")
    places = range(len(rows))[::-1]
    axis.barh(places, [r["ms"] for r in rows], 0.4, align="edge", label="ours")
    theirs = [r.get("torch_ms", 0) for r in rows]
    axis.barh(places, theirs, -0.4, align="edge", label="PyTorch")
    axis.set_yticks(places, [r["name"] for r in rows])
    axis.set_xscale("log")
    axis.set_xlabel("ms")
    axis.legend()
    fig.savefig(file)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Measures what is missing and prints the table of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--size", choices=sd_models.SIZES, default="full")
    parts = list(accelerator_parts.PARTS)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seconds", type=float, default=540.0, help="then none begins")
    parser.add_argument("--no-torch", action="store_true")
    args = parser.parse_args(arguments)
    process.enable_compilation_cache()
    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    for part in args.parts:
        file = args.out / f"{part}.json"
        if file.exists() or time.perf_counter() - begin > args.seconds:
            continue
        writer.write_json(file, run_part(part, args.size, torch=not args.no_torch))
    print(report(args.out))


if __name__ == "__main__":
    main()
