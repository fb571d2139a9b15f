# SPDX-License-Identifier: Apache-2.0
"""From the configuration to a scene, its cameras, backgrounds and optimizer.

With `build.py` the only place that translates keys into arguments: nothing behind it
sees the configuration. Nothing here needs the prior, so a finished run can be rendered
and exported without its weights.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vsd_jax import adaptive
from vsd_jax.program.build import build_mesh
from vsd_jax.program.build.build_field import Config, make_density_bias, make_grid
from vsd_jax.scene import camera, image, regularizers
from vsd_jax.scene.nerf import nerf
from vsd_jax.types import Camera, PyTree, RenderOutput, Scene

ENVIRONMENT = (-1.0, -1.0, -1.0)
"""The background that asks a scene for its learned environment (`scene/nerf/nerf.py`)."""


def is_flat(config: Config) -> bool:
    """Whether theta is what is seen: there is nothing to turn or to export."""
    return config.field.kind in ("image", "latent")


def make_scene(
    config: Config, *, size: int, latent_shape: tuple[int, int, int] = (0, 0, 0)
) -> Scene:
    """The scene, with the same theta at every size.

    Args:
      config: validated.
      size: side of a render, pixels; an image is always `render.size` large.
      latent_shape: (h, w, c) of the prior, for field.kind="latent" alone.
    """
    scene = _make_plain_scene(config, size=size, latent_shape=latent_shape)
    if config.camera.adapt == "residual":
        return adaptive.remember_views(scene)
    return scene


def _make_plain_scene(
    config: Config, *, size: int, latent_shape: tuple[int, int, int]
) -> Scene:
    if config.field.kind in build_mesh.KINDS:
        return build_mesh.make_scene(config, size=size)
    if is_flat(config):
        latent = config.field.kind == "latent"
        return image.make_image(
            shape=latent_shape if latent else (config.render.size,) * 2 + (3,),
            init_std=config.field.init_std,
            sigmoid=not latent,
        )
    render = config.render
    return nerf.make_nerf(
        image_size=size,
        grid=make_grid(config),
        hidden=config.field.hidden,
        density_bias=make_density_bias(config),
        density_noise=render.density_noise,
        environment=config.field.environment,
        num_samples=render.num_samples,
        num_fine_samples=render.num_fine,
        half_extent=render.half_extent,
        near=render.near,
        occupancy_resolution=render.occupancy_resolution,
        occupancy_threshold=render.occupancy_threshold,
        occupancy_decay=render.occupancy_decay,
        occupancy_interval=render.occupancy_interval,
        capacity=render.capacity,
        train_normals=config.regularize.orientation > 0,
        max_rays=render.max_rays,
    )


def make_camera_sampler(config: Config) -> Callable[[jax.Array], Camera]:
    """`(key) -> Camera`, the law of the configuration's ranges."""
    law = config.camera
    ranges = {
        "fov_range_deg": law.fov_deg,
        "elevation_range_deg": law.elevation_deg,
        "azimuth_range_deg": law.azimuth_deg,
    }
    if law.law == "inside":
        return functools.partial(
            camera.sample_inside_camera, position_radius=law.position_radius, **ranges
        )
    sample = functools.partial(
        camera.sample_orbit_camera,
        radius_range=law.radius,
        area_uniform_share=law.area_uniform_share,
        overhead_share=law.overhead_share,
        overhead_range_deg=law.overhead_deg,
        target_std=law.target_std,
        box_half_extent=law.box_half_extent or None,
        **ranges,
    )
    return lambda key: shift_camera(sample(key), law.target)


def make_camera_law(
    config: Config,
) -> adaptive.SampleCamera | adaptive.AdaptiveLaw:
    """The training distribution, adapted to the scene if `camera.adapt` says so."""
    sample = make_camera_sampler(config)
    number = config.camera.adapt_candidates
    if config.camera.adapt == "residual":
        return adaptive.by_residual(sample, num_candidates=number)
    return sample


def shift_camera(cameras: Camera, offset: tuple[float, float, float]) -> Camera:
    """Moves cameras of any leading shape, and what they look at, by `offset` [3]."""
    moved = cameras.cam_to_world.at[..., :3, 3].add(
        jnp.broadcast_to(jnp.array(offset), cameras.cam_to_world.shape[:-2] + (3,))
    )
    return cameras.replace(cam_to_world=moved)


def make_particle_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam with a learning rate for each part of theta."""
    optim = config.optim
    rates = {
        "table": optim.table_lr,
        "decoder": optim.decoder_lr,
        "environment": optim.environment_lr,
        "pixels": optim.image_lr,
        "sdf": optim.sdf_lr,
        "offsets": optim.offset_lr,
    }

    def adam(rate: float) -> optax.GradientTransformation:
        return optax.adam(rate, b1=optim.b1, b2=optim.b2, eps=optim.tiny)

    def label(params: PyTree) -> PyTree:
        return {
            part: jax.tree.map(lambda _, part=part: part, tree)
            for part, tree in params.items()
        }

    return optax.multi_transform({k: adam(rate) for k, rate in rates.items()}, label)


def make_regularizer(config: Config) -> Callable:
    """The weighted sum of the regularisers that are switched on."""
    factors = config.regularize

    def terms(output: RenderOutput, step: jax.Array) -> dict[str, jax.Array]:
        late = jnp.where(step >= factors.opaque_start, factors.opaque, 0.0)
        weighted = {
            "entropy": (factors.entropy, output.extras.get("entropy")),
            "z_variance": (factors.z_variance, output.extras.get("z_variance")),
            "orientation": (factors.orientation, output.extras.get("orientation")),
            "normal_consistency": (
                factors.normal_consistency,
                output.extras.get("normal_consistency"),
            ),
            "laplacian": (factors.laplacian, output.extras.get("laplacian")),
            "sparsity": (factors.sparsity, regularizers.sparsity(output.opacity)),
            "opacity_squared": (
                factors.opacity_squared,
                regularizers.opacity_squared(output.opacity),
            ),
        }
        on = {name: f * value for name, (f, value) in weighted.items() if f}
        if factors.opaque:
            on["opaque"] = late * regularizers.opaque(output.opacity)
        return on

    def regularizer(output: RenderOutput, step: jax.Array):
        found = terms(output, step)
        return sum(found.values(), jnp.zeros(())), found

    return regularizer


def make_backgrounds(config: Config) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Colours [G, 3], probabilities [G] and words of the training backgrounds."""
    render = config.render
    share = render.environment_share
    colors = [*render.background_colors, ENVIRONMENT]
    shares = [*((1 - share) * np.asarray(render.background_shares)), share]
    words = [*render.background_words, ""]
    keep = [i for i, probability in enumerate(shares) if probability > 0]
    chosen = np.asarray(shares, np.float32)[keep]
    return (
        np.asarray(colors, np.float32)[keep],
        chosen / chosen.sum(),
        [words[i] for i in keep],
    )
