# SPDX-License-Identifier: Apache-2.0
"""Methods that compare predictions of the prior at two noise levels.

Notation: `paper.py`.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from vsd_jax.diffusion.guidance import PLAIN, Guidance
from vsd_jax.diffusion.noise import add_noise
from vsd_jax.methods.inversion import ddim_move
from vsd_jax.methods.noised_views import ASD_KEY, CONSISTENT3D_KEY, NoisedViews
from vsd_jax.methods.protocol import SIGMA_SQUARED, Method
from vsd_jax.spec import Within
from vsd_jax.timesteps import shares_to_range, uniform_t


def asd(
    *,
    guidance_scale: float,
    t_shift: Annotated[float, Within(0, 1)] = 0.1,
    t_shift_from: Annotated[float, Within(0, 1)] = 0.02,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """Asynchronous Score Distillation: eps_guided(x_t) - eps(x_t+d, y).

    The frozen prior at a noisier time t + d takes the place of VSD's score network: it
    errs less there, as a fine-tuned one does. d ~ U[0, t_shift (t - t_min)], the same
    noise at both times, no guidance in the second (arXiv:2407.02040, with the published
    code theEricMa/ScaleDreamer @faac9c9: 0.1 and 7.5).

    Args:
      guidance_scale: s.
      t_shift: eta, largest share of t - t_min that is added to t.
      t_shift_from: t_min as a share of T; there d is 0.
      guidance: of the prior.
      weighting: name of w(t).

    Examples:
      >>> vsd.methods.asd(guidance_scale=7.5).trains_score
      False
    """

    def direction(views: NoisedViews) -> jax.Array:
        num_t = len(views.alphas_cumprod)
        unit = views.uniform(ASD_KEY)
        above = jnp.maximum(views.t - round(t_shift_from * num_t), 0)
        added = (unit * t_shift * above).astype(jnp.int32)
        later = jnp.minimum(views.t + added, num_t - 1)
        noisier = add_noise(views.latents, views.noise, later, views.alphas_cumprod)
        limit = guidance.x0_limit
        own = views.prior("text", (noisier, later), x0_limit=limit)
        return views.guided(guidance_scale, guidance) - own

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, goal=goal)


def consistent3d(
    *,
    guidance_scale: float,
    consistency_gap: Annotated[tuple[float, float], Within(0, 1)] = (0.1, 0.3),
    shared_noise: bool = True,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """Consistent3D: eps_guided(x_u, u) - eps_guided(x_t, t), u noisier than t.

    x_u = alpha_u x_0 + sigma_u n, and x_t is what one guided step of DDIM makes of it:
    where the two agree, the render lies on a path of the prior. n is one noise for all
    views and steps of a particle. Consistency distillation sampling (arXiv:2401.09050),
    as in the authors' code (sail-sg/Consistent3D @9118a5c), whose t falls (0.7 to 0.1
    of T) with the square root of the step, with w(t) = 1 and guidance from 100 to 50, s
    = 1 + s' there.

    Args:
      guidance_scale: s.
      consistency_gap: (low, high) of u - t, shares of T, drawn evenly.
      shared_noise: whether n is one for all views and steps, else the step's own.
      guidance: of the prior.
      weighting: name of w(t).

    Examples:
      >>> vsd.methods.consistent3d(guidance_scale=50.0).trains_score
      False
    """

    def direction(views: NoisedViews) -> jax.Array:
        abar = views.alphas_cumprod
        gap = shares_to_range(consistency_gap, len(abar))
        added = uniform_t(views.uniform(CONSISTENT3D_KEY), gap)
        noisier_t = jnp.minimum(views.t + added, len(abar) - 1)
        noise = views.shared_noise() if shared_noise else views.noise
        x_u = add_noise(views.latents, noise, noisier_t, abar)
        noisier = views.guided(guidance_scale, guidance, (x_u, noisier_t))
        x_t = ddim_move(x_u, noisier, noisier_t, views.t, abar)
        return noisier - views.guided(guidance_scale, guidance, (x_t, views.t))

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, goal=goal)
