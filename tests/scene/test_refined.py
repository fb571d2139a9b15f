# SPDX-License-Identifier: Apache-2.0
"""Importance samples: every sample is evaluated once, and once more for the gradient
unless its features are kept. Results are those of evaluating all samples plainly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.scene.nerf import field, nerf, sampling, volume
from vsd_jax.scene.nerf.empty_space import evaluate_dense
from vsd_jax.scene.nerf.encoding import hash_grid

RAYS, FIRST, NEW = 12, 8, 4
GRID = hash_grid(
    num_levels=2, features=2, log2_table_size=8, min_resolution=4, max_resolution=8
)
SHOOT = dict(num_samples=FIRST, half_extent=1.0, near=0.1, cells=None)
PLACES = (sampling.PLACES,)


def make_field(params, normal_step=0.0):
    return nerf._make_field(
        params,
        grid=GRID,
        density_bias=field.blob_bias(strength=4.0, radius=0.5),
        density_scale=2.0,
        noise_scale=1.0,
        normal_step=normal_step,
    )


def start():
    """Parameters with a random table, and rays through the cube; some miss it."""
    rng = np.random.default_rng(0)
    init = functools.partial(field.init_field, grid=GRID, hidden=5, environment=False)
    params = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype("f4"),
        jax.eval_shape(init, jax.random.key(0)),
    )
    origins = np.broadcast_to(np.float32([0, 0, 2.5]), (RAYS, 3))
    directions = np.float32([0, 0, -1]) + 0.3 * rng.normal(size=(RAYS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return params, (origins, directions.astype("f4"))


def render(field, frozen, rays, key):
    seen, normals, _ = volume.render_rays(
        field, frozen, *rays, key, num_fine=NEW, capacity=1.0, **SHOOT
    )
    return {"values": seen.values, "depth": seen.depth, "normals": normals}


def render_plainly(field, frozen, rays, key):
    """All samples evaluated again after the importance pass, as in NeRF's paper."""
    _, jitter, fine, noise_key = volume._randomness(key, rays[0], FIRST, NEW)
    samples = sampling.place_samples(*rays, jitter, **SHOOT)
    density, values = evaluate_dense(frozen, *rays, samples)
    weights = volume.composite(density, values, samples.tdist, samples.tmid).weights
    _, extra = sampling.importance(samples.tdist, weights, fine)
    tdist, tmid, _ = sampling.merge(samples.tdist, samples.tmid, extra)
    samples = sampling.Samples(tdist, tmid, None)
    density, values = evaluate_dense(field, *rays, samples, noise_key)
    seen = volume.composite(density, values, tdist, tmid)
    normals = volume.unit_or_zero(seen.values[:, 3:], axis=-1)
    if values.shape[-1] == 3:
        normals = jnp.zeros_like(rays[1])
    return {"values": seen.values, "depth": seen.depth, "normals": normals}


def loss(params, rays, key, *, how=render, max_rays=RAYS, keep=PLACES, step=0.0):
    """A number that depends on every pixel, and the pictures."""

    def chunk(rays, key):
        frozen = make_field(jax.lax.stop_gradient(params), step)
        return how(make_field(params, step), frozen, rays, key), {}

    images, _ = volume.map_rays(chunk, rays, key, max_rays, keep=keep)
    wave = jnp.sin(jnp.arange(RAYS, dtype=jnp.float32))
    return sum(jnp.sum(wave @ x.reshape(RAYS, -1)) for x in images.values()), images


def with_gradient(**choices):
    return jax.value_and_grad(functools.partial(loss, **choices), has_aux=True)


@pytest.mark.parametrize("max_rays, step", [(RAYS, 0.0), (4, 0.0), (RAYS, 0.05)])
def test_render_equals_a_plain_evaluation_of_all_samples(max_rays, step):
    both = {
        "plain": dict(how=render_plainly),
        "again": {},
        "kept": dict(keep=(*PLACES, field.FEATURES)),
    }

    def all_ways(*args):
        return {
            name: with_gradient(max_rays=max_rays, step=step, **choices)(*args)
            for name, choices in both.items()
        }

    with jax.debug_key_reuse(False):  # the same draws three times
        found = jax.jit(all_ways)(*start(), jax.random.key(1))
    plain = found.pop("plain")
    (_, images), gradients = plain
    assert np.std(images["values"]) > 0.1 and np.any(images["normals"]) == bool(step)
    for leaf in jax.tree.leaves(gradients):
        assert np.abs(leaf).max() > 1e-3
    for other in found.values():
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_order_is_that_of_the_merged_samples():
    rng = np.random.default_rng(3)
    tmid = np.sort(rng.uniform(1, 2, (RAYS, FIRST)), axis=1).astype("f4")
    extra = rng.uniform(1, 2, (RAYS, NEW)).astype("f4")
    tmid[0], extra[0] = 1.5, 1.5  # a ray that misses: all its samples meet
    tdist = np.stack([np.full(RAYS, 1.0), np.full(RAYS, 2.0)], axis=1)
    both = np.concatenate([tmid, extra], axis=1)
    values = np.stack([both, both**2], axis=2)

    def ordered(values):
        _, merged, order = sampling.merge(tdist.astype("f4"), tmid, extra)
        return sampling.in_order(values, order), merged

    (found, merged), pull = jax.jit(lambda x: jax.vjp(ordered, x))(values)
    np.testing.assert_array_equal(merged, np.sort(both, axis=1))
    np.testing.assert_array_equal(found, np.stack([merged, merged**2], axis=2))
    # The gradient of each sample comes back to where it was.
    (back,) = pull((found, jnp.zeros_like(merged)))
    np.testing.assert_array_equal(back, values)


def count(jaxpr, wanted, total=0):
    """Equations, at any depth, for which `wanted(equation)`."""
    for equation in jaxpr.eqns:
        total += bool(wanted(equation))
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            total += count(inner, wanted) if hasattr(inner, "eqns") else 0
    return total


def reads_table(equation):
    shape = (GRID.rows, GRID.features)
    return (
        equation.primitive.name == "gather" and equation.invars[0].aval.shape == shape
    )


@pytest.mark.parametrize("kept", [False, True])
def test_gradient_does_not_sort_again_nor_read_the_grid_if_features_are_kept(kept):
    keep = (*PLACES, field.FEATURES) if kept else PLACES
    gradient = with_gradient(max_rays=4, keep=keep)
    jaxpr = jax.make_jaxpr(gradient)(*start(), jax.random.key(1)).jaxpr
    assert count(jaxpr, lambda equation: equation.primitive.name == "sort") == 1
    # Eight corners and two levels, of the first samples and of the new ones.
    once = 8 * len(GRID.resolutions) * 2
    assert count(jaxpr, reads_table) == (once if kept else 2 * once)
