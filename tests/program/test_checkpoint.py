# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: round trip to the bit, rotation, damage found and passed over."""

import os
import pathlib
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vsd_jax.program.folder import checkpoint
from vsd_jax.program.terminal.errors import RunError
from vsd_jax.types import Particles, ScoreState, VSDState


def make_state(step):
    params = {
        "grid": jnp.arange(600.0).reshape(2, 300) + step,
        "mlp": {"w": jnp.ones(3)},
    }
    adam = optax.multi_transform(
        {"fast": optax.adam(1e-2), "slow": optax.adam(1e-3)},
        {"grid": "fast", "mlp": {"w": "slow"}},
    )
    return VSDState(
        particles=Particles(
            params=params,
            opt_state=adam.init(params),
            stats={},
            skips=jnp.zeros(2, jnp.int32),
        ),
        score=ScoreState(params={"down": jnp.ones((2, 3))}, opt_state=()),
        step=jnp.int32(step),
        key=jax.random.key(7),
    )


def abstract(state):
    return jax.eval_shape(lambda: state)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_two_threads_save_at_once(tmp_path):
    """Orbax alone loses metadata, or waits for ever, within some twenty saves."""
    faults = []

    def work(folder):
        try:
            for step in range(30):
                checkpoint.save_state(folder, make_state(step), keep=2)
        except Exception as fault:
            faults.append(fault)

    threads = [
        threading.Thread(target=work, args=(tmp_path / name,), daemon=True)
        for name in ("one", "other")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not faults and not any(thread.is_alive() for thread in threads)
    assert checkpoint.list_steps(tmp_path / "one") == [28, 29]


def damage_largest_file(folder, action):
    files = [path for path in folder.rglob("*") if path.is_file()]
    action(max(files, key=lambda path: path.stat().st_size))


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def test_round_trip_is_exact_and_keeps_types(tmp_path):
    state = make_state(5)
    checkpoint.save_state(tmp_path, state, keep=2)
    loaded = checkpoint.load_state(tmp_path, abstract(state), warn=pytest.fail)
    assert_same(state, loaded)


def test_a_run_without_score_network_is_saved_too(tmp_path):
    state = make_state(5).replace(score=ScoreState(params={}, opt_state=()))
    checkpoint.save_state(tmp_path, state, keep=2)
    loaded = checkpoint.load_state(tmp_path, abstract(state), warn=pytest.fail)
    assert_same(state, loaded)


def test_particles_load_without_the_score_network(tmp_path):
    state = make_state(5)
    checkpoint.save_state(tmp_path, state, keep=2)
    target = abstract(state).particles
    particles, step = checkpoint.load_particles(tmp_path, target, warn=pytest.fail)
    assert step == 5
    assert_same(state.particles, particles)


def test_only_the_last_ones_stay(tmp_path):
    for step in (1, 2, 3, 10):
        checkpoint.save_state(tmp_path, make_state(step), keep=2)
    assert checkpoint.list_steps(tmp_path) == [3, 10]
    assert not list(tmp_path.glob(".partial*"))


def test_what_goes_on_from_before_a_damaged_one_keeps_its_own(tmp_path):
    for step, score in ((3, 0.5), (5, 0.1)):
        checkpoint.save_state(tmp_path, make_state(step), keep=2, score=score)
    damage_largest_file(tmp_path / "step_000005" / "particles", flip_byte)
    checkpoint.save_state(tmp_path, make_state(4), keep=1, score=0.9)
    # 3 is the best sound one; 5, though later and better, says nothing of this run.
    assert checkpoint.list_steps(tmp_path) == [3, 4, 5]


def test_saving_a_step_twice_replaces_it(tmp_path):
    checkpoint.save_state(tmp_path, make_state(4), keep=2)
    checkpoint.save_state(tmp_path, make_state(4), keep=2)
    assert checkpoint.list_steps(tmp_path) == [4]


@pytest.mark.parametrize(
    "action",
    [lambda p: os.truncate(p, p.stat().st_size // 2), flip_byte, os.remove],
    ids=["truncated", "changed", "missing"],
)
def test_damage_falls_back_to_the_one_before_and_says_so(tmp_path, action):
    states = [make_state(1), make_state(2)]
    for state in states:
        checkpoint.save_state(tmp_path, state, keep=2)
    damage_largest_file(tmp_path / "step_000002", action)
    said = []
    loaded = checkpoint.load_state(tmp_path, abstract(states[0]), warn=said.append)
    assert_same(states[0], loaded)
    assert len(said) == 1 and "step_000002 is damaged" in said[0]


def test_all_damaged_is_an_error_not_a_new_start(tmp_path):
    state = make_state(1)
    checkpoint.save_state(tmp_path, state, keep=1)
    (tmp_path / "step_000001" / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="--overwrite"):
        checkpoint.load_state(tmp_path, abstract(state), warn=lambda text: None)


def test_no_checkpoint_is_none(tmp_path):
    target = abstract(make_state(0))
    assert checkpoint.load_state(tmp_path / "none", target, warn=pytest.fail) is None


def test_failed_save_leaves_the_earlier_one(tmp_path, monkeypatch):
    checkpoint.save_state(tmp_path, make_state(1), keep=1)

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.writer, "write_json", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_state(tmp_path, make_state(2), keep=1)
    assert checkpoint.list_steps(tmp_path) == [1]
    assert checkpoint.find_damage(tmp_path / "step_000001") == ""


FULL_DISK = """
import os, pathlib, resource, sys
from test_checkpoint import checkpoint, make_state

folder = pathlib.Path(sys.argv[1])
checkpoint.save_state(folder, make_state(1), keep=1)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
try:
    checkpoint.save_state(folder, make_state(2), keep=1)
except OSError as error:
    print("OSError:", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(checkpoint.list_steps(folder), list(folder.glob(".partial_*")))
checkpoint.save_state(folder, make_state(2), keep=1)
print(checkpoint.list_steps(folder), flush=True)
os._exit(0)  # orbax's threads still hold faults
"""


def test_a_disk_that_takes_no_more_is_told_as_such(tmp_path):
    """The fault comes from the writing itself, deep inside orbax.

    In a process of its own, since the limit is one of the whole process.
    """
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    here = pathlib.Path(__file__).parent
    paths = [str(here), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    )
    fault, kept, then = done.stdout.splitlines()[-3:]
    assert "OSError: [Errno 27] File too large" in fault
    assert (kept, then) == ("[1] []", "[2]")


def test_the_best_stays_beside_the_last(tmp_path):
    for step, score in ((1, 0.5), (2, 0.2), (3, None), (4, 0.3), (5, 0.9)):
        checkpoint.save_state(tmp_path, make_state(step), keep=2, score=score)
    assert checkpoint.list_steps(tmp_path) == [2, 4, 5]
    assert checkpoint.find_best(tmp_path) == 2
    target = abstract(make_state(0).particles)
    options = {"warn": pytest.fail}
    assert checkpoint.load_particles(tmp_path, target, **options)[1] == 5
    assert checkpoint.load_particles(tmp_path, target, best=True, **options)[1] == 2
    # A damaged one falls back to the newest.
    damage_largest_file(tmp_path / "step_000002" / "particles", flip_byte)
    heard = []
    found = checkpoint.load_particles(tmp_path, target, best=True, warn=heard.append)
    assert found[1] == 5 and len(heard) == 1


def test_without_scores_there_is_no_best(tmp_path):
    checkpoint.save_state(tmp_path, make_state(1), keep=1)
    assert checkpoint.find_best(tmp_path) is None
    target, heard = abstract(make_state(0).particles), []
    found = checkpoint.load_particles(tmp_path, target, best=True, warn=heard.append)
    assert found[1] == 1 and "log.best" in heard[0]


def test_scores_of_another_metric_are_not_compared(tmp_path):
    for step, metric, score in ((1, "a", 0.1), (2, "b", 9.0), (3, "b", 7.0)):
        state = make_state(step)
        checkpoint.save_state(tmp_path, state, keep=9, score=score, metric=metric)
    assert checkpoint.find_best(tmp_path) == 3
    assert checkpoint.find_best(tmp_path, until=1) == 1
