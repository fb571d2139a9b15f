# SPDX-License-Identifier: Apache-2.0
"""The loop: what it writes, how it stops, and that a resumed run repeats itself."""

import concurrent.futures
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from vsd_jax import parallel
from vsd_jax.program.folder import checkpoint, writer
from vsd_jax.program.folder.workdir import Workdir
from vsd_jax.program.judge import monitor
from vsd_jax.program.run import train as train_lib
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import RunError


@pytest.fixture
def loop(tmp_path, flat_config, fake_run):
    """`(step=None, name="run", best="") -> (Loop, Run, Workdir)` in a fresh folder."""

    def make(step=None, name="run", best=""):
        flat_config.log.best = best
        workdir = Workdir(tmp_path / name, create=True)
        config = config_lib.validate(flat_config)
        run = fake_run(flat_config, step=step)
        return train_lib.Loop(config, run, workdir), run, workdir

    return make


def restore(run, workdir):
    target = jax.eval_shape(run.init)
    return checkpoint.load_state(workdir.checkpoints, target, warn=pytest.fail)


def leaves(state):
    return jax.tree.leaves((state.particles, state.score, state.step))


def test_files_of_a_run(loop):
    trainer, run, workdir = loop()
    state = trainer.run(run.init())
    assert int(state.step) == 6
    assert checkpoint.list_steps(workdir.checkpoints) == [4, 6]
    sheets = sorted(path.name for path in (workdir.path / "images").iterdir())
    assert sheets == ["step_000003.png", "step_000006.png"]
    rows = writer.read_metrics(workdir.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["residual/rms"] == 0.5 and rows[0]["residual/rms_t1"] is None
    assert len(rows[0]["particle/opacity"]) == 3


def test_checkpoints_by_minutes(loop, flat_config, monkeypatch):
    """A clock on which every look takes a minute, and one that stands still."""
    flat_config.log.update(checkpoint_every=0, keep_checkpoints=9, image_every=0)
    for name, minutes, clock, expected in (
        ("minutes", 2.0, iter(range(0, 10**6, 60)), {3, 4, 5, 6}),
        ("still", 2.0, iter(int, 1), {6}),
        ("off", 0.0, iter(range(0, 10**6, 60)), {6}),
    ):
        flat_config.log.checkpoint_minutes = minutes
        now = lambda clock=clock: next(clock)  # noqa: E731
        monkeypatch.setattr(train_lib.time, "monotonic", now)
        trainer, run, workdir = loop(name=name)
        trainer.run(run.init())
        found = {*checkpoint.list_steps(workdir.checkpoints)}
        assert found - {1, 2} == expected  # other threads look at the clock, too


def test_interrupted_and_resumed_equals_straight(loop):
    trainer, run, _ = loop(name="straight")
    straight = trainer.run(run.init())

    def step_and_interrupt(state, *arguments):
        state, metrics = run.step(state, *arguments)
        if int(state.step) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return state, metrics

    before = signal.getsignal(signal.SIGTERM)
    trainer, _, workdir = loop(step=step_and_interrupt)
    with pytest.raises(
        train_lib.Interrupted, match="Stopped at step 3 of 6 and saved"
    ) as stopped:
        trainer.run(run.init())
    assert stopped.value.status == 75
    assert signal.getsignal(signal.SIGTERM) == before
    workdir.close()

    trainer, run, workdir = loop()
    resumed = restore(run, workdir)
    assert int(resumed.step) == 3
    resumed = trainer.run(resumed)
    for a, b in zip(leaves(straight), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = writer.read_metrics(workdir.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_what_was_measured_since_the_last_line_is_not_lost(loop, flat_config):
    flat_config.log.metrics_every = 2

    def step_and_interrupt(state, *arguments):
        state, metrics = run.step(state, *arguments)
        if int(state.step) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return state, metrics

    _, run, workdir = loop()
    workdir.close()
    trainer, _, workdir = loop(step=step_and_interrupt)
    with pytest.raises(train_lib.Interrupted):
        trainer.run(run.init())
    rows = writer.read_metrics(workdir.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 3]


def test_a_lost_session_while_a_checkpoint_is_saved_ends_in_a_good_one(
    loop, monkeypatch, capsys
):
    save = checkpoint.save_state

    def hang_up_and_save(*arguments, **options):
        for _ in range(3):  # the terminal's, the shell's, the supervisor's
            os.kill(os.getpid(), signal.SIGHUP)
        return save(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save_state", hang_up_and_save)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        trainer, run, workdir = loop()
        with pytest.raises(train_lib.Interrupted) as stopped:
            trainer.run(run.init())
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "state will be saved" in capsys.readouterr().out
    steps = checkpoint.list_steps(workdir.checkpoints)
    assert f"Stopped at step {steps[-1]} of 6" in str(stopped.value)
    assert stopped.value.status == 75 and steps[-1] < 6
    assert int(restore(run, workdir).step) == steps[-1]


def test_nohup_stays_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with train_lib.catch_signals() as asked:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_is_not_of_python_is_no_fault(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    before = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGHUP,)}
    try:
        with train_lib.catch_signals() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert asked()
    finally:
        monkeypatch.undo()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_worker_thread_trains_and_hears_no_signals(loop):
    trainer, run, workdir = loop()
    before = signal.getsignal(signal.SIGTERM)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: trainer.run(run.init())).result()
    assert int(found.step) == 6 and signal.getsignal(signal.SIGTERM) == before
    assert checkpoint.list_steps(workdir.checkpoints) == [4, 6]


def test_first_steps_are_those_of_the_smaller_renders(loop, flat_config):
    flat_config.render.early_steps = 2
    made = []

    def note(name, step):
        def noted(state, *arguments):
            made.append((name, int(state.step) + 1))
            return step(state, *arguments)

        return noted

    trainer, run, workdir = loop()
    steps = {"step": note("full", run.step), "early_step": note("early", run.step)}
    config = config_lib.validate(flat_config)
    trainer = train_lib.Loop(config, run._replace(**steps), workdir)
    trainer.run(run.init())
    expected = ["early"] * 2 + ["full"] * 4
    assert made == [(name, i + 1) for i, name in enumerate(expected)]


def test_a_fault_of_a_picture_costs_no_checkpoint(loop, flat_config, monkeypatch):
    flat_config.log.checkpoint_every = flat_config.log.image_every  # both are due
    trainer, run, workdir = loop()

    def broken(self, step, state):
        raise ValueError("a picture's fault")

    monkeypatch.setattr(train_lib.Loop, "_save_look", broken)
    with pytest.raises(ValueError, match="a picture's fault"):
        trainer.run(run.init())
    assert checkpoint.list_steps(workdir.checkpoints) == [flat_config.log.image_every]


def test_several_devices_make_one_program_of_one_step(
    tmp_path, flat_config, fake_run, monkeypatch
):
    flat_config.update(num_particles=2, num_devices=2)
    flat_config.render.early_steps = 2  # of no effect: there is no early size
    made, traced, parallel_step = [], [], parallel.parallel_step

    def note(step):
        made.append(step)

        def noted(*arguments):
            traced.append(step)
            return step(*arguments)

        return parallel_step(noted)

    monkeypatch.setattr(parallel, "parallel_step", note)
    run, workdir = fake_run(flat_config), Workdir(tmp_path / "run", create=True)
    config = config_lib.validate(flat_config)
    state = train_lib.Loop(config, run, workdir).run(run.init())
    assert made == traced == [run.step] and int(state.step) == 6


def test_another_number_of_devices_goes_on_to_the_same_bits(
    tmp_path, flat_config, fake_run
):
    flat_config.num_particles = 4

    def train(name, num_devices, steps):
        config = flat_config.copy_and_resolve_references()
        config.update(num_devices=num_devices, num_steps=steps)
        run, workdir = fake_run(config), Workdir(tmp_path / name, create=True)
        target = jax.eval_shape(run.init)
        state = checkpoint.load_state(workdir.checkpoints, target, warn=pytest.fail)
        state = run.init() if state is None else state
        state = train_lib.Loop(config_lib.validate(config), run, workdir).run(state)
        workdir.close()
        return state

    straight = train("straight", 1, 6)
    for first, then in ((1, 4), (4, 2)):
        name = f"from_{first}"
        train(name, first, 4)
        moved = train(name, then, 6)
        for a, b in zip(leaves(straight), leaves(moved), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_best_checkpoint_is_that_with_the_lowest_metric(loop, fake_metrics):
    _, run, _ = loop(name="other")

    def judged_step(state, *arguments):
        state, _ = run.step(state, *arguments)
        worse = float(int(state.step) > 2)
        return state, fake_metrics(3, residual__rms=np.float32(worse))

    trainer, _, workdir = loop(step=judged_step, best="residual/rms")
    trainer.run(run.init())
    assert checkpoint.list_steps(workdir.checkpoints) == [2, 4, 6]
    assert checkpoint.find_best(workdir.checkpoints) == 2


def test_deleted_files_of_a_run_do_not_stop_it(loop):
    straight, run, _ = loop(name="straight")
    expected = straight.run(run.init())
    _, run, workdir = loop()

    def step_and_delete(state, *arguments):
        if int(state.step) == 3:
            (workdir.path / "metrics.jsonl").unlink()
            shutil.rmtree(workdir.path / "images")
            shutil.rmtree(workdir.checkpoints, ignore_errors=True)  # being written
        return run.step(state, *arguments)

    workdir.close()
    trainer, run_deleting, workdir = loop(step=step_and_delete)
    state = trainer.run(run_deleting.init())
    for a, b in zip(leaves(expected), leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    assert checkpoint.list_steps(workdir.checkpoints) == [4, 6]
    assert (workdir.path / "images" / "step_000006.png").exists()


def test_alarm_stops_with_step_and_last_checkpoint(loop, fake_metrics, monkeypatch):
    monkeypatch.setattr(monitor, "PATIENCE", 3)
    _, run, _ = loop(name="other")

    def bad_step(state, *arguments):
        state, _ = run.step(state, *arguments)
        return state, fake_metrics(3, particle__skipped=np.ones(3, int))

    trainer, _, workdir = loop(step=bad_step)
    with pytest.raises(RunError) as error:
        trainer.run(run.init())
    assert "Stopped at step 4." in str(error.value)
    assert "not finite since step 1" in str(error.value)
    assert "Last checkpoint: step 2" in str(error.value)
    rows = writer.read_metrics(workdir.path / "metrics.jsonl")
    assert "not finite" in rows[-1]["alarm"]


def test_full_disk_on_the_way_is_survived(loop, monkeypatch, capsys):
    save, calls = checkpoint.save_state, []

    def full_at_first(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return save(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save_state", full_at_first)
    trainer, run, workdir = loop()
    trainer.run(run.init())
    assert "No space left" in capsys.readouterr().out
    assert checkpoint.list_steps(workdir.checkpoints) == [4, 6]


def test_full_disk_while_logging_is_survived_and_told(loop, monkeypatch, capsys):
    write = writer.MetricsFile.write

    def full_at_times(self, step, row):
        if step % 2:
            raise OSError(28, "No space left on device")
        write(self, step, row)

    monkeypatch.setattr(writer.MetricsFile, "write", full_at_times)
    trainer, run, workdir = loop()
    assert int(trainer.run(run.init()).step) == 6
    assert "metrics of step 3 are lost" in capsys.readouterr().out
    rows = writer.read_metrics(workdir.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 6]


def test_a_clock_that_jumps_changes_nothing(loop, monkeypatch):
    straight, run, _ = loop(name="straight")
    expected = straight.run(run.init())
    shift, now = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: now() + shift[0])

    def step_and_jump(state, *arguments):
        shift[0] = (-1e8, 1e7, 0.0)[int(state.step) % 3]
        return run.step(state, *arguments)

    trainer, run_jumping, workdir = loop(step=step_and_jump)
    state = trainer.run(run_jumping.init())
    for a, b in zip(leaves(expected), leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    found = restore(run, workdir)
    assert int(found.step) == 6  # by the number in its name, not by its date


def test_full_disk_at_the_end_says_how_to_go_on(loop, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_state", full)
    trainer, run, _ = loop()
    with pytest.raises(RunError, match="same command again"):
        trainer.run(run.init())


def test_second_signal_kills_as_usual():
    # A program started in the background may ignore SIGINT: then it stays ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with train_lib.catch_signals() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 0.1)


def test_particles_fill_the_rows_of_a_flat_sheet():
    rgb = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1, 1) * np.ones(
        (1, 1, 2, 2, 3)
    )
    rows = train_lib._as_rows(rgb, 3)
    assert rows.shape == (2, 3, 2, 2, 3)
    assert rows[1, 1, 0, 0, 0] == 4 and rows[1, 2, 0, 0, 0] == 1
