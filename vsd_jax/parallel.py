# SPDX-License-Identifier: Apache-2.0
"""Several devices: n particles split over D, one score network kept equal on all.

The only file that names `pmap`. A step made with `axis_name=AXIS` sums the score
network's gradient over the devices; a particle's key depends on its index alone, so D
devices give what one gives (up to the order of sums).

The devices may belong to several hosts (processes that `jax.distributed` joined). D
counts them all; each host holds the block of particles of its own devices, and a
leading axis has the D / hosts entries of this host.

    run = distil(..., devices=Devices(axis_name=AXIS))
    step = parallel_step(run.step)
    state = split_state(state, num_devices)
    prior_params, contexts = replicate((prior_params, contexts), num_devices)
    state, metrics = step(state, prior_params, contexts)
    state, metrics = gather_state(state), gather_metrics(metrics)
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from vsd_jax.diffusion import attention
from vsd_jax.types import PyTree, VSDState

AXIS = "devices"
_SHARDS = "shards"
_SMALLEST_CUT = 4096  # elements: less is not worth an exchange
VOTES = "votes"
"""Name of the metric that sums the votes of all devices."""
MAP = "pmap"
"""How a step is mapped over the devices of one host; "shard_map" gives the same, for
the day when `pmap` goes. Over hosts it stays `pmap`, whose arrays are each host's."""


class Devices(NamedTuple):
    """How a step that is made for several devices shares them.

    Attributes:
      axis_name: device axis, `AXIS`; None = one device.
      per_particle: devices that share one particle; each renders as many of its views,
        and holds a copy.
    """

    axis_name: str | None = None
    per_particle: int = 1


ONE_DEVICE = Devices()


def parallel_step(step: Callable, by: str = "") -> Callable:
    """Runs a step on all devices at once; every argument has a leading axis D.

    Args:
      step: made for `AXIS`.
      by: "pmap" or "shard_map", which give the same; "" = `MAP`.
    """
    return _each_device(step, by, donate_argnums=0)


def _each_device(
    function: Callable, by: str, *, in_axes=0, devices=None, donate_argnums=()
) -> Callable:
    """`pmap` over `AXIS`, or the same as `jit` of a `shard_map`.

    Either takes and gives leaves with a leading axis of as many devices of this host.
    """
    by = by or MAP
    if by == "pmap":
        options = {"devices": devices, "donate_argnums": donate_argnums}
        return jax.pmap(function, axis_name=AXIS, in_axes=in_axes, **options)
    if by != "shard_map":
        raise ValueError(f"by={by!r} is unknown; use 'pmap' or 'shard_map'.")

    def on_one(axes, *arguments):
        blocks = (
            jax.tree.map(lambda leaf: leaf[0], argument) if axis == 0 else argument
            for axis, argument in zip(axes, arguments, strict=True)
        )
        return jax.tree.map(lambda leaf: leaf[None], function(*blocks))

    def mapped(*arguments):
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(arguments)
        num = jax.tree.leaves(arguments[0])[0].shape[0]
        spread = jax.sharding.PartitionSpec(AXIS)
        specs = [
            jax.sharding.PartitionSpec() if axis is None else spread for axis in axes
        ]
        return jax.shard_map(
            functools.partial(on_one, axes),
            mesh=jax.sharding.Mesh((devices or jax.local_devices())[:num], (AXIS,)),
            in_specs=tuple(specs),
            out_specs=spread,
            check_vma=False,
        )(*arguments)

    return jax.jit(mapped, donate_argnums=donate_argnums)


def parallel_step_over_hosts(step: Callable) -> Callable:
    """As `parallel_step`, over the devices of all hosts, which also vote.

    Returns:
      `step(state, vote, prior_params, contexts) -> (state, metrics)`; vote [D / hosts]
      int32. The metrics of particles are those of all particles, and `metrics[VOTES]`
      is the sum of all devices' votes: every host reads the same.
    """

    def step_and_vote(state, vote, prior_params, contexts):
        state, metrics = step(state, prior_params, contexts)
        metrics = {
            name: jax.lax.all_gather(values, AXIS, tiled=True)
            if name.startswith("particle/")
            else values
            for name, values in metrics.items()
        }
        return state, metrics | {VOTES: jax.lax.psum(vote, AXIS)}

    # In the order of the processes, so that a host's block lies on its own devices.
    devices = sorted(jax.devices(), key=lambda each: (each.process_index, each.id))
    return jax.pmap(step_and_vote, axis_name=AXIS, devices=devices, donate_argnums=0)


def replicate(tree: PyTree, num_devices: int, by: str = "") -> PyTree:
    """One copy on each device of this host: every leaf gets a leading axis."""
    num_devices //= jax.process_count()
    # pmap needs one mapped argument, so the device's number goes along. The axis has
    # the step's name, or the step would be compiled again for its own results.
    spread = _each_device(
        lambda index, leaves: leaves,
        by,
        in_axes=(0, None),
        devices=jax.local_devices()[:num_devices],
    )
    return spread(np.arange(num_devices), jax.tree.map(_release, tree))


def split_state(state: VSDState, num_devices: int, by: str = "") -> VSDState:
    """Splits the particles over the devices and replicates the rest.

    Args:
      state: as from `distil`, n particles; the same on every host.
      num_devices: D, over all hosts; divides n, or is a multiple of it: then each
        particle has D / n copies, on devices that share its views.
      by: see `parallel_step`.

    Returns:
      VSDState whose leaves have a leading axis D; particles [D, n / D, ...], or
      [D, 1, ...] if shared. On one of several hosts its own part of them: D / hosts
      instead of D.

    Raises:
      ValueError: if neither divides the other, if a particle would be shared by two
        hosts, or there are fewer devices.
    """
    num = jax.tree.leaves(state.particles)[0].shape[0]
    hosts, here = jax.process_count(), jax.local_device_count()
    if (num % num_devices and num_devices % num) or num % hosts:
        raise ValueError(f"{num} particles cannot be split over {num_devices} devices.")
    if num_devices > here * hosts or num_devices % hosts:
        raise ValueError(
            f"{num_devices} devices are asked for, {here} are here"
            + (f", on each of {hosts} hosts." if hosts > 1 else ".")
        )
    local, block = num_devices // hosts, num // hosts
    first = jax.process_index() * block
    copies = max(1, num_devices // num)
    rows = np.repeat(np.arange(first, first + block), copies)
    blocks = jax.tree.map(
        lambda leaf: _release(leaf)[rows].reshape((local, -1) + leaf.shape[1:]),
        state.particles,
    )
    shared = replicate((state.score, state.step, state.key), num_devices, by)
    place = _each_device(lambda leaves: leaves, by, devices=jax.local_devices()[:local])
    return VSDState(
        particles=place(blocks), score=shared[0], step=shared[1], key=shared[2]
    )


def gather_state(state: VSDState, devices_per_particle: int = 1) -> VSDState:
    """Inverse of `split_state`; on one of several hosts the particles of its own."""
    # Cloned: taking the first of its copies is no use of the key.
    key = jax.random.clone(state.key)
    shared = jax.tree.map(_first, (state.score, state.step, key))
    return VSDState(
        particles=jax.tree.map(
            lambda leaf: _merge(leaf)[::devices_per_particle], state.particles
        ),
        score=shared[0],
        step=shared[1],
        key=shared[2],
    )


def gather_metrics(
    metrics: dict[str, jax.Array], devices_per_particle: int = 1
) -> dict[str, jax.Array]:
    """Joins per-particle metrics and takes one copy of the others."""
    join = _first if VOTES in metrics else _merge
    return {
        name: join(values)[::devices_per_particle]
        if name.startswith("particle/")
        else _first(values)
        for name, values in metrics.items()
    }


def join_hosts(block: PyTree) -> PyTree:
    """Arrays over all hosts, of which each holds its own block of the leading axis.

    Args:
      block: leaves [n / hosts, ...], this host's particles.

    Returns:
      Leaves [n, ...]; nothing crosses the network.
    """
    first = {each.process_index: each for each in reversed(jax.devices())}
    mesh = jax.sharding.Mesh([first[i] for i in range(jax.process_count())], ("hosts",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("hosts"))
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(spread, np.asarray(leaf)),
        block,
    )


def gather_hosts(block: np.ndarray) -> np.ndarray:
    """Blocks [m, ...] of all hosts as [hosts * m, ...], on every one of them."""
    return np.asarray(multihost_utils.process_allgather(block, tiled=True))


def shard(tree: PyTree, num_shards: int) -> PyTree:
    """Weights that do not fit on one device: each holds one part of every large leaf.

    A leaf is cut along its last axis that `num_shards` divides (the outputs of a layer,
    if it can be), so that XLA's partitioner computes each device's outputs where their
    weights are, and what crosses the devices is activations.

    Args:
      tree: NumPy arrays, or any that one device holds.
      num_shards: devices, of one host.

    Returns:
      The same arrays, of `num_shards` devices; small or odd ones whole on each.
    """
    mesh = _shard_mesh(num_shards)

    def place(leaf):
        axes = [None] * leaf.ndim
        fits = [i for i in range(leaf.ndim) if leaf.shape[i] % num_shards == 0]
        if fits and leaf.size >= _SMALLEST_CUT:
            axes[fits[-1]] = _SHARDS
        spec = jax.sharding.PartitionSpec(*axes)
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def whole_on_each(tree: PyTree, num_shards: int) -> PyTree:
    """What goes with a `shard`ed prior: the same arrays, whole on each device."""
    return jax.device_put(jax.tree.map(_release, tree), _whole(num_shards))


def sharded_step(step: Callable, num_shards: int) -> Callable:
    """A step whose prior is `shard`ed; its state is `whole_on_each`, as are metrics."""
    whole = _whole(num_shards)
    # The weights keep the layout that they come in.
    return jax.jit(
        attention.without_kernels()(step),
        in_shardings=(whole, None, whole),
        out_shardings=whole,
        donate_argnums=0,
    )


def _whole(num_shards: int) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(
        _shard_mesh(num_shards), jax.sharding.PartitionSpec()
    )


def _shard_mesh(num_shards: int) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(jax.local_devices()[:num_shards], (_SHARDS,))


def sum_devices(tree: PyTree, axis_name: str | None) -> PyTree:
    """Sum over the devices; the tree itself on a single one (`axis_name` None)."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def mean_shares(
    tree: PyTree, devices_per_particle: int, axis_name: str | None
) -> PyTree:
    """Mean over the devices that render shares of one particle's views."""
    if devices_per_particle == 1:
        return tree
    firsts = range(0, jax.lax.psum(1, axis_name), devices_per_particle)
    groups = [[*range(first, first + devices_per_particle)] for first in firsts]
    return jax.tree.map(
        lambda leaf: (
            jax.lax.psum(leaf, axis_name, axis_index_groups=groups)
            / devices_per_particle
        ),
        tree,
    )


def share_of_views(devices_per_particle: int, axis_name: str | None) -> jax.Array:
    """Which part of its particle's views this device renders, scalar int32."""
    return jax.lax.axis_index(axis_name) % devices_per_particle


def first_particle(
    num_local: int, num: int, axis_name: str | None, devices_per_particle: int = 1
) -> jax.Array | int:
    """Index of this device's first particle.

    Args:
      num_local: particles on this device.
      num: particles that the step updates, over all devices; 0 = all.
      axis_name: device axis, or None.
      devices_per_particle: devices that share one particle's views.

    Raises:
      ValueError: when tracing, if several devices should update a subset only (which
        would make the result depend on their number).
    """
    if axis_name is None:
        return 0
    total = num_local * jax.lax.psum(1, axis_name) // devices_per_particle
    if num not in (0, total):
        raise ValueError(
            "On several devices all particles are updated in each step: set "
            f"particles_per_step={total}, not {num}."
        )
    return jax.lax.axis_index(axis_name) // devices_per_particle * num_local


def _release(leaf: jax.Array) -> jax.Array | np.ndarray:
    """`pmap` refuses arrays that hold on to one device, as restored ones do."""
    if not getattr(leaf, "committed", False):
        return leaf
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = np.asarray(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return np.asarray(leaf)


def _first(leaf: jax.Array) -> jax.Array:
    """The first of equal copies, read where it lies: indexing would gather them."""
    # One device holds one copy, or (a cloned key, before jax 0.8) all of them.
    return leaf.addressable_data(0).reshape((-1,) + leaf.shape[1:])[0]


def _merge(leaf: jax.Array) -> jax.Array:
    return leaf.reshape((-1,) + leaf.shape[2:])
