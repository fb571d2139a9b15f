# SPDX-License-Identifier: Apache-2.0
"""The diffusion classifier: which text explains an image best under a prior.

Of several texts y the one that explains a picture x_0 best is that under which its
noise is predicted best (diffusion classifier, arXiv:2303.16203, Eq. 4 to 6):

    E_y = E_{t, noise} |noise_pred(alpha_t x_0 + sigma_t noise, t, y) - noise|^2

Only differences between texts mean something, so that all see the same (t, noise): most
of the variance is common and cancels (there, Sec. 3.2).
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.noise import add_noise
from vsd_jax.types import NoiseFn, PyTree


def denoising_errors(
    noise_fn: NoiseFn,
    params: PyTree,
    latents: jax.Array,
    texts: jax.Array,
    *,
    t: jax.Array,
    noise: jax.Array,
    alphas_cumprod: np.ndarray,
) -> jax.Array:
    """Mean square error of the noise prediction under each text, for one (t, noise).

    Args:
      noise_fn: the prior's noise prediction.
      params: its parameters.
      latents: [B, h, w, c] x_0.
      texts: [B, K, L, D] K embedded texts for each picture.
      t: [B] int32.
      noise: [B, h, w, c] standard normal.
      alphas_cumprod: [T] float32.

    Returns:
      [B, K] float32, per latent element.
    """
    chex.assert_equal_shape([latents, noise])
    batch, num_texts = texts.shape[:2]
    chex.assert_shape([latents, t], (batch, ...))
    noisy = add_noise(latents, noise, t, alphas_cumprod)

    def each_text(array):
        return jnp.repeat(array, num_texts, axis=0)

    context = {"text": texts.reshape(batch * num_texts, *texts.shape[2:])}
    predicted = noise_fn(params, each_text(noisy), each_text(t), context)
    square = jnp.square((predicted - each_text(noise)).astype(jnp.float32))
    axes = tuple(range(1, square.ndim))
    return jnp.mean(square, axis=axes).reshape(batch, num_texts)
