# SPDX-License-Identifier: Apache-2.0
"""Regularisers of the radiance field, as pure functions that return a scalar.

Each is a mean over what it is given, without its factor (`RegularizerSpec`).
Sources: the paper's published code (entropy, opacity squared),
threestudio's ProlificDreamer settings (sparsity, opaque, z-variance), DreamFusion
(arXiv:2209.14988, orientation), HiFA (arXiv:2305.18766, z-variance).
"""

import dataclasses
from typing import Annotated

import chex
import jax
import jax.numpy as jnp
from jax import lax

from vsd_jax.spec import Within
from vsd_jax.types import Regularizer, RenderOutput


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegularizerSpec:
    """Factors of the regularisers; 0 = off.

    Attributes:
      entropy: binary entropy of the compositing weights: they become 0 or 1.
      sparsity: mean of sqrt(opacity^2 + .01): less matter.
      opaque: cross entropy of the opacity with itself: rays hit or miss; from
        `opaque_start` on.
      opaque_start: first training step of `opaque`.
      opacity_squared: mean of opacity^2.
      z_variance: variance of distance along the rays that hit: thin surfaces; from
        `z_variance_start` on.
      z_variance_start: first training step of `z_variance`.
      normal_consistency: 1 - cosine of the normals at both ends of a mesh's edges.
      laplacian: length of the uniform Laplacian at a mesh's vertices.
      orientation: normals that face away from the camera; needs normals in training.
    """

    entropy: Annotated[float, Within(0)]
    sparsity: Annotated[float, Within(0)]
    opaque: Annotated[float, Within(0)]
    opaque_start: Annotated[int, Within(0)]
    opacity_squared: Annotated[float, Within(0)]
    z_variance: Annotated[float, Within(0)]
    z_variance_start: Annotated[int, Within(0)]
    normal_consistency: Annotated[float, Within(0)]
    laplacian: Annotated[float, Within(0)]
    orientation: Annotated[float, Within(0)]


OF_RENDERER = (
    "entropy",
    "z_variance",
    "orientation",
    "normal_consistency",
    "laplacian",
)
"""Terms that a scene computes itself while it renders (`RenderOutput.extras`)."""


def make_regularizer(spec: RegularizerSpec) -> Regularizer:
    """Makes the weighted sum of the regularisers that are switched on.

    Examples:
      >>> preset = vsd.presets.toybox("a blue room", "room")
      >>> spec = preset.replace({"regularize.opacity_squared": 4.0}).regularizer
      >>> output = vsd.RenderOutput(
      ...     rgb=jnp.ones((2, 2, 3)),
      ...     opacity=jnp.full((2, 2), 0.5),
      ...     depth=jnp.ones((2, 2)),
      ...     normal=jnp.zeros((2, 2, 3)),
      ...     extras={},
      ... )
      >>> loss, terms = vsd.make_regularizer(spec)(output, jnp.int32(0))
      >>> float(loss), sorted(terms)
      (1.0, ['opacity_squared'])
    """

    def terms(output: RenderOutput, step: jax.Array) -> dict[str, jax.Array]:
        seen = {name: output.extras.get(name) for name in OF_RENDERER}
        seen["sparsity"] = sparsity(output.opacity)
        seen["opacity_squared"] = opacity_squared(output.opacity)
        on = {
            name: getattr(spec, name) * value
            for name, value in seen.items()
            if getattr(spec, name)
        }
        if spec.z_variance_start and "z_variance" in on:
            on["z_variance"] *= step >= spec.z_variance_start
        if spec.opaque:
            on["opaque"] = spec.opaque * opaque(output.opacity)
            on["opaque"] *= step >= spec.opaque_start
        return on

    def regularizer(output: RenderOutput, step: jax.Array):
        found = terms(output, step)
        return sum(found.values(), jnp.zeros(())), found

    return regularizer


def binary_entropy(weights: jax.Array, *, clamp: float = 1e-5) -> jax.Array:
    """Mean of -w log2 w - (1 - w) log2 (1 - w): weights become 0 or 1.

    Args:
      weights: [...] compositing weights in [0, 1], clamped to [clamp, 1 - clamp].
      clamp: numeric guard; no gradient beyond it.
    """
    w = jnp.clip(weights, clamp, 1 - clamp)
    return jnp.mean(-w * jnp.log2(w) - (1 - w) * jnp.log2(1 - w))


def sparsity(opacity: jax.Array) -> jax.Array:
    """Mean of sqrt(opacity^2 + .01): less matter."""
    return jnp.mean(jnp.sqrt(opacity**2 + 0.01))


def opaque(opacity: jax.Array, *, clamp: float = 1e-3) -> jax.Array:
    """Mean binary cross entropy of the opacity with itself: rays hit or miss."""
    p = jnp.clip(opacity, clamp, 1 - clamp)
    return jnp.mean(-p * jnp.log(p) - (1 - p) * jnp.log(1 - p))


def opacity_squared(opacity: jax.Array) -> jax.Array:
    """Mean of opacity^2."""
    return jnp.mean(opacity**2)


def z_variance(
    weights: jax.Array, distance: jax.Array, *, min_opacity: float = 0.5
) -> tuple[jax.Array, jax.Array]:
    """Variance of distance along the rays that hit: thin surfaces.

    Args:
      weights: [R, S].
      distance: [R, S] scene units.
      min_opacity: rays below it do not count.

    Returns:
      Sum over the rays that hit, in scene units squared, and their number, of which
      the term is the mean: also where an image is rendered in several parts.
    """
    chex.assert_equal_shape([weights, distance])
    opacity = jnp.sum(weights, axis=-1)
    hit = opacity > min_opacity
    mass = jnp.where(hit, opacity, 1)
    mean = jnp.sum(weights * distance, axis=-1) / mass
    deviation = (distance - mean[:, None]) ** 2
    variance = jnp.sum(weights * deviation, axis=-1) / mass
    return jnp.sum(jnp.where(hit, variance, 0)), jnp.sum(hit, dtype=jnp.float32)


def orientation(
    weights: jax.Array, normals: jax.Array, directions: jax.Array
) -> jax.Array:
    """Mean over rays of sum w max(0, n . d)^2: no surface faces away from the camera.

    Args:
      weights: [R, S]; held constant, as in DreamFusion.
      normals: [R, S, 3] outward.
      directions: [R, 3] unit, away from the camera.
    """
    cosine = jnp.einsum(
        "rsc,rc->rs", normals, directions, precision=lax.Precision.HIGHEST
    )
    facing_away = jnp.maximum(cosine, 0)
    return jnp.mean(jnp.sum(lax.stop_gradient(weights) * facing_away**2, axis=-1))
