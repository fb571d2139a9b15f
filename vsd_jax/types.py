# SPDX-License-Identifier: Apache-2.0
"""The structures and function types that cross a module border.

Notation: `params` = theta of one particle, `score_params` = phi (shared),
`prior_params` = the frozen prior. Leading axis `n` = particles. World and camera
convention: `vsd_jax/scene/camera.py`. Images are [H, W, 3] float32 in [0, 1].

Two kinds of type stand here. Data that a transformation must look into is a
`flax.struct.dataclass` (a pytree with named fields). A bundle of pure functions is a
`NamedTuple`: it is closed over, never traced.

Randomness: `VSDState.key` never evolves (`distil.py`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import flax.struct
import jax
import numpy as np
import optax

PyTree = Any
Params = PyTree
Stats = PyTree


class Context(TypedDict, total=False):
    """Conditioning of a network, one entry for each sample of a batch.

    Attributes:
      text: [B, L, D] embedded prompts.
      camera: [B, 16], for the score network and a prior that reads the camera: the
        row-major `cam_to_world` (all zeros = camera not told).
    """

    text: jax.Array
    camera: jax.Array


class Prompts(TypedDict, total=False):
    """Embedded prompts (`diffusion/prompt.py`).

    All of a run: leaves [V, G, L, D], by view and background. Those of the views of one
    particle in one step: [V, L, D].

    Attributes:
      text: the prior's prompt, with its view words.
      negative: what guidance moves away from; the empty prompt if nothing is given.
      score: the plain prompt that the score network reads.
      empty: no text; only where the method asks for it.
      source: what the renders look like at present; likewise.
      perp_text: [V, 2, L, D] prompts that Perp-Neg pushes away from.
      perp_weights: [V, 2] >= 0, their weights.
      camera: [V, 16] as of `Context`; only in a step, for a prior that reads it.
    """

    text: jax.Array
    negative: jax.Array
    score: jax.Array
    empty: jax.Array
    source: jax.Array
    perp_text: jax.Array
    perp_weights: jax.Array
    camera: jax.Array


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
        a picture may leave that range; one of a latent stores it [h, w, c] here.
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
    """Complete training state, enough to resume exactly.

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
      render: `(params, stats, camera, background, key, *, train) -> RenderOutput`;
        `background` [3] in [0, 1] is composited behind what the scene shows.
      init_stats: `(params) -> stats`, what is carried but not differentiated (the
        occupancy grid); `{}` if there is nothing.
      update_stats: `(params, stats, turn, key) -> stats`; cheap when nothing is due.
        `turn` is about how often the particle has been moved: the step, if all are.
      observe: `(stats, cameras, t, residual_ms) -> stats`, what the scene remembers of
        a step's V views (leaves [V, ...]; mean square of the residual [V]).
    """

    init: Callable[[jax.Array], Params]
    render: RenderFn
    init_stats: Callable[[Params], Stats] = lambda params: {}
    update_stats: Callable[[Params, Stats, jax.Array, jax.Array], Stats] = (
        lambda params, stats, turn, key: stats
    )
    observe: Callable[..., Stats] = lambda stats, *of_views: stats


class NoiseModel(NamedTuple):
    """A denoising network and its prediction type.

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
      reads_camera: whether it is told the exact camera beside the text.
    """

    model: NoiseModel
    encode: EncodeFn
    decode: DecodeFn
    alphas_cumprod: np.ndarray
    latent_shape: tuple[int, int, int]
    image_size: int
    reads_camera: bool = False


@flax.struct.dataclass(kw_only=True)
class ScoreDraw:
    """Random draws of one particle for K updates of the score network in one step.

    Attributes:
      t: [K, V] int32.
      noise: [K, V, h, w, c] standard normal.
      keep: [K, V] bool, whether the network sees the camera.
    """

    t: jax.Array
    noise: jax.Array
    keep: jax.Array


@flax.struct.dataclass(kw_only=True)
class Draw:
    """Random draws of one particle for its V views in one step.

    Attributes:
      cameras: leaves [V, ...].
      backgrounds: [V, 3].
      prompts: leaves [V, ...].
      t: [V] int32.
      noise: [V, h, w, c] standard normal.
      encode_noise: [V, h, w, c] standard normal, for the encoder.
      render_keys: [V] typed keys.
      method_keys: [V] typed keys, for what a method draws of each view.
      run_keys: [V] typed keys, one key of the particle, the same in all steps.
      stats_key: typed key, for the scene's statistics.
      score: for the training of the score network.
    """

    cameras: Camera
    backgrounds: jax.Array
    prompts: Prompts
    t: jax.Array
    noise: jax.Array
    encode_noise: jax.Array
    render_keys: jax.Array
    method_keys: jax.Array
    run_keys: jax.Array
    stats_key: jax.Array
    score: ScoreDraw


@flax.struct.dataclass(kw_only=True)
class Report:
    """Diagnostics of the update of one particle.

    Attributes:
      ok: bool, false if the update was skipped because it was not finite.
      residual_ms: [V] mean square of the residual w(t) (...).
      opacity: mean over views and pixels.
      grad_norm: Euclidean norm of the gradient in theta.
      regularizer: weighted terms, by name.
      render: the scene's own numbers (`RenderOutput.extras`), by name.
    """

    ok: jax.Array
    residual_ms: jax.Array
    opacity: jax.Array
    grad_norm: jax.Array
    regularizer: dict[str, jax.Array]
    render: dict[str, jax.Array]


@flax.struct.dataclass(kw_only=True)
class Batch:
    """One step of all particles: leaves have the leading axis m of those updated.

    Attributes:
      draw: what was drawn.
      latents: [m, V, h, w, c] encoded renders.
      report: what became of them.
    """

    draw: Draw
    latents: jax.Array
    report: Report


class Score(NamedTuple):
    """The score network phi and its training (`score_network.py`).

    Attributes:
      model: over `(score_params, prior_params)`; its context has the camera as well.
      init: `(key, prior_params) -> score_params`; reads shapes alone. key: consumed.
      tx: optimizer.
      updates: of phi in a step, each with fresh t and noise; 0 = it is not trained.
      t_range: (low, high) of its training, shares of the number of timesteps.
      camera_dropout: probability that it does not see a view's camera, in [0, 1].
      sigma_floor: see `score_network.score_errors`.
    """

    model: NoiseModel
    init: Callable[[jax.Array, PyTree], PyTree]
    tx: optax.GradientTransformation
    updates: int
    t_range: tuple[float, float]
    camera_dropout: float
    sigma_floor: float


class ViewWeights(NamedTuple):
    """Weights of the view prompts for one camera.

    Attributes:
      positive: [4] weights that sum to 1; the text is their combination.
      negative: [2] >= 0, Perp-Neg weights of front and side, or None for plain
        guidance.
      against: [4] >= 0 of sum at most 1, weights of the views that guidance moves away
        from in place of the negative prompt, or None for that alone.
      height: [3] weights of low, raised and high that sum to 1, or None if prompts have
        no words for them.
    """

    positive: jax.Array
    negative: jax.Array | None
    against: jax.Array | None = None
    height: jax.Array | None = None


class AdaptiveCamera(NamedTuple):
    """A distribution of cameras that depends on the particle (`adaptive.py`).

    Attributes:
      sample: `(key, stats) -> Camera`, of one particle's stats.
    """

    sample: Callable[[jax.Array, PyTree], Camera]


TRange = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""`(step) -> (lowest, highest)` timestep, both inclusive, int32 scalars."""


class Views(NamedTuple):
    """The distribution of one particle's views in a step (`views.py`).

    Attributes:
      sample_camera: `(key) -> Camera`, or one that adapts.
      sample_background: `(key) -> (color [3], index)`; the index selects the prompt.
      weigh_prompts: `(azimuth_deg, elevation_deg) -> ViewWeights`.
      make_t_range: `(alphas_cumprod [T]) -> TRange`.
      num: V, views of each particle in a step.
      num_backgrounds: G, that the prompts must have; 0 = not known.
    """

    sample_camera: Callable[[jax.Array], Camera] | AdaptiveCamera
    sample_background: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    weigh_prompts: Callable[[jax.Array, jax.Array], ViewWeights]
    make_t_range: Callable[[np.ndarray], TRange]
    num: int
    num_backgrounds: int = 0


Regularizer = Callable[
    [RenderOutput, jax.Array], tuple[jax.Array, dict[str, jax.Array]]
]
"""`(output of one view, step) -> (loss, metrics)`; averaged over the views."""
