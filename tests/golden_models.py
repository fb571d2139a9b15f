# SPDX-License-Identifier: Apache-2.0
"""Tiny Stable Diffusions of five architectures, with weights made from their names.

So the golden files hold no weights: `tools/record_golden.py` (PyTorch) and
`tests/program/test_parity.py` (ours) make the same ones. NumPy alone.
"""

import json
import math
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden"
TEXT_LENGTH, LATENT, RANK = 12, 8, 4
# Of the tokenizer, as they were recorded: the Toybox's vocabulary grows.
WORDS = (
    "a an back background bear black blue boat brown cake car chair donut duck front"
    " green grey house in lamp map mug mushroom normal of orange overhead pink purple"
    " red robot rocket room side snowman table tree view white yellow ,"
).split()

_UNET = {
    "sample_size": LATENT,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "norm_num_groups": 32,  # all that the Flax network knows
    "cross_attention_dim": 24,
}
_TEXT = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "max_position_embeddings": TEXT_LENGTH,
    "projection_dim": 24,
}
_SCHEDULE = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
    "sample_size": 16,
    "scaling_factor": 0.18215,
}

# Heads: diffusers calls their number `attention_head_dim`, one for all levels in 1.5,
# one for each in 2.x.
ARCHITECTURES = {
    "sd15": {
        "unet": _UNET | {"attention_head_dim": 2, "use_linear_projection": False},
        "text": _TEXT | {"hidden_act": "quick_gelu"},
        "prediction_type": "epsilon",
    },
    "sd21_base": {
        "unet": _UNET | {"attention_head_dim": [2, 4], "use_linear_projection": True},
        "text": _TEXT | {"hidden_act": "gelu", "num_hidden_layers": 3},
        "prediction_type": "epsilon",
    },
    "sd21": {
        "unet": _UNET
        | {
            "attention_head_dim": [2, 4],
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        "text": _TEXT | {"hidden_act": "gelu", "num_hidden_layers": 3},
        "prediction_type": "v_prediction",
    },
    # BK-SDM (arXiv:2305.15798): half the layers and no middle; its tiny one ends with a
    # level that has attention.
    "bk_small": {
        "unet": _UNET | {"attention_head_dim": 2, "mid_block_type": None},
        "text": _TEXT | {"hidden_act": "quick_gelu"},
        "prediction_type": "epsilon",
    },
    "bk_tiny": {
        "unet": _UNET
        | {
            "attention_head_dim": 2,
            "mid_block_type": None,
            "down_block_types": ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2,
        },
        "text": _TEXT | {"hidden_act": "quick_gelu"},
        "prediction_type": "epsilon",
    },
}

TEXTS = (
    "a red mushroom",
    "",
    "a blue house, side view",
    "a green tree in a pink room, with far more words than there is room for here",
)


def schedule(name: str) -> dict:
    """The scheduler's configuration."""
    return _SCHEDULE | {"prediction_type": ARCHITECTURES[name]["prediction_type"]}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of a name: float32, as large as trained ones are for their shape."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    values = random.normal(size=shape)
    if name.endswith("bias"):
        values *= 0.1
    elif len(shape) == 1:  # the scale of a norm
        values = 1 + 0.1 * values
    elif "embedding" in name and "time" not in name:
        values *= 0.3
    else:
        values *= math.prod(shape[1:]) ** -0.5
    return values.astype(np.float32)


def random(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal inputs of a name, float32."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return generator.normal(size=shape).astype(np.float32)


def score_tensor(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """A leaf of the score network's LoRA and camera MLP, no longer at its start."""
    return 0.3 * random(path, shape) / math.sqrt(shape[0])


def read_names(name: str) -> dict[str, dict[str, list[int]]]:
    """`{component: {torch name: shape}}` as PyTorch recorded it."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def read_arrays(name: str) -> dict[str, np.ndarray]:
    """Inputs and what PyTorch made of them."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)
