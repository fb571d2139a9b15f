# SPDX-License-Identifier: Apache-2.0
"""Several hosts: one process on each, joined by `jax.distributed` into one run.

All of them build the same run and make the same steps, each on its own particles.
Process 0, the first, writes: the folder's settings, metrics, pictures, report and
products. Checkpoints are written by all, each its own particles, so that the folder
must be on a file system that all of them share. docs/scaling.md tells the rest.
"""

import hashlib
import inspect
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from vsd_jax.program import Config
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError, RunError

HEARTBEAT_SECONDS = 20
"""A process that was not heard of for so long is taken for dead."""

_JOIN_SECONDS = 300
# The others wait for the first as long as its pictures, meshes and numbers take.
_WAIT_SECONDS = 7 * 24 * 3600
_LEAVE_SECONDS = 3.0


class Place(NamedTuple):
    """One process of a run; all three empty: the cluster tells.

    Attributes:
      coordinator: "host:port" of process 0.
      num_processes: in the run.
      process_id: of this one, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def join(place: Place) -> None:
    """Joins the other processes; before anything touches a device.

    Raises:
      RunError: if they are not found, or there is no cluster that tells where they are.
    """
    # The loop has its own answer to SIGTERM, which stops all at the same step.
    _set("jax_enable_preemption_service", False)
    _set("jax_cpu_collectives_implementation", "gloo")
    limits = {
        "initialization_timeout": _JOIN_SECONDS,
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": _WAIT_SECONDS,
    }
    known = inspect.signature(jax.distributed.initialize).parameters
    limits = {name: value for name, value in limits.items() if name in known}
    if place.coordinator is not None:
        # Else a SLURM job would be asked for the devices of each process.
        limits["cluster_detection_method"] = "deactivate"
    try:
        jax.distributed.initialize(*place, **limits)
    except (ValueError, RuntimeError) as error:
        raise RunError(_not_joined(place, error)) from error
    if not is_first():
        # The first one tells how far the run is.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _set(name: str, value: Any) -> None:
    if hasattr(jax.config, name):
        jax.config.update(name, value)


def _not_joined(place: Place, error: Exception) -> str:
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    if place.coordinator is None:
        return (
            "--distributed found no SLURM, Kubernetes, Open MPI or TPU cluster that"
            f" tells where the processes are ({reason}). Give --coordinator=HOST:PORT,"
            " --num_processes=N and --process_id=I instead."
        )
    return (
        f"Process {place.process_id} of {place.num_processes} could not join the others"
        f" at --coordinator={place.coordinator} ({reason}). Start all of them with the"
        " same --coordinator, a free port of process 0's host that the others reach."
    )


def are_several() -> bool:
    """Whether this run has more than one process."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process writes; also when it is the only one."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Until all processes are here, however long that takes; at once for one.

    Args:
      name: of the place in the program, the same on all; may be met again.
    """
    if not are_several():
        return
    # The sum over the devices that JAX offers for this has time limits of its own,
    # shorter than a compilation or the making of a mesh.
    _meetings[name] = _meetings.get(name, 0) + 1
    client = distributed.global_state.client
    client.wait_at_barrier(f"vsd_jax/{name}/{_meetings[name]}", 1000 * _WAIT_SECONDS)


_meetings: dict[str, int] = {}


def tell_all(value: int) -> int:
    """The first process's value, on all."""
    if not are_several():
        return value
    wait("tell")
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def check_devices(config: Config) -> None:
    """The devices of all processes must be those that the configuration counts.

    Raises:
      ConfigError: if they are not.
    """
    num_devices, num_shards = config.num_devices, config.num_shards
    if num_shards > 1 and are_several():
        raise ConfigError(
            f"num_shards={num_shards} is for one process; give num_shards=1, or leave"
            " out the flags for several."
        )
    wanted, here = max(num_devices, num_shards), jax.device_count()
    if wanted > here and not are_several():
        key = "num_devices" if num_devices == wanted else "num_shards"
        raise ConfigError(
            f"{key}={wanted}, but there are {here} devices here; give --config.{key}="
            f"{here} at most. (CPU: XLA_FLAGS=--xla_force_host_platform_device_count="
            f"{wanted} makes as many.)"
        )
    if are_several() and num_devices != jax.device_count():
        raise ConfigError(
            f"num_devices={num_devices}, but the {jax.process_count()} processes have"
            f" {jax.device_count()} devices together; give"
            f" --config.num_devices={jax.device_count()}, and as many to each process."
        )
    if config.num_particles % jax.process_count():
        raise ConfigError(
            f"num_particles={config.num_particles} must be a multiple of the"
            f" {jax.process_count()} processes: each particle stays in one."
        )


def agree(config: Mapping[str, Any], step: int) -> None:
    """All processes must begin the same run at the same step.

    Args:
      config: validated.
      step: that this process would go on from.

    Raises:
      RunError: naming the process that differs from the first, and in what.
    """
    if not are_several():
        return
    text = json.dumps(config_lib.flatten(config), sort_keys=True, default=str)
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:4], np.int32)[0]
    wait("agree")
    mine = np.array([digest, step], np.int32)
    digests, steps = np.reshape(multihost_utils.process_allgather(mine), (-1, 2)).T
    for other in np.flatnonzero(digests != digests[0]):
        raise RunError(
            f"Process {other} has another configuration than process 0; give the same"
            " command to all of them (only --process_id differs)."
        )
    for other in np.flatnonzero(steps != steps[0]):
        raise RunError(
            f"Process {other} would go on from step {steps[other]} and process 0 from"
            f" step {steps[0]}; --workdir must be one folder on a file system that all"
            " hosts share."
        )


def await_verdict(error: BaseException) -> None:
    """Waits for what JAX says of the other processes, if that may explain a fault.

    When one dies, the next sum over the devices may fail before JAX has missed its
    heartbeat. Then it ends this process, and says which one is gone, within the wait.
    """
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(2 * HEARTBEAT_SECONDS)
            return
        error = error.__cause__ or error.__context__


def leave(status: int = 1) -> None:
    """Ends this process at once; call it when its fault is told.

    It must not wait for the others, who may wait for it, as an ordinary end would: the
    heartbeat that stops tells them.
    """
    if is_first():
        # It leads: when all have the same fault, the others must tell it before.
        time.sleep(_LEAVE_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
