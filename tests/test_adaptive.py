# SPDX-License-Identifier: Apache-2.0
"""Cameras that adapt: how they choose, what they remember."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_scene import (
    VIEWS,
    init_state,
    make_contexts,
    make_prior,
    make_scene,
    mixture,
    simple_step,
)
from test_distil import MODEL, PHI, SCORE, TXS

from vsd_jax import adaptive
from vsd_jax.parallel import Devices
from vsd_jax.scene.camera import orbit_camera


def two_sides(key):
    """Azimuth 10 or 190, each as likely."""
    azimuth = jnp.where(jax.random.bernoulli(key), 10.0, 190.0)
    return orbit_camera(azimuth, 0.0, 2.0, 40.0)


def draw(law, stats, keys):
    return jax.vmap(lambda key: adaptive.draw_camera(law, stats, key))(keys)


@pytest.mark.parametrize(("num", "share"), [(1, 0.5), (2, 0.625)])
def test_a_candidate_is_kept_in_proportion_to_its_interest(num, share):
    # Interest 3 : 1. Of two candidates: 1/4 (both) + 1/2 (one) * 3/4.
    def interest(camera):
        return jnp.where(camera.azimuth_deg > 0, 3.0, 1.0)

    keys = jax.random.split(jax.random.key(0), 4000)
    choose = jax.jit(
        jax.vmap(lambda key: adaptive.choose(key, two_sides, interest, num))
    )
    cameras = choose(keys)
    assert abs(float(jnp.mean(cameras.azimuth_deg > 0)) - share) < 0.025
    np.testing.assert_allclose(cameras.fov_deg, 40.0)


def test_without_any_interest_each_candidate_is_as_likely():
    keys = jax.random.split(jax.random.key(1), 1000)
    choose = jax.vmap(
        lambda key: adaptive.choose(key, two_sides, lambda c: 0 * c.radius, 2)
    )
    assert abs(float(jnp.mean(choose(keys).azimuth_deg > 0)) - 0.5) < 0.05


def test_the_memory_is_two_running_means():
    rng = np.random.default_rng(0)
    num = 60
    azimuth, elevation = rng.uniform(-180, 180, num), rng.uniform(-90, 90, num)
    t, seen = rng.integers(0, 1200, num), rng.uniform(1, 2, num).astype(np.float32)
    seen[7] = np.nan
    by_t, direction = np.zeros(10), np.ones(24)
    for k in range(num):
        if not np.isfinite(seen[k]):
            continue
        row = min(int((0.5 + 0.5 * np.sin(np.deg2rad(elevation[k]))) * 3), 2)
        index = row * 8 + int((azimuth[k] % 360) / 45)
        level = min(t[k] // 100, 9)
        usual = by_t[level] or seen[k]
        by_t[level] = usual + 0.1 * (seen[k] - usual)
        direction[index] += 0.1 * (seen[k] / usual - direction[index])
    scene = adaptive.remember_views(make_scene())
    stats = scene.init_stats({"latent": 0})
    cameras = orbit_camera(azimuth, elevation, 2.0, 40.0)
    after = scene.observe(stats, cameras, jnp.asarray(t), jnp.asarray(seen))
    np.testing.assert_allclose(after["views"]["by_t"], by_t, rtol=1e-5)
    np.testing.assert_allclose(after["views"]["by_direction"], direction, rtol=1e-5)
    plain = make_scene()
    assert plain.observe(stats, cameras, t, seen) is stats


def test_where_the_residual_was_large_is_looked_at_more_often():
    law = adaptive.by_residual(two_sides, num_candidates=8)
    table = jnp.ones(24).at[adaptive.direction_bin(orbit_camera(10, 0, 2, 40))].set(9)
    stats = {"views": {"by_direction": table}}
    keys, others = jax.random.split(jax.random.key(2), (2, 1000))
    cameras = draw(law, stats, keys)
    assert 0.85 < float(jnp.mean(cameras.azimuth_deg > 0)) < 0.93  # 0.9 as K grows
    plain = draw(two_sides, stats, others)
    assert abs(float(jnp.mean(plain.azimuth_deg > 0)) - 0.5) < 0.05


def test_devices_that_share_a_particle_would_learn_of_different_views():
    law = adaptive.by_residual(VIEWS.sample_camera, num_candidates=4)
    options = TXS | {"sample_camera": law, "particles_per_step": 1}
    with pytest.raises(ValueError, match="per_particle=1"):
        simple_step(
            adaptive.remember_views(make_scene()),
            make_prior(MODEL),
            SCORE,
            devices=Devices("devices", 2),
            **options,
        )


def test_a_step_remembers_what_each_particle_saw():
    scene = adaptive.remember_views(make_scene())
    law = adaptive.by_residual(VIEWS.sample_camera, num_candidates=4)
    step = simple_step(
        scene,
        make_prior(MODEL),
        SCORE,
        particles_per_step=2,
        sample_camera=law,
        **TXS,
    )
    txs = {name: TXS[name] for name in ("particle_tx", "score_tx")}
    state = init_state(jax.random.key(0), scene, PHI, num_particles=2, **txs)
    for _ in range(2):
        state, metrics = step(state, mixture(), make_contexts(2))
    stats = state.particles.stats
    np.testing.assert_array_equal(stats["count"], [2, 2])  # the scene's own go on
    memory = np.asarray(stats["views"]["by_t"])
    assert (memory > 0).any(axis=1).all() and not np.allclose(*memory)
    assert np.isfinite(metrics["residual/rms"]).all()
