# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax import timesteps
from vsd_jax.presets import preset

ABAR = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000)).astype(np.float32)


def test_two_stage_range():
    limits = {"t_min": 20, "t_max": 980, "t_max_late": 500, "anneal_step": 5000}
    for step, high in ((0, 980), (4999, 980), (5000, 500), (10**6, 500)):
        found = timesteps.two_stage_t_range(jnp.int32(step), **limits)
        assert [int(t) for t in found] == [20, high]


def test_sqrt_range():
    for step, t in ((0, 980), (25, 500), (100, 20), (200, 20)):
        low, high = timesteps.sqrt_t_range(
            jnp.int32(step), t_min=20, t_max=980, num_steps=100
        )
        assert int(low) == int(high) == t


def test_linear_range():
    for step, wanted in ((0, 980), (25, 740), (100, 20), (1000, 20)):
        low, high = timesteps.linear_t_range(
            jnp.int32(step), t_min=20, t_max=980, num_steps=100
        )
        assert int(low) == int(high) == wanted


@pytest.mark.parametrize("schedule", timesteps.SCHEDULES)
def test_no_schedule_leaves_the_timesteps(schedule):
    given = {"vsd.t_schedule": schedule, "vsd.t_range": (0.0, 1.0), "num_steps": 9}
    spec = preset().replace(given | {"vsd.t_range_late": (0.0, 1.0)}).timesteps
    t_range = timesteps.make_t_range(spec, ABAR)
    drawn = np.array([[int(t) for t in t_range(jnp.int32(i))] for i in range(12)])
    assert drawn.min() >= 0 and drawn.max() < len(ABAR)


def test_uniform_t_covers_the_inclusive_range():
    unit = jax.random.uniform(jax.random.key(0), (20_000,))
    t = np.asarray(timesteps.uniform_t(unit, (20, 29)))
    assert t.min() == 20 and t.max() == 29
    np.testing.assert_allclose(np.bincount(t)[20:] / len(t), 0.1, atol=0.01)
    almost_one = np.nextafter(np.float32(1), np.float32(0))
    for high in (0, 499, 979, 999):
        assert int(timesteps.uniform_t(jnp.float32(almost_one), (0, high))) == high


def test_dreamtime_falls_and_spends_its_steps_where_the_weight_is():
    num_steps, middle, width = 500, 500.0, 125.0
    t = timesteps.dreamtime_timesteps(ABAR, num_steps, middle=middle, width=width)
    assert t.shape == (num_steps,) and (np.diff(t) <= 0).all()
    all_t = np.arange(1000)
    abar = ABAR.astype(np.float64)
    weight = np.sqrt((1 - abar) / abar) * np.exp(
        -((all_t - middle) ** 2) / 2 / width**2
    )
    for low, high in ((300, 400), (500, 600), (700, 900)):
        share = weight[low:high].sum() / weight.sum()
        assert np.mean((t >= low) & (t < high)) == pytest.approx(share, abs=0.01)


def test_only_the_upper_end_of_two_stages_falls():
    spec = preset("object").replace({"vsd.t_range_late": (0.1, 0.5)}).timesteps
    with pytest.raises(ValueError, match="must begin where"):
        timesteps.make_t_range(spec, ABAR)
