# SPDX-License-Identifier: Apache-2.0
"""Importance sampling of cameras: views whose residual is large are drawn more often.

The paper names as a limit that its cameras ignore the scene's structure
(arXiv:2305.16213, limitations). Here some cameras are drawn from the distribution that
was asked for, and one of them is kept with a probability in proportion to its interest
I:

    P(c_k) = I(c_k) / sum_j I(c_j),   k = 1 ... K

which tends to the distribution p(c) I(c) as K grows. The interest: where the residual
of this particle has been large. (How far a camera sees was measured too, and made rooms
worse: `docs/experiments/adaptive.md`.)

An `AdaptiveCamera` stands in the place of a plain `(key) -> Camera`. What a scene has
learned of its views is a part of the particle's stats (`Scene.observe`).
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from vsd_jax.spec import OneOf, Within
from vsd_jax.types import AdaptiveCamera, Camera, PyTree, Scene

AZIMUTHS, ELEVATIONS = 8, 3
"""Bins of directions, the heights evenly in area."""
RATE = 0.1
"""Of the running means: about ten observations of a bin count."""
_MEMORY = "views"
_T_WIDTH, _T_BINS = 100, 10  # timesteps of a bin; the last one has what is left

SampleCamera = Callable[[jax.Array], Camera]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptSpec:
    """Importance sampling of cameras.

    Attributes:
      adapt: what cameras follow: "residual", where the particle's residual has been
        large, or "", nothing, as in the paper.
      adapt_candidates: K, cameras that are drawn and of which one is kept.
    """

    adapt: Annotated[str, OneOf(("", "residual"))]
    adapt_candidates: Annotated[int, Within(1, 64)]


def make_camera(
    sample_camera: SampleCamera, spec: AdaptSpec
) -> SampleCamera | AdaptiveCamera:
    """Makes the distribution of cameras importance-sampled if `spec` says so."""
    if spec.adapt == "residual":
        return by_residual(sample_camera, num_candidates=spec.adapt_candidates)
    return sample_camera


def draw_camera(
    sample_camera: SampleCamera | AdaptiveCamera, stats: PyTree, key: jax.Array
) -> Camera:
    """Draws a camera for a particle with these stats. key: consumed."""
    if isinstance(sample_camera, AdaptiveCamera):
        return sample_camera.sample(key, stats)
    return sample_camera(key)


def choose(
    key: jax.Array,
    sample_camera: SampleCamera,
    interest: Callable[[Camera], jax.Array],
    num_candidates: int,
) -> Camera:
    """Resamples one of `num_candidates` cameras by their interest. key: consumed.

    Args:
      key: typed key.
      sample_camera: the distribution of the candidates.
      interest: of one camera, a scalar >= 0; if all are 0, each is as likely.
      num_candidates: K >= 1; with 1 the distribution stays as it is.
    """
    draw_key, choice_key = jax.random.split(key)
    cameras = jax.vmap(sample_camera)(jax.random.split(draw_key, num_candidates))
    found = jax.vmap(interest)(cameras)
    log_interest = jnp.log(jnp.maximum(found, jnp.finfo(found.dtype).tiny))
    index = jax.random.categorical(choice_key, log_interest)
    return jax.tree.map(lambda leaf: leaf[index], cameras)


def by_residual(sample_camera: SampleCamera, *, num_candidates: int) -> AdaptiveCamera:
    """Draws cameras in proportion to the past residual of their direction.

    Interest: what the scene remembers of the bin of the direction in which the camera
    stands (its back). Needs `remember_views`.

    Args:
      sample_camera: the distribution of the candidates.
      num_candidates: see `choose`.
    """

    def sample(key, stats):
        table = stats[_MEMORY]["by_direction"]
        return choose(
            key,
            sample_camera,
            lambda camera: table[direction_bin(camera)],
            num_candidates,
        )

    return AdaptiveCamera(sample)


def direction_bin(camera: Camera) -> jax.Array:
    """Index of the bin of a camera's azimuth and elevation."""
    turn = jnp.mod(camera.azimuth_deg, 360.0) / 360.0
    height = 0.5 + 0.5 * jnp.sin(jnp.deg2rad(camera.elevation_deg))
    column = jnp.minimum((turn * AZIMUTHS).astype(jnp.int32), AZIMUTHS - 1)
    row = jnp.minimum((height * ELEVATIONS).astype(jnp.int32), ELEVATIONS - 1)
    return row * AZIMUTHS + column


def remember_views(scene: Scene) -> Scene:
    """Wraps a scene so that its stats track the residual by camera direction.

    How large it is depends on t more than on anything else: what counts is its ratio to
    the running mean at such t, and what is kept is that ratio's running mean for each
    bin of directions.
    """

    def init_stats(params):
        memory = {
            "by_t": jnp.zeros(_T_BINS),
            "by_direction": jnp.ones(AZIMUTHS * ELEVATIONS),
        }
        return {**scene.init_stats(params), _MEMORY: memory}

    def update_stats(params, stats, turn, key):
        new = scene.update_stats(params, _own(stats), turn, key)
        return {**new, _MEMORY: stats[_MEMORY]}

    def render(params, stats, *args, **kwargs):
        return scene.render(params, _own(stats), *args, **kwargs)

    def observe(stats, cameras, t, residual_ms):
        seen = (direction_bin(cameras), t, residual_ms)
        memory, _ = jax.lax.scan(_learn, stats[_MEMORY], seen)
        return {**stats, _MEMORY: memory}

    return Scene(scene.init, render, init_stats, update_stats, observe)


def _own(stats: PyTree) -> PyTree:
    return {name: leaf for name, leaf in stats.items() if name != _MEMORY}


def _learn(memory, view):
    direction, t, residual_ms = view
    level = jnp.minimum(t // _T_WIDTH, _T_BINS - 1)
    usual = memory["by_t"][level]
    usual = jnp.where(usual > 0, usual, residual_ms)
    ratio = residual_ms / jnp.maximum(usual, jnp.finfo(usual.dtype).tiny)
    mean = memory["by_direction"][direction]
    new = {
        "by_t": memory["by_t"].at[level].set(usual + RATE * (residual_ms - usual)),
        "by_direction": memory["by_direction"]
        .at[direction]
        .set(mean + RATE * (ratio - mean)),
    }
    # A step that is not finite is skipped as a whole; so is what it would teach.
    finite = jnp.isfinite(residual_ms)
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, memory), None
