# SPDX-License-Identifier: Apache-2.0
"""Guidance of a prior: every method of distillation and every sampler uses this.

Classifier-free guidance (arXiv:2207.12598, Eq. 6) moves from the prediction without the
prompt, or with a negative one, towards and past the prediction with it:

    noise_guided = base + s (noise(text) - base)

Scale s = 1 is the conditional prediction. (arXiv:2207.12598 itself writes
(1 + w) text - w unc, so s = 1 + w.) What may be added to it, in this order:

- Perp-Neg (arXiv:2304.04968), if the prompts have `perp_text`: prompts to move away
  from, by the part of their direction that is perpendicular to the text's;
- an interval of t outside of which s is 1 (arXiv:2404.07724);
- adaptive projected guidance (APG, arXiv:2410.02416): of what is added in x_0, its norm
  is bounded and the part parallel to the conditional x_0 is scaled;
- the guided prediction rescaled to the standard deviation of the conditional one
  (arXiv:2305.08891, Eq. 15 and 16);
- the implied x_0 clipped to a range (Imagen, arXiv:2205.11487, Sec. 2.3).

A method of distillation may besides ask for guidance at a t of its own, decoupled from
that of the rest (arXiv:2511.22677, Eq. 8; `methods/noised_views.py`).
"""

import dataclasses
import functools
from typing import Annotated, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.noise import alpha_sigma, to_noise, to_x0
from vsd_jax.spec import Within, check_fields
from vsd_jax.types import Context, NoiseFn, Prompts, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
    """Options of classifier-free guidance; the default is plain guidance.

    Attributes:
      x0_limit: the implied x_0 is clipped to [-limit, limit]; 0 = not. For priors of
        images, which have a range; latents have none.
      guidance_interval: (low, high) shares of the number of timesteps T; at t outside
        of [low T, high T] the scale is 1.
      guidance_rescale: share, in [0, 1], by which the guided prediction is rescaled to
        the standard deviation of the conditional one; 0 = not.
      apg_parallel: share, in [0, 1], that is kept of the part of guidance parallel to
        the conditional x_0; 1 = all of it, 0 as in APG's paper.
      apg_norm: bound on the Euclidean norm of a guidance step in x_0, before it is
        scaled; 0 = none. It goes with the size of x_0: 15 suits SDXL.
      guidance_t: (low, high) shares of T between which a method of distillation draws a
        t of its own for guidance; (0, 0) = the views' t. Of no effect on samplers, and
        on methods that reach x_t by inversion or take several steps from it.
    """

    x0_limit: Annotated[float, Within(0)] = 0.0
    guidance_interval: Annotated[tuple[float, float], Within(0, 1)] = (0.0, 1.0)
    guidance_rescale: Annotated[float, Within(0, 1)] = 0.0
    apg_parallel: Annotated[float, Within(0, 1)] = 1.0
    apg_norm: Annotated[float, Within(0)] = 0.0
    guidance_t: Annotated[tuple[float, float], Within(0, 1)] = (0.0, 0.0)

    def __post_init__(self):
        check_fields(self)

    @property
    def is_projected(self) -> bool:
        """Whether a step of guidance is changed as in APG."""
        return self.apg_parallel != 1.0 or self.apg_norm > 0.0

    @property
    def is_decoupled(self) -> bool:
        """Whether guidance has a t of its own."""
        return self.guidance_t != (0.0, 0.0)


PLAIN = Guidance()
WORDS = "negative_words"
"""The negative prompt, where `prompts["negative"]` is a mix with views to avoid."""


class Guided(NamedTuple):
    """A guided prediction, what it moved away from, and the conditional prediction.

    Each [B, h, w, c], their x_0 within `Guidance.x0_limit`: where base and text agree,
    so do all.
    """

    noise: jax.Array
    base: jax.Array
    text: jax.Array


def guided_noise(
    noise_fn: NoiseFn,
    params: PyTree,
    noisy: jax.Array,
    t: jax.Array,
    prompts: Prompts,
    *,
    scale: float | jax.Array,
    alphas_cumprod: np.ndarray,
    guidance: Guidance = PLAIN,
    against: str = "negative",
) -> jax.Array:
    """Returns the guided noise prediction [B, h, w, c]; arguments as in `guide_away`.

    At scale 1 without Perp-Neg only the prompt itself is evaluated, unless the scale is
    an array, whose value a program does not know while it is compiled.
    """
    if not isinstance(scale, jax.Array) and scale == 1.0 and "perp_text" not in prompts:
        noise_pred = noise_fn(params, noisy, t, prior_context(prompts, "text"))
        return clip_x0(noise_pred, noisy, t, alphas_cumprod, limit=guidance.x0_limit)
    return guide_away(
        noise_fn,
        params,
        noisy,
        t,
        prompts,
        scale=scale,
        alphas_cumprod=alphas_cumprod,
        guidance=guidance,
        against=against,
    ).noise


def guide_away(
    noise_fn: NoiseFn,
    params: PyTree,
    noisy: jax.Array,
    t: jax.Array,
    prompts: Prompts,
    *,
    scale: float,
    alphas_cumprod: np.ndarray,
    guidance: Guidance = PLAIN,
    against: str = "negative",
) -> Guided:
    """Returns the guided prediction and its base, from one batch of the network.

    Args:
      noise_fn: noise prediction of the frozen prior.
      params: its parameters.
      noisy: [B, h, w, c] x_t.
      t: [B] int32.
      prompts: leaves [B, ...]; `text`, the one that `against` names, and for Perp-Neg
        `perp_text` and `perp_weights`.
      scale: s.
      alphas_cumprod: [T] float32.
      guidance: see `Guidance`.
      against: name of the base's prompt: "negative", "empty" or "source".
    """
    texts = jnp.stack([prompts[against], prompts["text"]])
    perp = "perp_text" in prompts
    if perp:
        texts = jnp.concatenate([texts, jnp.moveaxis(prompts["perp_text"], 1, 0)])
    asked = functools.partial(noise_fn, params)
    camera = prompts.get("camera")
    base, text, *others = _noise_per_text(asked, noisy, t, texts, camera)
    strength = _strength(t, scale, guidance, num_t=len(alphas_cumprod), ndim=text.ndim)

    def combine(strength: float | jax.Array) -> jax.Array:
        if not perp:
            return guide(base, text, strength)
        negative = jnp.stack(others, 1)
        return perp_neg(base, text, negative, prompts["perp_weights"], scale=strength)

    if guidance.is_projected:
        at_one = combine(1.0)
        step = project(at_one - base, text, noisy, t, alphas_cumprod, guidance=guidance)
        guided = at_one + (strength - 1.0) * step
    else:
        guided = combine(strength)
    guided = rescale(guided, text, share=guidance.guidance_rescale)
    # All three, or their differences would hold what was clipped of the first.
    return Guided(
        *(
            clip_x0(each, noisy, t, alphas_cumprod, limit=guidance.x0_limit)
            for each in (guided, base, text)
        )
    )


def guide(
    noise_uncond: jax.Array, noise_text: jax.Array, scale: float | jax.Array
) -> jax.Array:
    """Classifier-free guidance: unc + s (text - unc) (arXiv:2207.12598, Eq. 6)."""
    return noise_uncond + scale * (noise_text - noise_uncond)


def perp_neg(
    noise_uncond: jax.Array,
    noise_text: jax.Array,
    noise_negative: jax.Array,
    weights: jax.Array,
    *,
    scale: float | jax.Array,
) -> jax.Array:
    """Perp-Neg guidance (arXiv:2304.04968).

    With D(y) = noise(y) - noise(unc), the prediction is

        noise(unc) + s [D(text) - sum_i w_i D_i^perp],
        D_i^perp = D(neg_i) - <D(neg_i), D(text)> / |D(text)|^2 D(text),

    so a negative prompt can never cancel what the prompt itself asks for.

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


def project(
    step: jax.Array,
    noise_text: jax.Array,
    noisy: jax.Array,
    t: jax.Array,
    alphas_cumprod: np.ndarray,
    *,
    guidance: Guidance,
) -> jax.Array:
    """Adaptive projected guidance (APG, arXiv:2410.02416).

    With D(y) the x_0 that a prediction implies and dD = D(text) - D(base),

        dD <- dD min(1, r / |dD|),  guided = D(text) + (s - 1) (dD^perp + eta dD^par),

    dD^par being the part parallel to D(text), which saturates; r = `apg_norm`, eta =
    `apg_parallel`. The paper's momentum over the steps of a sampler is left out: in
    distillation no trajectory is followed. A step in noise is one in x_0 times
    -alpha_t / sigma_t.

    Args:
      step: [B, ...] noise(text) - noise(base).
      noise_text: [B, ...].
      noisy: [B, ...] x_t.
      t: [B] int32.
      alphas_cumprod: [T] float32.
      guidance: of which `apg_parallel` and `apg_norm` are read.

    Returns:
      [B, ...] the step to scale by s - 1.
    """
    axes = tuple(range(1, step.ndim))
    tiny = jnp.finfo(step.dtype).tiny
    if guidance.apg_norm:
        alpha_t, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=step.ndim)
        norm = jnp.sqrt(jnp.sum(step**2, axis=axes, keepdims=True)) * sigma_t / alpha_t
        step = step * jnp.minimum(1.0, guidance.apg_norm / jnp.maximum(norm, tiny))
    x0 = to_x0(noise_text, noisy, t, alphas_cumprod, "epsilon")
    square = jnp.maximum(jnp.sum(x0**2, axis=axes, keepdims=True), tiny)
    parallel = jnp.sum(step * x0, axis=axes, keepdims=True) / square * x0
    return step - (1.0 - guidance.apg_parallel) * parallel


def rescale(guided: jax.Array, noise_text: jax.Array, *, share: float) -> jax.Array:
    """Rescales towards the conditional prediction's standard deviation.

    share * guided * std(text) / std(guided) + (1 - share) * guided (arXiv:2305.08891,
    Eq. 15 and 16), against over-saturation at large scales.

    Args:
      guided: [B, ...].
      noise_text: [B, ...].
      share: in [0, 1]; 0 returns `guided` itself.
    """
    if not share:
        return guided
    axes = tuple(range(1, guided.ndim))
    wanted = jnp.std(noise_text, axis=axes, keepdims=True)
    found = jnp.std(guided, axis=axes, keepdims=True)
    ratio = wanted / jnp.maximum(found, jnp.finfo(found.dtype).tiny)
    return guided * (share * ratio + 1.0 - share)


def clip_x0(
    noise_pred: jax.Array,
    noisy: jax.Array,
    t: jax.Array,
    alphas_cumprod: np.ndarray,
    *,
    limit: float,
) -> jax.Array:
    """Clips the x_0 that a noise prediction implies to [-limit, limit].

    Static thresholding (Imagen, arXiv:2205.11487, Sec. 2.3): guidance pushes x_0 out of
    the range of the data, which images have and Stable Diffusion's latents have not.

    Args:
      noise_pred: [B, ...].
      noisy: [B, ...] x_t.
      t: [B] int32.
      alphas_cumprod: [T] float32.
      limit: the embedded prior's images fill [-1, 1]; 0 = not clipped.

    Returns:
      [B, ...].
    """
    if not limit:
        return noise_pred
    x0 = to_x0(noise_pred, noisy, t, alphas_cumprod, "epsilon")
    clipped = jnp.clip(x0, -limit, limit)
    return to_noise(clipped, noisy, t, alphas_cumprod, "sample")


def prior_context(prompts: Prompts, name: str) -> Context:
    """What the prior reads: the prompt of that name and, if it is told, the camera.

    That is told with "text" alone: the other prompts are bases of guidance, which is
    towards the camera as well.
    """
    context = {"text": prompts[name]}
    if "camera" in prompts:
        camera = prompts["camera"]
        context["camera"] = camera if name == "text" else jnp.zeros_like(camera)
    return context


def _noise_per_text(noise_fn, noisy, t, texts, camera):
    """texts [M, B, L, D] -> [M, B, h, w, c] in one call of the network.

    The second is the prompt, which is told the camera (`prior_context`); the first,
    from which guidance moves away, is not, and neither are Perp-Neg's.
    """
    num, told = texts.shape[0], {}
    if camera is not None:
        untold = jnp.zeros_like(camera)
        told["camera"] = jnp.concatenate([untold, camera] + [untold] * (num - 2))
    noise_pred = noise_fn(
        jnp.concatenate([noisy] * num),
        jnp.concatenate([t] * num),
        {"text": texts.reshape((-1,) + texts.shape[2:]), **told},
    )
    return noise_pred.reshape((num,) + noisy.shape)


def _strength(t, scale, guidance: Guidance, *, num_t: int, ndim: int):
    """s, or [B, 1, ...] where it depends on t."""
    low, high = guidance.guidance_interval
    if (low, high) == (0.0, 1.0):
        return scale
    inside = (t >= low * num_t) & (t <= high * num_t)
    strength = jnp.where(inside, scale, 1.0)
    return strength.reshape((-1,) + (1,) * (ndim - 1))
