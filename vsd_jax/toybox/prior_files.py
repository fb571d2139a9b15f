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
from vsd_jax.program.prior import refined, schedule

START, END = "<|startoftext|>", "<|endoftext|>"


def unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`unet/config.json`: attention below the finest level only.

    Self-attention over 16 x 16 tokens costs a CPU as much as all convolutions of
    that level and the toys do not need it.
    """
    depth = len(config["channels"])
    ours = {}
    if config["camera_input"]:
        ours = dict(refined.CAMERA_SETTINGS)
    if config["refine_channels"]:
        own_betas = scheduler_config(config["snr_divisor"])["trained_betas"]
        ours |= {
            "_class_name": refined.CLASS_NAME,
            "refine": {
                "channels": config["refine_channels"],
                "depth": config["refine_depth"],
                "factor": config["refine_factor"],
            },
            "trained_betas": own_betas,
        }
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
        **ours,
    }


def text_config(config: Mapping[str, Any], vocab: Mapping[str, int]) -> dict[str, Any]:
    """`text_encoder/config.json` of a tiny CLIP text tower."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": len(vocab),
        "hidden_size": config["text_width"],
        "intermediate_size": 2 * config["text_width"],
        "num_hidden_layers": config["text_layers"],
        "num_attention_heads": 4,
        "max_position_embeddings": config["text_length"],
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": config["text_width"],
        "bos_token_id": vocab[START],
        "eos_token_id": vocab[END],
        "pad_token_id": vocab[END],
    }


def scheduler_config(
    snr_divisor: float, first_divisor: float | None = None
) -> dict[str, Any]:
    """`scheduler/scheduler_config.json`: x0-prediction on a noisier schedule.

    Three deviations from Stable Diffusion's file. x0 instead of epsilon or v, because a
    patch of 48 numbers does not pass through 64 channels when it is noise, and does
    when it is a picture. No signal at the last step (arXiv:2305.08891): the network
    reads the background's brightness from the mean of x_t, so that pure noise would
    mean grey to it. And `snr_divisor` times less signal at every step: 64 x 64 pixels
    of a toy otherwise show its kind and colour at nine steps of ten, which leaves the
    text one step of ten to be learned on. With `first_divisor` the divisor is that at
    t = 0 and grows geometrically to `snr_divisor` at the last step: a refining head
    sees detail at noise where a U-Net of coarse patches sees none.
    """
    plain = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    }
    divisor = snr_divisor
    if first_divisor is not None:
        steps = plain["num_train_timesteps"]
        divisor = np.geomspace(first_divisor, snr_divisor, steps)
    ours = schedule.less_signal(
        schedule.noise_schedule(plain | {"rescale_betas_zero_snr": True}), divisor
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


def write_tokenizer(folder: Path, words: list[str], length: int) -> dict[str, int]:
    """Writes CLIP tokenizer files; returns the vocabulary."""
    vocab, merges = _word_pieces(words)
    folder.mkdir(parents=True, exist_ok=True)
    _write_pieces(folder, vocab, merges)
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
    return vocab


_HEAD = "#version: 0.2"


def _write_pieces(folder: Path, vocab: dict[str, int], merges: list[str]) -> None:
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join([_HEAD, *merges]) + "\n", "utf-8")


def _pieces(word: str, merges: list[str]) -> list[str]:
    """The tokens of one word (byte-pair encoding, arXiv:1508.07909, Alg. 1)."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    for merge in merges:
        first, second = merge.split(" ")
        at = 0
        while at < len(pieces) - 1:
            if pieces[at] == first and pieces[at + 1] == second:
                pieces[at : at + 2] = [first + second]
            at += 1
    return pieces


def add_words(folder: Path, words: list[str]) -> dict[str, int]:
    """Makes each of `words` one token of a tokenizer that was written before.

    New tokens are numbered after the old ones and new merges come after the old ones,
    so that a text of old words keeps its ids and old embeddings keep their rows.

    Args:
      folder: of the tokenizer; its files are rewritten if a word is new.
      words: lower case; what is one token already stays as it is.

    Returns:
      The vocabulary.
    """
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    merges = (folder / "merges.txt").read_text("utf-8").split("\n")[1:]
    merges = [merge for merge in merges if merge]
    known = len(merges)
    for word in sorted(words):
        pieces = _pieces(word, merges)
        while len(pieces) > 1:
            merges.append(" ".join(pieces[:2]))
            pieces[:2] = ["".join(pieces[:2])]
            vocab.setdefault(pieces[0], len(vocab))
    if len(merges) > known:
        _write_pieces(folder, vocab, merges)
    return vocab


def _adopt_tokenizer(folder: Path, start: str, words: list[str]) -> dict | None:
    """Keeps the tokenizer of `folder`, or copies that of the folder `start`.

    Equally frequent word pieces are numbered by chance: weights go with one numbering.
    Words that it does not know are added.

    Returns:
      The vocabulary, or None if neither has one.
    """
    for source in (folder, *([paths.expand(start, "init_from")] if start else [])):
        vocab = source / "tokenizer" / "vocab.json"
        if vocab.exists():
            if source != folder:
                _copy_files(vocab.parent, folder / "tokenizer")
            return add_words(folder / "tokenizer", words)
    return None


def _copy_files(source: Path, target: Path) -> None:
    # Not `shutil`: it sets modes, which not every disk lets be set.
    for file in filter(Path.is_file, source.iterdir()):
        writer.write_bytes(target / file.name, file.read_bytes())


def write_folder(folder: Path, config: Mapping[str, Any], words: list[str]) -> None:
    """Writes everything of the prior but its weights.

    What `folder` or else `config.init_from` has for a tokenizer is kept, and extended.
    """
    vocab = _adopt_tokenizer(folder, config["init_from"], words)
    if vocab is None:
        vocab = write_tokenizer(folder / "tokenizer", words, config["text_length"])
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
        "text_encoder/config.json": text_config(config, vocab),
        "scheduler/scheduler_config.json": scheduler_config(
            config["snr_divisor"],
            config["first_snr_divisor"] if config["refine_channels"] else None,
        ),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
