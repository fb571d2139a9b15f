# SPDX-License-Identifier: Apache-2.0
"""Settings of the process: freed blocks stay for the next allocation."""

import mmap
import subprocess
import sys

import numpy as np
import pytest

from vsd_jax.program.terminal import process

SCRIPT = """
import resource, sys
import numpy as np
from vsd_jax.program.terminal import process
if sys.argv[1] == "reuse":
    assert process.reuse_freed_memory()
np.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    command = [sys.executable, "-c", SCRIPT, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_blocks_are_used_again():
    # 80 MB are 20,000 pages of 4 kB, or 40 of 2 MB: without the setting, each time.
    assert page_faults("reuse") < 0.2 * page_faults("leave")


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_resident_memory_is_what_was_written_to():
    before = process.resident_bytes()
    held = np.frombuffer(mmap.mmap(-1, 80_000_000))  # new pages, not freed ones
    held += 1.0
    assert process.resident_bytes() - before > 0.9 * held.nbytes
