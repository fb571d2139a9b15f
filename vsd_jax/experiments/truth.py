# SPDX-License-Identifier: Apache-2.0
"""What a cell is compared with: true images from its cameras, and true shapes."""

import functools
import importlib.util
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from vsd_jax.experiments.plan import Cell
from vsd_jax.program.terminal.errors import ConfigError
from vsd_jax.toybox import batches, dataset, metrics, objects, render, text

Path = pathlib.Path
OBJECTS, POINTS = 16, 4000
_DRAWN = 4  # times as many, of which so many are seen
_SEED, _OTHER_SEED = 7, 100  # of true objects, and of others in a cell's place
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


def require_renderer(cells: Iterable[Cell]) -> None:
    """Refuses to begin what could not be compared with truth in the end.

    Raises:
      ConfigError: if what renders the truth of one of them is not installed.
    """
    is_there = importlib.util.find_spec("embreex") is not None
    if not is_there and any(cell.is_rendered for cell in cells):
        raise ConfigError(
            "True images are rendered by embree, which is not installed:"
            " pip install 'vsd_jax[toybox]' (in the project's folder: '.[toybox]')."
            " Points in the plane need none."
        )


@functools.lru_cache(maxsize=64)
def flat_images(prompt: str, number: int, seed: int) -> np.ndarray:
    """True images of a prompt, each of an object of its own: [number, 1, 64, 64, 3].

    What the prompt leaves open, and from where it is seen, is as the embedded prior's
    training drew it: that is the distribution which its samples follow.
    """
    wanted = text.parse(prompt)
    images, _ = dataset.truth_views([wanted] * number, seed=seed, trained=True)
    if wanted.normal_map:
        return images.normal.astype(np.float32)[:, None]
    plain = np.asarray(text.BACKGROUNDS[wanted.background], np.float32)
    return _over(images.rgba, plain)[:, None]


@functools.lru_cache(maxsize=64)
def orbit_images(prompt: str, orbit: Orbit, number: int, seed: int) -> np.ndarray:
    """True scenes from the judged cameras: [number, views, 64, 64, 3] on white."""
    views = [orbit.view(azimuth) for azimuth in orbit.azimuths]
    wanted = text.parse(prompt)
    blocks = []
    for index in range(number):
        made = dataset.build(wanted, dataset.scene_rng(seed, index))
        blocks.append(_over(render.render(made, views, size=SIZE).rgba, np.ones(3)))
    return np.stack(blocks)


def _over(rgba: np.ndarray, background: np.ndarray) -> np.ndarray:
    return (rgba[..., :3] + (1.0 - rgba[..., 3:]) * background).astype(np.float32)


class Sampled(NamedTuple):
    """Points [N, 3] evenly on a surface, scene units, and unit normals there."""

    points: np.ndarray
    normals: np.ndarray


def sample_surface(mesh, seed: int) -> Sampled:
    """`POINTS` points of a trimesh that are seen from outside, or as many as there are.

    A true object is a soup of parts that reach into each other, and the inside of a
    density field is nobody's choice: what no camera sees would count against a mesh,
    and against a true object, though no picture tells it from another. Of all the
    same number, since gaps between points count too.
    """
    import trimesh

    drawn, faces = trimesh.sample.sample_surface(mesh, _DRAWN * POINTS, seed=seed)
    points = np.asarray(drawn)
    seen = np.flatnonzero(seen_from_outside(mesh, points))[:POINTS]
    return Sampled(points[seen], mesh.face_normals[faces[seen]])


@functools.lru_cache(maxsize=64)
def true_surfaces(
    prompt: str, number: int = OBJECTS, seed: int = _SEED
) -> tuple[Sampled, ...]:
    """Points of true objects of a prompt; other seeds are other objects."""
    wanted = text.parse(prompt)
    found = []
    for index in range(number):
        rng = np.random.default_rng([seed, index])
        mesh = objects.to_trimesh(objects.make_object(rng, wanted))
        found.append(sample_surface(mesh, index))
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
    return shape_scores([path], prompt)["chamfer"]


def shape_scores(paths: Sequence[Path], prompt: str) -> dict[str, float]:
    """Distances of a run's meshes to `OBJECTS` true objects, scene units.

    Args:
      paths: of the particles' meshes; one that is not there, as of a particle without a
        surface, is left out.
      prompt: of a room there are no distances: nothing is seen from outside.

    Returns:
      "chamfer": Chamfer distance of a particle to the nearest true object, their mean;
      of several particles also "mmd": of a true object to the nearest particle, their
      mean (PointFlow's minimum matching distance, arXiv:1906.12320, Sec. 5.1). The
      first asks whether each is right, the second whether all kinds are there. NaN if
      there is no mesh.
    """
    import trimesh

    there = [path for path in paths if path.exists()]
    if not there or text.parse(prompt).room:
        return _shape_scores([], (), len(paths))
    meshes = (trimesh.load(path, process=False) for path in there)
    surfaces = [sample_surface(mesh, seed=0) for mesh in meshes]
    surfaces = [surface for surface in surfaces if len(surface.points)]
    return _shape_scores(surfaces, true_surfaces(prompt), len(paths))


def true_shape_scores(prompt: str, number: int, seed: int) -> dict[str, float]:
    """`shape_scores` of so many other true objects in the run's place: the floor."""
    if text.parse(prompt).room:
        return _shape_scores([], (), number)
    others = true_surfaces(prompt, number, _OTHER_SEED + seed)
    return _shape_scores(others, true_surfaces(prompt), number)


def _shape_scores(
    made: Sequence[Sampled], true: Sequence[Sampled], number: int
) -> dict[str, float]:
    table = np.array(
        [[metrics.chamfer(one.points, other.points) for other in true] for one in made]
    )
    found = {"chamfer": float(table.min(1).mean()) if len(made) else float("nan")}
    if number > 1:
        found["mmd"] = float(table.min(0).mean()) if len(made) else float("nan")
    return found
