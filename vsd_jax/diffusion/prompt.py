# SPDX-License-Identifier: Apache-2.0
"""View-dependent prompts: which text the prior and the score network see per view.

The prior sees y^c, the prompt with a view word (DreamFusion, arXiv:2209.14988, Sec. 3);
the score network sees the plain prompt y and the camera itself (arXiv:2305.16213, Sec.
3). Embedded prompts are prepared once and indexed here:

    prompts = {"text": [V, G, L, D],      the prior's prompt per view and background
                "negative": [V, G, L, D],  its negative (or empty) prompt
                "score": [V, G, L, D]}     the score network's plain prompt

with V views and G backgrounds. The views are the four of `VIEWS`, in this order; or,
with words for the height, the first three of them at each of `HEIGHTS`, and overhead:
ten. Everything below is unbatched: one camera.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Annotated

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.guidance import WORDS
from vsd_jax.spec import Within
from vsd_jax.types import Prompts, ViewWeights

VIEWS = ("front", "side", "back", "overhead")
FRONT, SIDE, BACK, OVERHEAD = range(4)
HEIGHTS = ("low", "raised", "high")  # of a camera that is not overhead
NEGATIVE_VIEWS = (FRONT, SIDE)
"""The views that Perp-Neg pushes away from, in the order of its weights."""

NEVER_DEG = -90.0
"""`not_overhead_deg` that switches it off: no camera is lower."""
NOT_OVERHEAD_WIDTH_DEG = 4.0
"""Half the degrees over which the weight falls from .73 to .27."""

Decay = tuple[float, float, float]
"""(a, b, c) of the weight a exp(-b r) + c."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """The texts of a run.

    Attributes:
      prompt: text of what to make.
      prompt_prefix: text before the prompt that tells the networks what kind of picture
        it is.
      negative_prompt: text that guidance moves away from.
      view_prompts: whether the prior's text names the view (", front view").
      height_prompts: whether it names the height of the camera too (", low front
        view"), which the overhead view has not.
      background_words: appended for each background that can be drawn (G of them).
      source_words: text that describes how the renders look at present, appended to the
        prompt of `source` (method "bridge").
      score_prompt: whether the score network reads the plain prompt, or no text.
    """

    prompt: str
    prompt_prefix: str
    negative_prompt: str
    view_prompts: bool
    height_prompts: bool
    background_words: tuple[str, ...]
    source_words: str
    score_prompt: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewPromptSpec:
    """Which prompt goes with a camera.

    Attributes:
      overhead_deg: elevation above which the view counts as overhead, degrees.
      front_half_angle_deg: half the width of the front and of the back view, degrees.
      height_prompts: as of `PromptSpec`.
      height_limits_deg: elevations between low, raised and high, degrees.
      not_overhead_deg: elevation below which guidance moves away from the prompt of
        the overhead view, not from the negative prompt, degrees; -90 = never. For
        priors whose words for views do not tell a low camera from a high one. Of no
        effect at a scale of 1 and on csd, nfsd and bridge.
      perp_neg: Perp-Neg with interpolated views (arXiv:2304.04968); else one view each.
      front_over_side: (a, b, c) of Perp-Neg's weight a exp(-b r) + c of the front view
        between front and side, see `perp_neg_views`.
      side_over_front: (a, b, c) for the side view between front and side.
      side_over_back: (a, b, c) for the side view between side and back.
      front_over_back: (a, b, c) for the front view between side and back.
    """

    overhead_deg: Annotated[float, Within(0, 90)]
    front_half_angle_deg: Annotated[float, Within(0, 90)]
    height_prompts: bool
    height_limits_deg: Annotated[tuple[float, float], Within(-90, 90)]
    not_overhead_deg: Annotated[float, Within(-90, 90)]
    perp_neg: bool
    front_over_side: Decay
    side_over_front: Decay
    side_over_back: Decay
    front_over_back: Decay


def make_view_weights(
    spec: ViewPromptSpec,
) -> Callable[[jax.Array, jax.Array], ViewWeights]:
    """`(azimuth_deg, elevation_deg) -> ViewWeights` of one camera."""
    if spec.perp_neg:
        weigh = functools.partial(
            perp_neg_views,
            overhead_deg=spec.overhead_deg,
            front_over_side=spec.front_over_side,
            side_over_front=spec.side_over_front,
            side_over_back=spec.side_over_back,
            front_over_back=spec.front_over_back,
        )
    else:
        weigh = functools.partial(
            hard_views,
            overhead_deg=spec.overhead_deg,
            front_half_angle_deg=spec.front_half_angle_deg,
        )

    def weigh_all(azimuth_deg: jax.Array, elevation_deg: jax.Array) -> ViewWeights:
        views = weigh(azimuth_deg, elevation_deg)
        if spec.not_overhead_deg != NEVER_DEG:
            against = not_overhead(elevation_deg, below_deg=spec.not_overhead_deg)
            views = views._replace(against=against)
        if spec.height_prompts:
            index = height_index(elevation_deg, spec.height_limits_deg)
            views = views._replace(height=jax.nn.one_hot(index, len(HEIGHTS)))
        return views

    return weigh_all


def prompt_texts(
    spec: PromptSpec, *, extra: Sequence[str] = ()
) -> dict[str, list[list[str]]]:
    """Writes the texts of `Prompts`, by name: rows are views, columns backgrounds.

    Args:
      spec: the texts.
      extra: of "empty" and "source", those that the method asks for.

    Raises:
      ValueError: for other names in `extra`.
    """
    words = spec.background_words
    wanted = spec.prompt_prefix + spec.prompt
    seen = view_prompts(wanted, heights=spec.height_prompts)
    plain = [wanted] * len(seen)

    def table(texts: Sequence[str]) -> list[list[str]]:
        return [[text + word for word in words] for text in texts]

    nothing = [[""] * len(words)] * len(plain)
    found = {
        "text": table(seen if spec.view_prompts else plain),
        "score": table(plain) if spec.score_prompt else nothing,
        "negative": [[spec.negative_prompt] * len(words)] * len(plain),
        "empty": nothing,
        "source": table([text + spec.source_words for text in plain]),
    }
    if set(extra) - found.keys():  # a string is no tuple of names
        raise ValueError(f"extra={extra!r} may hold 'empty' and 'source', as a tuple.")
    return {name: found[name] for name in ("text", "score", "negative", *extra)}


def encode_prompts(
    encode: Callable[[Sequence[str]], np.ndarray],
    spec: PromptSpec,
    *,
    extra: Sequence[str] = (),
) -> Prompts:
    """Embeds the texts of a run, each different text once.

    Args:
      encode: `(texts) -> [N, L, D]` float32.
      spec: the texts.
      extra: see `prompt_texts`; `Method.texts` says what a method needs.

    Returns:
      Prompts with leaves [V, G, L, D].

    Examples:
      >>> encode = lambda texts: np.zeros((len(texts), 77, 8), np.float32)
      >>> spec = vsd.presets.toybox("a red mushroom").prompt
      >>> vsd.encode_prompts(encode, spec)["text"].shape  # three backgrounds
      (4, 3, 77, 8)
    """
    tables = prompt_texts(spec, extra=extra)
    unique = sorted({text for rows in tables.values() for row in rows for text in row})
    embedded = dict(zip(unique, encode(unique), strict=True))
    return {
        name: jnp.asarray([[embedded[text] for text in row] for row in rows])
        for name, rows in tables.items()
    }


def view_prompts(prompt: str, *, heights: bool = False) -> list[str]:
    """The prompt with the words of each of V views, e.g. "a chair, front view"."""
    words = [word + " " for word in HEIGHTS] if heights else [""]
    around = [f"{prompt}, {h}{view} view" for h in words for view in VIEWS[:OVERHEAD]]
    return [*around, f"{prompt}, {VIEWS[OVERHEAD]} view"]


def height_index(elevation_deg: jax.Array, limits_deg: Sequence[float]) -> jax.Array:
    """Index [...] into `HEIGHTS` of elevations [...] between or beyond two limits."""
    low, high = limits_deg
    return (elevation_deg > low).astype(jnp.int32) + (elevation_deg > high)


def shorten(text: str, fits: Callable[[str], bool]) -> tuple[str, str]:
    """The longest beginning of a text that fits, in whole words, and what is lost.

    Args:
      text: words with spaces between them.
      fits: whether a beginning fits; if one does, so does every shorter one.

    Returns:
      (the beginning, without commas at its end; the lost words). The text itself and ""
      if all of it fits; "" and the text if not one word does.
    """
    if fits(text):
        return text, ""
    words = text.split()
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(" ".join(words[:middle])):
            low = middle
        else:
            high = middle - 1
    return " ".join(words[:low]).rstrip(" ,;:-"), " ".join(words[low:])


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
) -> ViewWeights:
    """One view per camera, with the thresholds of `view_index`."""
    index = view_index(
        azimuth_deg,
        elevation_deg,
        overhead_deg=overhead_deg,
        front_half_angle_deg=front_half_angle_deg,
    )
    return ViewWeights(jax.nn.one_hot(index, len(VIEWS)), None)


def not_overhead(elevation_deg: jax.Array, *, below_deg: float) -> jax.Array:
    """Weights [4] of the views to move away from: the overhead view, for low cameras.

    1 / (1 + exp((elevation - below) / `NOT_OVERHEAD_WIDTH_DEG`)) at the overhead view.
    """
    chex.assert_rank(elevation_deg, 0)
    weight = jax.nn.sigmoid((below_deg - elevation_deg) / NOT_OVERHEAD_WIDTH_DEG)
    return weight * jax.nn.one_hot(OVERHEAD, len(VIEWS))


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


def select_prompts(
    prompts: Prompts, views: ViewWeights, background: jax.Array
) -> Prompts:
    """The embedded prompts of one camera.

    Args:
      prompts: of the run; leaves [V, G, L, D].
      views: of this camera.
      background: scalar int32 in [0, G).

    Returns:
      The same names, each [L, D]; with views to move away from, `WORDS`; with Perp-Neg
      `perp_text` [2, L, D] and `perp_weights` [2].
    """
    here = jax.tree.map(
        lambda leaf: at_height(leaf[:, background], views.height), prompts
    )
    chosen = {
        name: jnp.tensordot(
            views.positive, leaf, axes=1, precision=jax.lax.Precision.HIGHEST
        )
        for name, leaf in here.items()
    }
    if views.against is not None:
        away = jnp.tensordot(
            views.against, here["text"], axes=1, precision=jax.lax.Precision.HIGHEST
        )
        rest = 1.0 - jnp.sum(views.against)
        chosen[WORDS] = chosen["negative"]
        chosen["negative"] = rest * chosen["negative"] + away
    if views.negative is not None:
        chosen["perp_text"] = here["text"][jnp.array(NEGATIVE_VIEWS)]
        chosen["perp_weights"] = views.negative
    return chosen


def at_height(leaf: jax.Array, height: jax.Array | None) -> jax.Array:
    """The rows of the four `VIEWS` [4, ...] of one height.

    Args:
      leaf: [V, ...] as `view_prompts` orders them.
      height: [3] weights of the heights, or None where V is 4.
    """
    if height is None:
        return leaf
    around = leaf[:-1].reshape(len(height), OVERHEAD, *leaf.shape[1:])
    chosen = jnp.tensordot(height, around, 1, precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate([chosen, leaf[-1:]])


def _angle_from_front(azimuth_deg: jax.Array) -> jax.Array:
    return jnp.abs(jnp.mod(azimuth_deg + 180.0, 360.0) - 180.0)


def _decay(decay: Decay, share: jax.Array) -> jax.Array:
    scale, rate, offset = decay
    return jnp.maximum(scale * jnp.exp(-rate * share) + offset, 0.0)
