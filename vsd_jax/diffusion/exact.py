# SPDX-License-Identifier: Apache-2.0
"""Closed-form priors: the exact noise prediction of a mixture at every t.

If x_0 is drawn from a mixture of Gaussians with diagonal covariances,

    p_0(x) = sum_k w_k N(x; mu_k, diag(v_k)),

then the noised density is again one (arXiv:2011.13456, Sec. 2, for the general case),

    p_t(x) = sum_k w_k N(x; alpha_t mu_k, diag(alpha_t^2 v_k + sigma_t^2)),

and the exact noise prediction is -sigma_t grad log p_t(x). A finite set of images is
the mixture with v_k = 0; there the prediction is that of the optimal denoiser.

The mixture is conditional: `context["text"]` [B, 1, K] is added to the log weights, so
zeros mean "no condition" and `restrict` builds the context of a sub-population.
Used as the oracle of the tests and for teaching.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion.noise import alpha_sigma
from vsd_jax.types import Context, NoiseFn, NoiseModel, Prior

FORBIDDEN = -1e4
"""Added to a component's log weight. Finite, so that prompts can be mixed."""

MixtureParams = dict[str, jax.Array]
"""`means` [K, ...], `variances` [K, ...] >= 0, `log_weights` [K] (normalised)."""


def gaussian_mixture(
    means: jax.Array, variances: jax.Array, weights: jax.Array
) -> MixtureParams:
    """Makes the parameters of a Gaussian mixture with diagonal covariances.

    Args:
      means: [K, ...] e.g. [K, h, w, c].
      variances: same shape, >= 0.
      weights: [K] > 0, need not be normalised.

    Returns:
      The pytree that the functions of this module take as `params`.

    Examples:
      >>> means = jnp.array([-2.0, 2.0]).reshape(2, 1, 1, 1)
      >>> mixture = vsd.exact.gaussian_mixture(
      ...     means, jnp.ones_like(means), jnp.array([1.0, 3.0])
      ... )
      >>> jnp.exp(mixture["log_weights"]).round(2)
      Array([0.25, 0.75], dtype=float32)
    """
    means, variances, weights = (
        jnp.asarray(leaf, jnp.float32) for leaf in (means, variances, weights)
    )
    chex.assert_equal_shape([means, variances])
    chex.assert_shape(weights, (means.shape[0],))
    return {
        "means": means,
        "variances": variances,
        "log_weights": jax.nn.log_softmax(jnp.log(weights)),
    }


def image_set(images: jax.Array, weights: jax.Array) -> MixtureParams:
    """Makes a mixture of images [K, ...] with weights [K] > 0 and variances zero.

    Examples:
      >>> images = vsd.exact.image_set(jnp.zeros((5, 8, 8, 3)), jnp.ones(5))
      >>> images["means"].shape
      (5, 8, 8, 3)
    """
    return gaussian_mixture(images, jnp.zeros_like(images), weights)


def empty_context(batch: int, num_components: int) -> Context:
    """Makes the context of the unconditional mixture.

    Examples:
      >>> vsd.exact.empty_context(batch=2, num_components=5)["text"].shape
      (2, 1, 5)
    """
    return {"text": jnp.zeros((batch, 1, num_components))}


def restrict(batch: int, allowed: np.ndarray) -> Context:
    """Makes the context that conditions on some components.

    Args:
      batch: B.
      allowed: [K] bool, at least one true.

    Returns:
      Context whose text is 0 for the allowed components and `FORBIDDEN` for the others.

    Raises:
      ValueError: if no component is allowed.

    Examples:
      >>> vsd.exact.restrict(1, np.array([True, False]))["text"].tolist()
      [[[0.0, -10000.0]]]
    """
    if not np.any(allowed):
        raise ValueError("At least one component of the mixture must be allowed.")
    text = jnp.where(jnp.asarray(allowed), 0.0, FORBIDDEN)
    return {"text": jnp.broadcast_to(text, (batch, 1, len(allowed)))}


def log_density(
    params: MixtureParams,
    noisy: jax.Array,
    t: jax.Array,
    context: Context,
    alphas_cumprod: np.ndarray,
) -> jax.Array:
    """Returns log p_t(x_t) of the noised mixture.

    Args:
      params: see `MixtureParams`.
      noisy: [B, ...] x_t.
      t: [B] int32.
      context: `text` [B, 1, K].
      alphas_cumprod: [T] float32.

    Returns:
      [B] float32; the density is normalised.

    Examples:
      >>> levels = np.array([0.5], np.float32)
      >>> origin = vsd.exact.gaussian_mixture(
      ...     jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.ones(1)
      ... )
      >>> context = vsd.exact.empty_context(1, 1)
      >>> vsd.exact.log_density(
      ...     origin, jnp.zeros((1, 1)), jnp.array([0]), context, levels
      ... ).round(3)  # of a standard normal, -log(2 pi) / 2
      Array([-0.919], dtype=float32)
    """
    log_joint, _, _ = _components(params, noisy, t, context, alphas_cumprod)
    return jax.nn.logsumexp(log_joint, axis=1)


def make_noise_fn(alphas_cumprod: np.ndarray) -> NoiseFn:
    """Makes the exact noise prediction -sigma_t grad log p_t of a mixture.

    Written out (no autodiff): with responsibilities r_k = p(k | x_t),
    noise = sigma_t sum_k r_k (x_t - alpha_t mu_k) / (alpha_t^2 v_k + sigma_t^2).

    Args:
      alphas_cumprod: [T] float32.

    Returns:
      A `NoiseFn` whose params are `MixtureParams`.

    Examples:
      >>> noise_fn = vsd.exact.make_noise_fn(np.array([0.75], np.float32))
      >>> origin = vsd.exact.image_set(jnp.zeros((1, 1)), jnp.ones(1))
      >>> context = vsd.exact.empty_context(1, 1)
      >>> noise_fn(origin, jnp.ones((1, 1)), jnp.array([0]), context).round(3)
      Array([[2.]], dtype=float32)
    """

    def noise_fn(
        params: MixtureParams, noisy: jax.Array, t: jax.Array, context: Context
    ) -> jax.Array:
        log_joint, offset, variance = _components(
            params, noisy, t, context, alphas_cumprod
        )
        _, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=2)
        share = jax.nn.softmax(log_joint, axis=1)[..., None]
        pull = jnp.sum(share * offset / variance, axis=1)
        return (sigma_t * pull).reshape(noisy.shape)

    return noise_fn


def make_model(alphas_cumprod: np.ndarray) -> NoiseModel:
    """Makes `make_noise_fn` a `NoiseModel` of prediction type "epsilon".

    Examples:
      >>> vsd.exact.make_model(np.array([0.75], np.float32)).prediction_type
      'epsilon'
    """
    return NoiseModel(make_noise_fn(alphas_cumprod), "epsilon")


def make_prior(
    alphas_cumprod: np.ndarray, *, latent_shape: tuple[int, int, int]
) -> Prior:
    """Makes a closed-form prior: weights are `MixtureParams`, latents the renders.

    Args:
      alphas_cumprod: [T] float32.
      latent_shape: (h, w, c) of the mixture's components.

    Examples:
      >>> levels = np.linspace(0.999, 0.001, 100).astype(np.float32)
      >>> vsd.exact.make_prior(levels, latent_shape=(8, 8, 3)).image_size
      8
    """
    return Prior(
        model=make_model(alphas_cumprod),
        encode=lambda params, image, noise: image,
        decode=lambda params, latents: latents,
        alphas_cumprod=alphas_cumprod,
        latent_shape=latent_shape,
        image_size=latent_shape[0],
    )


def _components(params, noisy, t, context, alphas_cumprod):
    """Per component: log(w_k N_k) [B, K], x - alpha mu and variance [B, K, d]."""
    num = params["means"].shape[0]
    chex.assert_shape(context["text"], (noisy.shape[0], 1, num))
    alpha_t, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=3)
    means = params["means"].reshape(1, num, -1)
    variances = params["variances"].reshape(1, num, -1)
    offset = noisy.reshape(noisy.shape[0], 1, -1) - alpha_t * means
    variance = alpha_t**2 * variances + sigma_t**2
    log_weights = jax.nn.log_softmax(
        params["log_weights"].reshape(1, num) + context["text"][:, 0], axis=1
    )
    log_normal = -0.5 * jnp.sum(
        offset**2 / variance + jnp.log(2.0 * jnp.pi * variance), axis=-1
    )
    return log_weights + log_normal, offset, variance
