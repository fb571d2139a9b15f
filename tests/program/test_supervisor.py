# SPDX-License-Identifier: Apache-2.0
"""The process around one of several: its child's words, signals and end."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from vsd_jax.program.devices import supervisor

FATAL = (
    "E1125 12:45:09.9 6251 coordination_service.cc:1549] Use error polling to propagate"
    " the following error to all tasks: UNAVAILABLE: The following tasks are unhealthy"
    " (stopped sending heartbeats):\n{tasks}\nThe tasks have crashed. Check the task"
    " logs.\nF1125 12:45:09.9 6282 client.h:80] Terminating process because the JAX"
    " distributed service detected fatal errors. absl::Status: UNAVAILABLE: The"
    " following tasks are unhealthy (stopped sending heartbeats):\n{tasks}\nThe tasks"
    " have crashed.\n*** Check failure stack trace: ***\n"
)
LEADER = (
    "F1125 12:45:27.2 6418 client.h:80] Terminating process because the JAX distributed"
    " service detected fatal errors. Failed to send RPC to coordination service.\n"
)


def run(code: str, folder) -> subprocess.Popen:
    """A supervisor, in a process of its own, of a child that runs `code`."""
    program = (
        "import sys\nfrom vsd_jax.program.devices import supervisor\n"
        f"command = [sys.executable, '-u', '-c', {code!r}]\n"
        f"sys.exit(supervisor.supervise(command, {str(folder)!r}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize(
    ("words", "who"),
    [
        (FATAL.format(tasks="1"), "Process 1 of this run is gone"),
        (FATAL.format(tasks="1\n11"), "Processes 1, 11 of this run are gone"),
        (
            FATAL.format(tasks="/job:jax_worker/replica:0/task:3"),
            "Process 3 of this run is gone",
        ),
        (LEADER, "Process 0 of this run is gone"),
    ],
)
def test_one_sentence_names_who_is_gone_and_what_to_do(words, who, tmp_path):
    said = supervisor.explain(words, str(tmp_path))
    assert said.startswith(who) and "\n" not in said
    assert "it begins anew" in said
    for name in ("nerf/checkpoints/step_000500", "nerf/checkpoints/step_001000"):
        (tmp_path / name).mkdir(parents=True)
    said = supervisor.explain(words, str(tmp_path))
    assert "Run the same command on all hosts again" in said
    assert "from checkpoint step 1000." in said
    assert "--overwrite" not in said
    said = supervisor.explain(words, str(tmp_path), overwrite=True)
    assert "without --overwrite, which would delete it: it goes on" in said


def test_who_is_not_named_is_not_guessed(tmp_path):
    words = LEADER.replace("Failed to send RPC to coordination service", "ABORTED")
    said = supervisor.explain(words, str(tmp_path))
    assert said.startswith("Another process of this run is gone")
    words = LEADER.replace("Failed to send RPC to", "RPC: /RegisterTask")
    said = supervisor.explain(words, str(tmp_path))
    assert "did not all come together" in said and "--coordinator" in said


@pytest.mark.parametrize("end", ["os.abort()", "os._exit(1)"])  # newer jax, jax 0.7
def test_the_abort_of_jax_becomes_the_sentence(end, tmp_path):
    code = f"import os, sys; sys.stderr.write('mine\\n' + {FATAL.format(tasks=2)!r})"
    supervised = run(f"{code}; sys.stderr.flush(); {end}", tmp_path)
    lines = supervised.communicate(timeout=60)[1].splitlines()
    assert supervised.returncode == 1
    assert lines[0] == "mine" and len(lines) == 2
    assert lines[1].startswith("vsd_jax: Process 2 of this run is gone")


@pytest.mark.parametrize(("end", "status"), [("sys.exit(3)", 3), ("os.abort()", 134)])
def test_another_end_keeps_its_words_and_status(end, status, tmp_path):
    words = "E1125 coordination_service is mentioned"
    code = f"import os, sys; print({words!r}, file=sys.stderr, flush=True); {end}"
    supervised = run(code, tmp_path)
    assert words in supervised.communicate(timeout=60)[1]
    assert supervised.returncode == status


def test_signals_are_passed_on_and_a_kill_takes_the_child_along(tmp_path):
    code = (
        "import os, signal, sys, time\n"
        "from vsd_jax.program.devices import supervisor\n"
        "assert supervisor.is_child()\n"
        "supervisor.die_with_parent()\n"
        "signal.signal(supervisor.STOP_SIGNAL, lambda *_: print('asked'))\n"
        "print(os.getpid())\n"
        "while True: time.sleep(0.1)"
    )
    supervised = run(code, tmp_path)
    child = int(supervised.stdout.readline())
    supervised.send_signal(signal.SIGTERM)
    assert supervised.stdout.readline() == "asked\n"
    supervised.kill()
    supervised.wait()
    if sys.platform.startswith("linux"):
        deadline = time.monotonic() + 30
        while is_running(child):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def is_running(process_id: int) -> bool:
    try:
        with open(f"/proc/{process_id}/stat", encoding="utf-8") as file:
            return re.search(r"\) (\w)", file.read())[1] != "Z"
    except FileNotFoundError:
        return False
