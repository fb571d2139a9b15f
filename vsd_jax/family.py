# SPDX-License-Identifier: Apache-2.0
"""The family of score distillation: methods after SDS and VSD, with one signature.

Each is a residual, a direction for x_0 that goes through the renderer as in `vsd.py`:

    residual(predict, latents, noise, t, *, alphas_cumprod, weighting, ...) -> [B, ...]

`predict(noisy, t, name)` is the frozen prior's noise prediction for one of the prompts
below, which the caller binds to networks and texts; only what a method asks for is
computed. All are differentiated through the renderer alone.

    "text"      the prompt y, with its view words
    "empty"     no text, unc of classifier-free guidance
    "negative"  what the image should not be
    "source"    what the image is at present (Bridge)
    "score"     the score network with its camera; "score_empty" without it

Notation as in `diffusion/noise.py`: eps(y) is `predict(x_t, t, "text")`, s the guidance
scale, B a batch of views.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.noise import add_noise, alpha_sigma, guide, to_x0, w_t

Predict = Callable[[jax.Array, jax.Array, str], jax.Array]
"""`(noisy [B, h, w, c], t [B], name) -> noise [B, h, w, c]`."""


def csd(
    predict: Predict,
    latents: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    *,
    alphas_cumprod: np.ndarray,
    weighting: str,
) -> jax.Array:
    """Classifier Score Distillation: w(t) (eps(y) - eps(empty)) (arXiv:2310.19415).

    The guidance direction alone: the gradient of log p(y | x_t), for which neither the
    added noise nor a score of the renders is subtracted.
    """
    noisy = _noisy(latents, noise, t, alphas_cumprod)
    direction = predict(noisy, t, "text") - predict(noisy, t, "empty")
    return _weighted(direction, t, alphas_cumprod, weighting)


def nfsd(
    predict: Predict,
    latents: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    *,
    alphas_cumprod: np.ndarray,
    weighting: str,
    guidance_scale: float,
    t_switch: int,
) -> jax.Array:
    """Noise-Free Score Distillation: w(t) (delta_D + s delta_C) (arXiv:2310.17590).

    delta_C = eps(y) - eps(empty); the domain correction delta_D is eps(empty) below
    `t_switch` (200 of 1,000 in the paper), where x_t holds little noise, and
    eps(empty) - eps(negative) from there on, which cancels the noise.
    """
    noisy = _noisy(latents, noise, t, alphas_cumprod)
    empty = predict(noisy, t, "empty")
    small = _over(t < t_switch, empty)
    domain = jnp.where(small, empty, empty - predict(noisy, t, "negative"))
    condition = predict(noisy, t, "text") - empty
    return _weighted(domain + guidance_scale * condition, t, alphas_cumprod, weighting)


def bridge(
    predict: Predict,
    latents: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    *,
    alphas_cumprod: np.ndarray,
    weighting: str,
    guidance_scale: float,
) -> jax.Array:
    """Bridge to the target distribution: w(t) s (eps(y) - eps(source)).

    The renders are a distribution of their own, which a text can describe ("...,
    oversaturated, smooth"); its score takes the place of the learned one of VSD
    (arXiv:2406.09417).
    """
    noisy = _noisy(latents, noise, t, alphas_cumprod)
    direction = predict(noisy, t, "text") - predict(noisy, t, "source")
    return _weighted(guidance_scale * direction, t, alphas_cumprod, weighting)


def esd(
    predict: Predict,
    latents: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    *,
    alphas_cumprod: np.ndarray,
    weighting: str,
    guidance_scale: float,
    score_scale: float,
) -> jax.Array:
    """Entropic Score Distillation: VSD with guidance in the score network too.

    noise_score = eps_phi(no camera) + g (eps_phi(camera) - eps_phi(no camera)) with
    g = `score_scale` (arXiv:2401.00604): g = 1 is VSD; below it the entropy over all
    views is kept up, which works against several faces.
    """
    noisy = _noisy(latents, noise, t, alphas_cumprod)
    prior = _guided(predict, noisy, t, guidance_scale)
    without = predict(noisy, t, "score_empty")
    score = guide(without, predict(noisy, t, "score"), score_scale)
    return _weighted(prior - score, t, alphas_cumprod, weighting)


def ism(
    predict: Predict,
    latents: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    *,
    alphas_cumprod: np.ndarray,
    weighting: str,
    guidance_scale: float,
    interval: int,
    num_inversions: int,
) -> jax.Array:
    """Interval Score Matching: w(t) (eps(x_t, y) - eps(x_s, empty)), s = t - interval.

    x_s is reached from x_0 by `num_inversions` steps of unconditional DDIM inversion,
    x_t from x_s by one more (arXiv:2311.11284). Nothing is random but t:
    `noise` is not used.
    """
    del noise
    earlier = jnp.maximum(t - interval, 0)
    x_s = ddim_invert(
        lambda x, at: predict(x, at, "empty"),
        jax.lax.stop_gradient(latents),
        earlier,
        alphas_cumprod=alphas_cumprod,
        num_steps=num_inversions,
    )
    before = predict(x_s, earlier, "empty")
    x_t = _ddim_move(x_s, before, earlier, t, alphas_cumprod)
    direction = _guided(predict, x_t, t, guidance_scale) - before
    return _weighted(direction, t, alphas_cumprod, weighting)


def sdi(
    predict: Predict,
    latents: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    *,
    alphas_cumprod: np.ndarray,
    weighting: str,
    guidance_scale: float,
    inversion_scale: float,
    num_inversions: int,
) -> jax.Array:
    """Score Distillation via Inversion: SDS whose noise is that of DDIM inversion.

    kappa = the noise that x_t, inverted from x_0 with guidance `inversion_scale` (-7.5
    in the paper), implies; residual w(t) (eps_guided(x_t) - kappa)
    (arXiv:2405.15891). `noise` is not used.
    """
    del noise
    x0 = jax.lax.stop_gradient(latents)
    x_t = ddim_invert(
        lambda x, at: _guided(predict, x, at, inversion_scale),
        x0,
        t,
        alphas_cumprod=alphas_cumprod,
        num_steps=num_inversions,
    )
    alpha_t, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=x0.ndim)
    kappa = (x_t - alpha_t * x0) / sigma_t
    direction = _guided(predict, x_t, t, guidance_scale) - kappa
    return _weighted(direction, t, alphas_cumprod, weighting)


def ddim_invert(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    x0: jax.Array,
    t: jax.Array,
    *,
    alphas_cumprod: np.ndarray,
    num_steps: int,
) -> jax.Array:
    """From clean latents to x_t along the deterministic path (arXiv:2010.02502).

    The inverse of DDIM sampling up to its discretisation: equal steps in t, each with
    the noise predicted at its start.

    Args:
      predict: `(noisy, t) -> noise`.
      x0: [B, h, w, c].
      t: [B] int32, where to arrive; each view its own.
      alphas_cumprod: [T].
      num_steps: network calls, >= 1.

    Returns:
      [B, h, w, c] x_t.
    """

    def move(x: jax.Array, number: jax.Array):
        at, to = (t * share // num_steps for share in (number, number + 1))
        moved = _ddim_move(x, predict(x, at), at, to, alphas_cumprod)
        return moved, None

    # Clean latents are taken as x_0 of the schedule's first, almost clean step.
    return jax.lax.scan(move, x0, jnp.arange(num_steps))[0]


def dreamtime_timesteps(
    alphas_cumprod: np.ndarray, num_steps: int, *, middle: float, width: float
) -> np.ndarray:
    """DreamTime's falling timesteps, one for each training step (arXiv:2306.12422).

    t(i) is where the weight W(t) = sqrt((1 - abar_t) / abar_t) exp(-(t - m)^2 / 2 s^2),
    normalised and summed from T down, reaches i / N.

    Args:
      alphas_cumprod: [T].
      num_steps: N.
      middle: m, timestep that most steps are spent near.
      width: s, above 0.

    Returns:
      [N] int32, not rising.
    """
    abar = np.asarray(alphas_cumprod, np.float64)
    t = np.arange(len(abar))
    prior = np.exp(-((t - middle) ** 2) / (2.0 * width**2))
    weights = np.sqrt((1.0 - abar) / abar) * prior
    from_above = np.cumsum(weights[::-1])[::-1] / weights.sum()
    share = (np.arange(num_steps) + 1) / num_steps
    nearest = np.abs(from_above[None] - share[:, None]).argmin(1)
    return np.minimum.accumulate(nearest).astype(np.int32)


def table_t_range(step: jax.Array, *, table: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """The timestep of a training step from a table [N], as a range of one."""
    t = jnp.asarray(table)[jnp.minimum(step, len(table) - 1)]
    return t, t


def _noisy(latents, noise, t, alphas_cumprod) -> jax.Array:
    return add_noise(jax.lax.stop_gradient(latents), noise, t, alphas_cumprod)


def _guided(predict: Predict, noisy, t, scale: float) -> jax.Array:
    if scale == 1.0:
        return predict(noisy, t, "text")
    return guide(predict(noisy, t, "empty"), predict(noisy, t, "text"), scale)


def _ddim_move(x, noise_pred, start, end, alphas_cumprod) -> jax.Array:
    x0 = to_x0(noise_pred, x, start, alphas_cumprod, "epsilon")
    return add_noise(x0, noise_pred, end, alphas_cumprod)


def _weighted(direction, t, alphas_cumprod, weighting: str) -> jax.Array:
    weight = w_t(t, alphas_cumprod, weighting=weighting, ndim=direction.ndim)
    return jax.lax.stop_gradient(weight * direction)


def _over(values: jax.Array, like: jax.Array) -> jax.Array:
    return values.reshape(-1, *(1,) * (like.ndim - 1))
