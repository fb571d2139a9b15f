# SPDX-License-Identifier: Apache-2.0
"""Methods that reach x_t by DDIM inversion of the render instead of adding noise.

Notation: `paper.py`.
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.guidance import PLAIN, Guidance
from vsd_jax.diffusion.noise import add_noise, alpha_sigma, to_x0
from vsd_jax.methods.protocol import SIGMA_SQUARED, Method, NoisedViews
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

    x_s is reached from x_0 by `num_inversions` steps of unconditional DDIM inversion,
    x_t from x_s by one more (arXiv:2311.11284); `interval` is a share of T (50 of 1,000
    in the paper). Nothing is random but t.

    Args:
      guidance_scale: s.
      interval: t - s, a share of T.
      num_inversions: steps of DDIM inversion.
      guidance: of the prior.
      weighting: name of w(t).

    Examples:
      >>> vsd.methods.ism(guidance_scale=7.5, interval=0.05).texts
      ('empty',)
    """

    def direction(views: NoisedViews) -> jax.Array:
        abar = views.alphas_cumprod
        earlier = jnp.maximum(views.t - max(1, round(interval * len(abar))), 0)
        x_s = ddim_invert(
            lambda x, at: views.prior("empty", (x, at)),
            views.latents,
            earlier,
            alphas_cumprod=abar,
            num_steps=num_inversions,
        )
        before = views.prior("empty", (x_s, earlier))
        x_t = _ddim_move(x_s, before, earlier, views.t, abar)
        return views.guided(guidance_scale, guidance, (x_t, views.t)) - before

    return Method(direction, weighting, texts=("empty",))


def sdi(
    *,
    guidance_scale: float,
    inversion_scale: Annotated[float, Within(-1000, 1000)] = -7.5,
    num_inversions: Annotated[int, Within(1, 1000)] = 5,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """Score Distillation via Inversion: SDS whose noise is that of DDIM inversion.

    kappa = the noise that x_t, inverted from x_0 with guidance `inversion_scale` (-7.5
    in the paper), implies; direction eps_guided(x_t) - kappa (arXiv:2405.15891).

    Args:
      guidance_scale: s.
      inversion_scale: guidance scale of the inversion.
      num_inversions: steps of DDIM inversion.
      guidance: of the prior.
      weighting: name of w(t).

    Examples:
      >>> vsd.methods.sdi(guidance_scale=7.5, num_inversions=10).weighting
      'sigma_squared'
    """

    def direction(views: NoisedViews) -> jax.Array:
        abar = views.alphas_cumprod
        x_t = ddim_invert(
            lambda x, at: views.guided(inversion_scale, at=(x, at)),
            views.latents,
            views.t,
            alphas_cumprod=abar,
            num_steps=num_inversions,
        )
        alpha_t, sigma_t = alpha_sigma(views.t, abar, ndim=x_t.ndim)
        kappa = (x_t - alpha_t * views.latents) / sigma_t
        return views.guided(guidance_scale, guidance, (x_t, views.t)) - kappa

    return Method(direction, weighting)


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


def _ddim_move(x, noise_pred, start, end, alphas_cumprod) -> jax.Array:
    x0 = to_x0(noise_pred, x, start, alphas_cumprod, "epsilon")
    return add_noise(x0, noise_pred, end, alphas_cumprod)
