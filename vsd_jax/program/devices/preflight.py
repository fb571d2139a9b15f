# SPDX-License-Identifier: Apache-2.0
"""Does a run fit, and how long will it take? Answered before any weight is loaded.

The step is compiled from shapes alone; its memory, arithmetic and traffic are what the
compiler reports for the machine it runs on. Times elsewhere are a roofline: the larger
of arithmetic at `EFFICIENCY` of the peak and traffic at `EFFICIENCY` of the bandwidth.
Neither network nor folder is needed for the checkpoints that `configs/` name.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax

from vsd_jax.program import Config
from vsd_jax.program.build import build
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal import process, progress
from vsd_jax.program.terminal.errors import ConfigError
from vsd_jax.types import PyTree, VSDState

EFFICIENCY = 0.4
"""Share of the peaks below that such programs reach; a plain assumption."""


class Accelerator(NamedTuple):
    """Nominal peaks of a device, rounded, as its maker quotes them.

    Attributes:
      memory: GB.
      bandwidth: GB / s.
      half: dense TFLOP / s in the first of `dtypes`.
      float32: TFLOP / s; for TPUs, which give none, a sixth of bfloat16 is assumed.
      dtypes: of 16 bits that it computes in; another runs as float32 does.
    """

    memory: float
    bandwidth: float
    half: float
    float32: float
    dtypes: tuple[str, ...] = ("bfloat16", "float16")


_TPU = ("bfloat16",)
ACCELERATORS = {
    # The two that a free Colab may have come first.
    "T4": Accelerator(16, 320, 65, 8.1, ("float16",)),
    "TPU v5e-1": Accelerator(16, 819, 197, 33, _TPU),
    "L4": Accelerator(24, 300, 121, 30),
    "A100 40 GB": Accelerator(40, 1555, 312, 19.5),
    "A100 80 GB": Accelerator(80, 2039, 312, 19.5),
    "H100 SXM": Accelerator(80, 3350, 989, 67),
    "H200": Accelerator(141, 4800, 989, 67),
    "TPU v4": Accelerator(32, 1228, 275, 46, _TPU),
    "TPU v5p": Accelerator(95, 2765, 459, 77, _TPU),
    "TPU v6e": Accelerator(32, 1640, 918, 153, _TPU),
}
_SMALLEST = min(device.memory for device in ACCELERATORS.values())


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
    """Compiles the step of a configuration from shapes, that of one of its devices.

    Raises:
      RunError: if the prior's configuration files cannot be read.
    """
    run = build.build(one_device(config), load_weights=False)
    state = jax.eval_shape(run.init)
    compiled = run.step.lower(state, run.prior_params, run.prompts).compile()
    return needs_of(compiled, state, run.prior_params)


def one_device(config: Config) -> Config:
    """What one of `num_devices` does: its particles, or its share of one's views."""
    devices, particles = config.num_devices, config.num_particles
    if devices == 1:
        return config
    alone = config.as_configdict()
    alone.num_devices = 1
    alone.num_particles = alone.particles_per_step = max(1, particles // devices)
    alone.vsd.views_per_step //= max(1, devices // particles)
    return config_lib.validate(alone)


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


def fits(needs: Needs, memory: float) -> bool:
    """Whether a step has room in `memory` GB."""
    return needs.memory < process.DEVICE_SHARE * memory * 1e9


def step_seconds(needs: Needs, device: Accelerator, dtype: str) -> float:
    """Roofline of one step, seconds."""
    peak = device.half if dtype in device.dtypes else device.float32
    arithmetic = needs.flops / (peak * 1e12)
    traffic = needs.traffic / (device.bandwidth * 1e9)
    return max(arithmetic, traffic) / EFFICIENCY


def describe(config: Config, needs: Needs) -> str:
    """The answer as text: what one step needs, and a line for each accelerator."""
    dtype, steps = config.prior.dtype, f"{config.num_steps:,} steps"
    lines = [
        f"parameters: prior {needs.prior / 1e6:,.1f} M, theta"
        f" {needs.theta / 1e6:,.2f} M, trained score network {needs.phi / 1e6:,.2f} M",
        f"one step: {needs.memory / 1e9:.2f} GB at its peak,"
        f" {needs.flops / 1e12:.3f} TFLOP, {needs.traffic / 1e9:.1f} GB read and"
        f" written (as compiled for {jax.default_backend()})",
        f"on a CPU: about {(needs.memory + needs.program) / 1e9:.2f} GB resident, with"
        f" {needs.program / 1e9:.2f} GB of the program itself",
        "",
        f"{'estimates:':12} {'fits':>5} {'a step':>10} {steps:>16}",
    ]
    for name, device in ACCELERATORS.items():
        seconds = step_seconds(needs, device, dtype)
        total = progress.duration(seconds * config.num_steps)
        answer = "yes" if fits(needs, device.memory) else "no"
        line = f"{name:12} {answer:>5} {seconds * 1e3:>7.1f} ms {total:>16}"
        if dtype not in ("float32", *device.dtypes):
            line += f"   has no {dtype}: prior.dtype={device.dtypes[0]}"
        lines.append(line)
    lines.append(
        "\nParameters are exact. Arithmetic and traffic count the body of a loop once:"
        " those of a render in several chunks and of a method that asks the prior in a"
        " loop are higher (a render of 512 x 512 pixels in 16 chunks has 1.6 times the"
        " step's traffic). The table is an estimate: memory as compiled here (in 16"
        f" bits a {jax.default_backend()} may need more than an accelerator), times as"
        f" {EFFICIENCY:.0%} of the nominal peaks, in float32 without TF32, which JAX"
        " takes where a card has it."
    )
    if jax.default_backend() != "cpu":
        lines.append(
            f"As compiled for {jax.default_backend()} much is left out of arithmetic"
            " and traffic, and times are too short: JAX_PLATFORMS=cpu counts more."
        )
    return "\n".join(lines)


def remedies(config: Config) -> Iterator[dict[str, object]]:
    """Changes of settings that need less memory, the least harmful first."""
    half = {"prior.dtype": config.prior.dtype, "render.keep_features": False}
    if config.render.keep_features:
        yield half
    if config.prior.dtype == "float32":
        half = half | {"prior.dtype": "float16"}
        yield half
    smaller = half | {"render.max_rays": min(config.render.max_rays, 4096)}
    if config.render.max_rays > 4096:
        yield smaller
    # Devices that share a particle need a view each.
    views = max(1, config.num_devices // config.num_particles)
    size = config.render.size // 2
    fewer = smaller | {"vsd.views_per_step": views, "render.size": size}
    if config.render.early_size >= size:
        fewer |= {"render.early_size": 0}
    if config.num_devices == 1:
        fewer |= {"particles_per_step": 1}
    yield fewer


def find_remedy(config: Config) -> str:
    """A sentence that names the first of `remedies` with which all devices have room.

    Each is compiled in its turn. Keys that stay as they are are not named.
    """
    flat = config_lib.flatten(config)
    for changes in remedies(config):
        changed = config.as_configdict()
        changed.update_from_flattened_dict(changes)
        needs = measure(config_lib.validate(changed))
        if fits(needs, _SMALLEST):
            options = [
                f"--config.{key}={value}"
                for key, value in changes.items()
                if flat[key] != value
            ]
            found = f"{needs.memory / 1e9:.2f} GB, which fits {_SMALLEST:g} GB."
            return f"With {' '.join(options)} a step needs {found}" + (
                " On a TPU take bfloat16 for float16, as large."
                if changes["prior.dtype"] == "float16"
                else ""
            )
    return (
        f"No smaller setting fits {_SMALLEST:g} GB; use a smaller prior, such as"
        " --config=object:colab."
    )


def run(config: Config) -> None:
    """Prints the answer."""
    if config.num_shards > 1:
        raise ConfigError(
            f"num_shards={config.num_shards}: --mode=preflight measures a device that"
            " holds the whole prior; leave it out."
        )
    progress.say("Compiling one step from shapes; no weight is loaded.")
    if config.num_devices > 1:
        progress.say(f"That of one of {config.num_devices} devices.")
    needs = measure(config)
    progress.say(describe(config, needs))
    if not fits(needs, _SMALLEST):
        progress.say(f"Looking for settings that fit {_SMALLEST:g} GB ...")
        progress.say(find_remedy(config))
