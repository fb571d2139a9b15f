# SPDX-License-Identifier: Apache-2.0
"""The numbers of a table: each cell against truth, then each row with its spread."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vsd_jax.diffusion import exact
from vsd_jax.experiments import exact_cells, truth
from vsd_jax.experiments.plan import Cell
from vsd_jax.program.folder import writer
from vsd_jax.toybox import metrics, strict_judge, text

Path = pathlib.Path
Scored = tuple[dict[str, float], np.ndarray, np.ndarray]
"""Numbers, features [n, views, D], and images [n, views, H, W, 3] (or points)."""
TRUTH = "truth"
"""Row of other true objects, as many as a cell has."""
_MANY, _OBJECTS, _SEED, _OTHER_SEED = 512, 8, 9001, 9100
_AXES = 16


def read_views(path: Path, num_views: int) -> np.ndarray:
    """`evaluation.png` as [n, views, 64, 64, 3] in [0, 1]."""
    with Image.open(path) as image:
        sheet = np.asarray(image.convert("RGB"), np.float32) / 255.0
    size = sheet.shape[1] // num_views
    rows = sheet.shape[0] // size
    tiles = sheet.reshape(rows, size, num_views, size, 3)
    return tiles.transpose(0, 2, 1, 3, 4)


def judge(images: np.ndarray, prompt: str, views: np.ndarray) -> Scored:
    """What the judge says of [n, views, 64, 64, 3]; `views` [views] are indices.

    Scenes in 3D stand on white. A flat image has a background of its own, which may be
    another: saturation and contrast are those of what differs from its border.
    """
    n, num_views = images.shape[:2]
    flat = images.reshape(-1, *images.shape[2:])
    background = border_colors(flat) if num_views == 1 else np.ones(3, np.float32)
    found = strict_judge.judge(flat)
    wanted = text.parse(prompt)
    numbers = metrics.score_images(
        found,
        flat,
        kind=wanted.kind,
        colour=wanted.colour,
        views=np.tile(views, n),
        background=background,
    )
    features = found["features"].reshape(n, num_views, -1)
    covered = np.abs(flat - background).max(-1) > 0.1
    numbers["diversity"] = metrics.diversity(features)
    numbers["covered"] = float(covered.mean())
    numbers["sharpness"] = float(
        np.abs(np.diff(flat, axis=2))[covered[:, :, 1:]].mean()
    )
    return numbers, features, images


def border_colors(images: np.ndarray) -> np.ndarray:
    """Median of the outermost pixels of [N, H, W, 3], as [N, 1, 1, 3]."""
    rim = np.ones(images.shape[1:3], bool)
    rim[1:-1, 1:-1] = False
    return np.median(images[:, rim], axis=1)[:, None, None]


def score_cell(cell: Cell, folder: Path) -> Scored:
    """The numbers of a finished cell."""
    if cell.row.kind.startswith("exact"):
        return _score_exact(cell, np.load(folder / "samples.npy", allow_pickle=False))
    numbers, features, images = judge_cell(cell, folder)
    if _orbit(folder) is None:
        return numbers, features, images
    meshes = [folder / "mesh" / f"particle_{i:02d}.ply" for i in range(len(images))]
    return numbers | truth.shape_scores(meshes, cell.prompt), features, images


def judge_cell(cell: Cell, folder: Path) -> Scored:
    """What the judge says of a finished cell's pictures: all but its shapes."""
    orbit = _orbit(folder)
    if orbit is None:
        images = read_views(folder / "evaluation.png", 1)
        return judge(images, cell.prompt, _flat_views(cell.prompt))
    images = read_views(folder / "evaluation.png", orbit.num_views)
    return judge(images, cell.prompt, orbit.view_words)


def score_truth(cell: Cell, folder: Path, seed: int | None = None) -> Scored:
    """True objects in a cell's place: `_MANY` images, or (seed) as many as it has.

    In 3D the numbers of pictures are those of `_OBJECTS`, which say what is aimed at;
    a distance between sets depends on how many objects there are, so features, images
    and shapes of a seed are of as many as the cell has.
    """
    if cell.row.kind.startswith("exact"):
        world = exact_cells.make_world(cell.settings["exact.world"])
        number = _MANY if seed is None else _count(cell)
        drawn = exact_cells.truth(world, number, 9999 if seed is None else seed)
        return _score_exact(cell, drawn)
    orbit = _orbit(folder)
    first = _SEED if seed is None else _OTHER_SEED + seed
    if orbit is None:
        number = _MANY if seed is None else _count(cell)
        images = truth.flat_images(cell.prompt, number, first)
        return judge(images, cell.prompt, _flat_views(cell.prompt))
    own = writer.read_json(folder / "config.json")["num_particles"]
    images = truth.orbit_images(cell.prompt, orbit, max(_OBJECTS, own), first)
    numbers, features, images = judge(images, cell.prompt, orbit.view_words)
    numbers |= truth.true_shape_scores(cell.prompt, own, seed or 0)
    shown = slice(None if seed is None else own)
    return numbers, features[shown], images[shown]


def _count(cell: Cell) -> int:
    return int(cell.settings["num_particles"])


def _orbit(folder: Path) -> truth.Orbit | None:
    """The judged cameras; None for a cell that is flat."""
    path = folder / "config.json"
    config = writer.read_json(path) if path.exists() else None
    if config is None or config["field"]["kind"] in ("image", "latent"):
        return None
    return truth.Orbit.of(config)


def _flat_views(prompt: str) -> np.ndarray:
    view = text.parse(prompt).view
    return np.array([text.VIEWS.index(view) if view else 0])


@functools.lru_cache(maxsize=4)
def _axes(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and principal axes [D, at most _AXES] of truth on a closed-form prior."""
    drawn = exact_cells.truth(exact_cells.make_world(name), 2048, 1234)
    flat = drawn.reshape(len(drawn), -1)
    mean = flat.mean(0)
    axes = np.linalg.svd(flat - mean, full_matrices=False)[2][:_AXES]
    return mean, axes.T


def _score_exact(cell: Cell, samples: np.ndarray) -> Scored:
    """Numbers of points [n, h, w, c] on a closed-form prior."""
    name = cell.settings["exact.world"]
    world = exact_cells.make_world(name)
    means, variances = (np.asarray(world.mixture[k]) for k in ("means", "variances"))
    num, n = len(means), len(samples)
    offset = samples.reshape(n, 1, -1) - means.reshape(1, num, -1)
    spread = variances.reshape(1, num, -1)
    log_joint = np.log(world.weights) - 0.5 * np.sum(
        offset**2 / spread + np.log(2 * np.pi * spread), -1
    )
    nearest = log_joint.argmax(1)
    wanted = np.where(world.classes == 0, world.weights, 0.0)
    share = np.bincount(nearest, minlength=num) / n
    own_spread = np.take_along_axis(offset, nearest[:, None, None], 1)[:, 0]
    ratio = own_spread.std(0).mean() / np.sqrt(variances[nearest].mean())
    mean, axes = _axes(name)
    features = ((samples.reshape(n, -1) - mean) @ axes)[:, None]
    numbers = {
        "kind_precision": float(np.mean(world.classes[nearest] == 0)),
        "mode_error": 0.5 * float(np.abs(share - wanted / wanted.sum()).sum()),
        "within": float(ratio),
        "diversity": metrics.diversity(features),
        "log_density": float(np.mean(_log_density(world, samples))),
    }
    if samples.shape[-1] == 3:
        shown = 0.5 * samples + 0.5
        clipped = np.clip(shown, 0.0, 1.0)
        numbers["saturation"] = metrics.saturation(clipped, np.ones(3))
        return numbers, features, clipped[:, None]
    return numbers, features, samples[:, None]


def _log_density(world: exact_cells.World, samples: np.ndarray) -> np.ndarray:
    """log p(x | wanted) of the prior itself, per number of x."""
    abar = np.ones(1, np.float32)
    wanted = jnp.asarray(exact_cells.log_weights(world, "wanted"), jnp.float32)
    context = {"text": jnp.broadcast_to(wanted, (len(samples), *wanted.shape))}
    t = jnp.zeros(len(samples), jnp.int32)
    found = exact.log_density(world.mixture, jnp.asarray(samples), t, context, abar)
    return np.asarray(jax.device_get(found)) / samples[0].size


def row_scores(
    by_seed: Mapping[int, Sequence[Scored]],
    true: Sequence[Scored],
    reference: Mapping[int, Sequence[Scored]] | None,
) -> dict[str, dict[str, Any]]:
    """The scores of a row: `{score: {"mean", "spread", "values"}}`.

    Args:
      by_seed: the row's cells of each seed, one a prompt; a run that was stopped is
        missing, and its seed has no distance between sets, which depends on the
        prompts.
      true: truth of the same prompts, many objects.
      reference: cells of the reference row, or None.

    Returns:
      `values` are one a seed (averaged over prompts), or one a prompt if there is but
      one seed; `spread` is their sample standard deviation, None for a single one.
    """
    values: dict[str, list[float]] = {}
    single = len(by_seed) == 1
    for cells in by_seed.values():
        # A prompt without a colour has no score for it.
        for name in dict.fromkeys(name for numbers, _, _ in cells for name in numbers):
            found = [numbers.get(name, float("nan")) for numbers, _, _ in cells]
            values.setdefault(name, []).extend(found if single else [_mean(found)])
    aims = {"truth": lambda seed: true}
    if reference is not None:
        aims["reference"] = reference.get
    for aim, cells_of in aims.items():
        for seed, cells in by_seed.items():
            others = cells_of(seed)
            if not others or len(cells) != len(true):
                continue
            made, aimed = _features(cells), _features(others)
            for name, distance in (
                ("frechet", metrics.frechet_distance),
                ("kernel", metrics.kernel_distance),
            ):
                values.setdefault(f"{name}_{aim}", []).append(distance(made, aimed))
    return {name: spread(found) for name, found in values.items()}


def _features(cells: Sequence[Scored]) -> np.ndarray:
    return np.concatenate([f.reshape(-1, f.shape[-1]) for _, f, _ in cells])


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None of a single one) and the values."""
    finite = [value for value in values if np.isfinite(value)]
    deviation = float(np.std(finite, ddof=1)) if len(finite) > 1 else None
    return {"mean": _mean(values), "spread": deviation, "values": [*values]}
