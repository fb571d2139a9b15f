# SPDX-License-Identifier: Apache-2.0
"""One training step: every particle once, then the score network they share.

    one particle: cameras -> renders -> latents -> residual -> gradient -> its optimizer
    vmap over the particles (here and nowhere else)
    the score network on all their renders

Randomness: `step_key = fold_in(state.key, step)`, a particle's key = `fold_in(step_key,
particle_index)`, so that a result depends neither on the number of devices nor on where
a run was resumed.

A particle whose residual or gradient is not finite keeps its parameters and optimizer
state in that step, is left out of the score network's batch and of the averages, and is
counted in the metrics. Nothing replaces a non-finite number by another. One that was
skipped many times in a row can start anew (`restart.py`).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vsd_jax.diagnostics import Metrics, summarize
from vsd_jax.parallel import first_particle, mean_shares, share_of_views
from vsd_jax.particle import (
    Regularizer,
    Residual,
    TRange,
    Views,
    init_particle,
    make_draw,
    make_particle_update,
    over_axis,
    start_particle,
    take_views,
)
from vsd_jax.restart import make_restart
from vsd_jax.score_training import make_score_update
from vsd_jax.types import (
    Camera,
    NoiseModel,
    Particles,
    Prior,
    PyTree,
    Scene,
    ScoreState,
    VSDState,
)

Step = Callable[[VSDState, PyTree, PyTree], tuple[VSDState, Metrics]]
SUBSETS = ("rotating", "random")
# Folded into a key where no particle index or step can be.
_INIT_FOLD = _SUBSET_FOLD = 2**32 - 1


def init_state(
    key: jax.Array,
    scene: Scene,
    score_params: PyTree,
    *,
    num_particles: int,
    particle_tx: optax.GradientTransformation,
    score_tx: optax.GradientTransformation,
    start: tuple[PyTree, PyTree] | None = None,
) -> VSDState:
    """The state before the first step.

    Args:
      key: typed base key of the run; kept in the state.
      scene: the scene.
      score_params: initial phi; `{}` for SDS.
      num_particles: n >= 1.
      particle_tx: optimizer of one particle.
      score_tx: optimizer of the score network.
      start: (theta, stats) to start from, leaves [n, ...]; None = the scene's own.

    Returns:
      VSDState at step 0; it owns its buffers, so that a donating step may take it.
    """

    def init_one(index: jax.Array) -> Particles:
        init_key = jax.random.fold_in(key, _INIT_FOLD)
        return init_particle(scene, particle_tx, jax.random.fold_in(init_key, index))

    score_params = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), score_params)
    if start is None:
        particles = jax.vmap(init_one)(jnp.arange(num_particles, dtype=jnp.uint32))
    else:
        particles = jax.vmap(lambda *one: start_particle(*one, particle_tx))(*start)
    return VSDState(
        particles=particles,
        score=ScoreState(params=score_params, opt_state=score_tx.init(score_params)),
        step=jnp.zeros((), jnp.int32),
        key=jax.random.clone(key),
    )


def make_step(
    scene: Scene,
    prior: Prior,
    score: NoiseModel | None,
    *,
    particle_tx: optax.GradientTransformation,
    score_tx: optax.GradientTransformation,
    sample_camera: Callable[[jax.Array], Camera],
    sample_background: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    views: Views,
    regularizer: Regularizer,
    t_range: TRange,
    score_t_range: tuple[int, int],
    residual: Residual,
    num_views: int,
    score_steps: int,
    camera_dropout: float,
    sigma_floor: float,
    particles_per_step: int,
    subset: str,
    restart_after: int = 0,
    axis_name: str | None = None,
    devices_per_particle: int = 1,
) -> Step:
    """Makes the jitted training step; the state it is given is donated.

    Args:
      scene: the scene.
      prior: frozen prior; its weights are an argument of the step.
      score: score network over `(score_params, prior_params)` to train; None = none.
      particle_tx: optimizer of one particle.
      score_tx: optimizer of the score network.
      sample_camera: `(key) -> Camera` of one view, or a law of `adaptive.py`.
      sample_background: `(key) -> (color [3], index)`; the index selects the prompt.
      views: `(azimuth_deg, elevation_deg) -> ViewWeights` of one camera.
      regularizer: `(RenderOutput of one view, step) -> (loss, metrics)`.
      t_range: `(step) -> (lowest, highest)` timestep for the particles.
      score_t_range: the same, constant, for the score network's training.
      residual: what the particles follow, from `residuals.py`.
      num_views: V, views per particle and step.
      score_steps: updates of the score network per step, each with fresh t and noise.
      camera_dropout: probability that the score network does not see a view's camera.
      sigma_floor: see `vsd.score_errors`.
      particles_per_step: m <= n particles are updated; the others stand still.
      subset: which: "rotating" (in turn) or "random" (without replacement).
      restart_after: a particle that was not finite in so many steps in a row starts
        anew (`restart.py`); 0 = never.
      axis_name: device axis, only for `parallel.py`.
      devices_per_particle: devices that share one particle; each renders as many of its
        views, and holds a copy.

    Returns:
      `step(state, prior_params, contexts) -> (state, metrics)`; contexts as in
      `score.prompt`, metrics as in `diagnostics.summarize`.

    Raises:
      ValueError: for a name or number that cannot be meant.
    """
    _check(subset, num_views, score_steps, camera_dropout)
    shares = {"devices_per_particle": devices_per_particle, "axis_name": axis_name}
    draw_fn = make_draw(
        prior,
        sample_camera=sample_camera,
        sample_background=sample_background,
        views=views,
        t_range=t_range,
        score_t_range=score_t_range,
        num_views=num_views,
        score_steps=score_steps,
        camera_dropout=camera_dropout,
    )
    particle_update = make_particle_update(
        scene,
        prior,
        residual=residual,
        regularizer=regularizer,
        tx=particle_tx,
        mean_shares=functools.partial(mean_shares, **shares),
    )
    score_update = make_score_update(
        score, prior, tx=score_tx, sigma_floor=sigma_floor, axis_name=axis_name
    )

    return _make_joint_step(
        draw_fn,
        particle_update,
        score_update,
        make_restart(
            scene, particle_tx, patience=restart_after, map_particles=over_axis
        ),
        particles_per_step=particles_per_step,
        subset=subset,
        num_t=len(prior.alphas_cumprod),
        **shares,
    )


def _make_joint_step(
    draw_fn,
    particle_update,
    score_update,
    restart,
    *,
    particles_per_step,
    subset,
    num_t,
    **shares,
) -> Step:
    axis_name, num_shares = shares["axis_name"], shares["devices_per_particle"]

    def step(state: VSDState, prior_params: PyTree, contexts: PyTree):
        step_key = jax.random.fold_in(state.key, state.step)
        num_local = jax.tree.leaves(state.particles)[0].shape[0]
        first = first_particle(num_local, particles_per_step, **shares)
        num = particles_per_step if axis_name is None else num_local
        chosen = choose_particles(step_key, state.step, num_local, num, subset=subset)

        def update_one(particle: Particles, index: jax.Array):
            key = jax.random.fold_in(step_key, index)
            draw = draw_fn(key, state.step, contexts, particle.stats)
            if num_shares > 1:
                draw = take_views(draw, share_of_views(**shares), num_shares)
            particle, latents, report = particle_update(
                particle,
                draw,
                state.step,
                networks=(state.score.params, prior_params),
            )
            return particle, {**draw, **report, "latents": latents}

        before = _take(state.particles, chosen, num_local)
        after, batch = over_axis(update_one, len(chosen))(before, first + chosen)
        score, score_metrics = score_update(state.score, batch, prior_params)
        metrics = summarize(batch, num_t=num_t, **shares)
        after, restarted = restart(after, step_key, first + chosen)
        metrics |= score_metrics | {
            "particle/index": first + chosen,
            "particle/restarted": restarted,
        }
        particles = _put(state.particles, after, chosen, num_local)
        return (
            state.replace(particles=particles, score=score, step=state.step + 1),
            metrics,
        )

    return jax.jit(step, donate_argnums=0)


def choose_particles(
    step_key: jax.Array, step: jax.Array, num_particles: int, num: int, *, subset: str
) -> jax.Array:
    """Indices [num] of the particles to update in this step, without repetition.

    Args:
      step_key: key of the step; folded, not consumed.
      step: scalar int32.
      num_particles: n.
      num: m <= n.
      subset: "rotating" takes them in turn, "random" draws m of n.

    Raises:
      ValueError: when tracing, if m > n.
    """
    if num > num_particles:
        raise ValueError(
            f"particles_per_step={num} is more than the {num_particles} particles."
        )
    if num == num_particles:
        return jnp.arange(num, dtype=jnp.int32)
    if subset == "rotating":
        first = (step % num_particles) * num
        return ((first + jnp.arange(num)) % num_particles).astype(jnp.int32)
    key = jax.random.fold_in(step_key, _SUBSET_FOLD)
    return jax.random.permutation(key, num_particles)[:num].astype(jnp.int32)


def _check(subset, num_views, score_steps, camera_dropout) -> None:
    if subset not in SUBSETS:
        raise ValueError(f"Unknown subset {subset!r}; use one of {SUBSETS}.")
    if num_views < 1 or score_steps < 1:
        raise ValueError("num_views and score_steps must be at least 1.")
    if not 0.0 <= camera_dropout <= 1.0:
        raise ValueError(f"camera_dropout must be in [0, 1], not {camera_dropout}.")


def _take(particles: Particles, chosen: jax.Array, num_particles: int) -> Particles:
    if len(chosen) == num_particles:
        return particles
    return jax.tree.map(lambda leaf: leaf[chosen], particles)


def _put(particles, after, chosen, num_particles) -> Particles:
    if len(chosen) == num_particles:
        return after
    return jax.tree.map(lambda leaf, new: leaf.at[chosen].set(new), particles, after)
