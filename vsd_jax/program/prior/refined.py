# SPDX-License-Identifier: Apache-2.0
"""A U-Net with a refining head, and a schedule beyond the U-Net's own.

`unet/config.json` of such a folder has the class name `CLASS_NAME` and two sections
beside diffusers' own keys:

    "refine"         {"channels", "depth", "factor"} of `diffusion/refine.py`; its
                     weights stand in the U-Net's file under "refine."
    "trained_betas"  [T] the noise schedule at whose timesteps the U-Net was trained

With `CAMERA_KEY`, the numbers of a flattened cam_to_world, the U-Net can be told the
exact camera (`diffusion/camera_input.py`); its layers stand under "camera_embedding.".
diffusers in PyTorch reads such a folder as the U-Net without them.

The folder's scheduler may be another one: the U-Net is asked at the timestep of its
own schedule that has the same signal-to-noise ratio, or at its nearest. x_t has unit
variance in both, so there it is the same function.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.lora import CAMERA_FEATURES
from vsd_jax.diffusion.refine import Refiner
from vsd_jax.program.prior.json_files import WeightsError
from vsd_jax.types import PyTree

CLASS_NAME = "RefinedUNet2DConditionModel"
_OWN_KEYS = ("refine", "trained_betas")
CAMERA_KEY = "camera_features"
CAMERA_SETTINGS = {CAMERA_KEY: CAMERA_FEATURES}
"""What the `unet/config.json` of a multi-view prior says."""


def is_refined(config: dict[str, Any]) -> bool:
    """Whether a `unet/config.json` is of this kind."""
    return config.get("_class_name") == CLASS_NAME


def has_camera(config: Mapping[str, Any]) -> bool:
    """Whether a `unet/config.json` is of a U-Net that reads the camera.

    Raises:
      WeightsError: if it reads other numbers than a camera's.
    """
    found = config.get(CAMERA_KEY)
    if found not in (None, CAMERA_FEATURES):
        raise WeightsError(
            f"unet/config.json: {CAMERA_KEY}={found!r}; a camera has {CAMERA_FEATURES}."
        )
    return found is not None


def unet_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a `unet/config.json` that diffusers' U-Net knows."""
    config = {name: value for name, value in config.items() if name != CAMERA_KEY}
    if not is_refined(config):
        return config
    plain = {name: value for name, value in config.items() if name not in _OWN_KEYS}
    return plain | {"_class_name": "UNet2DConditionModel"}


def make_refiner(config: dict[str, Any]) -> Refiner:
    """The head that a `unet/config.json` describes (no weights).

    Raises:
      WeightsError: its section is missing or incomplete, or does not divide a patch.
    """
    try:
        refiner = Refiner(**{k: int(config["refine"][k]) for k in _FIELDS})
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"unet/config.json: {CLASS_NAME} needs a section refine with the whole "
            f"numbers {', '.join(_FIELDS)} ({type(error).__name__}: {error})."
        ) from error
    side = round((config["in_channels"] / 3) ** 0.5)
    if refiner.factor < 1 or side % refiner.factor:
        raise WeightsError(
            f"unet/config.json: refine.factor={refiner.factor} does not divide the "
            f"patches of side {side}."
        )
    return refiner


_FIELDS = ("channels", "depth", "factor")


def init_function(refiner: Refiner, unet: Any) -> Callable[..., PyTree]:
    """`(key) -> {"refine": ...}`, parameters with which r is zero."""
    shape = (1, unet.sample_size, unet.sample_size, unet.in_channels)

    def init(key):
        latents = jnp.zeros(shape)
        return refiner.init(key, latents, latents, jnp.full(1, 0.5))["params"]

    return init


def unet_timesteps(alphas_cumprod: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """[T] float32, the U-Net's own timestep (not whole) at each of the schedule's.

    Args:
      alphas_cumprod: [T] of the folder's scheduler.
      config: of the U-Net; `trained_betas` left out = the same schedule.
    """
    betas = config.get("trained_betas")
    if not betas:
        return np.arange(len(alphas_cumprod), dtype=np.float32)
    own = np.cumprod(1.0 - np.asarray(betas, np.float64))

    def log_snr(signal):
        signal = np.asarray(signal, np.float64)
        return np.log(signal) - np.log1p(-signal)

    steps = np.arange(len(own), dtype=np.float64)
    found = np.interp(-log_snr(alphas_cumprod), -log_snr(own), steps)
    return found.astype(np.float32)


def refined_apply(
    unet_fn: Callable[..., jax.Array],
    refiner: Refiner,
    alphas_cumprod: np.ndarray,
    config: dict[str, Any],
) -> Callable[..., jax.Array]:
    """`({"unet": ...}, latents NHWC, t [B], context) -> clean latents NHWC`.

    Args:
      unet_fn: `diffusion_prior.unet_apply`'s result; it predicts clean latents.
      refiner: of `make_refiner`.
      alphas_cumprod: [T] of the folder's scheduler.
      config: `unet/config.json`.
    """
    own_t = unet_timesteps(alphas_cumprod, config)
    signal = np.asarray(alphas_cumprod, np.float32)

    def denoise(params, latents, t, context):
        coarse = unet_fn(params, latents, jnp.asarray(own_t)[t], context)
        variables = {"params": {"refine": params["unet"]["refine"]}}
        return refiner.apply(variables, latents, coarse, jnp.asarray(signal)[t])

    return denoise
