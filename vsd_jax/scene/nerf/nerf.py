# SPDX-License-Identifier: Apache-2.0
"""The hash-grid NeRF as a `Scene`: field, cameras' rays and volume rendering together.

`make_nerf` only binds static choices; all arrays are arguments of what it returns.
Two scenes with the same `grid`, `hidden` and `environment` share their parameters, so
an evaluation at another size is another scene on the same params.
"""

import dataclasses
import functools
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import lax

from vsd_jax.scene.camera import pixel_rays
from vsd_jax.scene.nerf import field, occupancy, sampling, volume
from vsd_jax.scene.nerf.empty_space import Field
from vsd_jax.scene.nerf.encoding import HashGrid
from vsd_jax.spec import Within
from vsd_jax.types import RenderOutput, Scene


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderSpec:
    """Volume rendering. Lengths are scene units.

    Attributes:
      size: side of the square image, pixels.
      num_samples: stratified samples on a ray.
      num_fine: importance samples added to them; 0 = none.
      near: least distance of a sample from the camera.
      density_noise: standard deviation of the noise before softplus in training.
      occupancy_resolution: cells of the occupancy grid along an axis; 0 = no grid,
        empty space is not skipped.
      occupancy_threshold: density above which a cell counts.
      occupancy_decay: factor on the grid's running maximum at each update.
      occupancy_interval: steps between updates of the grid.
      capacity: share of the samples that is evaluated in training, in (0, 1]; 1 = all.
      half_extent: half size of the cube that is sampled, at most 1.
      max_rays: rays rendered at a time; bounds memory. Each time has its own draws.
      keep_features: keep the grid's features for the gradient instead of computing
        them again: memory for time, not a result. 4 bytes a feature and sample.
    """

    size: Annotated[int, Within(4, 4096)]
    num_samples: Annotated[int, Within(2, 4096)]
    num_fine: Annotated[int, Within(0, 4096)]
    near: Annotated[float, Within(0)]
    density_noise: Annotated[float, Within(0)]
    occupancy_resolution: Annotated[int, Within(0, 512)]
    occupancy_threshold: Annotated[float, Within(0)]
    occupancy_decay: Annotated[float, Within(0, 1)]
    occupancy_interval: Annotated[int, Within(1)]
    capacity: Annotated[float, Within(1e-3, 1)]
    half_extent: Annotated[float, Within(1e-3, 1)]
    max_rays: Annotated[int, Within(1)]
    keep_features: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class NerfSpec:
    """A hash-grid NeRF.

    Attributes:
      field: the radiance field.
      render: how it is rendered.
      train_normals: also render normals in training, at seven times the cost.
    """

    field: field.FieldSpec
    render: RenderSpec
    train_normals: bool = False


def nerf(spec: NerfSpec, *, size: int | None = None) -> Scene:
    """Makes a hash-grid NeRF; its parameters fit every image size.

    Args:
      spec: see `NerfSpec`.
      size: side of the image, pixels; None = `spec.render.size`.

    Raises:
      ValueError: if the choices contradict each other.

    Examples:
      >>> preset = vsd.presets.preset("object", "smoke")
      >>> scene = vsd.nerf(preset.nerf, size=8)
      >>> sorted(jax.eval_shape(scene.init, jax.random.key(0)))
      ['decoder', 'table']
    """
    return make_nerf(
        spec.render if size is None else dataclasses.replace(spec.render, size=size),
        grid=field.make_grid(spec.field),
        hidden=spec.field.hidden,
        density_bias=field.make_density_bias(spec.field),
        density_scale=spec.field.density_scale,
        environment=spec.field.environment,
        train_normals=spec.train_normals,
    )


def make_nerf(
    spec: RenderSpec,
    *,
    grid: HashGrid,
    hidden: int,
    density_bias: field.DensityBias,
    density_scale: float = 1.0,
    environment: bool,
    train_normals: bool = False,
    normal_step: float = 0.01,
) -> Scene:
    """Builds a volume-rendered scene (unbatched over particles and cameras).

    `render(..., train=True)` jitters samples, adds density noise and, with an occupancy
    grid, evaluates at most `capacity` of the samples (too many are thinned at random
    and counted in `extras["overflow"]`). `train=False` is deterministic, skips empty
    cells without a limit, adds surface normals, and has no reverse mode when it skips.

    `background` [3] is composited behind. Where the scene has an environment, a
    background with a negative component asks for the environment instead: so the
    caller alternates between the two (random background augmentation).

    `extras`: see `volume.render_rays`; with `train_normals` also `orientation`.

    Args:
      spec: of the rendering.
      grid: layout of the hash grid.
      hidden: units of the decoder's hidden layer, 0 = linear (the paper's code).
      density_bias: the initialisation, such as `field.blob_bias`.
      density_scale: factor on the density after softplus.
      environment: learn a background.
      train_normals: also render normals in training, at seven times the cost.
      normal_step: half size of the normals' difference stencil, scene units.

    Raises:
      ValueError: if the choices contradict each other.
    """
    _check(spec)
    bound = dict(grid=grid, density_bias=density_bias, density_scale=density_scale)
    density = functools.partial(field.query_density, **bound)
    init_stats, update_stats = _make_stats(
        density,
        spec.occupancy_resolution,
        spec.occupancy_decay,
        spec.occupancy_interval,
    )
    shoot = functools.partial(
        volume.render_rays,
        num_samples=spec.num_samples,
        num_fine=spec.num_fine,
        half_extent=spec.half_extent,
        near=spec.near,
        capacity=spec.capacity,
    )

    init = functools.partial(
        field.init_field, grid=grid, hidden=hidden, environment=environment
    )

    keep = (sampling.PLACES, *((field.FEATURES,) if spec.keep_features else ()))

    def render(params, stats, camera, background, key, *, train):
        cells = _cells(stats, spec.occupancy_threshold)
        make_field = functools.partial(
            _make_field,
            noise_scale=spec.density_noise if train else 0.0,
            normal_step=normal_step if train and train_normals else 0.0,
            **bound,
        )
        render_chunk = functools.partial(
            _render_chunk,
            params=params,
            background=background,
            make_field=make_field,
            shoot=functools.partial(shoot, cells=cells),
            normals=None if train else (density, normal_step),
        )
        rays = _rays(camera, spec.size)
        images, extras = volume.map_rays(
            render_chunk, rays, key, spec.max_rays, keep=keep
        )
        return RenderOutput(**_as_images(images, spec.size), extras=extras)

    return Scene(init, render, init_stats, update_stats)


def _as_images(rays: dict[str, jax.Array], size: int) -> dict[str, jax.Array]:
    """[R, ...] -> [size, size, ...]."""
    return {name: x.reshape(size, size, *x.shape[1:]) for name, x in rays.items()}


def _check(spec: RenderSpec) -> None:
    if spec.capacity < 1 and not spec.occupancy_resolution:
        raise ValueError(
            f"capacity={spec.capacity} skips samples, which needs an occupancy grid:"
            " set occupancy_resolution (32) or capacity=1."
        )
    if not (0 < spec.capacity <= 1 and 0 < spec.half_extent <= 1):
        raise ValueError(
            "capacity and half_extent must be in (0, 1]; "
            f"got {spec.capacity} and {spec.half_extent}."
        )


def _cells(stats, threshold: float):
    """Occupied cells, or None if the scene keeps no grid."""
    if not stats:
        return None
    return occupancy.occupied_cells(stats["occupancy"], threshold=threshold)


def _make_stats(density, resolution: int, decay: float, interval: int):
    """`init_stats` and `update_stats` of a scene with or without occupancy grid."""
    if not resolution:
        return (lambda params: {}), (lambda params, stats, step, key: stats)

    def init_stats(params):
        density_fn = functools.partial(density, params)
        return {"occupancy": occupancy.init_occupancy(density_fn, resolution)}

    def update_stats(params, stats, turn, key):
        density_fn = functools.partial(density, lax.stop_gradient(params))
        update = functools.partial(occupancy.update_occupancy, density_fn, decay=decay)
        # One branch runs, also under vmap over particles: `turn` is not mapped.
        keep = lambda old, key: old  # noqa: E731
        due = turn % interval == 0
        return {"occupancy": lax.cond(due, update, keep, stats["occupancy"], key)}

    return init_stats, update_stats


def _rays(camera, image_size: int):
    origin, directions = pixel_rays(camera, image_size, image_size)
    directions = directions.reshape(-1, 3)
    return jnp.broadcast_to(origin, directions.shape), directions


def _render_chunk(rays, key, *, params, background, make_field, shoot, normals):
    """Images and scalars of some rays; `normals` = (density, step) to evaluate."""
    seen, normal, extras = shoot(
        make_field(params),
        make_field(lax.stop_gradient(params)),
        *rays,
        key if normals is None else None,
    )
    if normals is not None:
        density, step = normals
        density_fn = functools.partial(density, params)
        normal = _surface_normals(density_fn, rays, seen, step)
    return _images(params, background, rays[1], seen, normal), extras


def _make_field(
    params, *, grid, density_bias, density_scale, noise_scale, normal_step
) -> Field:
    """The field that rays see: density and colour, or also normals, with noise."""
    bound = dict(grid=grid, density_bias=density_bias)

    def raw(positions):
        held = field.query_raw(params, positions, name=field.FEATURES, **bound)
        if not normal_step:
            return held
        density_fn = functools.partial(
            field.query_density, params, density_scale=density_scale, **bound
        )
        normals = field.density_normals(density_fn, positions, step=normal_step)
        return jnp.concatenate([held, normals], axis=-1)

    def activate(raw, key):
        noise = None
        if noise_scale and key is not None:
            noise = noise_scale * jax.random.normal(key, raw.shape[:-1])
        held, normals = raw[..., :4], raw[..., 4:]
        density, colour = field.activate(held, density_scale=density_scale, noise=noise)
        return density, jnp.concatenate([colour, normals], axis=-1)

    return Field(raw, activate)


def _surface_normals(density_fn, rays, seen, step: float):
    """Normals at the mean distance of each ray; zero where the ray is empty."""
    origins, directions = rays
    points = origins + directions * seen.depth[:, None]
    normals = field.density_normals(density_fn, points, step=step)
    return jnp.where(seen.opacity[:, None] > 0.01, normals, 0)


def _images(params, background, directions, seen, normals) -> dict:
    """Composites the background; all images with a ray axis [R, ...]."""
    behind = field.background_color(params, directions, background)
    return {
        "rgb": seen.values[:, :3] + (1 - seen.opacity[:, None]) * behind,
        "opacity": seen.opacity,
        "depth": seen.depth,
        "normal": normals,
    }
