# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.scene import volume
from vsd_jax.scene.evaluate import (
    evaluate_blocks,
    evaluate_compact,
    evaluate_dense,
)
from vsd_jax.scene.sampling import place_samples

RAYS, SAMPLES = 12, 8


def composite_slowly(density, values, tdist, tmid):
    """NeRF Eq. 3, one ray and one sample at a time."""
    rays, samples = density.shape
    weights = np.zeros((rays, samples))
    for ray in range(rays):
        transmittance = 1.0
        for s in range(samples):
            width = tdist[ray, s + 1] - tdist[ray, s]
            alpha = 1 - np.exp(-density[ray, s] * width)
            weights[ray, s] = transmittance * alpha
            transmittance *= 1 - alpha
    opacity = weights.sum(axis=1)
    depth = (weights * tmid).sum(axis=1) / np.where(opacity > 0, opacity, 1)
    return (weights[..., None] * values).sum(axis=1), opacity, depth, weights


def random_samples(scale=3.0):
    keys = jax.random.split(jax.random.key(0), 3)
    density = scale * jax.random.uniform(keys[0], (RAYS, SAMPLES))
    values = jax.random.uniform(keys[1], (RAYS, SAMPLES, 3))
    tdist = 1 + jnp.sort(jax.random.uniform(keys[2], (RAYS, SAMPLES + 1)), axis=1)
    return density, values, tdist, 0.5 * (tdist[:, 1:] + tdist[:, :-1])


def test_composite_matches_the_slow_reference():
    samples = random_samples()
    got = jax.jit(volume.composite)(*samples)
    for field, expected in zip(got, composite_slowly(*samples), strict=True):
        np.testing.assert_allclose(field, expected, atol=1e-5)


def test_composite_depends_on_density_times_length_only():
    density, values, tdist, tmid = random_samples()
    one = volume.composite(density, values, tdist, tmid)
    two = volume.composite(density / 2, values, 2 * tdist, 2 * tmid)
    np.testing.assert_allclose(one.weights, two.weights, atol=1e-6)
    np.testing.assert_allclose(2 * one.depth, two.depth, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-10, 1.0, 1e10])
def test_composite_is_finite_and_sums_to_at_most_one(scale):
    density, values, tdist, tmid = random_samples(scale)

    def total(density, values):
        seen = volume.composite(density, values, tdist, tmid)
        return jnp.sum(seen.values) + jnp.sum(seen.opacity) + jnp.sum(seen.depth)

    seen = volume.composite(density, values, tdist, tmid)
    assert ((seen.opacity >= 0) & (seen.opacity <= 1 + 1e-6)).all()
    gradients = jax.grad(total, argnums=(0, 1))(density, values)
    for leaf in jax.tree.leaves((seen, gradients)):
        assert jnp.isfinite(leaf).all()


def soft_ball(positions, key=None):
    """A field with a closed form: density 4 (1 - |x|), colour from the position."""
    del key
    radius = jnp.sqrt(jnp.sum(positions**2, axis=-1) + 1e-12)
    return 4 * jnp.maximum(1 - radius, 0), 0.5 + 0.5 * jnp.tanh(positions)


@pytest.fixture(scope="module")
def rays():
    key_origin, key_target = jax.random.split(jax.random.key(1))
    origins = jax.random.normal(key_origin, (RAYS, 3))
    origins = 3 * origins / jnp.linalg.norm(origins, axis=-1, keepdims=True)
    target = 0.4 * jax.random.normal(key_target, (RAYS, 3))
    directions = target - origins
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    cells = jax.random.bernoulli(jax.random.key(2), 0.4, (4, 4, 4))
    samples = place_samples(
        origins,
        directions,
        None,
        num_samples=SAMPLES,
        half_extent=1.0,
        near=0.1,
        cells=cells,
    )
    assert 10 < samples.mask.sum() < 60
    return origins, directions, samples


def scaled_ball(scale, positions, key=None):
    density, values = soft_ball(positions, key)
    return scale * density, values


def test_compaction_equals_masked_dense_in_value_and_gradient(rays):
    uniform = jnp.full((RAYS, SAMPLES), 0.5)

    def total(evaluate, scale):
        field = functools.partial(scaled_ball, scale)
        density, values = evaluate(field, *rays)[:2]
        seen = volume.composite(density, values, rays[2].tdist, rays[2].tmid)
        return jnp.sum(jnp.sin(seen.values)) + jnp.sum(seen.opacity)

    def compact(field, *rays):
        return evaluate_compact(field, *rays, None, uniform=uniform, capacity=64)

    dense, got = (
        jax.value_and_grad(functools.partial(total, evaluate))(2.0)
        for evaluate in (evaluate_dense, compact)
    )
    np.testing.assert_allclose(got, dense, rtol=1e-5)
    blocks = functools.partial(evaluate_blocks, block=16)
    np.testing.assert_allclose(total(blocks, 2.0), dense[0], rtol=1e-5)


def test_compaction_in_float64(rays):
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda x: x if x.dtype == bool else x.astype(jnp.float64), rays
        )
        uniform = jnp.full((RAYS, SAMPLES), 0.5)
        dense = evaluate_dense(soft_ball, *wide)
        got = evaluate_compact(soft_ball, *wide, None, uniform=uniform, capacity=64)
        np.testing.assert_allclose(got[0], dense[0], rtol=0, atol=1e-12)
        mask = np.asarray(wide[2].mask)[..., None]
        np.testing.assert_allclose(got[1], dense[1] * mask, rtol=0, atol=1e-12)


def test_overflow_is_counted_and_spread_and_keeps_the_optical_depth(rays):
    origins, directions, _ = rays
    many = 64
    samples = place_samples(
        jnp.tile(origins, (many, 1)),
        jnp.tile(directions, (many, 1)),
        None,
        num_samples=SAMPLES,
        half_extent=1.0,
        near=0.1,
        cells=jnp.ones((2, 2, 2), bool),
    )
    set_samples = int(samples.mask.sum())
    capacity = set_samples // 2
    uniform = jax.random.uniform(jax.random.key(3), samples.mask.shape)
    args = (jnp.tile(origins, (many, 1)), jnp.tile(directions, (many, 1)), samples)
    density, _, overflow = jax.jit(
        functools.partial(evaluate_compact, soft_ball, capacity=capacity)
    )(*args, None, uniform=uniform)
    assert overflow == set_samples - capacity
    full, _ = evaluate_dense(soft_ball, *args)
    halves = density[: RAYS * many // 2], density[RAYS * many // 2 :]
    for half in halves:  # the last rays suffer no more than the first
        np.testing.assert_allclose(jnp.sum(half), jnp.sum(full) / 2, rtol=0.1)


def render(rays, key, **changes):
    choices = dict(
        cells=None,
        num_samples=SAMPLES,
        num_fine=0,
        half_extent=1.0,
        near=0.1,
        capacity=1.0,
    )
    return volume.render_rays(
        soft_ball, soft_ball, *rays[:2], key, **(choices | changes)
    )


def opacity_exactly(origins, directions, num=4000):
    """Numerical integral of the ball's density along each ray."""
    tmid = np.linspace(0.1, 6.0, num)
    points = origins[:, None] + directions[:, None] * tmid[:, None]
    density = 4 * np.maximum(1 - np.linalg.norm(points, axis=-1), 0)
    return 1 - np.exp(-density.sum(axis=1) * (tmid[1] - tmid[0]))


def test_opacity_approaches_the_integral(rays):
    seen, normals, extras = render(rays, None, num_samples=64)
    expected = opacity_exactly(np.asarray(rays[0]), np.asarray(rays[1]))
    np.testing.assert_allclose(seen.opacity, expected, atol=5e-3)
    assert not normals.any() and extras["overflow"] == 0 and extras["occupied"] == 1


def test_importance_samples_sharpen_a_thin_shell(rays):
    def shell(positions, key=None):
        radius = jnp.sqrt(jnp.sum(positions**2, axis=-1) + 1e-12)
        return jnp.where(jnp.abs(radius - 0.5) < 0.06, 8.0, 0.0), positions

    def opacity(num_samples, num_fine):
        seen, _, _ = volume.render_rays(
            shell,
            shell,
            *rays[:2],
            None,
            cells=None,
            num_samples=num_samples,
            num_fine=num_fine,
            half_extent=1.0,
            near=0.1,
            capacity=1.0,
        )
        return seen.opacity

    truth = opacity(1024, 0)
    plain, refined = (jnp.abs(opacity(24, f) - truth).mean() for f in (0, 24))
    assert refined < 0.6 * plain


def test_randomness_needs_a_key_and_differs_between_keys(rays):
    fixed = [render(rays, None)[0].opacity for _ in range(2)]
    np.testing.assert_array_equal(*fixed)
    one, two = (render(rays, jax.random.key(k))[0].opacity for k in (0, 1))
    assert jnp.abs(one - two).max() > 1e-4


def test_map_rays_keeps_order_and_combines_scalars():
    values = jnp.arange(24.0).reshape(24, 1)

    def chunk(rays, key):
        return {"out": rays[0] * 2}, {
            "overflow": jnp.sum(rays[0]),
            "mean": jnp.mean(rays[0]),
        }

    for max_rays in (24, 10, 1):
        images, scalars = volume.map_rays(chunk, (values,), jax.random.key(0), max_rays)
        np.testing.assert_allclose(images["out"], values * 2)
        np.testing.assert_allclose(scalars["overflow"], values.sum())
        np.testing.assert_allclose(scalars["mean"], values.mean())
