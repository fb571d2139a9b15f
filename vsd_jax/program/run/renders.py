# SPDX-License-Identifier: Apache-2.0
"""Pictures of a state: single views, contact sheets, turntables."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.program import Config
from vsd_jax.program.build import stages
from vsd_jax.program.terminal import progress
from vsd_jax.scene import camera as camera_lib
from vsd_jax.types import Camera, DecodeFn, Particles, Scene

Decode = Callable[[jax.Array], jax.Array]
"""`(latent [h, w, c]) -> image [H, W, 3] in [0, 1]`; only for field.kind="latent"."""

Renderer = Callable[[Particles, int, Camera], dict[str, np.ndarray]]
"""`(particles, index, camera) -> rgb [H, W, 3], opacity and depth [H, W]`."""


def make_decode(decode: DecodeFn, prior_params) -> Decode:
    """A prior's decoder for one latent, its weights bound as an argument."""
    jitted = jax.jit(decode)
    return lambda latent: jitted(prior_params, latent[None])[0]


def make_renderer(
    config: Config, *, size: int, decode: Decode | None = None
) -> Renderer:
    """Renders particles as they are judged: deterministic, on `eval.background`.

    Args:
      config: validated.
      size: side of the image, pixels.
      decode: makes a latent visible; without it a latent shows its first channels.
    """
    background = jnp.asarray(config.eval.background, jnp.float32)
    is_latent = stages.stage_of(config).is_latent
    said: list[str] = []

    def show(particles: Particles, index: int, camera: Camera):
        shape = particles.params["pixels"].shape[1:] if is_latent else (0, 0, 0)
        scene = stages.make_scene(config, size=size, latent_shape=shape)
        render = _jitted_render(scene)
        out = render(particles, jnp.int32(index), camera, background)
        lost = out.pop("overflow")
        if lost > 0 and not said:
            said.append(
                f"Pictures of {size} x {size} pixels lack parts of the mesh"
                f" ({lost:.0f} entries of lists that are full). Give"
                f" {stages.more_room(config, train=False)}."
            )
            progress.say(said[0])
        if is_latent:
            rgb = out["rgb"]
            out["rgb"] = decode(rgb) if decode else 0.5 + 0.25 * rgb[..., :3]
        return jax.device_get(out)

    return show


@functools.lru_cache(maxsize=8)
def _jitted_render(scene: Scene) -> Callable:
    """One compilation for all that renders at a size: sheets, level search, judge."""

    @jax.jit
    def render(particles: Particles, index, camera: Camera, background):
        params, stats = jax.tree.map(
            lambda leaf: leaf[index], (particles.params, particles.stats)
        )
        out = scene.render(
            params, stats, camera, background, jax.random.key(0), train=False
        )
        shown = {"rgb": out.rgb, "opacity": out.opacity, "depth": out.depth}
        return shown | {"overflow": out.extras.get("overflow", jnp.zeros(()))}

    return render


def judged_cameras(config: Config, num_views: int) -> Camera:
    """Evenly spaced cameras of `config.eval`, leaves [num_views, ...]; 0 = front."""
    view = config.eval
    if config.camera.law == "inside":
        return camera_lib.panorama(
            num_views, elevation_deg=view.elevation_deg, fov_deg=view.fov_deg
        )
    orbit = camera_lib.turntable(
        num_views,
        elevation_deg=view.elevation_deg,
        radius=view.radius,
        fov_deg=view.fov_deg,
    )
    return camera_lib.shift_camera(orbit, config.camera.target)


def pick(cameras: Camera, index: int) -> Camera:
    """One camera of a batch."""
    return jax.tree.map(lambda leaf: leaf[index], cameras)


def render_views(
    render: Renderer, particles: Particles, cameras: Camera
) -> dict[str, np.ndarray]:
    """All particles from all cameras: leaves [n, views, ...]."""
    n = jax.tree.leaves(particles.params)[0].shape[0]
    num_views = cameras.fov_deg.shape[0]
    rows = [
        [render(particles, i, pick(cameras, view)) for view in range(num_views)]
        for i in range(n)
    ]
    rows = [jax.tree.map(lambda *leaves: np.stack(leaves), *row) for row in rows]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def pixel_diversity(rgb: np.ndarray) -> float:
    """Mean root mean square difference between particles, same view.

    Args:
      rgb: [n, views, H, W, 3], n >= 2.
    """
    n = len(rgb)
    first, second = np.triu_indices(n, 1)
    difference = np.mean((rgb[first] - rgb[second]) ** 2, axis=(1, 2, 3, 4))
    return float(np.sqrt(difference).mean())
