# SPDX-License-Identifier: Apache-2.0
"""The identity scene: theta is the picture itself and g(theta, c) = theta.

For the paper's 2D experiment (ProlificDreamer, arXiv:2305.16213, Sec. 3 and App. G),
where score distillation can be watched without a renderer. theta is an image, or a
latent that needs no encoder.

An image is shown as rgb = (1 + theta) / 2, the prior's own coordinates, in which every
colour is in reach. Behind a sigmoid, for which `ImageSpec.image_sigmoid` asks, it is
not: 100 moves of .05 towards white, by squared error, end at .92 on average.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from vsd_jax.spec import Within
from vsd_jax.types import RenderOutput, Scene


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """An image as theta.

    Attributes:
      init_std: standard deviation of a picture's Gaussian start.
      image_sigmoid: show an image as sigmoid(theta), in (0, 1), instead of
        (1 + theta) / 2. A latent is shown as it is.
    """

    init_std: Annotated[float, Within(0)]
    image_sigmoid: bool


def image(spec: ImageSpec, *, shape: tuple[int, int, int], latent: bool) -> Scene:
    """Makes the identity scene: theta is an image, or a latent.

    Examples:
      >>> spec = vsd.presets.preset("image2d").image
      >>> scene = vsd.image(spec, shape=(8, 8, 3), latent=False)
      >>> scene.init(jax.random.key(0))["pixels"].shape
      (8, 8, 3)
    """
    shown = _as_it_is if latent else jax.nn.sigmoid if spec.image_sigmoid else _as_rgb
    return make_image(shape=shape, init_std=spec.init_std, show=shown)


def _as_it_is(pixels: jax.Array) -> jax.Array:
    return pixels


def _as_rgb(pixels: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * pixels


def make_image(
    *,
    shape: tuple[int, int, int],
    init_std: float,
    show: Callable[[jax.Array], jax.Array],
) -> Scene:
    """Builds a scene whose only parameter is `pixels` (unbatched over particles).

    Camera, background and key are ignored; `opacity` is one everywhere.

    Args:
      shape: (H, W, C): an image with C = 3, or a latent.
      init_std: standard deviation of the Gaussian start (1 for latents).
      show: pixels -> the picture, or the latent.
    """

    def init(key):
        return {"pixels": init_std * jax.random.normal(key, shape)}

    def render(params, stats, camera, background, key, *, train):
        del stats, camera, background, key, train
        pixels = params["pixels"]
        return RenderOutput(
            rgb=show(pixels),
            opacity=jnp.ones(shape[:2]),
            depth=jnp.zeros(shape[:2]),
            normal=jnp.zeros((*shape[:2], 3)),
            extras={},
        )

    return Scene(init=init, render=render)
