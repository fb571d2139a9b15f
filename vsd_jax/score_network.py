# SPDX-License-Identifier: Apache-2.0
"""The shared score network phi, and its training on the renders of each step.

phi <- phi - eta grad E |noise_score(x_t, t, c, y) - noise|^2 (arXiv:2305.16213, Sec.
3.2), over all particles and views. No gradient reaches the particles from here, and
none reaches phi from theirs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vsd_jax.diagnostics import Metrics, noise_square, quarters_of_t
from vsd_jax.diffusion import small_unet as unet_lib
from vsd_jax.diffusion.lora import LoraSpec, init_score_params, make_score_model
from vsd_jax.diffusion.noise import add_noise, alpha_sigma, target
from vsd_jax.diffusion.small_unet import SmallUnetSpec
from vsd_jax.parallel import sum_devices
from vsd_jax.spec import Within
from vsd_jax.trees import global_norm, merge_axes, select_tree
from vsd_jax.types import (
    Batch,
    Context,
    NoiseModel,
    Prior,
    PyTree,
    Score,
    ScoreState,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """Training of a score network, of whatever architecture.

    Attributes:
      steps_per_step: K, updates of phi in a step.
      camera_dropout: probability that the network sees zeros instead of the camera.
      t_range: (low, high) of the timesteps that it is trained at, shares of T.
      sigma_floor: bound on the loss weight 1 / sigma_t^2 of a network that predicts
        clean images; of no effect on others.
      learning_rate: learning rate of AdamW.
      warmup_steps: updates over which the learning rate grows linearly from 0.
      b1: decay of AdamW's first moment.
      b2: decay of its second moment.
      weight_decay: weight decay of AdamW.
    """

    steps_per_step: Annotated[int, Within(1, 100)]
    camera_dropout: Annotated[float, Within(0, 1)]
    t_range: Annotated[tuple[float, float], Within(0, 1)]
    sigma_floor: Annotated[float, Within(0, 1)]
    learning_rate: Annotated[float, Within(0, 1)]
    warmup_steps: Annotated[int, Within(0)]
    b1: Annotated[float, Within(0, 1)]
    b2: Annotated[float, Within(0, 1)]
    weight_decay: Annotated[float, Within(0, 1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreSpec:
    """Settings of a score network: LoRA or a small U-Net, and its training.

    Attributes:
      lora: for `lora`.
      unet: for `small_unet`.
      training: of both.
    """

    lora: LoraSpec
    unet: SmallUnetSpec
    training: TrainingSpec


def lora(
    base: Prior,
    spec: ScoreSpec,
    *,
    select_params: Callable[[PyTree], PyTree] = lambda params: params,
) -> Score:
    """Makes the paper's score network: `base` with LoRA and a camera embedding.

    Args:
      base: the prior, or another one of its family. Its weights are a dict whose "unet"
        is a Linen network with a module `time_embedding` and attention layers of
        diffusers' names (`lora.ATTENTION_TARGETS`); for other networks there are
        `small_unet` and `make_score`.
      spec: see `ScoreSpec`.
      select_params: picks the weights of `base` out of `prior_params`.

    Raises:
      ValueError: from `init`, if the weights are others.

    Examples:
      >>> prior, weights, encode = vsd.load_prior("toybox")
      >>> preset = vsd.presets.toybox("a red mushroom")
      >>> vsd.lora(prior, preset.score).updates
      1
    """

    def init(key: jax.Array, prior_params: PyTree) -> PyTree:
        params = select_params(prior_params)
        if not isinstance(params, Mapping) or "unet" not in params:
            raise ValueError(
                "vsd.lora adapts a prior whose weights hold a Linen U-Net,"
                ' {"unet": ...}; of another one use vsd.small_unet or vsd.make_score.'
            )
        return init_score_params(
            key,
            params=params["unet"],
            rank=spec.lora.rank,
            zero_last=spec.lora.zero_camera,
            pass_through=base.latent_shape[-1] if spec.lora.pass_through else 0,
        )

    model = make_score_model(
        base.model,
        scale=spec.lora.lora_scale,
        select_params=select_params,
        alphas_cumprod=base.alphas_cumprod,
    )
    return make_score(model, init, spec.training)


def small_unet(prior: Prior, spec: ScoreSpec) -> Score:
    """Makes a small U-Net, trained from scratch, that reads the camera, not the text.

    Raises:
      ValueError: if its channels do not fit the prior's latents.

    Examples:
      >>> preset = vsd.presets.preset("object", "smoke")
      >>> levels = np.linspace(0.999, 0.001, 100).astype(np.float32)
      >>> prior = vsd.exact.make_prior(levels, latent_shape=(16, 16, 3))
      >>> vsd.small_unet(prior, preset.score).model.prediction_type
      'epsilon'
    """
    init, model = unet_lib.make_small_unet(
        latent_shape=prior.latent_shape,
        text_shape=(1, 1),  # it is not read
        channels=spec.unet.channels,
        num_groups=spec.unet.num_groups,
        num_heads=spec.unet.num_heads,
        use_text=False,
        prediction_type=prior.model.prediction_type,
    )
    return make_score(model, lambda key, prior_params: init(key), spec.training)


def make_score(
    model: NoiseModel, init: Callable[[jax.Array, PyTree], PyTree], spec: TrainingSpec
) -> Score:
    """Makes a score network of your own model, trained by AdamW.

    Args:
      model: over `(score_params, prior_params)`.
      init: `(key, prior_params) -> score_params`.
      spec: of its training.

    Examples:
      >>> def apply(params, noisy, t, context):
      ...     score_params, prior_params = params
      ...     return score_params["scale"] * noisy
      >>> score = vsd.make_score(
      ...     vsd.NoiseModel(apply, "epsilon"),
      ...     lambda key, prior_params: {"scale": jnp.ones(())},
      ...     vsd.presets.toybox("a red mushroom").score.training,
      ... )
      >>> score.camera_dropout
      0.1
    """
    return Score(
        model=model,
        init=init,
        tx=score_optimizer(
            learning_rate=spec.learning_rate,
            warmup_steps=spec.warmup_steps,
            b1=spec.b1,
            b2=spec.b2,
            weight_decay=spec.weight_decay,
        ),
        updates=spec.steps_per_step,
        t_range=spec.t_range,
        camera_dropout=spec.camera_dropout,
        sigma_floor=spec.sigma_floor,
    )


def fixed_score(model: NoiseModel) -> Score:
    """Makes a score network without training, such as a closed-form one.

    Examples:
      >>> model = vsd.NoiseModel(lambda params, x, t, context: x, "epsilon")
      >>> vsd.fixed_score(model).updates
      0
    """
    return Score(
        model=model,
        init=lambda key, prior_params: {},
        tx=optax.identity(),
        updates=0,
        t_range=(0.0, 1.0),
        camera_dropout=0.0,
        sigma_floor=1.0,
    )


def score_optimizer(
    *,
    learning_rate: float,
    warmup_steps: int,
    b1: float,
    b2: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Makes AdamW (arXiv:1711.05101) with linear warm-up to a constant rate.

    Its moments are one vector each: hundreds of small LoRA matrices would each have
    loops of their own to compile and to read from the cache (docs/performance.md).
    """

    def schedule(count: jax.Array) -> jax.Array:
        return learning_rate * jnp.minimum(1.0, (count + 1) / max(warmup_steps, 1))

    adamw = optax.flatten(
        optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay)
    )

    def init(params: PyTree) -> PyTree:
        # SDS has no phi, and nothing cannot be flattened.
        return adamw.init(params) if jax.tree.leaves(params) else ()

    return optax.GradientTransformation(init, adamw.update)


def camera_vector(cam_to_world: jax.Array, keep: jax.Array) -> jax.Array:
    """Flattens cameras for the score network; dropped ones become zeros.

    Args:
      cam_to_world: [B, 4, 4].
      keep: [B] bool; false = dropped (learns the camera-free score as well).

    Returns:
      [B, 16] float32.
    """
    flat = cam_to_world.reshape(-1, 16)
    return jnp.where(keep[:, None], flat, 0.0)


def score_errors(
    model: NoiseModel,
    params: tuple[PyTree, PyTree],
    latents: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    *,
    context: Context,
    alphas_cumprod: np.ndarray,
    sigma_floor: float,
) -> jax.Array:
    """Returns the denoising error of the score network for each sample.

    The denoising objective E |noise_score(x_t, t, c, y) - noise|^2 (arXiv:2305.16213,
    Sec. 3.2) in the network's own prediction type: the plain mean squared error for
    "epsilon" and "v_prediction". For "sample" the error is divided by sigma_t^2: at
    given x_t an error of x_0 is -sigma_t times an error of v (v = (alpha_t x_t - x_0)
    / sigma_t, from arXiv:2202.00512, App. D), so this is the v-loss; without it small
    t, where VSD needs the score most, would hardly count.

    Args:
      model: score network over `(score_params, prior_params)`.
      params: that pair.
      latents: [B, h, w, c] encoded renders; their gradient is stopped.
      t: [B] int32.
      noise: [B, h, w, c] standard normal.
      context: `text` [B, L, D] plain prompt, `camera` [B, 16].
      alphas_cumprod: [T] float32.
      sigma_floor: sigma_t is not taken below it when dividing (bounds the weight).

    Returns:
      [B] mean squared error over the latent.
    """
    x0 = jax.lax.stop_gradient(latents)
    noisy = add_noise(x0, noise, t, alphas_cumprod)
    error = model.apply(params, noisy, t, context)
    error = error - target(model.prediction_type, x0, noise, t, alphas_cumprod)
    if model.prediction_type == "sample":
        _, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=error.ndim)
        error = error / jnp.maximum(sigma_t, sigma_floor)
    return jnp.mean(error.reshape(error.shape[0], -1) ** 2, axis=1)


ScoreUpdate = Callable[[ScoreState, Batch, PyTree], tuple[ScoreState, Metrics]]


def make_score_update(
    score: Score | None, prior: Prior, *, axis_name: str | None
) -> ScoreUpdate:
    """Makes the training of the score network on the renders of one step.

    One update per entry of the draw's `score`. A step whose gradient is not finite is
    skipped and counted.

    Args:
      score: the score network; None (SDS) and one without updates leave its state
        alone.
      prior: gives the noise process.
      axis_name: device axis to sum gradients over, or None.

    Returns:
      `(score_state, batch, prior_params) -> (score_state, metrics)`: `score/loss`,
      `score/grad_norm`, `score/skipped`; `score/rms_t0` ... `_t3`, the error of the
      noise by quarter of t (`noise_square`), and `score/count_t0` ...
    """
    num_t = len(prior.alphas_cumprod)
    if score is None or not score.updates:
        return lambda state, batch, prior_params: (state, {})

    def loss_fn(params, prior_params, views, drawn):
        t, noise, keep = drawn
        camera = camera_vector(views["cam_to_world"], keep)
        errors = score_errors(
            score.model,
            (params, prior_params),
            views["latents"],
            t,
            noise,
            context={"text": views["text"], "camera": camera},
            alphas_cumprod=prior.alphas_cumprod,
            sigma_floor=score.sigma_floor,
        )
        return jnp.sum(errors * views["weight"]), errors

    def update_once(state, prior_params, views, drawn):
        (loss, errors), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, prior_params, views, drawn
        )
        loss, grads = sum_devices((loss, grads), axis_name)
        updates, opt_state = score.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norm = global_norm(grads)  # not finite as soon as one entry is not
        ok = jnp.isfinite(norm) & views["any"]
        after = ScoreState(params=params, opt_state=opt_state)
        squares = noise_square(
            score.model,
            errors,
            drawn[0],
            alphas_cumprod=prior.alphas_cumprod,
            sigma_floor=score.sigma_floor,
        )
        return select_tree(ok, after, state), (loss, norm, ~ok, squares, drawn[0])

    def update(state, batch, prior_params):
        views, drawn = _score_views(batch, axis_name), batch.draw.score
        reports = []
        for k in range(score.updates):
            each = (drawn.t[:, k], drawn.noise[:, k], drawn.keep[:, k])
            state, report = update_once(state, prior_params, views, merge_axes(each))
            reports.append(report)
        loss, norm, skipped, squares, t = (
            jnp.stack(values) for values in zip(*reports, strict=True)
        )
        valid = jnp.broadcast_to(views["weight"] > 0, t.shape)
        by_t = quarters_of_t(
            "score", squares, t, valid, num_t=num_t, axis_name=axis_name
        )
        return state, by_t | {
            "score/loss": jnp.mean(loss),
            "score/grad_norm": jnp.mean(norm),
            "score/skipped": jnp.sum(skipped),
        }

    return update


def _score_views(batch: Batch, axis_name: str | None) -> dict[str, jax.Array]:
    """The renders as one batch [m * V, ...]; weights sum to 1 over all devices.

    The latents of a skipped particle are replaced by zeros before the network sees
    them: a zero weight alone would not stop a NaN.
    """
    valid = jnp.broadcast_to(batch.report.ok[:, None], batch.draw.t.shape)
    views = {
        "latents": jnp.where(valid[..., None, None, None], batch.latents, 0.0),
        "text": batch.draw.prompts["score"],
        "cam_to_world": batch.draw.cameras.cam_to_world,
        "weight": valid.astype(jnp.float32),
    }
    views = merge_axes(views)
    count = sum_devices(jnp.sum(views["weight"]), axis_name)
    views["weight"] = views["weight"] / jnp.maximum(count, 1.0)
    return {**views, "any": count > 0}
