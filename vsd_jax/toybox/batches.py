# SPDX-License-Identifier: Apache-2.0
"""Captioned training batches from a Toybox dataset on disk.

Each image is shown with one of the true captions that the grammar has for it: with
or without the colour and the view word, on one of the plain backgrounds, or as a
normal map. Which one is drawn depends on (seed, step) alone, so a resumed training
sees what an undisturbed one would have seen.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vsd_jax.toybox.text import BACKGROUNDS, COLOURS, KINDS, ROOM, VIEWS, Prompt

KIND_NAMES = (*KINDS, ROOM)
"""Kinds as the datasets number them."""


class Dataset(NamedTuple):
    """Memory-mapped renders (`vsd_jax.toybox.dataset`).

    Attributes:
      rgba: [N, 64, 64, 4] uint8, premultiplied.
      normal: [N, 64, 64, 3] uint8, (n + 1) / 2 on black.
      meta: arrays [N]: kind, colour, room, room_colour, view.
    """

    rgba: np.ndarray
    normal: np.ndarray
    meta: dict[str, np.ndarray]


def view_index(azimuth_deg: np.ndarray, elevation_deg: np.ndarray) -> np.ndarray:
    """Index into VIEWS: front, side, back, overhead (thresholds 45 and 60 degrees)."""
    distance = np.abs((azimuth_deg + 180.0) % 360.0 - 180.0)
    around = np.where(distance < 45.0, 0, np.where(distance > 135.0, 2, 1))
    return np.where(elevation_deg > 60.0, 3, around)


def open_dataset(folder: str) -> Dataset:
    """Opens a folder written by `vsd_jax.toybox.dataset`.

    Raises:
      ValueError: the folder holds no dataset; says how to make one.
    """
    path = Path(folder)
    if not (path / "meta.npz").is_file():
        raise ValueError(
            f"config.data={folder!r} holds no Toybox dataset (meta.npz is missing). "
            "Make one: python -m vsd_jax.toybox.dataset --out=FOLDER"
        )
    with np.load(path / "meta.npz") as archive:
        meta = {name: archive[name] for name in archive.files}
    meta["view"] = view_index(meta["azimuth_deg"], meta["elevation_deg"])
    return Dataset(
        np.load(path / "rgba.npy", mmap_mode="r"),
        np.load(path / "normal.npy", mmap_mode="r"),
        meta,
    )


def composite(rgba: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Premultiplied [..., 4] uint8 over `background` [3] -> [..., 3] in [0, 1]."""
    scaled = rgba.astype(np.float32) / 255.0
    return scaled[..., :3] + (1.0 - scaled[..., 3:]) * background


def _example(
    data: Dataset, index: int, rng: np.random.Generator, config: Mapping[str, Any]
) -> tuple[np.ndarray, str]:
    """One image [64, 64, 3] in [0, 1] and a true caption of it."""
    meta = {name: data.meta[name][index] for name in ("kind", "room", "view")}
    colour, room_colour = data.meta["colour"][index], data.meta["room_colour"][index]
    kind = KIND_NAMES[meta["kind"]]
    inside = bool(meta["room"]) or kind == ROOM
    normal_map = not inside and rng.random() < config["normal_fraction"]
    background = rng.choice(len(BACKGROUNDS), p=config["background_weights"])
    background = list(BACKGROUNDS)[0 if inside else background]
    named = rng.random(4)
    keep_colour = named[0] >= config["colour_dropout"] and colour >= 0
    keep_room = named[1] >= config["colour_dropout"] and room_colour >= 0
    keep_view = named[2] >= config["view_dropout"] and kind != ROOM
    prompt = Prompt(
        kind=kind,
        colour=list(COLOURS)[colour] if keep_colour else None,
        room=bool(meta["room"]) and kind != ROOM,
        room_colour=list(COLOURS)[room_colour] if keep_room else None,
        view=VIEWS[meta["view"]] if keep_view else None,
        background="black" if normal_map else background,
        normal_map=bool(normal_map),
    )
    if normal_map:
        image = data.normal[index].astype(np.float32) / 255.0
    else:
        image = composite(data.rgba[index], np.asarray(BACKGROUNDS[background]))
    return image, "" if named[3] < config["text_dropout"] else prompt.text()


def make_batch(
    data: Dataset, step: int, config: Mapping[str, Any]
) -> tuple[np.ndarray, list[str]]:
    """The batch of training step `step`: images [B, 64, 64, 3], captions.

    A share `config.overhead_fraction` of it is drawn from the overhead views alone,
    half of that from those of `config.hard_kinds`, if there are any.
    """
    rng = np.random.default_rng([config["seed"], step])
    indices = rng.integers(len(data.rgba), size=config["batch_size"])
    chance = rng.random(len(indices))
    overhead = data.meta["view"] == VIEWS.index("overhead")
    hard = [KIND_NAMES.index(kind) for kind in config["hard_kinds"]]
    for share, chosen in (
        (config["overhead_fraction"], overhead),
        (config["overhead_fraction"] / 2, overhead & np.isin(data.meta["kind"], hard)),
    ):
        extra = chance < share
        if extra.any() and chosen.any():
            indices[extra] = rng.choice(np.flatnonzero(chosen), size=extra.sum())
    examples = [_example(data, index, rng, config) for index in indices]
    return np.stack([e[0] for e in examples]), [e[1] for e in examples]
