# SPDX-License-Identifier: Apache-2.0
"""What a cell is compared with: true images from its cameras, and true shapes."""

import functools
import pathlib
from typing import NamedTuple

import numpy as np

from vsd_jax.toybox import dataset, metrics, objects, render, text

Path = pathlib.Path
OBJECTS, POINTS = 16, 4000
SIZE = 64


class Orbit(NamedTuple):
    """The judged cameras of a run in 3D, from its `eval` settings."""

    num_views: int
    elevation_deg: float
    radius: float
    fov_deg: float

    @property
    def azimuths(self) -> np.ndarray:
        """Degrees, evenly around; 0 = front."""
        return np.arange(self.num_views) * (360.0 / self.num_views)


@functools.lru_cache(maxsize=64)
def flat_images(prompt: str, number: int, seed: int) -> np.ndarray:
    """True images of a prompt, each of an object of its own: [number, 1, 64, 64, 3]."""
    images, _ = dataset.truth_views([text.parse(prompt)] * number, seed=seed)
    return _on_white(images.rgba)[:, None]


@functools.lru_cache(maxsize=64)
def orbit_images(prompt: str, orbit: Orbit, number: int, seed: int) -> np.ndarray:
    """True objects from the judged cameras: [number, views, 64, 64, 3] on white."""
    views = [
        render.orbit_view(
            azimuth, orbit.elevation_deg, radius=orbit.radius, fov_deg=orbit.fov_deg
        )
        for azimuth in orbit.azimuths
    ]
    wanted = text.parse(prompt)
    blocks = []
    for index in range(number):
        made = objects.make_object(dataset.scene_rng(seed, index), wanted)
        blocks.append(_on_white(render.render(made, views, size=SIZE).rgba))
    return np.stack(blocks)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    return (rgba[..., :3] + 1.0 - rgba[..., 3:]).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _true_points(prompt: str) -> tuple[np.ndarray, ...]:
    wanted = text.parse(prompt)
    made = (
        objects.to_trimesh(objects.make_object(np.random.default_rng([7, i]), wanted))
        for i in range(OBJECTS)
    )
    return tuple(_points(mesh, seed) for seed, mesh in enumerate(made))


def _points(mesh, seed: int) -> np.ndarray:
    import trimesh

    return np.asarray(trimesh.sample.sample_surface(mesh, POINTS, seed=seed)[0])


def chamfer(path: Path, prompt: str) -> float:
    """From a run's mesh to the nearest of `OBJECTS` true objects, scene units.

    NaN if there is no mesh: a run without a surface has none.
    """
    import trimesh

    if not path.exists():
        return float("nan")
    points = _points(trimesh.load(path, process=False), seed=0)
    return min(metrics.chamfer(points, other) for other in _true_points(prompt))
