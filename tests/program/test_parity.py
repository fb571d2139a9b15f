# SPDX-License-Identifier: Apache-2.0
"""Against PyTorch diffusers and transformers: numbers of `tools/record_golden.py`."""

import functools

import golden_models as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from flax import traverse_util

from vsd_jax import methods
from vsd_jax.diffusion import lora, noise
from vsd_jax.program.prior import diffusion_prior, text_tower
from vsd_jax.score_network import fixed_score
from vsd_jax.types import Camera, Draw

NAMES = list(golden.ARCHITECTURES)
TOLERANCE = 2e-4


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    return tiny_runs.write_stable_diffusion(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def recorded(name):
    return golden.read_arrays(name)


@pytest.fixture(scope="module")
def loaded(folder):
    return diffusion_prior.load_prior(folder)


def nhwc(array):
    return np.moveaxis(array, 1, -1)


def test_tokens(folder, recorded):
    tokenize = text_tower.load_tokenizer(folder / "tokenizer")
    ids = tokenize(golden.TEXTS)
    np.testing.assert_array_equal(ids, recorded["ids"])
    assert ids.shape[1] == golden.TEXT_LENGTH  # padded and cut


def test_text(loaded, recorded):
    text = loaded[2](golden.TEXTS)
    np.testing.assert_allclose(text, recorded["text"], atol=TOLERANCE)


def test_noise_levels(loaded, recorded):
    found = loaded[0].alphas_cumprod
    np.testing.assert_allclose(found, recorded["alphas_cumprod"], rtol=1e-5)


def test_prediction_type(loaded, name):
    wanted = golden.ARCHITECTURES[name]["prediction_type"]
    assert loaded[0].model.prediction_type == wanted


def test_autoencoder(loaded, recorded):
    prior, params, _ = loaded
    image = jnp.asarray(recorded["image"])
    mean, std = nhwc(recorded["vae_mean"]), nhwc(recorded["vae_std"])
    draw = np.asarray(jax.random.normal(jax.random.key(3), mean.shape))
    latents = jax.jit(prior.encode)(params, image, jnp.asarray(draw))
    expected = golden.VAE["scaling_factor"] * (mean + std * draw)
    np.testing.assert_allclose(latents, expected, atol=TOLERANCE)
    scaled = jnp.asarray(golden.VAE["scaling_factor"] * mean)
    decoded = jax.jit(prior.decode)(params, scaled)
    expected = np.clip(0.5 * nhwc(recorded["decoded"]) + 0.5, 0, 1)
    np.testing.assert_allclose(decoded, expected, atol=TOLERANCE)


@pytest.fixture(scope="module")
def score_params(loaded):
    """LoRA and camera MLP with the recorded values."""
    init = functools.partial(lora.init_score_params, rank=golden.RANK, zero_last=False)
    shapes = jax.eval_shape(lambda key: init(key, loaded[1]["unet"]), jax.random.key(0))
    flat = traverse_util.flatten_dict(shapes)

    def path(keys):
        if keys[0] == "camera":
            return ".".join(keys)
        return f"lora.{'_'.join(keys[1:-1])}.{keys[-1]}"

    values = {k: golden.score_tensor(path(k), leaf.shape) for k, leaf in flat.items()}
    return traverse_util.unflatten_dict(
        {k: jnp.asarray(value, jnp.float32) for k, value in values.items()}
    )


def make_draw(recorded):
    text, angle = jnp.asarray(recorded["text"]), jnp.zeros(2)
    noise_ = jnp.asarray(nhwc(recorded["noise"]))
    return Draw(
        t=jnp.asarray(recorded["t"], jnp.int32),
        noise=noise_,
        cameras=Camera(
            cam_to_world=jnp.asarray(recorded["camera"]).reshape(2, 4, 4),
            fov_deg=angle,
            azimuth_deg=angle,
            elevation_deg=angle,
            radius=angle,
        ),
        prompts={
            "text": text[jnp.array([2, 0])],
            "negative": text[jnp.array([1, 1])],
            "score": text[jnp.array([0, 0])],
        },
        backgrounds=None,
        encode_noise=noise_,
        render_keys=None,
        stats_key=None,
        score=None,
    )


@pytest.fixture(scope="module")
def computed(loaded, recorded, score_params):
    """Teacher, score network and both residuals, in one compilation."""
    prior, prior_params, _ = loaded
    score = lora.make_score_model(
        prior.model, scale=1.0, select_params=lambda params: {"unet": params["unet"]}
    )
    options = {"guidance_scale": 7.5}
    vsd = methods.bind(methods.vsd(**options), prior, fixed_score(score))
    sds = methods.bind(methods.sds(**options), prior, None)

    @jax.jit
    def compute(latents, draw, params, prior_params):
        noisy = noise.add_noise(latents, draw.noise, draw.t, prior.alphas_cumprod)
        seen = {"text": draw.prompts["score"]}
        seen["camera"] = draw.cameras.cam_to_world.reshape(2, 16)
        at = (noisy, draw.t)
        return {
            "noisy": noisy,
            "unet": prior.model.apply(prior_params, *at, draw.prompts),
            "score": score.apply((params, prior_params), *at, seen),
            "vsd": vsd(latents, draw, params, prior_params),
            "sds": sds(latents, draw, params, prior_params),
        }

    latents = jnp.asarray(golden.VAE["scaling_factor"] * nhwc(recorded["vae_mean"]))
    return compute(latents, make_draw(recorded), score_params, prior_params)


@pytest.mark.parametrize("what", ["noisy", "unet", "score"])
def test_networks(computed, recorded, what):
    expected = nhwc(recorded[what])
    np.testing.assert_allclose(computed[what], expected, atol=TOLERANCE)


@pytest.mark.parametrize("method", ["vsd", "sds"])
def test_residual(computed, recorded, method):
    expected = nhwc(recorded[method])
    # Guidance multiplies what rounding does to the networks, and these values.
    scale = max(np.abs(expected).max(), 1.0)
    np.testing.assert_allclose(computed[method], expected, atol=TOLERANCE * scale)


def test_unet_in_bfloat16(folder, recorded):
    prior, params, _ = diffusion_prior.load_prior(folder, dtype=jnp.bfloat16)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(params["unet"])}
    assert kinds == {jnp.dtype(jnp.bfloat16)}
    context = {"text": jnp.asarray(recorded["text"][[2, 0]])}
    noisy, t = nhwc(recorded["noisy"]), jnp.asarray(recorded["t"], jnp.int32)
    out = jax.jit(prior.model.apply)(params, jnp.asarray(noisy), t, context)
    expected = nhwc(recorded["unet"])
    error = np.sqrt(np.mean((out - expected) ** 2) / np.mean(expected**2))
    assert out.dtype == jnp.float32 and error < 0.03, error
