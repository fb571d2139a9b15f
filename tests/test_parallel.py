# SPDX-License-Identifier: Apache-2.0
"""Several devices: what one gives, and no more between them than is needed."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simple_scene import (
    ALPHAS_CUMPROD,
    SHAPE,
    init_state,
    make_contexts,
    make_prior,
    make_scene,
    mixture,
    simple_step,
)

from vsd_jax import parallel
from vsd_jax.diffusion import exact
from vsd_jax.types import NoiseModel

NUM = 8
TXS = {"particle_tx": optax.adam(0.1), "score_tx": optax.adam(0.01)}
MODEL = exact.make_model(ALPHAS_CUMPROD)
SCORE = NoiseModel(
    lambda params, noisy, t, context: params[0]["scale"] * noisy, "sample"
)


def new_state():
    scene, key = make_scene(), jax.random.key(0)
    return init_state(key, scene, {"scale": jnp.float32(0.5)}, num_particles=NUM, **TXS)


def step_for(axis_name, particles_per_step=NUM):
    return simple_step(
        make_scene(),
        make_prior(MODEL),
        SCORE,
        particles_per_step=particles_per_step,
        devices=(axis_name,),
        **TXS,
    )


def leaves(state):
    parts = (state.particles, state.score, state.step)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(parts)]


@pytest.mark.parametrize(
    ("devices", "by"), [(2, "pmap"), (4, "pmap"), (8, "pmap"), (4, "shard_map")]
)
def test_many_devices_give_what_one_gives(devices, by):
    single, state, step = step_for(None), new_state(), step_for(parallel.AXIS)
    many = parallel.split_state(new_state(), devices, by)
    fixed = parallel.replicate((mixture(), make_contexts(2)), devices, by)
    step = parallel.parallel_step(step, by)
    for _ in range(3):
        state, metrics = single(state, mixture(), make_contexts(2))
        many, many_metrics = step(many, *fixed)
    gathered = parallel.gather_state(many)
    for a, b in zip(leaves(state), leaves(gathered), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        jax.random.key_data(state.key), jax.random.key_data(gathered.key)
    )
    many_metrics = parallel.gather_metrics(many_metrics)
    assert many_metrics.keys() == metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(
            many_metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name
        )
    # The score network is the same on all devices.
    scales = np.asarray(many.score.params["scale"])
    assert (scales == scales[0]).all() and scales[0] != np.float32(0.5)


@pytest.mark.parametrize("by", ["pmap", "shard_map"])
def test_only_the_gradient_of_the_score_network_crosses_devices(by):
    """Collectives of the compiled program: their kind, and bytes by the formula."""
    num_phi = 1000

    def predict(params, noisy, t, context):
        # Not linear in phi: the sum cannot be taken before its gradient is spread.
        waves = jnp.sin(params[0]["phi"] * jnp.mean(noisy))
        return jnp.mean(waves) * noisy

    score = NoiseModel(predict, "sample")
    found = []
    for shape in (SHAPE, (4, 4, 2)):
        scene = make_scene(shape)
        step = simple_step(
            *(scene, make_prior(zero_model(), shape), score),
            particles_per_step=NUM,
            devices=(parallel.AXIS,),
            **TXS,
        )
        phi = {"phi": jnp.full(num_phi, 1e-3)}
        state = init_state(jax.random.key(0), scene, phi, num_particles=NUM, **TXS)
        fixed = parallel.replicate(({}, make_contexts(2)), 2, by)
        step = parallel.parallel_step(step, by)
        split = parallel.split_state(state, 2, by)
        text = step.lower(split, *fixed).compile().as_text()
        assert not re.search(
            r" (all-gather|all-to-all|collective-\w+|reduce-scatter)\(", text
        )
        sizes = all_reduce_sizes(text)
        # One gradient; losses, counts and metrics are scalars.
        assert sorted(sizes)[-2:] == [1, num_phi]
        found.append(sum(sizes))
    # Nothing grows with what a particle holds.
    assert found[0] == found[1] < num_phi + 40


def zero_model():
    return NoiseModel(lambda params, noisy, t, context: 0.0 * noisy, "sample")


def all_reduce_sizes(text: str) -> list[int]:
    """Elements of every array that is summed over devices."""
    shapes = re.findall(r"^.* = (.*) all-reduce(?:-start)?\(", text, re.MULTILINE)
    dims = [d for s in shapes for d in re.findall(r"(?:f32|s32|pred)\[([\d,]*)\]", s)]
    return [math.prod(int(n) for n in d.split(",") if n) for d in dims]


@pytest.mark.parametrize(
    ("num", "devices", "views", "by"),
    [(1, 2, 2, "pmap"), (2, 8, 4, "pmap"), (2, 8, 4, "shard_map")],
)
def test_shared_views_give_what_one_device_gives(num, devices, views, by):
    copies = devices // num
    options = {"particles_per_step": num, "num": views, "score_steps": 2, **TXS}
    parts = (make_scene(), make_prior(MODEL), SCORE)
    txs = {name: TXS[name] for name in ("particle_tx", "score_tx")}

    def fresh():
        phi = {"scale": jnp.float32(0.5)}
        state = init_state(jax.random.key(0), parts[0], phi, num_particles=num, **txs)
        # Of two, the first is not finite: it is skipped and counted once, not by copy.
        first = {"latent": state.particles.params["latent"].at[: num - 1].set(jnp.nan)}
        return state.replace(particles=state.particles.replace(params=first))

    single, state = simple_step(*parts, **options), fresh()
    step = simple_step(*parts, **options, devices=(parallel.AXIS, copies))
    step, many = parallel.parallel_step(step, by), fresh()
    many = parallel.split_state(many, devices, by)
    fixed = parallel.replicate((mixture(), make_contexts(2)), devices, by)
    for _ in range(3):
        state, metrics = single(state, mixture(), make_contexts(2))
        many, many_metrics = step(many, *fixed)
    assert int(metrics["skipped"]) == num - 1
    for leaf in jax.tree.leaves(many.particles):  # the copies stay equal
        groups = np.asarray(leaf).reshape((num, copies) + leaf.shape[1:])
        first = np.broadcast_to(groups[:, :1], groups.shape)
        np.testing.assert_array_equal(groups, first)
    gathered = parallel.gather_state(many, copies)
    for a, b in zip(leaves(state), leaves(gathered), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    many_metrics = parallel.gather_metrics(many_metrics, copies)
    for name, value in metrics.items():
        np.testing.assert_allclose(
            many_metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("num_shards", [2, 4])
def test_a_sharded_prior_gives_what_a_whole_one_gives(num_shards):
    """A network of two layers as prior: no device holds more than its part of it."""
    width = 512
    random = np.random.default_rng(0)
    weights = {
        "up": random.normal(size=(2, width)).astype(np.float32) / 2,
        "middle": random.normal(size=(width, width)).astype(np.float32) / width**0.5,
        "down": random.normal(size=(width, 2)).astype(np.float32) / width**0.5,
    }

    def predict(params, noisy, t, context):
        hidden = jnp.tanh(jnp.tanh(noisy @ params["up"]) @ params["middle"])
        return hidden @ params["down"]

    prior = make_prior(NoiseModel(predict, "epsilon"))
    step = simple_step(make_scene(), prior, SCORE, particles_per_step=NUM, **TXS)
    whole, sharded = new_state(), parallel.whole_on_each(new_state(), num_shards)
    parts = parallel.shard(weights, num_shards)
    on_one = sum(leaf.addressable_data(0).size for leaf in jax.tree.leaves(parts))
    assert (
        on_one < 1.05 * sum(leaf.size for leaf in weights.values()) / num_shards + 4096
    )
    step_sharded = parallel.sharded_step(step, num_shards)
    for _ in range(3):
        whole, _ = step(whole, weights, make_contexts(2))
        sharded, _ = step_sharded(sharded, parts, make_contexts(2))
    for a, b in zip(leaves(whole), leaves(sharded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert step_sharded._cache_size() <= 2  # not one for each step
    # No device gathers the weights: what the compiled program holds is the parts.
    compiled = step_sharded.lower(sharded, parts, make_contexts(2)).compile()
    gathered = re.findall(r"f32\[512,512\]\S* all-gather", compiled.as_text())
    assert not gathered


def test_split_and_gather_are_inverse():
    state = new_state()
    split = parallel.split_state(state, 2)
    assert split.particles.params["latent"].shape[:2] == (2, NUM // 2)
    for a, b in zip(leaves(state), leaves(parallel.gather_state(split)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_way_of_mapping_is_refused():
    with pytest.raises(ValueError, match="'vmap' is unknown"):
        parallel.parallel_step(lambda state: state, "vmap")


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="cannot be split"):
        parallel.split_state(new_state(), 3)
    with pytest.raises(ValueError, match="devices are asked for"):
        scene = make_scene()
        wide = init_state(jax.random.key(0), scene, {}, num_particles=64, **TXS)
        parallel.split_state(wide, 64)
    step = parallel.parallel_step(step_for(parallel.AXIS, particles_per_step=2))
    fixed = parallel.replicate((mixture(), make_contexts(2)), 2)
    with pytest.raises(ValueError, match="particles_per_step=8"):
        step(parallel.split_state(new_state(), 2), *fixed)


def test_hosts_read_all_particles_metrics_and_the_sum_of_votes():
    """In one process, whose devices are all there are; several: test_hosts.py."""
    devices = jax.device_count()
    step = parallel.parallel_step_over_hosts(step_for(parallel.AXIS))
    fixed = parallel.replicate((mixture(), make_contexts(2)), devices)
    votes = np.arange(devices, dtype=np.int32)
    state, metrics = step(parallel.split_state(new_state(), devices), votes, *fixed)
    metrics = parallel.gather_metrics(metrics)
    assert metrics.pop(parallel.VOTES) == votes.sum()
    np.testing.assert_array_equal(metrics["particle/index"], np.arange(NUM))
    single, expected = step_for(None)(new_state(), mixture(), make_contexts(2))
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, 1e-4, 1e-5, err_msg=name)
    gathered = parallel.gather_state(state)
    for a, b in zip(leaves(single), leaves(gathered), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_blocks_of_one_host_are_the_whole():
    block = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(parallel.gather_hosts(block), block)
    (joined,) = jax.tree.leaves(parallel.join_hosts({"a": jax.numpy.asarray(block)}))
    np.testing.assert_array_equal(joined, block)


@pytest.mark.parametrize("by", ["pmap", "shard_map", "other"])
def test_one_name_says_which_map_is_used(monkeypatch, by):
    monkeypatch.setattr(parallel, "MAP", by)
    state = jnp.ones((1, 3))
    if by == "other":
        with pytest.raises(ValueError, match="by='other' is unknown"):
            parallel.parallel_step(lambda x: x + 1)
        return
    real, used = jax.pmap, []
    monkeypatch.setattr(jax, "pmap", lambda *a, **k: used.append(1) or real(*a, **k))
    found = parallel.parallel_step(lambda x: x + 1)(state)
    np.testing.assert_array_equal(found, np.full((1, 3), 2.0))
    assert bool(used) == (by == "pmap")
