# SPDX-License-Identifier: Apache-2.0
"""The noise process, the weight w(t) and the three prediction types.

Notation (all of `diffusion/` and `methods/`): `t` in [0, T) is a diffusion timestep,
`alphas_cumprod[t]` = alpha-bar_t, and

    alpha_t = sqrt(alpha-bar_t),  sigma_t = sqrt(1 - alpha-bar_t),
    x_t = alpha_t x_0 + sigma_t noise                          (DDPM, arXiv:2006.11239)

A network may predict one of (progressive distillation, arXiv:2202.00512, App. D)

    "epsilon"       noise
    "v_prediction"  v = alpha_t noise - sigma_t x_0
    "sample"        x_0

Given x_t each of the three is an affine function of any other, so guidance may be
applied to any of them. Arrays are [B, h, w, c] (any rank >= 1 works), `t` is [B] int32.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.types import Context, NoiseFn, NoiseModel, PyTree

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

_WEIGHTINGS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "sigma_squared": lambda alpha_t, sigma_t: sigma_t**2,
    "uniform": lambda alpha_t, sigma_t: jnp.ones_like(sigma_t),
    "alpha_sigma_squared": lambda alpha_t, sigma_t: alpha_t * sigma_t**2,
    "sigma_over_alpha": lambda alpha_t, sigma_t: sigma_t / alpha_t,
    "dmd": lambda alpha_t, sigma_t: sigma_t / alpha_t,
}
WEIGHTINGS = tuple(_WEIGHTINGS)


def check_levels(alphas_cumprod: np.ndarray) -> None:
    """Refuses what is no cumulative product of alphas, such as betas or sigmas.

    Args:
      alphas_cumprod: [T] in (0, 1], falling.

    Raises:
      ValueError: if they are others.
    """
    levels = np.asarray(alphas_cumprod)
    falls = levels.ndim == 1 and (np.diff(levels) <= 0.0).all()
    if not falls or not ((levels > 0.0) & (levels <= 1.0)).all():
        raise ValueError(
            "alphas_cumprod must be [T] in (0, 1] and fall: the cumulative product of"
            " 1 - beta_t, from little noise to much."
        )


def alpha_sigma(
    t: jax.Array, alphas_cumprod: np.ndarray, *, ndim: int
) -> tuple[jax.Array, jax.Array]:
    """Looks up alpha_t and sigma_t, shaped to multiply arrays of rank `ndim`.

    Args:
      t: [B] int32 in [0, T).
      alphas_cumprod: [T] float32 in (0, 1).
      ndim: rank of the arrays to multiply.

    Returns:
      alpha_t and sigma_t, each [B, 1, ..., 1] float32.
    """
    chex.assert_rank(t, 1)
    signal = jnp.asarray(alphas_cumprod)[t].reshape((-1,) + (1,) * (ndim - 1))
    return jnp.sqrt(signal), jnp.sqrt(1.0 - signal)


def add_noise(
    x0: jax.Array, noise: jax.Array, t: jax.Array, alphas_cumprod: np.ndarray
) -> jax.Array:
    """x_t = alpha_t x_0 + sigma_t noise (DDPM Eq. 4, arXiv:2006.11239)."""
    chex.assert_equal_shape([x0, noise])
    alpha_t, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=x0.ndim)
    return alpha_t * x0 + sigma_t * noise


def w_t(
    t: jax.Array, alphas_cumprod: np.ndarray, *, weighting: str, ndim: int
) -> jax.Array:
    """Returns the weight w(t) of the distillation gradient, by name.

    `"sigma_squared"`: sigma_t^2 (DreamFusion, arXiv:2209.14988; ProlificDreamer's
    code). `"uniform"`: 1. `"alpha_sigma_squared"`: alpha_t sigma_t^2 (Fantasia3D,
    arXiv:2303.13873). `"sigma_over_alpha"`: sigma_t / alpha_t, which turns a difference
    of noise predictions into the difference of the clean-image predictions. `"dmd"`:
    the same, which `methods.bind` divides by the mean |x_0 - prior's x_0| of each view,
    so that all t pull alike (DMD, arXiv:2311.18828, Eq. 8).

    Args:
      t: [B] int32.
      alphas_cumprod: [T] float32.
      weighting: one of `WEIGHTINGS`.
      ndim: rank of the arrays to multiply.

    Returns:
      [B, 1, ..., 1] float32 >= 0.

    Raises:
      ValueError: if the name is unknown.
    """
    check_weighting(weighting)
    return _WEIGHTINGS[weighting](*alpha_sigma(t, alphas_cumprod, ndim=ndim))


def check_weighting(weighting: str) -> None:
    """Raises ValueError unless the name is one of `WEIGHTINGS`."""
    if weighting not in _WEIGHTINGS:
        raise ValueError(f"Unknown weighting {weighting!r}; use one of {WEIGHTINGS}.")


def to_noise(
    raw: jax.Array,
    noisy: jax.Array,
    t: jax.Array,
    alphas_cumprod: np.ndarray,
    prediction_type: str,
) -> jax.Array:
    """Converts a network's raw output to the noise that it implies.

    From v: noise = alpha_t v + sigma_t x_t (arXiv:2202.00512, App. D); from x_0:
    noise = (x_t - alpha_t x_0) / sigma_t.

    Args:
      raw: [B, ...] output of the network.
      noisy: [B, ...] x_t, what the network saw.
      t: [B] int32.
      alphas_cumprod: [T] float32.
      prediction_type: one of `PREDICTION_TYPES`.

    Returns:
      [B, ...] noise prediction.

    Raises:
      ValueError: if the prediction type is unknown.
    """
    chex.assert_equal_shape([raw, noisy])
    alpha_t, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=raw.ndim)
    if prediction_type == "epsilon":
        return raw
    if prediction_type == "v_prediction":
        return alpha_t * raw + sigma_t * noisy
    if prediction_type == "sample":
        return (noisy - alpha_t * raw) / sigma_t
    raise _unknown_prediction_type(prediction_type)


def to_x0(
    raw: jax.Array,
    noisy: jax.Array,
    t: jax.Array,
    alphas_cumprod: np.ndarray,
    prediction_type: str,
) -> jax.Array:
    """Converts a network's raw output to the clean latents that it implies.

    From noise: x_0 = (x_t - sigma_t noise) / alpha_t; from v:
    x_0 = alpha_t x_t - sigma_t v (arXiv:2202.00512, App. D). Arguments as `to_noise`.
    """
    chex.assert_equal_shape([raw, noisy])
    alpha_t, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=raw.ndim)
    if prediction_type == "epsilon":
        return (noisy - sigma_t * raw) / alpha_t
    if prediction_type == "v_prediction":
        return alpha_t * noisy - sigma_t * raw
    if prediction_type == "sample":
        return raw
    raise _unknown_prediction_type(prediction_type)


def target(
    prediction_type: str,
    x0: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    alphas_cumprod: np.ndarray,
) -> jax.Array:
    """Returns the training target of a network of this prediction type."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        alpha_t, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=x0.ndim)
        return alpha_t * noise - sigma_t * x0
    if prediction_type == "sample":
        return x0
    raise _unknown_prediction_type(prediction_type)


def as_noise_fn(model: NoiseModel, alphas_cumprod: np.ndarray) -> NoiseFn:
    """Wraps a network of any prediction type as a noise prediction.

    Raises:
      ValueError: if the model's prediction type is unknown.

    Examples:
      >>> model = vsd.NoiseModel(lambda params, x, t, context: 0.0 * x, "sample")
      >>> noise_fn = vsd.as_noise_fn(model, np.array([0.75], np.float32))
      >>> noise_fn({}, jnp.ones((1, 1)), jnp.array([0]), {})  # x_t / sigma_t
      Array([[2.]], dtype=float32)
    """
    if model.prediction_type not in PREDICTION_TYPES:
        raise _unknown_prediction_type(model.prediction_type)

    def noise_fn(
        params: PyTree, noisy: jax.Array, t: jax.Array, context: Context
    ) -> jax.Array:
        raw = model.apply(params, noisy, t, context)
        return to_noise(raw, noisy, t, alphas_cumprod, model.prediction_type)

    return noise_fn


def _unknown_prediction_type(name: str) -> ValueError:
    return ValueError(
        f"Unknown prediction type {name!r}; use one of {PREDICTION_TYPES}."
    )
