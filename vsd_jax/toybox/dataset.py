# SPDX-License-Identifier: Apache-2.0
"""Multi-view truth renders of the Toybox, reproducible from a seed.

  python -m vsd_jax.toybox.dataset --out=DATA --num_objects=6000 --views=5

Object i is a pure function of (seed, i), whatever the number of workers. A run that
was stopped goes on where it stopped.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from rich.progress import track

from vsd_jax.program.folder import paths
from vsd_jax.toybox import batches, render
from vsd_jax.toybox.objects import make_object
from vsd_jax.toybox.parts import Part
from vsd_jax.toybox.rooms import make_room
from vsd_jax.toybox.text import (
    COLOURS,
    HEIGHTS,
    HELD_OUT_PAIRS,
    KINDS,
    OVERHEAD,
    ROOM,
    VIEWS,
    Prompt,
)

CHUNK = 50  # scenes a file of the work list
SIZE = 64  # pixels
_TRIES = 10_000  # the rarest view that there is takes some fifty


class Plan(NamedTuple):
    """What a dataset holds; two equal plans give equal files."""

    num_objects: int
    views: int
    seed: int
    held_out: str
    rooms: float
    in_rooms: float
    high: float = 0.15


WEIGHTS = Plan(
    num_objects=24_000,
    views=5,
    seed=31,
    held_out="exclude",
    rooms=0.08,
    in_rooms=0.12,
    high=0.33,
)
"""The data of the last part of the packaged weights' training (docs/model_card.md)."""
OVERHEAD_FRACTION = 0.25
"""Share of a batch of that training that is drawn from the overhead views alone."""
HARD_KINDS = ("house", "boat", "robot", "bear", "tree", "chair")
"""Kinds of which half of that share is."""


def draw_prompt(rng: np.random.Generator, plan: Plan) -> Prompt:
    """A prompt with every choice made."""
    share = rng.random()
    colours = list(COLOURS)
    colour = colours[rng.integers(len(colours))]
    if share < plan.rooms and plan.held_out != "only":  # a room alone is no pair
        return Prompt(kind=ROOM, colour=colour)
    while True:
        pair = KINDS[rng.integers(len(KINDS))], colours[rng.integers(len(colours))]
        if plan.held_out == "include" or (pair in HELD_OUT_PAIRS) == (
            plan.held_out == "only"
        ):
            break
    if share < plan.rooms + plan.in_rooms:
        return Prompt(kind=pair[0], colour=pair[1], room=True, room_colour=colour)
    return Prompt(kind=pair[0], colour=pair[1])


def build(prompt: Prompt, rng: np.random.Generator) -> Part:
    """The scene of a prompt; what the prompt leaves open is drawn."""
    return make_room(rng, prompt) if prompt.room else make_object(rng, prompt)


def draw_view(
    prompt: Prompt, rng: np.random.Generator, high: float = 0.15
) -> render.View:
    """A camera as the program's configurations draw them (presets/numbers.py).

    Args:
      prompt: a room, an object in a room or an object alone; its words for view and
        height are kept.
      rng: consumed.
      high: share of an object's views from 50 to 85 degrees; the rest are lower.

    Raises:
      ValueError: no camera of such a scene sees it as the prompt says.
    """
    for _ in range(_TRIES):
        view = _draw_any_view(prompt, rng, high)
        word = batches.view_index(view.azimuth_deg, view.elevation_deg)
        height = (*HEIGHTS, None)[batches.height_index(view.elevation_deg)]
        if prompt.view in (None, VIEWS[word]) and prompt.height in (None, height):
            return view
    raise ValueError(f"{prompt.text()!r} is never seen from there; leave its view out")


def as_trained(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """A prompt with what it leaves open as the weights' training drew it.

    Overhead views were drawn more often than `WEIGHTS` has them, those of `HARD_KINDS`
    most; a pair of kind and colour that is held out was never shown.
    """
    if prompt.kind not in KINDS or prompt.room:
        return prompt
    if prompt.colour is None:
        colours = [c for c in COLOURS if (prompt.kind, c) not in HELD_OUT_PAIRS]
        drawn = colours[rng.integers(len(colours))]
        prompt = dataclasses.replace(prompt, colour=drawn)
    if prompt.view is None and rng.random() < _overhead_rows(prompt.kind):
        prompt = dataclasses.replace(prompt, view=OVERHEAD)
    return prompt


def _overhead_rows(kind: str) -> float:
    """Of a kind's images in a batch the share that was drawn as an overhead view."""
    alone = (1 - WEIGHTS.rooms - WEIGHTS.in_rooms) / len(KINDS)
    half = OVERHEAD_FRACTION / 2
    drawn = half / len(KINDS) + (kind in HARD_KINDS) * half / len(HARD_KINDS)
    return drawn / (drawn + (1 - OVERHEAD_FRACTION) * alone)


def _draw_any_view(
    prompt: Prompt, rng: np.random.Generator, high: float
) -> render.View:
    azimuth = rng.uniform(-180.0, 180.0)
    if prompt.kind == ROOM:
        position = rng.normal(size=3)
        position *= 0.25 * rng.random() ** (1 / 3) / np.linalg.norm(position)
        elevation = rng.uniform(-20.0, 20.0)
        pose = render.look_along(position, render.direction(azimuth, elevation))
        return render.View(pose, 75.0, azimuth, elevation)
    if prompt.room:
        elevation = rng.uniform(5.0, 35.0)
        return render.orbit_view(
            azimuth,
            elevation,
            radius=rng.uniform(0.55, 0.7),
            fov_deg=70.0,
            target=(0.0, -0.3, 0.0),
        )
    low, high = (-10.0, 50.0) if rng.random() < 1 - high else (50.0, 85.0)
    elevation, radius = rng.uniform(low, high), rng.uniform(2.4, 2.8)
    return render.orbit_view(azimuth, elevation, radius=radius, fov_deg=40.0)


def scene_rng(seed: int, index: int) -> np.random.Generator:
    """The generator of scene `index`."""
    return np.random.default_rng(np.random.SeedSequence([seed, index]))


def make_scene(plan: Plan, index: int) -> tuple[render.Images, list[dict]]:
    """Renders scene `index` of a plan: its views and one record a view."""
    rng = scene_rng(plan.seed, index)
    prompt = draw_prompt(rng, plan)
    part = build(prompt, rng)
    views = [draw_view(prompt, rng, plan.high) for _ in range(plan.views)]
    names = list(COLOURS)
    record = {
        "kind": batches.KIND_NAMES.index(prompt.kind),
        "colour": names.index(prompt.colour),
        "room": int(prompt.room),
        "room_colour": names.index(prompt.room_colour) if prompt.room_colour else -1,
        "object_index": index,
    }
    records = [
        record
        | {
            "azimuth_deg": view.azimuth_deg,
            "elevation_deg": view.elevation_deg,
            "cam_to_world": view.cam_to_world,
            "fov_deg": view.fov_deg,
        }
        for view in views
    ]
    return render.render(part, views, size=SIZE), records


def _work(arguments: tuple[str, Plan, range]) -> None:
    """Renders one chunk into the shared files."""
    folder, plan, indices = arguments
    done = Path(folder) / "chunks" / f"{indices.start:07d}.npz"
    if done.exists():
        return
    rgba = np.load(Path(folder) / "rgba.npy", mmap_mode="r+")
    normal = np.load(Path(folder) / "normal.npy", mmap_mode="r+")
    records = []
    for index in indices:
        images, rows = make_scene(plan, index)
        rows_at = slice(index * plan.views, (index + 1) * plan.views)
        rgba[rows_at] = np.round(images.rgba * 255.0)
        normal[rows_at] = np.round(images.normal * 255.0)
        records += rows
    rgba.flush()
    normal.flush()
    columns = {name: np.array([r[name] for r in records]) for name in records[0]}
    # Renamed when complete: a chunk's file says that its renders are there.
    with open(done.with_suffix(".part"), "wb") as file:
        np.savez(file, **columns)
    os.replace(done.with_suffix(".part"), done)


def truth_views(
    prompts: Sequence[Prompt], *, seed: int, trained: bool = False
) -> tuple[render.Images, list[render.View]]:
    """True images of prompts: what a perfect generator would draw.

    Args:
      prompts: one image each, of an object of its own; what they leave open is drawn.
      seed: not that of a training set, to be independent of it.
      trained: what they leave open is drawn as the weights' training drew it
        (`as_trained`), not as a data set by default has it.

    Returns:
      Images [len(prompts), 64, 64, ...] and their views.
    """
    blocks, views = [], []
    for index, prompt in enumerate(prompts):
        rng, high = scene_rng(seed, index), 0.15
        if trained:
            prompt, high = as_trained(prompt, rng), WEIGHTS.high
        part, view = build(prompt, rng), draw_view(prompt, rng, high)
        blocks.append(render.render(part, [view], size=SIZE))
        views.append(view)
    fields = zip(*blocks, strict=True)
    return render.Images(*(np.concatenate(field) for field in fields)), views


def make_dataset(folder: Path, plan: Plan, *, workers: int) -> None:
    """Renders a dataset, or the rest of one; see the module's docstring.

    Writes rgba.npy uint8 [N, 64, 64, 4] (premultiplied), normal.npy uint8
    [N, 64, 64, 3] and meta.npz with one entry a view.

    Raises:
      OSError: the folder cannot be written or the disk is too full.
      ValueError: the folder holds a dataset of another plan.
    """
    (folder / "chunks").mkdir(parents=True, exist_ok=True)
    plan_file = folder / "plan.json"
    content = json.dumps(plan._asdict(), indent=2)
    if plan_file.exists() and plan_file.read_text() != content:
        raise ValueError(
            f"{folder} holds a dataset of another plan ({plan_file}); use another "
            "--out, or delete the folder."
        )
    if not plan_file.exists():
        _make_files(folder, plan.num_objects * plan.views)
        plan_file.write_text(content)
    starts = range(0, plan.num_objects, CHUNK)
    jobs = [
        (str(folder), plan, range(start, min(start + CHUNK, plan.num_objects)))
        for start in starts
    ]
    _run(jobs, workers)
    chunks = [np.load(folder / "chunks" / f"{start:07d}.npz") for start in starts]
    names = chunks[0].files
    columns = {name: np.concatenate([c[name] for c in chunks]) for name in names}
    np.savez(folder / "meta.npz", **columns)


def _run(jobs: list[tuple[str, Plan, range]], workers: int) -> None:
    if workers == 1:
        for job in track(jobs, "rendering"):
            _work(job)
        return
    # Spawned, not forked: a fork would copy the threads' locks of whoever calls.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in track(pool.imap(_work, jobs), "rendering", total=len(jobs)):
            pass


def _make_files(folder: Path, number: int) -> None:
    """Makes the empty image files, after a look at the space that is left."""
    # Renders are written through memory maps, which die without a word on a full disk.
    needed, free = number * SIZE**2 * 7 * 1.02, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} needs {needed / 1e6:.0f} MB for {number} images, but its disk "
            f"has {free / 1e6:.0f} MB left. Make room or lower --num_objects."
        )
    for name, channels in (("rgba", 4), ("normal", 3)):
        shape = (number, SIZE, SIZE, channels)
        open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape).flush()


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line (without the program's name)."""
    # argparse, not absl: absl's flags are global, and tests import every program.
    parser = argparse.ArgumentParser(
        prog="python -m vsd_jax.toybox.dataset",
        description="Renders a Toybox dataset; the same command goes on with it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=paths.argument, required=True, help="folder to write"
    )
    parser.add_argument("--num_objects", type=int, default=5000, help="scenes")
    parser.add_argument("--views", type=int, default=5, help="views of each")
    parser.add_argument("--seed", type=int, default=0, help="seed")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--held_out",
        choices=("exclude", "only", "include"),
        default="exclude",
        help="the held-out pairs of kind and colour",
    )
    parser.add_argument(
        "--rooms", type=float, default=0.10, help="share of rooms alone"
    )
    parser.add_argument(
        "--in_rooms", type=float, default=0.08, help="share of objects in rooms"
    )
    parser.add_argument(
        "--high", type=float, default=0.15, help="share of objects' views above 50 deg"
    )
    chosen = parser.parse_args(arguments)
    if min(chosen.num_objects, chosen.views, chosen.workers) < 1:
        parser.error("--num_objects, --views and --workers must be at least 1")
    if min(chosen.rooms, chosen.in_rooms) < 0 or chosen.rooms + chosen.in_rooms > 1:
        parser.error("--rooms and --in_rooms are shares: each >= 0, their sum <= 1")
    if not 0 <= chosen.high <= 1:
        parser.error("--high is a share: from 0 to 1")
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit status."""
    chosen = vars(parse_arguments(arguments))
    folder, workers = chosen.pop("out"), chosen.pop("workers")
    try:
        make_dataset(folder, Plan(**chosen), workers=workers)
    except (OSError, ValueError, ImportError) as error:
        print(f"dataset: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
