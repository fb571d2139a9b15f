# SPDX-License-Identifier: Apache-2.0
"""Variational Score Distillation (ProlificDreamer, arXiv:2305.16213) in JAX.

    import jax
    import vsd_jax as vsd

    prior, weights, encode = vsd.load_prior("toybox", tell_camera=True)
    preset = vsd.presets.toybox("a red mushroom")
    prompts = vsd.encode_prompts(encode, preset.prompt)
    run = vsd.distil(
        vsd.nerf(preset.nerf), prior,
        vsd.methods.vsd(guidance_scale=2.0, exact_below=0.2),
        vsd.lora(prior, preset.score), vsd.views(preset.views), tx=preset.tx,
    )
    state = run.init(jax.random.key(0), weights, num_particles=2)
    for _ in range(preset.num_steps):
        state, metrics = run.step(state, weights, prompts)

Five nouns: a `Scene` renders one particle, a `Prior` predicts noise, a `Method` says
what the particles follow, a `Score` is the network that estimates the score of their
renders, `Views` is the distribution of cameras, backgrounds, prompts and timesteps. One
verb: `distil` joins them. Each can be your own (docs/library.md).
"""

from vsd_jax import methods, presets, timesteps
from vsd_jax.diffusion import exact
from vsd_jax.diffusion.guidance import Guidance
from vsd_jax.diffusion.noise import as_noise_fn
from vsd_jax.diffusion.prompt import PromptSpec, encode_prompts
from vsd_jax.diffusion.sampler import ddim_sample, sample
from vsd_jax.distil import Distillation, Population, distil
from vsd_jax.methods import Method, NoisedViews
from vsd_jax.scene import camera, meshes
from vsd_jax.scene.image import image
from vsd_jax.scene.nerf.nerf import nerf
from vsd_jax.scene.regularizers import make_regularizer
from vsd_jax.score_network import fixed_score, lora, make_score, small_unet
from vsd_jax.types import (
    Camera,
    NoiseModel,
    Prior,
    Prompts,
    RenderOutput,
    Scene,
    Score,
    Views,
    VSDState,
)
from vsd_jax.views import make_views as views

mesh = meshes

__version__ = "0.1.0"
__all__ = [
    "Camera",
    "Distillation",
    "Guidance",
    "Method",
    "NoiseModel",
    "NoisedViews",
    "Population",
    "Prior",
    "PromptSpec",
    "Prompts",
    "RenderOutput",
    "Scene",
    "Score",
    "VSDState",
    "Views",
    "as_noise_fn",
    "camera",
    "ddim_sample",
    "distil",
    "encode_prompts",
    "exact",
    "fixed_score",
    "image",
    "load_prior",
    "lora",
    "make_regularizer",
    "make_score",
    "mesh",
    "methods",
    "nerf",
    "presets",
    "sample",
    "small_unet",
    "timesteps",
    "views",
]


def load_prior(path: str = "toybox", **options):
    """Loads a diffusion prior, its weights and its text encoder.

    Args:
      path: "toybox" (embedded), a diffusers-format folder, or a hub id.
      **options: see `program.prior.diffusion_prior.load_prior`: `dtype`, `variant`,
        `sha256`, `tell_camera` (a multi-view prior such as the embedded one then reads
        the exact camera beside the text).

    Returns:
      (Prior, weights, `encode(texts) -> [N, L, D]`).

    Raises:
      RunError: if weights are missing or of another architecture, in a sentence.

    Examples:
      >>> prior, weights, encode = vsd.load_prior("toybox")
      >>> prior.image_size, len(prior.alphas_cumprod)
      (64, 1000)
      >>> encode(["a red mushroom", ""]).shape[0]
      2
    """
    # Imports diffusers and transformers, which nothing else needs.
    from vsd_jax.program.prior import diffusion_prior

    return diffusion_prior.load_prior(path, **options)
