# SPDX-License-Identifier: Apache-2.0
"""The views of one particle in a step: cameras, backgrounds, prompts and timesteps.

Everything here is unbatched over particles; the leading axis V is the views.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax import adaptive
from vsd_jax.adaptive import AdaptSpec
from vsd_jax.diffusion.prompt import ViewPromptSpec, make_view_weights, select_prompts
from vsd_jax.scene.camera import CameraSpec, make_camera_sampler
from vsd_jax.score_network import camera_vector
from vsd_jax.spec import Within
from vsd_jax.timesteps import TimestepSpec, make_t_range, shares_to_range, uniform_t
from vsd_jax.types import Draw, Prior, Prompts, PyTree, Score, ScoreDraw, Views

ENVIRONMENT = (-1.0, -1.0, -1.0)
"""Background colour that selects a scene's learned environment (`scene/nerf/`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackgroundSpec:
    """Random-background augmentation with a fixed set of colours.

    Attributes:
      environment_share: probability of the scene's learned environment.
      background_colors: (r, g, b) in [0, 1] of each plain background.
      background_words: text appended to the prompt for each of these colours.
      background_shares: probabilities of these colours, sum 1.
    """

    environment_share: Annotated[float, Within(0, 1)]
    background_colors: tuple[tuple[float, float, float], ...]
    background_words: tuple[str, ...]
    background_shares: tuple[float, ...]

    def table(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Returns colours [G, 3], probabilities [G] and words with probability > 0."""
        share = self.environment_share
        colors = [*self.background_colors, ENVIRONMENT]
        shares = [*((1 - share) * np.asarray(self.background_shares)), share]
        words = [*self.background_words, ""]
        keep = [i for i, probability in enumerate(shares) if probability > 0]
        chosen = np.asarray(shares, np.float32)[keep]
        return (
            np.asarray(colors, np.float32)[keep],
            chosen / chosen.sum(),
            [words[i] for i in keep],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewsSpec:
    """The distribution of views.

    Attributes:
      camera: distribution of cameras.
      adapt: whether it follows the particle's residual.
      background: what is behind the scene.
      prompts: which prompt goes with a camera.
      timesteps: schedule of t.
      views_per_step: V, views of each particle in a step.
    """

    camera: CameraSpec
    adapt: AdaptSpec
    background: BackgroundSpec
    prompts: ViewPromptSpec
    timesteps: TimestepSpec
    views_per_step: Annotated[int, Within(1, 1024)]


def make_views(spec: ViewsSpec) -> Views:
    """Makes the distribution of views that `spec` describes.

    Examples:
      >>> views = vsd.views(vsd.presets.toybox("a red mushroom").views)
      >>> views.num, views.sample_camera(jax.random.key(0)).cam_to_world.shape
      (2, (4, 4))
    """
    colors, shares, _ = spec.background.table()
    return Views(
        sample_camera=adaptive.make_camera(
            make_camera_sampler(spec.camera), spec.adapt
        ),
        sample_background=make_background_sampler(colors, shares),
        weigh_prompts=make_view_weights(spec.prompts),
        make_t_range=functools.partial(make_t_range, spec.timesteps),
        num=spec.views_per_step,
        num_backgrounds=len(shares),
    )


def make_background_sampler(
    colors: Any, probabilities: Any
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Makes a categorical distribution of background colours.

    Args:
      colors: [G, 3] in [0, 1].
      probabilities: [G], sum 1.

    Returns:
      `(key) -> (color [3], index int32)`; the index selects the matching prompt.

    Raises:
      ValueError: if the two do not fit together.
    """
    colors, probabilities = jnp.asarray(colors), jnp.asarray(probabilities)
    if colors.shape != (*probabilities.shape, 3):
        raise ValueError(
            f"Backgrounds {colors.shape} and probabilities {probabilities.shape} do "
            "not fit: [G, 3] and [G] are needed."
        )

    def sample(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        index = jax.random.choice(key, colors.shape[0], (), p=probabilities)
        return colors[index], index.astype(jnp.int32)

    return sample


def make_draw(prior: Prior, score: Score | None, views: Views) -> Callable[..., Draw]:
    """Makes the sampler `(key, step, prompts, stats={}, run_key=None) -> Draw`.

    It is of one particle; `run_key` is its own, the same in all steps (None = `key`).

    Raises:
      ValueError: if there is no view, or the score network's numbers are out of range.
    """
    _check(score, views)
    num_t = len(prior.alphas_cumprod)
    t_range = views.make_t_range(prior.alphas_cumprod)
    # Without a score network as with one update: its numbers are drawn and dropped, so
    # that SDS and VSD see the same cameras and noise.
    updates = max(score.updates, 1) if score else 1
    score_t_range = shares_to_range(score.t_range if score else (0.0, 1.0), num_t)
    dropout = score.camera_dropout if score else 0.0

    def draw(
        key: jax.Array,
        step: jax.Array,
        prompts: Prompts,
        stats: PyTree = None,
        run_key: jax.Array | None = None,
    ) -> Draw:
        _check_prompts(prompts, views.num_backgrounds)
        # Few draws, since each is slow to compile: one split for all keys, one array of
        # normal and one of uniform numbers.
        keys = jax.random.split(key, 4 + 4 * views.num)
        camera_keys, background_keys, render_keys, method_keys = keys[4:].reshape(
            4, views.num
        )
        sample_camera = functools.partial(
            adaptive.draw_camera, views.sample_camera, stats
        )
        cameras = jax.vmap(sample_camera)(camera_keys)
        backgrounds, index = jax.vmap(views.sample_background)(background_keys)
        noise = jax.random.normal(
            keys[0], (1 + updates, views.num, *prior.latent_shape)
        )
        unit = jax.random.uniform(keys[1], (1 + 2 * updates, views.num))

        def select(azimuth: jax.Array, elevation: jax.Array, background: jax.Array):
            weights = views.weigh_prompts(azimuth, elevation)
            return select_prompts(prompts, weights, background)

        chosen = jax.vmap(select)(cameras.azimuth_deg, cameras.elevation_deg, index)
        if prior.reads_camera:
            told = jnp.ones(views.num, bool)
            chosen["camera"] = camera_vector(cameras.cam_to_world, told)
        return Draw(
            cameras=cameras,
            backgrounds=backgrounds,
            prompts=chosen,
            t=uniform_t(unit[0], t_range(step)),
            noise=noise[0],
            render_keys=render_keys,
            # Not drawn by the compiled program where the encoder has no use for it.
            encode_noise=jax.random.normal(keys[2], noise.shape[1:]),
            method_keys=method_keys,
            run_keys=jnp.broadcast_to(key if run_key is None else run_key, views.num),
            stats_key=keys[3],
            score=ScoreDraw(
                t=uniform_t(unit[1 : 1 + updates], score_t_range),
                noise=noise[1:],
                keep=unit[1 + updates :] >= dropout,
            ),
        )

    return draw


def _check(score: Score | None, views: Views) -> None:
    if views.num < 1:
        raise ValueError(f"A step needs at least one view, not {views.num}.")
    if score and not 0.0 <= score.camera_dropout <= 1.0:
        raise ValueError(
            f"camera_dropout must be in [0, 1], not {score.camera_dropout}."
        )


def _check_prompts(prompts: Prompts, num_backgrounds: int) -> None:
    """Each background has prompts of its own, or a wrong one would be read for it."""
    found = prompts["text"].shape[1]
    if num_backgrounds not in (0, found):
        raise ValueError(
            f"The prompts are of {found} backgrounds, the views draw {num_backgrounds}:"
            " encode_prompts and views take the same preset."
        )


def take_views(draw: Draw, part: jax.Array, num_parts: int) -> Draw:
    """One of the equal parts of a draw's views, for a device that renders only these.

    Args:
      draw: of V views.
      part: scalar int32 in [0, num_parts).
      num_parts: divides V.
    """

    def take(leaf: jax.Array) -> jax.Array:
        return leaf.reshape((num_parts, -1) + leaf.shape[1:])[part]

    def take_each(leaf: jax.Array) -> jax.Array:  # of K updates
        return leaf.reshape((leaf.shape[0], num_parts, -1) + leaf.shape[2:])[:, part]

    views = jax.tree.map(take, draw.replace(stats_key=None, score=None))
    score = jax.tree.map(take_each, draw.score)
    return views.replace(stats_key=draw.stats_key, score=score)
