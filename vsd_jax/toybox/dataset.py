# SPDX-License-Identifier: Apache-2.0
"""Multi-view truth renders of the Toybox, reproducible from a seed.

  python -m vsd_jax.toybox.dataset --out=DATA --num_objects=5000 --views=5

Object i is a pure function of (seed, i), whatever the number of workers. A run that
was stopped goes on where it stopped.
"""

import json
import multiprocessing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags
from numpy.lib.format import open_memmap
from rich.progress import track

from vsd_jax.toybox import render
from vsd_jax.toybox.objects import make_object
from vsd_jax.toybox.parts import Part
from vsd_jax.toybox.rooms import make_room
from vsd_jax.toybox.text import COLOURS, HELD_OUT_PAIRS, KINDS, ROOM, Prompt

KIND_NAMES = (*KINDS, ROOM)
"""Kinds as the datasets number them."""

_OUT = flags.DEFINE_string("out", "", "Folder to write.")
_OBJECTS = flags.DEFINE_integer("num_objects", 5000, "Scenes.")
_VIEWS = flags.DEFINE_integer("views", 5, "Views of each.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Processes.")
_HELD_OUT = flags.DEFINE_enum(
    "held_out", "exclude", ["exclude", "only", "include"], "The held-out pairs."
)
_ROOMS = flags.DEFINE_float("rooms", 0.10, "Share of rooms alone.")
_IN_ROOMS = flags.DEFINE_float("in_rooms", 0.08, "Share of objects in rooms.")

CHUNK = 50  # scenes a file of the work list
FIELDS = ("kind", "colour", "room", "room_colour", "object_index")


class Plan(NamedTuple):
    """What a dataset holds; two equal plans give equal files."""

    num_objects: int
    views: int
    seed: int
    held_out: str
    rooms: float
    in_rooms: float


def draw_prompt(rng: np.random.Generator, plan: Plan) -> Prompt:
    """A prompt with every choice made."""
    share = rng.random()
    colours = list(COLOURS)
    colour = colours[rng.integers(len(colours))]
    if share < plan.rooms:
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


def draw_view(prompt: Prompt, rng: np.random.Generator) -> render.View:
    """A camera as the program's configurations draw them (configs/base.py)."""
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
    low, high = (-10.0, 50.0) if rng.random() < 0.85 else (50.0, 85.0)
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
    views = [draw_view(prompt, rng) for _ in range(plan.views)]
    names = list(COLOURS)
    record = {
        "kind": KIND_NAMES.index(prompt.kind),
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
    return render.render(part, views), records


def _work(arguments: tuple[str, Plan, int]) -> list[dict]:
    """Renders one chunk into the shared files."""
    folder, plan, start = arguments
    done = Path(folder) / "chunks" / f"{start:07d}.npz"
    if done.exists():
        return []
    rgba = np.load(Path(folder) / "rgba.npy", mmap_mode="r+")
    normal = np.load(Path(folder) / "normal.npy", mmap_mode="r+")
    records = []
    for index in range(start, min(start + CHUNK, plan.num_objects)):
        images, rows = make_scene(plan, index)
        rows_at = slice(index * plan.views, (index + 1) * plan.views)
        rgba[rows_at] = np.round(images.rgba * 255.0)
        normal[rows_at] = np.round(images.normal * 255.0)
        records += rows
    rgba.flush()
    normal.flush()
    columns = {name: np.array([r[name] for r in records]) for name in records[0]}
    np.savez(done, **columns)
    return records


def make_dataset(folder: Path, plan: Plan, *, workers: int) -> None:
    """Renders a dataset; see the module's docstring.

    Writes rgba.npy uint8 [N, 64, 64, 4] (premultiplied), normal.npy uint8
    [N, 64, 64, 3] and meta.npz with one entry a view.

    Raises:
      OSError: the folder cannot be written or the disk is full.
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
    number = plan.num_objects * plan.views
    if not plan_file.exists():
        for name, channels in (("rgba", 4), ("normal", 3)):
            shape = (number, 64, 64, channels)
            open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape).flush()
        plan_file.write_text(content)
    starts = range(0, plan.num_objects, CHUNK)
    jobs = [(str(folder), plan, start) for start in starts]
    # Spawned, not forked: a fork would copy the threads' locks of whoever calls.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in track(pool.imap(_work, jobs), "rendering", total=len(jobs)):
            pass
    chunks = [np.load(folder / "chunks" / f"{start:07d}.npz") for start in starts]
    names = chunks[0].files
    columns = {name: np.concatenate([c[name] for c in chunks]) for name in names}
    np.savez(folder / "meta.npz", **columns)


def main(argv: list[str]) -> None:
    """Command line."""
    del argv
    if not _OUT.value:
        raise app.UsageError("--out is missing: the folder to write.")
    plan = Plan(
        _OBJECTS.value,
        _VIEWS.value,
        _SEED.value,
        _HELD_OUT.value,
        _ROOMS.value,
        _IN_ROOMS.value,
    )
    make_dataset(Path(_OUT.value), plan, workers=_WORKERS.value)


if __name__ == "__main__":
    app.run(main)
