# SPDX-License-Identifier: Apache-2.0
"""The identity scene: theta is the picture itself and g(theta, c) = theta.

For the paper's 2D experiment (ProlificDreamer, arXiv:2305.16213, Sec. 3 and App. G),
where score distillation can be watched without a renderer. theta is an image, or a
latent that needs no encoder.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from vsd_jax.spec import Within
from vsd_jax.types import RenderOutput, Scene


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """A picture as theta.

    Attributes:
      init_std: standard deviation of a picture's Gaussian start.
    """

    init_std: Annotated[float, Within(0)]


def image(spec: ImageSpec, *, shape: tuple[int, int, int], latent: bool) -> Scene:
    """The identity scene; arguments as in `make_image`, a latent without sigmoid.

    Examples:
      >>> spec = vsd.presets.preset("image2d").image
      >>> scene = vsd.image(spec, shape=(8, 8, 3), latent=False)
      >>> scene.init(jax.random.key(0))["pixels"].shape
      (8, 8, 3)
    """
    return make_image(shape=shape, init_std=spec.init_std, sigmoid=not latent)


def make_image(*, shape: tuple[int, int, int], init_std: float, sigmoid: bool) -> Scene:
    """Builds a scene whose only parameter is `pixels` (unbatched over particles).

    Camera, background and key are ignored; `opacity` is one everywhere.

    Args:
      shape: (H, W, C): an image with C = 3, or a latent.
      init_std: standard deviation of the Gaussian start (1 for latents).
      sigmoid: show sigmoid(pixels), which stays in (0, 1); False shows `pixels`.
    """

    def init(key):
        return {"pixels": init_std * jax.random.normal(key, shape)}

    def render(params, stats, camera, background, key, *, train):
        del stats, camera, background, key, train
        pixels = params["pixels"]
        return RenderOutput(
            rgb=jax.nn.sigmoid(pixels) if sigmoid else pixels,
            opacity=jnp.ones(shape[:2]),
            depth=jnp.zeros(shape[:2]),
            normal=jnp.zeros((*shape[:2], 3)),
            extras={},
        )

    return Scene(init=init, render=render)
