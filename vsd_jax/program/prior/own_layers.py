# SPDX-License-Identifier: Apache-2.0
"""Where diffusers' Flax layers are not good enough, by a Linen interceptor.

- The gate's GELU is exact, as in PyTorch; theirs is the approximation.
- Self-attention over many tokens never forms the whole matrix of scores.
- In bfloat16 and float16 every attention has its scores, softmax and sums in float32;
  theirs takes them in the dtype of the activations. The time embedding is float32 too.
- Pixels are doubled by repeating them. Theirs gathers, whose gradient is a scatter-add
  of 16-bit numbers: slow on accelerators, and rounded at every sum.

Layers are known by the names of their classes: `diffusion_prior.py` alone imports
diffusers. Parameters keep their names and shapes.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vsd_jax.diffusion import attention


def own_layers(next_fun: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    """For `flax.linen.intercept_methods`."""
    module = context.module
    own = _OWN.get(type(module).__name__)
    if own is None or context.method_name != "__call__":
        return next_fun(*args, **kwargs)
    out = own(module, *args)
    return next_fun(*args, **kwargs) if out is None else out


def _gate(module: nn.Module, hidden: jax.Array, *_) -> jax.Array:
    linear, gate = jnp.split(module.proj(hidden), 2, axis=-1)
    return linear * jax.nn.gelu(gate, approximate=False)


def _unet_attention(
    module: nn.Module, hidden: jax.Array, text: jax.Array | None = None, *_
) -> jax.Array | None:
    many = text is None and hidden.shape[1] >= attention.MANY_TOKENS
    if not many and module.dtype == jnp.float32:
        return None
    seen = hidden if text is None else text
    projected = module.query(hidden), module.key(seen), module.value(seen)
    heads = map(module.reshape_heads_to_batch_dim, projected)
    attend = attention.self_attention if many else attention.attend
    return module.proj_attn(module.reshape_batch_dim_to_heads(attend(*heads)))


def _vae_attention(module: nn.Module, hidden: jax.Array, *_) -> jax.Array | None:
    if module.dtype == jnp.float32 or module.num_heads != 1:
        return None
    tokens = module.group_norm(hidden).reshape(len(hidden), -1, hidden.shape[-1])
    projected = module.query(tokens), module.key(tokens), module.value(tokens)
    many = tokens.shape[1] >= attention.MANY_TOKENS
    attend = attention.self_attention if many else attention.attend
    return module.proj_attn(attend(*projected)).reshape(hidden.shape) + hidden


def _upsample(module: nn.Module, hidden: jax.Array) -> jax.Array:
    batch, height, width, channels = hidden.shape
    shape = (batch, height, 2, width, 2, channels)
    doubled = jnp.broadcast_to(hidden[:, :, None, :, None], shape)
    return module.conv(doubled.reshape(batch, 2 * height, 2 * width, channels))


def _time_embedding(module: nn.Module, features: jax.Array, *_) -> jax.Array | None:
    if module.dtype == jnp.float32 or module.is_initializing():
        return None
    params = module.variables["params"]
    hidden = nn.silu(_affine_float32(params["linear_1"], features))
    return _affine_float32(params["linear_2"], hidden)


def _affine_float32(params: Any, inputs: jax.Array) -> jax.Array:
    kernel, bias = (params[name].astype(jnp.float32) for name in ("kernel", "bias"))
    exact = jax.lax.Precision.HIGHEST  # accelerators would round float32 factors
    return jnp.matmul(inputs, kernel, precision=exact) + bias[None]


_OWN = {
    "FlaxGEGLU": _gate,
    "FlaxAttention": _unet_attention,
    "FlaxAttentionBlock": _vae_attention,
    "FlaxTimestepEmbedding": _time_embedding,
    "FlaxUpsample2D": _upsample,
}
