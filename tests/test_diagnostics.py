# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.diagnostics import NUM_TIME_BINS, summarize
from vsd_jax.types import Batch, Draw, Report

REPORT = Report(
    ok=jnp.array([True, True, False]),
    residual_ms=jnp.array([[1.0, 3.0], [4.0, 9.0], [jnp.nan, 1.0]]),
    opacity=jnp.array([0.2, 0.4, jnp.nan]),
    grad_norm=jnp.array([1.0, 2.0, jnp.inf]),
    regularizer={"entropy": jnp.array([1.0, 3.0, 5.0])},
    render={"overflow": jnp.array([0.0, 1.0, 7.0])},
)
T = jnp.array([[0, 24], [25, 99], [50, 60]])
BATCH = Batch(
    draw=Draw(t=T, **dict.fromkeys(set(Draw.__dataclass_fields__) - {"t"})),
    latents=None,
    report=REPORT,
)


@pytest.fixture(scope="module")
def metrics():
    return {
        k: np.asarray(v) for k, v in summarize(BATCH, num_t=100, axis_name=None).items()
    }


def test_averages_leave_out_skipped_particles(metrics):
    np.testing.assert_allclose(metrics["residual/rms"], np.sqrt(17 / 4), rtol=1e-6)
    np.testing.assert_allclose(metrics["opacity"], 0.3, rtol=1e-6)
    np.testing.assert_allclose(metrics["particle_grad_norm"], 1.5)
    np.testing.assert_allclose(metrics["regularizer/entropy"], 2.0)
    np.testing.assert_allclose(metrics["render/overflow"], 0.5)
    np.testing.assert_allclose(metrics["t/mean"], 148 / 4)
    assert metrics["skipped"] == 1


def test_time_bins(metrics):
    counts = [metrics[f"residual/count_t{i}"] for i in range(NUM_TIME_BINS)]
    assert counts == [2, 1, 0, 1]
    found = [float(metrics[f"residual/rms_t{i}"]) for i in range(NUM_TIME_BINS)]
    np.testing.assert_allclose(found, [np.sqrt(2), 2, 0, 3], rtol=1e-6)


def test_per_particle_values_hide_nothing(metrics):
    np.testing.assert_array_equal(metrics["particle/skipped"], [0, 0, 1])
    assert np.isnan(metrics["particle/opacity"][2])
    np.testing.assert_allclose(
        metrics["particle/residual_rms"], [np.sqrt(2), np.sqrt(6.5), np.nan], rtol=1e-6
    )


def test_nothing_left_gives_zero_not_nan():
    none = BATCH.replace(report=REPORT.replace(ok=jnp.zeros(3, bool)))
    metrics = summarize(none, num_t=100, axis_name=None)
    assert metrics["skipped"] == 3
    for name in ("residual/rms", "opacity", "t/mean", "residual/rms_t0"):
        assert metrics[name] == 0
