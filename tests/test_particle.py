# SPDX-License-Identifier: Apache-2.0
"""Helpers of the particle update; the update itself is tested in test_distil.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simple_scene import make_prior

from vsd_jax import particle, trees
from vsd_jax.diffusion import exact
from vsd_jax.presets import preset
from vsd_jax.types import Scene
from vsd_jax.views import make_background_sampler


def test_over_axis_of_length_one_equals_vmap():
    def fn(x, tree):
        return {"sum": x + tree["y"].sum()}

    x, tree = jnp.ones((1, 3)), {"y": jnp.arange(2.0).reshape(1, 2)}
    found = trees.over_axis(fn, 1)(x, tree)
    expected = jax.vmap(fn)(x, tree)
    np.testing.assert_array_equal(found["sum"], expected["sum"])
    wide = trees.over_axis(fn, 2)(jnp.ones((2, 3)), {"y": jnp.ones((2, 2))})
    np.testing.assert_array_equal(wide["sum"], np.full((2, 3), 3.0))


def test_all_finite():
    good = {"a": jnp.ones(2), "b": jnp.zeros(())}
    assert trees.all_finite(good) and trees.all_finite({})
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not trees.all_finite({**good, "c": jnp.array([0.0, bad])})


def test_global_norm():
    assert float(trees.global_norm({"a": jnp.array([3.0]), "b": jnp.full(1, 4.0)})) == 5
    assert float(trees.global_norm({})) == 0.0


def test_renders_are_resized_to_what_the_prior_expects():
    model = exact.make_model(make_prior(None).alphas_cumprod)
    images = jnp.broadcast_to(jnp.arange(2.0).reshape(1, 1, 2, 1), (3, 2, 2, 3))
    same = particle.fit_images(images, make_prior(model, (2, 2, 3)).image_size)
    assert same is images
    found = particle.fit_images(images, 4)
    assert found.shape == (3, 4, 4, 3)
    # Half-pixel centres (align_corners off): the outer columns keep the end values.
    np.testing.assert_allclose(found[0, 0, :, 0], [0.0, 0.25, 0.75, 1.0], atol=1e-6)


def test_backgrounds_come_with_their_index():
    colors = np.array([[1, 1, 1], [0.5, 0.5, 0.5], [0, 0, 0]], np.float32)
    sample = jax.jit(jax.vmap(make_background_sampler(colors, [0.5, 0.5, 0.0])))
    color, index = sample(jax.random.split(jax.random.key(0), 400))
    np.testing.assert_array_equal(color, colors[np.asarray(index)])
    shares = np.bincount(index, minlength=3) / 400
    np.testing.assert_allclose(shares, [0.5, 0.5, 0.0], atol=0.08)
    with pytest.raises(ValueError, match="do not fit"):
        make_background_sampler(colors, [1.0])


def test_rates_fall_over_the_last_updates_of_a_particle():
    """12 steps that move 2 of 4 particles are 6 updates; of these 3 fall to 0."""
    given = {"num_steps": 12, "num_particles": 4, "particles_per_step": 2}
    given |= {"optim.table_lr": 1.0, "optim.decay": 0.5}
    params = {"table": jnp.zeros(2)}
    found = preset().replace(given)
    assert found.optim.num_updates == 6
    sizes = {}
    for decay in (0.5, 0.0):
        tx = found.replace({"optim.decay": decay}).tx
        state, sizes[decay] = tx.init(params), []
        for _ in range(7):
            # Of a constant gradient Adam's move is the learning rate.
            updates, state = tx.update({"table": jnp.ones(2)}, state, params)
            sizes[decay].append(-float(updates["table"][0]))
    np.testing.assert_allclose(sizes[0.0], 1.0, rtol=1e-4)
    wanted = [1, 1, 1, 1, 2 / 3, 1 / 3, 0]
    np.testing.assert_allclose(sizes[0.5], wanted, rtol=1e-4, atol=1e-6)


def test_a_particle_has_no_weak_types():
    # A jitted step would be compiled for the first, the second and the third call.
    scene = Scene(
        init=lambda key: {"mass": jnp.full(2, 0.5)},
        init_stats=lambda params: {"seen": jnp.full((), 1.0)},
        render=None,
    )
    made = particle.init_particle(scene, optax.adam(1e-2), jax.random.key(0))
    assert not [leaf for leaf in jax.tree.leaves(made) if leaf.weak_type]
    assert made.params["mass"].dtype == jnp.float32
