# SPDX-License-Identifier: Apache-2.0
"""View-dependent prompts: which text the prior and the score network see per view.

The prior sees y^c, the prompt with a view word (DreamFusion, arXiv:2209.14988, Sec. 3);
the score network sees the plain prompt y and the camera itself (arXiv:2305.16213, Sec.
3). Embedded prompts are prepared once and indexed here:

    contexts = {"text": [V, G, L, D],      the prior's prompt per view and background
                "negative": [V, G, L, D],  its negative (or empty) prompt
                "score": [V, G, L, D]}     the score network's plain prompt

with V = 4 views in the order of `VIEWS` and G backgrounds. With H words for the height
of a view, 3 H more follow: front, side and back of each height. Everything below is
unbatched: one camera.

Perp-Neg (arXiv:2304.04968): with D(y) = noise(y) - noise(unc), the prediction is

    noise(unc) + s [D(text) - sum_i w_i D_i^perp],
    D_i^perp = D(neg_i) - <D(neg_i), D(text)> / |D(text)|^2 D(text),

so a negative prompt can never cancel what the prompt itself asks for. The text is
interpolated between neighbouring views by azimuth, and the weights w_i follow it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from vsd_jax.types import PyTree

VIEWS = ("front", "side", "back", "overhead")
FRONT, SIDE, BACK, OVERHEAD = range(4)
NEGATIVE_VIEWS = (FRONT, SIDE)
"""The views that Perp-Neg pushes away from, in the order of its weights."""

Decay = tuple[float, float, float]
"""(a, b, c) of the weight a exp(-b r) + c."""


class ViewWeights(NamedTuple):
    """How one camera uses the embedded views.

    Attributes:
      positive: [V] weights that sum to 1; the text is their combination.
      negative: [2] >= 0, Perp-Neg weight of each of `NEGATIVE_VIEWS`, or None for
        plain guidance.
    """

    positive: jax.Array
    negative: jax.Array | None


def view_prompts(prompt: str, heights: Sequence[str] = ()) -> list[str]:
    """The prompt with the words of each view, e.g. "a chair, front view".

    Args:
      prompt: plain.
      heights: words for the camera's elevation: after the four views also
        "a chair, low front view" and so on, three for each word.
    """
    views = [*VIEWS, *(f"{word} {view}" for word in heights for view in VIEWS[:3])]
    return [f"{prompt}, {view} view" for view in views]


def view_index(
    azimuth_deg: jax.Array,
    elevation_deg: jax.Array,
    *,
    overhead_deg: float,
    front_half_angle_deg: float,
) -> jax.Array:
    """Index into `VIEWS` of cameras of any shape.

    Args:
      azimuth_deg: [...] any number of turns; 0 = front.
      elevation_deg: [...].
      overhead_deg: overhead above this elevation.
      front_half_angle_deg: front (back) within this angle of azimuth 0 (180).

    Returns:
      [...] int32.
    """
    from_front = _angle_from_front(azimuth_deg)
    index = jnp.where(from_front < front_half_angle_deg, FRONT, SIDE)
    index = jnp.where(from_front > 180.0 - front_half_angle_deg, BACK, index)
    return jnp.where(elevation_deg > overhead_deg, OVERHEAD, index).astype(jnp.int32)


def hard_views(
    azimuth_deg: jax.Array,
    elevation_deg: jax.Array,
    *,
    overhead_deg: float,
    front_half_angle_deg: float,
    height_limits_deg: Sequence[float] = (),
    num_heights: int = 0,
) -> ViewWeights:
    """One view per camera, with the thresholds of `view_index`.

    Args:
      azimuth_deg: scalar.
      elevation_deg: scalar.
      overhead_deg: of `view_index`.
      front_half_angle_deg: of `view_index`.
      height_limits_deg: up to which elevation each word for height but the last holds,
        rising; the last holds up to `overhead_deg`.
      num_heights: words for height; 0 = none, the four views alone.
    """
    index = view_index(
        azimuth_deg,
        elevation_deg,
        overhead_deg=overhead_deg,
        front_half_angle_deg=front_half_angle_deg,
    )
    if num_heights:
        above = [elevation_deg > limit for limit in height_limits_deg]
        height = sum(above, start=jnp.zeros((), jnp.int32))
        index = jnp.where(index == OVERHEAD, index, len(VIEWS) + 3 * height + index)
    return ViewWeights(jax.nn.one_hot(index, len(VIEWS) + 3 * num_heights), None)


def perp_neg_views(
    azimuth_deg: jax.Array,
    elevation_deg: jax.Array,
    *,
    overhead_deg: float,
    front_over_side: Decay,
    side_over_front: Decay,
    side_over_back: Decay,
    front_over_back: Decay,
) -> ViewWeights:
    """Interpolated views and Perp-Neg weights (arXiv:2304.04968, view interpolation).

    With r = 1 at the first and 0 at the second view of a pair, the weight of a negative
    view is a exp(-b r) + c, floored at 0. Between front and side the front is pushed
    away by `front_over_side` at r and the side by `side_over_front` at 1 - r; between
    side and back the side by `side_over_back` and the front by `front_over_back` at r.

    Args:
      azimuth_deg: scalar.
      elevation_deg: scalar.
      overhead_deg: above it the overhead view alone is used, without negatives.
      front_over_side: decay of the front's weight between front and side.
      side_over_front: decay of the side's weight between front and side.
      side_over_back: decay of the side's weight between side and back.
      front_over_back: decay of the front's weight between side and back.

    Returns:
      ViewWeights with `negative` [2].
    """
    chex.assert_rank([azimuth_deg, elevation_deg], 0)
    turn = _angle_from_front(azimuth_deg) / 90.0
    in_front = turn < 1.0
    share = jnp.where(in_front, 1.0 - turn, 2.0 - turn)
    zero = jnp.zeros_like(share)
    positive = jnp.where(
        in_front,
        jnp.stack([share, 1.0 - share, zero, zero]),
        jnp.stack([zero, share, 1.0 - share, zero]),
    )
    negative = jnp.where(
        in_front,
        jnp.stack([_decay(front_over_side, share), _decay(side_over_front, 1 - share)]),
        jnp.stack([_decay(front_over_back, share), _decay(side_over_back, share)]),
    )
    overhead = elevation_deg > overhead_deg
    return ViewWeights(
        jnp.where(overhead, jax.nn.one_hot(OVERHEAD, len(VIEWS)), positive),
        jnp.where(overhead, 0.0, negative),
    )


def select_context(
    contexts: PyTree, views: ViewWeights, background: jax.Array
) -> dict[str, jax.Array]:
    """The embedded prompts of one camera.

    Args:
      contexts: see the module's docstring; leaves [V, G, L, D].
      views: of this camera.
      background: scalar int32 in [0, G).

    Returns:
      `text`, `negative`, `score`, each [L, D]; with Perp-Neg also `perp_text`
      [2, L, D] and `perp_weights` [2].
    """
    here = jax.tree.map(lambda leaf: leaf[:, background], contexts)
    context = {
        name: jnp.tensordot(
            views.positive, leaf, axes=1, precision=jax.lax.Precision.HIGHEST
        )
        for name, leaf in here.items()
    }
    if views.negative is not None:
        context["perp_text"] = here["text"][jnp.array(NEGATIVE_VIEWS)]
        context["perp_weights"] = views.negative
    return context


def perp_neg(
    noise_uncond: jax.Array,
    noise_text: jax.Array,
    noise_negative: jax.Array,
    weights: jax.Array,
    *,
    scale: float | jax.Array,
) -> jax.Array:
    """Perp-Neg guidance (arXiv:2304.04968), equation in the module's docstring.

    Args:
      noise_uncond: [B, ...].
      noise_text: [B, ...].
      noise_negative: [B, M, ...].
      weights: [B, M] >= 0; all zero gives plain guidance.
      scale: s.

    Returns:
      [B, ...] guided noise prediction.
    """
    chex.assert_equal_shape([noise_uncond, noise_text])
    chex.assert_shape(weights, noise_negative.shape[:2])
    batch, num = weights.shape
    text = (noise_text - noise_uncond).reshape(batch, 1, -1)
    negative = (noise_negative - noise_uncond[:, None]).reshape(batch, num, -1)
    # With equal predictions there is no direction to be perpendicular to.
    tiny = jnp.finfo(text.dtype).tiny
    norm = jnp.maximum(jnp.sum(text**2, axis=-1, keepdims=True), tiny)
    along = jnp.sum(negative * text, axis=-1, keepdims=True) / norm
    perpendicular = negative - along * text
    push = jnp.sum(weights[..., None] * perpendicular, axis=1)
    direction = (text[:, 0] - push).reshape(noise_text.shape)
    return noise_uncond + scale * direction


def _angle_from_front(azimuth_deg: jax.Array) -> jax.Array:
    return jnp.abs(jnp.mod(azimuth_deg + 180.0, 360.0) - 180.0)


def _decay(decay: Decay, share: jax.Array) -> jax.Array:
    scale, rate, offset = decay
    return jnp.maximum(scale * jnp.exp(-rate * share) + offset, 0.0)
