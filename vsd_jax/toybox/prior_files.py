# SPDX-License-Identifier: Apache-2.0
"""The embedded prior's diffusers-format folder: configurations and tokenizer.

Everything but the weights follows from the training configuration and from the
grammar's vocabulary, so it is written by code. Each known word is one token: a
byte-pair encoding trained on the vocabulary itself, in CLIP's file format.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vsd_jax.program.folder import paths, writer
from vsd_jax.program.prior import schedule

START, END = "<|startoftext|>", "<|endoftext|>"


def unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`unet/config.json`: attention below the finest level only.

    Self-attention over 16 x 16 tokens costs a CPU as much as all convolutions of
    that level and the toys do not need it.
    """
    depth = len(config["channels"])
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64 // config["patch"],
        "in_channels": 3 * config["patch"] ** 2,
        "out_channels": 3 * config["patch"] ** 2,
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * (depth - 1),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["CrossAttnUpBlock2D"] * (depth - 1) + ["UpBlock2D"],
        "block_out_channels": list(config["channels"]),
        "layers_per_block": config["layers_per_block"],
        "attention_head_dim": config["num_heads"],
        "cross_attention_dim": config["text_width"],
        "use_linear_projection": True,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }


def text_config(config: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """`text_encoder/config.json` of a tiny CLIP text tower."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocab_size,
        "hidden_size": config["text_width"],
        "intermediate_size": 2 * config["text_width"],
        "num_hidden_layers": config["text_layers"],
        "num_attention_heads": 4,
        "max_position_embeddings": config["text_length"],
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": config["text_width"],
        "bos_token_id": vocab_size - 2,
        "eos_token_id": vocab_size - 1,
        "pad_token_id": vocab_size - 1,
    }


def scheduler_config(snr_divisor: float) -> dict[str, Any]:
    """`scheduler/scheduler_config.json`: x0-prediction on a noisier schedule.

    Three deviations from Stable Diffusion's file. x0 instead of epsilon or v, because a
    patch of 48 numbers does not pass through 64 channels when it is noise, and does
    when it is a picture. No signal at the last step (arXiv:2305.08891): the network
    reads the background's brightness from the mean of x_t, so that pure noise would
    mean grey to it. And `snr_divisor` times less signal at every step: 64 x 64 pixels
    of a toy otherwise show its kind and colour at nine steps of ten, which leaves the
    text one step of ten to be learned on.
    """
    plain = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    }
    ours = schedule.less_signal(
        schedule.noise_schedule(plain | {"rescale_betas_zero_snr": True}), snr_divisor
    )
    return {
        "_class_name": "DDIMScheduler",
        **plain,
        "trained_betas": (1.0 - ours / np.append(1.0, ours[:-1])).tolist(),
        "prediction_type": "sample",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "trailing",
    }


def _word_pieces(words: list[str]) -> tuple[dict[str, int], list[str]]:
    """A byte-pair vocabulary in which each of `words` is one token."""
    from tokenizers import Tokenizer, models, trainers
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator([[word] for word in sorted(words)] * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    symbols = alphabet + [letter + "</w>" for letter in alphabet]
    symbols += ["".join(merge.split(" ")) for merge in merges]
    tokens = list(dict.fromkeys(symbols)) + [START, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def write_tokenizer(folder: Path, words: list[str], length: int) -> int:
    """Writes CLIP tokenizer files; returns the vocabulary's size."""
    vocab, merges = _word_pieces(words)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *merges]) + "\n", "utf-8"
    )
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = special | {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "do_lower_case": True,
    }
    (folder / "special_tokens_map.json").write_text(
        json.dumps(special, indent=2), "utf-8"
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2), "utf-8"
    )
    return len(vocab)


def _adopt_tokenizer(folder: Path, start: str) -> int | None:
    """Keeps the tokenizer of `folder`, or copies that of the folder `start`.

    Equally frequent word pieces are numbered by chance: weights go with one numbering.

    Returns:
      The vocabulary's size, or None if neither has one.
    """
    for source in (folder, *([paths.expand(start, "init_from")] if start else [])):
        vocab = source / "tokenizer" / "vocab.json"
        if vocab.exists():
            if source != folder:
                _copy_files(vocab.parent, folder / "tokenizer")
            return len(json.loads(vocab.read_text("utf-8")))
    return None


def _copy_files(source: Path, target: Path) -> None:
    # Not `shutil`: it sets modes, which not every disk lets be set.
    for file in filter(Path.is_file, source.iterdir()):
        writer.write_bytes(target / file.name, file.read_bytes())


def write_folder(folder: Path, config: Mapping[str, Any], words: list[str]) -> None:
    """Writes everything of the prior but its weights.

    What `folder` or else `config.init_from` has for a tokenizer is kept.
    """
    size = _adopt_tokenizer(folder, config["init_from"])
    if size is None:
        size = write_tokenizer(folder / "tokenizer", words, config["text_length"])
    files = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "vae": [None, None],
        },
        "unet/config.json": unet_config(config),
        "text_encoder/config.json": text_config(config, size),
        "scheduler/scheduler_config.json": scheduler_config(config["snr_divisor"]),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
