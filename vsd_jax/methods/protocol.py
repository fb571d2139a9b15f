# SPDX-License-Identifier: Apache-2.0
"""The interface of a method of score distillation.

Notation: `paper.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.guidance import PLAIN, Guidance
from vsd_jax.diffusion.noise import (
    add_noise,
    as_noise_fn,
    check_weighting,
    to_x0,
    w_t,
)
from vsd_jax.methods.noised_views import NoisedViews, OwnGradient
from vsd_jax.score_network import camera_vector, score_errors
from vsd_jax.types import Draw, Prior, PyTree, Score

SIGMA_SQUARED = "sigma_squared"
"""w(t) = sigma_t^2, as in the code of ProlificDreamer and of threestudio."""


class Method(NamedTuple):
    """A method of score distillation.

    Attributes:
      direction: `(NoisedViews) -> [V, h, w, c]`, before w(t).
      weighting: name of w(t).
      trains_score: whether a score network is trained.
      texts: prompts that it needs beside `text`, `negative` and `score`.
      goal: scale and options of the guided prediction whose x_0 the weighting "dmd"
        divides by the distance to.
    """

    direction: Callable[[NoisedViews], jax.Array]
    weighting: str
    trains_score: bool = False
    texts: tuple[str, ...] = ()
    goal: tuple[float, Guidance] = (1.0, PLAIN)


Residual = Callable[[jax.Array, Draw, PyTree, PyTree], jax.Array]
"""`(latents, draw, score_params, prior_params) -> w(t) direction`, both [V, h, w, c],
without a gradient."""


def bind(
    method: Method,
    prior: Prior,
    score: Score | None,
    *,
    mean_shares: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> Residual:
    """Makes the residual w(t) direction of a method for given networks.

    Args:
      method: the method.
      prior: the frozen prior.
      score: the score network, or None.
      mean_shares: mean over the devices that each render a share of a particle's views.

    Raises:
      ValueError: for an unknown weighting or prediction type, or if the method needs a
        score network and there is none.

    Examples:
      >>> levels = np.linspace(0.999, 0.001, 100).astype(np.float32)
      >>> prior = vsd.exact.make_prior(levels, latent_shape=(1, 1, 1))
      >>> residual = vsd.methods.bind(vsd.methods.sds(guidance_scale=7.5), prior, None)
      >>> callable(residual)
      True
    """
    check_weighting(method.weighting)
    if method.trains_score and score is None:
        raise ValueError("The method follows a score network: give one, or use sds.")
    prior_fn = as_noise_fn(prior.model, prior.alphas_cumprod)
    score_fn = score and as_noise_fn(score.model, prior.alphas_cumprod)
    abar = prior.alphas_cumprod
    score_gradient = make_own_gradient(score, abar, mean_shares=mean_shares)

    def residual(
        latents: jax.Array, draw: Draw, score_params: PyTree, prior_params: PyTree
    ) -> jax.Array:
        x0 = jax.lax.stop_gradient(latents)
        views = NoisedViews(
            latents=x0,
            noise=draw.noise,
            t=draw.t,
            noisy=add_noise(x0, draw.noise, draw.t, prior.alphas_cumprod),
            alphas_cumprod=prior.alphas_cumprod,
            prior_fn=prior_fn,
            score_fn=score_fn,
            score_params=score_params,
            score_gradient=score_gradient,
            prior_params=prior_params,
            draw=draw,
            weighting=method.weighting,
            camera_dropout=score.camera_dropout if score else 0.0,
        )
        direction = method.direction(views)
        weight = w_t(
            draw.t,
            prior.alphas_cumprod,
            weighting=method.weighting,
            ndim=direction.ndim,
        )
        if method.weighting == "dmd":
            weight = weight / _distance(views, *method.goal)
        return jax.lax.stop_gradient(weight * direction)

    return residual


def make_own_gradient(
    score: Score | None,
    alphas_cumprod: np.ndarray,
    *,
    mean_shares: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> OwnGradient | None:
    """Makes the gradient in phi of one particle's loss in this step's first update.

    Returns:
      `(score_params, prior_params, latents [V, h, w, c], draw) -> like score_params`,
      with the t and noise that the update itself draws and over all views, also those
      of other devices; None if the network is not trained.
    """
    if score is None or not score.updates:
        return None

    def loss(score_params, prior_params, latents, draw):
        camera = camera_vector(draw.cameras.cam_to_world, draw.score.keep[0])
        errors = score_errors(
            score.model,
            (score_params, prior_params),
            latents,
            draw.score.t[0],
            draw.score.noise[0],
            context={"text": draw.prompts["score"], "camera": camera},
            alphas_cumprod=alphas_cumprod,
            sigma_floor=score.sigma_floor,
        )
        return jnp.mean(errors)

    def gradient(*given) -> PyTree:
        return mean_shares(jax.grad(loss)(*given))

    return gradient


def _distance(views: NoisedViews, scale: float, guidance: Guidance) -> jax.Array:
    """Mean |x_0 - prior's x_0| of each view, [V, 1, ...] (arXiv:2311.18828).

    As in its Algorithm 2; Eq. 7 and 8 have a factor alpha_t more.
    """
    guidance = dataclasses.replace(guidance, guidance_t=PLAIN.guidance_t)
    predicted = views.guided(scale, guidance)
    x0 = to_x0(predicted, views.noisy, views.t, views.alphas_cumprod, "epsilon")
    axes = tuple(range(1, x0.ndim))
    distance = jnp.mean(jnp.abs(views.latents - x0), axis=axes, keepdims=True)
    return jnp.maximum(distance, jnp.finfo(distance.dtype).tiny)
