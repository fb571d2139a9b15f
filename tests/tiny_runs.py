# SPDX-License-Identifier: Apache-2.0
"""A tiny prior on disk; runs without any prior, whose step is a few operations."""

import json
import pathlib

import golden_models as golden
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict
from safetensors.numpy import save_file

from configs import object as object_config
from configs import toybox_prior
from vsd_jax.particle import init_particle, start_particle
from vsd_jax.presets import Settings
from vsd_jax.program.build import build, stages
from vsd_jax.program.prior import diffusion_prior, text_tower
from vsd_jax.program.settings import config as config_lib
from vsd_jax.toybox import prior_files, train
from vsd_jax.toybox.text import vocabulary
from vsd_jax.types import Prior, ScoreState, VSDState


def write_prior(path: pathlib.Path) -> pathlib.Path:
    """A diffusers-format folder as the Toybox's training writes it, random weights."""
    config = toybox_prior.get_config("smoke").to_dict()
    config |= {"channels": (32,), "patch": 8}
    prior_files.write_folder(path, config, [*vocabulary(), ","])
    read = diffusion_prior.read_config
    unet = diffusion_prior.make_unet(read(path / "unet", "config.json"), jnp.float32)
    text = text_tower.make_text_encoder(read(path / "text_encoder", "config.json"))
    shapes = {
        "unet": diffusion_prior.unet_shapes(unet, config["text_length"]),
        "text": jax.eval_shape(text[0], jax.random.key(0)),
    }
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.2 * random.normal(size=leaf.shape), shapes)
    train.save_prior(path, params)
    return path


def write_toybox(path: pathlib.Path, init_from: str = "", **changes) -> pathlib.Path:
    """A folder as `write_prior`'s, untrained, or with what `init_from` has.

    Args:
      path: folder to write.
      init_from: folder whose weights are taken, "" = none.
      **changes: of the training's smoke settings.
    """
    config = toybox_prior.get_config("smoke").to_dict() | changes
    config["init_from"] = init_from
    prior_files.write_folder(path, config, [*vocabulary(), ","])
    models = train.make_models(path)
    train.save_prior(path, train.init_params(config, models))
    return path


def write_stable_diffusion(name: str, folder: pathlib.Path) -> pathlib.Path:
    """The folder of one of `golden_models.ARCHITECTURES`, as a hub would hold it."""
    config = toybox_prior.get_config("smoke").to_dict()
    config["text_length"] = golden.TEXT_LENGTH
    prior_files.write_folder(folder, config, list(golden.WORDS))
    written = json.loads((folder / "text_encoder" / "config.json").read_text())
    kept = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    configs = {
        "unet": golden.ARCHITECTURES[name]["unet"]
        | {"_class_name": "UNet2DConditionModel"},
        "text_encoder": golden.ARCHITECTURES[name]["text"]
        | {key: written[key] for key in kept if key in written},
        "vae": golden.VAE | {"_class_name": "AutoencoderKL"},
    }
    stems = {"text_encoder": "model"}
    for component, shapes in golden.read_names(name).items():
        (folder / component).mkdir(exist_ok=True)
        (folder / component / "config.json").write_text(json.dumps(configs[component]))
        tensors = {
            key: golden.tensor(f"{component}.{key}", tuple(shape))
            for key, shape in shapes.items()
        }
        stem = stems.get(component, "diffusion_pytorch_model")
        save_file(tensors, folder / component / f"{stem}.safetensors")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(golden.schedule(name)))
    return folder


def nerf_config() -> ConfigDict:
    """One small NeRF, four steps."""
    config = object_config.get_config("smoke")
    config.eval.update(turntable_frames=2, num_views=4)
    return config


def make_run(config, method=None, *, step=None) -> build.Run:
    """A run whose step adds 1e-3 to theta and to phi; `step` may replace it."""
    if not isinstance(config, FrozenConfigDict):
        config = config_lib.validate(config)
    scene = stages.make_scene(config, size=config.render.size)
    tx = Settings(config).tx
    n = config.num_particles

    def init(start=None, key=None) -> VSDState:
        base = jax.random.key(config.seed) if key is None else key
        keys = jax.random.split(base, n)
        if start is None:
            particles = jax.vmap(lambda key: init_particle(scene, tx, key))(keys)
        else:
            particles = jax.vmap(lambda *one: start_particle(*one, tx))(*start)
        return VSDState(
            particles=particles,
            score=ScoreState(params={"phi": jnp.zeros(3)}, opt_state=()),
            step=jnp.int32(0),
            key=jax.random.clone(base),
        )

    def add(tree):
        return jax.tree.map(lambda leaf: leaf + 1e-3, tree)

    @jax.jit
    def plain_step(state, prior_params, contexts):
        # The noise shows whether a resumed run repeats the straight one.
        noise = jax.random.normal(jax.random.fold_in(state.key, state.step), ())
        particles = state.particles.replace(params=add(state.particles.params))
        phi = jax.tree.map(lambda leaf: leaf + noise, state.score.params)
        score = state.score.replace(params=phi)
        state = state.replace(particles=particles, score=score, step=state.step + 1)
        return state, make_metrics(n)

    prior = Prior(None, None, None, jnp.ones(10), (2, 2, 3), config.render.size)
    return build.Run(step or plain_step, {}, {}, init, prior)


def make_metrics(n: int, **changes):
    """What a step reports, all sound."""
    metrics = {
        "residual/rms": jnp.float32(0.5),
        "residual/rms_t0": jnp.float32(0.4),
        "residual/count_t0": jnp.int32(2),
        "residual/rms_t1": jnp.float32(0.0),
        "residual/count_t1": jnp.int32(0),
        "opacity": jnp.float32(0.3),
        "skipped": jnp.int32(0),
        "particle_grad_norm": jnp.float32(1.0),
        "score/loss": jnp.float32(0.1),
        "score/grad_norm": jnp.float32(0.1),
        "score/skipped": jnp.int32(0),
        "particle/index": jnp.arange(n),
        "particle/opacity": jnp.full(n, 0.3),
        "particle/skipped": jnp.zeros(n, jnp.int32),
        "particle/restarted": jnp.zeros(n, jnp.int32),
        "particle/residual_rms": jnp.full(n, 0.5),
    }
    return metrics | {name.replace("__", "/"): value for name, value in changes.items()}
