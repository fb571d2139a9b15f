# SPDX-License-Identifier: Apache-2.0
"""From the configuration to a run: prior, prompts, score network, state and step."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from vsd_jax import inside, parallel, score_network
from vsd_jax.distil import Distillation, Population, Step, distil
from vsd_jax.methods import Method
from vsd_jax.presets import Settings
from vsd_jax.program import Config
from vsd_jax.program.build import texts
from vsd_jax.program.build.stages import make_scene, stage_of
from vsd_jax.program.judge import monitor
from vsd_jax.program.prior import hub, weights
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError, RunError
from vsd_jax.scene.regularizers import make_regularizer
from vsd_jax.types import Prior, Prompts, PyTree, Scene, Score, VSDState
from vsd_jax.views import make_views


class Run(NamedTuple):
    """All that the training loop needs.

    Attributes:
      step: jitted; donates the state it is given.
      prior_params: frozen weights of the prior, and of the score network's base if it
        is another model.
      prompts: embedded (`diffusion/prompt.py`).
      init: `(start=None, key=None)` makes the state before the first step: from
        (theta, stats) of all particles or the scene's own; by a base key, or the one
        of the configuration's seed.
      prior: the prior itself; decodes latents for pictures.
      early_step: the step on smaller renders (`render.early_size`), None = none.
      check_texts: what the prior is asked at the end, see `texts.make_check_texts`.
      look: what the networks see in a render (`inside.make_look`); None = none.
    """

    step: Step
    prior_params: PyTree
    prompts: Prompts
    init: Callable[..., VSDState]
    prior: Prior
    early_step: Step | None = None
    check_texts: jax.Array | None = None
    look: inside.Look | None = None


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


def fingerprints(config: Config) -> dict[str, str]:
    """Which weights the frozen U-Nets have (`weights.fingerprint`).

    Returns:
      Of `prior.path`, and of `score.path` where the score network has another base.

    Raises:
      RunError: if there are none.
    """
    variant, found = config.prior.variant, {}
    try:
        for key, path in _frozen(config).items():
            folder = hub.resolve(path, variant=variant, components=("unet",))
            found[key] = weights.fingerprint(folder / "unet", variant)
    except OSError as error:
        raise RunError(str(error)) from error
    return found


def is_at_hand(config: Config) -> bool:
    """Whether a run can be built without fetching anything."""
    parts = {"prior.path": tuple(weights.COMPONENTS), "score.path": ("unet",)}
    variant = config.prior.variant
    return all(
        hub.is_at_hand(path, variant, parts[key])
        for key, path in _frozen(config).items()
    )


def _frozen(config: Config) -> dict[str, str]:
    """Where the frozen networks are, by the key that names them."""
    found = {"prior.path": config.prior.path}
    return found | ({"score.path": config.score.path} if _has_base(config) else {})


def _has_base(config: Config) -> bool:
    """Whether the score network adapts another U-Net than the prior's."""
    trains = Settings(config).method.trains_score and config.score.kind == "lora"
    return trains and config.score.path not in ("", config.prior.path)


def build(
    config: Config, method: Method | None = None, *, load_weights: bool = True
) -> Run:
    """Loads the prior and makes everything that training needs.

    Args:
      config: validated.
      method: in the place of the one that `vsd.method` names, and with a score network
        if that one has one.
      load_weights: false leaves shapes where the weights would stand, enough to lower
        and compile the step.

    Raises:
      RunError: if the weights cannot be loaded.
    """
    # Several devices take their copies or shards from the host: none holds a spare one.
    apart = config.num_devices > 1 or config.num_shards > 1
    load = functools.partial(load_prior, load_weights=load_weights, on_host=apart)
    prior, prior_params, encode_text = load(**config.prior)
    score, prior_params = make_score(config, prior, prior_params, load=load)
    scene = make_scene(config, size=config.render.size, latent_shape=prior.latent_shape)
    step_prior = prior
    if stage_of(config).is_latent:
        # theta is the latent itself: nothing is encoded.
        identity = lambda params, latents, key: latents  # noqa: E731
        size = prior.latent_shape[0]
        step_prior = prior._replace(encode=identity, image_size=size)
    run = join(config, scene, step_prior, score, method)
    early_step = None
    if config.render.early_size:
        small = make_scene(config, size=config.render.early_size)
        early_step = join(config, small, step_prior, score, method).step

    def init(
        start: tuple[PyTree, PyTree] | None = None, key: jax.Array | None = None
    ) -> VSDState:
        return run.init(
            jax.random.key(config.seed) if key is None else key,
            prior_params,
            num_particles=config.num_particles,
            start=start,
        )

    return Run(
        step=run.step,
        prior_params=prior_params,
        prompts=texts.make_prompts(config, encode_text, method),
        init=jax.jit(init),
        prior=prior,
        early_step=early_step,
        check_texts=texts.make_check_texts(config, encode_text),
        look=inside.make_look(
            scene,
            step_prior,
            score,
            make_views(Settings(config).views),
            guidance_scale=config.vsd.guidance_scale,
            guidance=Settings(config).guidance,
            size=min(config.render.size, 2 * config.log.sheet_size),
        ),
    )


def join(
    config: Config,
    scene: Scene,
    prior: Prior,
    score: Score | None,
    method: Method | None = None,
    *,
    tx: optax.GradientTransformation | None = None,
) -> Distillation:
    """`distil` with what the configuration says of the rest; its method and optimizer,
    or others."""
    settings = Settings(config)
    return distil(
        scene,
        prior,
        method or settings.method,
        score,
        make_views(settings.views),
        tx=tx or settings.tx,
        regularizer=make_regularizer(settings.regularizer),
        population=Population(
            particles_per_step=config.particles_per_step,
            subset=config.subset,
            restart_after=monitor.PATIENCE if config.on_not_finite == "restart" else 0,
        ),
        devices=parallel.Devices(
            axis_name=parallel.AXIS if config.num_devices > 1 else None,
            per_particle=max(1, config.num_devices // config.num_particles),
        ),
    )


def make_score(
    config: Config,
    prior: Prior,
    prior_params: PyTree,
    *,
    load: Callable = load_prior,
) -> tuple[Score | None, PyTree]:
    """The score network phi.

    Returns:
      (score network, or None where the method has none; `prior_params` with the weights
      that it needs added).

    Raises:
      RunError: if its weights cannot be loaded, or it does not fit the prior.
    """
    settings = Settings(config)
    if not settings.method.trains_score:
        return None, prior_params
    if config.score.kind == "unet":
        try:
            return score_network.small_unet(prior, settings.score), prior_params
        except ValueError as error:
            raise ConfigError(
                f"score.channels={config.score.channels}: {error}"
            ) from error
    if not _has_base(config):
        return score_network.lora(prior, settings.score), prior_params
    base, own, _ = load(
        config.score.path,
        config.prior.dtype,
        variant=config.prior.variant,
        any_variant=True,
        only_unet=True,
    )
    _check_same_latents(config, prior, base)
    _check_same_texts(config, prior_params["unet"], own["unet"])
    score = score_network.lora(
        base, settings.score, select_params=lambda params: params["score"]
    )
    return score, prior_params | {"score": {"unet": own["unet"]}}


def _check_same_texts(config: Config, unet: PyTree, base: PyTree) -> None:
    widths = text_width(unet), text_width(base)
    if widths[0] != widths[1]:
        raise ConfigError(
            f"score.path={config.score.path!r} reads texts of {widths[1]} numbers a"
            f" token, prior.path={config.prior.path!r} makes them of {widths[0]};"
            " both must be of one family (1.x with 1.x, 2.x with 2.x). Leave"
            " score.path out to use the prior's own network."
        )


def text_width(unet: PyTree) -> int:
    """D of the texts that a U-Net's cross-attention reads; 0 if it has none."""
    found = [
        leaf.shape[0]
        for path, leaf in traverse_util.flatten_dict(unet).items()
        if path[-3:] == ("attn2", "to_k", "kernel")
    ]
    return found[0] if found else 0


def _check_same_latents(config: Config, prior: Prior, base: Prior) -> None:
    levels = prior.alphas_cumprod, base.alphas_cumprod
    same_noise = len(levels[0]) == len(levels[1]) and np.allclose(*levels, atol=1e-4)
    if prior.latent_shape[-1] != base.latent_shape[-1] or not same_noise:
        raise ConfigError(
            f"score.path={config.score.path!r} has other latents or another noise"
            f" schedule than prior.path={config.prior.path!r}; both must be of one"
            " family. Leave score.path out to use the prior's own network."
        )
