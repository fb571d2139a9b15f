# SPDX-License-Identifier: Apache-2.0
"""Folders of tiny Stable Diffusions with one thing wrong, and what is said of it."""

import json
import shutil

import golden_models as golden
import jax
import numpy as np
import pytest
import tiny_runs
from safetensors.numpy import load_file, save_file

from configs import object as object_config
from vsd_jax.program.build import build
from vsd_jax.program.prior import (
    diffusion_prior,
    text_tower,
    tokenizer_files,
)
from vsd_jax.program.prior.json_files import WeightsError
from vsd_jax.program.terminal.errors import RunError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The folder as a hub would hold it."""
    return tiny_runs.write_stable_diffusion("sd15", tmp_path_factory.mktemp("sd15"))


@pytest.fixture
def folder(source, tmp_path):
    """A copy to break."""
    return shutil.copytree(source, tmp_path / "sd15")


def change(file, **changes):
    """Other values in a JSON file; None takes a key out."""
    config = json.loads(file.read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    file.write_text(json.dumps(config))


def load(folder, **options):
    return diffusion_prior.load_prior(folder, load_weights=False, **options)


PARTS = {
    "unet/config.json": ({"time_cond_proj_dim": 256}, "time_cond_proj_dim=256"),
    "vae/config.json": ({"shift_factor": 0.1}, "shift_factor=0.1"),
    "text_encoder/config.json": ({"model_type": "t5"}, 'model_type="t5"'),
    "tokenizer/tokenizer_config.json": ({"auto_map": {"a": "b"}}, "auto_map"),
    "scheduler/scheduler_config.json": (
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        "FlowMatchEulerDiscreteScheduler",
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_understood_whole(folder, part):
    changes, match = PARTS[part]
    content = (folder / part).read_text()
    change(folder / part, **changes)
    with pytest.raises(WeightsError, match=match) as caught:
        load(folder)
    assert str(folder / part) in str(caught.value)
    (folder / part).write_text("null")
    with pytest.raises(WeightsError, match="not an object"):
        load(folder)
    (folder / part).write_text(content, encoding="utf-16")
    assert load(folder)[0].image_size == 16


@pytest.mark.parametrize(
    "part, changes, match",
    [
        ("unet", {"in_channels": 9}, "in_channels=9 and out_channels=4 differ"),
        ("unet", {"in_channels": 8, "out_channels": 8}, "latent_channels=4.*U-Net's"),
        ("unet", {"cross_attention_dim": 32}, "hidden_size=24.*cross_attention_dim=32"),
        ("vae", {"latent_channels": 16}, "latent_channels=16 .*in_channels=4"),
    ],
)
def test_parts_must_fit_together(folder, part, changes, match):
    change(folder / part / "config.json", **changes)
    with pytest.raises(WeightsError, match=match):
        load(folder)


def test_a_score_network_of_another_width(source, folder):
    change(folder / "unet" / "config.json", cross_attention_dim=32)
    change(
        folder / "text_encoder" / "config.json", hidden_size=32, num_attention_heads=4
    )
    config = object_config.get_config("smoke")
    config.prior.path, config.score.path = str(source), str(folder)
    prior, params, _ = load(source)
    options = {"load": lambda *args, **more: load(args[0], **more)}
    with pytest.raises(RunError, match="texts of 32 numbers.*makes them of 24"):
        build.make_score(config, prior, params, **options)
    change(folder / "scheduler" / "scheduler_config.json", num_train_timesteps=500)
    change(folder / "unet" / "config.json", cross_attention_dim=24)
    change(
        folder / "text_encoder" / "config.json", hidden_size=24, num_attention_heads=3
    )
    with pytest.raises(RunError, match="another noise schedule"):
        build.make_score(config, prior, params, **options)
    # A variant that only the prior has does not keep another network away.
    config.prior.variant = "fp16"
    config.score.path = str(shutil.copytree(source, folder / "other"))
    build.make_score(config, prior, params, **options)


def test_latents_as_wide_as_they_have_channels(folder):
    # sample_size = latent_channels = 4: theirs took NCHW for NHWC.
    change(folder / "unet" / "config.json", sample_size=4)
    prior, params, _ = diffusion_prior.load_prior(folder)
    vae = diffusion_prior.FlaxAutoencoderKL.from_config(golden.VAE)
    latents = jax.random.normal(jax.random.key(0), (1, 4, 4, 4))

    def layers(module, latents):
        return module.decoder(module.post_quant_conv(latents))

    with jax.numpy_rank_promotion("allow"):
        inside = latents / golden.VAE["scaling_factor"]
        expected = vae.apply({"params": params["vae"]}, inside, method=layers)
    expected = np.clip(0.5 * expected + 0.5, 0.0, 1.0)
    np.testing.assert_allclose(prior.decode(params, latents), expected, atol=1e-5)


def test_tensors_without_a_place_are_named(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    extra = {"time_embedding.cond_proj.weight": np.zeros((4, 4), np.float32)}
    save_file(tensors | extra, file)
    with pytest.raises(WeightsError, match=r"1 of \d+ tensors .*'time_embedding.cond"):
        diffusion_prior.load_prior(folder)
    save_file(tensors, file)
    file = folder / "text_encoder" / "model.safetensors"
    ballast = {
        "text_model.embeddings.position_ids": np.arange(12)[None],
        "text_projection.weight": np.zeros((24, 24), np.float32),
    }
    save_file(load_file(file) | ballast, file)
    assert diffusion_prior.load_prior(folder)[0].image_size == 16


@pytest.mark.parametrize("form", ["bf16", "non_ema"])
def test_only_other_variants(folder, form):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name(f"diffusion_pytorch_model.{form}.safetensors"))
    with pytest.raises(WeightsError, match=f"set prior.variant='{form}'"):
        diffusion_prior.load_prior(folder)
    assert diffusion_prior.load_prior(folder, variant=form)[0].image_size == 16
    with pytest.raises(WeightsError, match=f"prior.variant='fp17'.*it has '{form}'"):
        load(folder, variant="fp17")
    assert load(folder, variant="fp17", any_variant=True)


def ids(folder, length=12):
    return text_tower.load_tokenizer(folder / "tokenizer", length)(golden.TEXTS)


def test_a_tokenizer_without_its_length(folder):
    expected = ids(folder)
    file = folder / "tokenizer" / "tokenizer_config.json"
    change(file, model_max_length=None)
    np.testing.assert_array_equal(ids(folder), expected)
    change(file, model_max_length=int(1e30))
    np.testing.assert_array_equal(ids(folder), expected)
    change(file, model_max_length=7)
    assert ids(folder).shape[1] == 7 and load(folder)[2].length == 7
    file.unlink()
    (folder / "tokenizer" / "special_tokens_map.json").unlink()
    np.testing.assert_array_equal(ids(folder), expected)
    assert load(folder)[2]([""]).shape == (1, 12, 24)


def test_only_tokenizer_json(folder):
    expected, place = ids(folder), folder / "tokenizer"
    fast = text_tower.CLIPTokenizerFast.from_pretrained(str(place))
    fast.save_pretrained(str(place))
    for file in place.iterdir():
        if file.name != "tokenizer.json":
            file.unlink()
    np.testing.assert_array_equal(ids(folder), expected)
    file = place / "tokenizer.json"
    content = json.loads(file.read_text())
    for broken in ({"model": {"type": "WordPiece"}}, {"model": None}, {}):
        file.write_text(json.dumps(broken))
        with pytest.raises(WeightsError, match="no tokenizer of CLIP"):
            ids(folder)
    content["version"] = 7
    file.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="can be read"):
        ids(folder)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_tokenizer_in_another_encoding(folder, encoding):
    expected = ids(folder)
    for file in (folder / "tokenizer").iterdir():
        file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
    np.testing.assert_array_equal(ids(folder), expected)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 1059962\n"
BROKEN = {
    "no merges": ("merges.txt", None, "lacks merges.txt"),
    "no vocab": ("vocab.json", None, "lacks vocab.json"),
    "vocab of LFS": ("vocab.json", lambda text: LFS, "vocab.json.*Git LFS"),
    "merges of LFS": ("merges.txt", lambda text: LFS, "merges.txt.*Git LFS"),
    "vocab cut": ("vocab.json", lambda text: text[:500], "vocab.json cannot be read"),
    "merges cut": ("merges.txt", lambda text: text[: len(text) // 2], "merges.txt"),
    "merges end early": (
        "merges.txt",
        lambda text: "\n".join(text.splitlines()[:-3]),
        "never makes 3 of",
    ),
    "merges empty": ("merges.txt", lambda text: "#version: 0.2\n", "it is empty"),
    "vocab a list": ("vocab.json", lambda text: "[]", "not an object"),
    "vocab empty": ("vocab.json", lambda text: "{}", "no whole numbers"),
    "vocab of words": ("vocab.json", lambda text: '{"a": "b"}', "no whole numbers"),
    "vocab twice": ("vocab.json", lambda text: '{"a": 1, "b": 1}', "twice"),
    "map a list": ("special_tokens_map.json", lambda text: "[]", "not an object"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_tokenizers_are_a_sentence(folder, what):
    name, damage, match = BROKEN[what]
    file = folder / "tokenizer" / name
    text = file.read_text()
    file.unlink()
    if damage:
        file.write_text(damage(text))
    with pytest.raises(WeightsError, match=match) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_no_tokenizer_at_all(folder):
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(WeightsError, match="vocab.json and merges.txt .found: nothing"):
        tokenizer_files.check(folder / "tokenizer")
    (folder / "tokenizer").rmdir()
    with pytest.raises(WeightsError, match="found: nothing"):
        diffusion_prior.load_prior(folder)  # from shapes alone no text is read


def test_a_token_without_an_embedding_is_named(folder):
    file = folder / "tokenizer" / "added_tokens.json"
    size = len(json.loads((folder / "tokenizer" / "vocab.json").read_text()))
    file.write_text(json.dumps({"<cat-toy>": size}))
    encode = diffusion_prior.load_prior(folder)[2]
    assert np.isfinite(encode(["a red mushroom"])).all()  # nobody asks for it
    with pytest.raises(WeightsError, match=rf"'<cat-toy>' \({size}\).*vocab_size"):
        encode(["a red mushroom", "a <cat-toy> in a room"])


def test_texts_that_are_not_finite_are_named(folder):
    file = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    # Finite weights, a sum that is not, for one word alone.
    name = "text_model.embeddings.token_embedding.weight"
    number = ids(folder)[0, 3]
    tensors[name][number] = 3e38
    tensors["text_model.encoder.layers.0.layer_norm1.weight"][:] = 2.0
    save_file(tensors, file)
    encode = diffusion_prior.load_prior(folder)[2]
    assert np.isfinite(encode(["a blue house"])).all()
    with pytest.raises(WeightsError, match="not finite of the text 'a red mushroom'"):
        encode(["a blue house", "a red mushroom"])
