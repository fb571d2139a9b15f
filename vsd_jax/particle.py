# SPDX-License-Identifier: Apache-2.0
"""The update of one particle: draw views, render, distil, step its optimizer.

Everything here is unbatched over particles; `step.py` maps it. The leading axis V is
the views of this particle in this step.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from vsd_jax import adaptive, vsd
from vsd_jax.diffusion.prompt import ViewWeights, select_context
from vsd_jax.types import Particles, Prior, PyTree, RenderOutput, Scene

Draw = dict[str, PyTree]
"""What one particle draws in one step: `cameras` (leaves [V, ...]), `backgrounds`
[V, 3], `context` (leaves [V, ...], see `prompt.select_context`), `t` [V], `noise` and
`encode_noise` [V, h, w, c], `render_keys` [V], `stats_key`, and for K steps of the
score network `score_t` [K, V], `score_noise` [K, V, h, w, c], `score_keep` [K, V]."""

TRange = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""`(step) -> (lowest, highest)` timestep, both inclusive."""

Views = Callable[[jax.Array, jax.Array], ViewWeights]
"""`(azimuth_deg, elevation_deg) -> weights` of the prompts, of one camera."""

Residual = Callable[[jax.Array, Draw, PyTree, PyTree], jax.Array]
"""`(latents, draw, score_params, prior_params) -> direction`, both [V, h, w, c]."""

Regularizer = Callable[
    [RenderOutput, jax.Array], tuple[jax.Array, dict[str, jax.Array]]
]
"""`(output of one view, step) -> (loss, metrics)`; averaged over the views."""


def no_regularizer(
    output: RenderOutput, step: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The regulariser that is zero."""
    del output, step
    return jnp.zeros(()), {}


def start_particle(
    params: PyTree, stats: PyTree, tx: optax.GradientTransformation
) -> Particles:
    """One particle (unbatched) before its first update, at theta = `params`."""
    return Particles(
        params=params,
        opt_state=tx.init(params),
        stats=stats,
        skips=jnp.zeros((), jnp.int32),
    )


def init_particle(
    scene: Scene, tx: optax.GradientTransformation, key: jax.Array
) -> Particles:
    """One particle (unbatched) as its scene draws it."""
    params = scene.init(key)
    return start_particle(params, scene.init_stats(params), tx)


def make_background_sampler(
    colors: Any, probabilities: Any
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Random-background augmentation with a fixed set of colours.

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


def make_draw(
    prior: Prior,
    *,
    sample_camera: adaptive.SampleCamera | adaptive.AdaptiveLaw,
    sample_background: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    views: Views,
    t_range: TRange,
    score_t_range: tuple[int, int],
    num_views: int,
    score_steps: int,
    camera_dropout: float,
) -> Callable[..., Draw]:
    """Makes `(key, step, contexts, stats={}) -> Draw`; arguments: `step.make_step`."""

    def draw(
        key: jax.Array, step: jax.Array, contexts: PyTree, stats: PyTree = None
    ) -> Draw:
        # Few draws, since each is slow to compile: one split for all keys, one array of
        # normal and one of uniform numbers.
        keys = jax.random.split(key, 4 + 3 * num_views)
        camera_keys, background_keys, render_keys = keys[4:].reshape(3, num_views)
        camera_law = functools.partial(adaptive.draw_camera, sample_camera, stats)
        cameras = jax.vmap(camera_law)(camera_keys)
        backgrounds, background_index = jax.vmap(sample_background)(background_keys)

        def select(azimuth: jax.Array, elevation: jax.Array, index: jax.Array):
            return select_context(contexts, views(azimuth, elevation), index)

        noise = jax.random.normal(
            keys[0], (1 + score_steps, num_views, *prior.latent_shape)
        )
        unit = jax.random.uniform(keys[1], (1 + 2 * score_steps, num_views))
        return {
            "cameras": cameras,
            "backgrounds": backgrounds,
            "context": jax.vmap(select)(
                cameras.azimuth_deg, cameras.elevation_deg, background_index
            ),
            "t": vsd.uniform_t(unit[0], t_range(step)),
            "noise": noise[0],
            "render_keys": render_keys,
            # Not drawn by the compiled program where the encoder has no use for it.
            "encode_noise": jax.random.normal(keys[2], noise.shape[1:]),
            "stats_key": keys[3],
            "score_t": vsd.uniform_t(unit[1 : 1 + score_steps], score_t_range),
            "score_noise": noise[1:],
            "score_keep": unit[1 + score_steps :] >= camera_dropout,
        }

    return draw


def take_views(draw: Draw, part: jax.Array, num_parts: int) -> Draw:
    """One of the equal parts of a draw's views, for a device that renders only these.

    Args:
      draw: of V views.
      part: scalar int32 in [0, num_parts).
      num_parts: divides V.
    """

    def take(leaf: jax.Array) -> jax.Array:
        return leaf.reshape((num_parts, -1) + leaf.shape[1:])[part]

    def take_each(leaf: jax.Array) -> jax.Array:  # of K score steps
        return leaf.reshape((leaf.shape[0], num_parts, -1) + leaf.shape[2:])[:, part]

    whole = {"stats_key": draw["stats_key"]}
    return whole | {
        name: jax.tree.map(take_each if name.startswith("score_") else take, value)
        for name, value in draw.items()
        if name not in whole
    }


def make_particle_update(
    scene: Scene,
    prior: Prior,
    *,
    residual: Residual,
    regularizer: Regularizer,
    tx: optax.GradientTransformation,
    mean_shares: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> Callable[..., tuple[Particles, PyTree, PyTree]]:
    """Makes the update of one particle (unbatched).

    Args:
      scene: the scene.
      prior: encodes the renders.
      residual: from `residuals.py`.
      regularizer: see `Regularizer`.
      tx: optimizer of the particle.
      mean_shares: mean over the devices that each render a share of its views.

    Returns:
      `(particle, draw, step, *, networks) -> (particle, latents, report)`;
      `networks` = (score_params, prior_params), latents [V, h, w, c], `report["ok"]`
      false if the update was skipped.
    """

    def loss_fn(params, stats, draw, step, *, networks):
        outputs = _render_views(scene, params, stats, draw)
        images = fit_images(outputs.rgb, prior.image_size)
        latents = prior.encode(networks[1], images, draw["encode_noise"])
        direction = residual(latents, draw, *networks)
        penalty, terms = jax.vmap(regularizer, in_axes=(0, None))(outputs, step)
        loss = vsd.surrogate_loss(latents, direction) + jnp.mean(penalty)
        return loss, (latents, direction, outputs, terms)

    def update(particle, draw, step, *, networks):
        stats = scene.update_stats(
            particle.params, particle.stats, step, draw["stats_key"]
        )
        grads, (latents, direction, outputs, terms) = jax.grad(loss_fn, has_aux=True)(
            particle.params, stats, draw, step, networks=networks
        )
        grads = mean_shares(grads)
        updates, opt_state = tx.update(grads, particle.opt_state, particle.params)
        params = optax.apply_updates(particle.params, updates)
        ok = mean_shares(all_finite((direction, grads)).astype(jnp.float32)) == 1.0
        skips = jnp.where(ok, 0, particle.skips + 1)
        params, opt_state = select_tree(
            ok, (params, opt_state), (particle.params, particle.opt_state)
        )
        residual_ms = jnp.mean(direction**2, axis=(1, 2, 3))
        stats = scene.observe(stats, draw["cameras"], draw["t"], residual_ms)
        after = Particles(params=params, opt_state=opt_state, stats=stats, skips=skips)
        report = {
            "ok": ok,
            "residual_ms": residual_ms,
            "t": draw["t"],
            "opacity": mean_shares(jnp.mean(outputs.opacity)),
            "grad_norm": global_norm(grads),
            "regularizer": jax.tree.map(jnp.mean, terms),
            "render": jax.tree.map(jnp.mean, outputs.extras),
        }
        return after, latents, report

    return update


def all_finite(tree: PyTree) -> jax.Array:
    """True if every element of every leaf is finite; true for an empty tree."""
    return jnp.array(True) & jax.tree.reduce(
        jnp.logical_and, jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree), True
    )


def select_tree(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where the scalar condition holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def global_norm(tree: PyTree) -> jax.Array:
    """Euclidean norm over all leaves; 0 for an empty tree."""
    squares = jax.tree.map(lambda leaf: jnp.sum(leaf**2), tree)
    return jnp.sqrt(jax.tree.reduce(jnp.add, squares, jnp.zeros(())))


def _render_views(scene, params, stats, draw) -> RenderOutput:
    def render(camera, background, key):
        return scene.render(params, stats, camera, background, key, train=True)

    return over_axis(render, len(draw["render_keys"]))(
        draw["cameras"], draw["backgrounds"], draw["render_keys"]
    )


def over_axis(fn: Callable, num: int) -> Callable:
    """`vmap` of `fn`, or a plain call when the mapped axis has length one.

    XLA's gathers and convolutions with a batch axis of one are slower on CPU than
    those without it, and one particle or one view is the common case.
    """
    if num != 1:
        return jax.vmap(fn)

    def single(*args):
        out = fn(*jax.tree.map(lambda leaf: leaf[0], args))
        return jax.tree.map(lambda leaf: leaf[None], out)

    return single


def fit_images(images: jax.Array, size: int) -> jax.Array:
    """Resizes [V, H, W, C] to the prior's image size if it differs.

    Bilinear with half-pixel centres; antialiased where it shrinks.
    """
    chex.assert_rank(images, 4)
    if images.shape[1:3] == (size, size):
        return images
    shape = (images.shape[0], size, size, images.shape[3])
    return jax.image.resize(images, shape, "linear")
