# SPDX-License-Identifier: Apache-2.0
"""How much memory does loading Stable Diffusion 2.1's U-Net take, beside its weights?

  python -m benchmarks.loading [--forms float32 float16 sharded msgpack]
      [--dtypes float32 bfloat16] [--size full]

Writes random weights of the true shapes to a temporary folder (3.5 GB at a time) and
loads them in a process of its own for each form. Counted is how far the largest
resident memory while loading lies above the resident memory before, by the size of
the weights in the wanted dtype. Resident memory includes pages of mapped files, so
that a file that is mapped and read counts as well. Prints Markdown.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax.numpy as jnp
import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from benchmarks import measure, sd_models
from vsd_jax.program.prior import diffusion_prior, weights
from vsd_jax.program.terminal import process

FORMS = {
    "float32": "safetensors, float32",
    "float16": "safetensors, float16",
    "sharded": "safetensors, float32, 4 shards",
    "msgpack": "Flax msgpack, float32",
}


def shapes_of(size: str):
    """The U-Net's parameter tree as shapes."""
    unet = diffusion_prior.make_unet(sd_models.unet_config(size), jnp.float32)
    return diffusion_prior.unet_shapes(unet, sd_models.text_shape(size)[0])


def write(folder: pathlib.Path, form: str, size: str) -> None:
    """Writes random weights in one of `FORMS`."""
    folder.mkdir(parents=True)
    block = np.random.default_rng(0).standard_normal(1 << 20, np.float32)
    tree = {
        path: np.resize(block, leaf.shape)  # drawing them all takes a minute
        for path, leaf in flatten_dict(shapes_of(size)).items()
    }
    stem = "diffusion_pytorch_model"
    if form == "msgpack":
        content = serialization.msgpack_serialize(unflatten_dict(tree), in_place=True)
        (folder / "diffusion_flax_model.msgpack").write_bytes(content)
        return
    dtype = np.float16 if form == "float16" else np.float32
    tensors = {
        weights.torch_name(path): np.ascontiguousarray(
            weights.to_torch_layout(path, value).astype(dtype)
        )
        for path, value in tree.items()
    }
    if form != "sharded":
        save_file(tensors, folder / f"{stem}.safetensors")
        return
    where = {}
    for part in range(4):
        file, names = f"{stem}-{part}.safetensors", list(tensors)[part::4]
        save_file({name: tensors[name] for name in names}, folder / file)
        where |= dict.fromkeys(names, file)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))


def load(folder: pathlib.Path, dtype: str, size: str) -> dict:
    """Loads the weights; bytes of them, how far memory grew above, seconds."""
    process.reuse_freed_memory()  # as the program does
    shapes = shapes_of(size)
    jnp.zeros(3, dtype).block_until_ready()
    before = process.resident_bytes()
    measure.reset_peak()
    begin, cpu = time.perf_counter(), time.process_time()
    params = weights.load_params(
        weights.find_files(folder), shapes, dtype=jnp.dtype(dtype), component="unet"
    )
    leaves = [leaf.block_until_ready() for leaf in flatten_dict(params).values()]
    return {
        "weights": sum(leaf.nbytes for leaf in leaves),
        "grown": measure.peak_bytes() - before,
        "s": time.perf_counter() - begin,
        "cpu_s": time.process_time() - cpu,
    }


def in_own_process(*arguments: object) -> str:
    """Runs this program again; what it prints last."""
    command = [sys.executable, "-m", "benchmarks.loading", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return (done.stdout.splitlines() or [""])[-1]


def main() -> None:
    """Measures what is asked for and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sd_models.SIZES, default="full")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--work", nargs=3, help="what a process does (internal)")
    args = parser.parse_args()
    if args.work:
        what, folder, choice = args.work
        if what == "write":
            return write(pathlib.Path(folder), choice, args.size)
        return print(json.dumps(load(pathlib.Path(folder), choice, args.size)))
    print(measure.machine(), flush=True)
    rows = []
    for form in args.forms:
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary) / "unet"
            size = ("--size", args.size)
            in_own_process(*size, "--work", "write", folder, form)
            for dtype in args.dtypes:
                told = in_own_process(*size, "--work", "load", folder, dtype)
                found = json.loads(told)
                gb = [f"{found[name] / 1e9:.2f}" for name in ("weights", "grown")]
                ratio = f"{found['grown'] / found['weights']:.2f}"
                rows.append([FORMS[form], dtype, *gb, ratio, f"{found['cpu_s']:.0f}"])
                rows[-1].append(f"{found['s']:.0f}")
                print("<!--", *rows[-1], "-->", flush=True)
    head = ["file", "wanted", "weights, GB", "memory grew by, GB", "ratio", "CPU s"]
    print(measure.table([*head, "wall s"], rows))


if __name__ == "__main__":
    main()
