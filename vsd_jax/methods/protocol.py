# SPDX-License-Identifier: Apache-2.0
"""What a method of score distillation is, and how it is bound to its networks.

Notation: `paper.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.guidance import PLAIN, Guidance, guide_away, guided_noise
from vsd_jax.diffusion.noise import add_noise, as_noise_fn, check_weighting, w_t
from vsd_jax.score_network import camera_vector
from vsd_jax.types import Draw, NoiseFn, Prior, PyTree, Score

At = tuple[jax.Array, jax.Array]
"""`(noisy [V, h, w, c], t [V])` other than the views' own."""

SIGMA_SQUARED = "sigma_squared"
"""w(t) = sigma_t^2, as in the code of ProlificDreamer and of threestudio."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisedViews:
    """The V views of one particle in one step, and what the networks say of them.

    Only what a method asks for is computed; `at` asks at other noisy latents.

    Attributes:
      latents: [V, h, w, c] x_0, without a gradient.
      noise: [V, h, w, c] standard normal.
      t: [V] int32.
      noisy: [V, h, w, c] x_t.
      alphas_cumprod: [T] float32.
      prior_fn: noise prediction of the prior.
      score_fn: of the score network over `(score_params, prior_params)`, or None.
      score_params: phi.
      prior_params: frozen weights.
      draw: prompts and cameras of the views.
    """

    latents: jax.Array
    noise: jax.Array
    t: jax.Array
    noisy: jax.Array
    alphas_cumprod: np.ndarray
    prior_fn: NoiseFn
    score_fn: NoiseFn | None
    score_params: PyTree
    prior_params: PyTree
    draw: Draw

    def prior(self, text: str, at: At | None = None) -> jax.Array:
        """The prior's prediction for one prompt: "text", "negative", "empty", ..."""
        noisy, t = at or (self.noisy, self.t)
        context = {"text": self.draw.prompts[text]}
        return self.prior_fn(self.prior_params, noisy, t, context)

    def guided(
        self, scale: float, guidance: Guidance = PLAIN, at: At | None = None
    ) -> jax.Array:
        """The prior's guided prediction, away from the negative prompt."""
        return guided_noise(**self._asked(at), scale=scale, guidance=guidance)

    def push(
        self, scale: float, guidance: Guidance = PLAIN, *, against: str
    ) -> jax.Array:
        """What guidance adds: s (eps(y) - eps(against)), clipped as `guidance` says."""
        pair = guide_away(
            **self._asked(None), scale=scale, guidance=guidance, against=against
        )
        return pair.noise - pair.base

    def score(self, *, camera: bool = True) -> jax.Array:
        """The score network's prediction, with or without the camera."""
        keep = jnp.full(self.t.shape, camera)
        context = {
            "text": self.draw.prompts["score"],
            "camera": camera_vector(self.draw.cameras.cam_to_world, keep),
        }
        params = (self.score_params, self.prior_params)
        return self.score_fn(params, self.noisy, self.t, context)

    def _asked(self, at: At | None) -> dict[str, Any]:
        noisy, t = at or (self.noisy, self.t)
        return {
            "noise_fn": self.prior_fn,
            "params": self.prior_params,
            "noisy": noisy,
            "t": t,
            "prompts": self.draw.prompts,
            "alphas_cumprod": self.alphas_cumprod,
        }


class Method(NamedTuple):
    """A method of score distillation.

    Attributes:
      direction: `(NoisedViews) -> [V, h, w, c]`, before w(t).
      weighting: name of w(t).
      trains_score: whether a score network is trained along.
      texts: prompts that it asks for beside `text`, `negative` and `score`.
    """

    direction: Callable[[NoisedViews], jax.Array]
    weighting: str
    trains_score: bool = False
    texts: tuple[str, ...] = ()


Residual = Callable[[jax.Array, Draw, PyTree, PyTree], jax.Array]
"""`(latents, draw, score_params, prior_params) -> w(t) direction`, both [V, h, w, c],
without a gradient."""


def bind(method: Method, prior: Prior, score: Score | None) -> Residual:
    """A method bound to its networks.

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
            prior_params=prior_params,
            draw=draw,
        )
        direction = method.direction(views)
        weight = w_t(
            draw.t,
            prior.alphas_cumprod,
            weighting=method.weighting,
            ndim=direction.ndim,
        )
        return jax.lax.stop_gradient(weight * direction)

    return residual
