# SPDX-License-Identifier: Apache-2.0
"""A prior written by the training is read back; broken folders are refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import toybox_prior
from vsd_jax.diffusion import attention
from vsd_jax.program.prior import (
    diffusion_prior,
    hub,
    schedule,
    text_tower,
    weights,
)
from vsd_jax.toybox import prior_files, train
from vsd_jax.toybox.text import vocabulary


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny prior with random weights, and these weights."""
    path = tmp_path_factory.mktemp("prior")
    config = toybox_prior.get_config("smoke").to_dict()
    prior_files.write_folder(path, config, [*vocabulary(), ","])
    with jax.numpy_rank_promotion("allow"):
        params = train.init_params(config, train.make_models(path))
    train.save_prior(path, params)
    return path, params


def _copy(folder, tmp_path):
    target = tmp_path / "prior"
    shutil.copytree(folder[0], target)
    return target


def test_patches_are_whole_blocks_of_pixels():
    image = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    latents = diffusion_prior.patchify(jnp.asarray(image), 4)
    assert latents.shape == (2, 2, 2, 48)
    py, px, channel = 1, 2, 2
    expected = 2 * image[1, 4 + py, px, channel] - 1
    assert latents[1, 1, 0, (py * 4 + px) * 3 + channel] == pytest.approx(expected)
    np.testing.assert_allclose(diffusion_prior.unpatchify(latents, 4), image, atol=1e-6)


def test_written_prior_is_read_back(folder):
    path, params = folder
    prior, loaded, encode_text = diffusion_prior.load_prior(path)
    assert prior.model.prediction_type == "sample"
    assert prior.latent_shape == (16, 16, 48) and prior.image_size == 64
    expected = jax.tree.map(
        lambda x: np.asarray(x, np.float16).astype(np.float32), params["unet"]
    )
    jax.tree.map(np.testing.assert_array_equal, loaded["unet"], expected)
    text = encode_text(["a red mushroom, side view", ""])
    assert text.shape == (2, 16, 32) and not np.allclose(text[0], text[1])
    latents = jnp.ones((2, 16, 16, 48))
    out = prior.model.apply(loaded, latents, jnp.array([3, 900]), {"text": text})
    assert out.shape == latents.shape and np.isfinite(out).all()


def test_attention_in_slices_changes_nothing(folder, monkeypatch):
    prior, params, _ = diffusion_prior.load_prior(folder[0])
    latents = jax.random.normal(jax.random.key(0), (1, *prior.latent_shape))
    context = {"text": jax.random.normal(jax.random.key(1), (1, 16, 32))}
    calls, real = [], attention.self_attention

    def count(*args):
        calls.append(args[0].shape)
        return real(*args)

    monkeypatch.setattr(attention, "self_attention", count)
    outs = []
    for tokens in (10**6, 1):
        monkeypatch.setattr(attention, "MANY_TOKENS", tokens)
        outs.append(prior.model.apply(params, latents, jnp.array([500]), context))
        assert bool(calls) == (tokens == 1)
    np.testing.assert_allclose(outs[0], outs[1], atol=1e-4)


def test_every_known_word_is_one_token(folder):
    tokenize = text_tower.load_tokenizer(folder[0] / "tokenizer")
    ids = tokenize([*vocabulary(), ","])
    end = ids[0, -1]
    assert (np.sum(ids != end, axis=1) == 2).all()
    assert len(set(ids[:, 1].tolist())) == len(ids)


def test_schedules():
    config = prior_files.scheduler_config(snr_divisor=16.0)
    ours = schedule.noise_schedule(config)
    betas = {k: v for k, v in config.items() if k != "trained_betas"}
    plain = schedule.noise_schedule(betas)
    clear = schedule.noise_schedule(betas | {"rescale_betas_zero_snr": True})
    assert plain.shape == ours.shape == (1000,)
    assert plain[0] == pytest.approx(0.99915, abs=1e-5)
    assert plain[-1] == pytest.approx(0.0046602, abs=1e-6)
    # No signal is left at the last step, and the first one does not change.
    assert clear[-1] == 2.0**-24
    assert clear[0] == pytest.approx(plain[0], abs=1e-7)
    assert (np.diff(clear) < 0).all() and (clear <= plain).all()
    snr = [a[:-5] / (1.0 - a[:-5].astype(np.float64)) for a in (clear, ours)]
    np.testing.assert_allclose(snr[0] / snr[1], 16.0, rtol=2e-3)
    assert (np.diff(ours) <= 0).all() and ours[-1] == pytest.approx(2.0**-24, rel=0.01)


def test_missing_and_truncated_weights_are_named(folder, tmp_path):
    broken = _copy(folder, tmp_path)
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(weights.WeightsError, match="truncated"):
        diffusion_prior.load_prior(broken)
    file.unlink()
    with pytest.raises(weights.WeightsError, match="No weights"):
        diffusion_prior.load_prior(broken)
    with pytest.raises(weights.WeightsError, match="no such folder"):
        diffusion_prior.load_prior(tmp_path / "nowhere")


def test_image_size_is_that_of_the_settings_or_another(folder):
    prior, _, _ = diffusion_prior.load_prior(folder[0], image_size=32)
    assert prior.latent_shape == (8, 8, 48) and prior.image_size == 32
    with pytest.raises(weights.WeightsError, match="image_size=30.*multiple of 4"):
        diffusion_prior.load_prior(folder[0], image_size=30)
    with pytest.raises(weights.WeightsError, match="image_size=40.*multiple of 16"):
        diffusion_prior.load_prior(folder[0], image_size=40)


def test_missing_embedded_prior_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "TOYBOX", tmp_path)
    with pytest.raises(weights.WeightsError, match="model_card"):
        diffusion_prior.load_prior("toybox")


def test_other_architectures_are_refused(folder, tmp_path):
    broken = _copy(folder, tmp_path)
    file = broken / "unet" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"addition_embed_type": "text_time"}))
    with pytest.raises(weights.WeightsError, match="SDXL"):
        diffusion_prior.load_prior(broken)
    file.write_text(json.dumps(config | {"block_out_channels": [32, 64, 64]}))
    with pytest.raises(weights.WeightsError, match="has shape"):
        diffusion_prior.load_prior(broken)


def test_torch_names_cover_unet_vae_and_text():
    names = {
        ("down_blocks_0", "attentions_1", "transformer_blocks_0", "attn1", "to_out_0")
        + ("kernel",): "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0"
        ".weight",
        ("time_embedding", "linear_1", "bias"): "time_embedding.linear_1.bias",
        ("up_blocks_1", "upsamplers_0", "conv", "kernel"): "up_blocks.1.upsamplers.0"
        ".conv.weight",
        ("text_model", "encoder", "layers", "3", "layer_norm1", "scale"): "text_model"
        ".encoder.layers.3.layer_norm1.weight",
    }
    for path, name in names.items():
        assert weights.torch_name(path) == name
