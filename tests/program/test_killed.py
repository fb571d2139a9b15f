# SPDX-License-Identifier: Apache-2.0
"""A run that is killed without warning, again and again, ends as an undisturbed one."""

import pathlib
import random
import subprocess
import sys
import time

from vsd_jax.program.folder import checkpoint, writer

SCRIPT = pathlib.Path(__file__).with_name("killed_run.py")
STEPS, KILLS = 50, 6


def begin(folder) -> subprocess.Popen:
    """Starts the run and waits until it trains; each step is followed by a save."""
    command = [sys.executable, str(SCRIPT), str(folder), str(STEPS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "training\n"
    return process


def finish(process: subprocess.Popen) -> str:
    """Waits for the end; the digest of the last state."""
    last = process.communicate(timeout=300)[0].splitlines()[-1]
    assert last.startswith("finished ")
    return last


def test_kills_change_nothing(tmp_path):
    process, began = begin(tmp_path / "straight"), time.monotonic()
    expected = finish(process)
    seconds = time.monotonic() - began
    moments, reached = random.Random(0), []
    folder = tmp_path / "killed"
    for _ in range(KILLS):
        process = begin(folder)
        # Short enough that the run is not over before the last kill.
        time.sleep(moments.uniform(0.0, seconds / 6))
        process.kill()
        assert process.wait() == -9
        reached.append(max(checkpoint.list_steps(folder / "checkpoints"), default=0))
    assert reached == sorted(reached) and 0 < reached[-1] < STEPS
    assert finish(begin(folder)) == expected
    rows = writer.read_metrics(folder / "metrics.jsonl")
    steps = [row["step"] for row in rows if "residual/rms" in row]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS
