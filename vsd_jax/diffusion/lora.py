# SPDX-License-Identifier: Apache-2.0
"""The score network of VSD: a frozen U-Net plus LoRA plus a camera embedding.

LoRA (arXiv:2106.09685, Sec. 4.1): h = W x + scale * (down @ up applied to x) with W
frozen, down ~ N(0, (1 / rank)^2) and up = 0, so that training starts at the frozen
network. (Linen kernels are [in, out]; the paper's BA is (down @ up) transposed.)

Two ways that give the same numbers:
- `make_score_model` adds the side path x @ down @ up at run time. Training uses it: the
  gradient never forms a matrix of W's size, and a low-precision W loses nothing.
- `merge` writes W + scale * down @ up into a copy of the parameters, for export.

A network that cannot say noise (patches of 48 numbers through 64 channels) cannot say
what is noisy in a render either, LoRA or not. `pass_through` adds one number a channel,
the variance v of what it misses, with which its clean image u becomes

    u + g (x_t / alpha_t - u),    g = alpha_t^2 v / (alpha_t^2 v + sigma_t^2),

the best linear estimate from u and x_t. v starts near zero: nothing passes.

Works on plain parameter trees and any Linen module through
`flax.linen.intercept_methods`; knows nothing of diffusers. The trainable pytree is
`{"lora": ..., "camera": ...}`, with "passage" where it is asked for; the params of the
score network's `NoiseModel` are the pair `(score_params, prior_params)`, of which only
the first is trained.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vsd_jax.diffusion.draws import draw_like
from vsd_jax.diffusion.loss_scale import with_loss_scale
from vsd_jax.diffusion.noise import alpha_sigma, target, to_noise, to_x0
from vsd_jax.spec import Within
from vsd_jax.types import Context, NoiseModel, PyTree

ATTENTION_TARGETS = ("to_q", "to_k", "to_v", "to_out_0")
CAMERA_FEATURES = 16
PASSAGE_START, PASSAGE_RATE = 1e-4, 10.0
"""v = start exp(rate p): with Adam's learning rate for LoRA, p moves by tenths in a
run, v by orders of magnitude."""
_EXACT = jax.lax.Precision.HIGHEST  # accelerators would round float32 factors


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """LoRA and the camera embedding.

    Attributes:
      rank: rank of LoRA's update of every attention projection.
      lora_scale: factor on LoRA's update.
      zero_camera: whether the camera embedding starts at zero.
      pass_through: whether LoRA also learns the variance, by channel of the latents, of
        what its frozen network cannot say, and lets it through.
    """

    rank: Annotated[int, Within(1, 1024)]
    lora_scale: Annotated[float, Within(0, 100)]
    zero_camera: bool
    pass_through: bool


def init_lora(
    key: jax.Array,
    params: PyTree,
    *,
    rank: int,
    targets: Sequence[str] = ATTENTION_TARGETS,
) -> PyTree:
    """Initialises a pair (down, up) for each dense kernel of the modules `targets`.

    Args:
      key: consumed.
      params: parameter tree of the frozen network (arrays or shapes), the tree that
        its Linen `apply` takes as "params".
      rank: of the update, >= 1.
      targets: names of the modules to adapt.

    Returns:
      Nested dict along the same paths with leaves `down` [in, rank] ~ N(0,
      (1 / rank)^2) and `up` [rank, out] = 0, float32.

    Raises:
      ValueError: if the rank is below 1, no kernel matches, or one is no matrix.
    """
    if rank < 1:
        raise ValueError(f"LoRA rank must be at least 1, not {rank}.")
    kernels = {
        path[:-1]: leaf.shape
        for path, leaf in traverse_util.flatten_dict(params).items()
        if len(path) > 1 and path[-1] == "kernel" and path[-2] in targets
    }
    if not kernels:
        raise ValueError(f"No kernel of {tuple(targets)} in the parameter tree.")
    for path, shape in kernels.items():
        if len(shape) != 2:
            raise ValueError(
                f"{'/'.join(path)} has a kernel of shape {shape}, which is no matrix:"
                " LoRA is for dense layers [in, out] here."
            )
    downs = draw_like(
        key,
        [(kernels[path][0], rank) for path in sorted(kernels)],
        sample=jax.random.normal,
    )
    flat = {}
    for path, down in zip(sorted(kernels), downs, strict=True):
        flat[(*path, "down")] = down / rank
        flat[(*path, "up")] = jnp.zeros((rank, kernels[path][1]))
    return traverse_util.unflatten_dict(flat)


def merge(params: PyTree, lora: PyTree, scale: float) -> PyTree:
    """A copy of `params` with W + scale * down @ up (arXiv:2106.09685, Sec. 4.1).

    Args:
      params: the tree that `init_lora` was called with.
      lora: its result, trained.
      scale: of the update.

    Returns:
      A tree like `params`; each kernel keeps its dtype.
    """
    flat = dict(traverse_util.flatten_dict(params))
    adapters = traverse_util.flatten_dict(lora)
    for path in {path[:-1] for path in adapters}:
        kernel = flat[(*path, "kernel")]
        update = jnp.matmul(
            adapters[(*path, "down")], adapters[(*path, "up")], precision=_EXACT
        )
        merged = kernel.astype(jnp.float32) + scale * update
        flat[(*path, "kernel")] = merged.astype(kernel.dtype)
    return traverse_util.unflatten_dict(flat)


def init_camera_mlp(key: jax.Array, features: int, *, zero_last: bool) -> PyTree:
    """Two-layer MLP from the flattened camera matrix to the time embedding.

    Uniform +-1/sqrt(fan-in) as `torch.nn.Linear`, which the paper's code uses.

    Args:
      key: consumed.
      features: width of the time embedding (1280 for Stable Diffusion).
      zero_last: start the second layer at zero, so that the score network starts as
        the frozen one. The paper's code does not.

    Returns:
      `{"linear_1", "linear_2"}`, each `{"kernel", "bias"}`.
    """
    layers = {
        "linear_1": {"kernel": (CAMERA_FEATURES, features), "bias": (features,)},
        "linear_2": {"kernel": (features, features), "bias": (features,)},
    }
    params = draw_like(key, layers, sample=partial(jax.random.uniform, minval=-1.0))
    bounds = {"linear_1": CAMERA_FEATURES**-0.5, "linear_2": features**-0.5}
    if zero_last:
        bounds["linear_2"] = 0.0
    return {
        name: jax.tree.map(lambda leaf, bound=bound: bound * leaf, params[name])
        for name, bound in bounds.items()
    }


def camera_embedding(params: PyTree, camera: jax.Array) -> jax.Array:
    """[B, 16] row-major cam_to_world (zeros = dropped) -> [B, d], SiLU between."""
    chex.assert_shape(camera, (None, CAMERA_FEATURES))
    hidden = nn.silu(_affine(params["linear_1"], camera))
    return _affine(params["linear_2"], hidden)


def time_embedding_features(params: PyTree) -> int:
    """Width of the time embedding of a U-Net's parameter tree (arrays or shapes).

    Raises:
      ValueError: if the tree has no `time_embedding`.
    """
    if "time_embedding" not in params:
        raise ValueError("The parameter tree has no module named time_embedding.")
    return params["time_embedding"]["linear_2"]["kernel"].shape[-1]


def init_score_params(
    key: jax.Array,
    params: PyTree,
    *,
    rank: int,
    zero_last: bool,
    pass_through: int = 0,
) -> PyTree:
    """The trainable pytree `{"lora", "camera"}` for a frozen U-Net's parameters.

    Args:
      key: consumed.
      params: of the frozen U-Net.
      rank: of `init_lora`.
      zero_last: of `init_camera_mlp`.
      pass_through: channels of the latents, for "passage" [c] beside the two; 0 = none.
    """
    lora_key, camera_key = jax.random.split(key)
    features = time_embedding_features(params)
    score_params = {
        "lora": init_lora(lora_key, params, rank=rank),
        "camera": init_camera_mlp(camera_key, features, zero_last=zero_last),
    }
    if pass_through:
        score_params["passage"] = jnp.zeros(pass_through)
    return score_params


def pass_noise(
    raw: jax.Array,
    noisy: jax.Array,
    t: jax.Array,
    variance: jax.Array,
    *,
    alphas_cumprod: np.ndarray,
    prediction_type: str,
) -> jax.Array:
    """Lets through what the network misses; see the module's docstring.

    Args:
      raw: [B, h, w, c] its output.
      noisy: [B, h, w, c] x_t.
      t: [B] int32.
      variance: [c] v > 0.
      alphas_cumprod: [T].
      prediction_type: what `raw` means, and the result.

    Returns:
      [B, h, w, c].
    """
    alpha_t, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=raw.ndim)
    x0 = to_x0(raw, noisy, t, alphas_cumprod, prediction_type)
    v = variance.reshape((1,) * (raw.ndim - 1) + (-1,))
    share = alpha_t * v / (alpha_t**2 * v + sigma_t**2)
    x0 = x0 + share * (noisy - alpha_t * x0)
    noise = to_noise(x0, noisy, t, alphas_cumprod, "sample")
    return target(prediction_type, x0, noise, t, alphas_cumprod)


def make_score_model(
    base: NoiseModel,
    *,
    scale: float,
    select_params: Callable[[PyTree], PyTree] = lambda params: params,
    alphas_cumprod: np.ndarray | None = None,
) -> NoiseModel:
    """The frozen network `base` with LoRA and the camera embedding added.

    The camera embedding is added to the output of the module named `time_embedding`,
    and reaches every ResNet block from there (arXiv:2305.16213, Sec. 3). Where `base`
    has weights in float16, its gradient is scaled (`loss_scale.py`).

    Args:
      base: frozen denoiser built on a Linen module.
      scale: of the LoRA update.
      select_params: picks the params of `base` out of `prior_params` when the score
        network's frozen part is not the teacher (e.g. SD 2.1 beside SD 2.1-base).
      alphas_cumprod: [T], needed where the score network has a "passage".

    Returns:
      NoiseModel over `(score_params, prior_params)`; its context has "text" and
      "camera" [B, 16].
    """

    def apply(
        params: tuple[PyTree, PyTree], noisy: jax.Array, t: jax.Array, context: Context
    ) -> jax.Array:
        score_params, prior_params = params
        moving, frozen = (score_params, noisy, context), select_params(prior_params)
        dtypes = map(jnp.result_type, jax.tree.leaves(frozen))
        is_half = any(dtype == jnp.float16 for dtype in dtypes)
        raw = (with_loss_scale(run) if is_half else run)(moving, (frozen, t))
        if "passage" not in score_params:
            return raw
        return pass_noise(
            raw,
            noisy,
            t,
            PASSAGE_START * jnp.exp(PASSAGE_RATE * score_params["passage"]),
            alphas_cumprod=alphas_cumprod,
            prediction_type=base.prediction_type,
        )

    def run(moving: PyTree, fixed: PyTree) -> jax.Array:
        (score_params, noisy, context), (frozen, t) = moving, fixed
        adapters = traverse_util.flatten_dict(score_params["lora"])
        unmet = {path[:-1] for path in adapters}
        interceptor = _make_interceptor(
            adapters, unmet, score_params["camera"], context["camera"], scale
        )
        with nn.intercept_methods(interceptor):
            out = base.apply(frozen, noisy, t, context)
        if unmet:
            raise ValueError(
                f"{len(unmet)} of {len(adapters) // 2} adapters were never reached, for"
                f" example {'/'.join(min(unmet))}: the network's modules have other"
                " paths than its parameters, as where it is inside of another module."
            )
        return out

    return NoiseModel(apply, base.prediction_type)


def _make_interceptor(
    adapters: dict[tuple[str, ...], jax.Array],
    unmet: set[tuple[str, ...]],
    camera_params: PyTree,
    camera: jax.Array,
    scale: float,
) -> Callable:
    """Adds what the adapters say; those that are reached leave `unmet`."""

    def interceptor(next_fun, args, kwargs, context: Any):
        out = next_fun(*args, **kwargs)
        if context.method_name != "__call__":
            return out
        if context.module.name == "time_embedding":
            embedding = camera_embedding(camera_params, camera)
            return out + embedding.astype(out.dtype)
        path = context.module.path
        if (*path, "down") not in adapters:
            return out
        unmet.discard(path)
        low_rank = args[0].astype(jnp.float32) @ adapters[(*path, "down")]
        return out + (scale * low_rank @ adapters[(*path, "up")]).astype(out.dtype)

    return interceptor


def _affine(params: PyTree, inputs: jax.Array) -> jax.Array:
    product = jnp.matmul(inputs, params["kernel"], precision=_EXACT)
    return product + params["bias"].reshape(1, -1)
