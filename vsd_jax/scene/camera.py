# SPDX-License-Identifier: Apache-2.0
"""Cameras: the one place where the world and camera convention is stated.

World: right-handed, +Y up, objects face +Z, the scene fills the cube [-1, 1]^3.
Camera: looks along its own -Z, +X right, +Y up (OpenGL). `cam_to_world` [4, 4] has the
columns right, up, back, position. With `back(az, el)` = (cos el sin az, sin el,
cos el cos az), a camera at azimuth az and elevation el has `back` as its third column;
an orbiting camera stands at target + radius * back and so looks at the target.
Azimuth 0 sees the front (camera on +Z), azimuth 90 stands on +X, elevation > 0 is
above. The closed form has no pole: a camera right overhead is well defined.
`fov_deg` is the full vertical field of view; pixels are square. The centre of pixel
(row i, column j) is x = (j + .5) / W * 2 - 1, y = 1 - (i + .5) / H * 2 and its ray in
camera space (x tan(fov / 2) W / H, y tan(fov / 2), -1), normalised: distances along
rays are true distances in scene units.

Samplers are pure functions of a key that return one camera; map them for a batch.
Ranges are (low, high) pairs; angles are in degrees.

Examples:
  >>> camera = vsd.camera.orbit_camera(0.0, 0.0, radius=2.5, fov_deg=40.0)
  >>> origin, rays = vsd.camera.pixel_rays(camera, 64, 64)  # from +Z to the origin
  >>> origin, rays.shape
  (Array([0. , 0. , 2.5], dtype=float32), (64, 64, 3))
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated

import chex
import jax
import jax.numpy as jnp

from vsd_jax.spec import OneOf, Within
from vsd_jax.types import Camera

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """A distribution of cameras. Lengths are scene units; pairs are (low, high).

    Attributes:
      law: kind of distribution: "orbit" looks at the target from outside, "inside" from
        inside of a room outwards.
      radius: distance of an orbiting camera from the target.
      fov_deg: full vertical field of view.
      elevation_deg: above the horizon; a camera inside looks down if it is positive.
      azimuth_deg: around the vertical axis; 0 is the front.
      area_uniform_share: probability that an orbit's elevation is drawn evenly in area,
        not in angle.
      overhead_share: probability that the elevation is drawn from `overhead_deg`
        instead.
      overhead_deg: elevations of those cameras.
      target: point that an orbiting camera looks at.
      target_std: standard deviation of a Gaussian shift of camera and target together.
      box_half_extent: an orbit stays in the cube of this half size; 0 = no such limit.
      position_radius: positions inside a room fill a ball of this radius.
    """

    law: Annotated[str, OneOf(("orbit", "inside"))]
    radius: Annotated[Range, Within(0)]
    fov_deg: Annotated[Range, Within(1, 170)]
    elevation_deg: Annotated[Range, Within(-90, 90)]
    azimuth_deg: Annotated[Range, Within(-360, 360)]
    area_uniform_share: Annotated[float, Within(0, 1)]
    overhead_share: Annotated[float, Within(0, 1)]
    overhead_deg: Annotated[Range, Within(-90, 90)]
    target: tuple[float, float, float]
    target_std: Annotated[float, Within(0)]
    box_half_extent: Annotated[float, Within(0, 1)]
    position_radius: Annotated[float, Within(0, 1)]


def make_camera_sampler(spec: CameraSpec) -> Callable[[jax.Array], Camera]:
    """Makes the sampler `(key) -> Camera` of the distribution that `spec` describes."""
    ranges = {
        "fov_range_deg": spec.fov_deg,
        "elevation_range_deg": spec.elevation_deg,
        "azimuth_range_deg": spec.azimuth_deg,
    }
    if spec.law == "inside":
        return functools.partial(
            sample_inside_camera, position_radius=spec.position_radius, **ranges
        )
    return functools.partial(
        sample_orbit_camera,
        radius_range=spec.radius,
        area_uniform_share=spec.area_uniform_share,
        overhead_share=spec.overhead_share,
        overhead_range_deg=spec.overhead_deg,
        target=spec.target,
        target_std=spec.target_std,
        box_half_extent=spec.box_half_extent or None,
        **ranges,
    )


def shift_camera(cameras: Camera, offset: tuple[float, float, float]) -> Camera:
    """Moves cameras of any leading shape, and what they look at, by `offset` [3]."""
    moved = cameras.cam_to_world.at[..., :3, 3].add(
        jnp.broadcast_to(jnp.array(offset), cameras.cam_to_world.shape[:-2] + (3,))
    )
    return cameras.replace(cam_to_world=moved)


def wrap_degrees(angle_deg: jax.Array) -> jax.Array:
    """Any angle in degrees -> the same angle in (-180, 180]."""
    return 180.0 - jnp.mod(180.0 - angle_deg, 360.0)


def back_axis(azimuth_deg: jax.Array, elevation_deg: jax.Array) -> jax.Array:
    """[...] angles -> [..., 3] unit vector from the target to the camera."""
    azimuth, elevation = jnp.deg2rad(azimuth_deg), jnp.deg2rad(elevation_deg)
    return jnp.stack(
        [
            jnp.cos(elevation) * jnp.sin(azimuth),
            jnp.sin(elevation),
            jnp.cos(elevation) * jnp.cos(azimuth),
        ],
        axis=-1,
    )


def _pose(right, up, back, position) -> jax.Array:
    rotation_position = jnp.stack([right, up, back, position], axis=-1)
    last = jnp.broadcast_to(
        jnp.array([0, 0, 0, 1], rotation_position.dtype),
        (*rotation_position.shape[:-2], 1, 4),
    )
    return jnp.concatenate([rotation_position, last], axis=-2)


def camera_at(position, azimuth_deg, elevation_deg, fov_deg, radius) -> Camera:
    """A camera at `position` with the orientation that two angles give, without roll.

    Any leading shape, equal for all arguments.

    Args:
      position: [..., 3] scene units.
      azimuth_deg: [...] where the camera's back points to; looks the other way.
      elevation_deg: [...] in [-90, 90].
      fov_deg: [...] full vertical field of view.
      radius: [...] distance from the target, stored as it is.
    """
    azimuth_deg = wrap_degrees(jnp.asarray(azimuth_deg, jnp.float32))
    elevation_deg = jnp.asarray(elevation_deg, jnp.float32)
    back = back_axis(azimuth_deg, elevation_deg)
    azimuth = jnp.deg2rad(azimuth_deg)
    right = jnp.stack(
        [jnp.cos(azimuth), jnp.zeros_like(azimuth), -jnp.sin(azimuth)], axis=-1
    )
    return Camera(
        cam_to_world=_pose(right, jnp.cross(back, right), back, position),
        fov_deg=jnp.asarray(fov_deg, jnp.float32),
        azimuth_deg=azimuth_deg,
        elevation_deg=elevation_deg,
        radius=jnp.asarray(radius, jnp.float32),
    )


def orbit_camera(azimuth_deg, elevation_deg, radius, fov_deg, target=None) -> Camera:
    """A camera on a sphere around `target` ([..., 3], default the origin)."""
    shape = jnp.broadcast_shapes(
        *(jnp.shape(x) for x in (azimuth_deg, elevation_deg, radius, fov_deg))
    )
    azimuth_deg, elevation_deg, radius, fov_deg = (
        jnp.broadcast_to(jnp.asarray(x, jnp.float32), shape)
        for x in (azimuth_deg, elevation_deg, radius, fov_deg)
    )
    position = radius[..., None] * back_axis(azimuth_deg, elevation_deg)
    if target is not None:
        position = position + jnp.broadcast_to(target, position.shape)
    return camera_at(position, azimuth_deg, elevation_deg, fov_deg, radius)


def _unit(vector):
    return vector / jnp.linalg.norm(vector, axis=-1, keepdims=True)


def pixel_rays(camera: Camera, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Rays through the pixel centres of one camera (unbatched).

    Returns:
      origin [3] and unit directions [H, W, 3] in the world.
    """
    chex.assert_shape(camera.cam_to_world, (4, 4))
    slope = jnp.tan(jnp.deg2rad(camera.fov_deg) / 2)
    x = ((jnp.arange(width) + 0.5) / width * 2 - 1) * slope * (width / height)
    y = (1 - (jnp.arange(height) + 0.5) / height * 2) * slope
    right, up, back, position = jnp.moveaxis(camera.cam_to_world[:3], -1, 0)
    directions = (
        x[None, :, None] * right[None, None]
        + y[:, None, None] * up[None, None]
        - back[None, None]
    )
    return position, _unit(directions)


def sample_elevation(
    key: jax.Array,
    *,
    elevation_range_deg: Range,
    area_uniform_share: float,
    overhead_share: float = 0.0,
    overhead_range_deg: Range = (90.0, 90.0),
) -> jax.Array:
    """An elevation in degrees. key: consumed.

    With probability `overhead_share` uniform in `overhead_range_deg`; otherwise in
    `elevation_range_deg`, and there with probability `area_uniform_share` uniform in
    area on the sphere (sin el uniform), else uniform in degrees (threestudio's mixture;
    there the two cover different bands of elevation, here the same one).
    """
    key_kind, key_overhead, key_value = jax.random.split(key, 3)
    low, high = elevation_range_deg
    share = jax.random.uniform(key_value)
    sine_low, sine_high = jnp.sin(jnp.deg2rad(jnp.array([low, high], jnp.float32)))
    by_area = jnp.rad2deg(jnp.arcsin(sine_low + share * (sine_high - sine_low)))
    by_degree = low + share * (high - low)
    use_area = jax.random.bernoulli(key_kind, area_uniform_share)
    overhead = overhead_range_deg[0] + share * (
        overhead_range_deg[1] - overhead_range_deg[0]
    )
    use_overhead = jax.random.bernoulli(key_overhead, overhead_share)
    return jnp.where(use_overhead, overhead, jnp.where(use_area, by_area, by_degree))


def _uniform(key, bounds: Range) -> jax.Array:
    return jax.random.uniform(key, minval=bounds[0], maxval=bounds[1])


def sample_orbit_camera(
    key: jax.Array,
    *,
    radius_range: Range,
    fov_range_deg: Range,
    elevation_range_deg: Range,
    azimuth_range_deg: Range,
    area_uniform_share: float,
    overhead_share: float = 0.0,
    overhead_range_deg: Range = (90.0, 90.0),
    target: tuple[float, float, float] = (0.0, 0.0, 0.0),
    target_std: float = 0.0,
    box_half_extent: float | None = None,
) -> Camera:
    """A camera that looks at a target, around an object or in a scene.

    Objects: radius U(1, 1.5), fov U(40, 70), elevation [-10, 45] with half of the
    draws uniform in area, any azimuth. Scenes: the same with radius U(.1, 2.3), so
    that the camera also stands inside (threestudio's ProlificDreamer settings). The
    Toybox: radius U(2.4, 2.8), fov 40, elevation U(-10, 50) and 15 % U(50, 85).

    Args:
      key: consumed.
      radius_range: scene units.
      fov_range_deg: full vertical field of view.
      elevation_range_deg: see `sample_elevation`, as are the shares.
      azimuth_range_deg: (-180, 180) for a full circle.
      area_uniform_share: probability in [0, 1].
      overhead_share: probability in [0, 1].
      overhead_range_deg: elevations of the overhead share.
      target: point in world coordinates.
      target_std: standard deviation of a Gaussian shift of target and camera
        together, scene units.
      box_half_extent: if given, cameras stay in the cube of this half size: the
        radius is cut where the line to the target leaves it (orbits inside a room).
    """
    keys = jax.random.split(key, 5)
    elevation = sample_elevation(
        keys[0],
        elevation_range_deg=elevation_range_deg,
        area_uniform_share=area_uniform_share,
        overhead_share=overhead_share,
        overhead_range_deg=overhead_range_deg,
    )
    azimuth = _uniform(keys[1], azimuth_range_deg)
    radius = _uniform(keys[2], radius_range)
    seen = jnp.array(target) + target_std * jax.random.normal(keys[3], (3,))
    if box_half_extent is not None:
        seen = jnp.clip(seen, -box_half_extent, box_half_extent)
        inside = box_half_extent - jnp.sign(back_axis(azimuth, elevation)) * seen
        reach = inside / jnp.maximum(jnp.abs(back_axis(azimuth, elevation)), 1e-6)
        radius = jnp.minimum(radius, jnp.min(reach))
    fov = _uniform(keys[4], fov_range_deg)
    return orbit_camera(azimuth, elevation, radius, fov, seen)


def sample_inside_camera(
    key: jax.Array,
    *,
    position_radius: float,
    fov_range_deg: Range,
    elevation_range_deg: Range,
    azimuth_range_deg: Range,
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Camera:
    """A camera inside a room that looks outwards. key: consumed.

    The position is uniform in a ball of `position_radius` around `centre`; the angles
    are uniform and describe where the camera's back points, as everywhere: elevation
    > 0 looks down. `radius` is the distance from `centre`.
    """
    keys = jax.random.split(key, 4)
    offset = position_radius * jax.random.ball(keys[0], 3)
    azimuth = _uniform(keys[1], azimuth_range_deg)
    elevation = _uniform(keys[2], elevation_range_deg)
    fov = _uniform(keys[3], fov_range_deg)
    distance = jnp.sqrt(jnp.sum(offset**2))
    position = offset + jnp.array(centre)
    return camera_at(position, azimuth, elevation, fov, distance)


def turntable(
    num_views: int, *, elevation_deg: float, radius: float, fov_deg: float
) -> Camera:
    """Evenly spaced orbit cameras, the first in front; every leaf [num_views, ...]."""
    azimuth = jnp.arange(num_views) * (360.0 / num_views)
    return orbit_camera(azimuth, elevation_deg, radius, fov_deg)


def panorama(num_views: int, *, elevation_deg: float, fov_deg: float) -> Camera:
    """Cameras at the origin that look around; every leaf [num_views, ...]."""
    azimuth = jnp.arange(num_views) * (360.0 / num_views)
    return orbit_camera(azimuth, elevation_deg, 0.0, fov_deg)
