# SPDX-License-Identifier: Apache-2.0
"""Several processes on the loopback interface: what one gives; stopped and killed."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import types

import hosts_run
import jax
import numpy as np
import pytest

from configs import image2d
from vsd_jax.program.devices import hosts
from vsd_jax.program.folder import checkpoint, writer
from vsd_jax.program.folder.workdir import Workdir
from vsd_jax.program.run import train
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError, RunError

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "hosts_run.py"
STEPS, PARTICLES = 8, 4
SETTINGS = {
    "num_steps": STEPS,
    "num_particles": PARTICLES,
    "render.size": 8,
    "log.sheet_size": 8,
    "log.image_every": 4,
    "log.checkpoint_every": 1,
}


def _heed_hangups() -> None:
    """As from a terminal, also where the tests themselves run under `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(
    folder, num: int, *, slow: float = 0.0, session: bool = False
) -> list[subprocess.Popen]:
    """Starts the processes of a run; their stderr goes to `folder/../ID.txt`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(SCRIPT), f"--workdir={folder}"]
    command += [f"--config={ROOT / 'configs' / 'image2d.py'}:smoke"]
    command += [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    command += [f"--config.num_devices={num}", f"--num_processes={num}"]
    command += [f"--coordinator=127.0.0.1:{port}"]
    flags = "--xla_backend_optimization_level=0"  # and one device each
    environment = {**os.environ, "SLOW": str(slow), "XLA_FLAGS": flags}
    return [
        subprocess.Popen(
            [*command, f"--process_id={i}"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=log(folder, i).open("w"),
            start_new_session=session,
            preexec_fn=_heed_hangups,
        )
        for i in range(num)
    ]


def log(folder, process_id: int) -> pathlib.Path:
    return folder.parent / f"{process_id}.txt"


def wait_for_steps(folder, num: int) -> None:
    end = time.monotonic() + 300
    while max(checkpoint.list_steps(folder / "checkpoints"), default=0) < num:
        assert time.monotonic() < end, log(folder, 0).read_text()
        time.sleep(0.1)


def finish(folder, processes) -> None:
    statuses = [process.wait(timeout=600) for process in processes]
    assert statuses == [0] * len(processes), log(folder, 0).read_text()


@pytest.fixture(scope="module")
def config():
    config = image2d.get_config("smoke")
    config.update_from_flattened_dict(SETTINGS)
    return config_lib.validate(config)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, config):
    """The run in one process on one device: (its last state, its metrics)."""
    folder = tmp_path_factory.mktemp("alone")
    run, workdir = hosts_run.make_run(config), Workdir(folder, create=True)
    state = train.Loop(config, run, workdir).run(run.init())
    return state, rows(folder)


def rows(folder) -> list[dict]:
    return writer.read_metrics(folder / "metrics.jsonl")


def assert_same(folder, config, alone) -> None:
    """The last state and the metrics of all steps are those of one process."""
    state, expected = alone
    target = jax.eval_shape(hosts_run.make_run(config).init)
    found = checkpoint.load_state(
        folder / "checkpoints", target, warn=lambda text: pytest.fail(text)
    )
    assert int(found.step) == STEPS
    parts = ((each.particles, each.score) for each in (state, found))
    for a, b in zip(*map(jax.tree.leaves, parts), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * np.abs(a).max())
    mine = rows(folder)
    assert [row["step"] for row in mine] == [row["step"] for row in expected]
    for a, b in zip(expected, mine, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            pair = np.array([b[name], value], float)  # None, where nothing was: nan
            np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-4, err_msg=name)
    assert (folder / "images" / f"step_{STEPS:06d}.png").exists()
    assert (folder / "report.html").exists()


def test_two_hosts_stop_together_and_go_on_to_what_one_gives(tmp_path, config, alone):
    folder = tmp_path / "run"
    processes = start(folder, 2, slow=0.5)
    wait_for_steps(folder, 2)
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=300) for process in processes] == [75, 75]
    texts = [log(folder, i).read_text() for i in range(2)]
    said = [re.findall(r"Stopped at step (\d+) of", text) for text in texts]
    assert len(said[0]) == 1 and said[0] == said[1]
    steps = checkpoint.list_steps(folder / "checkpoints")
    assert steps[-1] == int(said[0][0]) < STEPS
    finish(folder, start(folder, 2))
    assert_same(folder, config, alone)


def test_a_lost_session_stops_all_processes_with_their_state(tmp_path, config):
    folder = tmp_path / "run"
    processes = start(folder, 2, slow=0.5, session=True)
    wait_for_steps(folder, 2)
    for _ in range(2):  # of the terminal and of the shell, to supervisor and child
        os.killpg(processes[0].pid, signal.SIGHUP)
    assert [process.wait(timeout=300) for process in processes] == [75, 75]
    said = re.findall(r"Stopped at step (\d+) of", log(folder, 0).read_text())
    steps = checkpoint.list_steps(folder / "checkpoints")
    assert len(said) == 1 and steps[-1] == int(said[0]) < STEPS


def test_one_process_stops_with_its_state_when_its_session_is_lost(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, str(SCRIPT), f"--workdir={folder}"]
    command += [f"--config={ROOT / 'configs' / 'image2d.py'}:smoke"]
    command += [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    program = subprocess.Popen(
        command,
        env={**os.environ, "SLOW": "0.5"},
        stdout=subprocess.PIPE,
        stderr=log(folder, 0).open("w"),
        start_new_session=True,
        preexec_fn=_heed_hangups,
    )
    program.stdout.readline()
    program.stdout.close()  # `| head -1`, too
    wait_for_steps(folder, 2)
    os.killpg(program.pid, signal.SIGHUP)
    os.killpg(program.pid, signal.SIGHUP)
    assert program.wait(timeout=300) == 75
    said = re.findall(r"Stopped at step (\d+) of", log(folder, 0).read_text())
    assert len(said) == 1
    assert checkpoint.list_steps(folder / "checkpoints")[-1] == int(said[0])


def test_a_killed_host_stops_all_and_any_number_goes_on(tmp_path, config, alone):
    folder = tmp_path / "run"
    processes = start(folder, 4, slow=0.5)
    wait_for_steps(folder, 3)
    processes[2].kill()
    killed = time.monotonic()
    assert [process.wait(timeout=300) for process in processes] == [1, 1, -9, 1]
    assert time.monotonic() - killed < 60
    last = checkpoint.list_steps(folder / "checkpoints")[-1]
    assert last < STEPS
    for i in (0, 1, 3):
        said = [line for line in log(folder, i).read_text().splitlines() if line]
        said = [line for line in said if line != "step"]
        assert len(said) == 1, said
        # The first may be gone too before the others have heard of whom it names.
        assert re.search(f"Process [2{0 if i else ''}] of this run is gone", said[0])
        assert f"it goes on from checkpoint step {last}." in said[0]
    finish(folder, start(folder, 2))
    assert_same(folder, config, alone)


def test_one_process_is_not_several(config):
    assert hosts.is_first() and not hosts.are_several()
    hosts.wait("here")
    hosts.check_devices(config)
    hosts.agree(config, 7)
    assert hosts.tell_all(5) == 5
    hosts.await_verdict(ValueError("a fault of ours"))


@pytest.fixture
def second_of_two(monkeypatch):
    """This process as the second of two; what the first says can be given."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(hosts, "wait", lambda name: None)

    def hear(change):
        monkeypatch.setattr(
            hosts.multihost_utils,
            "process_allgather",
            lambda mine: np.stack([change(mine.copy()), mine]),
        )

    return hear


def test_devices_are_counted_over_all(second_of_two):
    hosts.check_devices(_devices(num_devices=8, num_particles=4))
    with pytest.raises(ConfigError, match="num_devices=4, but the 2 processes have 8"):
        hosts.check_devices(_devices(num_devices=4, num_particles=4))
    with pytest.raises(ConfigError, match="num_particles=1 must be a multiple of the"):
        hosts.check_devices(_devices(num_devices=8, num_particles=1))


def _devices(**changes):
    return types.SimpleNamespace(num_shards=1, **changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ([1, 0], "Process 1 has another configuration than process 0"),
        ([0, 4], "Process 1 would go on from step 7 and process 0 from step 11"),
    ],
)
def test_all_must_begin_the_same(second_of_two, config, change, words):
    second_of_two(lambda mine: mine)
    hosts.agree(config, 7)
    second_of_two(lambda mine: mine + np.array(change, np.int32))
    with pytest.raises(RunError, match=words):
        hosts.agree(config, 7)


def test_only_the_first_locks_and_writes(second_of_two, tmp_path, monkeypatch, config):
    monkeypatch.setattr(hosts, "tell_all", lambda value: 1)
    folder = tmp_path / "not_there_yet"
    workdir = Workdir(folder, create=True)
    workdir.adopt(config, overwrite=True)
    workdir.record(["python"])
    workdir.require_space(2**60)
    workdir.close()
    assert workdir.resumed and not folder.exists()


def test_who_cannot_join_says_why(monkeypatch):
    def fail(*arguments, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    monkeypatch.setattr(hosts, "_set", lambda name, value: None)
    with pytest.raises(RunError, match="--distributed found no SLURM"):
        hosts.join(hosts.Place())
    with pytest.raises(RunError, match="Process 1 of 2 could not join .*=a:1 "):
        hosts.join(hosts.Place("a:1", 2, 1))
