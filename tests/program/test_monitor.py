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


def test_patience_is_by_a_particle_s_own_updates(metrics):
    """One of 64 at a time: a single bad update is no lasting fault."""
    alarms = monitor.Alarms(64, empty=True, solid=True)
    for step in range(1, 64 * (monitor.PATIENCE + 2)):
        turn = {"particle__index": np.array([step % 64])}
        bad = metrics(1, **turn, particle__skipped=np.array([int(step == 3)]))
        assert not alarms.check(step, bad)
    for step in range(1, 64 * monitor.PATIENCE + 64):
        turn = {"particle__index": np.array([step % 64])}
        bad = metrics(1, **turn, particle__skipped=np.array([int(step % 64 == 3)]))
        said = alarms.check(step, bad)
        assert bool(said) == (step == 64 * monitor.PATIENCE + 3), step
        if said:
            assert "since step 3;" in said
            break
    else:
        pytest.fail("no alarm")


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("residual/rms", {}, 0.5),
        ("residual/rms", {"particle__skipped": np.array([1, 0])}, 0.5),
        ("residual/rms", {"particle__skipped": np.array([1, 1])}, None),
        ("residual/rms", {"residual__rms": np.float32(np.nan)}, None),
        ("score/loss", {"score__skipped": np.array(1)}, None),
        ("score/loss", {"particle__skipped": np.array([1, 1])}, 0.25),
        ("", {}, None),
    ],
)
def test_a_step_that_was_thrown_away_judges_nothing(metrics, name, changes, expected):
    values = {"residual__rms": np.float32(0.5), "score__loss": np.float32(0.25)}
    assert monitor.judged(name, metrics(2, **{**values, **changes})) == expected


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
