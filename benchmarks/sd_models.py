# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 2.1-base as a shape: its settings, and random numbers by name.

No weight of the real checkpoint is here or needed: a tensor is drawn from its own
name, so that our program and PyTorch hold the same network without sharing a file.
`tiny` is the same architecture in a few kilobytes. NumPy alone.
"""

import json
import math
import pathlib
import zlib

import numpy as np

SIZES = ("full", "tiny")
_DRAWN = 999_983  # numbers of a tensor; a prime, so that no two rows are alike

_UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "attention_head_dim": [5, 10, 20, 20],  # the number of heads, as diffusers has it
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "norm_num_groups": 32,
}
_TINY_UNET = _UNET | {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
    "attention_head_dim": [2, 4],
    "cross_attention_dim": 24,
}
_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 32,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
_TINY_VAE = _VAE | {
    "layers_per_block": 1,
    "block_out_channels": [32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "sample_size": 16,
}
_TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "max_position_embeddings": 77,
    "projection_dim": 512,
    "hidden_act": "gelu",
}
_TINY_TEXT = _TEXT | {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_attention_heads": 3,
    "num_hidden_layers": 1,
    "max_position_embeddings": 12,
}
_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


def unet_config(size: str) -> dict:
    """`unet/config.json` of a size."""
    return _UNET if size == "full" else _TINY_UNET


def vae_config(size: str) -> dict:
    """`vae/config.json` of a size."""
    return _VAE if size == "full" else _TINY_VAE


def text_shape(size: str) -> tuple[int, int]:
    """(tokens, features) of an embedded text."""
    text = _TEXT if size == "full" else _TINY_TEXT
    return text["max_position_embeddings"], text["hidden_size"]


def image_size(size: str) -> int:
    """Side of the image that the encoder takes, pixels."""
    levels = len(vae_config(size)["block_out_channels"])
    return unet_config(size)["sample_size"] * 2 ** (levels - 1)


def write_folder(folder: pathlib.Path, size: str) -> None:
    """A diffusers-format folder with settings and no weights."""
    files = {
        "unet/config.json": unet_config(size),
        "vae/config.json": vae_config(size),
        "text_encoder/config.json": _TEXT if size == "full" else _TINY_TEXT,
        "scheduler/scheduler_config.json": _SCHEDULE,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers of a name, float32."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return random.standard_normal(shape, np.float32)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A frozen weight by its name and shape in PyTorch's layout, float32.

    Norms start as the identity, biases at 0, matrices keep the size of what they are
    multiplied with: activations stay finite through any depth.
    """
    if len(shape) == 1:
        return np.full(shape, float(name.endswith("weight")), np.float32)
    # Drawn once and repeated: all of them would take longer than what they are for.
    drawn = normal(name, (min(math.prod(shape), _DRAWN),))
    # In place: a second copy of the largest tensor would count as memory of the step.
    values = np.resize(drawn, shape)
    values *= math.prod(shape[1:]) ** -0.5
    return values


def adapter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A trained weight of the score network [in, out]: neither factor is zero."""
    return 0.1 * normal(name, shape) / math.sqrt(shape[0])


def inputs(size: str) -> dict[str, np.ndarray]:
    """What the parts are run on, channels last."""
    latent, pixels = unet_config(size)["sample_size"], image_size(size)
    return {
        "latents": normal("latents", (2, latent, latent, 4)),
        "text": normal("text", (2, *text_shape(size))),
        "t": np.array([700, 300], np.int32),
        "camera": normal("camera", (1, 16)),
        "target": normal("target", (1, latent, latent, 4)),
        "image": np.clip(0.5 + 0.2 * normal("image", (1, pixels, pixels, 3)), 0, 1),
        "direction": normal("direction", (1, latent, latent, 4)),
        "wave": normal("wave", (pixels, pixels, 3)),
    }
