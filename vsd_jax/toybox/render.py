# SPDX-License-Identifier: Apache-2.0
"""Truth renders: ray casting of Toybox parts with embree, light fixed in the world.

Camera convention: `vsd_jax/scene/camera.py`, in NumPy here (this module makes data).
The light belongs to the world, so that shading is a property of the object on which
all views agree. Colours are display values; shading multiplies them.
"""

from typing import NamedTuple

import numpy as np

from vsd_jax.toybox.parts import Part

SUPERSAMPLE = 2
_LIGHT = np.array([0.40, 0.78, 0.48]) / np.linalg.norm([0.40, 0.78, 0.48])


class View(NamedTuple):
    """A camera: where it stands and how wide it sees.

    Attributes:
      cam_to_world: [4, 4].
      fov_deg: full field of view.
      azimuth_deg: of the position (rooms from inside: of the viewing direction).
      elevation_deg: likewise.
    """

    cam_to_world: np.ndarray
    fov_deg: float
    azimuth_deg: float
    elevation_deg: float


class Images(NamedTuple):
    """Rendered views.

    Attributes:
      rgba: [V, H, W, 4] in [0, 1], premultiplied.
      normal: [V, H, W, 3] world-space (n + 1) / 2, premultiplied (black outside).
      depth: [V, H, W] mean distance along the rays that hit, scene units, 0 = none.
    """

    rgba: np.ndarray
    normal: np.ndarray
    depth: np.ndarray


def direction(azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    """Unit vector [3]: azimuth 0 is +Z, 90 is +X; elevation 90 is +Y."""
    az, el = np.radians(azimuth_deg), np.radians(elevation_deg)
    return np.array([np.cos(el) * np.sin(az), np.sin(el), np.cos(el) * np.cos(az)])


def look_along(position: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """cam_to_world [4, 4] of a camera that looks along `forward`, upright."""
    back = -forward / np.linalg.norm(forward)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], 1)
    pose[:3, 3] = position
    return pose


def orbit_view(
    azimuth_deg: float,
    elevation_deg: float,
    *,
    radius: float,
    fov_deg: float,
    target=(0.0, 0.0, 0.0),
) -> View:
    """A camera on a sphere around `target`, looking at it."""
    outward = direction(azimuth_deg, elevation_deg)
    pose = look_along(np.asarray(target) + radius * outward, -outward)
    return View(pose, fov_deg, azimuth_deg, elevation_deg)


def pixel_rays(view: View, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Origins and unit directions [size^2, 3] through the pixel centres."""
    half = np.tan(np.radians(view.fov_deg) / 2.0)
    centre = (np.arange(size) + 0.5) / size * 2.0 - 1.0
    x, y = np.meshgrid(half * centre, -half * centre)
    local = np.stack([x, y, -np.ones_like(x)], -1).reshape(-1, 3)
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    directions = local @ view.cam_to_world[:3, :3].T
    return np.broadcast_to(view.cam_to_world[:3, 3], directions.shape), directions


def shade(normals: np.ndarray) -> np.ndarray:
    """Brightness [...] in [0.58, 1.05] of unit normals [..., 3]."""
    sky = 0.5 + 0.5 * normals[..., 1]
    key = np.maximum((normals @ _LIGHT + 0.4) / 1.4, 0.0)
    return 0.58 + 0.12 * sky + 0.35 * key


def render(part: Part, views: list[View], *, size: int = 64) -> Images:
    """Renders all views of a part.

    Args:
      part: what to render.
      views: cameras.
      size: pixels; each is the mean of SUPERSAMPLE^2 rays.

    Returns:
      Images, float32.

    Raises:
      ImportError: embree is not installed; says how to install it.
    """
    scene = _embree_scene(part)
    fine = size * SUPERSAMPLE
    blocks = [_cast(scene, part, *pixel_rays(view, fine)) for view in views]
    layers = np.stack(blocks).reshape(
        len(views), size, SUPERSAMPLE, size, SUPERSAMPLE, 8
    )
    mean = layers.mean((2, 4), dtype=np.float32)
    hit = np.maximum(mean[..., 3], 1e-6)
    depth = np.where(mean[..., 3] > 0, mean[..., 7] / hit, 0.0)
    return Images(mean[..., :4], mean[..., 4:7], depth)


def _embree_scene(part: Part):
    try:
        from embreex import rtcore_scene
        from embreex.mesh_construction import TriangleMesh
    except ImportError as error:
        raise ImportError(
            "Rendering the Toybox's truth needs embree: pip install 'vsd_jax[toybox]'"
        ) from error
    scene = rtcore_scene.EmbreeScene(robust=True)
    TriangleMesh(scene, part.triangles.astype(np.float32))
    return scene


def _cast(scene, part: Part, origins, directions) -> np.ndarray:
    """[R, 8] float32: shaded rgb, hit, normal, distance; zeros where nothing is hit."""
    found = scene.run(
        origins.astype(np.float32), directions.astype(np.float32), output=True
    )
    out = np.zeros((len(directions), 8), np.float32)
    rays = np.flatnonzero(found["primID"] >= 0)
    face = found["primID"][rays]
    u, v = found["u"][rays, None], found["v"][rays, None]
    corners = part.normals[face]
    normal = (1.0 - u - v) * corners[:, 0] + u * corners[:, 1] + v * corners[:, 2]
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    # Thin walls are seen from both sides.
    facing = np.sign(-np.sum(normal * directions[rays], -1, keepdims=True))
    normal = np.where(facing < 0, -normal, normal)
    out[rays, :3] = np.clip(part.colours[face] * shade(normal)[:, None], 0.0, 1.0)
    out[rays, 3] = 1.0
    out[rays, 4:7] = 0.5 * normal + 0.5
    out[rays, 7] = found["tfar"][rays]
    return out
