# SPDX-License-Identifier: Apache-2.0
"""What a method of score distillation sees: noised views, and the networks on them.

Notation: `paper.py`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion import attention, loss_scale
from vsd_jax.diffusion.guidance import (
    PLAIN,
    Guidance,
    clip_x0,
    guide_away,
    guided_noise,
    prior_context,
)
from vsd_jax.diffusion.noise import add_noise, w_t
from vsd_jax.score_network import camera_vector
from vsd_jax.timesteps import shares_to_range, uniform_t
from vsd_jax.trees import over_axis
from vsd_jax.types import Draw, NoiseFn, PyTree

At = tuple[jax.Array, jax.Array]
"""`(noisy [V, h, w, c], t [V])` other than the views' own."""

OwnGradient = Callable[[PyTree, PyTree, jax.Array, Draw], PyTree]
"""`(score_params, prior_params, latents [V, h, w, c], draw) -> d loss / d phi`."""

# Numbers of `NoisedViews.keys`, one for each purpose.
ASD_KEY, GUIDANCE_KEY, INVERSION_KEY, OVERSHOOT_KEY, CONSISTENT3D_KEY = range(5)


class MissingPromptError(ValueError):
    """A method asks for a prompt that was not encoded, its argument."""

    def __str__(self) -> str:
        return (
            f"The method asks for the prompt {self.args[0]!r}, which was not encoded:"
            " give Method(..., texts=...) and encode_prompts(..., extra=method.texts)."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisedViews:
    """The V noised views of one particle in one step, and predictions of the networks.

    Only what a method asks for is computed; `at` asks at other noisy latents.

    Attributes:
      latents: [V, h, w, c] x_0, without a gradient.
      noise: [V, h, w, c] standard normal.
      t: [V] int32.
      noisy: [V, h, w, c] x_t.
      alphas_cumprod: [T] float32.
      prior_fn: noise prediction of the prior.
      score_fn: of the score network over `(score_params, prior_params)`, or None.
      score_params: phi.
      score_gradient: of the loss of these renders, as the score network's next update
        has it (`make_own_gradient`), or None.
      prior_params: frozen weights.
      draw: prompts and cameras of the views.
      camera_dropout: share of views that the score network is trained on without their
        camera; at 1 it is never asked with one either.
      weighting: name of w(t).
      asked: guided predictions that `guided` returns again: a weight may take the one
        of the direction, at no cost.
    """

    latents: jax.Array
    noise: jax.Array
    t: jax.Array
    noisy: jax.Array
    alphas_cumprod: np.ndarray
    prior_fn: NoiseFn
    score_fn: NoiseFn | None
    score_params: PyTree
    score_gradient: OwnGradient | None
    prior_params: PyTree
    draw: Draw
    weighting: str
    camera_dropout: float = 0.0
    asked: dict[Any, tuple[Any, jax.Array]] = dataclasses.field(
        default_factory=dict, repr=False, init=False
    )

    def keys(self, number: int) -> jax.Array:
        """Returns a key [V] of each view, by a `number` from 5 on for each purpose."""
        keys = jax.random.clone(self.draw.method_keys)  # each number has its own
        return over_axis(lambda key: jax.random.fold_in(key, number), len(keys))(keys)

    def uniform(self, number: int) -> jax.Array:
        """Returns a number [V] in [0, 1) of each view, by the keys of that `number`."""
        keys = self.keys(number)
        return over_axis(jax.random.uniform, len(keys))(keys)

    def shared_noise(self) -> jax.Array:
        """Returns standard normal noise [V, h, w, c], one in all steps and views.

        Each particle of a run has its own.
        """
        draw = functools.partial(jax.random.normal, shape=self.noise.shape[1:])
        return over_axis(draw, len(self.t))(jax.random.clone(self.draw.run_keys))

    def prior(
        self, text: str, at: At | None = None, *, x0_limit: float = 0.0
    ) -> jax.Array:
        """Returns the prior's noise prediction for "text", "negative", "empty", ...

        A difference to a guided prediction takes the `x0_limit` of its guidance.
        """
        self._require(text)
        noisy, t = at or (self.noisy, self.t)
        context = prior_context(self.draw.prompts, text)
        found = self.prior_fn(self.prior_params, noisy, t, context)
        return clip_x0(found, noisy, t, self.alphas_cumprod, limit=x0_limit)

    def guided(
        self, scale: float, guidance: Guidance = PLAIN, at: At | None = None
    ) -> jax.Array:
        """Returns the prior's prediction with classifier-free guidance.

        With `guidance.guidance_t`, eps(y) at the views' own t plus the guidance term
        (s - 1) (eps(y) - eps(base)) at a t' of its own, times w(t') / w(t) since the
        weight of the residual is that of t (arXiv:2511.22677, Eq. 8). The noise is the
        same at both. At another `at` there is no render to noise anew: plain guidance.
        """
        if at is not None:
            return guided_noise(**self._asked(at), scale=scale, guidance=guidance)
        name = (scale if isinstance(scale, int | float) else id(scale), guidance)
        if name in self.asked:
            return self.asked[name][1]
        found = self._guided(scale, guidance)
        # What a branch or a loop of the method has found is not known outside of it.
        if getattr(found, "_trace", None) is getattr(self.noisy, "_trace", None):
            self.asked[name] = scale, found  # an array's id is its own while it lives
        return found

    def _guided(self, scale: float, guidance: Guidance) -> jax.Array:
        if not guidance.is_decoupled:
            return guided_noise(**self._asked(None), scale=scale, guidance=guidance)
        text = self.prior("text", x0_limit=guidance.x0_limit)
        _refuse_rescale(guidance)
        at, share = self._at_own_t(guidance)
        pair = guide_away(**self._asked(at), scale=scale, guidance=guidance)
        return text + share * (pair.noise - pair.text)

    def push(
        self, scale: float, guidance: Guidance = PLAIN, *, against: str
    ) -> jax.Array:
        """Returns the guidance term s (eps(y) - eps(against)), clipped if asked for.

        With `guidance.guidance_t` at a t' of its own, times w(t') / w(t).

        Raises:
          ValueError: for `guidance.guidance_rescale`.
        """
        return self._push(scale, guidance, against)[0]

    def push_and_base(
        self, scale: float, guidance: Guidance = PLAIN, *, against: str
    ) -> tuple[jax.Array, jax.Array]:
        """Returns `push`, and eps(against) at the views' own t, at no pass more.

        With `guidance.guidance_t` it is one pass more.

        Raises:
          ValueError: for `guidance.guidance_rescale`.
        """
        term, base = self._push(scale, guidance, against)
        if guidance.is_decoupled:
            base = self.prior(against, x0_limit=guidance.x0_limit)
        return term, base

    def _push(self, scale: float, guidance: Guidance, against: str):
        """The term, and the base where it was asked."""
        _refuse_rescale(guidance)
        self._require(against)
        at, share = None, 1.0
        if guidance.is_decoupled:
            at, share = self._at_own_t(guidance)
        pair = guide_away(
            **self._asked(at), scale=scale, guidance=guidance, against=against
        )
        return share * (pair.noise - pair.base), pair.base

    def score(self, *, camera: bool = True, at: At | None = None) -> jax.Array:
        """Returns the score network's noise prediction, with or without the camera.

        Raises:
          ValueError: if there is no score network.
        """
        if self.score_fn is None:
            raise ValueError(
                "The method asks for a score network: give `distil` one, and"
                " Method(..., trains_score=True)."
            )
        return self._score(self.score_params, camera, at)

    def score_ahead(self, rate: float) -> jax.Array:
        """Returns the score network's prediction as if it had learned these renders.

        eps_phi + J dphi, dphi = -rate grad_phi loss: to first order in the gradient
        step of its next update, by one product with the Jacobian J = d eps_phi / dphi.

        Raises:
          ValueError: if the score network is not trained.
        """
        if self.score_gradient is None:
            raise ValueError(
                "Looking ahead takes a score network that is trained: score.kind lora"
                " or unet, with score.steps_per_step of at least 1."
            )
        gradient = self.score_gradient(
            self.score_params, self.prior_params, self.latents, self.draw
        )
        step = jax.tree.map(lambda leaf: -rate * leaf, gradient)
        with attention.without_kernels(), loss_scale.without_loss_scale():
            now, change = jax.jvp(self._score, (self.score_params,), (step,))
        return now + change

    def _require(self, text: str) -> None:
        if text not in self.draw.prompts:
            raise MissingPromptError(text)

    def _score(
        self, score_params: PyTree, camera: bool = True, at: At | None = None
    ) -> jax.Array:
        noisy, t = at or (self.noisy, self.t)
        keep = jnp.full(self.t.shape, camera and self.camera_dropout < 1)
        context = {
            "text": self.draw.prompts["score"],
            "camera": camera_vector(self.draw.cameras.cam_to_world, keep),
        }
        params = (score_params, self.prior_params)
        return self.score_fn(params, noisy, t, context)

    def _at_own_t(self, guidance: Guidance) -> tuple[At, jax.Array]:
        """The views noised to a t' of their own, and w(t') / w(t) [V, 1, ...]."""
        abar = self.alphas_cumprod
        t = uniform_t(
            self.uniform(GUIDANCE_KEY), shares_to_range(guidance.guidance_t, len(abar))
        )
        mine, theirs = (
            w_t(each, abar, weighting=self.weighting, ndim=self.noisy.ndim)
            for each in (self.t, t)
        )
        return (add_noise(self.latents, self.noise, t, abar), t), theirs / mine

    def _asked(self, at: At | None) -> dict[str, Any]:
        noisy, t = at or (self.noisy, self.t)
        return {
            "noise_fn": self.prior_fn,
            "params": self.prior_params,
            "noisy": noisy,
            "t": t,
            "prompts": self.draw.prompts,
            "alphas_cumprod": self.alphas_cumprod,
        }


def fresh_normal(
    keys: jax.Array, number: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Standard normal numbers [V, *shape], those of a view by its own key."""

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, number), shape)

    return over_axis(draw, len(keys))(jax.random.clone(keys))


def _refuse_rescale(guidance: Guidance) -> None:
    if guidance.guidance_rescale:
        raise ValueError(
            f"guidance_rescale={guidance.guidance_rescale} rescales a whole prediction;"
            " where the term of guidance stands alone (CSD, NFSD, Bridge, guidance_t),"
            " leave it 0."
        )
