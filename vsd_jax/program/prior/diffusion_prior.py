# SPDX-License-Identifier: Apache-2.0
"""Priors from disk: the only file that imports diffusers and transformers.

A prior is a diffusers-format folder: `unet/`, `text_encoder/`, `tokenizer/`,
`scheduler/` and, for Stable Diffusion, `vae/`. Without a VAE the latents are
space-to-depth patches of the image 2 x - 1 (the embedded Toybox prior): patch
side p = sqrt(in_channels / 3).

diffusers calls the number of attention heads `attention_head_dim`; the Flax U-Net
takes NCHW; both stay inside this file.
"""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.conv import SMALL_IMAGE, with_matmul_convs
from vsd_jax.program.prior import hub, refined, weights
from vsd_jax.program.prior.own_layers import own_layers
from vsd_jax.program.prior.schedule import noise_schedule
from vsd_jax.program.prior.weights import WeightsError
from vsd_jax.types import NoiseModel, Prior, PyTree

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()  # the Flax classes announce their end
    from diffusers import FlaxAutoencoderKL, FlaxUNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTokenizer
    from transformers.models.clip.modeling_flax_clip import FlaxCLIPTextModule

EncodeText = Callable[[Sequence[str]], np.ndarray]


def patchify(image: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, 3] in [0, 1] -> [B, H/p, W/p, 3 p^2] in [-1, 1]."""
    batch, height, width, channels = image.shape
    rows, columns = height // patch, width // patch
    blocks = (2.0 * image - 1.0).reshape(batch, rows, patch, columns, patch, channels)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, -1)


def unpatchify(latents: jax.Array, patch: int) -> jax.Array:
    """Inverse of `patchify`, clipped to [0, 1]."""
    batch, rows, columns, _ = latents.shape
    blocks = latents.reshape(batch, rows, columns, patch, patch, 3)
    image = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, rows * patch, columns * patch, 3
    )
    return jnp.clip(0.5 * image + 0.5, 0.0, 1.0)


def make_unet(config: dict[str, Any], dtype: Any) -> FlaxUNet2DConditionModel:
    """The U-Net module of a `unet/config.json` (structure only, no weights)."""
    cross = config.get("cross_attention_dim")
    if config.get("addition_embed_type") or not isinstance(cross, int):
        raise WeightsError(
            "unet/config.json describes SDXL or another architecture "
            f"(cross_attention_dim={cross}, "
            f"addition_embed_type={config.get('addition_embed_type')}); "
            "a Stable Diffusion 1.x or 2.x checkpoint is needed."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FlaxUNet2DConditionModel.from_config(config, dtype=dtype)


def unet_apply(unet: FlaxUNet2DConditionModel) -> Callable[..., jax.Array]:
    """`({"unet": ...}, latents NHWC, t [B], context) -> raw output NHWC`."""
    apply = with_matmul_convs(unet.apply, max_pixels=SMALL_IMAGE)

    def denoise(params, latents, t, context):
        with jax.numpy_rank_promotion("allow"), nn.intercept_methods(own_layers):
            out = apply(
                {"params": params["unet"]},
                latents.transpose(0, 3, 1, 2),
                t,
                context["text"],
                return_dict=False,
            )[0]
        return out.transpose(0, 2, 3, 1).astype(jnp.float32)

    return denoise


def unet_shapes(unet: FlaxUNet2DConditionModel, text_length: int) -> PyTree:
    """Tree of parameter shapes, without allocating them."""
    return jax.eval_shape(_init_function(unet, text_length), jax.random.key(0))


def unet_init(config: dict[str, Any], text_length: int) -> Callable[..., PyTree]:
    """`(key) -> params` at random of what a `unet/config.json` describes."""
    if not refined.is_refined(config):
        return _init_function(make_unet(config, jnp.float32), text_length)
    unet = make_unet(refined.unet_config(config), jnp.float32)
    refiner_init = refined.init_function(refined.make_refiner(config), unet)
    init = _init_function(unet, text_length)
    return lambda key: init(key) | refiner_init(jax.random.fold_in(key, 1))


def _init_function(unet: FlaxUNet2DConditionModel, text_length: int) -> Callable:
    size, channels = unet.sample_size, unet.in_channels
    sample = jnp.zeros((1, channels, size, size))
    text = jnp.zeros((1, text_length, unet.cross_attention_dim))

    def init(key):
        with jax.numpy_rank_promotion("allow"):
            return unet.init(key, sample, jnp.zeros(1, jnp.int32), text)["params"]

    return init


def make_model(
    config: dict[str, Any], schedule: dict[str, Any], dtype: Any, text_length: int
) -> tuple[NoiseModel, PyTree]:
    """The denoiser that a folder's configurations describe, and its parameter shapes.

    Args:
      config: `unet/config.json`, diffusers' or with a refining head (`refined.py`).
      schedule: `scheduler/scheduler_config.json`.
      dtype: of the U-Net's activations.
      text_length: tokens of a prompt.
    """
    kind = schedule.get("prediction_type", "epsilon")
    if not refined.is_refined(config):
        unet = make_unet(config, dtype)
        return NoiseModel(unet_apply(unet), kind), unet_shapes(unet, text_length)
    if kind != "sample":
        raise WeightsError(
            f"scheduler: prediction_type is {kind!r}; a U-Net with a refining head "
            "predicts clean latents ('sample')."
        )
    unet = make_unet(refined.unet_config(config), dtype)
    refiner = refined.make_refiner(config)
    apply = refined.refined_apply(
        unet_apply(unet), refiner, noise_schedule(schedule), config
    )
    init = unet_init(config, text_length)
    return NoiseModel(apply, kind), jax.eval_shape(init, jax.random.key(0))


def make_text_encoder(config: dict[str, Any]) -> tuple[Callable, Callable]:
    """CLIP's text tower: `(init(key) -> params, apply(params, ids) -> [B, L, D])`."""
    clip = CLIPTextConfig.from_dict(config)
    module = FlaxCLIPTextModule(clip)

    def arguments(ids):
        positions = jnp.broadcast_to(jnp.arange(ids.shape[-1]), ids.shape)
        return ids, jnp.ones_like(ids), positions

    def init(key):
        ids = jnp.zeros((1, clip.max_position_embeddings), jnp.int32)
        return module.init(key, *arguments(ids))["params"]

    def apply(params, ids):
        with jax.numpy_rank_promotion("allow"):
            return module.apply({"params": params}, *arguments(ids))[0]

    return init, apply


def load_tokenizer(folder: Path) -> Callable[[Sequence[str]], np.ndarray]:
    """`texts -> ids [N, L]`, padded and truncated to the model's length."""
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))

    def tokenize(texts: Sequence[str]) -> np.ndarray:
        length = tokenizer.model_max_length
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        return np.asarray(tokenizer(list(texts), **options)["input_ids"], np.int32)

    return tokenize


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Reads one JSON of the folder with a clear error."""
    file = folder / name
    try:
        return json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise WeightsError(
            f"{file} cannot be read ({error}). {folder} must be a diffusers-format "
            "folder with unet/, text_encoder/, tokenizer/ and scheduler/."
        ) from error


Reader = Callable[..., PyTree]
"""`(folder of a component, shapes, *, dtype, component, vae) -> parameters`."""


def _make_reader(variant: str, load_weights: bool) -> Reader:
    def load(folder: Path, shapes: PyTree, **options: Any) -> PyTree:
        return weights.load_params(
            weights.find_files(folder, variant), shapes, **options
        )

    def describe(folder: Path, shapes: PyTree, *, dtype: Any, **options: Any) -> PyTree:
        del folder, options
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes
        )

    return load if load_weights else describe


def _latent_codec(folder: Path, unet: dict[str, Any], dtype: Any, read: Reader):
    """(encode, decode, vae params, image size)."""
    size, channels = unet["sample_size"], unet["in_channels"]
    if not (folder / "vae").is_dir():
        patch = math.isqrt(channels // 3)
        if 3 * patch * patch != channels:
            raise WeightsError(
                f"{folder} has no vae/ and unet in_channels={channels} is not 3 p^2: "
                "neither Stable Diffusion nor a patch prior."
            )
        return (
            lambda params, image, key: patchify(image, patch),
            lambda params, latents: unpatchify(latents, patch),
            {},
            size * patch,
        )
    return _vae_codec(folder / "vae", size, dtype, read)


def _vae_codec(folder: Path, latent_size: int, dtype: Any, read: Reader):
    config = read_config(folder, "config.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vae = FlaxAutoencoderKL.from_config(config, dtype=dtype)
    scaling = config.get("scaling_factor", 0.18215)
    pixels = latent_size * 2 ** (len(config["block_out_channels"]) - 1)
    image = jnp.zeros((1, 3, 64, 64))
    shapes = jax.eval_shape(vae.init, jax.random.key(0), image)["params"]
    params = read(folder, shapes, dtype=dtype, component="vae", vae=True)

    def encode(params, image, noise):
        pixels = (2.0 * image - 1.0).transpose(0, 3, 1, 2)
        variables = {"params": params["vae"]}
        with nn.intercept_methods(own_layers):
            posterior = vae.apply(variables, pixels, method=vae.encode).latent_dist
        sample = posterior.mean + posterior.std * noise
        return sample.astype(jnp.float32) * scaling

    def decode(params, latents):
        variables = {"params": params["vae"]}
        nchw = (latents / scaling).transpose(0, 3, 1, 2)
        with nn.intercept_methods(own_layers):
            out = vae.apply(variables, nchw, method=vae.decode).sample
        return jnp.clip(0.5 * out.transpose(0, 2, 3, 1) + 0.5, 0.0, 1.0)

    return encode, decode, params, pixels


def load_prior(
    path: str | Path = hub.EMBEDDED,
    *,
    dtype: Any = jnp.float32,
    variant: str = "",
    sha256: str = "",
    say: Callable[[str], None] = lambda line: None,
    load_weights: bool = True,
) -> tuple[Prior, PyTree, EncodeText]:
    """Loads a prior from a diffusers-format folder.

    Args:
      path: "toybox" for the embedded prior, a local folder, or a hub id (`hub.py`).
      dtype: of weights and activations.
      variant: of the weight files, such as "fp16"; "" = full precision if there.
      sha256: that the U-Net's file (the first, if sharded) must have; "" = any.
      say: is told which weights are used and their licence.
      load_weights: false gives shapes (`jax.ShapeDtypeStruct`) instead of weights, and
        embedded texts of zeros.

    Returns:
      (prior, prior_params, encode_text). `prior_params` is `{"unet": ..., "vae":
      ...}`, the one tree that every function of the prior takes;
      `encode_text(texts)` gives [N, L, D] float32.

    Raises:
      WeightsError: naming what was found, what is needed and what to do.
    """
    folder = hub.resolve(path, variant=variant)
    hub.check_is_stable_diffusion(folder)
    hub.describe(path, folder, say)
    config = read_config(folder / "unet", "config.json")
    schedule = read_config(folder / "scheduler", "scheduler_config.json")
    read = _make_reader(variant, load_weights)
    encode_text = load_text(folder, read, load_weights=load_weights)
    length = encode_text([""]).shape[1]
    if sha256 and load_weights:
        weights.check_digest(weights.find_files(folder / "unet", variant)[0], sha256)
    model, shapes = make_model(config, schedule, dtype, length)
    params = read(folder / "unet", shapes, dtype=dtype, component="unet")
    encode, decode, vae_params, image_size = _latent_codec(folder, config, dtype, read)
    size = config["sample_size"]
    prior = Prior(
        model=model,
        encode=encode,
        decode=decode,
        alphas_cumprod=noise_schedule(schedule),
        latent_shape=(size, size, config["in_channels"]),
        image_size=image_size,
    )
    return prior, {"unet": params, "vae": vae_params}, encode_text


def load_text(folder: Path, read: Reader, *, load_weights: bool) -> EncodeText:
    """The folder's tokenizer and text tower as one function; without weights, zeros."""
    config = read_config(folder / "text_encoder", "config.json")
    init, apply = make_text_encoder(config)
    shapes = jax.eval_shape(init, jax.random.key(0))
    options = {"dtype": jnp.float32, "component": "text_encoder"}
    params = read(folder / "text_encoder", shapes, **options)
    if not load_weights:
        shape = (config["max_position_embeddings"], config["hidden_size"])
        return lambda texts: np.zeros((len(texts), *shape), np.float32)
    tokenize = load_tokenizer(folder / "tokenizer")
    jitted = jax.jit(apply)
    return lambda texts: np.asarray(jitted(params, tokenize(texts)))
