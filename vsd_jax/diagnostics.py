# SPDX-License-Identifier: Apache-2.0
"""Metrics of a training step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.noise import alpha_sigma
from vsd_jax.parallel import mean_shares, sum_devices
from vsd_jax.types import Batch, NoiseModel

Metrics = dict[str, jax.Array]
NUM_TIME_BINS = 4


def quarters_of_t(
    name: str,
    squares: jax.Array,
    t: jax.Array,
    mask: jax.Array,
    *,
    num_t: int,
    axis_name: str | None,
) -> Metrics:
    """Root mean squares by quarter of [0, T): `NAME/rms_t0` ... `_t3`, 0 if empty.

    Args:
      name: first part of the metrics' names.
      squares: mean square of each view, of any shape.
      t: of the same shape, in [0, T).
      mask: of the same shape; which views count.
      num_t: T.
      axis_name: device axis, or None.

    Returns:
      With each its number of views, `NAME/count_t0` ...
    """
    chex.assert_equal_shape([squares, t, mask])
    found = {}
    for i in range(NUM_TIME_BINS):
        here = mask & (t * NUM_TIME_BINS // num_t == i)
        total = jnp.sum(jnp.where(here, squares, 0.0))
        total, count = sum_devices((total, jnp.sum(here)), axis_name)
        found[f"{name}/rms_t{i}"] = jnp.sqrt(total / jnp.maximum(count, 1))
        found[f"{name}/count_t{i}"] = count
    return found


def noise_square(
    model: NoiseModel,
    errors: jax.Array,
    t: jax.Array,
    *,
    alphas_cumprod: np.ndarray,
    sigma_floor: float,
) -> jax.Array:
    """Turns [B] of `score_network.score_errors` into mean squares of the noise's error.

    An error of v is 1 / alpha_t times one of the noise, of x_0 sigma_t / alpha_t times.
    For one particle seen by a network that knows its camera, the noise itself is the
    exact score of the renders, and this is how far the network is from it.
    """
    alpha_t, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=1)
    if model.prediction_type == "v_prediction":
        return alpha_t**2 * errors
    if model.prediction_type == "sample":
        return (alpha_t * jnp.maximum(sigma_t, sigma_floor) / sigma_t) ** 2 * errors
    return errors


def summarize(
    batch: Batch, *, num_t: int, axis_name: str | None, devices_per_particle: int = 1
) -> Metrics:
    """Summarizes a step as metrics.

    Scalars, averaged over the particles that were not skipped (0 if none is left):
    `residual/rms` root mean square of w(t) (noise_prior - noise_score) per latent
    element; `residual/rms_t0` ... `_t3` the same in quarters of [0, T), each with the
    number of views in it, `residual/count_t0` ...; `t/mean`; `opacity`;
    `particle_grad_norm`; `regularizer/...`, `render/...` as scene and regulariser name
    them; `skipped`, how many particles kept their parameters.
    Per particle, [m]: `particle/skipped`, `particle/residual_rms`, `particle/opacity`,
    `particle/grad_norm`. The step adds `particle/index` and `particle/restarted`.

    Args:
      batch: of all particles that were updated.
      num_t: T.
      axis_name: device axis, or None.
      devices_per_particle: devices that each hold a share of a particle's views.
    """
    report, t = batch.report, batch.draw.t
    ok = report.ok
    valid = jnp.broadcast_to(ok[:, None], t.shape)

    def mean(values, mask):
        chex.assert_equal_shape([values, mask])
        total = jnp.sum(jnp.where(mask, values, 0.0))
        total, count = sum_devices((total, jnp.sum(mask)), axis_name)
        return total / jnp.maximum(count, 1), count

    residual_ms = report.residual_ms
    metrics = {
        "residual/rms": jnp.sqrt(mean(residual_ms, valid)[0]),
        "t/mean": mean(t, valid)[0],
    }
    metrics |= quarters_of_t(
        "residual", residual_ms, t, valid, num_t=num_t, axis_name=axis_name
    )
    metrics["opacity"] = mean(report.opacity, ok)[0]
    metrics["particle_grad_norm"] = mean(report.grad_norm, ok)[0]
    metrics["skipped"] = sum_devices(jnp.sum(~ok), axis_name) // devices_per_particle
    groups = {"regularizer": report.regularizer, "render": report.render}
    for group, numbers in groups.items():
        for name, values in numbers.items():
            metrics[f"{group}/{name}"] = mean(values, ok)[0]
    return metrics | {
        "particle/skipped": (~ok).astype(jnp.int32),
        "particle/residual_rms": jnp.sqrt(
            mean_shares(jnp.mean(residual_ms, axis=1), devices_per_particle, axis_name)
        ),
        "particle/opacity": report.opacity,
        "particle/grad_norm": report.grad_norm,
    }
