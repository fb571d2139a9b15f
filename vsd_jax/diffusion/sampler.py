# SPDX-License-Identifier: Apache-2.0
"""Ancestral sampling of a prior: what distillation is compared with.

Notation as in `diffusion/noise.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.noise import guide, limit_x0, to_x0
from vsd_jax.types import Context, NoiseFn, PyTree


def ddim_sample(
    noise_fn: NoiseFn,
    params: PyTree,
    noise: jax.Array,
    context: Context,
    *,
    alphas_cumprod: np.ndarray,
    num_steps: int,
    context_uncond: Context | None = None,
    guidance_scale: float = 1.0,
    x0_limit: float | None = None,
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
      context: leaves [B, ...].
      alphas_cumprod: [T] float32.
      num_steps: number of network calls, 1 ... T.
      context_uncond: as `context`, for guidance; None = no guidance.
      guidance_scale: s of `guide`; needs `context_uncond` unless it is 1.
      x0_limit: clip each predicted x_0 to [-limit, limit]; None = no clipping.
      eta: share of the fresh noise, see above.
      key: consumed; needed where `eta` is not 0.

    Returns:
      [B, ...] samples.

    Raises:
      ValueError: for an impossible number of steps, or guidance without its context.
    """
    num_t = len(alphas_cumprod)
    if not 1 <= num_steps <= num_t:
        raise ValueError(f"num_steps must be in 1 ... {num_t}, not {num_steps}.")
    if context_uncond is None and guidance_scale != 1.0:
        raise ValueError("guidance_scale other than 1 needs context_uncond.")
    if eta and key is None:
        raise ValueError("eta other than 0 needs a key.")
    ts = np.linspace(num_t - 1, 0, num_steps, endpoint=num_steps == num_t)
    ts = np.round(ts).astype(np.int32)
    # alpha-bar after each step; the last one is the clean latent itself.
    signal_next = np.append(np.asarray(alphas_cumprod)[ts[1:]], 1.0).astype(np.float32)

    def denoise(x: jax.Array, at: tuple[jax.Array, jax.Array]):
        t, signal = jnp.full(x.shape[:1], at[0]), at[1]
        if context_uncond is None:
            noise_pred = noise_fn(params, x, t, context)
        else:
            noise_pred = guided_noise(
                noise_fn, params, x, t, (context_uncond, context), scale=guidance_scale
            )
        if x0_limit is not None:
            noise_pred = limit_x0(noise_pred, x, t, alphas_cumprod, limit=x0_limit)
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


def guided_noise(
    noise_fn: NoiseFn,
    params: PyTree,
    noisy: jax.Array,
    t: jax.Array,
    contexts: tuple[Context, Context],
    *,
    scale: float | jax.Array,
) -> jax.Array:
    """The guided prediction, (uncond, text) computed as one batch of 2 B."""
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *contexts)
    noise_pred = noise_fn(
        params, jnp.concatenate([noisy, noisy]), jnp.concatenate([t, t]), both
    )
    return guide(*jnp.split(noise_pred, 2), scale)
