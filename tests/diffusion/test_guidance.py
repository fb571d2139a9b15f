# SPDX-License-Identifier: Apache-2.0
"""Guidance: what every method and sampler gets, against separate calls and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_scene import ALPHAS_CUMPROD, SHAPE, mixture

from vsd_jax.diffusion import exact, guidance, noise
from vsd_jax.diffusion.guidance import Guidance

BATCH = 5
T = len(ALPHAS_CUMPROD)
T_BATCH = jnp.array([2, 20, 40, 60, 97])
NOISE_FN = exact.make_noise_fn(ALPHAS_CUMPROD)
guided = functools.partial(guidance.guided_noise, alphas_cumprod=ALPHAS_CUMPROD)


@pytest.fixture
def pair():
    keys = jax.random.split(jax.random.key(0), 2)
    first, second = (jax.random.normal(k, (5, 2, 2, 3)) for k in keys)
    return first, second, jnp.array([1, 20, 50, 80, T - 2])


@pytest.fixture
def noisy():
    return jax.random.normal(jax.random.key(5), (BATCH, *SHAPE))


@pytest.fixture
def prompts():
    return {
        "text": exact.restrict(BATCH, np.array([True, False]))["text"],
        "negative": jnp.zeros((BATCH, 1, 2)),
        "source": exact.restrict(BATCH, np.array([False, True]))["text"],
    }


def call(noisy, text):
    return NOISE_FN(mixture(), noisy, T_BATCH, {"text": text})


def test_guidance_commutes_with_conversion(pair):
    uncond, text, t = pair
    noisy = uncond + 1.0

    def convert(raw):
        return noise.to_noise(raw, noisy, t, ALPHAS_CUMPROD, "sample")

    np.testing.assert_allclose(
        convert(guidance.guide(uncond, text, 7.5)),
        guidance.guide(convert(uncond), convert(text), 7.5),
        rtol=1e-3,
        atol=1e-3,
    )


def test_guide_end_points(pair):
    uncond, text, _ = pair
    np.testing.assert_allclose(guidance.guide(uncond, text, 0.0), uncond)
    np.testing.assert_allclose(guidance.guide(uncond, text, 1.0), text, atol=1e-6)


def test_limited_x0_is_clipped_and_otherwise_unchanged(pair):
    x0, noisy, t = pair
    kept = noise.to_noise(x0, noisy, t, ALPHAS_CUMPROD, "sample")
    wide, limit = float(jnp.abs(x0).max()) + 1.0, 0.5
    same = guidance.clip_x0(kept, noisy, t, ALPHAS_CUMPROD, limit=wide)
    np.testing.assert_allclose(same, kept, atol=1e-4)
    clipped = guidance.clip_x0(kept, noisy, t, ALPHAS_CUMPROD, limit=limit)
    back = noise.to_x0(clipped, noisy, t, ALPHAS_CUMPROD, "epsilon")
    np.testing.assert_allclose(back, np.clip(x0, -limit, limit), atol=1e-3)


@pytest.fixture
def predictions():
    keys = jax.random.split(jax.random.key(1), 3)
    uncond, text = (jax.random.normal(k, (3, 2, 2, 4)) for k in keys[:2])
    return uncond, text, jax.random.normal(keys[2], (3, 2, 2, 2, 4))


def test_perp_neg_equals_numpy(predictions):
    uncond, text, negative = (np.asarray(x, np.float64) for x in predictions)
    weights = np.array([[0.5, 0.0], [1.0, 2.0], [0.0, 0.3]])
    expected = np.empty_like(text)
    for b in range(3):
        main = text[b] - uncond[b]
        push = 0
        for m in range(2):
            other = negative[b, m] - uncond[b]
            along = np.vdot(other, main) / np.vdot(main, main)
            push = push + weights[b, m] * (other - along * main)
        expected[b] = uncond[b] + 7.5 * (main - push)
    found = guidance.perp_neg(*predictions, jnp.asarray(weights), scale=7.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_perp_neg_keeps_what_the_prompt_asks_for(predictions):
    uncond, text, negative = predictions
    found = guidance.perp_neg(uncond, text, negative, jnp.ones((3, 2)), scale=1.0)
    main = np.asarray(text - uncond).reshape(3, -1)
    along = (np.asarray(found - uncond).reshape(3, -1) * main).sum(1)
    np.testing.assert_allclose(along / (main**2).sum(1), np.ones(3), atol=1e-4)


def test_perp_neg_without_weights_is_guidance(predictions):
    uncond, text, negative = predictions
    found = guidance.perp_neg(uncond, text, negative, jnp.zeros((3, 2)), scale=7.5)
    np.testing.assert_allclose(found, guidance.guide(uncond, text, 7.5), atol=1e-5)


def test_perp_neg_is_finite_for_equal_predictions(predictions):
    uncond, _, negative = predictions
    found = guidance.perp_neg(uncond, uncond, negative, jnp.ones((3, 2)), scale=7.5)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("against", ["negative", "source"])
def test_guided_noise_is_guidance_of_two_separate_calls(noisy, prompts, against):
    args = (NOISE_FN, mixture(), noisy, T_BATCH, prompts)
    found = guided(*args, scale=7.5, against=against)
    text, base = call(noisy, prompts["text"]), call(noisy, prompts[against])
    expected = base + 7.5 * (text - base)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    pair = guidance.guide_away(
        *args, scale=7.5, alphas_cumprod=ALPHAS_CUMPROD, against=against
    )
    np.testing.assert_allclose(pair.base, base, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("against", ["negative", "source"])
def test_the_base_of_guidance_asked_for_alone_is_the_same(noisy, prompts, against):
    # By a prior that is told the camera: the base is not.
    def seeing(params, noisy, t, context):
        shift = context["camera"][:, :1, None, None]
        return NOISE_FN(params, noisy, t, context) + shift

    told = prompts | {"camera": jnp.ones((BATCH, 16))}
    args = (mixture(), noisy, T_BATCH)
    options = {"scale": 7.5, "alphas_cumprod": ALPHAS_CUMPROD, "against": against}
    pair = guidance.guide_away(seeing, *args, told, **options)
    for found, name, shift in ((pair.base, against, 0.0), (pair.text, "text", 1.0)):
        alone = seeing(*args, guidance.prior_context(told, name))
        np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-4)
        plain = call(noisy, prompts[name]) + shift
        np.testing.assert_allclose(alone, plain, rtol=1e-4, atol=1e-4)


def test_scale_one_is_one_conditional_call(noisy, prompts):
    calls = []

    def counting(params, noisy, t, context):
        calls.append(noisy.shape[0])
        return NOISE_FN(params, noisy, t, context)

    args = (counting, mixture(), noisy, T_BATCH, prompts)
    one = guided(*args, scale=1.0)
    both = guided(*args, scale=1.0 + 1e-7)
    np.testing.assert_allclose(one, both, rtol=1e-4, atol=1e-4)
    assert calls == [BATCH, 2 * BATCH]
    # What is an argument of a compiled program is not known to be 1.
    argument = jax.jit(lambda scale: guided(*args, scale=scale))(1.0)
    np.testing.assert_allclose(argument, one, rtol=1e-4, atol=1e-4)
    assert calls[2:] == [2 * BATCH]


def test_guided_noise_with_perp_neg(noisy, prompts):
    keys = jax.random.split(jax.random.key(4))
    prompts |= {
        "perp_text": jax.random.normal(keys[0], (BATCH, 2, 1, 2)),
        "perp_weights": jax.random.uniform(keys[1], (BATCH, 2)),
    }
    negatives = [call(noisy, prompts["perp_text"][:, m]) for m in range(2)]
    expected = guidance.perp_neg(
        call(noisy, prompts["negative"]),
        call(noisy, prompts["text"]),
        jnp.stack(negatives, axis=1),
        prompts["perp_weights"],
        scale=7.5,
    )
    found = guided(NOISE_FN, mixture(), noisy, T_BATCH, prompts, scale=7.5)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_of_all_texts_the_prompt_alone_is_told_the_camera(noisy, prompts):
    """Else Perp-Neg's views would be the camera's, and none to move away from."""
    told = {}

    def noise_fn(params, noisy, t, context):
        told["camera"] = context["camera"]
        return noisy

    prompts |= {
        "perp_text": jnp.zeros((BATCH, 2, 1, 2)),
        "perp_weights": jnp.ones((BATCH, 2)),
        "camera": jnp.ones((BATCH, 16)),
    }
    guided(noise_fn, {}, noisy, T_BATCH, prompts, scale=7.5)
    shares = told["camera"].reshape(4, BATCH, 16).mean((1, 2))
    np.testing.assert_array_equal(shares, [0, 1, 0, 0])


def test_outside_of_its_interval_guidance_is_the_conditional_prediction(noisy, prompts):
    args = (NOISE_FN, mixture(), noisy, T_BATCH, prompts)
    found = guided(*args, scale=7.5, guidance=Guidance(guidance_interval=(0.2, 0.6)))
    strong, plain = guided(*args, scale=7.5), guided(*args, scale=1.0)
    inside = (T_BATCH >= 0.2 * T) & (T_BATCH <= 0.6 * T)
    assert inside.tolist() == [False, True, True, True, False]
    expected = jnp.where(inside.reshape(-1, 1, 1, 1), strong, plain)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_rescaling_gives_the_standard_deviation_of_the_conditional_prediction(pair):
    text, strong, _ = pair
    strong = 3.0 * strong

    def deviation(x):
        return np.asarray(x).reshape(5, -1).std(1)

    whole = guidance.rescale(strong, text, share=1.0)
    np.testing.assert_allclose(deviation(whole), deviation(text), rtol=1e-5)
    half = guidance.rescale(strong, text, share=0.5)
    np.testing.assert_allclose(half, 0.5 * strong + 0.5 * whole, rtol=1e-5, atol=1e-6)
    assert guidance.rescale(strong, text, share=0.0) is strong


@pytest.mark.parametrize("perp", [False, True])
def test_apg_equals_numpy_on_x0(noisy, prompts, perp):
    step = Guidance(apg_parallel=0.25, apg_norm=0.4)
    args = (NOISE_FN, mixture(), noisy, T_BATCH)
    text, base = (call(noisy, prompts[name]) for name in ("text", "negative"))
    if perp:
        prompts |= {
            "perp_text": prompts["source"][:, None],
            "perp_weights": jnp.full((BATCH, 1), 0.5),
        }
    found = guided(*args, prompts, scale=7.5, guidance=step)
    # At scale 1 it is what guidance itself is, Perp-Neg included.
    at_one = guided(*args, prompts, scale=1.0)

    def x0(eps):
        return np.asarray(
            noise.to_x0(eps, noisy, T_BATCH, ALPHAS_CUMPROD, "epsilon"), np.float64
        )

    rows = zip(*(x0(each) for each in (at_one, base, text, found)), strict=True)
    bounded = 0
    for one, low, conditional, result in rows:
        delta = one - low
        bounded += np.linalg.norm(delta) > 0.4
        delta = delta * min(1.0, 0.4 / np.linalg.norm(delta))
        unit = conditional / np.linalg.norm(conditional)
        parallel = np.sum(delta * unit) * unit
        expected = one + 6.5 * (delta - parallel + 0.25 * parallel)
        np.testing.assert_allclose(result, expected, rtol=2e-3, atol=2e-3)
    assert 0 < bounded < BATCH


def test_apg_that_keeps_all_is_plain_guidance(noisy, prompts):
    args = (NOISE_FN, mixture(), noisy, T_BATCH, prompts)
    plain = guided(*args, scale=7.5)
    off = guided(*args, scale=7.5, guidance=Guidance(apg_parallel=1.0, apg_norm=0.0))
    np.testing.assert_array_equal(off, plain)
    wide = guided(*args, scale=7.5, guidance=Guidance(apg_norm=1e6))
    np.testing.assert_allclose(wide, plain, rtol=1e-4, atol=1e-4)


def test_every_option_acts_in_guided_noise(noisy, prompts):
    args = (NOISE_FN, mixture(), noisy, T_BATCH, prompts)
    plain = guided(*args, scale=7.5)
    for option in (
        {"x0_limit": 0.3},
        {"guidance_interval": (0.5, 1.0)},
        {"guidance_rescale": 0.7},
        {"apg_parallel": 0.0},
        {"apg_norm": 0.1},
    ):
        other = guided(*args, scale=7.5, guidance=Guidance(**option))
        assert np.abs(other - plain).max() > 1e-2, option
