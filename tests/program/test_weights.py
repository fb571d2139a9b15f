# SPDX-License-Identifier: Apache-2.0
"""Weight files of every form that is read, and of those that must be refused."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util
from safetensors.numpy import save_file

from vsd_jax.program.prior import weight_files, weights
from vsd_jax.program.prior.weights import WeightsError

PARAMS = {
    "conv_in": {
        "kernel": np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2),
        "bias": np.array([1.0, 2.0], np.float32),
    },
    "norm": {"scale": np.array([3.0, 4.0, 5.0], np.float32)},
}
SHAPES = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))


def load(folder, dtype=jnp.float32, variant=""):
    files = weights.find_files(folder, variant)
    return weights.load_params(files, SHAPES, dtype=dtype, component="unet")


def on_disk(**changes) -> dict:
    """PARAMS as PyTorch stores them."""
    kernel = PARAMS["conv_in"]["kernel"].transpose(3, 2, 0, 1)
    return {
        "conv_in.weight": np.ascontiguousarray(kernel),
        "conv_in.bias": PARAMS["conv_in"]["bias"],
        "norm.weight": PARAMS["norm"]["scale"],
    } | changes


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "unet"
    path.mkdir()
    return path


def single(folder, tensors, suffix=""):
    file = folder / f"diffusion_pytorch_model{suffix}.safetensors"
    save_file(tensors, str(file))
    return file


def assert_is_params(loaded, dtype=jnp.float32):
    jax.tree.map(np.testing.assert_array_equal, loaded, PARAMS)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("stored", [np.float32, np.float16, jnp.bfloat16])
@pytest.mark.parametrize("wanted", [jnp.float32, jnp.bfloat16])
def test_reads_any_float_into_the_wanted_one(folder, stored, wanted):
    single(folder, {name: x.astype(stored) for name, x in on_disk().items()})
    assert_is_params(load(folder, wanted), wanted)


def test_on_the_host_no_device_is_asked(folder):
    """For priors that are split over devices, of which none has room for all."""
    single(folder, on_disk())
    files = weights.find_files(folder, "")
    options = {"dtype": jnp.bfloat16, "component": "unet"}
    found = weights.load_params(files, SHAPES, on_host=True, **options)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(found))
    assert_is_params(found, jnp.bfloat16)


def test_float16_refuses_what_it_cannot_hold(folder):
    single(folder, on_disk(**{"norm.weight": np.full(3, 7e4, np.float32)}))
    load(folder, jnp.bfloat16)
    with pytest.raises(WeightsError, match="norm.weight.*65504.*prior.dtype=bfloat16"):
        load(folder, jnp.float16)


def test_variant_is_preferred_and_fp16_found_by_itself(folder):
    single(folder, on_disk(), ".fp16")
    assert_is_params(load(folder))
    single(folder, on_disk(**{"norm.weight": np.zeros(3, np.float32)}))
    assert load(folder)["norm"]["scale"][0] == 0.0
    assert_is_params(load(folder, variant="fp16"))


def test_reads_shards(folder):
    tensors, names = on_disk(), {}
    for number, group in enumerate(
        (["conv_in.weight"], ["conv_in.bias"] + ["norm.weight"])
    ):
        name = f"diffusion_pytorch_model-{number}-of-2.safetensors"
        save_file({key: tensors[key] for key in group}, str(folder / name))
        names |= dict.fromkeys(group, name)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert_is_params(load(folder))
    half = folder / "diffusion_pytorch_model.safetensors.index.fp16.json"
    index.rename(half)
    assert_is_params(load(folder, variant="fp16"))
    half.rename(index)
    (folder / names["norm.weight"]).unlink()
    with pytest.raises(WeightsError, match="1-of-2.*missing"):
        load(folder)
    index.write_text(json.dumps({"weight_map": {"norm.weight": "../x.safetensors"}}))
    with pytest.raises(WeightsError, match="outside of its own folder"):
        load(folder)
    index.write_text(json.dumps({"weight_map": {"norm.weight": 7}}))
    with pytest.raises(WeightsError, match="outside of its own folder"):
        load(folder)
    index.write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        load(folder)


def test_reads_flax_msgpack(folder):
    file = folder / "diffusion_flax_model.msgpack"
    file.write_bytes(serialization.msgpack_serialize(PARAMS))
    assert_is_params(load(folder))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(WeightsError, match="cannot be read as Flax msgpack"):
        load(folder)


def test_reads_what_flax_writes(tmp_path):
    file = tmp_path / "tree.msgpack"
    tree = {
        "a" * 40: {"b": np.ones((70000, 2), jnp.bfloat16), "c": np.float16([[2]])},
        "d": {str(i): np.full((1,) * i, i, np.float32) for i in range(20)},
        "e": np.zeros((0, 3), np.int8),
    }
    file.write_bytes(serialization.msgpack_serialize(tree))
    found = dict(
        weight_files.msgpack_leaves(
            file, lambda paths: [p for p in paths if p[0] != "e"]
        )
    )
    del tree["e"]
    expected = traverse_util.flatten_dict(tree)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path].dtype == value.dtype
        np.testing.assert_array_equal(found[path], value)


DAMAGES = {
    "cut": lambda content: content[:-9],
    "empty": lambda content: b"",
    "only a length": lambda content: content[:8],
    "a text": lambda content: b"<!DOCTYPE html>" + content,
    "huge": lambda content: b"\xff" * 8 + content[8:],
    "longer": lambda content: content.replace(b"[2]", b"[9]", 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_told(folder, damage):
    file = single(folder, on_disk())
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(WeightsError, match="safetensors.*truncated"):
        load(folder)
    file.unlink()
    file = folder / "diffusion_flax_model.msgpack"
    content = serialization.msgpack_serialize(PARAMS)
    file.write_bytes(DAMAGES[damage](content))
    if damage != "longer":  # nothing in this one to replace
        with pytest.raises(WeightsError, match="msgpack.*truncated"):
            load(folder)


_LOAD = """
import pathlib, sys
import jax, jax.numpy as jnp
from benchmarks import measure
from vsd_jax.program.prior import weights
from vsd_jax.program.terminal import process

def load(folder, count):
    shape = jax.ShapeDtypeStruct((512, 1024), jnp.float32)
    shapes = {f"m{i}": {"kernel": shape} for i in range(count)}
    files = weights.find_files(pathlib.Path(folder))
    params = weights.load_params(files, shapes, dtype=jnp.float32, component="unet")
    return jax.block_until_ready(params)

first = load(sys.argv[2], 2)  # what any first call needs
before = process.resident_bytes()
measure.reset_peak()
params = load(sys.argv[1], 96)
print(measure.peak_bytes() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("form", ["safetensors", "msgpack"])
def test_loading_needs_little_more_memory_than_the_weights(folder, form):
    value = np.random.default_rng(0).standard_normal((512, 1024), np.float32)
    small = folder / "unet"
    small.mkdir()
    for place, count in ((folder, 96), (small, 2)):
        if form == "msgpack":
            tree = {f"m{i}": {"kernel": value} for i in range(count)}
            content = serialization.msgpack_serialize(tree)
            (place / "diffusion_flax_model.msgpack").write_bytes(content)
        else:
            flipped = np.ascontiguousarray(value.T)
            single(place, {f"m{i}.weight": flipped.copy() for i in range(count)})
    command = [sys.executable, "-c", _LOAD, str(folder), str(small)]
    root = pathlib.Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    told = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    )
    grown, size = int(told.stdout), 96 * value.nbytes
    assert 0.9 * size < grown < 1.25 * size, grown / size  # 201 MB of weights


BAD = {
    "not finite": {"norm.weight": np.array([1.0, np.nan, 2.0], np.float32)},
    "quantised": {"norm.weight": np.zeros(3, np.int8)},
    "has shape": {"norm.weight": np.zeros(4, np.float32)},
    "is a LoRA": {"unet.to_q.lora_A.weight": np.zeros((4, 2), np.float32)},
}


@pytest.mark.parametrize("match", BAD)
def test_refuses_and_names(folder, match):
    single(folder, on_disk(**BAD[match]))
    with pytest.raises(WeightsError, match=match):
        load(folder)


def test_missing_tensors_and_files_are_named(folder):
    with pytest.raises(WeightsError, match="found: nothing"):
        load(folder)
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(WeightsError, match=r"found: diffusion_pytorch_model\.bin"):
        load(folder)
    single(folder, {"conv_in.bias": PARAMS["conv_in"]["bias"]})
    with pytest.raises(
        WeightsError, match="2 of 3 tensors are missing.*conv_in.weight"
    ):
        load(folder)


def test_digest(folder):
    file = single(folder, on_disk())
    weights.check_digest(file, hashlib.sha256(file.read_bytes()).hexdigest().upper())
    with pytest.raises(WeightsError, match="prior.sha256 asks for"):
        weights.check_digest(file, "0" * 64)


def test_fingerprint_tells_trainings_apart(folder):
    single(folder, on_disk())
    before = weights.fingerprint(folder)
    assert re.fullmatch("[0-9a-f]{12}", before)
    single(folder, {name: value + 1e-3 for name, value in on_disk().items()})
    after = weights.fingerprint(folder)
    assert after != before
    assert weights.fingerprint(folder) == after
    with pytest.raises(WeightsError, match="No weights"):
        weights.fingerprint(folder.parent / "vae")


def test_variants_of_files_are_read_from_their_names():
    stem = "diffusion_pytorch_model"
    names = [
        f"{stem}.safetensors",
        f"{stem}.bf16.safetensors",
        f"{stem}.non_ema-00001-of-00002.safetensors",
        f"{stem}-00001-of-00002.fp16.safetensors",
        f"{stem}.safetensors.index.int8.json",
        f"{stem}-00001-of-00002.safetensors",
        f"{stem}.fp32.bin",
        "config.json",
    ]
    found = weights.variants("unet", [f"unet/{name}" for name in names])
    assert found == ["bf16", "fp16", "int8", "non_ema"]
    assert weights.variants("vae", [f"unet/{name}" for name in names]) == []


def test_tensors_without_a_place_are_refused_before_any_is_read(folder):
    extra = {"zz.weight": np.zeros(3, np.float32), "aa.bias": np.full(3, np.nan)}
    single(folder, on_disk(**extra, **{"norm.weight": np.array([np.nan] * 3)}))
    with pytest.raises(WeightsError, match="2 of 5 tensors.*'aa.bias'"):
        load(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    tree = PARAMS | {"more": {"kernel": np.zeros(2, np.float32)}}
    file = folder / "diffusion_flax_model.msgpack"
    file.write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(WeightsError, match="1 of 4 tensors.*'more.kernel'"):
        load(folder)


def test_a_pointer_of_lfs_is_named(folder):
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\nsize 3438167536\n")
    with pytest.raises(WeightsError, match="safetensors.*git lfs pull"):
        load(folder)
