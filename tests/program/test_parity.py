# SPDX-License-Identifier: Apache-2.0
"""Against PyTorch diffusers and transformers: numbers of `tools/record_golden.py`."""

import functools

import flax.linen as nn
import golden_models as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from flax import traverse_util

from vsd_jax import methods
from vsd_jax.diffusion import attention, lora, noise
from vsd_jax.program.prior import diffusion_prior, own_layers, text_tower
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
        method_keys=None,
        run_keys=None,
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


def relative(found, expected):
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_unet_in_half_precision(folder, recorded, dtype):
    prior, params, _ = diffusion_prior.load_prior(folder, dtype=dtype)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(params["unet"])}
    assert kinds == {jnp.dtype(dtype)}
    context = {"text": jnp.asarray(recorded["text"][[2, 0]])}
    noisy, t = nhwc(recorded["noisy"]), jnp.asarray(recorded["t"], jnp.int32)
    out = jax.jit(prior.model.apply)(params, jnp.asarray(noisy), t, context)
    error = relative(out, nhwc(recorded["unet"]))
    assert out.dtype == jnp.float32 and error < 0.03, error


@pytest.fixture(scope="module")
def in_float16(folder):
    return diffusion_prior.load_prior(folder, dtype=jnp.float16)


def test_autoencoder_in_float16(in_float16, recorded):
    prior, params, _ = in_float16
    mean, std = nhwc(recorded["vae_mean"]), nhwc(recorded["vae_std"])
    scaling = golden.VAE["scaling_factor"]
    encode = jax.jit(prior.encode)
    latents = encode(params, jnp.asarray(recorded["image"]), jnp.ones_like(mean))
    assert latents.dtype == jnp.float32
    assert relative(latents, scaling * (mean + std)) < 0.03
    decoded = jax.jit(prior.decode)(params, jnp.asarray(scaling * mean))
    expected = np.clip(0.5 * nhwc(recorded["decoded"]) + 0.5, 0, 1)
    assert decoded.dtype == jnp.float32 and relative(decoded, expected) < 0.03


# What a mean over the latents of Stable Diffusion, and a small w(t), leave of a
# gradient of one; far below what float16 can hold.
SMALL = 1e-9


@pytest.mark.parametrize("name", ["sd21"], indirect=True)
def test_gradients_in_float16(loaded, in_float16, recorded, score_params):
    """To the renders and to phi: as in float32, though they are too small for it."""
    draw, image = make_draw(recorded), jnp.asarray(recorded["image"])
    seen = {"text": draw.prompts["score"]}
    seen["camera"] = draw.cameras.cam_to_world.reshape(2, 16)
    found = []
    for prior, frozen, _ in (loaded, in_float16):
        score = lora.make_score_model(prior.model, scale=1.0)

        def pull(image, phi, prior=prior, frozen=frozen, score=score):
            noise = draw.noise
            at = (noise, draw.t, seen)
            latents = prior.encode(frozen, image, noise)
            raw = score.apply((phi, frozen), *at)
            return SMALL * (jnp.sum(latents * noise) + jnp.sum(raw * noise))

        found.append(jax.jit(jax.grad(pull, argnums=(0, 1)))(image, score_params))
    for exact, half in zip(*map(jax.tree.leaves, found), strict=True):
        assert half.dtype == jnp.float32 and np.abs(exact).max() > 0
        assert relative(half, exact) < 0.05


@pytest.mark.parametrize("name", ["sd21"], indirect=True)
def test_large_logits_stay_finite_in_float16(
    in_float16, recorded, score_params, monkeypatch
):
    """Queries and keys as large as real checkpoints': logits of some hundreds."""
    prior, params, _ = in_float16
    flat = traverse_util.flatten_dict(params["unet"])
    large = {k: 16 * v if {"to_q", "to_k"} & {*k} else v for k, v in flat.items()}
    frozen = {"unet": traverse_util.unflatten_dict(large)}
    draw = make_draw(recorded)
    seen = {"text": draw.prompts["score"]}
    seen["camera"] = draw.cameras.cam_to_world.reshape(2, 16)
    at, logits, attend = (draw.noise, draw.t, seen), [], attention.attend

    def measured(query, key, value):
        assert query.dtype == jnp.float16
        scores = jnp.einsum(
            "bid,bjd->bij", *(x.astype(jnp.float32) for x in (query, key))
        )
        logits.append(jnp.max(jnp.abs(scores)) * query.shape[-1] ** -0.5)
        return attend(query, key, value)

    def outputs_of_layers(frozen):
        sound = {}

        def watch(next_fun, args, kwargs, context):
            out = next_fun(*args, **kwargs)
            if context.method_name == "__call__" and isinstance(out, jax.Array):
                sound["/".join(context.module.path)] = jnp.isfinite(out).all()
            return out

        with nn.intercept_methods(watch), monkeypatch.context() as patch:
            patch.setattr(attention, "attend", measured)
            prior.model.apply(frozen, *at)
        return sound, logits

    sound, sizes = jax.jit(outputs_of_layers)(frozen)
    assert len(sound) > 50 and all(sound.values())
    assert len(sizes) == 8 and 200 < max(sizes) < 2000, sizes
    score = lora.make_score_model(prior.model, scale=1.0)
    loss = lambda phi: jnp.mean(score.apply((phi, frozen), *at) ** 2)  # noqa: E731
    grads = jax.jit(jax.grad(loss))(score_params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pixels_are_doubled_as_diffusers_doubles_them(dtype):
    from diffusers.models.resnet_flax import FlaxUpsample2D

    module = FlaxUpsample2D(4, dtype=dtype)
    image = jax.random.normal(jax.random.key(0), (2, 3, 5, 4), dtype)
    params = jax.jit(module.init)(jax.random.key(1), image)

    @jax.jit
    def both(params, image):
        theirs, back = jax.vjp(module.apply, params, image)
        with nn.intercept_methods(own_layers.own_layers):
            ours, our_back = jax.vjp(module.apply, params, image)
        return (ours, our_back(ours)), (theirs, back(theirs))

    (ours, our_gradient), (theirs, gradient) = both(params, image)
    np.testing.assert_array_equal(ours, theirs)
    off = 1e-6 if dtype == "float32" else 2e-2  # theirs rounds every sum to 16 bits
    for found, expected in zip(
        jax.tree.leaves(our_gradient), jax.tree.leaves(gradient), strict=True
    ):
        assert relative(found, expected) < off
