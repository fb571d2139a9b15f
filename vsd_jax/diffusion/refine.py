# SPDX-License-Identifier: Apache-2.0
"""A refining head: fine detail for a denoiser of coarse patches.

A U-Net over 4 x 4-pixel patches says 48 numbers through its 64 channels, so neither
noise nor detail of a few pixels can pass. The head looks at finer patches, sees x_t
itself beside the U-Net's clean image u, and gives

    x_0 = b + s r(b, d, log SNR),
    b = u + g (x_t / alpha_t - u),      g = alpha^2 v / (alpha^2 v + sigma^2)
    d = (x_t - alpha_t u) / sqrt(alpha^2 v + sigma^2)

with v the variance of what u misses: b is then the linear estimate of least squared
error from u and x_t, s^2 = v sigma^2 / (alpha^2 v + sigma^2) the variance that it
leaves, and r a small residual network of 3 x 3 convolutions that starts at zero.
As sigma falls, g goes to one: what is given is kept.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

START_VARIANCE = 0.009
"""v at the start: the embedded U-Net's squared error on true images at low noise."""
_RATES = (0.2, 0.4, 0.8, 1.6)  # of the sines of log SNR, which spans -17 ... 8


def split_patches(latents: jax.Array, factor: int) -> jax.Array:
    """Patches of side p to finer ones: [B, h, w, 3 p^2] -> [B, f h, f w, 3 (p / f)^2].

    Args:
      latents: rows, columns and colours of a patch in the last axis, in that order.
      factor: f, a divisor of p.
    """
    batch, rows, columns, channels = latents.shape
    side = round((channels // 3) ** 0.5) // factor
    cells = latents.reshape(batch, rows, columns, factor, side, factor, side, 3)
    cells = cells.transpose(0, 1, 3, 2, 5, 4, 6, 7)
    return cells.reshape(batch, rows * factor, columns * factor, 3 * side * side)


def join_patches(latents: jax.Array, factor: int) -> jax.Array:
    """Inverse of `split_patches`."""
    batch, rows, columns, channels = latents.shape
    rows, columns = rows // factor, columns // factor
    side = round((channels // 3) ** 0.5)
    cells = latents.reshape(batch, rows, factor, columns, factor, side, side, 3)
    cells = cells.transpose(0, 1, 3, 2, 5, 4, 6, 7)
    return cells.reshape(batch, rows, columns, 3 * (factor * side) ** 2)


class _Head(nn.Module):
    """Residual network r over fine patches, modulated by log SNR (arXiv:1709.07871)."""

    channels: int
    depth: int

    @nn.compact
    def __call__(self, image: jax.Array, log_snr: jax.Array) -> jax.Array:
        """[B, h, w, 2 c] and [B] -> [B, h, w, c]."""
        angles = log_snr[:, None] * jnp.asarray(_RATES)[None]
        features = [jnp.sin(angles), jnp.cos(angles), log_snr[:, None] / 8.0]
        level = nn.Dense(self.channels, name="level")(jnp.concatenate(features, -1))
        level = nn.silu(level)
        hidden = nn.Conv(self.channels, (3, 3), name="conv_in")(image)
        for index in range(self.depth):
            modulated = self._modulate(hidden, level, f"film_{index}")
            hidden += nn.Conv(self.channels, (3, 3), name=f"conv_{index}")(modulated)
        modulated = self._modulate(hidden, level, "film_out")
        return nn.Conv(
            image.shape[-1] // 2,
            (3, 3),
            name="conv_out",
            kernel_init=nn.initializers.zeros_init(),
        )(modulated)

    def _modulate(self, hidden: jax.Array, level: jax.Array, name: str) -> jax.Array:
        zeros = nn.initializers.zeros_init()
        both = nn.Dense(2 * self.channels, name=name, kernel_init=zeros)(level)
        scale, shift = jnp.split(both[:, None, None], 2, axis=-1)
        return nn.silu(hidden * (1.0 + scale) + shift)


class Refiner(nn.Module):
    """The head of the module's docstring; its parameters stand under "refine".

    Attributes:
      channels: width of the residual network.
      depth: its 3 x 3 convolutions between the first and the last.
      factor: how many times finer its patches are.
    """

    channels: int
    depth: int
    factor: int

    @nn.compact
    def __call__(
        self, noisy: jax.Array, coarse: jax.Array, alphas_cumprod: jax.Array
    ) -> jax.Array:
        """The refined clean latents.

        Args:
          noisy: [B, h, w, 3 p^2] x_t.
          coarse: [B, h, w, 3 p^2] u, the clean latents as the U-Net sees them.
          alphas_cumprod: [B] alpha_t^2 in (0, 1).

        Returns:
          [B, h, w, 3 p^2] float32.
        """
        return _Refine(self.channels, self.depth, self.factor, name="refine")(
            noisy, coarse, alphas_cumprod
        )


class _Refine(nn.Module):
    channels: int
    depth: int
    factor: int

    @nn.compact
    def __call__(
        self, noisy: jax.Array, coarse: jax.Array, alphas_cumprod: jax.Array
    ) -> jax.Array:
        def start(key, shape):
            del key
            return jnp.full(shape, jnp.log(START_VARIANCE))

        log_v = self.param("log_variance", start, (noisy.shape[-1],))
        v = jnp.exp(log_v.astype(jnp.float32)).reshape(1, 1, 1, -1)
        signal = alphas_cumprod.astype(jnp.float32).reshape(-1, 1, 1, 1)
        alpha, noise = jnp.sqrt(signal), 1.0 - signal
        total = signal * v + noise
        missed = noisy - alpha * coarse
        base = coarse + alpha * v / total * missed
        fine = [
            split_patches(part, self.factor)
            for part in (base, missed * jax.lax.rsqrt(total))
        ]
        log_snr = jnp.log(alphas_cumprod) - jnp.log1p(-alphas_cumprod)
        residual = _Head(self.channels, self.depth, name="head")(
            jnp.concatenate(fine, -1), log_snr
        )
        left = jnp.sqrt(v * noise / total)
        return base + left * join_patches(residual, self.factor)
