# SPDX-License-Identifier: Apache-2.0
"""Settings of the prior's training: its refining head, heights and the camera.

`configs/toybox_prior.py` has all of them. Without a variant they are those of a
training without a head; its variant "refine" goes on from trained weights
(docs/model_card.md).
"""

from typing import Any

_PLAIN = dict(
    # The head (vsd_jax/diffusion/refine.py); 0 channels = none.
    refine_channels=0,
    refine_depth=4,  # its 3 x 3 convolutions between the first and the last
    refine_factor=2,  # its patches: 4 / 2 pixels
    # With a head, `snr_divisor` is this at t = 0 and grows geometrically from there.
    first_snr_divisor=0.5,
    # Loss weight with a head: 1 / min(scale (sigma_t / alpha_t)^(2 power), limit).
    error_scale=0.013,
    error_power=0.45,
    error_limit=0.3,
    train_only="",  # "refine": the head alone
    # Learning rates of the U-Net (but for its head) and the text tower, as shares of
    # `learning_rate`.
    unet_rate=1.0,
    text_rate=1.0,
    height_dropout=1.0,  # captions with a view word without its height
    # Whether the U-Net reads the exact camera (vsd_jax/diffusion/camera_input.py).
    camera_input=False,
    camera_dropout=0.5,  # images whose camera it is not told
    camera_rate=1.0,  # as unet_rate, for the layers of the camera
)

_REFINE = dict(refine_channels=48, height_dropout=0.4, unet_rate=0.2, text_rate=0.4)

_VARIANTS = {"": _PLAIN, "smoke": _PLAIN, "refine": _PLAIN | _REFINE}


def settings(variant: str) -> dict[str, Any]:
    """Those of a variant of the configuration.

    Raises:
      ValueError: if there is no such variant.
    """
    if variant not in _VARIANTS:
        names = ", ".join(f":{name}" for name in _VARIANTS if name)
        raise ValueError(f"there is no variant :{variant}; there are {names}.")
    return _VARIANTS[variant]
