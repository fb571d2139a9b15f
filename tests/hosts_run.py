# SPDX-License-Identifier: Apache-2.0
"""The program with a small real step: `python hosts_run.py FLAGS`, a process of a run.

theta is an image of 8 x 8, the prior a mixture in closed form, and the score network a
few numbers that all particles train; so that a step compiles in a second. With SLOW in
the environment each step takes that many seconds.
"""

import functools
import os
import pathlib
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

from vsd_jax import main, parallel  # noqa: E402
from vsd_jax.diffusion import exact  # noqa: E402
from vsd_jax.presets import Settings  # noqa: E402
from vsd_jax.program.build import build, stages  # noqa: E402
from vsd_jax.program.devices import devices  # noqa: E402
from vsd_jax.program.run import products  # noqa: E402
from vsd_jax.types import NoiseModel  # noqa: E402

SHAPE = (8, 8, 3)


def make_run(config, *_) -> build.Run:
    """As `build.build`, of the smallest parts that train theta and phi."""
    # Late: it makes arrays, which must not be before the processes have joined.
    import simple_scene

    scene = stages.make_scene(config, size=SHAPE[0])
    txs = {
        "particle_tx": Settings(config).tx,
        "score_tx": optax.adam(0.01),
    }
    score = NoiseModel(
        lambda params, noisy, t, context: noisy * params[0]["scale"][None], "sample"
    )
    prior = simple_scene.make_prior(
        exact.make_model(simple_scene.ALPHAS_CUMPROD), SHAPE
    )
    step = simple_scene.simple_step(
        scene,
        prior,
        score,
        particles_per_step=config.num_particles,
        devices=(parallel.AXIS,) if config.num_devices > 1 else (),
        **txs,
    )
    means = jnp.stack([jnp.full(SHAPE, 0.2), jnp.full(SHAPE, 0.8)])
    weights = exact.gaussian_mixture(
        means, jnp.full(means.shape, 0.04), jnp.array([0.25, 0.75])
    )
    init = functools.partial(
        simple_scene.init_state,
        jax.random.key(config.seed),
        scene,
        {"scale": jnp.full(SHAPE, 0.5)},
        num_particles=config.num_particles,
        **txs,
    )
    contexts = simple_scene.make_contexts(2)
    return build.Run(step, weights, contexts, lambda start=None: init(), prior)


def slowly(step):
    """The step, with time to be killed in."""

    def slow_step(*arguments, **options):
        time.sleep(float(os.environ.get("SLOW", 0)))
        print("step", file=sys.stderr, flush=True)
        return step(*arguments, **options)

    return slow_step


if __name__ == "__main__":
    build.build = make_run
    devices.Devices.step = slowly(devices.Devices.step)
    products.save_turntables = lambda *arguments, **options: None
    main.run()
