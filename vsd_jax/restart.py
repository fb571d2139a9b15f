# SPDX-License-Identifier: Apache-2.0
"""Particles that are lost start anew, inside the step.

How often a particle was skipped in a row is part of the state, and its new start hangs
on the run's key, its index and the step: a resumed run, or one on other devices, does
the same.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vsd_jax.particle import init_particle
from vsd_jax.trees import select_tree
from vsd_jax.types import Particles, Scene

# Folded into a particle's key of the step, which is otherwise only split.
_RESTART_FOLD = 2**32 - 3

Restart = Callable[[Particles, jax.Array, jax.Array], tuple[Particles, jax.Array]]
"""`(particles, step_key, indices [m]) -> (particles, restarted [m] int32)`."""


def make_restart(
    scene: Scene,
    tx: optax.GradientTransformation,
    *,
    patience: int,
    map_particles: Callable[[Callable, int], Callable],
) -> Restart:
    """Makes what gives lost particles a new theta, optimizer state and stats.

    Args:
      scene: draws the new theta.
      tx: optimizer of one particle.
      patience: steps in a row that were not finite, after which a particle is lost;
        0 = none ever is.
      map_particles: `(function of one, m) -> function of m`.
    """

    def restart(particles: Particles, step_key: jax.Array, indices: jax.Array):
        lost = particles.skips >= patience

        def renew_one(particle: Particles, index: jax.Array, is_lost: jax.Array):
            key = jax.random.fold_in(step_key, index)
            key = jax.random.fold_in(key, _RESTART_FOLD)
            return select_tree(is_lost, init_particle(scene, tx, key), particle)

        def renew(particles: Particles) -> Particles:
            mapped = map_particles(renew_one, len(indices))
            return mapped(particles, indices, lost)

        # Drawing a theta costs something, and is hardly ever needed.
        particles = jax.lax.cond(jnp.any(lost), renew, lambda same: same, particles)
        return particles, lost.astype(jnp.int32)

    def never(particles: Particles, step_key: jax.Array, indices: jax.Array):
        return particles, jnp.zeros(len(indices), jnp.int32)

    return restart if patience else never
