# SPDX-License-Identifier: Apache-2.0
"""A small U-Net as score network, trained from scratch instead of LoRA.

The paper allows either (arXiv:2305.16213, Sec. 3.2) and uses a small U-Net where many
particles give it enough data. Residual blocks with the time, camera and (optionally)
pooled text embedding added, self-attention at the lowest resolution.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from vsd_jax.diffusion.draws import draw_like
from vsd_jax.diffusion.noise import PREDICTION_TYPES
from vsd_jax.spec import Within
from vsd_jax.types import Context, NoiseModel, PyTree

MAX_PERIOD = 10_000.0
LAST = "conv_out"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallUnetSpec:
    """A small U-Net.

    Attributes:
      channels: channels of the small U-Net at each resolution.
      num_groups: groups of its group normalisations.
      num_heads: heads of its self-attention at the lowest resolution.
    """

    channels: tuple[int, ...]
    num_groups: Annotated[int, Within(1, 128)]
    num_heads: Annotated[int, Within(1, 64)]


def sinusoidal_embedding(t: jax.Array, features: int) -> jax.Array:
    """Sines and cosines of t (arXiv:1706.03762, Sec. 3.5): [B] -> [B, features]."""
    half = features // 2
    rates = jnp.exp(-math.log(MAX_PERIOD) * jnp.arange(half) / half)
    angles = t.astype(jnp.float32)[:, None] * rates[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution twice, with the embedding added in between."""

    channels: int
    num_groups: int

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        """[B, h, w, c], [B, e] -> [B, h, w, channels]."""
        hidden = nn.silu(nn.GroupNorm(self.num_groups)(x))
        hidden = nn.Conv(self.channels, (3, 3))(hidden)
        hidden = hidden + nn.Dense(self.channels)(nn.silu(embedding))[:, None, None]
        hidden = nn.silu(nn.GroupNorm(self.num_groups)(hidden))
        hidden = nn.Conv(self.channels, (3, 3))(hidden)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels)(x)
        return x + hidden


class SmallUNet(nn.Module):
    """U-Net over [B, h, w, c] with t and camera; text if `use_text`.

    Attributes:
      channels: width of each resolution, each a multiple of `num_groups`; h and w must
        be divisible by 2^(len(channels) - 1).
      num_groups: of the group normalisations.
      num_heads: of the self-attention at the lowest resolution.
      use_text: add the mean over the text's tokens to the embedding.
    """

    channels: Sequence[int]
    num_groups: int
    num_heads: int
    use_text: bool

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, context: Context) -> jax.Array:
        """[B, h, w, c], [B] int32, context -> [B, h, w, c]."""
        embedding = self._embed(t, context)
        out_channels = x.shape[-1]
        x = nn.Conv(self.channels[0], (3, 3))(x)
        skips = []
        for level, width in enumerate(self.channels):
            if level > 0:
                x = nn.Conv(width, (3, 3), strides=(2, 2))(x)
            x = ResidualBlock(width, self.num_groups)(x, embedding)
            skips.append(x)
        x = self._attend(x)
        for level, width in reversed(list(enumerate(self.channels))):
            x = jnp.concatenate([x, skips[level]], axis=-1)
            x = ResidualBlock(width, self.num_groups)(x, embedding)
            if level > 0:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        x = nn.silu(nn.GroupNorm(self.num_groups)(x))
        return nn.Conv(out_channels, (3, 3), name=LAST)(x)

    def _embed(self, t: jax.Array, context: Context) -> jax.Array:
        features = 4 * self.channels[0]
        embedding = nn.Dense(features)(sinusoidal_embedding(t, self.channels[0]))
        embedding = nn.Dense(features)(nn.silu(embedding))
        camera = nn.silu(nn.Dense(features)(context["camera"]))
        embedding = embedding + nn.Dense(features)(camera)
        if self.use_text:
            text = jnp.mean(context["text"], axis=1)
            embedding = embedding + nn.Dense(features)(text)
        return embedding

    def _attend(self, x: jax.Array) -> jax.Array:
        batch, width = x.shape[0], x.shape[-1]
        tokens = nn.GroupNorm(self.num_groups)(x).reshape(batch, -1, width)
        heads = nn.Dense(3 * width)(tokens)
        heads = heads.reshape(batch, tokens.shape[1], 3, self.num_heads, -1)
        out = jax.nn.dot_product_attention(*jnp.moveaxis(heads, 2, 0))
        return x + nn.Dense(width)(out.reshape(tokens.shape)).reshape(x.shape)


def make_small_unet(
    *,
    latent_shape: tuple[int, int, int],
    text_shape: tuple[int, int],
    channels: Sequence[int],
    num_groups: int,
    num_heads: int,
    use_text: bool,
    prediction_type: str,
) -> tuple[Callable[[jax.Array], PyTree], NoiseModel]:
    """Makes the network and its initialiser.

    Args:
      latent_shape: (h, w, c).
      text_shape: (L, D) of the embedded prompt.
      channels: see `SmallUNet`.
      num_groups: see `SmallUNet`.
      num_heads: see `SmallUNet`.
      use_text: see `SmallUNet`.
      prediction_type: what its output shall mean.

    Returns:
      `(init(key) -> score_params, NoiseModel over (score_params, prior_params))`; the
      prior's parameters are not used.

    Raises:
      ValueError: if latents or widths do not fit, or for an unknown prediction type.
    """
    height, width, _ = latent_shape
    divisor = 2 ** (len(channels) - 1)
    if height % divisor or width % divisor:
        raise ValueError(
            f"Latents {height} x {width} cannot be halved {len(channels) - 1} times: "
            "use fewer entries in channels."
        )
    if any(count % num_groups for count in channels):
        raise ValueError(f"channels {channels} must be multiples of {num_groups}.")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {PREDICTION_TYPES}.")
    network = SmallUNet(tuple(channels), num_groups, num_heads, use_text)

    def init(key: jax.Array) -> PyTree:
        context = {"text": jnp.zeros((1, *text_shape)), "camera": jnp.zeros((1, 16))}
        latents = jnp.zeros((1, *latent_shape))
        t = jnp.zeros(1, jnp.int32)
        abstract = jax.eval_shape(network.init, jax.random.key(0), latents, t, context)
        return _fill(key, abstract["params"])

    def apply(params, noisy: jax.Array, t: jax.Array, context: Context) -> jax.Array:
        return network.apply({"params": params[0]}, noisy, t, context)

    return init, NoiseModel(apply, prediction_type)


def _fill(key: jax.Array, abstract: PyTree) -> PyTree:
    """Kernels N(0, 1 / fan-in), scales one, biases and the last convolution zero."""
    flat = traverse_util.flatten_dict(abstract)
    kernels = {path: leaf.shape for path, leaf in flat.items() if path[-1] == "kernel"}
    drawn = draw_like(key, kernels, sample=jax.random.normal)
    params = {
        path: jnp.full(leaf.shape, 1.0 if path[-1] == "scale" else 0.0)
        for path, leaf in flat.items()
    }
    for path, noise in drawn.items():
        if path[0] != LAST:
            params[path] = noise / math.sqrt(math.prod(noise.shape[:-1]))
    return traverse_util.unflatten_dict(params)
