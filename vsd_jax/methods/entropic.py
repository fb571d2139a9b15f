# SPDX-License-Identifier: Apache-2.0
"""Entropic Score Distillation: VSD whose renders also stay spread over the views.

Notation: `paper.py`.
"""

from typing import Annotated

import jax

from vsd_jax.diffusion.guidance import PLAIN, Guidance, guide
from vsd_jax.methods.noised_views import NoisedViews
from vsd_jax.methods.protocol import SIGMA_SQUARED, Method
from vsd_jax.spec import Within


def esd(
    *,
    guidance_scale: float,
    score_scale: Annotated[float, Within(-10, 10)] = 0.5,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """Entropic Score Distillation: VSD with guidance in the score network too.

    noise_score = eps_phi(no camera) + g (eps_phi(camera) - eps_phi(no camera)) with
    g = `score_scale` (arXiv:2401.00909): g = 1 is VSD; below it the entropy over all
    views is kept up, which works against several faces. The score network needs a
    `camera_dropout` between 0 and 1, or it has learned one of the two alone.

    Args:
      guidance_scale: s.
      score_scale: g, guidance of the score network by the camera.
      guidance: of the prior.
      weighting: name of w(t).

    Examples:
      >>> vsd.methods.esd(guidance_scale=7.5, score_scale=0.5).trains_score
      True
    """

    def direction(views: NoisedViews) -> jax.Array:
        without = views.score(camera=False)
        noise_score = guide(without, views.score(), score_scale)
        return views.guided(guidance_scale, guidance) - noise_score

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, trains_score=True, goal=goal)
