# SPDX-License-Identifier: Apache-2.0
"""The paper: Variational Score Distillation (ProlificDreamer, arXiv:2305.16213).

Theta are the parameters of a scene with renderer g(theta, c), x_0 its encoded render
and x_t = alpha_t x_0 + sigma_t noise. Both methods follow, through the renderer,

    grad_theta = E_{t, noise, c}[ w(t) (noise_prior - noise_score) dx_0 / dtheta ]

with noise_prior = guided prediction of the frozen prior for the prompt y^c, and

    VSD (arXiv:2305.16213, Sec. 3.2)  noise_score = score network phi at (x_t, t, c, y),
                                      trained on renders of the particles themselves
    SDS (arXiv:2209.14988, Eq. 3)     noise_score = the noise itself.

SDS is VSD for a single particle (a Dirac) whose score is exact; so one function serves
both and only the score term differs. The residual w(t) (noise_prior - noise_score) is a
constant for theta: no gradient flows through either network.

Batches are views of one particle, [B, ...]; nothing here knows of particles. In the
text of the docstrings T = number of diffusion timesteps.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.noise import add_noise, alpha_sigma, guide, target, w_t
from vsd_jax.diffusion.prompt import perp_neg
from vsd_jax.types import Context, NoiseFn, NoiseModel, PyTree


def two_stage_t_range(
    step: jax.Array, *, t_min: int, t_max: int, t_max_late: int, anneal_step: int
) -> tuple[jax.Array, jax.Array]:
    """The paper's two-stage range: t_max, from `anneal_step` on t_max_late.

    arXiv:2305.16213, Sec. 4. `step` is traced, so the change does not retrace.

    Args:
      step: scalar int32.
      t_min: lowest timestep, inclusive.
      t_max: highest timestep before `anneal_step`, inclusive.
      t_max_late: highest timestep from `anneal_step` on, inclusive.
      anneal_step: first step of the second stage.

    Returns:
      (lowest, highest), both inclusive, int32 scalars.
    """
    high = jnp.where(step < anneal_step, t_max, t_max_late)
    return jnp.full((), t_min, jnp.int32), high.astype(jnp.int32)


def sqrt_t_range(
    step: jax.Array, *, t_min: int, t_max: int, num_steps: int
) -> tuple[jax.Array, jax.Array]:
    """HiFA's schedule: one timestep that falls with the square root of the step.

    t = t_max - (t_max - t_min) sqrt(step / num_steps) (arXiv:2305.18766, Sec. 3).
    Arguments and result as `two_stage_t_range`; lowest = highest.
    """
    progress = jnp.clip(step / num_steps, 0.0, 1.0)
    t = jnp.round(t_max - (t_max - t_min) * jnp.sqrt(progress)).astype(jnp.int32)
    return t, t


def uniform_t(
    unit: jax.Array, t_range: tuple[jax.Array | int, jax.Array | int]
) -> jax.Array:
    """Maps uniform numbers in [0, 1) to uniform integers in an inclusive range.

    Args:
      unit: [...] uniform in [0, 1).
      t_range: (lowest, highest), may be traced.

    Returns:
      [...] int32.
    """
    low, high = t_range
    t = low + jnp.floor(unit * (high - low + 1)).astype(jnp.int32)
    # The product may round up to its excluded end.
    return jnp.minimum(t, high)


def prior_noise(
    prior: NoiseFn,
    prior_params: PyTree,
    noisy: jax.Array,
    t: jax.Array,
    context: Context,
    *,
    guidance_scale: float,
) -> jax.Array:
    """The prior's guided noise prediction, all prompts in one batch.

    Classifier-free guidance unc + s (text - unc) (arXiv:2207.12598) with the negative
    prompt as unc; Perp-Neg (arXiv:2304.04968) if the context has `perp_text`.

    Args:
      prior: noise prediction of the frozen prior.
      prior_params: its parameters.
      noisy: [B, h, w, c] x_t.
      t: [B] int32.
      context: `text`, `negative` [B, L, D]; for Perp-Neg also `perp_text` [B, M, L, D]
        and `perp_weights` [B, M].
      guidance_scale: s; at 1 without Perp-Neg the negative prompt is not evaluated.

    Returns:
      [B, h, w, c].
    """
    if "perp_text" in context:
        return _perp_neg_noise(
            prior, prior_params, noisy, t, context, guidance_scale=guidance_scale
        )
    if guidance_scale == 1.0:
        return prior(prior_params, noisy, t, {"text": context["text"]})
    texts = jnp.stack([context["negative"], context["text"]])
    return guide(*_noise_per_text(prior, prior_params, noisy, t, texts), guidance_scale)


def vsd_residual(
    noise_prior: jax.Array,
    noise_score: jax.Array,
    t: jax.Array,
    alphas_cumprod: np.ndarray,
    *,
    weighting: str,
) -> jax.Array:
    """w(t) (noise_prior - noise_score), gradient stopped (arXiv:2305.16213, Sec. 3.2).

    Args:
      noise_prior: [B, h, w, c] guided prediction of the prior at x_t.
      noise_score: [B, h, w, c] prediction of the score network at the same x_t.
      t: [B] int32.
      alphas_cumprod: [T] float32.
      weighting: name of w(t), see `score.noise.w_t`.

    Returns:
      [B, h, w, c] direction in latent space.
    """
    chex.assert_equal_shape([noise_prior, noise_score])
    weight = w_t(t, alphas_cumprod, weighting=weighting, ndim=noise_prior.ndim)
    return jax.lax.stop_gradient(weight * (noise_prior - noise_score))


def sds_residual(
    noise_prior: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    alphas_cumprod: np.ndarray,
    *,
    weighting: str,
) -> jax.Array:
    """w(t) (noise_prior - noise), gradient stopped (Eq. 3, arXiv:2209.14988).

    `vsd_residual` with the added noise in place of the score network's prediction.
    """
    return vsd_residual(noise_prior, noise, t, alphas_cumprod, weighting=weighting)


def surrogate_loss(latents: jax.Array, residual: jax.Array) -> jax.Array:
    """A scalar whose gradient in the latents is residual / B.

    sum(latents * stop_gradient(residual)) / B; its value has no meaning.

    Args:
      latents: [B, h, w, c], differentiable.
      residual: [B, h, w, c].

    Returns:
      Scalar.
    """
    chex.assert_equal_shape([latents, residual])
    return jnp.sum(latents * jax.lax.stop_gradient(residual)) / latents.shape[0]


def score_errors(
    model: NoiseModel,
    params: tuple[PyTree, PyTree],
    latents: jax.Array,
    draw: dict[str, jax.Array],
    context: Context,
    *,
    alphas_cumprod: np.ndarray,
    sigma_floor: float,
) -> jax.Array:
    """Training error of the score network per sample.

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
      draw: `t` [B] int32 and `noise` [B, h, w, c].
      context: `text` [B, L, D] plain prompt, `camera` [B, 16].
      alphas_cumprod: [T] float32.
      sigma_floor: sigma_t is not taken below it when dividing (bounds the weight).

    Returns:
      [B] mean squared error over the latent.
    """
    x0 = jax.lax.stop_gradient(latents)
    t, noise = draw["t"], draw["noise"]
    noisy = add_noise(x0, noise, t, alphas_cumprod)
    error = model.apply(params, noisy, t, context)
    error = error - target(model.prediction_type, x0, noise, t, alphas_cumprod)
    if model.prediction_type == "sample":
        _, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=error.ndim)
        error = error / jnp.maximum(sigma_t, sigma_floor)
    return jnp.mean(error.reshape(error.shape[0], -1) ** 2, axis=1)


def camera_vector(cam_to_world: jax.Array, keep: jax.Array) -> jax.Array:
    """The score network's camera input: the row-major matrix, or zeros if dropped.

    Args:
      cam_to_world: [B, 4, 4].
      keep: [B] bool; false = dropped (learns the camera-free score as well).

    Returns:
      [B, 16] float32.
    """
    flat = cam_to_world.reshape(-1, 16)
    return jnp.where(keep[:, None], flat, 0.0)


def _noise_per_text(prior, prior_params, noisy, t, texts):
    """texts [M, B, L, D] -> [M, B, h, w, c] in one call of the network."""
    num = texts.shape[0]
    context = {"text": texts.reshape((-1,) + texts.shape[2:])}
    noise_pred = prior(
        prior_params,
        jnp.concatenate([noisy] * num),
        jnp.concatenate([t] * num),
        context,
    )
    return noise_pred.reshape((num,) + noisy.shape)


def _perp_neg_noise(prior, prior_params, noisy, t, context, *, guidance_scale):
    negatives = jnp.moveaxis(context["perp_text"], 1, 0)
    texts = jnp.stack([context["negative"], context["text"]])
    noise_pred = _noise_per_text(
        prior, prior_params, noisy, t, jnp.concatenate([texts, negatives])
    )
    return perp_neg(
        noise_pred[0],
        noise_pred[1],
        jnp.moveaxis(noise_pred[2:], 0, 1),
        context["perp_weights"],
        scale=guidance_scale,
    )
