# SPDX-License-Identifier: Apache-2.0
"""What a cell is compared with: true images from its cameras, and true shapes."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from vsd_jax.toybox import batches, dataset, metrics, objects, render, text

Path = pathlib.Path
OBJECTS, POINTS = 16, 4000
DIRECTIONS = 32  # from which a point of truth may be seen
SIZE = 64


class Orbit(NamedTuple):
    """The judged cameras of a run in 3D (`program/run/renders.py`).

    Those inside a room stand in its middle: an orbit of radius 0.
    """

    num_views: int
    elevation_deg: float
    radius: float
    fov_deg: float
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """From a configuration's `eval` and `camera`."""
        own = {name: config["eval"][name] for name in cls._fields[:-1]}
        if config["camera"]["law"] == "inside":
            return cls(**own | {"radius": 0.0})
        return cls(**own, target=tuple(config["camera"]["target"]))

    def view(self, azimuth_deg: float) -> render.View:
        """One of its cameras."""
        return render.orbit_view(
            azimuth_deg,
            self.elevation_deg,
            radius=self.radius,
            fov_deg=self.fov_deg,
            target=self.target,
        )

    @property
    def azimuths(self) -> np.ndarray:
        """Degrees, evenly around; 0 = front."""
        return np.arange(self.num_views) * (360.0 / self.num_views)

    @property
    def view_words(self) -> np.ndarray:
        """[num_views] indices into `text.VIEWS`."""
        height = np.full(self.num_views, self.elevation_deg)
        return batches.view_index(self.azimuths, height)


@functools.lru_cache(maxsize=64)
def flat_images(prompt: str, number: int, seed: int) -> np.ndarray:
    """True images of a prompt, each of an object of its own: [number, 1, 64, 64, 3]."""
    images, _ = dataset.truth_views([text.parse(prompt)] * number, seed=seed)
    return _on_white(images.rgba)[:, None]


@functools.lru_cache(maxsize=64)
def orbit_images(prompt: str, orbit: Orbit, number: int, seed: int) -> np.ndarray:
    """True scenes from the judged cameras: [number, views, 64, 64, 3] on white."""
    views = [orbit.view(azimuth) for azimuth in orbit.azimuths]
    wanted = text.parse(prompt)
    blocks = []
    for index in range(number):
        made = dataset.build(wanted, dataset.scene_rng(seed, index))
        blocks.append(_on_white(render.render(made, views, size=SIZE).rgba))
    return np.stack(blocks)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    return (rgba[..., :3] + 1.0 - rgba[..., 3:]).astype(np.float32)


class Sampled(NamedTuple):
    """Points [N, 3] evenly on a surface, scene units, and unit normals there."""

    points: np.ndarray
    normals: np.ndarray


def sample_surface(mesh, seed: int) -> Sampled:
    """`POINTS` points of a trimesh."""
    import trimesh

    points, faces = trimesh.sample.sample_surface(mesh, POINTS, seed=seed)
    return Sampled(np.asarray(points), mesh.face_normals[faces])


@functools.lru_cache(maxsize=64)
def true_surfaces(prompt: str) -> tuple[Sampled, ...]:
    """Points of `OBJECTS` true objects of a prompt, of what is seen of them.

    An object is a soup of parts that reach into each other: what is inside would count
    against every mesh, the more the better it is.
    """
    found = []
    for index in range(OBJECTS):
        rng = np.random.default_rng([7, index])
        mesh = objects.to_trimesh(objects.make_object(rng, text.parse(prompt)))
        points, normals = sample_surface(mesh, index)
        seen = seen_from_outside(mesh, points)
        found.append(Sampled(points[seen], normals[seen]))
    return tuple(found)


def seen_from_outside(mesh, points: np.ndarray) -> np.ndarray:
    """[N] bool: from one of `DIRECTIONS` nothing stands before the point [N, 3]."""
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    index = np.arange(DIRECTIONS) + 0.5
    height, turn = 1 - 2 * index / DIRECTIONS, index * np.pi * (3 - 5**0.5)
    flat = np.sqrt(1 - height**2)
    rays = np.stack([flat * np.cos(turn), height, flat * np.sin(turn)], axis=1)
    caster = RayMeshIntersector(mesh, scale_to_box=False)
    seen = np.zeros(len(points), bool)
    for ray in rays:
        left = np.flatnonzero(~seen)
        origins = points[left] + 1e-4 * ray
        hit = caster.intersects_any(origins, np.broadcast_to(ray, origins.shape))
        seen[left] = ~hit
    return seen


def chamfer(path: Path, prompt: str) -> float:
    """From a run's mesh to the nearest of `OBJECTS` true objects, scene units.

    NaN if there is no mesh, as of a run without a surface, and for rooms, of which
    nothing is seen from outside.
    """
    import trimesh

    if not path.exists() or text.parse(prompt).room:
        return float("nan")
    points, _ = sample_surface(trimesh.load(path, process=False), seed=0)
    return min(metrics.chamfer(points, other) for other, _ in true_surfaces(prompt))
