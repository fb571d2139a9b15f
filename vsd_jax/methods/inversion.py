# SPDX-License-Identifier: Apache-2.0
"""Methods that reach x_t by DDIM inversion of the render instead of adding noise.

Notation: `paper.py`. The weights below are those of the authors' code, and are settings
of a run: `weighting="sigma_over_alpha"` for both.
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.guidance import PLAIN, Guidance
from vsd_jax.diffusion.noise import add_noise, alpha_sigma, to_x0
from vsd_jax.methods.noised_views import (
    INVERSION_KEY,
    OVERSHOOT_KEY,
    NoisedViews,
    fresh_normal,
)
from vsd_jax.methods.protocol import SIGMA_SQUARED, Method
from vsd_jax.spec import Within


def ism(
    *,
    guidance_scale: float,
    interval: Annotated[float, Within(1e-3, 1)] = 0.05,
    num_inversions: Annotated[int, Within(1, 1000)] = 5,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """Interval Score Matching: eps(x_t, y) - eps(x_s, empty), s = t - interval.

    x_s is reached from x_0 by unconditional DDIM inversion in steps of
    T / num_inversions, the last one shorter, x_t from x_s by one more
    (arXiv:2311.11284); `interval` is a share of T (50 of 1,000 in the paper). The
    inversion starts from x_0 with the noise of t = 0, as in the authors' code
    (EnVision-Research/LucidDreamer @2ecf093), whose steps are of 200, five at most;
    there w(t) = sigma_t / alpha_t, and t ends within [0.02, 0.5].

    Args:
      guidance_scale: s.
      interval: t - s, a share of T.
      num_inversions: steps of DDIM inversion from 0 to T.
      guidance: of the prior.
      weighting: name of w(t).

    Examples:
      >>> vsd.methods.ism(guidance_scale=7.5, interval=0.05).texts
      ('empty',)
    """

    def direction(views: NoisedViews) -> jax.Array:
        abar, limit = views.alphas_cumprod, guidance.x0_limit
        earlier = jnp.maximum(views.t - max(1, round(interval * len(abar))), 0)
        x_s = ddim_invert(
            lambda x, at: views.prior("empty", (x, at), x0_limit=limit),
            add_noise(views.latents, views.noise, jnp.zeros_like(views.t), abar),
            earlier,
            alphas_cumprod=abar,
            stride=_stride(abar, num_inversions),
        )
        before = views.prior("empty", (x_s, earlier), x0_limit=limit)
        x_t = ddim_move(x_s, before, earlier, views.t, abar)
        return views.guided(guidance_scale, guidance, (x_t, views.t)) - before

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, texts=("empty",), goal=goal)


def sdi(
    *,
    guidance_scale: float,
    inversion_scale: Annotated[float, Within(-1000, 1000)] = -6.5,
    num_inversions: Annotated[int, Within(1, 1000)] = 10,
    inversion_noise: Annotated[float, Within(0, 1)] = 0.3,
    overshoot: Annotated[float, Within(0, 1)] = 0.1,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """Score Distillation via Inversion: SDS whose noise is that of DDIM inversion.

    kappa = (x - alpha_t x_0) / sigma_t for x inverted from x_0 with guidance
    `inversion_scale`; direction eps_guided(x, t) - kappa (arXiv:2405.15891). As in the
    authors' code (threestudio @28d9d80) the inversion has steps of T / num_inversions,
    of which the last goes to a time past t, and adds a share of DDPM's noise. Its
    scales s' are s = 1 + s' here: -7.5 is -6.5, and 7.5 is
    8.5. It is made for a falling t (`vsd.t_schedule="linear"`, there from 0.98 of T to
    0.25) and for w(t) = sigma_t / alpha_t.

    Args:
      guidance_scale: s.
      inversion_scale: guidance scale of the inversion.
      num_inversions: steps of DDIM inversion from 0 to T.
      inversion_noise: eta of the inversion; 0 = nothing random in it.
      overshoot: largest share of T by which the inversion goes past t.
      guidance: of the prior at the end; of it the inversion has `x0_limit` alone.
      weighting: name of w(t).

    Examples:
      >>> vsd.methods.sdi(guidance_scale=7.5, num_inversions=10).weighting
      'sigma_squared'
    """

    def direction(views: NoisedViews) -> jax.Array:
        abar = views.alphas_cumprod
        plain = Guidance(x0_limit=guidance.x0_limit)
        past = views.uniform(OVERSHOOT_KEY) * overshoot
        later = views.t + (past * len(abar)).astype(jnp.int32)
        x_t = ddim_invert(
            lambda x, at: views.guided(inversion_scale, plain, at=(x, at)),
            views.latents,
            views.t,
            past=jnp.minimum(later, len(abar) - 1) - views.t,
            alphas_cumprod=abar,
            stride=_stride(abar, num_inversions),
            eta=inversion_noise,
            keys=views.keys(INVERSION_KEY),
        )
        alpha_t, sigma_t = alpha_sigma(views.t, abar, ndim=x_t.ndim)
        kappa = (x_t - alpha_t * views.latents) / sigma_t
        return views.guided(guidance_scale, guidance, (x_t, views.t)) - kappa

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, goal=goal)


def ddim_invert(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    start: jax.Array,
    t: jax.Array,
    *,
    alphas_cumprod: np.ndarray,
    stride: int,
    past: jax.Array | int = 0,
    eta: float = 0.0,
    keys: jax.Array | None = None,
) -> jax.Array:
    """From x at t = 0 to x_t along the deterministic path (arXiv:2010.02502).

    The inverse of DDIM sampling up to its discretisation: each step has the noise
    predicted at its start. A view at t takes ceil(t / stride) steps; with views at
    several t all wait for the last.

    Args:
      predict: `(noisy, t) -> noise`.
      start: [B, h, w, c] latents with the noise of the schedule's first step.
      t: [B] int32, where to arrive; each view its own.
      alphas_cumprod: [T].
      stride: timesteps of a step, >= 1; the last one is what is left.
      past: [B] by how much the last step goes on beyond t.
      eta: share of DDPM's standard deviation that each step adds as fresh noise.
      keys: [B] typed keys of that noise; read only where `eta` is not 0.

    Returns:
      [B, h, w, c] x at t + past.
    """

    def move(state: tuple[jax.Array, jax.Array]):
        number, x = state
        at, to = number * stride, (number + 1) * stride
        to = jnp.where(to < t, to, t + past)
        at = jnp.minimum(at, t)  # of a view that has arrived, which stays
        moved = ddim_move(x, predict(x, at), at, to, alphas_cumprod)
        if eta:
            fresh = fresh_normal(keys, number, start.shape[1:])
            moved += eta * _ddpm_std(at, to, alphas_cumprod, ndim=x.ndim) * fresh
        arrived = (at == t).reshape((-1,) + (1,) * (x.ndim - 1))
        return number + 1, jnp.where(arrived, x, moved)

    most = jnp.max(-(-t // stride))
    begin = jnp.zeros((), jnp.int32), start
    return jax.lax.while_loop(lambda state: state[0] < most, move, begin)[1]


def _stride(alphas_cumprod: np.ndarray, num_inversions: int) -> int:
    return max(1, round(len(alphas_cumprod) / num_inversions))


def ddim_move(
    x: jax.Array,
    noise_pred: jax.Array,
    start: jax.Array,
    end: jax.Array,
    alphas_cumprod: np.ndarray,
) -> jax.Array:
    """Moves x from t = `start` to `end`, in either direction (DDIM, eta 0)."""
    x0 = to_x0(noise_pred, x, start, alphas_cumprod, "epsilon")
    return add_noise(x0, noise_pred, end, alphas_cumprod)


def _ddpm_std(earlier, later, alphas_cumprod, *, ndim: int) -> jax.Array:
    """Of DDPM's step from `later` to `earlier` (arXiv:2010.02502, Eq. 16, eta 1)."""
    (alpha, sigma), (alpha_later, sigma_later) = (
        alpha_sigma(t, alphas_cumprod, ndim=ndim) for t in (earlier, later)
    )
    lost = jnp.maximum(1.0 - (alpha_later / alpha) ** 2, 0.0)
    return sigma / sigma_later * jnp.sqrt(lost)
