# SPDX-License-Identifier: Apache-2.0
"""Sheets of samples: what the embedded prior draws for a fixed list of prompts."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.runtime import diffusion_prior, writer
from vsd_jax.score import noise as diffusion
from vsd_jax.state import NoiseModel, PyTree

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


def make_sampler(unet_fn, alphas_cumprod, *, num_steps: int, guidance_scale: float):
    """`sample(params, noise, text, empty) -> images`, jitted."""
    noise_fn = diffusion.as_noise_fn(NoiseModel(unet_fn, "sample"), alphas_cumprod)

    def sample(params, noise, text, empty):
        latents = diffusion.ddim_sample(
            noise_fn,
            params,
            noise,
            {"text": text},
            alphas_cumprod=alphas_cumprod,
            num_steps=num_steps,
            context_uncond={"text": jnp.broadcast_to(empty, text.shape)},
            guidance_scale=guidance_scale,
        )
        patch = int(np.sqrt(noise.shape[-1] // 3))
        return diffusion_prior.unpatchify(latents, patch)

    return jax.jit(sample)


def save_sheet(path: Path, sampler, params: PyTree, text_fn, tokenize, unet) -> None:
    """Samples SHEET_PROMPTS in blocks of eight and writes one picture."""
    text = text_fn(params["text"], tokenize(SHEET_PROMPTS))
    empty = text_fn(params["text"], tokenize([""]))
    size, channels = unet.sample_size, unet.in_channels
    noise = jax.random.normal(
        jax.random.key(1), (len(SHEET_PROMPTS), size, size, channels)
    )
    blocks = [
        sampler({"unet": params["unet"]}, noise[i : i + 8], text[i : i + 8], empty)
        for i in range(0, len(SHEET_PROMPTS), 8)
    ]
    images = np.concatenate([np.asarray(block) for block in blocks])
    rows = images.reshape(-1, 8, *images.shape[1:])
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    writer.save_png(path, sheet)
