# SPDX-License-Identifier: Apache-2.0
"""Several devices: n particles split over D, one score network kept equal on all.

The only file that names `pmap`. A step made with `axis_name=AXIS` sums the score
network's gradient over the devices; a particle's key depends on its index alone, so D
devices give what one gives (up to the order of sums).

    step = parallel_step(make_step(..., axis_name=AXIS))
    state = split_state(state, num_devices)
    prior_params, contexts = replicate((prior_params, contexts), num_devices)
    state, metrics = step(state, prior_params, contexts)
    state, metrics = gather_state(state), gather_metrics(metrics)
"""

from collections.abc import Callable

import jax
import numpy as np

from vsd_jax.state import PyTree, VSDState

AXIS = "devices"


def parallel_step(step: Callable) -> Callable:
    """Runs a step on all devices at once; every argument has a leading axis D."""
    return jax.pmap(step, axis_name=AXIS, donate_argnums=0)


def replicate(tree: PyTree, num_devices: int) -> PyTree:
    """One copy on each device: every leaf gets a leading axis D."""
    # pmap needs one mapped argument, so the device's number goes along.
    spread = jax.pmap(
        lambda index, leaves: leaves,
        in_axes=(0, None),
        devices=jax.local_devices()[:num_devices],
    )
    return spread(np.arange(num_devices), jax.tree.map(_release, tree))


def split_state(state: VSDState, num_devices: int) -> VSDState:
    """Splits the particles over the devices and replicates the rest.

    Args:
      state: as from `init_state`, n particles.
      num_devices: D, divides n.

    Returns:
      VSDState whose leaves have a leading axis D; particles [D, n / D, ...].

    Raises:
      ValueError: if D does not divide n, or there are fewer devices.
    """
    num = jax.tree.leaves(state.particles)[0].shape[0]
    if num % num_devices:
        raise ValueError(f"{num} particles cannot be split over {num_devices} devices.")
    if num_devices > jax.local_device_count():
        raise ValueError(
            f"{num_devices} devices are asked for, {jax.local_device_count()} are here."
        )
    blocks = jax.tree.map(
        lambda leaf: _release(leaf).reshape((num_devices, -1) + leaf.shape[1:]),
        state.particles,
    )
    shared = replicate((state.score, state.step, state.key), num_devices)
    place = jax.pmap(lambda leaves: leaves, devices=jax.local_devices()[:num_devices])
    return VSDState(
        particles=place(blocks), score=shared[0], step=shared[1], key=shared[2]
    )


def gather_state(state: VSDState) -> VSDState:
    """Inverse of `split_state`."""
    # Cloned: taking the first of its copies is no use of the key.
    key = jax.random.clone(state.key)
    shared = jax.tree.map(lambda leaf: leaf[0], (state.score, state.step, key))
    return VSDState(
        particles=jax.tree.map(_merge, state.particles),
        score=shared[0],
        step=shared[1],
        key=shared[2],
    )


def gather_metrics(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Joins per-particle metrics and takes one copy of the others."""
    return {
        name: _merge(values) if name.startswith("particle/") else values[0]
        for name, values in metrics.items()
    }


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
      num: particles that the step updates, over all devices.
      axis_name: device axis, or None.
      devices_per_particle: devices that share one particle's views.

    Raises:
      ValueError: when tracing, if several devices should update a subset only (which
        would make the result depend on their number).
    """
    if axis_name is None:
        return 0
    total = num_local * jax.lax.psum(1, axis_name) // devices_per_particle
    if num != total:
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


def _merge(leaf: jax.Array) -> jax.Array:
    return leaf.reshape((-1,) + leaf.shape[2:])
