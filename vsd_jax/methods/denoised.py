# SPDX-License-Identifier: Apache-2.0
"""Methods whose target is a picture denoised in several steps.

Notation: `paper.py`.
"""

from typing import Annotated

import jax

from vsd_jax.diffusion.guidance import PLAIN, Guidance
from vsd_jax.diffusion.noise import add_noise, alpha_sigma, to_x0
from vsd_jax.methods.noised_views import NoisedViews
from vsd_jax.methods.protocol import SIGMA_SQUARED, Method
from vsd_jax.spec import Within


def sdedit(
    *,
    guidance_scale: float,
    num_denoisings: Annotated[int, Within(1, 1000)] = 4,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """SDS towards SDEdit's picture: x_t is denoised in several steps, not in one.

    x_0' = what `num_denoisings` equal steps of guided DDIM (arXiv:2010.02502) make of
    x_t, as SDEdit does with a picture (arXiv:2108.01073); direction
    (x_t - alpha_t x_0') / sigma_t - noise = alpha_t / sigma_t (x_0 - x_0'). One step is
    SDS, whose target is the mean of all pictures that x_t may come from and is blurred;
    several end at one of them. Instruct-NeRF2NeRF (arXiv:2303.12789) fits a scene to
    such pictures; here each is used once.

    Args:
      guidance_scale: s.
      num_denoisings: steps of DDIM from x_t to x_0.
      guidance: of the prior.
      weighting: name of w(t).

    Examples:
      >>> vsd.methods.sdedit(guidance_scale=3.0, num_denoisings=6).trains_score
      False
    """

    def direction(views: NoisedViews) -> jax.Array:
        abar = views.alphas_cumprod

        def denoise(number: jax.Array, now: tuple[jax.Array, jax.Array]):
            # From t down to one step above 0, each view from its own t.
            at, to = (
                views.t * (num_denoisings - done) // num_denoisings
                for done in (number, number + 1)
            )
            x, _ = now
            predicted = views.guided(guidance_scale, guidance, (x, at))
            x0 = to_x0(predicted, x, at, abar, "epsilon")
            return add_noise(x0, predicted, to, abar), x0

        start = (views.noisy, views.latents)
        _, x0 = jax.lax.fori_loop(0, num_denoisings, denoise, start)
        alpha_t, sigma_t = alpha_sigma(views.t, abar, ndim=x0.ndim)
        return (views.noisy - alpha_t * x0) / sigma_t - views.noise

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, goal=goal)
