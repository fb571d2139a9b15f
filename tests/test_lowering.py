# SPDX-License-Identifier: Apache-2.0
"""The Stable Diffusion step as accelerators get it (`benchmarks/lowering.py`)."""

import re

import jax
import jax.numpy as jnp
import pytest

from benchmarks import access, lowering, sd_ours
from vsd_jax.diffusion import lora, noise, prompt
from vsd_jax.presets import Settings
from vsd_jax.program.build import stages
from vsd_jax.scene.camera import make_camera_sampler, orbit_camera
from vsd_jax.scene.mesh import geometry
from vsd_jax.scene.mesh.raster import RasterSizes
from vsd_jax.scene.mesh.surface import MeshSizes
from vsd_jax.scene.regularizers import make_regularizer
from vsd_jax.types import ViewWeights


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype, layout",
    [
        ("float32", "one"),
        pytest.param(
            "bfloat16",
            "several",
            marks=pytest.mark.skipif(
                jax.__version_info__ < (0, 8),
                reason="jax 0.7 cannot lower typed keys in a pmap inside of a jit",
            ),
        ),
        ("bfloat16", "sharded"),
    ],
)
def test_step_lowers_for_accelerators(dtype, layout):
    with jax.numpy_rank_promotion("allow"):  # diffusers' autoencoder
        found = list(lowering.lower("tiny", dtype, layout))
    assert [platform for platform, *_ in found] == ["cuda", "tpu"]
    for _, exported, _ in found:
        text = exported.mlir_module()
        assert not lowering.faults(text) and not access.slow_accesses(text)
        assert exported.nr_devices == (1 if layout == "one" else 2)
        assert not exported.ordered_effects and not exported.unordered_effects
        assert ("all_reduce" in text) == (layout == "several")
        # Softmax and norms are float32, whatever the network is.
        assert not re.search(r"(rsqrt |sqrt |applies stablehlo\.max).*bf16>", text)
        bfloat16 = [x for x in text.splitlines() if "convolution" in x and "xbf16" in x]
        assert bool(bfloat16) == (dtype == "bfloat16")


def lowered(function, *arguments) -> str:
    traced = jax.jit(function).trace(*arguments)
    return traced.lower(lowering_platforms=("tpu",)).as_text()


def with_gradient(scene, background, regularizer=None):
    """One view of a scene: picture, penalties and the gradient of all."""

    def value(params, stats, camera, key):
        out = scene.render(params, stats, camera, background, key, train=True)
        extra = regularizer(out, jnp.int32(0))[0] if regularizer else 0.0
        return jnp.sum(out.rgb) + jnp.sum(out.depth) + extra

    return jax.value_and_grad(value)


def shapes_of(scene):
    params = jax.eval_shape(scene.init, jax.random.key(0))
    return params, jax.eval_shape(scene.init_stats, params)


def test_radiance_field_is_rendered_in_full_precision(tmp_path):
    penalties = {"regularize.orientation": 1.0, "regularize.z_variance": 1.0}
    config = sd_ours.make_config(tmp_path, "tiny", **penalties)
    scene = stages.make_scene(config, size=16, latent_shape=(8, 8, 4))
    settings = Settings(config)
    regularizer = make_regularizer(settings.regularizer)
    view = with_gradient(scene, jnp.full(3, -1.0), regularizer)
    sample = make_camera_sampler(settings.views.camera)

    def look(params, stats, key):
        camera_key, key = jax.random.split(key)
        return view(params, stats, sample(camera_key), key)

    text = lowered(look, *shapes_of(scene), jax.random.key(0))
    assert text.count("stablehlo.dot_general") >= 9
    assert not lowering.rounded_products(text) and not lowering.faults(text)


def test_mesh_is_drawn_in_full_precision():
    scene = geometry.make_geometry(
        image_size=16,
        resolution=4,
        max_offset=0.2,
        radius=0.6,
        near=0.1,
        mesh_sizes=MeshSizes(100, 400, 800),
        raster_sizes=RasterSizes(rows=500, pixels=300, silhouettes=80, crossings=100),
    )
    camera = jax.eval_shape(lambda: orbit_camera(30.0, 20.0, 2.6, 40.0))
    view = with_gradient(scene, jnp.zeros(3))
    text = lowered(view, *shapes_of(scene), camera, jax.random.key(0))
    assert not lowering.rounded_products(text) and not lowering.faults(text)


def test_schedule_camera_and_prompts_are_in_full_precision():
    levels = jnp.linspace(0.99, 0.01, 1000)
    latents, t = jnp.ones((2, 8, 8, 4)), jnp.array([3, 900])
    text = lowered(lambda x: noise.add_noise(x, x, t, levels), latents)
    assert "stablehlo.dot_general" not in text
    mlp = jax.eval_shape(
        lambda key: lora.init_camera_mlp(key, 8, zero_last=False), jax.random.key(0)
    )
    text = lowered(lora.camera_embedding, mlp, jnp.ones((2, 16)))
    assert text.count("HIGHEST, HIGHEST") == 2
    views = ViewWeights(jnp.ones(4) / 4, None)
    contexts = {"text": jnp.ones((4, 1, 5, 6))}
    select = lambda contexts: prompt.select_prompts(contexts, views, jnp.int32(0))  # noqa: E731
    text = lowered(select, contexts)
    assert text.count("HIGHEST, HIGHEST") == 1 and not lowering.rounded_products(text)


def test_faults_are_found():
    def shout(x):
        jax.debug.callback(lambda value: None, x)
        return x @ x

    text = jax.jit(shout).lower(jnp.ones((3, 3))).as_text()
    assert any("callback" in name for name in lowering.faults(text))
    assert len(lowering.rounded_products(text)) == 1
    with (
        jax.enable_x64(True)
        if hasattr(jax, "enable_x64")
        else (jax.experimental.enable_x64())
    ):
        double = jax.jit(jnp.sin).lower(jnp.ones(3, jnp.float64)).as_text()
    assert lowering.faults(double) == ["f64"]
