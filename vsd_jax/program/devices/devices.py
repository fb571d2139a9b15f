# SPDX-License-Identifier: Apache-2.0
"""A run's step on one device, on several of one host, or on those of several hosts."""

from typing import Any

import jax
import numpy as np

from vsd_jax import parallel
from vsd_jax.program.build.build import Run
from vsd_jax.program.devices import hosts
from vsd_jax.types import VSDState


class Devices:
    """One step on one device or, with `parallel`, on several; same results."""

    def __init__(
        self, num_devices: int, num_particles: int, run: Run, *, num_shards: int = 1
    ):
        """Puts what does not change on the devices.

        Args:
          num_devices: D, over all hosts.
          num_particles: n; where D is more, D / n devices share one particle.
          run: from `build.build`.
          num_shards: devices over which the prior's weights are split instead.
        """
        self._num, self._num_shards, self._run = num_devices, num_shards, run
        self._copies = max(1, num_devices // num_particles)
        self._arguments = (run.prior_params, run.prompts)
        steps = [step for step in (run.step, run.early_step) if step is not None]
        if num_shards > 1:
            weights = parallel.shard(run.prior_params, num_shards)
            self._arguments = (weights, run.prompts)
            steps = [parallel.sharded_step(step, num_shards) for step in steps]
        if num_devices > 1:
            self._arguments = parallel.replicate(self._arguments, num_devices)
            parallel_step = parallel.parallel_step
            if hosts.are_several():
                parallel_step = parallel.parallel_step_over_hosts
            steps = [parallel_step(step) for step in steps]
        # Without an early step both are the same: it is compiled once.
        self._step, self._early_step = steps[0], steps[-1]

    def split(self, state: VSDState) -> VSDState:
        """Spreads a state of all particles."""
        if self._num_shards > 1:
            return parallel.whole_on_each(state, self._num_shards)
        return parallel.split_state(state, self._num) if self._num > 1 else state

    def gather(self, state: VSDState) -> VSDState:
        """The state of this host's particles; of all, if it is the only host."""
        if self._num == 1:
            return state
        return parallel.gather_state(state, self._copies)

    def step(
        self, state: VSDState, stop: bool, *, early: bool = False
    ) -> tuple[VSDState, Any]:
        """Makes a step.

        Args:
          state: split; donated.
          stop: whether this host wants to stop.
          early: whether to make the step on smaller renders, if the run has one.

        Returns:
          (state, metrics of all particles); of several hosts, `metrics[VOTES]` is
          positive on all if one of them wants to stop. It comes with the metrics, one
          step late, so that no step waits for it.
        """
        make = self._early_step if early else self._step
        if hosts.are_several():
            vote = np.full(jax.local_device_count(), stop, np.int32)
            state, metrics = make(state, vote, *self._arguments)
        else:
            state, metrics = make(state, *self._arguments)
        if self._num > 1:
            metrics = parallel.gather_metrics(metrics, self._copies)
        return state, metrics
