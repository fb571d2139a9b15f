# SPDX-License-Identifier: Apache-2.0
"""Methods that compare predictions of the prior at two noise levels.

Notation: `paper.py`.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from vsd_jax.diffusion.guidance import PLAIN, Guidance
from vsd_jax.diffusion.noise import add_noise
from vsd_jax.methods.protocol import SIGMA_SQUARED, Method, NoisedViews
from vsd_jax.spec import Within

_SHIFT_FOLD = 2**32 - 3


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
        key = jax.random.fold_in(views.draw.stats_key, _SHIFT_FOLD)
        unit = jax.random.uniform(key, views.t.shape)
        above = jnp.maximum(views.t - round(t_shift_from * num_t), 0)
        added = (unit * t_shift * above).astype(jnp.int32)
        later = jnp.minimum(views.t + added, num_t - 1)
        noisier = add_noise(views.latents, views.noise, later, views.alphas_cumprod)
        own = views.prior("text", (noisier, later))
        return views.guided(guidance_scale, guidance) - own

    return Method(direction, weighting)
