# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks/accelerator.py` measures of ours, each part by itself.

A part is a function of a size ("full" or "tiny") that gives rows: name, milliseconds,
bytes and floating point operations as the compiler of this device reports them, seconds
of compilation. Nothing is downloaded: weights are drawn by name (`sd_models.py`).
"""

import functools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import (
    accelerator_scenes,
    determinism,
    mesh_scenes,
    nerf_step,
    sd_models,
    sd_ours,
    sd_parts,
)
from vsd_jax.diffusion import attention
from vsd_jax.program.build import build, stages
from vsd_jax.program.devices import preflight
from vsd_jax.program.prior import diffusion_prior
from vsd_jax.program.settings import named
from vsd_jax.scene.nerf import encoding

Row = dict[str, object]
DTYPE = "bfloat16"
_ROUNDS = {"full": 5, "tiny": 1}
_EMPTY = {"prior": 0, "theta": 0, "phi": 0}
_TINY_JOB = tuple(
    f"--config.{setting}"
    for setting in (
        "num_steps=2",
        "eval.turntable_frames=2",
        "export.texture_size=0",
        "log.inside=False",
    )
)


def analyse(compiled: jax.stages.Compiled) -> Row:
    """Memory and arithmetic of a program as its compiler reports them."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    held += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    return {
        "bytes": held,
        "flops": cost.get("flops", 0.0),
        "traffic": cost.get("bytes accessed", 0.0),
    }


def estimate(row: Row, dtype: str) -> Row:
    """What preflight says of a program on this device, where its peaks are known."""
    if not (device := card()):
        return {}
    needs = preflight.Needs(
        **_EMPTY, memory=row["bytes"], flops=row["flops"], traffic=row["traffic"]
    )
    return {"estimate_ms": 1e3 * preflight.step_seconds(needs, device, dtype)}


def timed(
    name: str, function: Callable, args: tuple, size: str, dtype: str = "float32"
) -> Row:
    """Compiles a function and takes the median of some calls, milliseconds."""
    begin = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    row = {"name": name, "compile_s": time.perf_counter() - begin} | analyse(compiled)
    row |= estimate(row, dtype)
    spent = []
    for _ in range(1 + _ROUNDS[size]):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        spent.append(time.perf_counter() - begin)
    return row | {"ms": 1e3 * statistics.median(spent[1:])}


def timed_step(name: str, size: str, **changes: object) -> Row:
    """The program's whole step, with what preflight says of it on this device."""
    config, run = sd_ours.build_run(size, **{"prior.dtype": DTYPE} | changes)
    shapes, begin = jax.eval_shape(run.init), time.perf_counter()
    compiled = run.step.lower(shapes, run.prior_params, run.prompts).compile()
    row = {"name": name, "compile_s": time.perf_counter() - begin} | analyse(compiled)
    frozen = sd_ours.fill_frozen(run.prior_params)
    prompts, state, spent = sd_ours.fill_contexts(run.prompts), run.init(), []
    for _ in range(1 + _ROUNDS[size]):
        begin = time.perf_counter()
        state, metrics = jax.block_until_ready(compiled(state, frozen, prompts))
        spent.append(time.perf_counter() - begin)
    if int(np.sum(metrics["skipped"])):
        raise FloatingPointError(f"{name}: a step was not finite.")
    row |= estimate(row, DTYPE)
    stats = jax.local_devices()[0].memory_stats() or {}
    row["peak_bytes"] = stats.get("peak_bytes_in_use", 0)
    return row | {"ms": 1e3 * statistics.median(spent[1:])}


def card() -> preflight.Accelerator | None:
    """The device that this runs on, if its peaks are known.

    Of two that differ in memory alone, the one whose memory it has.
    """
    here = jax.local_devices()[0]
    kind = here.device_kind.replace(" lite", "e")
    words = set(re.split("[^A-Za-z0-9]+", kind))
    if words == {"TPU", "v5"}:
        words = {"TPU", "v5p"}
    found = []
    for name, device in preflight.ACCELERATORS.items():
        wanted = name.removesuffix("-1").split()
        if words.issuperset(wanted if wanted[0] == "TPU" else wanted[:1]):
            found.append(device)
    if not found or "PCIe" in words and "H100" in words:  # slower than the SXM's
        return None
    if len(found) == 1:
        return found[0]
    memory = ((here.memory_stats() or {}).get("bytes_limit") or 0) / 1e9
    return max([each for each in found if each.memory <= 1.2 * memory] or found[:1])


def step(size: str) -> Iterator[Row]:
    """`object.py:sd21`: 512 x 512, 64 + 32 samples, random weights of its shapes."""
    yield timed_step("whole step", size)


def particles(size: str) -> Iterator[Row]:
    """The same with more particles and views."""
    for views in (2, 4) if size == "full" else (2,):
        yield timed_step(f"step, {views} views", size, **{"vsd.views_per_step": views})
    if size == "full":
        many = {"num_particles": 8, "particles_per_step": 1}
        yield timed_step("step, one of 8 particles", size, **many)


def networks(size: str) -> Iterator[Row]:
    """The parts of the step: each with PyTorch's beside it (`accelerator_torch.py`)."""
    config, run = sd_ours.build_run(size, **{"prior.dtype": DTYPE})
    score, _ = build.make_score(config, run.prior, run.prior_params)
    phi = jax.eval_shape(score.init, jax.random.key(0), run.prior_params)
    given = jax.tree.map(jnp.asarray, sd_models.inputs(size))
    frozen = sd_ours.fill_frozen(run.prior_params)
    trained = sd_ours.fill_trained(phi)
    parts = sd_parts.make_networks(run.prior, score.model)
    for name in ("unet", "lora", "train", "vae"):
        needed = {sd_parts.NEEDS[name]: frozen[sd_parts.NEEDS[name]]}
        yield timed(name, parts[name], (needed, trained, given), size, DTYPE)
    scene = stages.make_scene(config, size=config.render.size)
    render = sd_parts.make_render(scene)
    yield timed("render", render, ({}, trained, given), size)


def attentions(size: str) -> Iterator[Row]:
    """Self-attention of the finest level: slices, XLA's, cuDNN's kernel."""
    shape = (10, 4096, 64) if size == "full" else (2, 1024, 8)
    inputs = tuple(jax.random.normal(jax.random.key(0), (3, *shape), DTYPE))

    def with_gradient(attend):
        def loss(inputs):
            return jnp.sum(attend(*inputs).astype(jnp.float32) ** 2)

        return jax.value_and_grad(loss)

    def whole(implementation, *inputs):
        heads = (x.swapaxes(0, 1)[None] for x in inputs)  # [1, N, heads, d]
        return jax.nn.dot_product_attention(*heads, implementation=implementation)

    forms = {"attention, slices": attention.self_attention}
    forms["attention, XLA"] = functools.partial(whole, "xla")
    if jax.default_backend() == "gpu":
        forms["attention, cuDNN"] = functools.partial(whole, "cudnn")
    for name, attend in forms.items():
        yield timed(name, with_gradient(attend), (inputs,), size, DTYPE)


def hash_grid(size: str) -> Iterator[Row]:
    """The grid's values and its gradient in three formulations of the same sums."""
    levels, rows, finest, points = (16, 19, 2048, 1 << 21)
    if size == "tiny":
        levels, rows, finest, points = 2, 8, 32, 256
    grid = encoding.hash_grid(
        num_levels=levels,
        features=2,
        log2_table_size=rows,
        min_resolution=16,
        max_resolution=finest,
    )
    keys = jax.random.split(jax.random.key(0), 3)
    positions = jax.random.uniform(keys[0], (points, 3), minval=-1.0)
    table = jax.random.normal(keys[1], (grid.rows, grid.features))
    wave = jax.random.normal(keys[2], (points, grid.width))
    encode = functools.partial(encoding.encode, grid=grid)
    yield timed("hash grid", encode, (table, positions), size)
    for name, form in {
        "gradient, scatter-adds": encoding._gradient_scatter,
        "gradient, sorted sums": determinism.gradient_sorted,
    }.items():
        form = functools.partial(form, grid)
        yield timed(f"hash grid: {name}", form, (positions, wave), size)


def mesh(size: str) -> Iterator[Row]:
    """Marching tetrahedra, rasteriser, geometry and texture at the paper's sizes."""
    resolution, pixels = (104, 512) if size == "full" else (6, 16)
    params, found, room = accelerator_scenes.surface(size)
    sizes = mesh_scenes.fit_view(found, pixels)

    def march(params):
        return mesh_scenes.march(params, resolution, room)

    def see(found):
        return mesh_scenes.see(found.vertices, found.faces, pixels, sizes)

    def loss(params):
        (rgb, mask), _ = mesh_scenes.draw(march(params), pixels, sizes)
        return jnp.mean((rgb - 0.5) ** 2) + jnp.mean(mask)

    yield timed("marching tetrahedra", march, (params,), size)
    yield timed("rasteriser", see, (found,), size)
    yield timed("geometry with gradient", jax.value_and_grad(loss), (params,), size)
    step, args = accelerator_scenes.texture_update(found, size)
    yield timed("texture step", step, args, size)


def nerf(size: str) -> Iterator[Row]:
    """A NeRF's step with Adam, dense, 2^19 rows a level, a million samples."""
    step, args = nerf_step.make_update(accelerator_scenes.NERF[size])
    yield timed("NeRF step", step, args, size)


def prior_training(size: str) -> Iterator[Row]:
    """A training step of the embedded prior's U-Net; its batch is not drawn anew."""
    if size == "full":
        prior, params, _ = diffusion_prior.load_prior("toybox")
        batch, text = 256, (16, 128)
    else:
        _, run = sd_ours.build_run(size)
        prior, params = run.prior, sd_ours.fill_frozen(run.prior_params)
        batch, text = 1, sd_models.text_shape(size)
    params = {"unet": params["unet"]}
    x0 = jax.random.normal(jax.random.key(0), (batch, *prior.latent_shape))
    t = jnp.arange(batch) % len(prior.alphas_cumprod)
    context = {"text": jnp.zeros((batch, *text))}
    tx = optax.adamw(1e-3)

    def step(params, state):
        def loss(params):
            return jnp.mean((prior.model.apply(params, x0, t, context) - x0) ** 2)

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    yield timed("prior training", step, (params, tx.init(params)), size)


def deterministic(size: str) -> Iterator[Row]:
    """The step with XLA's deterministic operations: a process of its own."""
    if jax.default_backend() != "gpu":
        yield {"name": "deterministic step", "note": "the flag is for GPUs"}
        return
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.accelerator", f"--size={size}"]
        command += [f"--out={folder}", "--parts", "step", "--no-torch"]
        environment = os.environ | {"XLA_FLAGS": flags}
        subprocess.run(command, check=True, env=environment)
        from benchmarks.accelerator import read

        (row,) = read(Path(folder))["step"]["rows"]
    yield row | {"name": "deterministic step"}


def job_estimate_ms(variant: str) -> Row:
    """All steps of a job by preflight: not its compilation, judging and report."""
    if not card():
        return {}
    config = named.make_config("object", variant)
    needs = preflight.measure(config)
    seconds = preflight.step_seconds(needs, card(), config.prior.dtype)
    return {"estimate_ms": 1e3 * config.num_steps * seconds}


def main_job(size: str) -> Iterator[Row]:
    """The program from a prompt to its report: 16 prompts, or one in seconds."""
    from benchmarks.main_job import PROMPTS

    variant, settings = "", ()
    if size == "tiny":
        variant, settings = "smoke", _TINY_JOB
    said = job_estimate_ms(variant)
    for prompt in PROMPTS if size == "full" else PROMPTS[:1]:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "vsd_jax.main", f"--workdir={folder}"]
            command += [f"--config=configs/object.py{variant and ':'}{variant}"]
            command += [f"--config.prompt={prompt.text()}", *settings]
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=2)  # stderr, also where replaced
            ms = 1e3 * (time.perf_counter() - begin)
            if not (Path(folder) / "report.html").exists():
                raise FileNotFoundError(f"{prompt.text()}: the run left no report.")
        yield {"name": f"main job, {prompt.text()}", "ms": ms} | said


PARTS: dict[str, Callable[[str], Iterator[Row]]] = {
    "attention": attentions,
    "hash_grid": hash_grid,
    "nerf": nerf,
    "mesh": mesh,
    "prior_training": prior_training,
    "step": step,
    "networks": networks,
    "particles": particles,
    "deterministic": deterministic,
    "main_job": main_job,
}
"""Those of a minute first: a card that is lent for a while may be taken back."""
