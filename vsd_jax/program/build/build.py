# SPDX-License-Identifier: Apache-2.0
"""From the configuration to a run: prior, prompts, score network, state and step."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vsd_jax import parallel, particle, score_training
from vsd_jax import step as step_lib
from vsd_jax.program.build import build_method, build_scene
from vsd_jax.program.prior import hub, weights
from vsd_jax.program.judge import monitor
from vsd_jax.program.terminal import progress
from vsd_jax.program.build.build_field import Config
from vsd_jax.program.terminal.errors import ConfigError, RunError
from vsd_jax.diffusion import lora, small_unet
from vsd_jax.types import NoiseModel, Prior, PyTree, Scene, VSDState

# Folded into the base key where no step can be (steps count from 0).
_SCORE_FOLD = 2**32 - 2


class Run(NamedTuple):
    """All that the training loop needs.

    Attributes:
      step: jitted; donates the state it is given.
      prior_params: frozen weights of the prior, and of the score network's base if it
        is another model.
      contexts: embedded prompts (`diffusion/prompt.py`).
      init: makes the state before the first step, from (theta, stats) of all particles
        or, without an argument, from the scene's own.
      prior: the prior itself; decodes latents for pictures.
      early_step: the step on smaller renders (`render.early_size`), None = none.
      check_texts: what the prior is asked at the end, see `make_check_texts`.
    """

    step: step_lib.Step
    prior_params: PyTree
    contexts: PyTree
    init: Callable[..., VSDState]
    prior: Prior
    early_step: step_lib.Step | None = None
    check_texts: jax.Array | None = None


def load_prior(path: str, dtype: str, **options) -> tuple[Prior, PyTree, Callable]:
    """Loads a prior; `options` as in `diffusion_prior.load_prior`.

    Raises:
      RunError: if its weights are missing, truncated or of another architecture.
    """
    # Late, because it imports diffusers and transformers: seconds that rendering and
    # exporting a finished run need not spend.
    from vsd_jax.program.prior import diffusion_prior

    try:
        return diffusion_prior.load_prior(
            path, dtype=jnp.dtype(dtype), say=progress.say, **options
        )
    except (diffusion_prior.WeightsError, OSError) as error:
        raise RunError(str(error)) from error


def prior_fingerprint(config: Config) -> str:
    """Which weights the prior's U-Net has (`weights.fingerprint`).

    Raises:
      RunError: if there are none.
    """
    try:
        folder = hub.resolve(config.prior.path, variant=config.prior.variant)
        return weights.fingerprint(folder / "unet", config.prior.variant)
    except OSError as error:
        raise RunError(str(error)) from error


def build(config: Config, *, load_weights: bool = True) -> Run:
    """Loads the prior and makes everything that training needs.

    Args:
      config: validated.
      load_weights: false leaves shapes where the weights would stand, enough to lower
        and compile the step.

    Raises:
      RunError: if the weights cannot be loaded.
    """
    load = functools.partial(load_prior, load_weights=load_weights)
    prior, prior_params, encode_text = load(**config.prior)
    contexts = build_method.make_contexts(config, encode_text)
    score, init_score, prior_params = make_score(
        config, prior, prior_params, contexts, load=load
    )
    scene = make_scene(config, prior)
    if config.field.kind == "latent":
        # theta is the latent itself: nothing is encoded.
        identity = lambda params, latents, key: latents  # noqa: E731
        size = prior.latent_shape[0]
        step_prior = prior._replace(encode=identity, image_size=size)
    else:
        step_prior = prior
    particle_tx = build_scene.make_particle_optimizer(config)
    score_tx = make_score_optimizer(config)
    txs = {"particle_tx": particle_tx, "score_tx": score_tx}
    step = make_step(config, scene, step_prior, score, **txs)
    early_step = None
    if config.render.early_size:
        small = build_scene.make_scene(config, size=config.render.early_size)
        early_step = make_step(config, small, step_prior, score, **txs)

    def init(start: tuple[PyTree, PyTree] | None = None) -> VSDState:
        key = jax.random.key(config.seed)
        return step_lib.init_state(
            key,
            scene,
            init_score(jax.random.fold_in(key, _SCORE_FOLD)),
            num_particles=config.num_particles,
            start=start,
            **txs,
        )

    check_texts = build_method.make_check_texts(config, encode_text)
    init = jax.jit(init)
    return Run(step, prior_params, contexts, init, prior, early_step, check_texts)


def make_scene(config: Config, prior: Prior) -> Scene:
    """The training scene."""
    return build_scene.make_scene(
        config, size=config.render.size, latent_shape=prior.latent_shape
    )


def make_score(
    config: Config,
    prior: Prior,
    prior_params: PyTree,
    contexts: PyTree,
    *,
    load: Callable = load_prior,
) -> tuple[NoiseModel | None, Callable[[jax.Array], PyTree], PyTree]:
    """The score network phi.

    Returns:
      (score network, or None where the method has none; its `init(key)`;
      `prior_params` with the weights that it needs added).

    Raises:
      RunError: if its weights cannot be loaded, or it does not fit the prior.
    """
    if config.vsd.method not in build_method.WITH_SCORE:
        return None, lambda key: {}, prior_params
    if config.score.kind == "unet":
        return *_make_small_unet(config, prior, contexts), prior_params
    base, select = prior, lambda params: params
    if config.score.path not in ("", config.prior.path):
        base, own, _ = load(
            config.score.path, config.prior.dtype, variant=config.prior.variant
        )
        _check_same_latents(config, prior, base)
        prior_params = prior_params | {"score": {"unet": own["unet"]}}
        select = lambda params: params["score"]  # noqa: E731
    score = lora.make_score_model(
        base.model,
        scale=config.score.lora_scale,
        select_params=select,
        alphas_cumprod=base.alphas_cumprod,
    )
    init = functools.partial(
        lora.init_score_params,
        params=select(prior_params)["unet"],
        rank=config.score.rank,
        zero_last=config.score.zero_camera,
        pass_through=base.latent_shape[-1] if config.score.pass_through else 0,
    )
    return score, init, prior_params


def _make_small_unet(config: Config, prior: Prior, contexts: PyTree):
    try:
        init, score = small_unet.make_small_unet(
            latent_shape=prior.latent_shape,
            text_shape=contexts["score"].shape[-2:],
            channels=config.score.channels,
            num_groups=config.score.num_groups,
            num_heads=config.score.num_heads,
            use_text=False,
            prediction_type=prior.model.prediction_type,
        )
    except ValueError as error:
        raise ConfigError(f"score.channels={config.score.channels}: {error}") from error
    return score, init


def _check_same_latents(config: Config, prior: Prior, base: Prior) -> None:
    same_noise = np.allclose(prior.alphas_cumprod, base.alphas_cumprod, atol=1e-4)
    if prior.latent_shape[-1] != base.latent_shape[-1] or not same_noise:
        raise ConfigError(
            f"score.path={config.score.path!r} has other latents or another noise"
            f" schedule than prior.path={config.prior.path!r}; both must be of one"
            " family. Leave score.path out to use the prior's own network."
        )


def make_score_optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW with warm-up for the score network."""
    return score_training.score_optimizer(
        learning_rate=config.score.learning_rate,
        warmup_steps=config.score.warmup_steps,
        b1=config.score.b1,
        b2=config.score.b2,
        weight_decay=config.score.weight_decay,
    )


def make_step(
    config: Config,
    scene: Scene,
    prior: Prior,
    score: NoiseModel | None,
    *,
    particle_tx: optax.GradientTransformation,
    score_tx: optax.GradientTransformation,
    train_score: bool = True,
) -> step_lib.Step:
    """The jitted training step of a configuration.

    `train_score` is false where the score is exact, so that it has nothing to learn.
    """
    num_t = len(prior.alphas_cumprod)
    colors, shares, _ = build_scene.make_backgrounds(config)
    low, high = (round(share * num_t) for share in config.score.t_range)
    return step_lib.make_step(
        scene,
        prior,
        score if train_score else None,
        particle_tx=particle_tx,
        score_tx=score_tx,
        sample_camera=build_scene.make_camera_law(config),
        sample_background=particle.make_background_sampler(colors, shares),
        views=build_method.make_views(config),
        regularizer=build_scene.make_regularizer(config),
        t_range=build_method.make_t_range(config, prior.alphas_cumprod),
        score_t_range=(low, min(high, num_t - 1)),
        residual=build_method.make_residual(config, prior, score),
        num_views=config.vsd.views_per_step,
        score_steps=config.score.steps_per_step,
        camera_dropout=config.score.camera_dropout,
        sigma_floor=config.score.sigma_floor,
        particles_per_step=config.particles_per_step,
        subset=config.subset,
        restart_after=monitor.PATIENCE if config.on_not_finite == "restart" else 0,
        axis_name=parallel.AXIS if config.num_devices > 1 else None,
        devices_per_particle=max(1, config.num_devices // config.num_particles),
    )
