# SPDX-License-Identifier: Apache-2.0
"""VSD whose score network looks ahead to what it is about to learn.

Notation: `paper.py`.
"""

from typing import Annotated

import jax

from vsd_jax.diffusion.guidance import PLAIN, Guidance
from vsd_jax.methods.noised_views import NoisedViews
from vsd_jax.methods.protocol import SIGMA_SQUARED, Method
from vsd_jax.spec import Within


def l2_vsd(
    *,
    guidance_scale: float,
    lookahead_rate: Annotated[float, Within(0, 100)] = 0.01,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """L2-VSD: eps_guided - (eps_phi + J dphi), dphi = -eta grad_phi loss(phi).

    VSD's phi has learned the renders of the step before; here its prediction is moved
    by the first-order term of the gradient step that these renders will cause
    (arXiv:2507.09748; the step itself overfits and collapses there). J = d eps_phi /
    dphi at x_t. The loss is that of the particle's own renders, with the t and noise of
    the next update: for one particle that update itself, without AdamW's scaling. A
    gradient of the size of phi for each particle is held in memory.

    Args:
      guidance_scale: s.
      lookahead_rate: eta; the paper finds 1e-3 to 1 alike.
      guidance: of the prior.
      weighting: name of w(t).

    Examples:
      >>> vsd.methods.l2_vsd(guidance_scale=7.5).trains_score
      True
    """

    def direction(views: NoisedViews) -> jax.Array:
        ahead = views.score_ahead(lookahead_rate)
        return views.guided(guidance_scale, guidance) - ahead

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, trains_score=True, goal=goal)
