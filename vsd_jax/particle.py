# SPDX-License-Identifier: Apache-2.0
"""The update of one particle: render, distil, step its optimizer.

Everything here is unbatched over particles; `distil.py` maps it. The leading axis V is
the views of this particle in this step.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import chex
import jax
import jax.numpy as jnp
import optax

from vsd_jax.methods import Residual
from vsd_jax.spec import Within
from vsd_jax.trees import (
    all_finite,
    global_norm,
    over_axis,
    select_tree,
    without_weak_types,
)
from vsd_jax.types import (
    Draw,
    Particles,
    Prior,
    PyTree,
    Regularizer,
    RenderOutput,
    Report,
    Scene,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimSpec:
    """Adam for theta, with a learning rate for each part of it.

    Attributes:
      table_lr: learning rate of the hash grid's table.
      decoder_lr: learning rate of the field's decoder.
      environment_lr: learning rate of the learned background.
      sdf_lr: learning rate of signed distances.
      offset_lr: learning rate of the moves of grid vertices.
      image_lr: learning rate of pixels, where theta is an image or latent.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      tiny: Adam's epsilon.
      decay: share of a particle's updates, at their end, over which all rates fall
        linearly to 0; 0 = constant rates.
      num_updates: of each particle; read where the rates decay.
    """

    table_lr: Annotated[float, Within(0, 10)]
    decoder_lr: Annotated[float, Within(0, 10)]
    environment_lr: Annotated[float, Within(0, 10)]
    sdf_lr: Annotated[float, Within(0, 10)]
    offset_lr: Annotated[float, Within(0, 10)]
    image_lr: Annotated[float, Within(0, 10)]
    b1: Annotated[float, Within(0, 1)]
    b2: Annotated[float, Within(0, 1)]
    tiny: Annotated[float, Within(0, 1)]
    decay: Annotated[float, Within(0, 1)]
    num_updates: Annotated[int, Within(1)]


def particle_optimizer(spec: OptimSpec) -> optax.GradientTransformation:
    """Makes Adam with a learning rate for each part of theta (a dict of parts)."""
    rates = {
        "table": spec.table_lr,
        "decoder": spec.decoder_lr,
        "environment": spec.environment_lr,
        "pixels": spec.image_lr,
        "sdf": spec.sdf_lr,
        "offsets": spec.offset_lr,
    }

    falling = round(spec.decay * spec.num_updates)

    def adam(rate: float) -> optax.GradientTransformation:
        if falling:
            rate = optax.linear_schedule(rate, 0.0, falling, spec.num_updates - falling)
        return optax.adam(rate, b1=spec.b1, b2=spec.b2, eps=spec.tiny)

    def label(params: PyTree) -> PyTree:
        return {
            part: jax.tree.map(lambda _, part=part: part, tree)
            for part, tree in params.items()
        }

    return optax.multi_transform({k: adam(rate) for k, rate in rates.items()}, label)


def no_regularizer(
    output: RenderOutput, step: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns zero: no regularisation."""
    del output, step
    return jnp.zeros(()), {}


def start_particle(
    params: PyTree, stats: PyTree, tx: optax.GradientTransformation
) -> Particles:
    """Makes the state of one particle (unbatched) at theta = `params`."""
    params, stats = without_weak_types((params, stats))
    return Particles(
        params=params,
        opt_state=tx.init(params),
        stats=stats,
        skips=jnp.zeros((), jnp.int32),
    )


def init_particle(
    scene: Scene, tx: optax.GradientTransformation, key: jax.Array
) -> Particles:
    """Draws one particle (unbatched) from its scene's initialisation."""
    params = scene.init(key)
    return start_particle(params, scene.init_stats(params), tx)


def surrogate_loss(latents: jax.Array, residual: jax.Array) -> jax.Array:
    """Returns a scalar whose gradient with respect to the latents is residual / B.

    sum(latents * stop_gradient(residual)) / B; its value has no meaning.

    Args:
      latents: [B, h, w, c], differentiable.
      residual: [B, h, w, c].

    Returns:
      Scalar.
    """
    chex.assert_equal_shape([latents, residual])
    return jnp.sum(latents * jax.lax.stop_gradient(residual)) / latents.shape[0]


def refresh(
    scene: Scene, particle: Particles, turn: jax.Array, key: jax.Array
) -> Particles:
    """The particle (unbatched) with its scene's statistics brought up to date.

    Args:
      scene: the scene.
      particle: one particle.
      turn: scalar int32, about how often it has been moved; the same for all particles
        that are updated in a step, so that one branch runs under `vmap`.
      key: typed key.
    """
    stats = scene.update_stats(particle.params, particle.stats, turn, key)
    return particle.replace(stats=stats)


ParticleUpdate = Callable[
    [Particles, Draw, jax.Array, PyTree, PyTree], tuple[Particles, jax.Array, Report]
]


def make_particle_update(
    scene: Scene,
    prior: Prior,
    residual: Residual,
    *,
    regularizer: Regularizer,
    tx: optax.GradientTransformation,
    mean_shares: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> ParticleUpdate:
    """Makes the update of one particle (unbatched).

    Args:
      scene: the scene.
      prior: encodes the renders.
      residual: a method bound to its networks (`methods.bind`).
      regularizer: see `types.Regularizer`.
      tx: optimizer of the particle.
      mean_shares: mean over the devices that each render a share of its views.

    Returns:
      `(particle, draw, step, score_params, prior_params) -> (particle, latents [V, h,
      w, c], report)`; the statistics are those that it is given (`refresh`).
    """

    def loss_fn(params, stats, draw, step, networks):
        score_params, prior_params = networks
        outputs = _render_views(scene, params, stats, draw)
        images = fit_images(outputs.rgb, prior.image_size)
        latents = prior.encode(prior_params, images, draw.encode_noise)
        direction = residual(latents, draw, score_params, prior_params)
        penalty, terms = jax.vmap(regularizer, in_axes=(0, None))(outputs, step)
        loss = surrogate_loss(latents, direction) + jnp.mean(penalty)
        return loss, (latents, direction, outputs, terms)

    def update(particle, draw, step, score_params, prior_params):
        stats = particle.stats
        networks = (score_params, prior_params)
        grads, (latents, direction, outputs, terms) = jax.grad(loss_fn, has_aux=True)(
            particle.params, stats, draw, step, networks
        )
        grads = mean_shares(grads)
        updates, opt_state = tx.update(grads, particle.opt_state, particle.params)
        params = optax.apply_updates(particle.params, updates)
        # Squares that overflow would stand in Adam's second moment for ever.
        grad_norm = global_norm(grads)
        ok = all_finite((direction, grad_norm)).astype(jnp.float32)
        ok = mean_shares(ok) == 1.0
        skips = jnp.where(ok, 0, particle.skips + 1)
        params, opt_state = select_tree(
            ok, (params, opt_state), (particle.params, particle.opt_state)
        )
        residual_ms = jnp.mean(direction**2, axis=(1, 2, 3))
        learned = scene.observe(stats, draw.cameras, draw.t, residual_ms)
        stats = select_tree(ok, learned, stats)
        after = Particles(params=params, opt_state=opt_state, stats=stats, skips=skips)
        report = Report(
            ok=ok,
            residual_ms=residual_ms,
            opacity=mean_shares(jnp.mean(outputs.opacity)),
            grad_norm=grad_norm,
            regularizer=jax.tree.map(jnp.mean, terms),
            render=jax.tree.map(jnp.mean, outputs.extras),
        )
        return after, latents, report

    return update


def _render_views(scene, params, stats, draw: Draw) -> RenderOutput:
    def render(camera, background, key):
        return scene.render(params, stats, camera, background, key, train=True)

    return over_axis(render, len(draw.render_keys))(
        draw.cameras, draw.backgrounds, draw.render_keys
    )


def fit_images(images: jax.Array, size: int) -> jax.Array:
    """Resizes [V, H, W, C] to the prior's image size if it differs.

    Bilinear with half-pixel centres; antialiased where it shrinks.
    """
    chex.assert_rank(images, 4)
    if images.shape[1:3] == (size, size):
        return images
    shape = (images.shape[0], size, size, images.shape[3])
    return jax.image.resize(images, shape, "linear")
