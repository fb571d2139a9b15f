# SPDX-License-Identifier: Apache-2.0
"""A U-Net that reads the exact camera beside the text: a multi-view prior.

An MLP of the flattened cam_to_world (two affine maps, SiLU between) is added to the
embedding of every token of the text, which each cross-attention reads. (MVDream,
arXiv:2308.16512, Sec. 3.2, adds it to the time embedding. There the embedded prior
learned nothing from it in the first 1,500 steps: docs/model_card.md.) Zeros stand for a
camera that is not told, as in the score network (`lora.py`): nothing is added, and it
is the U-Net without these layers.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vsd_jax.diffusion.lora import camera_embedding, init_camera_mlp
from vsd_jax.types import Context, PyTree

PARAMS = "camera_embedding"
"""Of the U-Net's parameters, those of the camera."""


def add_params(init: Callable[..., PyTree], width: int) -> Callable[..., PyTree]:
    """`(key) -> params` of a U-Net with the camera's layers, without effect at first.

    Args:
      init: of the U-Net without them.
      width: D, of the embedded text.
    """

    def with_camera(key: jax.Array) -> PyTree:
        camera_key = jax.random.fold_in(key, 2)
        layers = init_camera_mlp(camera_key, width, zero_last=True)
        return init(key) | {PARAMS: layers}

    return with_camera


def reading_camera(
    unet_fn: Callable[..., jax.Array], *, told: bool
) -> Callable[..., jax.Array]:
    """`({"unet": ...}, latents, t, context) -> output`, which depends on the camera.

    Args:
      unet_fn: of the U-Net without these layers.
      told: whether `context["camera"]` [B, 16] is read, where there is one; else the
        U-Net sees the text alone.
    """

    def apply(params: PyTree, latents: jax.Array, t: jax.Array, context: Context):
        camera = context.get("camera") if told else None
        if camera is None:
            return unet_fn(params, latents, t, context)
        embedding = camera_embedding(params["unet"][PARAMS], camera)
        is_told = jnp.any(camera != 0.0, axis=1, keepdims=True)
        added = jnp.where(is_told, embedding, 0.0)[:, None]
        return unet_fn(params, latents, t, {"text": context["text"] + added})

    return apply
