# SPDX-License-Identifier: Apache-2.0
"""What each `field.kind` is: one entry a kind, and nothing else asks for the kind.

An entry says how its scene is made, what it goes on with, how its mesh is saved and
which settings have a meaning for it. What reads files is imported when it is called.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.adaptive import remember_views
from vsd_jax.presets import Settings
from vsd_jax.program import Config
from vsd_jax.program.settings import stage_rules
from vsd_jax.scene.image import image
from vsd_jax.scene.mesh import geometry, texture
from vsd_jax.scene.mesh.surface import Surface
from vsd_jax.scene.nerf import field, nerf
from vsd_jax.spec import OneOf
from vsd_jax.types import Params, Particles, PyTree, Scene

Start = tuple[PyTree, PyTree]
"""(theta, stats) of one particle, or of all with leaves [n, ...]."""

# Equal specs give the same functions, so that what is compiled for one run or stage
# (`jit` knows a function by its identity) serves all whose scene is the same.
_same = functools.lru_cache(maxsize=16)
_make_nerf, _make_image = _same(nerf.nerf), _same(image)
_make_geometry, _make_texture = _same(geometry.geometry), _same(texture.texture)
_remember_views = _same(remember_views)


class Stage(NamedTuple):
    """One kind of scene in the program.

    Attributes:
      make_scene: `(config, *, size, latent_shape) -> Scene`, the same theta at every
        size.
      is_flat: theta is what is seen: there is nothing to turn or to export.
      is_latent: theta is a latent, which only the prior can show.
      has_colours: its renders are colours, which the embedded prior's judge reads.
      has_density: it is a radiance field with a density.
      goes_on_with: `field.kind` of the run in `mesh.source`; "" = none.
      needs_source: it has nothing to begin with but that run.
      same_mesh: keys of `mesh` that must be those of that run.
      start: `(config, source) -> [Start] of all particles`, from that run.
      save_mesh: `(folder, config, particles, index) -> numbers` of the mesh files.
      room: keys that make room in its lists, where it is a fault that they overflow.
      may_change: keys that may differ when a run is resumed, which elsewhere shape the
        state or the result.
      began_from: keys that elsewhere may differ then, and here made what it began from.
      faults: `(flat configuration) -> sentences` about settings without a meaning.
    """

    make_scene: Callable[..., Scene]
    is_flat: bool = False
    is_latent: bool = False
    has_colours: bool = True
    has_density: bool = False
    goes_on_with: str = ""
    needs_source: bool = False
    same_mesh: tuple[str, ...] = ()
    start: Callable[[Config, Any], list[Start]] | None = None
    save_mesh: Callable[[Path, Config, Particles, int], dict] | None = None
    room: tuple[str, ...] = ()
    may_change: tuple[str, ...] = ()
    began_from: tuple[str, ...] = ()
    faults: Callable[[stage_rules.Flat], Iterator[str]] = lambda flat: iter(())


def stage_of(config: Config) -> Stage:
    """The entry of a configuration's `field.kind`."""
    return STAGES[config.field.kind]


def make_scene(
    config: Config, *, size: int, latent_shape: tuple[int, int, int] = (0, 0, 0)
) -> Scene:
    """The scene, with the same theta at every size.

    Args:
      config: validated.
      size: side of a render, pixels; an image is always `render.size` large.
      latent_shape: (h, w, c) of the prior, for a stage whose theta is a latent.
    """
    scene = stage_of(config).make_scene(config, size=size, latent_shape=latent_shape)
    return _remember_views(scene) if config.camera.adapt == "residual" else scene


def _nerf(config: Config, *, size: int, latent_shape) -> Scene:
    del latent_shape
    return _make_nerf(Settings(config).nerf, size=size)


def _geometry(config: Config, *, size: int, latent_shape) -> Scene:
    del latent_shape
    return _make_geometry(
        Settings(config).mesh,
        size=size,
        radius=config.field.object_radius,
        near=config.render.near,
    )


def _texture(config: Config, *, size: int, latent_shape) -> Scene:
    del latent_shape
    settings = Settings(config)
    return _make_texture(
        settings.mesh,
        settings.field,
        size=size,
        near=config.render.near,
        capacity=config.render.capacity,
    )


def _image(config: Config, *, size: int, latent_shape) -> Scene:
    del size, latent_shape
    shape = (config.render.size, config.render.size, 3)
    return _make_image(Settings(config).image, shape=shape, latent=False)


def _latent(config: Config, *, size: int, latent_shape) -> Scene:
    del size
    return _make_image(Settings(config).image, shape=latent_shape, latent=True)


def _start_nerf(config: Config, source) -> list[Start]:
    from vsd_jax.program.folder import source as source_lib

    return source_lib.fields(config, source)


def _start_geometry(config: Config, source) -> list[Start]:
    from vsd_jax.program.folder import source as source_lib

    return source_lib.level_sets(config, source)


def _start_texture(config: Config, source) -> list[Start]:
    from vsd_jax.program.folder import source as source_lib

    return source_lib.frozen_meshes(config, source)


def _save_level_set(folder, config, particles, index) -> dict:
    from vsd_jax.program.run import products

    return products.save_level_set(folder, config, particles, index)


def _save_shape(folder, config, particles, index) -> dict:
    from vsd_jax.program.run import products

    return products.save_shape(folder, config, particles, index)


def _save_textured(folder, config, particles, index) -> dict:
    from vsd_jax.program.run import products

    return products.save_textured(folder, config, particles, index)


STAGES = {
    "nerf": Stage(
        _nerf,
        has_density=True,
        goes_on_with="nerf",
        start=_start_nerf,
        save_mesh=_save_level_set,
        faults=stage_rules.nerf_faults,
    ),
    "geometry": Stage(
        _geometry,
        has_colours=False,
        goes_on_with="nerf",
        start=_start_geometry,
        save_mesh=_save_shape,
        room=("mesh.surface_capacity", "mesh.raster_capacity"),
        may_change=("mesh.surface_capacity",),
        began_from=("export.resolution", "export.level"),
        faults=stage_rules.geometry_faults,
    ),
    "texture": Stage(
        _texture,
        goes_on_with="geometry",
        needs_source=True,
        same_mesh=("resolution", "surface_capacity"),
        start=_start_texture,
        save_mesh=_save_textured,
        room=("render.capacity", "mesh.raster_capacity"),
        may_change=("render.capacity",),
        faults=stage_rules.texture_faults,
    ),
    "image": Stage(_image, is_flat=True, faults=stage_rules.flat_faults),
    "latent": Stage(
        _latent, is_flat=True, is_latent=True, faults=stage_rules.flat_faults
    ),
}
"""Every value of `field.kind`."""


def more_room(config: Config, *, train: bool = True) -> str:
    """Settings that make more room in a stage's lists: "mesh.raster_capacity=2"; or "".

    A share of the pixels is 1 at most, and all of them in pictures (`train=False`).
    """
    keys = [key.split(".") for key in stage_of(config).room]
    keys = [key for key in keys if train or key != ["render", "capacity"]]
    more = {f"{part}.{name}": 2 * config[part][name] for part, name in keys}
    if "render.capacity" in more:
        more["render.capacity"] = min(1.0, more["render.capacity"])
    return ", ".join(f"{key}={value:g}" for key, value in more.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What theta is.

    Attributes:
      kind: what theta is: "nerf"; "geometry" and "texture", the stages on a mesh;
        "image" or "latent", the picture itself (2D).
    """

    kind: Annotated[str, OneOf(tuple(STAGES))]


def make_field(config: Config) -> Callable[[PyTree, jax.Array], tuple]:
    """`(params, points [N, 3]) -> density [N], colour [N, 3]` of a NeRF."""
    return _make_field(Settings(config).field)


@_same
def _make_field(spec: field.FieldSpec) -> Callable[[PyTree, jax.Array], tuple]:
    query = functools.partial(
        field.query,
        grid=field.make_grid(spec),
        density_bias=field.make_density_bias(spec),
        density_scale=spec.density_scale,
    )
    return jax.jit(lambda params, points: query(params, points))


def make_color(config: Config) -> Callable[[PyTree, jax.Array], jax.Array]:
    """`(params, points [N, 3]) -> sRGB [N, 3]` of the texture stage."""
    return _make_color(Settings(config).field)


@_same
def _make_color(spec: field.FieldSpec) -> Callable[[PyTree, jax.Array], jax.Array]:
    grid = field.make_grid(spec)
    return jax.jit(lambda params, points: field.query_color(params, points, grid))


def march(config: Config, params: Params):
    """The mesh of one particle of the geometry stage."""
    return _make_march(Settings(config).mesh)(params)


@_same
def _make_march(spec: geometry.MeshSpec) -> Callable[[Params], Surface]:
    return jax.jit(geometry.marcher(spec))


def as_arrays(found) -> tuple[np.ndarray, np.ndarray]:
    """A `Surface` as vertices [V, 3] float32 and faces [F, 3] int32."""
    num_vertices, num_faces = int(found.counts.vertices), int(found.counts.faces)
    vertices = np.asarray(found.vertices.T, np.float32)[:num_vertices]
    return vertices, np.asarray(found.faces.T, np.int32)[:num_faces]


def stack(starts: list[Start]) -> Start:
    """The starts of all particles as one, leaves [n, ...]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
