# SPDX-License-Identifier: Apache-2.0
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import FlaxUNet2DConditionModel
from flax import traverse_util

from vsd_jax.diffusion import lora
from vsd_jax.diffusion.noise import (
    PREDICTION_TYPES,
    add_noise,
    alpha_sigma,
    target,
    to_noise,
    to_x0,
)
from vsd_jax.types import NoiseModel

SD21 = {
    "sample_size": 64,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
TINY = {
    "sample_size": 4,
    "block_out_channels": (64,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
}
BATCH = 2


def shapes(network):
    size = network.sample_size
    with jax.numpy_rank_promotion("allow"):
        return jax.eval_shape(
            network.init,
            jax.random.key(0),
            jnp.zeros((1, 4, size, size)),
            jnp.zeros(1, jnp.int32),
            jnp.zeros((1, 2, network.cross_attention_dim)),
        )["params"]


def count(tree):
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def unet():
    """A tiny U-Net with random weights (also where it would start at zero)."""
    network = FlaxUNet2DConditionModel(**TINY)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), shapes(network)
    )

    def apply(params, latents, t, context):
        with jax.numpy_rank_promotion("allow"):
            nchw = latents.transpose(0, 3, 1, 2)
            out = network.apply({"params": params}, nchw, t, context["text"]).sample
        return out.transpose(0, 2, 3, 1)

    return NoiseModel(apply, "v_prediction"), params


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(2), 3)
    context = {
        "text": jax.random.normal(keys[0], (BATCH, 2, 8)),
        "camera": jax.random.normal(keys[1], (BATCH, 16)),
    }
    return jax.random.normal(keys[2], (BATCH, 4, 4, 4)), jnp.array([3, 500]), context


@pytest.fixture(scope="module")
def trained(unet):
    """Score parameters away from their initial values."""
    init = partial(lora.init_score_params, rank=2, zero_last=False)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32),
        jax.eval_shape(init, jax.random.key(0), unet[1]),
    )


def test_parameter_counts_of_stable_diffusion_2_1():
    params = shapes(FlaxUNet2DConditionModel(**SD21))
    init = partial(lora.init_score_params, rank=4, zero_last=False)
    score = jax.eval_shape(init, jax.random.key(0), params)
    assert count(score["lora"]) == 829_952
    assert count(score["camera"]) == 1_661_440
    assert len(jax.tree.leaves(score["lora"])) == 2 * 4 * 2 * 16


def test_init_scales(unet):
    rank = 4
    adapters = lora.init_lora(jax.random.key(0), unet[1], rank=rank)
    flat = traverse_util.flatten_dict(adapters)
    downs = np.concatenate([np.ravel(v) for k, v in flat.items() if k[-1] == "down"])
    assert abs(downs.std() - 1 / rank) < 0.01
    assert abs(downs.mean()) < 0.01
    assert all((v == 0).all() for k, v in flat.items() if k[-1] == "up")
    assert {k[-2] for k in flat} == set(lora.ATTENTION_TARGETS)


def test_init_draws_each_kernel_on_its_own(unet):
    adapters = lora.init_lora(jax.random.key(0), unet[1], rank=4)
    flat = traverse_util.flatten_dict(adapters)
    same_shape = [v for k, v in flat.items() if v.shape == (64, 4) and k[-1] == "down"]
    assert len({float(value[0, 0]) for value in same_shape}) == len(same_shape) > 1


def test_init_refuses_impossible_values(unet):
    with pytest.raises(ValueError, match="rank"):
        lora.init_lora(jax.random.key(0), unet[1], rank=0)
    with pytest.raises(ValueError, match="No kernel"):
        lora.init_lora(jax.random.key(0), unet[1], rank=1, targets=("to_x",))
    with pytest.raises(ValueError, match="time_embedding"):
        lora.time_embedding_features({"dense": {}})
    heads = {"attention": {"query": {"kernel": jnp.zeros((8, 2, 4))}}}
    with pytest.raises(ValueError, match=r"attention/query.*\(8, 2, 4\), which is no"):
        lora.init_lora(jax.random.key(0), heads, rank=1, targets=("query",))


def test_adapters_that_nothing_reaches_are_refused(unet, inputs, trained):
    """A network inside of another module has other paths than its parameters."""
    base, params = unet

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, name="to_q")(x)

    outer = Outer()
    kernel = {"to_q": {"kernel": jnp.ones((4, 4)), "bias": jnp.zeros(4)}}
    apply = lambda params, noisy, t, context: outer.apply({"params": params}, noisy)  # noqa: E731
    score = lora.make_score_model(NoiseModel(apply, "epsilon"), scale=1.0)
    with pytest.raises(ValueError, match="never reached.*other paths"):
        score.apply((trained, kernel), jnp.ones((1, 2, 2, 4)), *inputs[1:])


def test_zero_start_is_the_frozen_network(unet, inputs):
    base, params = unet
    score_params = lora.init_score_params(
        jax.random.key(0), params, rank=2, zero_last=True
    )
    score = lora.make_score_model(base, scale=1.0)
    assert score.prediction_type == base.prediction_type
    np.testing.assert_array_equal(
        jax.jit(score.apply)((score_params, params), *inputs),
        jax.jit(base.apply)(params, *inputs),
    )


def test_side_path_equals_merged_weights(unet, inputs, trained):
    base, params = unet
    noisy, t, context = inputs
    zero = jax.tree.map(jnp.zeros_like, trained["camera"])
    score = lora.make_score_model(base, scale=0.7)
    side = jax.jit(score.apply)(({**trained, "camera": zero}, params), *inputs)
    merged = lora.merge(params, trained["lora"], 0.7)
    whole = jax.jit(base.apply)(merged, noisy, t, context)
    frozen = jax.jit(base.apply)(params, noisy, t, context)
    np.testing.assert_allclose(side, whole, rtol=1e-3, atol=1e-3)
    assert np.abs(whole - frozen).max() > 0.1


def test_merge_keeps_dtype_and_the_rest(unet, trained):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), unet[1])
    merge = jax.jit(partial(lora.merge, scale=1.0))
    merged = traverse_util.flatten_dict(merge(params, trained["lora"]))
    for path, leaf in traverse_util.flatten_dict(params).items():
        assert merged[path].dtype == jnp.bfloat16
        adapted = path[-1] == "kernel" and path[-2] in lora.ATTENTION_TARGETS
        assert np.array_equal(merged[path], leaf) != adapted


def test_camera_reaches_the_output(unet, inputs, trained):
    base, params = unet
    noisy, t, context = inputs
    score = jax.jit(lora.make_score_model(base, scale=1.0).apply)
    here = score((trained, params), *inputs)
    moved = context["camera"].at[0].add(1.0)
    there = score((trained, params), noisy, t, {**context, "camera": moved})
    assert np.abs(here[0] - there[0]).max() > 1e-3
    np.testing.assert_allclose(here[1], there[1], atol=1e-5)


def test_gradients_reach_lora_and_camera_only_through_themselves(unet, inputs, trained):
    base, params = unet
    score = lora.make_score_model(base, scale=1.0)

    @jax.jit
    @jax.grad
    def grads(score_params):
        return jnp.sum(score.apply((score_params, params), *inputs) ** 2)

    # A dict of float32 arrays of the adapters' shapes: nothing of the frozen network.
    found = grads(trained)
    assert jax.tree.structure(found) == jax.tree.structure(trained)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found))


def test_select_params_picks_the_frozen_part(trained):
    base = NoiseModel(lambda params, noisy, t, context: params * noisy, "epsilon")
    score = lora.make_score_model(
        base, scale=1.0, select_params=lambda params: params["second"]
    )
    context = {"camera": jnp.zeros((1, 16))}
    params = (trained | {"lora": {}}, {"first": 3.0, "second": 2.0})
    found = score.apply(params, jnp.ones((1, 2)), jnp.zeros(1, jnp.int32), context)
    np.testing.assert_array_equal(found, np.full((1, 2), 2.0))


def test_camera_mlp_equals_numpy():
    params = lora.init_camera_mlp(jax.random.key(0), 8, zero_last=False)
    camera = np.arange(32.0, dtype=np.float32).reshape(2, 16) / 16
    first, last = params["linear_1"], params["linear_2"]
    hidden = camera @ np.asarray(first["kernel"]) + np.asarray(first["bias"])
    hidden = hidden / (1 + np.exp(-hidden))
    expected = hidden @ np.asarray(last["kernel"]) + np.asarray(last["bias"])
    found = lora.camera_embedding(params, jnp.asarray(camera))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(AssertionError):
        lora.camera_embedding(params, jnp.zeros((2, 12)))


def test_no_interceptor_is_left_behind(trained):
    network = nn.Dense(16, name="time_embedding")
    params = network.init(jax.random.key(0), jnp.ones((2, 3)))

    def plain(params, noisy, t, context):
        return network.apply(params, noisy)

    score = lora.make_score_model(NoiseModel(plain, "epsilon"), scale=1.0)
    camera = lora.init_camera_mlp(jax.random.key(1), 16, zero_last=False)
    noisy, context = jnp.ones((2, 3)), {"camera": jnp.ones((2, 16))}
    before = plain(params, noisy, None, context)
    trained = trained | {"lora": {}}
    changed = score.apply(({**trained, "camera": camera}, params), noisy, None, context)
    assert np.abs(changed - before).max() > 1e-3
    with pytest.raises(TypeError):
        score.apply(({**trained, "camera": None}, params), noisy, None, context)
    np.testing.assert_array_equal(plain(params, noisy, None, context), before)


def test_passage_learns_the_exact_score_of_noise_that_the_network_cannot_say():
    """Renders N(0, v) by channel, a network that always says zero: the fit is exact."""
    variance = jnp.asarray([0.01, 0.25, 1.0])
    alphas_cumprod = np.linspace(0.999, 0.05, 50).astype(np.float32)
    base = NoiseModel(lambda params, noisy, t, context: 0.0 * noisy, "sample")
    score = lora.make_score_model(base, scale=1.0, alphas_cumprod=alphas_cumprod)
    fixed = {
        "lora": {},
        "camera": lora.init_camera_mlp(jax.random.key(0), 4, zero_last=True),
    }
    context = {"camera": jnp.zeros((64, 16))}

    def noise_pred(passage, noisy, t):
        params = ({**fixed, "passage": passage}, {})
        raw = score.apply(params, noisy, t, context)
        return to_noise(raw, noisy, t, alphas_cumprod, "sample")

    def draw(key):
        keys = jax.random.split(key, 3)
        shape = (64, 4, 4, 3)
        x0 = jnp.sqrt(variance).reshape(1, 1, 1, 3) * jax.random.normal(keys[0], shape)
        noise = jax.random.normal(keys[1], shape)
        t = jax.random.randint(keys[2], (64,), 0, 50)
        return add_noise(x0, noise, t, alphas_cumprod), noise, t

    @jax.jit
    @jax.grad
    def grads(passage, key):
        noisy, noise, t = draw(key)
        return jnp.mean((noise_pred(passage, noisy, t) - noise) ** 2)

    passage, second = jnp.zeros(3), jnp.zeros(3)
    for index in range(400):
        slope = grads(passage, jax.random.key(index))
        second = 0.95 * second + 0.05 * slope**2
        passage -= 0.01 * (1.0 - index / 400) * slope / (jnp.sqrt(second) + 1e-9)
    noisy, _, t = draw(jax.random.key(1_000))
    alpha_t, sigma_t = alpha_sigma(t, alphas_cumprod, ndim=4)
    total = alpha_t**2 * variance.reshape(1, 1, 1, 3) + sigma_t**2
    exact = sigma_t * noisy / total
    error = jnp.mean((noise_pred(passage, noisy, t) - exact) ** 2, (0, 1, 2))
    assert (error < 0.05**2 * jnp.mean(exact**2, (0, 1, 2))).all()
    blind = noise_pred(jnp.full(3, -5.0), noisy, t)
    error = jnp.mean((blind - exact) ** 2, (0, 1, 2))
    assert (error > 0.05**2 * jnp.mean(exact**2, (0, 1, 2))).all()


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_passage_is_the_same_estimate_for_every_prediction_type(kind):
    keys = jax.random.split(jax.random.key(0), 2)
    noisy, x0 = (jax.random.normal(key, (2, 3, 3, 2)) for key in keys)
    t, schedule = jnp.array([3, 40]), np.linspace(0.999, 0.05, 50).astype(np.float32)
    v = jnp.array([0.3, 1e-9])
    noise = to_noise(x0, noisy, t, schedule, "sample")
    raw = target(kind, x0, noise, t, schedule)
    options = {"alphas_cumprod": schedule, "prediction_type": kind}
    found = to_x0(
        lora.pass_noise(raw, noisy, t, v, **options), noisy, t, schedule, kind
    )
    ratio = ((1 - schedule) / schedule)[np.asarray(t)].reshape(2, 1, 1)
    alpha = np.sqrt(schedule[np.asarray(t)]).reshape(2, 1, 1)
    share = 0.3 / (0.3 + ratio)
    expected = x0[..., 0] + share * (noisy[..., 0] / alpha - x0[..., 0])
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-4)
    np.testing.assert_allclose(found[..., 1], x0[..., 1], atol=1e-4)
