# SPDX-License-Identifier: Apache-2.0
"""Training of the shared score network phi on the renders of one step.

No gradient reaches the particles from here, and none reaches phi from theirs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vsd_jax import vsd
from vsd_jax.diagnostics import Metrics
from vsd_jax.parallel import sum_devices
from vsd_jax.particle import global_norm, select_tree
from vsd_jax.types import NoiseModel, Prior, PyTree, ScoreState


def score_optimizer(
    *,
    learning_rate: float,
    warmup_steps: int,
    b1: float,
    b2: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) with linear warm-up to a constant learning rate.

    Its moments are one vector each: hundreds of small LoRA matrices would each have
    loops of their own to compile and to read from the cache (docs/performance.md).
    """

    def schedule(count: jax.Array) -> jax.Array:
        return learning_rate * jnp.minimum(1.0, (count + 1) / max(warmup_steps, 1))

    adamw = optax.flatten(
        optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay)
    )

    def init(params: PyTree) -> PyTree:
        # SDS has no phi, and nothing cannot be flattened.
        return adamw.init(params) if jax.tree.leaves(params) else ()

    return optax.GradientTransformation(init, adamw.update)


def make_score_update(
    score: NoiseModel | None,
    prior: Prior,
    *,
    tx: optax.GradientTransformation,
    sigma_floor: float,
    axis_name: str | None,
) -> Callable[[ScoreState, PyTree, PyTree], tuple[ScoreState, Metrics]]:
    """Makes the training of the score network on the renders of one step.

    phi <- phi - eta grad E |noise_score(x_t, t, c, y) - noise|^2 over all particles and
    views (arXiv:2305.16213, Sec. 3.2), once per entry of `score_t`. No gradient reaches
    the particles. A step whose gradient is not finite is skipped and counted.

    Args:
      score: the score network; None (SDS) leaves its state alone.
      prior: gives the noise process.
      tx: optimizer.
      sigma_floor: see `vsd.score_errors`.
      axis_name: device axis to sum gradients over, or None.

    Returns:
      `(score_state, batch, prior_params) -> (score_state, metrics)`; leaves of the
      batch are [m, ...], see `particle.Draw`.
    """
    if score is None:
        return lambda state, batch, prior_params: (state, {})

    def loss_fn(params, prior_params, views, draw, keep):
        camera = vsd.camera_vector(views["cam_to_world"], keep)
        errors = vsd.score_errors(
            score,
            (params, prior_params),
            views["latents"],
            draw,
            {"text": views["text"], "camera": camera},
            alphas_cumprod=prior.alphas_cumprod,
            sigma_floor=sigma_floor,
        )
        return jnp.sum(errors * views["weight"])

    def update_once(state, prior_params, views, draw, keep):
        loss, grads = jax.value_and_grad(loss_fn)(
            state.params, prior_params, views, draw, keep
        )
        loss, grads = sum_devices((loss, grads), axis_name)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norm = global_norm(grads)  # not finite as soon as one entry is not
        ok = jnp.isfinite(norm) & views["any"]
        after = ScoreState(params=params, opt_state=opt_state)
        return select_tree(ok, after, state), (loss, norm, ~ok)

    def update(state, batch, prior_params):
        views = _score_views(batch, axis_name)
        reports = []
        for k in range(batch["score_t"].shape[1]):
            draw = {"t": batch["score_t"][:, k], "noise": batch["score_noise"][:, k]}
            draw, keep = _merge_axes((draw, batch["score_keep"][:, k]))
            state, report = update_once(state, prior_params, views, draw, keep)
            reports.append(report)
        loss, norm, skipped = (
            jnp.stack(values) for values in zip(*reports, strict=True)
        )
        return state, {
            "score/loss": jnp.mean(loss),
            "score/grad_norm": jnp.mean(norm),
            "score/skipped": jnp.sum(skipped),
        }

    return update


def _score_views(batch: PyTree, axis_name: str | None) -> PyTree:
    """The renders as one batch [m * V, ...]; weights sum to 1 over all devices.

    The latents of a skipped particle are replaced by zeros before the network sees
    them: a zero weight alone would not stop a NaN.
    """
    valid = jnp.broadcast_to(batch["ok"][:, None], batch["t"].shape)
    views = {
        "latents": jnp.where(valid[..., None, None, None], batch["latents"], 0.0),
        "text": batch["context"]["score"],
        "cam_to_world": batch["cameras"].cam_to_world,
        "weight": valid.astype(jnp.float32),
    }
    views = _merge_axes(views)
    count = sum_devices(jnp.sum(views["weight"]), axis_name)
    views["weight"] = views["weight"] / jnp.maximum(count, 1.0)
    return {**views, "any": count > 0}


def _merge_axes(tree: PyTree) -> PyTree:
    """[m, V, ...] -> [m * V, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape((-1,) + leaf.shape[2:]), tree)
