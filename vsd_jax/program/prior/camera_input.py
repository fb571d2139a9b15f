# SPDX-License-Identifier: Apache-2.0
"""A U-Net that reads the exact camera beside the text: a multi-view prior.

`unet/config.json` of such a folder has, beside diffusers' own keys,

    "camera_features"    16, the numbers of a flattened cam_to_world

and its weights, under "camera_embedding.", a layer for the camera of SiLU between two
affine maps. What it makes of the camera is added to the embedding of every token of the
text, which each cross-attention reads. (MVDream, arXiv:2308.16512, Sec. 3.2, adds it to
the time embedding, which here is thirty times louder: after 500 steps of training that
changed nothing.) Zeros stand for a camera that is not told, as in the score network
(`diffusion/lora.py`): nothing is added, and it is the U-Net without these layers. So
diffusers in PyTorch reads such a folder as that U-Net.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vsd_jax.diffusion.lora import (
    CAMERA_FEATURES,
    camera_embedding,
    init_camera_mlp,
)
from vsd_jax.program.prior.json_files import WeightsError
from vsd_jax.types import Context, PyTree

PARAMS = "camera_embedding"
"""Of the U-Net's parameters, those of the camera."""
KEY = "camera_features"
SETTINGS = {KEY: CAMERA_FEATURES}
"""What the `unet/config.json` of such a U-Net says."""


def has_camera(config: Mapping[str, Any]) -> bool:
    """Whether a `unet/config.json` is of a U-Net that reads the camera.

    Raises:
      WeightsError: if it reads other numbers than a camera's.
    """
    found = config.get(KEY)
    if found not in (None, CAMERA_FEATURES):
        raise WeightsError(
            f"unet/config.json: {KEY}={found!r}; a camera has {CAMERA_FEATURES}."
        )
    return found is not None


def unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a `unet/config.json` that does not concern the camera."""
    return {name: value for name, value in config.items() if name != KEY}


def require(config: Mapping[str, Any], folder: Path) -> None:
    """Refuses a prior that does not read the camera.

    Raises:
      WeightsError: naming the key that asked for it.
    """
    if not has_camera(config):
        raise WeightsError(
            f"prior.tell_camera=True: the U-Net of {folder} does not read the camera "
            f"(its unet/config.json has no {KEY}). Leave it out, or use a multi-view "
            "prior."
        )


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
