# SPDX-License-Identifier: Apache-2.0
"""The hash-grid NeRF's training step for benchmarks: a scene, a fixed view, Adam."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vsd_jax import presets
from vsd_jax.scene import camera
from vsd_jax.scene.nerf import field, nerf
from vsd_jax.scene.nerf.encoding import hash_grid


def make_grid(work):
    """The grid of a piece of work."""
    return hash_grid(
        num_levels=work["levels"],
        features=2,
        log2_table_size=work["log2_table"],
        min_resolution=16,
        max_resolution=work["finest"],
    )


def make_scene(work, *, hidden=64, **skip):
    """The scene of a piece of work."""
    spec = dataclasses.replace(
        presets.toybox("a red mushroom").render,
        size=work["size"],
        num_samples=work["samples"],
        **({"occupancy_resolution": 0, "capacity": 1.0} | skip),
    )
    return nerf.make_nerf(
        spec,
        grid=make_grid(work),
        hidden=hidden,
        density_bias=field.blob_bias(strength=10.0, radius=0.5),
        environment=False,
    )


def random_params(scene):
    """Start with a random table; the real start is grey all over and hides faults."""
    params = scene.init(jax.random.key(0))
    noise = 0.1 * jax.random.normal(jax.random.key(1), params["table"].shape)
    return params | {"table": noise.astype(params["table"].dtype)}


def make_view():
    """The camera, in float64 where that is on: its sine must not depend on the jit."""
    view = camera.orbit_camera(30.0, 20.0, 2.6, 40.0)
    return jax.tree.map(lambda x: x.astype(jax.dtypes.canonicalize_dtype(float)), view)


def make_jax_loss(scene, wave, *, train):
    """`(params, stats, key) -> sum(image * wave), what the render said`."""
    view = make_view()

    def loss(params, stats, key):
        out = scene.render(params, stats, view, jnp.zeros(3), key, train=train)
        return jnp.sum(out.rgb.reshape(-1, 3) * wave), out

    return loss


def wave_like(work):
    """A fixed test pattern [R, 3]."""
    return np.sin(np.arange(work["size"] ** 2 * 3)).reshape(-1, 3)


def make_update(work, **choices) -> tuple[Callable, tuple]:
    """`step(params, moments, stats, key)` with Adam, and its first arguments."""
    scene = make_scene(work, **choices)
    tx = optax.adam(1e-2, b1=0.9, b2=0.99, eps=1e-15)
    wave = jnp.asarray(wave_like(work), jnp.float32)
    value = jax.value_and_grad(make_jax_loss(scene, wave, train=True), has_aux=True)

    def step(params, moments, stats, key):
        (_, out), gradient = value(params, stats, key)
        update, moments = tx.update(gradient, moments, params)
        return optax.apply_updates(params, update), moments, out.extras

    params = random_params(scene)
    args = (params, tx.init(params), scene.init_stats(params), jax.random.key(0))
    return step, args
