# SPDX-License-Identifier: Apache-2.0
"""Does a run fit, and how long will it take? Answered before any weight is loaded.

The step is compiled from shapes alone; its memory, arithmetic and traffic are what the
compiler reports for the machine it runs on. Times elsewhere are a roofline: the larger
of arithmetic at `EFFICIENCY` of the peak and traffic at `EFFICIENCY` of the bandwidth.
"""

from typing import NamedTuple

import jax

from vsd_jax.program import Config
from vsd_jax.program.build import build
from vsd_jax.program.terminal import process, progress
from vsd_jax.types import PyTree, VSDState

EFFICIENCY = 0.4
"""Share of the peaks below that such programs reach; a plain assumption."""


class Accelerator(NamedTuple):
    """Nominal peaks of a device, rounded, as its maker quotes them.

    Attributes:
      memory: GB.
      bandwidth: GB / s.
      bfloat16: dense TFLOP / s (float16 where there is no bfloat16).
      float32: TFLOP / s; for TPUs, which give none, a sixth of bfloat16 is assumed.
    """

    memory: float
    bandwidth: float
    bfloat16: float
    float32: float


ACCELERATORS = {
    "T4": Accelerator(16, 320, 65, 8.1),
    "L4": Accelerator(24, 300, 121, 30),
    "A100 40 GB": Accelerator(40, 1555, 312, 19.5),
    "A100 80 GB": Accelerator(80, 2039, 312, 19.5),
    "H100 SXM": Accelerator(80, 3350, 989, 67),
    "TPU v4": Accelerator(32, 1228, 275, 46),
    "TPU v5e": Accelerator(16, 819, 197, 33),
    "TPU v5p": Accelerator(95, 2765, 459, 77),
    "TPU v6e": Accelerator(32, 1640, 918, 153),
}


class Needs(NamedTuple):
    """What one step needs.

    Attributes:
      prior: parameters of the frozen networks.
      theta: parameters of all particles.
      phi: parameters of the score network that are trained.
      memory: peak of one step, bytes: arguments, results and temporaries.
      flops: floating point operations of one step.
      traffic: bytes that one step reads and writes.
      program: bytes that the program itself holds once the step is compiled: on a CPU
        they share the memory with the step.
    """

    prior: int
    theta: int
    phi: int
    memory: float
    flops: float
    traffic: float
    program: float = 0.0


def measure(config: Config) -> Needs:
    """Compiles the step of a configuration from shapes.

    Raises:
      RunError: if the prior's configuration files cannot be read.
    """
    run = build.build(config, load_weights=False)
    state = jax.eval_shape(run.init)
    compiled = run.step.lower(state, run.prior_params, run.prompts).compile()
    return needs_of(compiled, state, run.prior_params)


def needs_of(
    compiled: jax.stages.Compiled, state: VSDState, prior_params: PyTree
) -> Needs:
    """What a compiled step needs, asked before its weights are there.

    Args:
      compiled: the step.
      state: arrays or shapes.
      prior_params: arrays or shapes.
    """
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return Needs(
        prior=_count(prior_params),
        theta=_count(state.particles.params),
        phi=_count(state.score.params),
        memory=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        flops=cost["flops"],
        traffic=cost["bytes accessed"],
        program=process.resident_bytes(),
    )


def _count(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def step_seconds(needs: Needs, device: Accelerator, dtype: str) -> float:
    """Roofline of one step, seconds."""
    peak = device.bfloat16 if dtype == "bfloat16" else device.float32
    arithmetic = needs.flops / (peak * 1e12)
    traffic = needs.traffic / (device.bandwidth * 1e9)
    return max(arithmetic, traffic) / EFFICIENCY


def describe(config: Config, needs: Needs) -> str:
    """The answer as text: what one step needs, and a line for each accelerator."""
    lines = [
        f"parameters: prior {needs.prior / 1e6:,.1f} M, theta"
        f" {needs.theta / 1e6:,.2f} M, trained score network {needs.phi / 1e6:,.2f} M",
        f"one step: {needs.memory / 1e9:.2f} GB at its peak,"
        f" {needs.flops / 1e12:.3f} TFLOP, {needs.traffic / 1e9:.1f} GB read and"
        f" written (as compiled for {jax.default_backend()})",
        f"on a CPU: about {(needs.memory + needs.program) / 1e9:.2f} GB resident, with"
        f" {needs.program / 1e9:.2f} GB of the program itself",
        "",
        f"{'':12} {'fits':>5} {'a step':>10} {config.num_steps:>10,} steps",
    ]
    fits = []
    for name, device in ACCELERATORS.items():
        seconds = step_seconds(needs, device, config.prior.dtype)
        # The runtime and the compiler's own buffers take their share.
        fits.append(needs.memory < 0.9 * device.memory * 1e9)
        total = progress.duration(seconds * config.num_steps)
        answer = "yes" if fits[-1] else "no"
        lines.append(f"{name:12} {answer:>5} {seconds * 1e3:>7.1f} ms {total:>16}")
    if not all(fits):
        lines.append(
            "\nLess memory: --config.prior.dtype=bfloat16, a smaller render.max_rays,"
            " render.size or vsd.views_per_step, particles_per_step=1."
        )
    return "\n".join(lines)


def run(config: Config) -> None:
    """Prints the answer."""
    progress.say("Compiling one step from shapes; no weight is loaded.")
    progress.say(describe(config, measure(config)))
