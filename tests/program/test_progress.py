# SPDX-License-Identifier: Apache-2.0
"""What a person is told about long work."""

from types import SimpleNamespace

import pytest

from vsd_jax.program.terminal import progress


@pytest.mark.parametrize(
    "seconds, text", [(12.3, "12 s"), (200, "3 min 20 s"), (7320, "2 h 2 min")]
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def test_a_bar_that_cannot_be_shown_is_lines(monkeypatch, capsys):
    def refuse(self):
        raise progress.LiveError("Only one live display may be active at once")

    monkeypatch.setattr(progress.streams, "is_terminal", lambda stream: True)
    monkeypatch.setattr(progress.Progress, "start", refuse)
    with progress.Meter("training", 1) as meter:
        meter.update(1)
    assert capsys.readouterr().out == "training 1/1\n"


def test_the_first_unit_does_not_count_as_speed(monkeypatch, capsys):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(progress, "time", clock)
    meter = progress.Meter("training", 10)
    for done, seconds in (
        (1, 100.0),
        (2, 2.0),
        (6, 8.0 + progress.SECONDS_BETWEEN_LINES),
    ):
        now[0] += seconds
        meter.update(done)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training 1/10"
    # Units 2 to 6 took 30 s, so four more take 24 s.
    assert lines[1:] == ["training 6/10, 24 s left"]
