# SPDX-License-Identifier: Apache-2.0
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simple_scene import (
    ALPHAS_CUMPROD,
    SHAPE,
    VIEWS,
    T,
    init_state,
    make_contexts,
    make_prior,
    make_scene,
    make_score,
    mixture,
    simple_step,
)

from vsd_jax import methods, particle, presets, timesteps
from vsd_jax.diffusion import exact, prompt
from vsd_jax.diffusion.guidance import Guidance
from vsd_jax.distil import Population, choose_particles, distil, many_runs
from vsd_jax.distil import init_state as begin_state
from vsd_jax.scene.image import image
from vsd_jax.types import NoiseModel
from vsd_jax.views import make_background_sampler, make_draw, make_views

MODEL = exact.make_model(ALPHAS_CUMPROD)
# A score network with parameters: the prior's mixture with means moved by phi, and a
# camera term so that the camera input matters.
SCORE = NoiseModel(
    lambda params, noisy, t, context: (
        MODEL.apply(
            {**params[1], "means": params[1]["means"] + params[0]["shift"]},
            noisy,
            t,
            {"text": context["text"]},
        )
        + params[0]["camera"] * context["camera"][:, :1, None, None]
    ),
    "epsilon",
)
PHI = {"shift": jnp.float32(0.3), "camera": jnp.float32(0.1)}


TXS = {
    "num": 2,
    "particle_tx": optax.adam(0.1),
    "score_tx": optax.adam(0.01),
}


@cache
def plain_step(num):
    """The step that most tests share (compiled once)."""
    prior = make_prior(MODEL)
    return simple_step(make_scene(), prior, SCORE, particles_per_step=num, **TXS)


def setup(n=3, *, score=SCORE, **options):
    """A state and its step; `run(state)` makes one step."""
    plain = score is SCORE and not options
    scene = options.pop("scene", make_scene())
    options = {"particles_per_step": n, **TXS, **options}
    if plain:
        step = plain_step(n)
    else:
        step = simple_step(scene, make_prior(MODEL), score, **options)
    state = init_state(
        jax.random.key(0),
        scene,
        PHI if score else {},
        num_particles=n,
        particle_tx=options["particle_tx"],
        score_tx=options["score_tx"],
    )
    return state, lambda state: step(state, mixture(), make_contexts(2)), step


def latents(state):
    return np.array(state.particles.params["latent"])


def test_a_step_moves_particles_score_and_clock():
    state, run, _ = setup()
    before, phi = latents(state), float(state.score.params["shift"])
    state, metrics = run(state)
    assert int(state.step) == 1
    assert (latents(state) != before).all()
    assert float(state.score.params["shift"]) != phi
    np.testing.assert_array_equal(state.particles.stats["count"], [1, 1, 1])
    for name, value in metrics.items():
        assert np.isfinite(value).all(), name
    np.testing.assert_array_equal(metrics["particle/index"], [0, 1, 2])
    np.testing.assert_allclose(metrics["opacity"], 1.0)
    np.testing.assert_allclose(metrics["skipped"], 0)
    counts = [int(metrics[f"residual/count_t{i}"]) for i in range(4)]
    assert sum(counts) == 6


def test_the_callers_key_and_score_parameters_survive_donation():
    key = jax.random.key(3)
    txs = {name: TXS[name] for name in ("particle_tx", "score_tx")}
    state = init_state(key, make_scene(), PHI, num_particles=3, **txs)
    state, _ = plain_step(3)(state, mixture(), make_contexts(2))
    assert float(PHI["shift"]) == np.float32(0.3)
    np.testing.assert_array_equal(
        jax.random.key_data(state.key), jax.random.key_data(key)
    )


def test_resumed_run_repeats_the_straight_one():
    state, run, _ = setup()
    for _ in range(3):
        state, _ = run(state)
    copy = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
    straight, _ = run(run(state)[0])
    resumed, _ = run(run(copy)[0])
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_vmap_equals_loop():
    """Particle i of n is what the unbatched functions give for it alone."""
    num = 3
    state, run, _ = setup(num)
    update = alone_update()
    alone = [update(state, i)["latent"] for i in range(num)]
    np.testing.assert_allclose(latents(run(state)[0]), alone, atol=1e-6)


def test_many_runs_are_the_runs_one_by_one():
    """Runs at once know nothing of each other: each is what it is alone."""
    (one, run, step), (other, _, _) = setup(2), setup(2)
    other = other.replace(key=jax.random.key(7))
    both = jax.tree.map(lambda *x: jnp.stack(x), one, other)
    both = both.replace(step=jnp.zeros((), jnp.int32))
    prompts = jax.tree.map(lambda x: jnp.stack([x, x]), make_contexts(2))
    many = many_runs(step)
    for _ in range(2):
        both, metrics = many(both, mixture(), prompts)
    assert int(both.step) == 2 and metrics["residual/rms"].shape == (2,)
    for index, state in enumerate((one, other)):
        for _ in range(2):
            state, _ = run(state)
        np.testing.assert_allclose(latents(both)[index], latents(state), atol=1e-5)
    assert np.abs(latents(both)[0] - latents(both)[1]).max() > 1e-3


def alone_update():
    """One particle through the unbatched functions, without vmap."""
    prior, score = make_prior(MODEL), make_score(SCORE)
    draw_fn = make_draw(prior, score, VIEWS._replace(num=2))
    update = particle.make_particle_update(
        make_scene(),
        prior,
        methods.bind(methods.vsd(guidance_scale=1.0), prior, score),
        regularizer=particle.no_regularizer,
        tx=optax.adam(0.1),
    )

    @jax.jit
    def run(state, i):
        step_key = jax.random.fold_in(state.key, state.step)
        one = jax.tree.map(lambda leaf: leaf[i], state.particles)
        key = jax.random.fold_in(step_key, i)
        draw = draw_fn(key, state.step, make_contexts(2))
        return update(one, draw, state.step, state.score.params, mixture())[0].params

    return run


def test_particles_do_not_see_each_other_except_through_phi():
    # With a frozen score network the first of 2 moves as it does alone (which also
    # compares the paths without a particle and a view axis to vmap).
    frozen = {"score_tx": optax.set_to_zero(), "num": 1}
    state, run, _ = setup(2, **frozen)
    other, run_other, _ = setup(1, **frozen)
    for _ in range(2):
        state, _ = run(state)
        other, _ = run_other(other)
    np.testing.assert_allclose(latents(state)[0], latents(other)[0], atol=1e-6)


def test_sds_without_score_network():
    state, run, _ = setup(score=None, score_tx=optax.identity())
    before = latents(state)
    state, metrics = run(state)
    assert (latents(state) != before).all()
    assert state.score.params == {}
    assert "score/loss" not in metrics


def test_no_retrace_when_the_range_anneals():
    traces = []

    def t_range(step):
        traces.append(None)
        return timesteps.two_stage_t_range(
            step, t_min=2, t_max=T - 2, t_max_late=T // 4 - 1, anneal_step=2
        )

    state, run, step = setup(t_range=t_range, num=8)
    for i in range(4):
        state, metrics = run(state)
        late = sum(int(metrics[f"residual/count_t{b}"]) for b in (1, 2, 3))
        assert (late == 0) == (i >= 2)
    assert len(traces) == 1
    assert step._cache_size() == 1


def test_a_subset_moves_and_the_others_stand_still():
    num, chosen = 5, 2
    state, run, _ = setup(num, particles_per_step=chosen, subset="random")
    seen = set()
    for _ in range(12):
        before = jax.tree.map(np.array, state.particles)
        state, metrics = run(state)
        index = [int(i) for i in metrics["particle/index"]]
        assert len(set(index)) == chosen
        seen |= set(index)
        # Parameters, optimizer state (count, both moments) and statistics alike.
        after = state.particles.replace(skips=None)
        moved = [
            {i for i in range(num) if not np.array_equal(new[i], old[i])}
            for new, old in zip(
                *(jax.tree.leaves(p) for p in (after, before.replace(skips=None))),
                strict=True,
            )
        ]
        assert all(which == set(index) for which in moved)
    assert seen == set(range(num))


@pytest.mark.parametrize("num, chosen", [(4, 1), (5, 2), (3, 3)])
def test_statistics_of_all_particles_are_brought_up_to_date(num, chosen):
    # The steps at which they are due are no multiples of the rotation's.
    interval, turns = 4, 16

    def count(params, stats, turn, key):
        return {"updates": stats["updates"] + (turn % interval == 0)}

    scene = make_scene()._replace(
        init_stats=lambda params: {"updates": jnp.zeros((), jnp.int32)},
        update_stats=count,
    )
    options = {"particles_per_step": chosen, "scene": scene, "score": None}
    state, run, _ = setup(num, **options, score_tx=optax.identity())
    for _ in range(turns * num // chosen):
        state, _ = run(state)
    updates = state.particles.stats["updates"]
    due = turns // interval
    assert due <= updates.min() and updates.max() <= 2 * due


def test_choose_particles():
    key = jax.random.key(0)
    choose = partial(choose_particles, key, num_particles=5, num=2, subset="rotating")
    taken = [tuple(int(i) for i in choose(step)) for step in range(5)]
    assert taken == [(0, 1), (2, 3), (4, 0), (1, 2), (3, 4)]
    choose = jax.jit(partial(choose_particles, num_particles=5, num=2, subset="random"))
    drawn = [choose(jax.random.fold_in(key, i), 0) for i in range(20)]
    assert all(len(set(pair.tolist())) == 2 for pair in drawn)
    assert len({tuple(pair.tolist()) for pair in drawn}) > 5
    with pytest.raises(ValueError, match="more than the 2"):
        choose_particles(key, 0, 2, 3, subset="random")


def test_regularizer_acts_and_reports():
    def regularizer(output, step):
        return 1e3 * jnp.mean(output.rgb**2), {"square": jnp.mean(output.rgb**2)}

    state, run, _ = setup(
        score=None,
        regularizer=regularizer,
        particle_tx=optax.sgd(1e-4),
        score_tx=optax.identity(),
    )
    before = latents(state)
    state, metrics = run(state)
    np.testing.assert_allclose(
        metrics["regularizer/square"], (before**2).mean(), rtol=1e-4
    )
    np.testing.assert_allclose(latents(state), before * (1 - 0.1), atol=5e-3)
    np.testing.assert_allclose(metrics["render/mean"], before.mean(), atol=1e-5)


def test_each_view_gets_the_prompt_of_its_view_and_background():
    seen = []
    colors = np.array([[1, 1, 1], [0.5, 0.5, 0.5], [0, 0, 0]], np.float32)
    views = VIEWS._replace(
        sample_background=make_background_sampler(colors, [0.5, 0.3, 0.2]), num=64
    )
    draw_fn = make_draw(make_prior(MODEL), make_score(SCORE), views)
    codes = jnp.arange(12.0).reshape(4, 3, 1, 1)
    contexts = {"text": codes, "negative": -codes, "score": 100 + codes}
    draw = jax.jit(draw_fn)(jax.random.key(0), jnp.int32(0), contexts)
    view = prompt.view_index(
        draw.cameras.azimuth_deg,
        draw.cameras.elevation_deg,
        overhead_deg=60.0,
        front_half_angle_deg=45.0,
    )
    for i in range(64):
        code = float(draw.prompts["text"][i, 0, 0])
        index = int(code) % 3
        assert int(code) // 3 == int(view[i])
        np.testing.assert_allclose(draw.backgrounds[i], colors[index])
        assert float(draw.prompts["score"][i, 0, 0]) == 100 + code
        seen.append(index)
    assert set(seen) == {0, 1, 2}


def test_draw_follows_its_distributions():
    views = VIEWS._replace(
        make_t_range=lambda alphas_cumprod: lambda step: (10, 19), num=2000
    )
    draw_fn = make_draw(make_prior(MODEL), make_score(SCORE, updates=2), views)
    draw = jax.jit(draw_fn)(jax.random.key(0), jnp.int32(0), make_contexts(2))
    assert draw.t.min() == 10 and draw.t.max() == 19
    assert draw.score.t.min() == 0 and draw.score.t.max() == T - 1
    assert abs(float(draw.score.keep.mean()) - 0.9) < 0.02
    assert abs(np.corrcoef(draw.score.t)[0, 1]) < 0.1
    stacked = np.concatenate([draw.noise[None], draw.score.noise])
    assert stacked.shape == (3, 2000, *SHAPE)
    assert abs(stacked.std() - 1) < 0.03
    assert abs(np.corrcoef(stacked.reshape(3, -1))[0, 1:]).max() < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num": 0}, "at least one view"),
        ({"camera_dropout": 1.5}, "camera_dropout"),
    ],
)
def test_refuses_impossible_values(change, message):
    with pytest.raises(ValueError, match=message):
        simple_step(
            make_scene(), make_prior(MODEL), SCORE, particles_per_step=1, **change
        )
    with pytest.raises(ValueError, match="do not fit"):
        make_background_sampler(np.ones((2, 3)), [1.0])


def test_a_particle_has_one_noise_of_its_own_in_all_steps():
    spec = presets.preset("image2d", "smoke")
    run = distil(
        image(spec.image, shape=(1, 1, 1), latent=True),
        make_prior(MODEL)._replace(latent_shape=(1, 1, 1)),
        methods.Method(lambda views: views.shared_noise(), "uniform"),
        None,
        make_views(spec.views),
        tx=optax.sgd(1.0),
    )
    state = run.init(jax.random.key(0), {}, num_particles=3)
    prompts = prompt.encode_prompts(
        lambda texts: np.zeros((len(texts), 1, 1)), spec.prompt
    )
    at = [np.array(state.particles.params["pixels"]).ravel()]
    for _ in range(2):
        state, _ = run.step(state, {}, prompts)
        at.append(np.array(state.particles.params["pixels"]).ravel())
    first, second = np.diff(at, axis=0)
    np.testing.assert_allclose(first, second, rtol=1e-5)
    assert len(set(first.round(4))) == 3


@pytest.mark.parametrize(
    "levels", [ALPHAS_CUMPROD[::-1], 1 - ALPHAS_CUMPROD, 80.0 * ALPHAS_CUMPROD]
)
def test_refuses_what_is_no_schedule(levels):
    prior = make_prior(MODEL)._replace(alphas_cumprod=levels)
    with pytest.raises(ValueError, match=r"\(0, 1\] and fall"):
        simple_step(make_scene(), prior, SCORE, particles_per_step=1)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (Population, {"particles_per_step": -1}),
        (Population, {"subset": "rand"}),
        (Guidance, {"guidance_rescale": 5.0}),
        (Guidance, {"guidance_interval": (0.5, 0.1)}),
    ],
)
def test_refuses_settings_out_of_bounds(make, values):
    with pytest.raises(ValueError, match=next(iter(values))):
        make(**values)


def test_prompts_and_views_are_of_the_same_backgrounds():
    views = VIEWS._replace(num_backgrounds=3)
    made = make_views(presets.toybox("a red mushroom").views)
    assert made.num_backgrounds == 3  # white, grey, black
    draw = make_draw(make_prior(MODEL), None, views)
    with pytest.raises(ValueError, match="of 1 backgrounds, the views draw 3"):
        draw(jax.random.key(0), jnp.int32(0), make_contexts(2))


def test_a_start_stays_its_owner_s():
    """A step that takes the state's buffers leaves those of `start` alone."""
    scene, tx, key = make_scene(), optax.sgd(0.1), jax.random.key(0)
    first = begin_state(scene, None, tx, key, {}, num_particles=2)
    start = (first.particles.params, first.particles.stats)
    second = begin_state(scene, None, tx, key, {}, num_particles=2, start=start)
    for mine, theirs in zip(
        jax.tree.leaves(second.particles.params), jax.tree.leaves(start[0]), strict=True
    ):
        assert mine.unsafe_buffer_pointer() != theirs.unsafe_buffer_pointer()
        np.testing.assert_array_equal(mine, theirs)


def test_refuses_impossible_starts():
    def begin(key, num_particles, start=None):
        scene, tx = make_scene(), optax.sgd(0.1)
        numbers = {"num_particles": num_particles, "start": start}
        return begin_state(scene, None, tx, key, {}, **numbers)

    key = jax.random.key(0)
    with pytest.raises(ValueError, match="num_particles=0"):
        begin(key, 0)
    with pytest.raises(ValueError, match=r"start has \{5\} particles"):
        begin(key, 2, ({"a": jnp.ones(5)}, {}))
    with pytest.raises(ValueError, match=r"jax.random.key\(seed\)"):
        begin(jax.random.PRNGKey(0), 2)
