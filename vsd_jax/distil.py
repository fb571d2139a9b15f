# SPDX-License-Identifier: Apache-2.0
"""Distillation: the state, and a training step of all particles and the score network.

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

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vsd_jax.diagnostics import Metrics, summarize
from vsd_jax.diffusion.noise import check_levels
from vsd_jax.methods import Method, NoisedViews, bind
from vsd_jax.parallel import (
    ONE_DEVICE,
    Devices,
    first_particle,
    mean_shares,
    share_of_views,
)
from vsd_jax.particle import (
    ParticleUpdate,
    init_particle,
    make_particle_update,
    no_regularizer,
    refresh,
    start_particle,
)
from vsd_jax.restart import Restart, make_restart
from vsd_jax.score_network import ScoreUpdate, make_score_update
from vsd_jax.spec import OneOf, Within, check_fields
from vsd_jax.trees import over_axis, without_weak_types
from vsd_jax.types import (
    AdaptiveCamera,
    Batch,
    Draw,
    Particles,
    Prior,
    Prompts,
    PyTree,
    Regularizer,
    Scene,
    Score,
    ScoreState,
    Views,
    VSDState,
)
from vsd_jax.views import make_draw, take_views

Step = Callable[[VSDState, PyTree, Prompts], tuple[VSDState, Metrics]]
# Folded into a key where no particle index or step can be.
_INIT_FOLD = _SUBSET_FOLD = 2**32 - 1
_SCORE_FOLD = 2**32 - 2
_RUN_FOLD = 2**32 - 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Population:
    """Which particles are updated in a step, and which are started anew.

    Attributes:
      particles_per_step: m <= n are updated, the others stand still; 0 = all.
      subset: which particles these are: "rotating" (in turn) or "random" (without
        replacement).
      restart_after: number of steps in a row that were not finite after which a
        particle starts anew (`restart.py`); 0 = never.
    """

    particles_per_step: Annotated[int, Within(0, 4096)] = 0
    subset: Annotated[str, OneOf(("rotating", "random"))] = "rotating"
    restart_after: Annotated[int, Within(0)] = 0

    def __post_init__(self):
        check_fields(self)


EVERY_PARTICLE = Population()


class Distillation(NamedTuple):
    """Result of `distil`: pure functions.

    Attributes:
      init: `(key, prior_params, *, num_particles, start=None) -> VSDState`, see
        `init_state`; jit it for speed.
      step: `(state, prior_params, prompts) -> (state, metrics)`, jitted; the state it
        is given is donated.
    """

    init: Callable[..., VSDState]
    step: Step


def distil(
    scene: Scene,
    prior: Prior,
    method: Method | Callable[[NoisedViews], jax.Array],
    score: Score | None,
    views: Views,
    *,
    tx: optax.GradientTransformation,
    regularizer: Regularizer = no_regularizer,
    population: Population = EVERY_PARTICLE,
    devices: Devices = ONE_DEVICE,
) -> Distillation:
    """Makes the initialiser and the training step of score distillation.

    Args:
      scene: renders one particle.
      prior: frozen; its weights are an argument of what is returned.
      method: what the particles follow, from `methods`, or a function of
        `NoisedViews` (then with w(t) = sigma_t^2).
      score: the score network; None for methods without one, whose score network is
        dropped if there is one.
      views: distribution of the views of a step.
      tx: optimizer of one particle.
      regularizer: `(RenderOutput of one view, step) -> (loss, metrics)`.
      population: which particles are updated in a step.
      devices: over which the step runs, only for `parallel.py`.

    Returns:
      `init` and the jitted `step`; prompts as in `diffusion/prompt.py`, metrics as in
      `diagnostics.summarize`.

    Raises:
      ValueError: if the parts do not fit together.

    Examples:
      >>> preset = vsd.presets.preset("image2d", "smoke")
      >>> alphas_cumprod = np.linspace(0.999, 0.001, 100).astype(np.float32)
      >>> run = vsd.distil(
      ...     vsd.image(preset.image, shape=(1, 1, 1), latent=True),
      ...     vsd.exact.make_prior(alphas_cumprod, latent_shape=(1, 1, 1)),
      ...     vsd.methods.sds(guidance_scale=1.0),
      ...     None,
      ...     vsd.views(preset.views),
      ...     tx=optax.sgd(0.1),
      ... )
      >>> weights = vsd.exact.image_set(jnp.full((1, 1, 1, 1), 0.5), jnp.ones(1))
      >>> encode = lambda texts: np.zeros((len(texts), 1, 1), np.float32)
      >>> prompts = vsd.encode_prompts(encode, preset.prompt)
      >>> state = run.init(jax.random.key(0), weights, num_particles=3)
      >>> state, metrics = run.step(state, weights, prompts)
      >>> int(state.step), state.particles.params["pixels"].shape
      (1, (3, 1, 1, 1))
    """
    if not isinstance(method, Method):
        method = Method(method, "sigma_squared", trains_score=score is not None)
    if not method.trains_score:
        score = None
    check_levels(prior.alphas_cumprod)
    if devices.per_particle > 1 and isinstance(views.sample_camera, AdaptiveCamera):
        raise ValueError(
            "Devices that share the views of a particle would each learn of their own"
            " views: with an AdaptiveCamera take devices.per_particle=1."
        )
    axis_name = devices.axis_name
    shares = dict(devices_per_particle=devices.per_particle, axis_name=axis_name)
    mean = functools.partial(mean_shares, **shares)
    residual = bind(method, prior, score, mean_shares=mean)
    step = _make_joint_step(
        scene,
        make_draw(prior, score, views),
        make_particle_update(
            scene,
            prior,
            residual,
            regularizer=regularizer,
            tx=tx,
            mean_shares=mean,
        ),
        make_score_update(score, prior, axis_name=axis_name),
        make_restart(
            scene, tx, patience=population.restart_after, map_particles=over_axis
        ),
        population=population,
        num_t=len(prior.alphas_cumprod),
        **shares,
    )
    return Distillation(functools.partial(init_state, scene, score, tx), step)


def init_state(
    scene: Scene,
    score: Score | None,
    tx: optax.GradientTransformation,
    key: jax.Array,
    prior_params: PyTree,
    *,
    num_particles: int,
    start: tuple[PyTree, PyTree] | None = None,
) -> VSDState:
    """Initialises the particles, the score network and their optimizers.

    Args:
      scene: the scene.
      score: the score network; None for SDS.
      tx: optimizer of one particle.
      key: typed base key of the run; kept in the state.
      prior_params: of which the score network reads shapes.
      num_particles: n >= 1.
      start: (theta, stats) to start from, leaves [n, ...]; None = the scene's own.

    Returns:
      VSDState at step 0; it owns its buffers, so that a donating step may take it.

    Raises:
      ValueError: if there is no particle, `start` has another number of them, or the
        key is one of the old kind.
    """
    _check_start(key, num_particles, start)

    def init_one(index: jax.Array) -> Particles:
        init_key = jax.random.fold_in(key, _INIT_FOLD)
        return init_particle(scene, tx, jax.random.fold_in(init_key, index))

    phi, opt_state = {}, ()
    if score is not None:
        phi = score.init(jax.random.fold_in(key, _SCORE_FOLD), prior_params)
        phi = _copy(without_weak_types(phi))
        opt_state = score.tx.init(phi)
    if start is None:
        particles = jax.vmap(init_one)(jnp.arange(num_particles, dtype=jnp.uint32))
    else:
        particles = jax.vmap(lambda *one: start_particle(*one, tx))(*_copy(start))
    return VSDState(
        particles=particles,
        score=ScoreState(params=phi, opt_state=opt_state),
        step=jnp.zeros((), jnp.int32),
        key=jax.random.clone(key),
    )


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def _check_start(key: jax.Array, num_particles: int, start: PyTree | None) -> None:
    if num_particles < 1:
        raise ValueError(f"num_particles={num_particles}: there must be at least one.")
    found = {leaf.shape[0] for leaf in jax.tree.leaves(start)}
    if found - {num_particles}:
        raise ValueError(f"start has {found} particles, num_particles={num_particles}.")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError("Give jax.random.key(seed) for jax.random.PRNGKey(seed).")


def many_runs(step: Step) -> Step:
    """The step of several runs that know nothing of each other: `vmap` over them.

    Args:
      step: of `distil`; the runs may differ in prompts, key and particles.

    Returns:
      As `step`, with a leading axis of the runs in the state (but for `step`, which all
      have in common), the prompts and the metrics; donates the state.
    """
    states = VSDState(particles=0, score=0, step=None, key=0)
    mapped = jax.vmap(step, in_axes=(states, None, 0), out_axes=(states, 0))
    return jax.jit(mapped, donate_argnums=0)


def _make_joint_step(
    scene: Scene,
    draw_fn: Callable[..., Draw],
    particle_update: ParticleUpdate,
    score_update: ScoreUpdate,
    restart: Restart,
    *,
    population: Population,
    num_t: int,
    **shares,
) -> Step:
    axis_name, num_shares = shares["axis_name"], shares["devices_per_particle"]

    def step(state: VSDState, prior_params: PyTree, prompts: Prompts):
        step_key = jax.random.fold_in(state.key, state.step)
        run_key = jax.random.fold_in(state.key, _RUN_FOLD)
        num_local = jax.tree.leaves(state.particles)[0].shape[0]
        first = first_particle(num_local, population.particles_per_step, **shares)
        num = num_local
        if axis_name is None:
            num = population.particles_per_step or num_local
        # Counted in moves of a particle: else those in turn at the steps in which
        # statistics are due would be the same ones each time.
        turn = state.step * num // num_local
        chosen = choose_particles(
            step_key, state.step, num_local, num, subset=population.subset
        )

        def update_one(particle: Particles, index: jax.Array):
            key = jax.random.fold_in(step_key, index)
            own = jax.random.fold_in(run_key, index)
            draw = draw_fn(key, state.step, prompts, particle.stats, own)
            if num_shares > 1:
                draw = take_views(draw, share_of_views(**shares), num_shares)
            particle = refresh(scene, particle, turn, draw.stats_key)
            particle, latents, report = particle_update(
                particle, draw, state.step, state.score.params, prior_params
            )
            return particle, Batch(draw=draw, latents=latents, report=report)

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
    """Chooses the particles [num] to update in this step, without repetition.

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


def _take(particles: Particles, chosen: jax.Array, num_particles: int) -> Particles:
    if len(chosen) == num_particles:
        return particles
    return jax.tree.map(lambda leaf: leaf[chosen], particles)


def _put(particles, after, chosen, num_particles) -> Particles:
    if len(chosen) == num_particles:
        return after
    return jax.tree.map(lambda leaf, new: leaf.at[chosen].set(new), particles, after)
