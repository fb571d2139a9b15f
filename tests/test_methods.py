# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_scene import ALPHAS_CUMPROD, SHAPE, T, make_prior, mixture

from vsd_jax import methods
from vsd_jax.diagnostics import noise_square
from vsd_jax.diffusion import exact, noise
from vsd_jax.diffusion.guidance import Guidance, guided_noise
from vsd_jax.particle import surrogate_loss
from vsd_jax.scene.camera import orbit_camera
from vsd_jax.score_network import camera_vector, fixed_score, score_errors
from vsd_jax.types import Draw, NoiseModel

BATCH = 6
T_BATCH = jnp.array([2, 20, 40, 60, 80, 97])
NOISE_FN = exact.make_noise_fn(ALPHAS_CUMPROD)


def make_draw(epsilon, prompts):
    """Only what a residual reads."""
    names = set(Draw.__dataclass_fields__) - {"t", "noise", "prompts", "cameras"}
    cameras = orbit_camera(jnp.zeros(BATCH), 0.0, 2.0, 40.0)
    return Draw(
        t=T_BATCH,
        noise=epsilon,
        prompts=prompts,
        cameras=cameras,
        **dict.fromkeys(names),
    )


def fixed(value):
    """A network that always predicts this noise."""
    return NoiseModel(lambda params, noisy, t, context: value, "epsilon")


def residual(noise_prior, noise_score, added=None, **settings):
    """VSD's, for two predictions (and the noise that was added, else zero)."""
    prior = make_prior(fixed(noise_prior))
    score = fixed_score(fixed(noise_score))
    method = methods.vsd(guidance_scale=1.0, **settings)
    bound = methods.bind(method, prior, score)
    prompts = dict.fromkeys(("text", "negative", "score"), jnp.zeros((BATCH, 1, 2)))
    zeros = jnp.zeros((BATCH, *SHAPE))
    added = zeros if added is None else added
    return bound(zeros, make_draw(added, prompts), {}, {})


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
    method = methods.sds(
        guidance_scale=7.5, guidance=Guidance(x0_limit=limit), weighting="uniform"
    )
    draw = make_draw(epsilon, context)
    found = methods.bind(method, prior, None)(latents, draw, {}, mixture())
    noisy = noise.add_noise(latents, epsilon, T_BATCH, ALPHAS_CUMPROD)
    guided = found + epsilon  # the weight is 1
    x0 = noise.to_x0(guided, noisy, T_BATCH, ALPHAS_CUMPROD, "epsilon")
    free = guided_noise(
        *(NOISE_FN, mixture(), noisy, T_BATCH, context),
        scale=7.5,
        alphas_cumprod=ALPHAS_CUMPROD,
    )
    wanted = noise.to_x0(free, noisy, T_BATCH, ALPHAS_CUMPROD, "epsilon")
    assert np.abs(wanted).max() > 1.0
    wanted = np.clip(wanted, -limit, limit) if limit else wanted
    np.testing.assert_allclose(x0, wanted, atol=2e-2)


def test_residual_is_zero_for_equal_networks_at_guidance_one(batch, context):
    noisy, _ = batch
    context["negative"] = jnp.ones((BATCH, 1, 2))
    prior = guided_noise(
        *(NOISE_FN, mixture(), noisy, T_BATCH, context),
        scale=1.0,
        alphas_cumprod=ALPHAS_CUMPROD,
    )
    score = NOISE_FN(mixture(), noisy, T_BATCH, {"text": context["text"]})
    np.testing.assert_array_equal(residual(prior, score), np.zeros(noisy.shape))


def test_sds_is_vsd_with_the_true_noise_as_score(batch):
    prior, eps = batch
    sds = methods.bind(methods.sds(guidance_scale=1.0), make_prior(fixed(prior)), None)
    prompts = {"text": jnp.zeros((BATCH, 1, 2))}
    found = sds(jnp.zeros(eps.shape), make_draw(eps, prompts), {}, {})
    np.testing.assert_array_equal(found, residual(prior, eps))
    sigma_squared = 1 - ALPHAS_CUMPROD[np.asarray(T_BATCH)].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(found, sigma_squared * (prior - eps), rtol=1e-5)


def test_vsd_is_sds_where_its_score_is_exact(batch):
    prior, eps = batch
    middle = 0.5
    mixed = residual(prior, 0.5 * prior, eps, exact_below=middle)
    is_low = np.asarray(T_BATCH) < middle * len(ALPHAS_CUMPROD)
    assert is_low.any() and not is_low.all()
    np.testing.assert_array_equal(mixed[is_low], residual(prior, eps)[is_low])
    np.testing.assert_array_equal(mixed[~is_low], residual(prior, 0.5 * prior)[~is_low])


def test_the_score_of_a_single_particle_is_the_true_noise(batch):
    # So VSD whose distribution is a Dirac is SDS (arXiv:2305.16213, Sec. 3).
    particle, epsilon = batch[0][:1], batch[1]
    same = jnp.broadcast_to(particle, epsilon.shape)
    noisy = noise.add_noise(same, epsilon, T_BATCH, ALPHAS_CUMPROD)
    dirac = exact.image_set(particle, jnp.ones(1))
    found = NOISE_FN(dirac, noisy, T_BATCH, exact.empty_context(BATCH, 1))
    np.testing.assert_allclose(found, epsilon, atol=1e-4)


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
    grads = jax.grad(surrogate_loss, argnums=(0, 1))(latents, direction)
    np.testing.assert_allclose(grads[0], direction / BATCH, rtol=1e-6)
    np.testing.assert_array_equal(grads[1], np.zeros(latents.shape))


def test_theta_loss_gives_phi_and_prior_no_gradient(batch):
    latents, eps = batch

    score = fixed_score(
        NoiseModel(lambda params, *rest: NOISE_FN(params[0], *rest), "epsilon")
    )
    prior = make_prior(NoiseModel(NOISE_FN, "epsilon"))
    bound = methods.bind(methods.vsd(guidance_scale=1.0), prior, score)
    empty = exact.empty_context(BATCH, 2)["text"]
    draw = make_draw(eps, {"text": empty, "score": empty})

    def loss(phi, prior_params, latents):
        return surrogate_loss(latents, bound(latents, draw, phi, prior_params))

    phi = {**mixture(), "means": mixture()["means"] + 0.3}
    grads = jax.grad(loss, argnums=(0, 1, 2))(phi, mixture(), latents)
    for leaf in jax.tree.leaves(grads[:2]):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))
    assert np.abs(grads[2]).max() > 1e-3


def linear_model(kind):
    """A network of one number per parameter type, to be trained."""
    return NoiseModel(lambda params, noisy, t, context: params[0] * noisy, kind)


def errors(kind, scale, latents, draw, **options):
    return score_errors(
        linear_model(kind),
        (scale, {}),
        latents,
        draw["t"],
        draw["noise"],
        context={},
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
    expected = score_errors(
        as_v,
        (jnp.float32(0.3), {}),
        latents,
        draw["t"],
        draw["noise"],
        context={},
        alphas_cumprod=ALPHAS_CUMPROD,
        sigma_floor=0.0,
    )
    found = errors("sample", jnp.float32(0.3), latents, draw)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.parametrize("kind", noise.PREDICTION_TYPES)
def test_noise_square_is_the_error_of_the_noise(batch, kind):
    latents, eps = batch
    draw = {"t": T_BATCH, "noise": eps}
    noisy = noise.add_noise(latents, eps, T_BATCH, ALPHAS_CUMPROD)
    implied = noise.to_noise(0.3 * noisy, noisy, T_BATCH, ALPHAS_CUMPROD, kind)
    expected = ((implied - eps) ** 2).mean(axis=(1, 2, 3))
    found = noise_square(
        NoiseModel(lambda *_: None, kind),
        errors(kind, jnp.float32(0.3), latents, draw, sigma_floor=0.4),
        T_BATCH,
        alphas_cumprod=ALPHAS_CUMPROD,
        sigma_floor=0.4,
    )
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_sigma_floor_bounds_the_weight(batch):
    latents, eps = batch
    draw = {"t": jnp.zeros(BATCH, jnp.int32), "noise": eps}
    plain = errors("sample", jnp.float32(0.3), latents, draw, sigma_floor=1.0)
    found = errors("sample", jnp.float32(0.3), latents, draw, sigma_floor=0.5)
    np.testing.assert_allclose(found, 4.0 * plain, rtol=1e-4)


def test_camera_vector_drops_whole_cameras():
    matrices = jnp.arange(32.0).reshape(2, 4, 4)
    found = camera_vector(matrices, jnp.array([True, False]))
    np.testing.assert_array_equal(found[0], np.arange(16.0))
    np.testing.assert_array_equal(found[1], np.zeros(16))


def test_schedules_cover_the_noise_levels_of_the_tests():
    # Guards the other tests: the toy schedule ends in almost pure noise.
    assert ALPHAS_CUMPROD[0] > 0.99 and ALPHAS_CUMPROD[T - 1] < 0.02


def test_a_method_without_its_score_network_is_refused():
    prior = make_prior(NoiseModel(NOISE_FN, "epsilon"))
    with pytest.raises(ValueError, match="score network"):
        methods.bind(methods.vsd(guidance_scale=1.0), prior, None)


def test_every_method_takes_the_same_options():
    for name, make in methods.METHODS.items():
        method = make(
            guidance_scale=2.0, guidance=Guidance(x0_limit=1.0), weighting="uniform"
        )
        assert method.weighting == "uniform", name
    assert list(methods.METHODS)[:2] == ["vsd", "sds"]


def test_an_own_method_is_a_function_of_the_noised_views(batch, context):
    latents, epsilon = batch

    def towards_the_render(views):
        return views.noise - views.prior("negative")

    prior = make_prior(NoiseModel(NOISE_FN, "epsilon"))
    method = methods.Method(towards_the_render, "uniform")
    found = methods.bind(method, prior, None)(
        latents, make_draw(epsilon, context), {}, mixture()
    )
    noisy = noise.add_noise(latents, epsilon, T_BATCH, ALPHAS_CUMPROD)
    predicted = NOISE_FN(mixture(), noisy, T_BATCH, {"text": context["negative"]})
    np.testing.assert_allclose(found, epsilon - predicted, rtol=1e-4, atol=1e-4)
