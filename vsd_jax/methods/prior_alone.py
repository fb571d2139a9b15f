# SPDX-License-Identifier: Apache-2.0
"""Methods that use differences of the prior's own predictions: no score network.

Notation: `paper.py`.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from vsd_jax.diffusion.guidance import PLAIN, WORDS, Guidance
from vsd_jax.methods.noised_views import NoisedViews
from vsd_jax.methods.protocol import SIGMA_SQUARED, Method
from vsd_jax.spec import Within


def csd(
    *,
    guidance_scale: float,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """Classifier Score Distillation: s (eps(y) - eps(empty)) (arXiv:2310.19415).

    The guidance direction alone: the gradient of log p(y | x_t), for which neither the
    added noise nor a score of the renders is subtracted.

    Examples:
      >>> vsd.methods.csd(guidance_scale=7.5).texts
      ('empty',)
    """

    def direction(views: NoisedViews) -> jax.Array:
        return views.push(guidance_scale, guidance, against="empty")

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, texts=("empty",), goal=goal)


def nfsd(
    *,
    guidance_scale: float,
    t_switch: Annotated[float, Within(0, 1)] = 0.2,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """Noise-Free Score Distillation: delta_D + s delta_C (arXiv:2310.17590).

    delta_C = eps(y) - eps(empty); the domain correction delta_D is eps(empty) below
    `t_switch` (a share of T: 200 of 1,000 in the paper), where x_t holds little noise,
    and eps(empty) - eps(negative) from there on, which cancels the noise. The negative
    prompt is the words for what is wrong with a picture, without those of a view
    (`vsd.not_overhead_deg`); where there are none, delta_D is 0 there.

    Args:
      guidance_scale: s.
      t_switch: share of T below which delta_D is eps(empty).
      guidance: of the prior.
      weighting: name of w(t).

    Examples:
      >>> vsd.methods.nfsd(guidance_scale=7.5, t_switch=0.2).texts
      ('empty',)
    """

    def direction(views: NoisedViews) -> jax.Array:
        push, empty = views.push_and_base(guidance_scale, guidance, against="empty")
        early = views.t < round(t_switch * len(views.alphas_cumprod))
        small = early.reshape(-1, *(1,) * (empty.ndim - 1))
        words = WORDS if WORDS in views.draw.prompts else "negative"
        bad = views.prior(words, x0_limit=guidance.x0_limit)
        return push + jnp.where(small, empty, empty - bad)

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, texts=("empty",), goal=goal)


def bridge(
    *,
    guidance_scale: float,
    guidance: Guidance = PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """Bridge to the target distribution: s (eps(y) - eps(source)) (arXiv:2406.09417).

    The renders are a distribution of their own, which a text can describe ("...,
    oversaturated, smooth"); its score takes the place of the learned one of VSD.

    Examples:
      >>> vsd.methods.bridge(guidance_scale=7.5).texts
      ('source',)
    """

    def direction(views: NoisedViews) -> jax.Array:
        return views.push(guidance_scale, guidance, against="source")

    goal = (guidance_scale, guidance)
    return Method(direction, weighting, texts=("source",), goal=goal)
