# SPDX-License-Identifier: Apache-2.0
"""What a particle follows: methods bound to a prior and a score network.

Each maker returns `residual(latents, draw, score_params, prior_params) -> [V, h, w, c]`
for the views V of one particle, see `particle.Draw`. One of your own plugs in here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vsd_jax import vsd
from vsd_jax.diffusion.noise import add_noise, as_noise_fn, check_weighting, limit_x0
from vsd_jax.particle import Draw, Residual
from vsd_jax.types import NoiseModel, Prior, PyTree


def make_residual(
    prior: Prior,
    score: NoiseModel | None,
    *,
    guidance_scale: float,
    weighting: str,
    x0_limit: float = 0.0,
) -> Residual:
    """VSD with a score network, SDS without one (`vsd.py`).

    Args:
      prior: frozen prior.
      score: score network, or None.
      guidance_scale: s of the prior's guidance.
      weighting: name of w(t), see `score.noise.w_t`.
      x0_limit: bound of the guided x_0, see `score.noise.limit_x0`; 0 = none.

    Raises:
      ValueError: for an unknown weighting or prediction type.
    """
    check_weighting(weighting)
    prior_fn = as_noise_fn(prior.model, prior.alphas_cumprod)
    score_fn = score and as_noise_fn(score, prior.alphas_cumprod)

    def residual(
        latents: jax.Array, draw: Draw, score_params: PyTree, prior_params: PyTree
    ) -> jax.Array:
        t, noise, context = draw["t"], draw["noise"], draw["context"]
        noisy = add_noise(
            jax.lax.stop_gradient(latents), noise, t, prior.alphas_cumprod
        )
        noise_prior = vsd.prior_noise(
            prior_fn, prior_params, noisy, t, context, guidance_scale=guidance_scale
        )
        if x0_limit:
            noise_prior = limit_x0(
                noise_prior, noisy, t, prior.alphas_cumprod, limit=x0_limit
            )
        if score_fn is None:
            return vsd.sds_residual(
                noise_prior, noise, t, prior.alphas_cumprod, weighting=weighting
            )
        noise_score = score_fn(
            (score_params, prior_params), noisy, t, _score_context(draw, seen=True)
        )
        return vsd.vsd_residual(
            noise_prior, noise_score, t, prior.alphas_cumprod, weighting=weighting
        )

    return residual


def make_family_residual(
    method: Callable[..., jax.Array],
    prior: Prior,
    score: NoiseModel | None,
    *,
    weighting: str,
    **options: float,
) -> Residual:
    """A method of `family.py` as a residual.

    Args:
      method: such as `family.csd`.
      prior: frozen prior.
      score: score network, for the methods that ask for one.
      weighting: name of w(t), see `score.noise.w_t`.
      **options: what else the method takes, such as `guidance_scale`.

    Returns:
      See the module's docstring. The draw's context holds the prompts that the method
      asks for: `text`, `empty`, `negative`, `source` [V, L, D].

    Raises:
      ValueError: for an unknown weighting or prediction type.
    """
    check_weighting(weighting)
    prior_fn = as_noise_fn(prior.model, prior.alphas_cumprod)
    score_fn = score and as_noise_fn(score, prior.alphas_cumprod)

    def residual(
        latents: jax.Array, draw: Draw, score_params: PyTree, prior_params: PyTree
    ) -> jax.Array:
        def predict(noisy: jax.Array, t: jax.Array, name: str) -> jax.Array:
            if name in ("score", "score_empty"):
                context = _score_context(draw, seen=name == "score")
                return score_fn((score_params, prior_params), noisy, t, context)
            return prior_fn(prior_params, noisy, t, {"text": draw["context"][name]})

        return method(
            predict,
            latents,
            draw["noise"],
            draw["t"],
            alphas_cumprod=prior.alphas_cumprod,
            weighting=weighting,
            **options,
        )

    return residual


def _score_context(draw: Draw, *, seen: bool) -> PyTree:
    """Plain prompt and camera, the camera as zeros if it is not `seen`."""
    keep = jnp.full(draw["t"].shape, seen)
    camera = vsd.camera_vector(draw["cameras"].cam_to_world, keep)
    return {"text": draw["context"]["score"], "camera": camera}
