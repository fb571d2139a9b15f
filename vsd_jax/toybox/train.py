# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded prior on the Toybox.

  python -m vsd_jax.toybox.train --config=configs/toybox_prior.py \
      --config.data=DATA --workdir=RUN

The same command resumes. RUN/prior is an ordinary diffusers-format folder with the
averaged weights, RUN/samples holds sheets, RUN/metrics.jsonl the loss.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from absl import app, flags
from ml_collections import config_flags
from rich.progress import Progress

from vsd_jax.diffusion import noise as diffusion
from vsd_jax.program.folder import paths
from vsd_jax.program.prior import diffusion_prior, schedule, text_tower, weights
from vsd_jax.program.terminal import process
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


def stratified_t(key: jax.Array, batch: int, num_t: int, power: float) -> jax.Array:
    """[B] int32, one timestep from each of B parts of [0, T) of equal probability.

    t / T = u^(1 / power): 1 is uniform, more prefers the noisy end, where alone the
    text decides (below, the network reads kind and colour from x_t itself).
    """
    offsets = jax.random.uniform(key, (batch,))
    share = ((jnp.arange(batch) + offsets) / batch) ** (1.0 / power)
    return jnp.clip((share * num_t).astype(jnp.int32), 0, num_t - 1)


def make_train_step(config, unet_fn, text_fn, alphas_cumprod):
    """`step(state, data) -> (state, metrics)`, jitted; data is a `TrainingSet`."""
    optimizer = make_optimizer(config)

    def loss_fn(params, x0, ids, key):
        noise_key, t_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, x0.shape)
        t = stratified_t(t_key, len(x0), len(alphas_cumprod), config["t_power"])
        noisy = diffusion.add_noise(x0, noise, t, alphas_cumprod)
        context = {"text": text_fn(params["text"], ids)}
        x0_pred = unet_fn({"unet": params["unet"]}, noisy, t, context)
        _, sigma_t = diffusion.alpha_sigma(t, alphas_cumprod, ndim=x0.ndim)
        return weighted_x0_loss(x0_pred, x0, sigma_t, config["sigma2_floor"])

    def step_fn(state, data):
        # Of seed and step alone: a resumed training sees what an undisturbed one sees.
        key = jax.random.fold_in(jax.random.key(config["seed"]), state.step)
        batch_key, key = jax.random.split(key)
        images, ids = batches.draw_batch(data, batch_key, config)
        x0 = diffusion_prior.patchify(images, config["patch"])
        loss, grads = jax.value_and_grad(loss_fn)(state.params, x0, ids, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(config["ema_decay"], (1.0 + count) / (10.0 + count))
        average = optax.incremental_update(params, state.average, 1.0 - decay)
        metrics = {"loss": loss, "grad_norm": global_norm(grads)}
        new = TrainState(
            params=params, average=average, opt_state=opt_state, step=state.step + 1
        )
        return new, metrics

    return jax.jit(step_fn, donate_argnums=0)


def init_params(config, unet, text_init) -> PyTree:
    """Random parameters of U-Net and text tower, or those of `config.init_from`."""
    if config["init_from"]:
        folder = paths.expand(config["init_from"], "init_from")
        unet_shapes = diffusion_prior.unet_shapes(unet, config["text_length"])
        text_shapes = jax.eval_shape(text_init, jax.random.key(0))
        return {
            name: weights.load_params(
                weights.find_files(folder / part),
                shapes,
                dtype=jnp.float32,
                component=part,
            )
            for name, part, shapes in (
                ("unet", "unet", unet_shapes),
                ("text", "text_encoder", text_shapes),
            )
        }
    unet_key, text_key = jax.random.split(jax.random.key(config["seed"]))
    size, channels = unet.sample_size, unet.in_channels
    arguments = (
        jnp.zeros((1, channels, size, size)),
        jnp.zeros(1, jnp.int32),
        jnp.zeros((1, config["text_length"], config["text_width"])),
    )
    unet_params = jax.jit(unet.init)(unet_key, *arguments)["params"]
    return {"unet": unet_params, "text": jax.jit(text_init)(text_key)}


def save_prior(folder: Path, params: PyTree) -> None:
    """Writes float16 weights into the diffusers-format folder."""
    for name, part in (("unet", "unet"), ("text", "text_encoder")):
        stem, _ = weights.COMPONENTS[part]
        weights.save_params(folder / part / f"{stem}.safetensors", params[name])


def make_models(folder: Path) -> sheets.Models:
    """The networks that the configurations in `folder` describe (no weights)."""
    unet_json = diffusion_prior.read_config(folder / "unet", "config.json")
    text_json = diffusion_prior.read_config(folder / "text_encoder", "config.json")
    unet = diffusion_prior.make_unet(unet_json, jnp.float32)
    text_init, text_fn = text_tower.make_text_encoder(text_json)
    return sheets.Models(
        unet=unet,
        unet_fn=diffusion_prior.unet_apply(unet),
        text_init=text_init,
        text_fn=text_fn,
        tokenize=text_tower.load_tokenizer(folder / "tokenizer"),
        alphas_cumprod=schedule.noise_schedule(
            diffusion_prior.read_config(folder / "scheduler", "scheduler_config.json")
        ),
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
    params = init_params(config, models.unet, models.text_init)
    state = TrainState(
        params=params,
        average=jax.tree.map(jnp.array, params),
        opt_state=make_optimizer(config).init(params),
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


def main(argv: list[str]) -> None:
    """Command line; its flags are defined under `__main__`."""
    del argv
    if not flags.FLAGS.workdir:
        raise app.UsageError("--workdir is missing: where to keep the training.")
    process.reuse_freed_memory()
    workdir = paths.expand(flags.FLAGS.workdir, "--workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    folder = train(flags.FLAGS.config.to_dict(), workdir)
    print(f"prior written to {folder}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", "configs/toybox_prior.py")
    flags.DEFINE_string("workdir", "", "Folder of the training (resumes).")
    app.run(main)
