# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_scene import ALPHAS_CUMPROD

from vsd_jax import score_network
from vsd_jax.diffusion.small_unet import make_small_unet, sinusoidal_embedding

OPTIONS = {
    "latent_shape": (4, 4, 3),
    "text_shape": (2, 5),
    "channels": (8, 16),
    "num_groups": 4,
    "num_heads": 2,
    "use_text": True,
    "prediction_type": "epsilon",
}
BATCH = 4


@pytest.fixture(scope="module")
def network():
    init, model = make_small_unet(**OPTIONS)
    return jax.jit(init)(jax.random.key(0)), model


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(1), 4)
    latents = 0.1 * jax.random.normal(keys[0], (BATCH, 4, 4, 3)) + 0.5
    draw = {
        "t": jnp.array([5, 30, 60, 90]),
        "noise": jax.random.normal(keys[1], latents.shape),
    }
    context = {
        "text": jax.random.normal(keys[2], (BATCH, 2, 5)),
        "camera": jax.random.normal(keys[3], (BATCH, 16)),
    }
    return latents, draw, context


def test_starts_at_zero_output(network, batch):
    params, model = network
    latents, draw, context = batch
    out = jax.jit(model.apply)((params, {}), latents, draw["t"], context)
    np.testing.assert_array_equal(out, np.zeros(latents.shape))


def test_learns_and_uses_every_input(network, batch):
    params, model = network
    latents, draw, context = batch

    def loss_fn(params):
        return score_network.score_errors(
            model,
            (params, {}),
            latents,
            draw["t"],
            draw["noise"],
            context=context,
            alphas_cumprod=ALPHAS_CUMPROD,
            sigma_floor=0.1,
        ).mean()

    grad_fn = jax.jit(jax.value_and_grad(loss_fn))
    start, losses = params, []
    for _ in range(6):
        loss, grads = grad_fn(params)
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
        losses.append(loss)
    assert losses == sorted(losses, reverse=True)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, start)
    assert min(jax.tree.leaves(moved)) > 0, "every parameter takes part"
    apply = jax.jit(lambda *args: model.apply((params, {}), *args))
    here = apply(latents, draw["t"], context)
    for name in context:
        other = {**context, name: context[name] + 1.0}
        assert np.abs(apply(latents, draw["t"], other) - here).max() > 1e-5
    assert np.abs(apply(latents, draw["t"] + 5, context) - here).max() > 1e-5


def test_sinusoidal_embedding():
    found = sinusoidal_embedding(jnp.array([0, 3]), 4)
    rates = np.array([1.0, 0.01])
    np.testing.assert_allclose(found[0], [1, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(
        found[1], np.concatenate([np.cos(3 * rates), np.sin(3 * rates)]), atol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_shape": (5, 4, 3)}, "halved"),
        ({"channels": (6, 16)}, "multiples"),
        ({"prediction_type": "x"}, "prediction_type"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        make_small_unet(**{**OPTIONS, **change})
