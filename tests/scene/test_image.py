# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.particle import particle_optimizer
from vsd_jax.presets import preset
from vsd_jax.scene.camera import orbit_camera
from vsd_jax.scene.image import ImageSpec, image, make_image

SHOWN = {
    "latent": lambda pixels: pixels,
    "image": lambda pixels: 0.5 + 0.5 * pixels,
    "image behind a sigmoid": jax.nn.sigmoid,
}


@pytest.mark.parametrize("what", SHOWN)
def test_render_is_theta(what):
    spec = ImageSpec(init_std=2.0, image_sigmoid="sigmoid" in what)
    scene = image(spec, shape=(4, 5, 3), latent=what == "latent")
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
    np.testing.assert_allclose(out.rgb, SHOWN[what](params["pixels"]), rtol=1e-6)
    assert out.opacity.shape == out.depth.shape == (4, 5)
    assert out.normal.shape == (4, 5, 3)


def test_latent_start_has_the_given_spread():
    scene = make_image(shape=(32, 32, 4), init_std=1.0, show=SHOWN["latent"])
    pixels = scene.init(jax.random.key(0))["pixels"]
    np.testing.assert_allclose(pixels.std(), 1.0, atol=0.05)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_budget_of_the_2d_experiment_reaches_white_and_black(sigmoid):
    """From any start the preset's moves reach every colour; behind a sigmoid not."""
    found = preset("image2d").replace({"field.image_sigmoid": sigmoid})
    tx = particle_optimizer(found.optim)
    target = jnp.array([0.0, 1.0])
    scene = image(found.image, shape=(2, 1, 1), latent=False)

    def shown(params):
        key = jax.random.key(0)
        return scene.render(params, {}, None, None, key, train=True).rgb[:, 0, 0]

    def move(carry, _):
        params, opt_state = carry
        grads = jax.grad(lambda p: jnp.sum(jnp.square(shown(p) - target)))(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (jax.tree.map(jnp.add, params, updates), opt_state), None

    errors = []
    for start in (-2.0, 0.0, 2.0):
        params = {"pixels": jnp.full((2, 1, 1), start)}
        (params, _), _ = jax.lax.scan(
            move, (params, tx.init(params)), length=found.optim.num_updates
        )
        errors.append(jnp.abs(shown(params) - target).max())
    assert max(errors) > 0.1 if sigmoid else max(errors) < 0.02
