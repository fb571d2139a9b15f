# SPDX-License-Identifier: Apache-2.0
"""The hash-grid NeRF as a `Scene`: field, cameras' rays and volume rendering together.

`make_nerf` only binds static choices; all arrays are arguments of what it returns.
Two scenes with the same `grid`, `hidden` and `environment` share their parameters, so
an evaluation at another `image_size` is another `make_nerf` on the same params.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from vsd_jax.scene.camera import pixel_rays
from vsd_jax.scene.nerf import field, occupancy, volume
from vsd_jax.scene.nerf.encoding import HashGrid
from vsd_jax.types import RenderOutput, Scene


def make_nerf(
    *,
    image_size: int,
    grid: HashGrid,
    hidden: int,
    density_bias: field.DensityBias,
    density_noise: float,
    environment: bool,
    num_samples: int,
    num_fine_samples: int,
    half_extent: float,
    near: float,
    occupancy_resolution: int = 0,
    occupancy_threshold: float = 0.01,
    occupancy_decay: float = 0.95,
    occupancy_interval: int = 16,
    capacity: float = 1.0,
    train_normals: bool = False,
    normal_step: float = 0.01,
    max_rays: int = 16384,
) -> Scene:
    """Builds a volume-rendered scene (unbatched over particles and cameras).

    `render(..., train=True)` jitters samples, adds density noise and, with an occupancy
    grid, evaluates at most `capacity` of the samples (too many are thinned at random
    and counted in `extras["overflow"]`). `train=False` is deterministic, skips empty
    cells without a limit, adds surface normals, and has no reverse mode when it skips.

    `background` [3] is composited behind. Where the scene has an environment, a
    background with a negative component asks for the environment instead: so the
    caller alternates between the two (random background augmentation).

    `extras`: see `volume.ray_statistics`; with `train_normals` also `orientation`.

    Args:
      image_size: side of the square image, pixels.
      grid: layout of the hash grid.
      hidden: units of the decoder's hidden layer, 0 = linear (the paper's code).
      density_bias: the initialisation, from `field.blob_bias` or `field.centred_bias`.
      density_noise: standard deviation of the noise before softplus in training (1 in
        the paper's code, 0 = none).
      environment: learn a background.
      num_samples: stratified samples a ray (64 in the paper).
      num_fine_samples: importance samples added to them (32 in the paper, 0 = none).
      half_extent: half size of the cube that is sampled, <= 1.
      near: least distance from the camera, scene units.
      occupancy_resolution: cells of the occupancy grid along an axis, 0 = no grid.
      occupancy_threshold: density above which a cell counts (.01 in threestudio).
      occupancy_decay: of the grid's running maximum at each update.
      occupancy_interval: steps between updates of the grid.
      capacity: share of samples evaluated in training, in (0, 1]; 1 = all.
      train_normals: also render normals in training, at seven times the cost.
      normal_step: half size of the normals' difference stencil, scene units.
      max_rays: rays rendered at a time; bounds memory.

    Raises:
      ValueError: if the choices contradict each other.
    """
    _check(capacity, half_extent, occupancy_resolution)
    bound = {"grid": grid, "density_bias": density_bias}
    density = functools.partial(field.query_density, **bound)
    init_stats, update_stats = _make_stats(
        density, occupancy_resolution, occupancy_decay, occupancy_interval
    )
    shoot = functools.partial(
        volume.render_rays,
        num_samples=num_samples,
        num_fine=num_fine_samples,
        half_extent=half_extent,
        near=near,
        capacity=capacity,
    )

    init = functools.partial(
        field.init_field, grid=grid, hidden=hidden, environment=environment
    )

    def render(params, stats, camera, background, key, *, train):
        cells = _cells(stats, occupancy_threshold)
        sample = functools.partial(
            _query_samples,
            noise_scale=density_noise if train else 0.0,
            normal_step=normal_step if train and train_normals else 0.0,
            **bound,
        )
        render_chunk = functools.partial(
            _render_chunk,
            params=params,
            background=background,
            sample=sample,
            shoot=functools.partial(shoot, cells=cells),
            normals=None if train else (density, normal_step),
        )
        rays = _rays(camera, image_size)
        images, extras = volume.map_rays(render_chunk, rays, key, max_rays)
        return RenderOutput(**_as_images(images, image_size), extras=extras)

    return Scene(init, init_stats, update_stats, render)


def _as_images(rays: dict[str, jax.Array], size: int) -> dict[str, jax.Array]:
    """[R, ...] -> [size, size, ...]."""
    return {name: x.reshape(size, size, *x.shape[1:]) for name, x in rays.items()}


def _check(capacity: float, half_extent: float, occupancy_resolution: int) -> None:
    if capacity < 1 and not occupancy_resolution:
        raise ValueError(
            f"capacity={capacity} skips samples, which needs an occupancy grid: set "
            "occupancy_resolution (32) or capacity=1."
        )
    if not (0 < capacity <= 1 and 0 < half_extent <= 1):
        raise ValueError(
            "capacity and half_extent must be in (0, 1]; "
            f"got {capacity} and {half_extent}."
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

    def update_stats(params, stats, step, key):
        density_fn = functools.partial(density, lax.stop_gradient(params))
        update = functools.partial(occupancy.update_occupancy, density_fn, decay=decay)
        # One branch runs, also under vmap over particles: `step` is not mapped.
        keep = lambda old, key: old  # noqa: E731
        due = step % interval == 0
        return {"occupancy": lax.cond(due, update, keep, stats["occupancy"], key)}

    return init_stats, update_stats


def _rays(camera, image_size: int):
    origin, directions = pixel_rays(camera, image_size, image_size)
    directions = directions.reshape(-1, 3)
    return jnp.broadcast_to(origin, directions.shape), directions


def _render_chunk(rays, key, *, params, background, sample, shoot, normals):
    """Images and scalars of some rays; `normals` = (density, step) to evaluate."""
    seen, normal, extras = shoot(
        functools.partial(sample, params),
        functools.partial(sample, lax.stop_gradient(params)),
        *rays,
        key if normals is None else None,
    )
    if normals is not None:
        density, step = normals
        density_fn = functools.partial(density, params)
        normal = _surface_normals(density_fn, rays, seen, step)
    return _images(params, background, rays[1], seen, normal), extras


def _query_samples(
    params, positions, key, *, grid, density_bias, noise_scale, normal_step
):
    """Density [N] and colour [N, 3], or colour and normal [N, 6], with noise."""
    noise = None
    if noise_scale and key is not None:
        noise = noise_scale * jax.random.normal(key, positions.shape[:1])
    bound = {"grid": grid, "density_bias": density_bias}
    density, values = field.query(params, positions, noise=noise, **bound)
    if normal_step:
        density_fn = functools.partial(field.query_density, params, **bound)
        normals = field.density_normals(density_fn, positions, step=normal_step)
        values = jnp.concatenate([values, normals], axis=-1)
    return density, values


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
