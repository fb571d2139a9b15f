# SPDX-License-Identifier: Apache-2.0
"""Ancestral sampling of a prior: what distillation is compared with.

Notation as in `diffusion/noise.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.guidance import PLAIN, Guidance, guided_noise
from vsd_jax.diffusion.noise import as_noise_fn, to_x0
from vsd_jax.types import NoiseFn, Prior, Prompts, PyTree


def ddim_sample(
    noise_fn: NoiseFn,
    params: PyTree,
    noise: jax.Array,
    prompts: Prompts,
    *,
    alphas_cumprod: np.ndarray,
    num_steps: int,
    guidance_scale: float = 1.0,
    guidance: Guidance = PLAIN,
    eta: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Samples by DDIM (`eta` 0) or DDPM (`eta` 1) (arXiv:2010.02502, Eq. 12, 16).

    Each step adds fresh noise of standard deviation eta sqrt((1 - b) / (1 - a))
    sqrt(1 - a / b), where a and b are alpha-bar before and after it: none at `eta` 0,
    that of DDPM's posterior (arXiv:2006.11239, Eq. 7) at 1. Timesteps are equally
    spaced and include T - 1; the last step goes to x_0 itself.

    Args:
      noise_fn: the noise prediction.
      params: its parameters.
      noise: [B, ...] standard normal start.
      prompts: `text` [B, L, D]; for guidance also `negative`, and for Perp-Neg what
        `guidance.guide_away` takes.
      alphas_cumprod: [T] float32.
      num_steps: number of network calls, 1 ... T.
      guidance_scale: s; 1 evaluates the text alone.
      guidance: what is done to the guided prediction (`guidance.Guidance`).
      eta: share of the fresh noise, see above.
      key: consumed; needed where `eta` is not 0.

    Returns:
      [B, ...] samples.

    Raises:
      ValueError: for an impossible number of steps, or guidance without its prompt.

    Examples:
      >>> alphas_cumprod = np.linspace(0.999, 0.001, 100).astype(np.float32)
      >>> one_image = vsd.exact.image_set(jnp.full((1, 1, 1, 1), 0.5), jnp.ones(1))
      >>> latents = vsd.ddim_sample(
      ...     vsd.exact.make_noise_fn(alphas_cumprod),
      ...     one_image,
      ...     jax.random.normal(jax.random.key(0), (4, 1, 1, 1)),
      ...     vsd.exact.empty_context(4, 1),
      ...     alphas_cumprod=alphas_cumprod,
      ...     num_steps=10,
      ... )
      >>> bool(jnp.allclose(latents, 0.5, atol=1e-3))
      True
    """
    num_t = len(alphas_cumprod)
    if not 1 <= num_steps <= num_t:
        raise ValueError(f"num_steps must be in 1 ... {num_t}, not {num_steps}.")
    if "negative" not in prompts and guidance_scale != 1.0:
        raise ValueError("guidance_scale other than 1 needs a negative prompt.")
    if eta and key is None:
        raise ValueError("eta other than 0 needs a key.")
    ts = np.linspace(num_t - 1, 0, num_steps, endpoint=num_steps == num_t)
    ts = np.round(ts).astype(np.int32)
    # alpha-bar after each step; the last one is the clean latent itself.
    signal_next = np.append(np.asarray(alphas_cumprod)[ts[1:]], 1.0).astype(np.float32)

    def denoise(x: jax.Array, at: tuple[jax.Array, jax.Array]):
        t, signal = jnp.full(x.shape[:1], at[0]), at[1]
        noise_pred = guided_noise(
            noise_fn,
            params,
            x,
            t,
            prompts,
            scale=guidance_scale,
            alphas_cumprod=alphas_cumprod,
            guidance=guidance,
        )
        x0 = to_x0(noise_pred, x, t, alphas_cumprod, "epsilon")
        if not eta:
            return jnp.sqrt(signal) * x0 + jnp.sqrt(1.0 - signal) * noise_pred, None
        before = jnp.asarray(alphas_cumprod)[at[0]]
        ratio = (1.0 - signal) / (1.0 - before) * (1.0 - before / signal)
        fresh = eta * jnp.sqrt(ratio)
        kept = jnp.sqrt(jnp.maximum(1.0 - signal - fresh**2, 0.0)) * noise_pred
        drawn = jax.random.normal(jax.random.fold_in(key, at[0]), x.shape)
        return jnp.sqrt(signal) * x0 + kept + fresh * drawn, None

    return jax.lax.scan(denoise, noise, (jnp.asarray(ts), jnp.asarray(signal_next)))[0]


def sample(
    prior: Prior,
    prior_params: PyTree,
    key: jax.Array,
    prompts: Prompts,
    *,
    num_steps: int,
    guidance_scale: float = 1.0,
    guidance: Guidance = PLAIN,
    eta: float = 0.0,
) -> jax.Array:
    """Images of a prior, by DDIM (`eta` 0) or DDPM (`eta` 1); see `ddim_sample`.

    Args:
      prior: the prior.
      prior_params: its weights.
      key: consumed.
      prompts: `text` [B, L, D], and `negative` [B, L, D] unless the scale is 1.
      num_steps: network calls, 1 ... T.
      guidance_scale: s of classifier-free guidance.
      guidance: what is done to the guided prediction.
      eta: share of fresh noise in each step, in [0, 1].

    Returns:
      [B, H, W, 3] in [0, 1].

    Examples:
      >>> alphas_cumprod = np.linspace(0.999, 0.001, 100).astype(np.float32)
      >>> prior = vsd.exact.make_prior(alphas_cumprod, latent_shape=(1, 1, 1))
      >>> one_image = vsd.exact.image_set(jnp.full((1, 1, 1, 1), 0.5), jnp.ones(1))
      >>> prompts = vsd.exact.empty_context(4, 1)
      >>> key = jax.random.key(0)
      >>> vsd.sample(prior, one_image, key, prompts, num_steps=10).shape
      (4, 1, 1, 1)
    """
    start_key, fresh_key = jax.random.split(key)
    shape = (len(prompts["text"]), *prior.latent_shape)
    latents = ddim_sample(
        as_noise_fn(prior.model, prior.alphas_cumprod),
        prior_params,
        jax.random.normal(start_key, shape),
        prompts,
        alphas_cumprod=prior.alphas_cumprod,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        guidance=guidance,
        eta=eta,
        key=fresh_key,
    )
    return prior.decode(prior_params, latents)
