# SPDX-License-Identifier: Apache-2.0
"""The noise schedule that a diffusers `scheduler_config.json` describes."""

import math
from typing import Any

import numpy as np

from vsd_jax.runtime.weights import WeightsError


def noise_schedule(config: dict[str, Any]) -> np.ndarray:
    """alphas_cumprod [T] float32 of a `scheduler_config.json`.

    Raises:
      WeightsError: an unknown `beta_schedule`.
    """
    steps = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    kind = config.get("beta_schedule", "linear")
    if kind == "scaled_linear":
        betas = np.linspace(math.sqrt(start), math.sqrt(end), steps) ** 2
    elif kind == "linear":
        betas = np.linspace(start, end, steps)
    else:
        raise WeightsError(
            f"scheduler: beta_schedule {kind!r} is not known; "
            "scaled_linear and linear are."
        )
    alphas_cumprod = np.cumprod(1.0 - betas)
    if config.get("rescale_betas_zero_snr"):
        alphas_cumprod = _zero_terminal_snr(alphas_cumprod)
    return alphas_cumprod.astype(np.float32)


def _zero_terminal_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """No signal at the last step (arXiv:2305.08891, Alg. 1), but for 2^-24 of it.

    The remainder keeps the conversion between clean image and noise invertible.
    """
    alpha = np.sqrt(alphas_cumprod)
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return np.maximum(alpha**2, 2.0**-24)
