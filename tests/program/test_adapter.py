# SPDX-License-Identifier: Apache-2.0
"""The trained LoRA as diffusers loads it (checked with diffusers: docs/sd_step.md)."""

import functools

import golden_models as golden
import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file

from vsd_jax.diffusion import lora
from vsd_jax.program.export import adapter
from vsd_jax.program.folder import checkpoint
from vsd_jax.program.prior import diffusion_prior
from vsd_jax.types import Particles, ScoreState, VSDState


def make_params(name):
    """LoRA and camera MLP of a tiny network with the recorded values."""
    unet = diffusion_prior.make_unet(golden.ARCHITECTURES[name]["unet"], np.float32)
    frozen = diffusion_prior.unet_shapes(unet, golden.TEXT_LENGTH)
    init = functools.partial(
        lora.init_score_params, params=frozen, rank=golden.RANK, zero_last=False
    )
    shapes = traverse_util.flatten_dict(jax.eval_shape(init, jax.random.key(0)))
    values = {
        path: golden.score_tensor(".".join(path), leaf.shape)
        for path, leaf in shapes.items()
    }
    return frozen, traverse_util.unflatten_dict(values)


@pytest.mark.parametrize("name", golden.ARCHITECTURES)
def test_names_and_products_are_those_of_pytorch(name):
    frozen, params = make_params(name)
    tensors, camera = adapter.tensors_of(params, 0.5)
    shapes = golden.read_names(name)["unet"]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), frozen)
    merged = traverse_util.flatten_dict(lora.merge(zeros, params["lora"], 0.5))
    changed = {path: np.asarray(value) for path, value in merged.items() if value.any()}
    assert len(changed) == len(tensors) // 2 > 0
    for path, value in changed.items():
        module = diffusion_prior.weights.torch_name(path).removesuffix(".weight")
        down, up = (tensors[f"unet.{module}.lora_{x}.weight"] for x in "AB")
        assert list((up @ down).shape) == shapes[f"{module}.weight"][:2]
        np.testing.assert_allclose(up @ down, value.T, atol=1e-5)
    assert camera["linear_1.weight"].shape[1] == lora.CAMERA_FEATURES
    assert set(camera) == {
        f"linear_{i}.{x}" for i in (1, 2) for x in ("weight", "bias")
    }


def test_files_come_from_a_checkpoint(tmp_path):
    _, params = make_params("sd21")
    state = VSDState(
        particles=Particles(
            params={"x": np.ones((1, 2))},
            opt_state={},
            stats={},
            skips=np.zeros(1, np.int32),
        ),
        score=ScoreState(params=params, opt_state={"mu": np.ones(2)}),
        step=np.int32(7),
        key=jax.random.key(0),
    )
    checkpoint.save_state(tmp_path / "checkpoints", state, keep=1)
    flat = checkpoint.load_score(tmp_path / "checkpoints", 7)
    assert adapter.save_lora(tmp_path, flat, 1.0)
    tensors, camera = adapter.tensors_of(params, 1.0)
    for file, expected in (
        (adapter.LORA_FILE, tensors),
        (adapter.CAMERA_FILE, camera),
    ):
        found = load_file(tmp_path / "lora" / file)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    _, beside = adapter.tensors_of(params | {"passage": np.arange(4.0)}, 1.0)
    np.testing.assert_array_equal(beside["passage"], np.arange(4.0))


def test_run_without_a_lora_writes_nothing(tmp_path):
    assert checkpoint.load_score(tmp_path, 3) == {}
    assert not adapter.save_lora(tmp_path, {"phi": np.ones(3)}, 1.0)
    assert not list(tmp_path.iterdir())
