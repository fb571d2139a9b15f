# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
from simple_scene import ALPHAS_CUMPROD

from vsd_jax.diffusion import classify, exact, noise

SHAPE = (2, 2, 3)


def test_each_text_is_judged_on_the_same_noise_and_the_right_one_wins():
    keys = jax.random.split(jax.random.key(0), 2)
    images = jax.random.normal(keys[0], (3, *SHAPE))
    eps = jax.random.normal(keys[1], images.shape)
    mixture = exact.gaussian_mixture(images, jnp.full_like(images, 0.05), jnp.ones(3))
    noise_fn = exact.make_noise_fn(ALPHAS_CUMPROD)
    t = jnp.array([30, 60, 90])
    only = [np.eye(3, dtype=bool)[k] for k in range(3)]
    texts = jnp.stack([exact.restrict(3, mask)["text"] for mask in only], axis=1)
    found = classify.denoising_errors(
        noise_fn, mixture, images, texts, t=t, noise=eps, alphas_cumprod=ALPHAS_CUMPROD
    )
    noisy = noise.add_noise(images, eps, t, ALPHAS_CUMPROD)
    for k in range(3):
        predicted = noise_fn(mixture, noisy, t, {"text": texts[:, k]})
        expected = np.mean((np.asarray(predicted) - np.asarray(eps)) ** 2, (1, 2, 3))
        np.testing.assert_allclose(found[:, k], expected, rtol=1e-5)
    assert list(np.argmin(found, axis=1)) == [0, 1, 2]
