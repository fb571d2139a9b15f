# SPDX-License-Identifier: Apache-2.0
"""Sheets of samples: what the embedded prior draws for a fixed list of prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.noise import as_noise_fn
from vsd_jax.diffusion.sampler import ddim_sample
from vsd_jax.program.folder import writer
from vsd_jax.program.prior import diffusion_prior
from vsd_jax.types import NoiseModel, PyTree

SHEET_PROMPTS = tuple(
    f"a {colour} {kind}, {view} view"
    for colour, kind in zip(
        "red blue yellow green pink orange purple brown".split() * 2,
        "mushroom car duck chair donut robot house bear "
        "tree boat snowman rocket lamp mug cake table".split(),
        strict=True,
    )
    for view in ("front", "side", "back", "overhead")
) + (
    "a normal map of a red mushroom, front view, black background",
    "a normal map of a car, side view, black background",
    "a red mushroom, front view, black background",
    "a blue duck, side view, grey background",
    "a blue room",
    "a green room",
    "a red chair in a blue room",
    "a yellow duck in a green room",
)


class Models(NamedTuple):
    """The networks of a prior in training, as functions of their parameters.

    Attributes:
      latent_shape: (h, w, c).
      unet_init: `(key) -> params` of the U-Net.
      unet_fn: `({"unet"}, latents, t, context) -> clean latents`.
      text_init: `(key) -> params` of the text tower.
      text_fn: `(params, ids) -> [B, L, D]`.
      tokenize: `(texts) -> ids [N, L]`.
      alphas_cumprod: [T].
    """

    latent_shape: tuple[int, int, int]
    unet_init: Callable
    unet_fn: Callable
    text_init: Callable
    text_fn: Callable
    tokenize: Callable
    alphas_cumprod: np.ndarray


def make_sampler(models: Models, *, num_steps: int, guidance_scale: float) -> Callable:
    """`sample(params, noise, text, empty) -> images`, jitted."""
    noise_fn = as_noise_fn(NoiseModel(models.unet_fn, "sample"), models.alphas_cumprod)

    def sample(params, noise, text, empty):
        latents = ddim_sample(
            noise_fn,
            params,
            noise,
            {"text": text, "negative": jnp.broadcast_to(empty, text.shape)},
            alphas_cumprod=models.alphas_cumprod,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
        )
        patch = int(np.sqrt(noise.shape[-1] // 3))
        return diffusion_prior.unpatchify(latents, patch)

    return jax.jit(sample)


def save_sheet(path: Path, sampler: Callable, params: PyTree, models: Models) -> None:
    """Samples SHEET_PROMPTS in blocks of eight and writes one picture."""
    text = models.text_fn(params["text"], models.tokenize(SHEET_PROMPTS))
    empty = models.text_fn(params["text"], models.tokenize([""]))
    shape = (len(SHEET_PROMPTS), *models.latent_shape)
    noise = jax.random.normal(jax.random.key(1), shape)
    blocks = [
        sampler({"unet": params["unet"]}, noise[i : i + 8], text[i : i + 8], empty)
        for i in range(0, len(SHEET_PROMPTS), 8)
    ]
    images = np.concatenate([np.asarray(block) for block in blocks])
    rows = images.reshape(-1, 8, *images.shape[1:])
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    writer.save_png(path, sheet)
