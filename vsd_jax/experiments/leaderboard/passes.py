# SPDX-License-Identifier: Apache-2.0
"""What a step costs in passes through the networks, and the one rule of the budget.

A pass is one network evaluated once, for one view and one text; a derivative through it
counts as one more. So classifier-free guidance is two, an update of the score network
two, and VSD 2 + 1 + 2 = 5. **All methods of a world get the same number of passes for
each particle**; how many steps that is follows from the method. Passes are counted, not
written down: the method is run on a network that counts. Where an inversion takes more
steps the larger t is, they are averaged over the t of the run, for each view its own
(one of a batch waits for the others; that is the machine's time, not the method's).
"""

import collections
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.methods import Method, bind
from vsd_jax.presets import Settings
from vsd_jax.program import Config
from vsd_jax.score_network import fixed_score
from vsd_jax.types import Camera, Draw, NoiseModel, Prior, ScoreDraw

VIEWS, SHAPE = 2, (1, 1, 2)
"""Of the run that counts."""
_TRAINING = 2  # passes of one update of the score network
_TIMES = 10  # at which passes are counted where they depend on t
TEXTS = ("text", "negative", "empty", "source", "score")
_ABAR = np.linspace(0.999, 0.001, 1000).astype(np.float32)


class Passes(NamedTuple):
    """Passes of one step for one view: of the prior, and of the score network's phi.

    Those of phi are without its training.
    """

    prior: int
    score: int

    def total(self, updates: int) -> int:
        """With `updates` of the score network, for a method that trains it."""
        return self.prior + self.score + _TRAINING * updates


def count(
    method: Method, texts: Sequence[str] = TEXTS, t: tuple[int, ...] = (300, 700)
) -> Passes:
    """Runs the method once on two views and counts.

    Args:
      method: any.
      texts: that the views have.
      t: of the views, of 1,000.

    Returns:
      Its passes; a loop counts as often as it runs, for the view that takes longest.
    """
    tally: collections.Counter[str] = collections.Counter()
    with jax.disable_jit():  # loops run in Python, each turn is seen
        _residual(tally, method, *_inputs(texts, t))
    return Passes(tally["prior"] // VIEWS, tally["score"] // VIEWS)


def trace(method: Method) -> None:
    """Traces the method as a compiled step does, where no number is known."""
    residual = functools.partial(_residual, collections.Counter(), method)
    jax.eval_shape(residual, *_inputs(TEXTS, (300, 700)))


def _residual(tally, method: Method, latents: jax.Array, draw: Draw) -> jax.Array:
    prior = Prior(_counting(tally, "prior"), None, None, _ABAR, SHAPE, SHAPE[0])
    score = fixed_score(_counting(tally, "score"))._replace(updates=1)
    return bind(method, prior, score)(latents, draw, jnp.zeros(()), jnp.zeros(()))


def of_move(config: Config, method: Method) -> float:
    """Passes of one step, for a particle that it moves and a view: their mean over t.

    t is taken evenly from `vsd.t_range`, whatever the schedule.
    """
    updates = Settings(config).score.training.steps_per_step * method.trains_score
    low, high = config.vsd.t_range

    def at(share: float) -> int:
        t = round((low + (high - low) * share) * (len(_ABAR) - 1))
        return count(method, t=(t,) * VIEWS).total(updates)

    if at(0.0) == at(1.0):
        return at(0.0)
    return float(np.mean([at((i + 0.5) / _TIMES) for i in range(_TIMES)]))


def num_steps(config: Config, moves: int) -> int:
    """Steps in which each particle is moved so often."""
    return max(1, moves * config.num_particles // _moved(config))


def num_moves(config: Config, steps: int) -> int:
    """How often so many steps move each particle."""
    return steps * _moved(config) // config.num_particles


def _moved(config: Config) -> int:
    """Particles that one step updates; 0 in the settings = all."""
    return config.particles_per_step or config.num_particles


def _counting(tally: collections.Counter, name: str) -> NoiseModel:
    """A network that counts; a shift of x_t, so that no method sees a zero."""

    def predict(params, noisy, t, context):
        text = jnp.mean(context["text"], axis=(1, 2)).reshape(-1, 1, 1, 1)
        return 0.5 * noisy + text + sum(map(jnp.sum, jax.tree.leaves(params)))

    @jax.custom_jvp
    def apply(params, noisy, t, context):
        tally[name] += len(noisy)
        return predict(params, noisy, t, context)

    @apply.defjvp
    def derive(primals, tangents):
        tally[name] += 2 * len(primals[1])
        return jax.jvp(predict, primals, tangents)

    return NoiseModel(apply, "epsilon")


def _inputs(texts: Sequence[str], t: tuple[int, ...]) -> tuple[jax.Array, Draw]:
    """Latents and a draw of two views; what only a renderer reads is empty."""
    latents = jax.random.normal(jax.random.key(1), (VIEWS, *SHAPE))
    noise, later = jax.random.normal(jax.random.key(2), (2, VIEWS, *SHAPE))
    flat = jnp.zeros(VIEWS)
    camera = Camera(
        cam_to_world=jnp.broadcast_to(jnp.eye(4), (VIEWS, 4, 4)),
        fov_deg=flat,
        azimuth_deg=flat,
        elevation_deg=flat,
        radius=flat,
    )
    seen = jnp.ones((1, VIEWS), bool)
    prompts = {
        name: jnp.full((VIEWS, 1, 1), 0.1 * number) for number, name in enumerate(texts)
    }
    draw = Draw(
        cameras=camera,
        backgrounds=jnp.ones((VIEWS, 3)),
        prompts=prompts,
        t=jnp.array(t),
        noise=noise,
        encode_noise=jnp.zeros_like(noise),
        render_keys=jax.random.split(jax.random.key(3), VIEWS),
        method_keys=jax.random.split(jax.random.key(5), VIEWS),
        run_keys=jax.random.split(jax.random.key(6), VIEWS),
        stats_key=jax.random.key(4),
        score=ScoreDraw(t=jnp.array([t]), noise=later[None], keep=seen),
    )
    return latents, draw
