# SPDX-License-Identifier: Apache-2.0
"""How a step's time would grow with particles and devices: a cost model, not a clock.

  python -m benchmarks.scaling --config=configs/object.py [--config.KEY=VALUE ...]

From the compiled program of one particle come FLOPs and bytes
(`program/devices/preflight.py`), from the trained parameters the bytes that devices
exchange; from `ACCELERATORS` and `LINKS` the peaks. One step of n particles on D
devices takes

    (n / D) roofline(one particle) + 2 bytes (1 - 1 / D) / bandwidth
                                   + 2 ceil(log2 D) latency

the last two being a ring's traffic and a tree's delay for one sum over the devices of
the score network's gradient, which is all that crosses them (`tests/test_parallel.py`).
Nothing is assumed to overlap. A machine of several boxes pays its slowest link.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from absl import app
from ml_collections import config_flags

from benchmarks.measure import table
from vsd_jax.program.devices import preflight
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal import process

CONFIG = config_flags.DEFINE_config_file("config", "configs/object.py")
FLOAT = 4  # bytes: the score network's trained part and its gradient are float32
WEAK = (1, 2, 8, 64, 512, 4096)
STRONG = 64  # particles


class Links(NamedTuple):
    """What joins devices of one kind; nominal, one direction, for each device.

    Attributes:
      device: key of `preflight.ACCELERATORS`.
      box: devices that the inner link joins.
      inside, outside: GB / s within such a box, and between boxes.
      latency: seconds of one hop between boxes; a tenth of it inside.
    """

    device: str
    box: int
    inside: float
    outside: float
    latency: float


LINKS = {
    "A100, NVLink 3, 200 Gb/s InfiniBand": Links("A100 80 GB", 8, 300, 25, 5e-6),
    "H100, NVLink 4, 400 Gb/s InfiniBand": Links("H100 SXM", 8, 450, 50, 5e-6),
    "T4, one a host, 10 Gb/s Ethernet": Links("T4", 1, 16, 1.25, 5e-5),
    "TPU v5e, ICI to 256, then 100 Gb/s": Links("TPU v5e-1", 256, 100, 3.1, 3e-5),
    "TPU v5p, ICI to 8,960": Links("TPU v5p", 8960, 300, 25, 3e-5),
}


def exchange_seconds(num_bytes: float, num_devices: int, links: Links) -> float:
    """One sum of an array of `num_bytes` over `num_devices` devices, seconds."""
    if num_devices == 1:
        return 0.0
    within = num_devices <= links.box
    bandwidth = links.inside if within else links.outside
    latency = links.latency / 10 if within else links.latency
    ring = 2 * num_bytes * (1 - 1 / num_devices) / (bandwidth * 1e9)
    return ring + 2 * math.ceil(math.log2(num_devices)) * latency


def weak_rows(needs: preflight.Needs, dtype: str, sums: int) -> Iterator[list[str]]:
    """One particle a device: milliseconds of a step, and its efficiency."""
    for name, links in LINKS.items():
        alone = preflight.step_seconds(
            needs, preflight.ACCELERATORS[links.device], dtype
        )
        cells = []
        for num in WEAK:
            step = alone + sums * exchange_seconds(FLOAT * needs.phi, num, links)
            cells.append(f"{step * 1e3:.1f} ({alone / step:.0%})")
        yield [name, *cells]


def strong_rows(needs: preflight.Needs, dtype: str, sums: int) -> Iterator[list[str]]:
    """`STRONG` particles in all: how often faster than one device."""
    for name, links in LINKS.items():
        alone = preflight.step_seconds(
            needs, preflight.ACCELERATORS[links.device], dtype
        )
        cells = []
        for num in (1, 2, 8, STRONG):
            step = STRONG / num * alone
            step += sums * exchange_seconds(FLOAT * needs.phi, num, links)
            cells.append(f"{STRONG * alone / step:.1f} x")
        yield [name, *cells]


def main(argv: list[str]) -> None:
    """Command line."""
    del argv
    process.enable_compilation_cache()
    config = config_lib.validate(CONFIG.value)
    needs = preflight.measure(config)
    dtype, sums = config.prior.dtype, config.score.steps_per_step
    print(
        f"Compiled: {needs.flops / 1e12:.3f} TFLOP and {needs.traffic / 1e9:.1f} GB a"
        f" step; {FLOAT * needs.phi * sums / 1e6:.2f} MB summed over the devices.\n"
    )
    print("Computed, one particle a device: ms a step (efficiency)\n")
    print(table(["", *(f"{num:,}" for num in WEAK)], weak_rows(needs, dtype, sums)))
    print(f"\nComputed, {STRONG} particles: speed against one device\n")
    head = ["", "1", "2", "8", str(STRONG)]
    print(table(head, strong_rows(needs, dtype, sums)))


if __name__ == "__main__":
    app.run(main)
