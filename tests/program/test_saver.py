# SPDX-License-Identifier: Apache-2.0
"""Saving in the background: a copy, one at a time, and no fault goes unheard."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.program.folder import checkpoint, saver
from vsd_jax.types import Particles, ScoreState, VSDState


def make_state(step):
    theta = {"grid": jnp.full((2, 3), float(step))}
    return VSDState(
        particles=Particles(
            params=theta, opt_state=(), stats={}, skips=jnp.zeros(2, jnp.int32)
        ),
        score=ScoreState(params={"phi": jnp.ones(2)}, opt_state=()),
        step=jnp.int32(step),
        key=jax.random.key(7),
    )


def test_what_is_saved_is_the_state_of_then(tmp_path, monkeypatch):
    hold, write = threading.Event(), checkpoint.save_state

    def slow(*arguments, **options):
        assert hold.wait(30)
        return write(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save_state", slow)
    saves, state = saver.Saver(tmp_path, keep=2), make_state(3)
    saves.save(state)
    assert checkpoint.list_steps(tmp_path) == []  # nobody waited for the disk
    for leaf in jax.tree.leaves((state.particles, state.score, state.step)):
        leaf.delete()  # as a step that takes the state as a donation does
    hold.set()
    saves.wait()
    target = jax.eval_shape(lambda: make_state(0))
    found = checkpoint.load_state(tmp_path, target, warn=pytest.fail)
    np.testing.assert_array_equal(found.particles.params["grid"], np.full((2, 3), 3.0))
    assert int(found.step) == 3
    np.testing.assert_array_equal(
        jax.random.key_data(found.key), jax.random.key_data(state.key)
    )


def test_a_fault_is_raised_once_and_the_next_save_goes_through(tmp_path, monkeypatch):
    write, faults = checkpoint.save_state, [OSError(28, "No space left on device")]

    def full_at_first(*arguments, **options):
        if faults:
            raise faults.pop()
        return write(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save_state", full_at_first)
    saves = saver.Saver(tmp_path, keep=2)
    saves.save(make_state(1))
    with pytest.raises(OSError, match="No space left"):
        saves.wait()
    saves.save(make_state(2))
    saves.wait()
    saves.wait()
    assert checkpoint.list_steps(tmp_path) == [2]


def test_a_wait_that_a_jumping_clock_ended_is_tried_again(tmp_path, monkeypatch):
    write, faults = checkpoint.save_state, [TimeoutError("timed out after -5 seconds")]

    def late_at_first(*arguments, **options):
        if faults:
            raise faults.pop()
        return write(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save_state", late_at_first)
    saves = saver.Saver(tmp_path, keep=2)
    saves.save(make_state(1))
    saves.wait()
    assert checkpoint.list_steps(tmp_path) == [1]
