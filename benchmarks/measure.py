# SPDX-License-Identifier: Apache-2.0
"""Timing that means something on a busy machine.

CPU time (user + system, all threads) instead of wall clock, medians, and candidates in
turn inside one process, so that a ratio compares two runs under the same load.
"""

import math
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable

from vsd_jax.experiments.present import table  # noqa: F401 (the benchmarks' too)


def median_cpu_ms(
    candidates: dict[str, Callable[[], object]], rounds: int
) -> dict[str, float]:
    """Median CPU milliseconds of each candidate, run in turn.

    Args:
      candidates: name -> function that returns when its work is done; called once
        before timing.
      rounds: timed calls of each.
    """
    for run in candidates.values():
        run()
    spent = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            begin = time.process_time()
            run()
            spent[name].append(time.process_time() - begin)
    return {name: 1e3 * statistics.median(times) for name, times in spent.items()}


def reset_peak() -> None:
    """Lets `peak_bytes` count from now on, where the system can (Linux)."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def peak_bytes() -> int:
    """Largest resident memory of this process since `reset_peak`, or ever."""
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def exponent(sizes: list[float], times: list[float]) -> float:
    """Least-squares slope of log time over log size."""
    x, y = [math.log(s) for s in sizes], [math.log(t) for t in times]
    mean_x, mean_y = statistics.mean(x), statistics.mean(y)
    rise = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return rise / sum((a - mean_x) ** 2 for a in x)


def machine() -> str:
    """One line: processor, cores, load."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line for line in file if "model name" in line)
        model = model.split(":")[1].strip()
    except (OSError, StopIteration):
        pass
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return f"{model}, {os.cpu_count()} cores, load {load}"
