# SPDX-License-Identifier: Apache-2.0
"""The paper: Variational Score Distillation (ProlificDreamer, arXiv:2305.16213).

Theta are the parameters of a scene with renderer g(theta, c), x_0 its encoded render
and x_t = alpha_t x_0 + sigma_t noise. Every method follows, through the renderer,

    grad_theta = E_{t, noise, c}[ w(t) direction(x_t, t, c) dx_0 / dtheta ]

where no gradient flows through a network, and

    VSD (arXiv:2305.16213, Sec. 3.2)  direction = noise_prior - noise_score
    SDS (arXiv:2209.14988, Eq. 3)     direction = noise_prior - noise

noise_prior is the guided prediction of the frozen prior for the prompt y^c and
noise_score that of the score network phi at (x_t, t, c, y), trained on renders of the
particles themselves. SDS is VSD for a single particle (a Dirac) whose score is exact.

A method is a function of the noised views of one particle. Below `s` is the guidance
scale, eps(y) the prior's prediction for a text y. Each has the same two last arguments:
`guidance` (`diffusion/guidance.py`) and `weighting`, the name of w(t)
(`diffusion/noise.py`). One of your own:

    def denoise(views):  # towards the prior's x_0, without any baseline
        return views.guided(7.5)

    method = Method(denoise, "sigma_squared")
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from vsd_jax.diffusion.guidance import PLAIN, Guidance
from vsd_jax.methods.noised_views import NoisedViews
from vsd_jax.methods.protocol import SIGMA_SQUARED, Method
from vsd_jax.spec import Within


def vsd(
    *,
    guidance_scale: float,
    exact_below: Annotated[float, Within(0, 1)] = 0.0,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """Variational Score Distillation: eps_guided - eps_phi (arXiv:2305.16213).

    Args:
      guidance_scale: s.
      exact_below: share of T below which the noise itself takes the place of eps_phi:
        seen from one camera a single particle is a point, whose score that is; several
        are nearly so where noise is small beside their distances [ours].
      guidance: of the prior.
      weighting: name of w(t).

    Examples:
      >>> vsd.methods.vsd(guidance_scale=7.5).trains_score
      True
    """

    def direction(views: NoisedViews) -> jax.Array:
        score = views.score()
        if exact_below:
            exact = views.t < exact_below * len(views.alphas_cumprod)
            score = jnp.where(exact[:, None, None, None], views.noise, score)
        return views.guided(guidance_scale, guidance) - score

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, trains_score=True, goal=goal)


def sds(
    *,
    guidance_scale: float,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """Score Distillation Sampling: eps_guided - noise (arXiv:2209.14988, Eq. 3).

    Examples:
      >>> guidance = vsd.Guidance(guidance_rescale=0.5)
      >>> vsd.methods.sds(guidance_scale=100.0, guidance=guidance).trains_score
      False
    """

    def direction(views: NoisedViews) -> jax.Array:
        return views.guided(guidance_scale, guidance) - views.noise

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, goal=goal)
