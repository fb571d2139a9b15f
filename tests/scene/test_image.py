# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.scene.camera import orbit_camera
from vsd_jax.scene.image import make_image


@pytest.mark.parametrize("sigmoid", [True, False])
def test_render_is_theta(sigmoid):
    scene = make_image(shape=(4, 5, 3), init_std=2.0, sigmoid=sigmoid)
    params = scene.init(jax.random.key(0))
    stats = scene.init_stats(params)
    assert scene.update_stats(params, stats, jnp.int32(0), jax.random.key(1)) == {}
    out = scene.render(
        params,
        stats,
        orbit_camera(0.0, 0.0, 1.0, 40.0),
        jnp.zeros(3),
        jax.random.key(2),
        train=True,
    )
    pixels = params["pixels"]
    expected = jax.nn.sigmoid(pixels) if sigmoid else pixels
    np.testing.assert_allclose(out.rgb, expected)
    assert out.opacity.shape == out.depth.shape == (4, 5)
    assert out.normal.shape == (4, 5, 3)


def test_latent_start_has_the_given_spread():
    scene = make_image(shape=(32, 32, 4), init_std=1.0, sigmoid=False)
    pixels = scene.init(jax.random.key(0))["pixels"]
    np.testing.assert_allclose(pixels.std(), 1.0, atol=0.05)
