# SPDX-License-Identifier: Apache-2.0
"""The structures and function types that cross a module border.

Notation: `params` = theta of one particle, `score_params` = phi (shared),
`prior_params` = the frozen prior. Leading axis `n` = particles. World and camera
convention: `vsd_jax/scene/camera.py`. Images are [H, W, 3] float32 in [0, 1].

Two kinds of type stand here. Data that a transformation must look into is a
`flax.struct.dataclass` (a pytree with named fields). A bundle of pure functions is a
`NamedTuple`: it is closed over, never traced.

Randomness: `VSDState.key` never evolves. `step_key = fold_in(key, step)`, a particle's
key = `fold_in(step_key, particle_index)`; so a resumed run repeats the straight one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np

PyTree = Any
Params = PyTree
Stats = PyTree
Context = dict[str, jax.Array]
"""`{"text": [B, L, D]}`; for the score network also `"camera": [B, 16]`, the row-major
`cam_to_world` (all zeros = camera dropped)."""

NoiseFn = Callable[[PyTree, jax.Array, jax.Array, Context], jax.Array]
"""`(params, latents [B, h, w, c], t [B] int32, context) -> epsilon prediction`."""

DenoiserFn = Callable[[PyTree, jax.Array, jax.Array, Context], jax.Array]
"""As `NoiseFn`, but returns the raw output in the network's own prediction type."""

EncodeFn = Callable[[PyTree, jax.Array, jax.Array], jax.Array]
"""`(params, image [B, H, W, 3] in [0, 1], noise [B, h, w, c]) -> latents [B, h, w, c]`;
an encoder that gives a distribution draws from it with the standard normal `noise`."""

DecodeFn = Callable[[PyTree, jax.Array], jax.Array]
"""`(params, latents [B, h, w, c]) -> image [B, H, W, 3] in [0, 1]`."""


@flax.struct.dataclass(kw_only=True)
class Camera:
    """One pinhole camera or any leading shape of them (convention: scene/camera.py).

    Attributes:
      cam_to_world: [..., 4, 4] float32, columns right, up, back, position.
      fov_deg: [...] full vertical field of view, degrees.
      azimuth_deg: [...] degrees in (-180, 180]; 0 = in front of the object.
      elevation_deg: [...] degrees in [-90, 90], positive = above.
      radius: [...] distance from the target, scene units.
    """

    cam_to_world: jax.Array
    fov_deg: jax.Array
    azimuth_deg: jax.Array
    elevation_deg: jax.Array
    radius: jax.Array


@flax.struct.dataclass(kw_only=True)
class RenderOutput:
    """One rendered view (unbatched).

    Attributes:
      rgb: [H, W, 3] in [0, 1], composited over the background. A scene whose theta is
        a latent stores the latent [h, w, c] here.
      opacity: [H, W] in [0, 1], accumulated weight.
      depth: [H, W] expected distance along the ray, scene units (0 where empty).
      normal: [H, W, 3] world space, unit or zero (zero where empty or not asked for).
      extras: named scalars for logging and regularisers, e.g. `"entropy"`.
    """

    rgb: jax.Array
    opacity: jax.Array
    depth: jax.Array
    normal: jax.Array
    extras: dict[str, jax.Array]


@flax.struct.dataclass(kw_only=True)
class Particles:
    """The scenes being optimised; every leaf has the leading particle axis n.

    Attributes:
      params: theta.
      opt_state: of theta's optimizer.
      stats: see `Scene.init_stats`.
      skips: int32, steps in a row that were skipped because they were not finite.
    """

    params: PyTree
    opt_state: PyTree
    stats: PyTree
    skips: jax.Array


@flax.struct.dataclass(kw_only=True)
class ScoreState:
    """The score network phi that all particles share (LoRA, or a small U-Net)."""

    params: PyTree
    opt_state: PyTree


@flax.struct.dataclass(kw_only=True)
class VSDState:
    """All that a run needs to go on.

    Attributes:
      particles: the n scenes.
      score: the shared score network.
      step: int32 scalar, number of finished steps.
      key: typed base key; folded, never replaced.
    """

    particles: Particles
    score: ScoreState
    step: jax.Array
    key: jax.Array


@flax.struct.dataclass(kw_only=True)
class Mesh:
    """A coloured triangle mesh in the world convention.

    Attributes:
      vertices: [V, 3] float32, scene units.
      faces: [F, 3] int32, counter-clockwise seen from outside.
      colors: [V, 3] float32 in [0, 1], one per vertex, sRGB values as rendered.
    """

    vertices: Any
    faces: Any
    colors: Any


RenderFn = Callable[..., RenderOutput]
"""`(params, stats, camera, background [3], key, *, train) -> RenderOutput`."""


class Scene(NamedTuple):
    """A differentiable scene as pure functions, written for one particle.

    Attributes:
      init: `(key) -> params`, a plain dict pytree (theta).
      init_stats: `(params) -> stats`, what is carried but not differentiated (the
        occupancy grid); `{}` if there is nothing.
      update_stats: `(params, stats, step, key) -> stats`; cheap when nothing is due.
      render: `(params, stats, camera, background, key, *, train) -> RenderOutput`;
        `background` [3] in [0, 1] is composited behind what the scene shows.
      observe: `(stats, cameras, t, residual_ms) -> stats`, what the scene remembers of
        a step's V views (leaves [V, ...]; mean square of the residual [V]).
    """

    init: Callable[[jax.Array], Params]
    init_stats: Callable[[Params], Stats]
    update_stats: Callable[[Params, Stats, jax.Array, jax.Array], Stats]
    render: RenderFn
    observe: Callable[..., Stats] = lambda stats, *of_views: stats


class NoiseModel(NamedTuple):
    """A denoising network and what its output means.

    Attributes:
      apply: the network.
      prediction_type: `"epsilon"`, `"v_prediction"` or `"sample"` (clean latents).
    """

    apply: DenoiserFn
    prediction_type: str


class Prior(NamedTuple):
    """A frozen diffusion prior; its weights are always an argument.

    Attributes:
      model: the denoiser.
      encode: image -> latents.
      decode: latents -> image.
      alphas_cumprod: [T] float32, cumulative product of (1 - beta).
      latent_shape: (h, w, c).
      image_size: side of the square image that `encode` expects, pixels.
    """

    model: NoiseModel
    encode: EncodeFn
    decode: DecodeFn
    alphas_cumprod: np.ndarray
    latent_shape: tuple[int, int, int]
    image_size: int
