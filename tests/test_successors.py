# SPDX-License-Identifier: Apache-2.0
"""The family of score distillation against closed forms, on Gaussian priors.

For N(m, v) the noise prediction is sigma (x - alpha m) / (alpha^2 v + sigma^2), and the
deterministic path keeps (x_t - alpha m) / sqrt(alpha^2 v + sigma^2) constant.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax import methods
from vsd_jax.diffusion.guidance import WORDS, Guidance
from vsd_jax.diffusion.loss_scale import with_loss_scale
from vsd_jax.diffusion.noise import add_noise
from vsd_jax.methods.inversion import ddim_invert, ddim_move
from vsd_jax.methods.noised_views import (
    CONSISTENT3D_KEY,
    GUIDANCE_KEY,
    OVERSHOOT_KEY,
)
from vsd_jax.methods.protocol import make_own_gradient
from vsd_jax.score_network import fixed_score
from vsd_jax.types import Camera, Draw, NoiseModel, Prior, ScoreDraw
from vsd_jax.views import take_views

ABAR = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000)).astype(np.float32)
MEANS = {"text": 0.8, "empty": -0.3, "negative": -1.0, "source": 0.4}
MEANS |= {"score": 0.1}
VARIANCE = 0.3
SHAPE = (3, 2, 2, 1)
T = jnp.array([40, 300, 900])
KEYS = jax.random.split(jax.random.key(0))
METHOD_KEYS = jax.random.split(jax.random.key(7), 3)
RUN_KEYS = jax.random.split(jax.random.key(8), 3)
LATENTS = jax.random.normal(KEYS[0], SHAPE)
NOISE = jax.random.normal(KEYS[1], SHAPE)
SCORE_NOISE = jax.random.normal(jax.random.key(5), SHAPE)
SCORE_T = jnp.array([700, 30, 400])
CAMERAS = Camera(
    cam_to_world=jnp.zeros((3, 4, 4)),
    **dict.fromkeys(("fov_deg", "azimuth_deg", "elevation_deg", "radius"), T),
)


# What reaches x_t by other ways than noise has no other t to ask for guidance at.
INVERTING = ("ism", "sdi", "sdedit", "consistent3d")
OF_THE_NOISED = sorted(methods.METHODS.keys() - set(INVERTING))


def levels(t):
    abar = jnp.asarray(ABAR)[t].reshape(-1, 1, 1, 1)
    return jnp.sqrt(abar), jnp.sqrt(1 - abar)


def predict(noisy, t, name):
    alpha, sigma = levels(t)
    return sigma * (noisy - alpha * MEANS[name]) / (alpha**2 * VARIANCE + sigma**2)


def noisy_latents(t=T):
    alpha, sigma = levels(t)
    return alpha * LATENTS + sigma * NOISE


def difference(first, second, t=T):
    """w (eps(first) - eps(second)): the same wherever x_t is."""
    alpha, sigma = levels(t)
    apart = MEANS[second] - MEANS[first]
    return sigma**3 * alpha * apart / (alpha**2 * VARIANCE + sigma**2)


def close(actual, expected, tolerance=1e-5):
    expected = jnp.broadcast_to(expected, SHAPE)
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance)


def model(params, noisy, t, context):
    """The text embedding carries the prompt's mean."""
    alpha, sigma = levels(t)
    mean = context["text"].mean((1, 2)).reshape(-1, 1, 1, 1) + params
    return sigma * (noisy - alpha * mean) / (alpha**2 * VARIANCE + sigma**2)


def score_model(params, noisy, t, context):
    """phi sees the camera as a shift of the mean."""
    seen = context["camera"][:, :1].reshape(-1, 1, 1, 1)
    return model(params[0] * seen, noisy, t, context)


def drawn(number):
    """The number in [0, 1) that a method draws of each view for this purpose."""
    keys = [jax.random.fold_in(key, number) for key in METHOD_KEYS]
    return jnp.stack([jax.random.uniform(key) for key in keys])


def residual_of(method, latents=LATENTS, t=T, phi=0.0, **options):
    """A method's residual with weight one, on the Gaussian prior."""
    prior = Prior(NoiseModel(model, "epsilon"), None, None, ABAR, SHAPE[1:], 2)
    eye = jnp.broadcast_to(jnp.eye(4), (3, 4, 4))
    given = {"t", "noise", "prompts", "cameras", "method_keys", "run_keys", "score"}
    names = set(Draw.__dataclass_fields__) - given
    draw = Draw(
        t=t,
        noise=options.get("noise", NOISE),
        prompts={name: jnp.full((3, 1, 1), mean) for name, mean in MEANS.items()},
        cameras=CAMERAS.replace(cam_to_world=eye),
        method_keys=jax.random.clone(METHOD_KEYS),
        run_keys=jax.random.clone(RUN_KEYS),
        score=ScoreDraw(
            t=SCORE_T[None], noise=SCORE_NOISE[None], keep=jnp.ones((1, 3), bool)
        ),
        **dict.fromkeys(names),
    )
    own = options.get("score_model", score_model)
    score = fixed_score(NoiseModel(own, "epsilon"))
    score = score._replace(
        updates=options.get("updates", 1),
        camera_dropout=options.get("camera_dropout", 0.1),
    )
    if "view" not in options:
        return methods.bind(method, prior, score)(latents, draw, phi, 0.0)
    draw = take_views(draw, options["view"], 3)
    latents = latents[options["view"]][None]
    return methods.bind(method, prior, score)(latents, draw, phi, 0.0)


def test_what_was_asked_of_the_views_is_not_said_of_others():
    """A replaced x_t has predictions of its own; a branch keeps its to itself."""
    later = jnp.minimum(T + 50, 999)

    def moved(views):
        views.guided(2.0)
        other = dataclasses.replace(views, noisy=2.0 * views.noisy, t=later)
        close(other.guided(2.0), views.guided(2.0, at=(other.noisy, later)))
        close(other.score(), views.score(at=(other.noisy, later)))
        return other.guided(2.0)

    def branching(views):
        one = jax.lax.cond(
            views.t[0] > 0,
            lambda: views.guided(2.0),
            lambda: 0.0 * views.guided(np.float32(2.0)),
        )
        return one - views.guided(2.0)

    residual_of(methods.Method(moved, "uniform"))
    found = jax.jit(lambda x: residual_of(methods.Method(branching, "uniform"), x))
    close(found(LATENTS), 0.0 * LATENTS)


def test_a_prompt_that_was_not_encoded_is_named():
    method = methods.Method(lambda views: views.prior("other"), "uniform")
    with pytest.raises(ValueError, match="prompt 'other'.*extra=method.texts"):
        residual_of(method)
    alone = Prior(NoiseModel(model, "epsilon"), None, None, ABAR, SHAPE[1:], 2)
    asks = methods.bind(
        methods.Method(lambda views: views.score(), "uniform"), alone, None
    )
    draw = Draw(**dict.fromkeys(Draw.__dataclass_fields__) | {"t": T, "noise": NOISE})
    with pytest.raises(ValueError, match="give `distil` one"):
        asks(LATENTS, draw, None, None)


def test_csd_is_the_direction_between_the_means():
    close(residual_of(methods.csd(guidance_scale=1.0)), difference("text", "empty"))
    twice = residual_of(methods.csd(guidance_scale=2.0))
    close(twice, 2.0 * difference("text", "empty"))


def test_bridge_goes_from_the_source_to_the_text():
    residual = residual_of(methods.bridge(guidance_scale=3.0))
    close(residual, 3.0 * difference("text", "source"))


def test_nfsd_switches_its_domain_term():
    residual = residual_of(methods.nfsd(guidance_scale=7.5, t_switch=0.2))
    _, sigma = levels(T)
    early = sigma**2 * predict(noisy_latents(), T, "empty")
    domain = jnp.where(
        (T < 200).reshape(-1, 1, 1, 1), early, difference("empty", "negative")
    )
    close(residual, domain + 7.5 * difference("text", "empty"))


def test_nfsd_s_negative_prompt_has_no_words_for_a_view(monkeypatch):
    """Those that guidance moves away from are another matter (`select_prompts`)."""
    method = methods.nfsd(guidance_scale=7.5)
    plain = residual_of(method)
    monkeypatch.setitem(MEANS, WORDS, MEANS["negative"])
    monkeypatch.setitem(MEANS, "negative", 5.0)
    close(residual_of(method), plain)


def test_a_score_network_that_saw_no_camera_is_asked_without_one():
    method = methods.vsd(guidance_scale=7.5)
    never = residual_of(method, phi=0.6, camera_dropout=1.0)
    close(never, residual_of(method, phi=0.0))  # phi shifts what the camera is told
    assert jnp.abs(never - residual_of(method, phi=0.6)).max() > 0.1


@pytest.mark.parametrize("score_scale", [1.0, 0.5])
def test_esd_is_vsd_at_scale_one(score_scale):
    options = {"guidance_scale": 7.5}
    vsd = residual_of(methods.vsd(**options), phi=0.6)
    esd = residual_of(methods.esd(**options, score_scale=score_scale), phi=0.6)
    # phi sees the camera as a shift of 0.6, of which `score_scale` is left.
    alpha, sigma = levels(T)
    lost = -0.6 * (1 - score_scale)
    close(esd - vsd, sigma**3 * alpha * lost / (alpha**2 * VARIANCE + sigma**2))


@pytest.mark.parametrize("name", sorted(methods.METHODS.keys() - {"sds", "vsd"}))
def test_the_bound_of_x0_acts_in_every_method(name):
    make = jax.jit(
        lambda limit: residual_of(
            methods.METHODS[name](guidance_scale=7.5, guidance=Guidance(x0_limit=limit))
        ),
        static_argnums=0,
    )
    free, bounded = make(0.0), make(0.2)
    assert jnp.abs(free - bounded).max() > 1e-2


@pytest.mark.parametrize("guidance_t", [(0.0, 0.0), (0.02, 0.1)])
def test_a_bound_on_x0_adds_nothing_where_the_prompts_agree(guidance_t, monkeypatch):
    """What is clipped of one side of the guidance term is clipped of the other."""
    monkeypatch.setitem(MEANS, "empty", MEANS["text"])
    monkeypatch.setitem(MEANS, "negative", MEANS["text"])
    guidance = Guidance(x0_limit=0.2, guidance_t=guidance_t)
    asd = methods.asd(guidance_scale=7.5, t_shift=0.0, guidance=Guidance(x0_limit=0.2))
    close(residual_of(asd), 0.0)
    csd = methods.csd(guidance_scale=7.5, guidance=guidance)
    close(residual_of(csd), jnp.zeros(SHAPE), 1e-5)
    if guidance.is_decoupled:
        strong, none = (
            residual_of(methods.sds(guidance_scale=scale, guidance=guidance))
            for scale in (7.5, 1.0)
        )
        close(strong, none, 1e-5)


def on_path(name, t, start):
    """Where the path of N(m, v) through `start` at t = 0 is at t."""
    (alpha, sigma), (alpha_0, sigma_0) = levels(t), levels(0 * t)
    spread = jnp.sqrt(alpha**2 * VARIANCE + sigma**2)
    spread_0 = jnp.sqrt(alpha_0**2 * VARIANCE + sigma_0**2)
    mean = MEANS[name]
    return alpha * mean + spread / spread_0 * (start - alpha_0 * mean)


def test_inversion_follows_the_path():
    t = jnp.array([100, 400, 800])
    end = jax.jit(
        lambda x: ddim_invert(
            lambda x, t: predict(x, t, "text"), x, t, alphas_cumprod=ABAR, stride=2
        )
    )(LATENTS)
    close(end, on_path("text", t, LATENTS), 0.02)


def test_sdi_compares_with_the_noise_of_the_path():
    # At scale one guidance is the text alone, in the inversion too.
    method = methods.sdi(
        guidance_scale=1.0,
        inversion_scale=1.0,
        num_inversions=100,
        inversion_noise=0.0,
        overshoot=0.0,
    )
    residual = jax.jit(lambda x: residual_of(method, x))(LATENTS)
    x_t = on_path("text", T, LATENTS)
    alpha, sigma = levels(T)
    expected = sigma**2 * predict(x_t, T, "text") - sigma * (x_t - alpha * LATENTS)
    close(residual, expected, 0.03)


def test_sdi_inverts_past_t_and_takes_what_it_finds_for_x_t():
    options = {"guidance_scale": 1.0, "inversion_scale": 1.0, "num_inversions": 1000}
    method = methods.sdi(**options, inversion_noise=0.0, overshoot=0.5)
    residual = jax.jit(lambda x: residual_of(method, x))(LATENTS)
    unit = drawn(OVERSHOOT_KEY)
    later = jnp.minimum(T + (unit * 500).astype(jnp.int32), 999)
    assert jnp.abs(later - T).max() > 50
    x_before = on_path("text", T - 1, LATENTS)
    x_t = ddim_move(x_before, predict(x_before, T - 1, "text"), T - 1, later, ABAR)
    alpha, sigma = levels(T)
    expected = sigma**2 * predict(x_t, T, "text") - sigma * (x_t - alpha * LATENTS)
    close(residual, expected, 0.03)


def test_an_inversion_goes_in_strides_and_ends_where_it_should():
    """Authors' codes: ISM 0, 200, ... and s; SDI 0, 100, ... below t, then t + d."""
    asked = []

    def note(x, t):
        asked.append(t.tolist())
        return jnp.ones_like(x)

    t, past = jnp.array([0, 150, 400, 730]), jnp.array([0, 30, 0, 90])
    x = jnp.ones((4, 1, 1, 1))
    with jax.disable_jit():
        end = ddim_invert(note, x, t, alphas_cumprod=ABAR, stride=200, past=past)
    np.testing.assert_array_equal(
        np.transpose(asked),
        [[0, 0, 0, 0], [0, 150, 150, 150], [0, 200, 400, 400], [0, 200, 400, 600]],
    )
    # With one noise all along, the path is straight, in however many steps.
    whole = ddim_move(x, jnp.ones_like(x), jnp.zeros_like(t), t + past, ABAR)
    np.testing.assert_allclose(end, whole, rtol=1e-4, atol=1e-5)
    assert end[0] == x[0]


def test_the_noise_of_an_inversion_is_a_share_of_ddpm_s():
    x, t = jnp.zeros((2, 60, 60, 1)), jnp.array([100, 700])
    found = ddim_invert(
        lambda x, t: jnp.zeros_like(x),
        x,
        t,
        alphas_cumprod=ABAR,
        stride=1000,
        eta=0.3,
        keys=jax.random.split(jax.random.key(0)),
    )
    # DDPM's posterior variance of the step from t to 0.
    wanted = 0.3 * np.sqrt((1 - ABAR[0]) / (1 - ABAR[t]) * (1 - ABAR[t] / ABAR[0]))
    np.testing.assert_allclose(found.std((1, 2, 3)), wanted, rtol=0.05)


def test_ism_starts_with_the_noise_of_the_first_step():
    method = methods.ism(guidance_scale=1.0, interval=0.01, num_inversions=400)
    t = jnp.array([60, 300, 900])
    make = jax.jit(lambda noise: residual_of(method, t=t, noise=noise))
    # All is affine in x_0, and sigma_0 is only 0.01 here.
    large = 5e3 * NOISE
    found = make(large) - make(0 * NOISE)
    shares = []
    for name, at in (("text", t), ("empty", t - 10)):
        both = (on_path(name, at, levels(0)[1] * x) for x in (large, 0 * NOISE))
        shares.append(jnp.subtract(*(predict(x, at, name) for x in both)))
    _, sigma = levels(t)
    expected = sigma**2 * (shares[0] - shares[1])
    assert jnp.abs(expected).max() > 0.3
    close(found, expected, 0.03)


def test_ism_compares_two_points_of_the_path():
    method = methods.ism(guidance_scale=2.0, interval=0.05, num_inversions=100)
    t = jnp.array([60, 300, 900])
    residual = jax.jit(lambda x: residual_of(method, x, t))(LATENTS)
    start = noisy_latents(0 * t)
    x_s, x_t = on_path("empty", t - 50, start), on_path("empty", t, start)
    negative, text = predict(x_t, t, "negative"), predict(x_t, t, "text")
    _, sigma = levels(t)
    guided = 2.0 * text - negative
    close(residual, sigma**2 * (guided - predict(x_s, t - 50, "empty")), 0.03)


def test_asd_compares_with_the_prior_at_a_noisier_time():
    guided = residual_of(methods.sds(guidance_scale=7.5))
    _, sigma = levels(T)
    guided = guided + sigma**2 * NOISE
    alone = residual_of(methods.asd(guidance_scale=7.5, t_shift=0.0))
    close(alone, guided - sigma**2 * predict(noisy_latents(), T, "text"))
    # Every later time that the shift allows, of which one was drawn for each view.
    found = residual_of(methods.asd(guidance_scale=7.5, t_shift=0.5, t_shift_from=0.0))
    for view in range(len(T)):
        error = []
        for later in range(int(T[view]), int(1.5 * T[view]) + 1):
            t = T.at[view].set(min(later, len(ABAR) - 1))
            noisier = add_noise(LATENTS, NOISE, t, ABAR)
            expected = guided - sigma**2 * predict(noisier, t, "text")
            error.append(float(jnp.abs(found - expected)[view].max()))
        assert min(error) < 1e-4 and int(np.argmin(error)) > 0
    # At t_min nothing is added.
    at_least = residual_of(methods.asd(guidance_scale=7.5, t_shift_from=1.0))
    close(at_least, alone)


def test_sdedit_of_one_step_is_sds_and_of_many_ends_on_the_path():
    one = residual_of(methods.sdedit(guidance_scale=7.5, num_denoisings=1))
    close(one, residual_of(methods.sds(guidance_scale=7.5)))
    method = methods.sdedit(guidance_scale=1.0, num_denoisings=100)
    residual = jax.jit(lambda x: residual_of(method, x))(LATENTS)
    # The path through x_t, back to t = 0, and what is expected of x_0 there.
    alpha, sigma = levels(T)
    alpha_0, sigma_0 = levels(0 * T)
    mean, spread_0 = MEANS["text"], jnp.sqrt(alpha_0**2 * VARIANCE + sigma_0**2)
    spread = jnp.sqrt(alpha**2 * VARIANCE + sigma**2)
    start = alpha_0 * mean + spread_0 / spread * (noisy_latents() - alpha * mean)
    x0 = (start - sigma_0 * predict(start, 0 * T, "text")) / alpha_0
    close(residual, sigma * alpha * (LATENTS - x0), 0.03)


def test_consistent3d_compares_x_u_with_its_own_step_to_x_t():
    options = {"guidance_scale": 1.0, "consistency_gap": (0.05, 0.3)}
    method = methods.consistent3d(**options)
    found = residual_of(method)
    unit = drawn(CONSISTENT3D_KEY)
    u = jnp.minimum(T + 50 + jnp.floor(unit * 251).astype(jnp.int32), 999)
    (alpha, sigma), (alpha_u, sigma_u) = levels(T), levels(u)
    # One noise for all steps, none of the step's own.
    one = jnp.stack([jax.random.normal(key, SHAPE[1:]) for key in RUN_KEYS])
    x_u = alpha_u * LATENTS + sigma_u * one
    noise_u = predict(x_u, u, "text")
    x_t = alpha * (x_u - sigma_u * noise_u) / alpha_u + sigma * noise_u
    close(found, sigma**2 * (noise_u - predict(x_t, T, "text")), 1e-4)
    again = residual_of(method, noise=0 * NOISE)
    np.testing.assert_array_equal(found, again)
    fresh = residual_of(methods.consistent3d(**options, shared_noise=False))
    x_u = alpha_u * LATENTS + sigma_u * NOISE
    noise_u = predict(x_u, u, "text")
    x_t = alpha * (x_u - sigma_u * noise_u) / alpha_u + sigma * noise_u
    close(fresh, sigma**2 * (noise_u - predict(x_t, T, "text")), 1e-4)


def test_l2_vsd_looks_ahead_by_the_gradient_of_its_own_renders():
    phi, rate = 0.6, 0.5
    vsd = residual_of(methods.vsd(guidance_scale=7.5), phi=phi)
    ahead = methods.l2_vsd(guidance_scale=7.5, lookahead_rate=rate)
    found = residual_of(ahead, phi=phi)

    def slope(t):  # of the score network's noise in phi
        alpha, sigma = levels(t)
        return -sigma * alpha / (alpha**2 * VARIANCE + sigma**2)

    alpha, sigma = levels(SCORE_T)
    noisy = alpha * LATENTS + sigma * SCORE_NOISE
    error = predict(noisy, SCORE_T, "score") + phi * slope(SCORE_T) - SCORE_NOISE
    change = -rate * jnp.mean(2.0 * error * slope(SCORE_T))
    assert abs(change) > 1e-2
    close(found - vsd, -(levels(T)[1] ** 2) * slope(T) * change, 1e-4)
    np.testing.assert_array_equal(
        residual_of(methods.l2_vsd(guidance_scale=7.5, lookahead_rate=0.0), phi=phi),
        vsd,
    )


def test_looking_ahead_differentiates_a_float16_network_forwards():
    @with_loss_scale
    def scaled(phi, fixed):
        return score_model(phi, *fixed)

    def model(params, noisy, t, context):
        return scaled(params, (noisy, t, context))

    method = methods.l2_vsd(guidance_scale=7.5, lookahead_rate=0.5)
    found = residual_of(method, phi=0.6, score_model=model)
    close(found, residual_of(method, phi=0.6))


# The look ahead of L2-VSD takes the mean over all views, and so over devices.
@pytest.mark.parametrize("name", sorted(methods.METHODS.keys() - {"l2_vsd"}))
def test_a_view_has_the_same_residual_alone(name):
    # On a device of its own.
    method = methods.METHODS[name](guidance_scale=7.5)
    if name in OF_THE_NOISED:
        own = Guidance(guidance_t=(0.1, 0.5))
        method = methods.METHODS[name](guidance_scale=7.5, guidance=own)
    together = residual_of(method, phi=0.6)
    for view in (0, 2):
        alone = residual_of(method, phi=0.6, view=view)
        np.testing.assert_allclose(alone[0], together[view], atol=1e-4, rtol=1e-4)


def test_looking_ahead_with_a_score_that_learns_nothing_is_refused():
    score = fixed_score(NoiseModel(score_model, "epsilon"))
    assert make_own_gradient(score, ABAR) is None
    with pytest.raises(ValueError, match="steps_per_step"):
        residual_of(methods.l2_vsd(guidance_scale=7.5), updates=0)


@pytest.mark.parametrize("name", OF_THE_NOISED)
def test_guidance_has_a_t_of_its_own(name):
    options = {"guidance_scale": 7.5, "weighting": "uniform"}
    make = methods.METHODS[name]
    own = make(**options, guidance=Guidance(guidance_t=(0.1, 0.5)))
    found = residual_of(own, phi=0.6) - residual_of(make(**options), phi=0.6)
    unit = drawn(GUIDANCE_KEY)
    t = 100 + jnp.floor(unit * 401).astype(jnp.int32)
    base = {"csd": "empty", "nfsd": "empty", "bridge": "source"}.get(name, "negative")
    scale = 7.5 if base != "negative" else 6.5
    # The difference of two predictions is the same wherever x_t is.
    there, here = (
        scale * difference("text", base, at) / levels(at)[1] ** 2 for at in (t, T)
    )
    close(found, there - here, 1e-4)


def test_a_term_of_guidance_is_not_rescaled():
    half, own_t = {"guidance_rescale": 0.5}, {"guidance_t": (0.1, 0.5)}
    for make, options in ((methods.csd, half), (methods.vsd, half | own_t)):
        with pytest.raises(ValueError, match=r"guidance_rescale=0\.5"):
            residual_of(make(guidance_scale=7.5, guidance=Guidance(**options)))


def test_the_guidance_of_another_t_has_the_weight_of_that_t():
    own = Guidance(guidance_t=(0.1, 0.5))
    found = residual_of(methods.csd(guidance_scale=1.0, guidance=own))
    unit = drawn(GUIDANCE_KEY)
    t = 100 + jnp.floor(unit * 401).astype(jnp.int32)
    close(found, difference("text", "empty", t), 1e-4)


@pytest.mark.parametrize("name", methods.METHODS)
def test_dmd_s_weight_is_the_distance_to_the_prior_s_picture(name):
    guidance = Guidance(x0_limit=0.7)
    options = {"guidance_scale": 3.0, "guidance": guidance}
    make = methods.METHODS[name]
    found = residual_of(make(**options, weighting="dmd"), phi=0.6)
    plain = residual_of(make(**options, weighting="sigma_over_alpha"), phi=0.6)
    alpha, sigma = levels(T)
    noisy = noisy_latents()
    text, base = (predict(noisy, T, each) for each in ("text", "negative"))
    x0 = (noisy - sigma * (base + 3.0 * (text - base))) / alpha
    distance = jnp.abs(LATENTS - jnp.clip(x0, -0.7, 0.7)).mean((1, 2, 3), keepdims=True)
    close(found * distance, plain, 1e-3)


@pytest.mark.parametrize("name", methods.METHODS)
def test_an_unknown_weighting_is_refused(name):
    method = methods.METHODS[name](guidance_scale=1.0, weighting="sigma")
    with pytest.raises(ValueError, match="sigma_squared"):
        residual_of(method)


def test_only_the_renderer_is_differentiated():
    def loss(latents):
        return jnp.sum(residual_of(methods.csd(guidance_scale=1.0), latents) ** 2)

    assert not jnp.any(jax.grad(loss)(LATENTS))
