# SPDX-License-Identifier: Apache-2.0
"""Settings of a prior's folder against the tables of `accepted.py`, all or nothing."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from vsd_jax.program.prior.accepted import (
    IGNORED,
    NO_BETAS,
    REQUIRED,
    TABLES,
    is_list,
)
from vsd_jax.program.prior.json_files import WeightsError

Settings = dict[str, Any]

_DOCS = "docs/folders.md lists every key and its values."
_SUITABLE = f"Give a plain Stable Diffusion 1.x or 2.x folder; {_DOCS}"


def check(component: str, config: Mapping[str, Any], where: str = "") -> Settings:
    """The settings of one component, each of them understood.

    Args:
      component: a key of `TABLES`.
      config: as its JSON file holds them.
      where: that file, for messages; "" = named after the component.

    Returns:
      The value of every key of its table, the missing ones by their defaults.

    Raises:
      WeightsError: in one sentence, with all keys and values that are not implemented.
    """
    table, ignored = TABLES[component], IGNORED[component]
    where = where or component
    faults = []
    for key, value in config.items():
        if key in table and not table[key].accepts(value):
            others = table[key].others and f"; others are for {table[key].others}"
            faults.append(
                f"{key}={show(value)} (supported: {table[key].values}{others})"
            )
        elif key not in table and key not in ignored and not key.startswith("_"):
            if value is not None:
                faults.append(f"{key}={show(value)} (no such key is known)")
    if faults:
        raise WeightsError(
            f"{where} asks for what is not implemented: {', '.join(faults)}. "
            f"{_SUITABLE}"
        )
    missing = [
        key
        for key, row in table.items()
        if row.default is REQUIRED and key not in config
    ]
    if missing:
        raise WeightsError(
            f"{where} lacks {', '.join(missing)} (supported: "
            f"{table[missing[0]].values}). Download it again. {_DOCS}"
        )
    settings = {key: config.get(key, row.default) for key, row in table.items()}
    refuse(where, _TOGETHER.get(component, lambda settings: [])(settings))
    return settings


def refuse(where: str, faults: list[str]) -> None:
    """Raises WeightsError if there are faults: sentences' middles, each with values."""
    if faults:
        raise WeightsError(f"{where}: {'; '.join(faults)}. {_SUITABLE}")


def show(value: Any) -> str:
    """A value as it stands in the file, cut if it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _levels(settings: Settings) -> tuple[int, list[str]]:
    names = ("block_out_channels", "down_block_types", "up_block_types")
    sizes = [len(settings[name]) for name in names]
    if len(set(sizes)) == 1:
        return sizes[0], []
    return 0, [f"{', '.join(names)} have {sizes} entries, one for each level is needed"]


def _unet_faults(settings: Settings) -> list[str]:
    levels, faults = _levels(settings)
    if faults:
        return faults
    for name in ("attention_head_dim", "transformer_layers_per_block"):
        if is_list(settings[name]) and len(settings[name]) != levels:
            return [f"{name}={show(settings[name])} is not one for each of {levels}"]
    channels, size = settings["block_out_channels"], settings["sample_size"]
    found, wanted = settings["in_channels"], settings["out_channels"]
    if found != wanted:
        faults.append(
            f"in_channels={found} and out_channels={wanted} differ: it needs more than"
            " x_t (inpainting, depth, upscaling, InstructPix2Pix) or predicts variances"
        )
    if any(width % 32 for width in channels):
        faults.append(
            f"block_out_channels={show(channels)}: multiples of 32 are needed"
        )
    if size % 2 ** (levels - 1):
        faults.append(
            f"sample_size={size} cannot be halved {levels - 1} times, once between two"
            " levels"
        )
    if settings["time_embedding_dim"] not in (None, 4 * channels[0]):
        faults.append(
            f"time_embedding_dim={settings['time_embedding_dim']} is not 4 x"
            f" {channels[0]}"
        )
    return faults + _head_faults(settings, levels)


def _head_faults(settings: Settings, levels: int) -> list[str]:
    heads, channels = settings["attention_head_dim"], settings["block_out_channels"]
    heads = heads if is_list(heads) else [heads] * levels
    down = [name.startswith("CrossAttn") for name in settings["down_block_types"]]
    up = [name.startswith("CrossAttn") for name in settings["up_block_types"]][::-1]
    attends = [one or other for one, other in zip(down, up, strict=True)]
    attends[-1] |= settings["mid_block_type"] is not None
    return [
        f"attention_head_dim={number}: that many heads do not divide {width} channels"
        for number, width, on in zip(heads, channels, attends, strict=True)
        if on and width % number
    ]


def _vae_faults(settings: Settings) -> list[str]:
    _, faults = _levels(settings)
    groups = settings["norm_num_groups"]
    if any(width % groups for width in settings["block_out_channels"]):
        faults.append(
            f"block_out_channels={show(settings['block_out_channels'])}: multiples of"
            f" norm_num_groups={groups} are needed"
        )
    return faults


def _text_faults(settings: Settings) -> list[str]:
    width, heads = settings["hidden_size"], settings["num_attention_heads"]
    if width % heads:
        return [f"num_attention_heads={heads} does not divide hidden_size={width}"]
    return []


def _scheduler_faults(settings: Settings) -> list[str]:
    betas, steps = settings["trained_betas"], settings["num_train_timesteps"]
    if betas is not None and len(betas) != steps:
        return [f"trained_betas has {len(betas)} entries, num_train_timesteps={steps}"]
    names = ("beta_start", "beta_end", "beta_schedule")
    missing = [name for name in names if settings[name] is None]
    if betas is None and missing:
        return [
            f"it has no {', '.join(missing)} and no trained_betas, so that its noise"
            f" levels are unknown ({NO_BETAS} are not supported)"
        ]
    return []


_TOGETHER: dict[str, Callable[[Settings], list[str]]] = {
    "unet": _unet_faults,
    "vae": _vae_faults,
    "text_encoder": _text_faults,
    "scheduler": _scheduler_faults,
}
