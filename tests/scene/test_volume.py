# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import run

from vsd_jax.scene.nerf import volume
from vsd_jax.scene.nerf.empty_space import (
    Field,
    evaluate_blocks,
    evaluate_compact,
    evaluate_dense,
)
from vsd_jax.scene.nerf.sampling import place_samples

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
    rng = np.random.default_rng(0)
    density = scale * rng.uniform(size=(RAYS, SAMPLES)).astype("f4")
    values = rng.uniform(size=(RAYS, SAMPLES, 3)).astype("f4")
    tdist = 1 + np.sort(rng.uniform(size=(RAYS, SAMPLES + 1)), axis=1).astype("f4")
    return density, values, tdist, 0.5 * (tdist[:, 1:] + tdist[:, :-1])


composite = jax.jit(volume.composite)


def test_composite_matches_the_slow_reference():
    samples = random_samples()
    got = composite(*samples)
    for field, expected in zip(got, composite_slowly(*samples), strict=True):
        np.testing.assert_allclose(field, expected, atol=1e-5)


def test_composite_depends_on_density_times_length_only():
    density, values, tdist, tmid = random_samples()
    one = composite(density, values, tdist, tmid)
    two = composite(density / 2, values, 2 * tdist, 2 * tmid)
    np.testing.assert_allclose(one.weights, two.weights, atol=1e-6)
    np.testing.assert_allclose(2 * np.asarray(one.depth), two.depth, rtol=1e-5)


@jax.jit
def seen_and_gradients(density, values, tdist, tmid):
    def total(density, values):
        seen = volume.composite(density, values, tdist, tmid)
        both = jnp.sum(seen.values) + jnp.sum(seen.opacity) + jnp.sum(seen.depth)
        return both, seen

    return jax.grad(total, argnums=(0, 1), has_aux=True)(density, values)


@pytest.mark.parametrize("scale", [0.0, 1e-10, 1.0, 1e10])
def test_composite_is_finite_and_sums_to_at_most_one(scale):
    gradients, seen = seen_and_gradients(*random_samples(scale))
    opacity = np.asarray(seen.opacity)
    assert ((opacity >= 0) & (opacity <= 1 + 1e-6)).all()
    for leaf in jax.tree.leaves((seen, gradients)):
        assert np.isfinite(leaf).all()


def soft_ball(positions, key=None):
    """A field with a closed form: density 4 (1 - |x|), colour from the position."""
    del key
    radius = jnp.sqrt(jnp.sum(positions**2, axis=-1) + 1e-12)
    return 4 * jnp.maximum(1 - radius, 0), 0.5 + 0.5 * jnp.tanh(positions)


def rays():
    rng = np.random.default_rng(1)
    origins = rng.normal(size=(RAYS, 3))
    origins = 3 * origins / np.linalg.norm(origins, axis=-1, keepdims=True)
    directions = 0.4 * rng.normal(size=(RAYS, 3)) - origins
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return origins.astype("f4"), directions.astype("f4")


def place(origins, directions, cells):
    return place_samples(
        origins,
        directions,
        None,
        num_samples=SAMPLES,
        half_extent=1.0,
        near=0.1,
        cells=cells,
    )


def scaled_ball(scale, positions, key=None):
    density, values = soft_ball(positions, key)
    return scale * density, values


def some_cells():
    return np.random.default_rng(2).uniform(size=(4, 4, 4)) < 0.4


def totals(scale, origins, directions):
    """The same loss by all three ways, and how many samples there are."""
    samples = place(origins, directions, some_cells())
    uniform = jnp.full(samples.mask.shape, 0.5, scale.dtype)

    def total(evaluate, scale):
        field = functools.partial(scaled_ball, scale)
        density, values = evaluate(field, origins, directions, samples)[:2]
        seen = volume.composite(density, values, samples.tdist, samples.tmid)
        return jnp.sum(jnp.sin(seen.values)) + jnp.sum(seen.opacity)

    def compact(*args):
        return evaluate_compact(*args, None, uniform=uniform, capacity=64)

    dense, compacted = (
        jax.value_and_grad(functools.partial(total, evaluate))(scale)
        for evaluate in (evaluate_dense, compact)
    )
    blocks = total(functools.partial(evaluate_blocks, block=16), scale)
    return dense, compacted, blocks, jnp.sum(samples.mask)


def test_compaction_equals_masked_dense_in_value_and_gradient():
    dense, compacted, blocks, count = run(totals, np.float32(2.0), *rays())
    assert 10 < count < 64
    np.testing.assert_allclose(compacted, dense, rtol=1e-5)
    np.testing.assert_allclose(blocks, dense[0], rtol=1e-5)


def test_compaction_in_float64(float64):
    wide = [x.astype(np.float64) for x in rays()]
    dense, compacted, blocks, _ = run(totals, np.float64(2.0), *wide)
    np.testing.assert_allclose(compacted, dense, rtol=1e-13)
    np.testing.assert_allclose(blocks, dense[0], rtol=1e-13)


def test_overflow_is_counted_and_spread_and_keeps_the_optical_depth():
    many = 64
    origins, directions = (np.tile(x, (many, 1)) for x in rays())
    uniform = np.random.default_rng(3).uniform(size=(RAYS * many, SAMPLES))
    capacity = 1500

    def both(origins, directions, uniform):
        samples = place(origins, directions, jnp.ones((2, 2, 2), bool))
        full, _ = evaluate_dense(soft_ball, origins, directions, samples)
        density, _, overflow = evaluate_compact(
            soft_ball,
            origins,
            directions,
            samples,
            None,
            uniform=uniform,
            capacity=capacity,
        )
        return full, density, overflow, jnp.sum(samples.mask)

    full, density, overflow, count = run(both, origins, directions, uniform)
    kept = capacity - 4 * capacity**0.5  # leaves room for chance
    np.testing.assert_allclose(overflow, count - kept, rtol=1e-4)
    assert 0 < np.count_nonzero(density) <= capacity < count
    for half in np.split(density, 2):  # the last rays suffer no more than the first
        np.testing.assert_allclose(half.sum(), full.sum() / 2, rtol=0.1)


def in_steps(field):
    """A `FieldFn` without noise in the form that `render_rays` takes."""

    def raw(positions):
        density, values = field(positions)
        return jnp.concatenate([density[:, None], values], axis=1)

    return Field(raw, lambda raw, key: (raw[..., 0], raw[..., 1:]))


def render(field, origins, directions, key, **changes):
    choices = dict(
        cells=None,
        num_samples=SAMPLES,
        num_fine=0,
        half_extent=1.0,
        near=0.1,
        capacity=1.0,
    )
    field, rays = in_steps(field), (origins, directions)
    return volume.render_rays(field, field, *rays, key, **(choices | changes))


def opacity_exactly(origins, directions, num=4000):
    """Numerical integral of the ball's density along each ray."""
    tmid = np.linspace(0.1, 6.0, num)
    points = origins[:, None] + directions[:, None] * tmid[:, None]
    density = 4 * np.maximum(1 - np.linalg.norm(points, axis=-1), 0)
    return 1 - np.exp(-density.sum(axis=1) * (tmid[1] - tmid[0]))


def test_opacity_approaches_the_integral():
    fine = functools.partial(render, soft_ball, key=None, num_samples=64)
    seen, normals, extras = run(fine, *rays())
    np.testing.assert_allclose(seen.opacity, opacity_exactly(*rays()), atol=5e-3)
    assert not normals.any() and extras["overflow"] == 0 and extras["occupied"] == 1


def test_importance_samples_sharpen_a_thin_shell():
    def shell(positions, key=None):
        radius = jnp.sqrt(jnp.sum(positions**2, axis=-1) + 1e-12)
        return jnp.where(jnp.abs(radius - 0.5) < 0.06, 8.0, 0.0), positions

    def opacities(origins, directions):
        return [
            render(shell, origins, directions, None, num_samples=s, num_fine=f)[
                0
            ].opacity
            for s, f in ((1024, 0), (24, 0), (24, 24))
        ]

    truth, plain, refined = run(opacities, *rays())
    assert np.abs(refined - truth).mean() < 0.6 * np.abs(plain - truth).mean()


def test_randomness_comes_from_the_key():
    jittered = jax.jit(functools.partial(render, soft_ball))
    one, two, again = (
        np.asarray(jittered(*rays(), jax.random.key(k))[0].opacity) for k in (0, 1, 0)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 1e-4


@pytest.mark.parametrize("max_rays", [24, 10, 1])
def test_map_rays_keeps_order_and_combines_scalars(max_rays):
    values = np.arange(24.0).reshape(24, 1)

    def chunk(rays, key):
        scalars = {"overflow": jnp.sum(rays[0]), "mean": jnp.mean(rays[0])}
        high = rays[0] > 15
        scalars["high"] = (jnp.sum(rays[0] * high), jnp.sum(high))
        scalars["none"] = (0 * jnp.sum(rays[0]), jnp.zeros(()))
        return {"out": rays[0] * 2}, scalars

    def mapped(values, key):
        return volume.map_rays(chunk, (values,), key, max_rays)

    images, scalars = run(mapped, values, jax.random.key(0))
    np.testing.assert_allclose(images["out"], values * 2)
    np.testing.assert_allclose(scalars["overflow"], values.sum())
    np.testing.assert_allclose(scalars["mean"], values.mean())
    np.testing.assert_allclose(scalars["high"], np.arange(16.0, 24).mean())
    assert scalars["none"] == 0
