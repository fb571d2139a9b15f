# SPDX-License-Identifier: Apache-2.0
"""Priors from disk: the only file that imports diffusers.

A prior is a diffusers-format folder: `unet/`, `text_encoder/`, `tokenizer/`,
`scheduler/` and, for Stable Diffusion, `vae/`. Without a VAE the latents are
space-to-depth patches of the image 2 x - 1 (the embedded Toybox prior): patch
side p = sqrt(in_channels / 3).

diffusers calls the number of attention heads `attention_head_dim`; the Flax U-Net
takes NCHW; both stay inside this file.
"""

import dataclasses
import math
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vsd_jax.diffusion import camera_input
from vsd_jax.diffusion.conv import SMALL_IMAGE, with_matmul_convs
from vsd_jax.diffusion.loss_scale import with_loss_scale
from vsd_jax.program.prior import (
    hub,
    refined,
    settings_check,
    weights,
)
from vsd_jax.program.prior.json_files import WeightsError, read_object
from vsd_jax.program.prior.own_layers import own_layers
from vsd_jax.program.prior.schedule import check_has_many_steps, noise_schedule
from vsd_jax.program.prior.text_tower import EncodeText, load_text
from vsd_jax.types import NoiseModel, Prior, PyTree

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()  # the Flax classes announce their end
    from diffusers import FlaxAutoencoderKL, FlaxUNet2DConditionModel


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


def make_unet(
    config: dict[str, Any], dtype: Any, where: str = ""
) -> FlaxUNet2DConditionModel:
    """The U-Net module of a `unet/config.json` (structure only, no weights).

    Args:
      config: what the file holds.
      dtype: of activations.
      where: the file, for messages.

    Raises:
      WeightsError: a key or value that is not implemented (`accepted.UNET`).
    """
    settings = settings_check.check("unet", config, where)
    return _make_module(FlaxUNet2DConditionModel, settings, dtype)


def _make_module(kind: type[nn.Module], settings: dict[str, Any], dtype: Any):
    """A Flax module of diffusers from those settings that it has a field for."""
    fields = {field.name for field in dataclasses.fields(kind)}
    known = {key: value for key, value in settings.items() if key in fields}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind.from_config(known, dtype=dtype)


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
    unet = make_unet(refined.unet_config(config), jnp.float32)
    init = _init_function(unet, text_length)
    if refined.has_camera(config):
        init = camera_input.add_params(init, unet.cross_attention_dim)
    if not refined.is_refined(config):
        return init
    refiner_init = refined.init_function(refined.make_refiner(config), unet)
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
    config: dict[str, Any],
    schedule: dict[str, Any],
    dtype: Any,
    text_length: int,
    *,
    where: tuple[str, str] = ("", ""),
    tell_camera: bool = False,
) -> tuple[NoiseModel, PyTree]:
    """The denoiser that a folder's configurations describe, and its parameter shapes.

    Args:
      config: `unet/config.json`, diffusers' or with a refining head (`refined.py`).
      schedule: `scheduler/scheduler_config.json`.
      dtype: of the U-Net's activations.
      text_length: tokens of a prompt.
      where: these files, for messages.
      tell_camera: whether a U-Net that can read the camera is told it.
    """
    kind = schedule.get("prediction_type", "epsilon")
    apply = unet_apply(make_unet(refined.unet_config(config), dtype, where[0]))
    if refined.has_camera(config):
        apply = camera_input.reading_camera(apply, told=tell_camera)
    shapes = jax.eval_shape(unet_init(config, text_length), jax.random.key(0))
    if not refined.is_refined(config):
        return NoiseModel(apply, kind), shapes
    if kind != "sample":
        raise WeightsError(
            f"scheduler: prediction_type is {kind!r}; a U-Net with a refining head "
            "predicts clean latents ('sample')."
        )
    refiner = refined.make_refiner(config)
    alphas_cumprod = noise_schedule(schedule, where[1])
    apply = refined.refined_apply(apply, refiner, alphas_cumprod, config)
    return NoiseModel(apply, kind), shapes


Reader = Callable[..., PyTree]
"""`(folder of a component, shapes, *, dtype, component, vae) -> parameters`."""


def _make_reader(variant: str, load_weights: bool, on_host: bool = False) -> Reader:
    def load(folder: Path, shapes: PyTree, **options: Any) -> PyTree:
        files = weights.find_files(folder, variant)
        return weights.load_params(files, shapes, on_host=on_host, **options)

    def describe(folder: Path, shapes: PyTree, *, dtype: Any, **options: Any) -> PyTree:
        del folder, options
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes
        )

    return load if load_weights else describe


def _latent_codec(folder: Path, unet: FlaxUNet2DConditionModel, read: Reader):
    """(encode, decode, vae params, image size)."""
    size, channels = unet.sample_size, unet.in_channels
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
    return _vae_codec(folder / "vae", unet, read)


def _vae_codec(folder: Path, unet: FlaxUNet2DConditionModel, read: Reader):
    file, dtype = folder / "config.json", unet.dtype
    settings = settings_check.check("vae", read_object(file), str(file))
    scaling, channels = settings["scaling_factor"], settings["latent_channels"]
    if channels != unet.in_channels:
        _refuse_unequal(file, f"latent_channels={channels}", unet, "in_channels")
    vae = _make_module(FlaxAutoencoderKL, settings, dtype)
    pixels = unet.sample_size * 2 ** (len(settings["block_out_channels"]) - 1)
    image = jnp.zeros((1, 3, 64, 64))
    shapes = jax.eval_shape(vae.init, jax.random.key(0), image)["params"]
    params = read(folder, shapes, dtype=dtype, component="vae", vae=True)

    def draw(moving, frozen):
        image, noise = moving
        pixels = (2.0 * image - 1.0).transpose(0, 3, 1, 2)
        with nn.intercept_methods(own_layers):
            posterior = vae.apply(
                {"params": frozen}, pixels, method=vae.encode
            ).latent_dist
        mean, std = (x.astype(jnp.float32) for x in (posterior.mean, posterior.std))
        return (mean + std * noise) * scaling

    if dtype == jnp.float16:
        draw = with_loss_scale(draw)

    def encode(params, image, noise):
        return draw((image, noise), params["vae"])

    def decode(params, latents):
        variables = {"params": params["vae"]}
        # NHWC: with channels first it would tell the two by size alone.
        with nn.intercept_methods(own_layers):
            out = vae.apply(variables, latents / scaling, method=vae.decode).sample
        out = out.astype(jnp.float32)  # 8 bits of a picture are more than bfloat16 has
        return jnp.clip(0.5 * out.transpose(0, 2, 3, 1) + 0.5, 0.0, 1.0)

    return encode, decode, params, pixels


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Reads one JSON of the folder with a clear error."""
    if not (folder / name).is_file():
        raise WeightsError(
            f"{folder / name} is missing. {folder.parent} must be a diffusers-format "
            "folder with unet/, text_encoder/, tokenizer/ and scheduler/."
        )
    return read_object(folder / name)


def _refuse_unequal(file: Path, found: str, unet: nn.Module, key: str) -> None:
    raise WeightsError(
        f"{file}: {found} is not the U-Net's {key}={getattr(unet, key)}; they are of "
        "two models. Give a folder whose parts belong together."
    )


def load_prior(
    path: str | Path = hub.EMBEDDED,
    *,
    dtype: Any = jnp.float32,
    variant: str = "",
    sha256: str = "",
    image_size: int = 0,
    say: Callable[[str], None] = lambda line: None,
    any_variant: bool = False,
    tell_camera: bool = False,
    load_weights: bool = True,
    only_unet: bool = False,
    on_host: bool = False,
) -> tuple[Prior, PyTree, EncodeText]:
    """Loads a prior from a diffusers-format folder.

    Args:
      path: "toybox" for the embedded prior, a local folder, or a hub id (`hub.py`).
      dtype: of weights and activations.
      variant: of the weight files, such as "fp16"; "" = full precision if there.
      sha256: that the U-Net's file (the first, if sharded) must have; "" = any.
      image_size: side of its images, pixels; 0 = as its settings say.
      say: is told which weights are used, their licence, and what of a text is cut.
      any_variant: whether a folder that lacks the variant is taken as it is.
      tell_camera: whether a prior that reads the camera (`camera_input.py`) is told it;
        that another one does not read it is said.
      load_weights: false gives shapes (`jax.ShapeDtypeStruct`) instead of weights, and
        embedded texts of zeros; of a checkpoint that `hub.is_known` nothing is fetched,
        of another one its settings.
      only_unet: whether that is done with all but the U-Net, whose weights alone are
        fetched and read.
      on_host: whether the weights stay NumPy arrays (`weights.load_params`).

    Returns:
      (prior, prior_params, encode_text). `prior_params` is `{"unet": ..., "vae":
      ...}`, the one tree that every function of the prior takes;
      `encode_text(texts)` gives [N, L, D] float32.

    Raises:
      WeightsError: naming what was found, what is needed and what to do.
    """
    options = {
        "dtype": dtype,
        "image_size": image_size,
        "tell_camera": tell_camera,
        "say": say,
    }
    read = _make_reader(variant, load_weights, on_host)
    options["read_rest"] = _make_reader(variant, False) if only_unet else read
    options["has_texts"] = load_weights and not only_unet
    if not load_weights and hub.is_known(path):
        say(f"{path}: shapes from the settings that came with vsd_jax.")
        with tempfile.TemporaryDirectory() as folder:
            hub.write_settings(path, Path(folder))
            return _read_prior(Path(folder), read, **options)
    components = ("unet",) if only_unet else tuple(weights.COMPONENTS)
    folder = hub.resolve(
        path,
        variant=variant,
        components=components if load_weights else (),
        any_variant=any_variant,
    )
    hub.check_is_stable_diffusion(folder)
    hub.describe(path, folder, say)
    if not any_variant:
        weights.check_variant(folder, variant)
    if sha256 and load_weights:
        weights.check_digest(weights.find_files(folder / "unet", variant)[0], sha256)
    return _read_prior(folder, read, **options)


def _read_prior(
    folder: Path,
    read: Reader,
    *,
    read_rest: Reader,
    has_texts: bool,
    dtype: Any,
    image_size: int,
    tell_camera: bool,
    say: Callable[[str], None],
) -> tuple[Prior, PyTree, EncodeText]:
    file, scheduler = folder / "unet" / "config.json", folder / "scheduler"
    config = read_config(file.parent, file.name)
    unet = make_unet(refined.unet_config(config), dtype, str(file))
    reads_camera = tell_camera and refined.has_camera(config)
    if tell_camera and not reads_camera:
        say(f"Of the camera this prior reads view words alone ({file}): not told.")
    schedule = read_config(scheduler, "scheduler_config.json")
    where = str(scheduler / "scheduler_config.json")
    alphas_cumprod = noise_schedule(schedule, where)
    check_has_many_steps(schedule, config)
    encode_text = load_text(folder, read_rest, load_weights=has_texts, say=say)
    width = encode_text.width
    if width != unet.cross_attention_dim:
        text_file = folder / "text_encoder" / "config.json"
        _refuse_unequal(text_file, f"hidden_size={width}", unet, "cross_attention_dim")
    model, shapes = make_model(
        config,
        schedule,
        dtype,
        encode_text.length,
        where=(str(file), where),
        tell_camera=reads_camera,
    )
    params = read(folder / "unet", shapes, dtype=dtype, component="unet")
    encode, decode, vae_params, pixels = _latent_codec(folder, unet, read_rest)
    factor = pixels // unet.sample_size
    if image_size % factor:
        raise WeightsError(
            f"prior.image_size={image_size} must be a multiple of {factor}, the pixels"
            " along a side of one latent of this prior."
        )
    halvings = len(unet.block_out_channels) - 1
    if image_size % (factor * 2**halvings):
        raise WeightsError(
            f"prior.image_size={image_size} must be a multiple of"
            f" {factor * 2**halvings}: its latents are halved {halvings} times."
        )
    pixels = image_size or pixels
    size = pixels // factor
    prior = Prior(
        model=model,
        encode=encode,
        decode=decode,
        alphas_cumprod=alphas_cumprod,
        latent_shape=(size, size, unet.in_channels),
        image_size=pixels,
        reads_camera=reads_camera,
    )
    return prior, {"unet": params, "vae": vae_params}, encode_text
