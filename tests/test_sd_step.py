# SPDX-License-Identifier: Apache-2.0
"""The step of `configs/object.py:sd21` runs: in little here, at full size by hand.

`python -m benchmarks.sd_step` is the same code on 866 million parameters.
"""

import math

import jax
import numpy as np
import pytest

from benchmarks import sd_models, sd_ours, sd_step


@pytest.fixture(scope="module")
def report():
    with jax.numpy_rank_promotion("allow"):  # diffusers' autoencoder
        return sd_ours.run_step("tiny", steps=2)


def test_step_on_random_weights_is_finite_and_moves_what_it_should(report):
    checks = {name: value for name, value in report.items() if isinstance(value, bool)}
    assert {"finite", "frozen weights unchanged", "changed: LoRA up"} <= set(checks)
    assert all(checks.values()), checks


def test_report_is_told_in_words(report):
    text = sd_step.describe_step(report | {"peak": 2e9, "whole": 3e9})
    assert "2.00 GB at its peak" in text and "NO" not in text


def test_early_step_renders_smaller_and_takes_the_same_state():
    with jax.numpy_rank_promotion("allow"):
        _, run = sd_ours.build_run("tiny", **{"render.early_size": 4})
        state = jax.eval_shape(run.init)
        arguments = (state, run.prior_params, run.prompts)
        full, early = (
            jax.make_jaxpr(step)(*arguments) for step in (run.step, run.early_step)
        )
    assert full.in_avals == early.in_avals and full.out_avals == early.out_avals
    rays = [f"f32[{side},{side},3]" for side in (16, 4)]
    assert rays[0] in str(full) and rays[1] in str(early)
    assert rays[1] not in str(full)


def test_shapes_are_those_of_stable_diffusion():
    with jax.numpy_rank_promotion("allow"):
        config, run = sd_ours.build_run("full")
    parameters = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for name, tree in run.prior_params.items()
    }
    assert parameters["unet"] == 865_910_724
    assert parameters["vae"] == 83_653_863
    assert run.prior.image_size == config.render.size == 512
    assert run.prior.latent_shape == (64, 64, 4)
    assert run.prompts["score"].shape[-2:] == (77, 1024)


def test_numbers_depend_on_their_name_and_keep_their_size():
    first = sd_models.weight("unet.a.weight", (64, 64, 3, 3))
    assert (first == sd_models.weight("unet.a.weight", (64, 64, 3, 3))).all()
    assert (first != sd_models.weight("unet.b.weight", (64, 64, 3, 3))).any()
    assert np.std(first) == pytest.approx((64 * 9) ** -0.5, rel=0.05)
    assert (sd_models.weight("norm.weight", (8,)) == 1).all()
    assert (sd_models.weight("norm.bias", (8,)) == 0).all()
