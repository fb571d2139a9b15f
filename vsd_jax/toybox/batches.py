# SPDX-License-Identifier: Apache-2.0
"""Captioned training batches from a Toybox dataset, drawn on the device.

Each image is shown with one of the true captions that the grammar has for it: with
or without the colour and the view word, on one of the plain backgrounds, or as a
normal map. A batch is a pure function of a key: an accelerator, which trains faster
than a host can draw, draws in the training step itself.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.program.terminal.errors import RunError
from vsd_jax.toybox.text import (
    BACKGROUNDS,
    COLOURS,
    HEIGHTS,
    KINDS,
    OVERHEAD,
    OVERHEAD_DEG,
    ROOM,
    VIEWS,
    Prompt,
)

KIND_NAMES = (*KINDS, ROOM)
"""Kinds as the datasets number them."""
_ROOM = KIND_NAMES.index(ROOM)

# Axes of the table of captions: kind, colour, place, view, height, look. The last
# colour, view and height are unnamed ones.
_UNNAMED_COLOUR, _UNNAMED_VIEW = len(COLOURS), len(VIEWS)
_UNNAMED_HEIGHT, _OVERHEAD = len(HEIGHTS), VIEWS.index(OVERHEAD)
_ANY_ROOM, _NO_ROOM = len(COLOURS), len(COLOURS) + 1  # after the rooms of a colour
_NORMAL_MAP = len(BACKGROUNDS)  # after the backgrounds
_TABLE = (
    len(KIND_NAMES),
    _UNNAMED_COLOUR + 1,
    _NO_ROOM + 1,
    _UNNAMED_VIEW + 1,
    _UNNAMED_HEIGHT + 1,
    _NORMAL_MAP + 1,
)


class Dataset(NamedTuple):
    """Memory-mapped renders (`vsd_jax.toybox.dataset`).

    Attributes:
      rgba: [N, 64, 64, 4] uint8, premultiplied.
      normal: [N, 64, 64, 3] uint8, (n + 1) / 2 on black.
      meta: arrays [N]: kind, colour, room, room_colour, view,
        height.
    """

    rgba: np.ndarray
    normal: np.ndarray
    meta: dict[str, np.ndarray]


def view_index(azimuth_deg: np.ndarray, elevation_deg: np.ndarray) -> np.ndarray:
    """Index into VIEWS: front, side, back, overhead (thresholds 45 and 60 degrees)."""
    distance = np.abs((azimuth_deg + 180.0) % 360.0 - 180.0)
    around = np.where(distance < 45.0, 0, np.where(distance > 135.0, 2, 1))
    return np.where(elevation_deg > OVERHEAD_DEG, _OVERHEAD, around)


def height_index(elevation_deg: np.ndarray) -> np.ndarray:
    """Index into HEIGHTS; that after the last for an overhead view."""
    limits = [limit for _, limit in HEIGHTS.values()]
    return np.searchsorted(limits, elevation_deg)


def open_dataset(folder: str) -> Dataset:
    """Opens a folder written by `vsd_jax.toybox.dataset`.

    Raises:
      RunError: the folder holds no dataset; says how to make one.
    """
    path = Path(folder)
    if not (path / "meta.npz").is_file():
        raise RunError(
            f"{str(folder)!r} holds no Toybox dataset (meta.npz is missing). Make one"
            " with python -m vsd_jax.toybox.dataset --out=FOLDER, and give its folder."
        )
    with np.load(path / "meta.npz") as archive:
        meta = {name: archive[name] for name in archive.files}
    meta["view"] = view_index(meta["azimuth_deg"], meta["elevation_deg"])
    meta["height"] = height_index(meta["elevation_deg"])
    return Dataset(
        np.load(path / "rgba.npy", mmap_mode="r"),
        np.load(path / "normal.npy", mmap_mode="r"),
        meta,
    )


def composite(rgba: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Premultiplied [..., 4] uint8 over `background` [3] -> [..., 3] in [0, 1]."""
    scaled = rgba.astype(np.float32) / 255.0
    return scaled[..., :3] + (1.0 - scaled[..., 3:]) * background


class TrainingSet(NamedTuple):
    """A dataset and the token ids of all its captions, on the device.

    Attributes:
      rgba: [N, 64, 64, 4] uint8, premultiplied.
      normal: [N, 64, 64, 3] uint8.
      camera: [N, 16] float32, cam_to_world, row by row.
      labels: [N, 5] int32: kind, colour, place, view and height, as the table numbers
        them.
      overhead: [n] int32, the rows seen from above (all, if there are none).
      hard: [m] int32, those of them that show a hard kind (all, if there are none).
      captions: [17, 9, 10, 5, 4, 4, L] int32, token ids by kind, colour, place, view,
        height and look.
      empty: [L] int32, token ids of the empty text.
    """

    rgba: jax.Array
    normal: jax.Array
    camera: jax.Array
    labels: jax.Array
    overhead: jax.Array
    hard: jax.Array
    captions: jax.Array
    empty: jax.Array


def training_set(
    data: Dataset, tokenize: Callable, hard_kinds: tuple[str, ...]
) -> TrainingSet:
    """Puts a dataset on the device (28 KB an image).

    Args:
      data: of `open_dataset`.
      tokenize: `(texts) -> ids [N, L]`.
      hard_kinds: names of kinds; () = all are alike.
    """
    meta = data.meta
    # Only what stands in a room has a room's colour: a room alone has its own.
    place = np.where(meta["room_colour"] >= 0, meta["room_colour"], _NO_ROOM)
    above = meta["view"] == VIEWS.index("overhead")
    above = above if above.any() else np.ones_like(above)
    hard = above & np.isin(meta["kind"], [KIND_NAMES.index(k) for k in hard_kinds])
    hard = hard if hard.any() else above
    names = (meta["kind"], meta["colour"], place, meta["view"], meta["height"])
    labels = np.stack(names, -1)
    return TrainingSet(
        rgba=jnp.asarray(data.rgba),
        normal=jnp.asarray(data.normal),
        camera=jnp.asarray(meta["cam_to_world"].reshape(-1, 16), jnp.float32),
        labels=jnp.asarray(labels, jnp.int32),
        overhead=jnp.asarray(np.flatnonzero(above), jnp.int32),
        hard=jnp.asarray(np.flatnonzero(hard), jnp.int32),
        captions=jnp.asarray(_caption_table(tokenize), jnp.int32),
        empty=jnp.asarray(tokenize([""])[0], jnp.int32),
    )


def _caption_table(tokenize: Callable) -> np.ndarray:
    """Token ids [*_TABLE, L] of every caption; "" where there is none."""
    texts = [_caption(*index) for index in np.ndindex(*_TABLE)]
    distinct = list(dict.fromkeys(texts))
    number = {text: index for index, text in enumerate(distinct)}
    ids = np.asarray(tokenize(distinct))[[number[text] for text in texts]]
    return ids.reshape(*_TABLE, -1)


def _caption(kind: int, colour: int, place: int, *rest: int) -> str:
    """The text of one entry of the table; "" if the grammar has none."""
    view, height, look = rest
    alone, in_room = kind == _ROOM, place != _NO_ROOM
    if height != _UNNAMED_HEIGHT and view in (_OVERHEAD, _UNNAMED_VIEW):
        return ""
    if (alone and (in_room or view != _UNNAMED_VIEW)) or ((alone or in_room) and look):
        return ""
    normal_map = look == _NORMAL_MAP
    return Prompt(
        kind=KIND_NAMES[kind],
        colour=(*COLOURS, None)[colour],
        room=in_room,
        room_colour=(*COLOURS, None, None)[place],
        view=(*VIEWS, None)[view],
        height=(*HEIGHTS, None)[height],
        background="black" if normal_map else list(BACKGROUNDS)[look],
        normal_map=normal_map,
    ).text()


def draw_batch(
    data: TrainingSet, key: jax.Array, config: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Random images [B, 64, 64, 3] in [0, 1], ids [B, L] and cameras [B, 16] of each.

    The ids are of one of its true captions; a share `config.camera_dropout` of the
    cameras is not told: zeros. A share `config.overhead_fraction` of the images is
    drawn from the overhead views alone, half of that from those of the hard kinds.

    Args:
      data: images and captions.
      key: what the draw depends on.
      config: `configs/toybox_prior.py`.
    """
    batch = config["batch_size"]
    rows_key, look_key, named_key = jax.random.split(key, 3)
    rows = _draw_rows(data, rows_key, batch, config["overhead_fraction"])
    kind, colour, place, view, height = data.labels[rows].T
    normal_map, background = _draw_looks(look_key, batch, config)
    inside = (place != _NO_ROOM) | (kind == _ROOM)
    normal_map, background = normal_map & ~inside, jnp.where(inside, 0, background)
    named = jax.random.uniform(named_key, (5, batch))
    colour = jnp.where(named[0] < config["colour_dropout"], _UNNAMED_COLOUR, colour)
    any_room = (named[1] < config["colour_dropout"]) & (place != _NO_ROOM)
    place = jnp.where(any_room, _ANY_ROOM, place)
    nameless = (named[2] < config["view_dropout"]) | (kind == _ROOM)
    view = jnp.where(nameless, _UNNAMED_VIEW, view)
    heightless = (named[4] < config["height_dropout"]) | (view == _UNNAMED_VIEW)
    height = jnp.where(heightless, _UNNAMED_HEIGHT, height)
    look = jnp.where(normal_map, _NORMAL_MAP, background)
    ids = data.captions[kind, colour, place, view, height, look]
    ids = jnp.where((named[3] < config["text_dropout"])[:, None], data.empty, ids)
    plain = jnp.asarray(list(BACKGROUNDS.values()), jnp.float32)[background]
    colours = composite(data.rgba[rows], plain[:, None, None])
    normals = data.normal[rows].astype(jnp.float32) / 255.0
    images = jnp.where(normal_map[:, None, None, None], normals, colours)
    told = jax.random.uniform(jax.random.fold_in(named_key, 1), (batch, 1))
    told = told >= config["camera_dropout"]
    return images, ids, jnp.where(told, data.camera[rows], 0.0)


def _draw_rows(
    data: TrainingSet, key: jax.Array, batch: int, overhead_fraction: float
) -> jax.Array:
    """[B] rows: any, of the overhead views, or of those of the hard kinds."""
    chance_key, *keys = jax.random.split(key, 4)
    chance = jax.random.uniform(chance_key, (batch,))
    anything, overhead, hard = (
        jax.random.randint(key, (batch,), 0, number)
        for key, number in zip(
            keys, (len(data.rgba), len(data.overhead), len(data.hard)), strict=True
        )
    )
    rows = jnp.where(chance < overhead_fraction, data.overhead[overhead], anything)
    return jnp.where(chance < overhead_fraction / 2, data.hard[hard], rows)


def _draw_looks(
    key: jax.Array, batch: int, config: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """[B] whether it is a normal map, and [B] the background's index."""
    normal_key, background_key = jax.random.split(key)
    normal_map = jax.random.uniform(normal_key, (batch,)) < config["normal_fraction"]
    weights = jnp.asarray(config["background_weights"])
    background = jax.random.choice(background_key, len(weights), (batch,), p=weights)
    return normal_map, background


def stratified_t(key: jax.Array, batch: int, num_t: int, power: float) -> jax.Array:
    """[B] int32, one timestep from each of B parts of [0, T) of equal probability.

    t / T = u^(1 / power): 1 is uniform, more prefers the noisy end, where alone the
    text decides (below, the network reads kind and colour from x_t itself).
    """
    offsets = jax.random.uniform(key, (batch,))
    share = ((jnp.arange(batch) + offsets) / batch) ** (1.0 / power)
    return jnp.clip((share * num_t).astype(jnp.int32), 0, num_t - 1)
