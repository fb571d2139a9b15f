# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_scene import ALPHAS_CUMPROD, SHAPE, T, make_prior, mixture

from vsd_jax import vsd
from vsd_jax.diffusion import exact, noise, prompt
from vsd_jax.residuals import make_residual
from vsd_jax.types import NoiseModel

BATCH = 6
T_BATCH = jnp.array([2, 20, 40, 60, 80, 97])
NOISE_FN = exact.make_noise_fn(ALPHAS_CUMPROD)


def residual(noise_prior, noise_score, t=T_BATCH):
    return vsd.vsd_residual(
        noise_prior, noise_score, t, ALPHAS_CUMPROD, weighting="sigma_squared"
    )


@pytest.fixture
def batch():
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (BATCH, *SHAPE)), jax.random.normal(
        keys[1], (BATCH, *SHAPE)
    )


@pytest.fixture
def context():
    return {
        "text": exact.restrict(BATCH, np.array([True, False]))["text"],
        "negative": jnp.zeros((BATCH, 1, 2)),
    }


@pytest.mark.parametrize("limit", [0.0, 0.3])
def test_the_guided_x0_is_bounded_before_the_score_is_subtracted(batch, context, limit):
    latents, epsilon = batch
    prior = make_prior(NoiseModel(NOISE_FN, "epsilon"))
    options = {"guidance_scale": 7.5, "weighting": "uniform"}
    residual_fn = make_residual(prior, None, x0_limit=limit, **options)
    draw = {"t": T_BATCH, "noise": epsilon, "context": context}
    found = residual_fn(latents, draw, {}, mixture())
    noisy = noise.add_noise(latents, epsilon, T_BATCH, ALPHAS_CUMPROD)
    guided = found + epsilon  # the weight is 1
    x0 = noise.to_x0(guided, noisy, T_BATCH, ALPHAS_CUMPROD, "epsilon")
    free = vsd.prior_noise(
        NOISE_FN, mixture(), noisy, T_BATCH, context, guidance_scale=7.5
    )
    wanted = noise.to_x0(free, noisy, T_BATCH, ALPHAS_CUMPROD, "epsilon")
    assert np.abs(wanted).max() > 1.0
    wanted = np.clip(wanted, -limit, limit) if limit else wanted
    np.testing.assert_allclose(x0, wanted, atol=2e-2)


def test_two_stage_range():
    limits = {"t_min": 20, "t_max": 980, "t_max_late": 500, "anneal_step": 5000}
    for step, high in ((0, 980), (4999, 980), (5000, 500), (10**6, 500)):
        found = vsd.two_stage_t_range(jnp.int32(step), **limits)
        assert [int(t) for t in found] == [20, high]


def test_sqrt_range():
    for step, t in ((0, 980), (25, 500), (100, 20), (200, 20)):
        low, high = vsd.sqrt_t_range(
            jnp.int32(step), t_min=20, t_max=980, num_steps=100
        )
        assert int(low) == int(high) == t


def test_uniform_t_covers_the_inclusive_range():
    unit = jax.random.uniform(jax.random.key(0), (20_000,))
    t = np.asarray(vsd.uniform_t(unit, (20, 29)))
    assert t.min() == 20 and t.max() == 29
    np.testing.assert_allclose(np.bincount(t)[20:] / len(t), 0.1, atol=0.01)
    almost_one = np.nextafter(np.float32(1), np.float32(0))
    for high in (0, 499, 979, 999):
        assert int(vsd.uniform_t(jnp.float32(almost_one), (0, high))) == high


def test_prior_noise_is_guidance_of_two_separate_calls(batch, context):
    noisy, _ = batch
    found = vsd.prior_noise(
        NOISE_FN, mixture(), noisy, T_BATCH, context, guidance_scale=7.5
    )
    text, negative = (
        NOISE_FN(mixture(), noisy, T_BATCH, {"text": context[name]})
        for name in ("text", "negative")
    )
    expected = negative + 7.5 * (text - negative)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_prior_noise_at_scale_one_is_one_conditional_call(batch, context):
    calls = []

    def counting(params, noisy, t, context):
        calls.append(noisy.shape[0])
        return NOISE_FN(params, noisy, t, context)

    args = (counting, mixture(), batch[0], T_BATCH, context)
    one = vsd.prior_noise(*args, guidance_scale=1.0)
    both = vsd.prior_noise(*args, guidance_scale=1.0 + 1e-7)
    np.testing.assert_allclose(one, both, rtol=1e-4, atol=1e-4)
    assert calls == [BATCH, 2 * BATCH]


def test_prior_noise_with_perp_neg(batch, context):
    noisy, _ = batch
    keys = jax.random.split(jax.random.key(4))
    context = {
        **context,
        "perp_text": jax.random.normal(keys[0], (BATCH, 2, 1, 2)),
        "perp_weights": jax.random.uniform(keys[1], (BATCH, 2)),
    }

    def call(text):
        return NOISE_FN(mixture(), noisy, T_BATCH, {"text": text})

    negatives = [call(context["perp_text"][:, m]) for m in range(2)]
    expected = prompt.perp_neg(
        call(context["negative"]),
        call(context["text"]),
        jnp.stack(negatives, axis=1),
        context["perp_weights"],
        scale=7.5,
    )
    found = vsd.prior_noise(
        NOISE_FN, mixture(), noisy, T_BATCH, context, guidance_scale=7.5
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_residual_is_zero_for_equal_networks_at_guidance_one(batch, context):
    noisy, _ = batch
    context["negative"] = jnp.ones((BATCH, 1, 2))
    prior = vsd.prior_noise(
        NOISE_FN, mixture(), noisy, T_BATCH, context, guidance_scale=1.0
    )
    score = NOISE_FN(mixture(), noisy, T_BATCH, {"text": context["text"]})
    np.testing.assert_array_equal(residual(prior, score), np.zeros(noisy.shape))


def test_sds_is_vsd_with_the_true_noise_as_score(batch):
    prior, eps = batch
    found = vsd.sds_residual(
        prior, eps, T_BATCH, ALPHAS_CUMPROD, weighting="sigma_squared"
    )
    np.testing.assert_array_equal(found, residual(prior, eps))
    sigma_squared = 1 - ALPHAS_CUMPROD[np.asarray(T_BATCH)].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(found, sigma_squared * (prior - eps), rtol=1e-5)


def test_residual_is_the_difference_of_scores(batch):
    # noise = -sigma_t score, so residual = w(t) sigma_t (score of q - score of p).
    noisy, _ = batch
    other = exact.gaussian_mixture(jnp.zeros((1, *SHAPE)), jnp.ones((1, *SHAPE)), [1.0])
    empty = [exact.empty_context(BATCH, num) for num in (2, 1)]

    def score_of(params, context):
        def density(x):
            log_p = exact.log_density(params, x, T_BATCH, context, ALPHAS_CUMPROD)
            return log_p.sum()

        return jax.grad(density)(noisy)

    _, sigma_t = noise.alpha_sigma(T_BATCH, ALPHAS_CUMPROD, ndim=4)
    expected = sigma_t**3 * (score_of(other, empty[1]) - score_of(mixture(), empty[0]))
    found = residual(
        NOISE_FN(mixture(), noisy, T_BATCH, empty[0]),
        NOISE_FN(other, noisy, T_BATCH, empty[1]),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_surrogate_gradient_is_the_residual(batch):
    latents, direction = batch
    grads = jax.grad(vsd.surrogate_loss, argnums=(0, 1))(latents, direction)
    np.testing.assert_allclose(grads[0], direction / BATCH, rtol=1e-6)
    np.testing.assert_array_equal(grads[1], np.zeros(latents.shape))


def test_theta_loss_gives_phi_and_prior_no_gradient(batch):
    latents, eps = batch

    def loss(phi, prior_params, latents):
        noisy = noise.add_noise(latents, eps, T_BATCH, ALPHAS_CUMPROD)
        empty = exact.empty_context(BATCH, 2)
        direction = residual(
            NOISE_FN(prior_params, noisy, T_BATCH, empty),
            NOISE_FN(phi, noisy, T_BATCH, empty),
        )
        return vsd.surrogate_loss(latents, direction)

    phi = {**mixture(), "means": mixture()["means"] + 0.3}
    grads = jax.grad(loss, argnums=(0, 1, 2))(phi, mixture(), latents)
    for leaf in jax.tree.leaves(grads[:2]):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))
    assert np.abs(grads[2]).max() > 1e-3


def linear_model(kind):
    """A network of one number per parameter type, to be trained."""
    return NoiseModel(lambda params, noisy, t, context: params[0] * noisy, kind)


def errors(kind, scale, latents, draw, **options):
    return vsd.score_errors(
        linear_model(kind),
        (scale, {}),
        latents,
        draw,
        {},
        alphas_cumprod=ALPHAS_CUMPROD,
        **{"sigma_floor": 0.0, **options},
    )


def test_score_loss_gives_theta_no_gradient(batch):
    latents, eps = batch
    draw = {"t": T_BATCH, "noise": eps}

    def loss(scale, latents):
        return errors("epsilon", scale, latents, draw).sum()

    grads = jax.grad(loss, argnums=(0, 1))(jnp.float32(0.3), latents)
    assert abs(grads[0]) > 1e-3
    np.testing.assert_array_equal(grads[1], np.zeros(latents.shape))


def test_score_errors_are_plain_squared_errors(batch):
    latents, eps = batch
    draw = {"t": T_BATCH, "noise": eps}
    noisy = noise.add_noise(latents, eps, T_BATCH, ALPHAS_CUMPROD)
    for kind in ("epsilon", "v_prediction"):
        goal = noise.target(kind, latents, eps, T_BATCH, ALPHAS_CUMPROD)
        expected = ((0.3 * noisy - goal) ** 2).mean(axis=(1, 2, 3))
        found = errors(kind, jnp.float32(0.3), latents, draw)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_sample_loss_is_the_v_loss(batch):
    latents, eps = batch
    draw = {"t": T_BATCH, "noise": eps}
    alpha_t, sigma_t = noise.alpha_sigma(T_BATCH, ALPHAS_CUMPROD, ndim=4)
    as_v = NoiseModel(
        # The v that says the same as x_0 = 0.3 x_t.
        lambda params, noisy, t, context: (alpha_t - params[0]) / sigma_t * noisy,
        "v_prediction",
    )
    expected = vsd.score_errors(
        as_v,
        (jnp.float32(0.3), {}),
        latents,
        draw,
        {},
        alphas_cumprod=ALPHAS_CUMPROD,
        sigma_floor=0.0,
    )
    found = errors("sample", jnp.float32(0.3), latents, draw)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_sigma_floor_bounds_the_weight(batch):
    latents, eps = batch
    draw = {"t": jnp.zeros(BATCH, jnp.int32), "noise": eps}
    plain = errors("sample", jnp.float32(0.3), latents, draw, sigma_floor=1.0)
    found = errors("sample", jnp.float32(0.3), latents, draw, sigma_floor=0.5)
    np.testing.assert_allclose(found, 4.0 * plain, rtol=1e-4)


def test_camera_vector_drops_whole_cameras():
    matrices = jnp.arange(32.0).reshape(2, 4, 4)
    found = vsd.camera_vector(matrices, jnp.array([True, False]))
    np.testing.assert_array_equal(found[0], np.arange(16.0))
    np.testing.assert_array_equal(found[1], np.zeros(16))


def test_schedules_cover_the_noise_levels_of_the_tests():
    # Guards the other tests: the toy schedule ends in almost pure noise.
    assert ALPHAS_CUMPROD[0] > 0.99 and ALPHAS_CUMPROD[T - 1] < 0.02
