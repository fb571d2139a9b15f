# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded prior on the Toybox.

  python -m vsd_jax.toybox.train --config=configs/toybox_prior.py \
      --config.data=DATA --workdir=RUN

The same command resumes. RUN/prior is an ordinary diffusers-format folder with the
averaged weights, RUN/samples holds sheets, RUN/metrics.jsonl the loss.
"""

import functools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from absl import app, flags
from flax import traverse_util
from ml_collections import config_flags
from rich.progress import Progress

from vsd_jax.diffusion import camera_input
from vsd_jax.diffusion import noise as diffusion
from vsd_jax.program.folder import paths
from vsd_jax.program.prior import (
    diffusion_prior,
    refined,
    schedule,
    text_tower,
    weights,
)
from vsd_jax.program.terminal import process
from vsd_jax.program.terminal.errors import ConfigError, as_sentences
from vsd_jax.toybox import batches, prior_files, sheets
from vsd_jax.toybox.text import vocabulary
from vsd_jax.trees import global_norm
from vsd_jax.types import PyTree


@flax.struct.dataclass(kw_only=True)
class TrainState:
    """Parameters `{"unet", "text"}`, their running average, optimizer and step."""

    params: PyTree
    average: PyTree
    opt_state: PyTree
    step: jax.Array


def make_optimizer(config: Mapping[str, Any]) -> optax.GradientTransformation:
    """AdamW, clipped by global norm: warm-up, constant rate, linear decay at the end.

    Unlike a cosine, a constant rate lets `num_steps` change while the run goes on.
    """
    peak, total, warmup = (
        config["learning_rate"],
        config["num_steps"],
        config["warmup_steps"],
    )
    decay = max(1, int(config["decay_fraction"] * total))
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warmup),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, config["final_fraction"] * peak, decay),
        ],
        [warmup, total - decay],
    )
    return optax.chain(
        optax.clip_by_global_norm(config["max_grad_norm"]),
        optax.adamw(schedule, b2=0.99, weight_decay=config["weight_decay"]),
    )


def weighted_x0_loss(
    x0_pred: jax.Array, x0: jax.Array, sigma_t: jax.Array, floor: float
) -> jax.Array:
    """Mean of |x0_pred - x0|^2 / max(sigma_t^2, floor).

    With v = (alpha_t x_t - x_0) / sigma_t this is the v-loss (arXiv:2202.00512) of a
    network that outputs x_0, with its weight bounded at small sigma_t.

    Args:
      x0_pred: [B, h, w, c].
      x0: [B, h, w, c].
      sigma_t: [B, 1, 1, 1].
      floor: of sigma_t^2.
    """
    return jnp.mean(jnp.square(x0_pred - x0) / jnp.maximum(sigma_t**2, floor))


def relative_x0_loss(
    x0_pred: jax.Array, x0: jax.Array, sigma_t: jax.Array, config: Mapping[str, Any]
) -> jax.Array:
    """Mean of |x0_pred - x0|^2 / e, e the error that is to be expected at sigma_t.

    Every noise level then counts alike: e = `error_scale` (sigma_t / alpha_t)^(2
    `error_power`), at most `error_limit`, a fit to what a trained prior leaves.

    Args:
      x0_pred, x0, sigma_t: as in `weighted_x0_loss`.
      config: `configs/toybox_prior.py`.
    """
    ratio = sigma_t**2 / jnp.maximum(1.0 - sigma_t**2, 1e-8)
    expected = config["error_scale"] * ratio ** config["error_power"]
    expected = jnp.minimum(expected, config["error_limit"])
    return jnp.mean(jnp.square(x0_pred - x0) / expected)


def trained_part(params: PyTree, train_only: str) -> PyTree:
    """Of `{"unet", "text"}` all (""), or the refining head alone ("refine")."""
    if train_only:
        return {"unet": {train_only: params["unet"][train_only]}}
    return params


def _replaced(params: PyTree, part: PyTree) -> PyTree:
    """`params` with the leaves that `part` has replaced by its own."""
    if not isinstance(part, Mapping):
        return part
    return {
        name: _replaced(value, part[name]) if name in part else value
        for name, value in params.items()
    }


def _slower(updates: PyTree, config: Mapping[str, Any]) -> PyTree:
    """The updates of text tower and U-Net, but for what is new, times their rates."""

    def rate(path: tuple[str, ...]) -> float:
        if camera_input.PARAMS in path:
            return config["camera_rate"]
        if "refine" in path:
            return 1.0
        return config["text_rate"] if path[0] == "text" else config["unet_rate"]

    flat = traverse_util.flatten_dict(updates)
    return traverse_util.unflatten_dict({p: rate(p) * u for p, u in flat.items()})


def make_train_step(config, unet_fn, text_fn, alphas_cumprod):
    """`step(state, data) -> (state, metrics)`, jitted; data is a `TrainingSet`."""
    optimizer = make_optimizer(config)

    def loss_fn(params, x0, ids, camera, key):
        noise_key, t_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, x0.shape)
        t = batches.stratified_t(t_key, len(x0), len(alphas_cumprod), config["t_power"])
        noisy = diffusion.add_noise(x0, noise, t, alphas_cumprod)
        context = {"text": text_fn(params["text"], ids), "camera": camera}
        x0_pred = unet_fn({"unet": params["unet"]}, noisy, t, context)
        _, sigma_t = diffusion.alpha_sigma(t, alphas_cumprod, ndim=x0.ndim)
        if config["refine_channels"]:
            return relative_x0_loss(x0_pred, x0, sigma_t, config)
        return weighted_x0_loss(x0_pred, x0, sigma_t, config["sigma2_floor"])

    def part_loss(part, params, *data):
        return loss_fn(_replaced(params, part), *data)

    def step_fn(state, data):
        # Of seed and step alone: a resumed training sees what an undisturbed one sees.
        key = jax.random.fold_in(jax.random.key(config["seed"]), state.step)
        batch_key, key = jax.random.split(key)
        images, *rest = batches.draw_batch(data, batch_key, config)
        x0 = diffusion_prior.patchify(images, config["patch"])
        part = trained_part(state.params, config["train_only"])
        loss, grads = jax.value_and_grad(part_loss)(part, state.params, x0, *rest, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, part)
        updates = _slower(updates, config)
        params = _replaced(state.params, optax.apply_updates(part, updates))
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(config["ema_decay"], (1.0 + count) / (10.0 + count))
        average = optax.incremental_update(params, state.average, 1.0 - decay)
        metrics = {"loss": loss, "grad_norm": global_norm(grads)}
        new = TrainState(
            params=params, average=average, opt_state=opt_state, step=state.step + 1
        )
        return new, metrics

    return jax.jit(step_fn, donate_argnums=0)


def init_params(config, models: sheets.Models) -> PyTree:
    """Random parameters of U-Net and text tower, or those of `config.init_from`.

    What the folder lacks begins anew: the refining head, which is without effect at
    first, and the embeddings of words that its tokenizer does not have.
    """
    unet_key, text_key = jax.random.split(jax.random.key(config["seed"]))
    inits = {
        "unet": functools.partial(models.unet_init, unet_key),
        "text": functools.partial(models.text_init, text_key),
    }
    if not config["init_from"]:
        return {name: jax.jit(init)() for name, init in inits.items()}
    folder, params = paths.expand(config["init_from"], "init_from"), {}
    for name, part in (("unet", "unet"), ("text", "text_encoder")):
        shapes = jax.eval_shape(inits[name])
        found = weights.load_params(
            weights.find_files(folder / part),
            _stored_shapes(folder, part, shapes),
            dtype=jnp.float32,
            component=part,
        )
        missing = [key for key in shapes if key not in found]
        # The whole initialisation takes minutes to compile.
        fresh = jax.jit(lambda init=inits[name], new=missing: _picked(init(), new))()
        params[name] = _extended(found, shapes) | fresh
    return params


def _stored_shapes(folder: Path, part: str, shapes: PyTree) -> PyTree:
    """Of `shapes`, what a folder of an earlier training has, with its vocabulary."""
    config = diffusion_prior.read_config(folder / part, "config.json")
    if part == "unet":
        if not refined.is_refined(config):
            shapes = _without(shapes, "refine")
        if not refined.has_camera(config):
            shapes = _without(shapes, camera_input.PARAMS)
        return shapes

    def stored(path, leaf):
        if path[-1].key != "embedding" or path[-2].key != "token_embedding":
            return leaf
        return jax.ShapeDtypeStruct((config["vocab_size"], leaf.shape[1]), leaf.dtype)

    return jax.tree_util.tree_map_with_path(stored, shapes)


def _without(tree: Mapping, name: str) -> dict:
    return {key: value for key, value in tree.items() if key != name}


def _picked(tree: Mapping, names: list[str]) -> dict:
    return {name: tree[name] for name in names}


def _extended(found: PyTree, shapes: PyTree) -> PyTree:
    """`found`, with the mean of the rows for each row that it lacks."""

    def extend(leaf, shape):
        lacking = shape.shape[0] - leaf.shape[0]
        more = jnp.broadcast_to(leaf.mean(0), (lacking, *leaf.shape[1:]))
        return jnp.concatenate([leaf, more]) if lacking else leaf

    return jax.tree.map(extend, found, {name: shapes[name] for name in found})


def save_prior(folder: Path, params: PyTree) -> None:
    """Writes float16 weights into the diffusers-format folder."""
    for name, part in (("unet", "unet"), ("text", "text_encoder")):
        stem, _ = weights.COMPONENTS[part]
        weights.save_params(folder / part / f"{stem}.safetensors", params[name])


def make_models(folder: Path) -> sheets.Models:
    """The networks that the configurations in `folder` describe (no weights)."""
    unet_json = diffusion_prior.read_config(folder / "unet", "config.json")
    text_json = diffusion_prior.read_config(folder / "text_encoder", "config.json")
    schedule_json = diffusion_prior.read_config(
        folder / "scheduler", "scheduler_config.json"
    )
    text_init, text_fn = text_tower.make_text_encoder(text_json)
    length = text_json["max_position_embeddings"]
    model, _ = diffusion_prior.make_model(
        unet_json, schedule_json, jnp.float32, length, tell_camera=True
    )
    size, channels = unet_json["sample_size"], unet_json["in_channels"]
    return sheets.Models(
        latent_shape=(size, size, channels),
        unet_init=diffusion_prior.unet_init(unet_json, length),
        unet_fn=model.apply,
        text_init=text_init,
        text_fn=text_fn,
        tokenize=text_tower.load_tokenizer(folder / "tokenizer"),
        alphas_cumprod=schedule.noise_schedule(schedule_json),
    )


def train(config: Mapping[str, Any], workdir: Path) -> Path:
    """Trains to `config.num_steps`, resuming what `workdir` holds.

    Returns:
      The diffusers-format folder with the averaged weights.
    """
    data = config["data"] and str(paths.expand(config["data"], "config.data"))
    data = batches.open_dataset(data)
    folder = workdir / "prior"
    prior_files.write_folder(folder, config, [*vocabulary(), ","])
    models = make_models(folder)
    params = init_params(config, models)
    state = TrainState(
        params=params,
        average=jax.tree.map(jnp.array, params),
        opt_state=make_optimizer(config).init(
            trained_part(params, config["train_only"])
        ),
        step=jnp.zeros((), jnp.int32),
    )
    manager = ocp.CheckpointManager(
        (workdir / "checkpoints").absolute(),
        options=ocp.CheckpointManagerOptions(max_to_keep=2),
    )
    if manager.latest_step() is not None:
        restore = ocp.args.StandardRestore(state)
        state = manager.restore(manager.latest_step(), args=restore)
    step_fn = make_train_step(
        config, models.unet_fn, models.text_fn, models.alphas_cumprod
    )
    sampler = sheets.make_sampler(models, num_steps=20, guidance_scale=3.0)

    def after(state: TrainState, step: int) -> None:
        last = step == config["num_steps"]
        if step % config["save_every"] == 0 or last:
            manager.save(step, args=ocp.args.StandardSave(state))
            # The next step donates these buffers: the write must not outlive them.
            manager.wait_until_finished()
            save_prior(folder, state.average)
        if step % config["sample_every"] == 0 or last:
            sheet = workdir / "samples" / f"step_{step:06d}.png"
            sheets.save_sheet(sheet, sampler, state.average, models)

    examples = batches.training_set(data, models.tokenize, config["hard_kinds"])
    log = workdir / "metrics.jsonl"
    _loop(config, state, lambda s: step_fn(s, examples), after=after, log=log)
    return folder


def _loop(config, state, step_fn, *, after, log: Path) -> None:
    """Runs the steps, which an accelerator works off behind the host."""
    start, total = int(state.step), config["num_steps"]
    losses: list[Any] = []
    began = time.time()
    with Progress() as progress, open(log, "a") as file:
        task = progress.add_task("training the prior", total=total, completed=start)
        for step in range(start + 1, total + 1):
            state, metrics = step_fn(state)
            losses.append(metrics["loss"])
            if step % config["log_every"] == 0:
                loss = _mean_loss(losses, step)
                losses.clear()
                record = {"step": step, "loss": loss, "seconds": time.time() - began}
                file.write(json.dumps(record) + "\n")
                file.flush()
                progress.update(task, description=f"loss {loss:.4f}", completed=step)
            after(state, step)


def _mean_loss(losses: list[Any], step: int) -> float:
    loss = float(np.mean(jax.device_get(losses)))
    if not np.isfinite(loss):
        raise FloatingPointError(f"The loss at step {step} is {loss}.")
    return loss


def define(values: flags.FlagValues) -> flags.FlagValues:
    """Defines the flags in `values`, and returns it."""
    about, options = "configs/toybox_prior.py", {"flag_values": values}
    config_flags.DEFINE_config_file("config", None, about, **options)
    flags.DEFINE_string("workdir", "", "Folder of the training (resumes).", **options)
    return values


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the flags, for `absl.app.run`; whatever is wrong with them in words."""
    try:
        rest = values(list(argv))
        dict(values.config or {})  # a file that is not there fails when it is used
    except (flags.Error, AttributeError, TypeError, ValueError, OSError) as error:
        line = str(error).strip().replace("\\n", "\n").splitlines()[-1]
        raise ConfigError(line.replace("?'", "?")) from error
    if values.config and values.workdir:
        return rest
    raise ConfigError("--config or --workdir is missing; see --help.")


def main(argv: list[str]) -> None:
    """Command line."""
    del argv
    process.reuse_freed_memory()
    workdir = paths.expand(flags.FLAGS.workdir, "--workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    folder = train(flags.FLAGS.config.to_dict(), workdir)
    print(f"prior written to {folder}")


if __name__ == "__main__":
    define(flags.FLAGS)
    with as_sentences():
        app.run(main, flags_parser=parse)
