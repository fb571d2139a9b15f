# SPDX-License-Identifier: Apache-2.0
"""Averages of metrics, and alarms that need a lasting fault of all particles."""

import jax
import numpy as np
import pytest

from vsd_jax.program.judge import monitor


@pytest.fixture
def metrics(fake_metrics):
    return lambda n, **changes: jax.device_get(fake_metrics(n, **changes))


def test_window_averages_bins_by_their_views(metrics):
    window = monitor.Window(2)
    window.add(metrics(2, residual__rms_t0=1.0, residual__count_t0=3, opacity=0.2))
    window.add(metrics(2, residual__rms_t0=3.0, residual__count_t0=1, opacity=0.4))
    row = window.flush()
    assert row["residual/rms_t0"] == pytest.approx(np.sqrt((3 * 1 + 1 * 9) / 4))
    assert row["residual/rms_t1"] is None
    assert row["residual/count_t0"] == 4
    assert row["opacity"] == pytest.approx(0.3)
    assert window.flush() == {}


def test_window_sorts_particle_metrics_by_index(metrics):
    window = monitor.Window(3)
    chosen = {"particle__index": np.array([2, 0])}
    window.add(metrics(2, **chosen, particle__opacity=np.array([0.9, 0.1])))
    assert window.flush()["particle/opacity"] == [0.1, None, 0.9]


def run_alarms(metrics, *, n=1, steps=monitor.PATIENCE + 10, **changes):
    alarms = monitor.Alarms(n, empty=True, solid=True)
    found = [alarms.check(step, metrics(n, **changes)) for step in range(1, steps)]
    return next(((s, text) for s, text in enumerate(found, 1) if text), None)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"particle__opacity": np.array([0.0])}, "empty since step 1"),
        ({"particle__opacity": np.array([1.0])}, "fills every view"),
        ({"particle__skipped": np.array([1])}, "not finite since step 1"),
        ({"score__skipped": np.array(1)}, "score network"),
    ],
    ids=["empty", "solid", "not_finite", "score"],
)
def test_a_lasting_fault_raises_an_alarm(metrics, changes, word):
    step, text = run_alarms(metrics, **changes)
    assert word in text and step == monitor.PATIENCE + 1


def test_sound_metrics_raise_none(metrics):
    assert run_alarms(metrics, n=3) is None


def test_one_bad_particle_of_two_does_not_stop_the_other(metrics):
    assert run_alarms(metrics, n=2, particle__opacity=np.array([0.0, 0.3])) is None


def test_one_particle_that_is_not_finite_stops_the_run_unless_it_may_start_anew(
    metrics,
):
    bad = metrics(2, particle__skipped=np.array([0, 1]))
    stop = monitor.Alarms(2, empty=True, solid=True)
    restart = monitor.Alarms(2, empty=True, solid=True, restart=True)
    said = [(stop.check(s, bad), restart.check(s, bad)) for s in range(1, 200)]
    assert not any(text for _, text in said)  # not all of them are bad
    first = next(step for step, (text, _) in enumerate(said, 1) if text)
    assert first == monitor.PATIENCE + 1
    assert "on_not_finite=restart" in said[first - 1][0]


def test_a_restart_that_does_not_help_stops_the_run(metrics):
    alarms = monitor.Alarms(2, empty=True, solid=True, restart=True)
    bad = metrics(2, particle__skipped=np.array([1, 1]))
    said = [alarms.check(step, bad) for step in range(1, 200)]
    assert said.index(next(filter(None, said))) == 2 * monitor.PATIENCE


def test_a_fault_that_passes_is_forgotten(metrics):
    alarms = monitor.Alarms(1, empty=True, solid=True)
    empty, full = metrics(1, particle__opacity=np.array([0.0])), metrics(1)
    for step in range(1, 4 * monitor.PATIENCE):
        assert alarms.check(step, full if step % 10 == 0 else empty) == ""


def test_lists_without_room_are_a_fault_of_mesh_stages_alone(metrics):
    full = metrics(1, render__overflow=np.float32(3.0))
    nerf = monitor.Alarms(1, empty=True, solid=True)
    mesh = monitor.Alarms(1, empty=True, solid=True, room="more=2")
    said = [(nerf.check(step, full), mesh.check(step, full)) for step in range(1, 60)]
    assert not any(text for text, _ in said)
    first = next(step for step, (_, text) in enumerate(said, 1) if text)
    assert first == monitor.PATIENCE + 1 and "more=2" in said[first - 1][1]


@pytest.mark.parametrize(("every", "alarms"), [(3, True), (2, False)])
def test_lists_that_overflow_from_most_cameras_are_a_fault(metrics, every, alarms):
    full = metrics(1, render__overflow=np.float32(3.0))
    mesh = monitor.Alarms(1, empty=True, solid=True, room="more=2")
    said = [
        mesh.check(step, full if step % every else metrics(1))
        for step in range(1, 4 * monitor.PATIENCE)
    ]
    assert any(said) == alarms


def test_rooms_may_fill_every_view(metrics):
    alarms = monitor.Alarms(1, empty=True, solid=False)
    solid = metrics(1, particle__opacity=np.array([1.0]))
    assert not any(alarms.check(step, solid) for step in range(200))
