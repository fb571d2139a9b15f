# SPDX-License-Identifier: Apache-2.0
"""Tests of the loader of a U-Net with a refining head."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import write_toybox

from vsd_jax.diffusion import lora, refine
from vsd_jax.diffusion.noise import as_noise_fn
from vsd_jax.program.prior import diffusion_prior, hub, refined, text_tower
from vsd_jax.program.prior.json_files import WeightsError
from vsd_jax.toybox import prior_files

HEAD = {"refine_channels": 8, "refine_depth": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A plain prior, and the same extended by an untrained head."""
    root = tmp_path_factory.mktemp("refined")
    plain = write_toybox(root / "plain")
    return plain, write_toybox(root / "more", init_from=str(plain), **HEAD)


@pytest.fixture(scope="module")
def loaded(folders):
    return [diffusion_prior.load_prior(folder) for folder in folders]


def nearest_t(prior, ratio):
    signal = np.asarray(prior.alphas_cumprod, np.float64)
    return int(np.abs(np.log((1 - signal) / signal) - 2 * np.log(ratio)).argmin())


def test_untrained_extension_keeps_the_old_function_under_noise(loaded):
    """At equal noise it is the old prior plus the little that v lets through."""
    (old, old_params, encode), (new, params, new_encode) = loaded
    texts = ["a red car", ""]
    np.testing.assert_array_equal(encode(texts), new_encode(texts))
    context = {"text": jnp.asarray(encode(texts))}
    noisy = jax.random.normal(jax.random.key(0), (2, *old.latent_shape))
    for ratio, atol in ((1.0, 0.1), (5.0, 0.02), (100.0, 2e-3)):
        there = [jnp.full(2, nearest_t(p, ratio)) for p in (old, new)]
        before = jax.jit(old.model.apply)(old_params, noisy, there[0], context)
        after = jax.jit(new.model.apply)(params, noisy, there[1], context)
        np.testing.assert_allclose(after, before, atol=atol)


def test_extension_reaches_less_noise_and_ends_in_the_same_noise(loaded):
    (old, *_), (new, *_) = loaded
    least = [
        np.sqrt((1 - p.alphas_cumprod[0]) / p.alphas_cumprod[0]) for p in (old, new)
    ]
    assert least[0] == pytest.approx(0.0825, rel=0.01)
    assert least[1] == pytest.approx(0.0206, rel=0.01)
    assert new.alphas_cumprod[-1] == old.alphas_cumprod[-1]
    assert (np.diff(new.alphas_cumprod[:-1]) < 0).all()


def test_what_is_given_at_little_noise_is_kept(loaded):
    """An untrained U-Net knows nothing; at sigma .02 the image still comes through."""
    (old, old_params, encode), (new, params, _) = loaded
    context = {"text": jnp.asarray(encode([""]))}
    x0 = jax.random.uniform(jax.random.key(1), (1, *old.latent_shape), minval=-1.0)
    t = jnp.zeros(1, jnp.int32)
    errors = [
        float(jnp.mean((jax.jit(p.model.apply)(w, x0, t, context) - x0) ** 2))
        for p, w in ((old, old_params), (new, params))
    ]
    assert errors[1] < 0.01 * errors[0]


def test_unet_timesteps_have_the_same_noise():
    config = {"trained_betas": prior_files.scheduler_config(8.0)["trained_betas"]}
    own = np.cumprod(1.0 - np.asarray(config["trained_betas"]))
    np.testing.assert_allclose(
        refined.unet_timesteps(own, config)[:998], np.arange(998), atol=1e-6
    )
    half = np.sqrt(own[100] / (1 - own[100]) * own[101] / (1 - own[101]))
    between = refined.unet_timesteps(np.array([half / (1 + half)]), config)
    assert between[0] == pytest.approx(100.5, abs=1e-3)
    assert refined.unet_timesteps(np.array([0.9999]), config)[0] == 0.0
    np.testing.assert_array_equal(refined.unet_timesteps(own[:5], {}), np.arange(5))


def test_lora_works_on_it_and_leaves_the_head_alone(loaded):
    _, (prior, params, encode) = loaded
    score_params = lora.init_score_params(
        jax.random.key(0), params["unet"], rank=2, zero_last=True
    )
    assert "refine" not in score_params["lora"]
    score = lora.make_score_model(prior.model, scale=1.0)
    noisy = jax.random.normal(jax.random.key(2), (1, *prior.latent_shape))
    t, text = jnp.full(1, 300), jnp.asarray(encode(["a red car"]))
    context = {"text": text, "camera": jnp.ones((1, 16))}
    frozen = jax.jit(prior.model.apply)(params, noisy, t, context)
    same = jax.jit(score.apply)((score_params, params), noisy, t, context)
    np.testing.assert_allclose(same, frozen, atol=1e-5)  # fused in another way
    moved = jax.tree.map(lambda leaf: leaf + 0.1, score_params)
    found = jax.jit(score.apply)((moved, params), noisy, t, context)
    assert np.abs(found - frozen).max() > 1e-3


def test_noise_function_is_finite_at_every_end(loaded):
    _, (prior, params, encode) = loaded
    noise_fn = as_noise_fn(prior.model, prior.alphas_cumprod)
    noisy = jax.random.normal(jax.random.key(3), (2, *prior.latent_shape))
    text = jnp.asarray(encode(["a red car", "a blue room"]))
    found = jax.jit(noise_fn)(params, noisy, jnp.array([0, 999]), {"text": text})
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (None, "refine"),
        ({"channels": 8, "depth": 1}, "factor"),
        ({"channels": 8, "depth": 1, "factor": 3}, "does not divide"),
    ],
)
def test_faults_of_the_section_are_told(folders, section, message):
    config = diffusion_prior.read_config(folders[1] / "unet", "config.json")
    config |= {"refine": section}
    with pytest.raises(WeightsError, match=message):
        refined.make_refiner(config)


def test_other_prediction_types_are_refused(folders):
    config = diffusion_prior.read_config(folders[1] / "unet", "config.json")
    schedule = {"prediction_type": "epsilon"}
    with pytest.raises(WeightsError, match="clean latents"):
        diffusion_prior.make_model(config, schedule, jnp.float32, 16)


def test_new_words_leave_old_texts_and_weights_as_they_are(tmp_path):
    """The committed tokenizer plus words: same ids, new rows behind the old ones."""
    old = text_tower.load_tokenizer(hub.TOYBOX / "tokenizer")
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for file in (hub.TOYBOX / "tokenizer").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    before = json.loads((folder / "vocab.json").read_text())
    vocab = prior_files.add_words(folder, ["zebra", "red"])
    assert before.items() <= vocab.items() and len(vocab) > len(before)
    new = text_tower.load_tokenizer(folder)
    texts = ["a red mushroom in a blue room, front view", "a normal map of a tree", ""]
    np.testing.assert_array_equal(old(texts), new(texts))
    ids = new(["a zebra"])[0]
    assert ids[2] == vocab["zebra</w>"] and ids[3] == vocab[prior_files.END]
    assert prior_files.add_words(folder, ["zebra"]) == vocab


def test_head_keeps_its_width_when_weights_are_taken_over(folders, tmp_path):
    """A further training begins with the trained head, not with a new one."""
    again = write_toybox(tmp_path / "again", init_from=str(folders[1]), **HEAD)
    first, second = (
        diffusion_prior.load_prior(folder)[1] for folder in (folders[1], again)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert first["unet"]["refine"]["log_variance"].shape == (48,)
    assert np.exp(first["unet"]["refine"]["log_variance"][0]) == pytest.approx(
        refine.START_VARIANCE, rel=1e-2
    )
