# SPDX-License-Identifier: Apache-2.0
"""Configuration -> parts: prompts, backgrounds, cameras, optimizers, score network."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_scene import make_prior, make_score

from configs import geometry, image2d, scene, texture
from configs import object as object_config
from vsd_jax.diffusion import prompt
from vsd_jax.methods import METHODS, Method, bind
from vsd_jax.presets import Settings
from vsd_jax.program.build import build, stages, texts
from vsd_jax.program.run import renders
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import sections
from vsd_jax.program.terminal.errors import RunError
from vsd_jax.scene.camera import make_camera_sampler
from vsd_jax.scene.nerf.field import make_density_bias
from vsd_jax.scene.regularizers import make_regularizer
from vsd_jax.timesteps import make_t_range
from vsd_jax.types import NoiseModel


def encode_text(texts):
    """One number per text, so that a context tells which text it came from."""
    return np.array([[[sum(map(ord, text))]] for text in texts], np.float32)


def code(text):
    return float(encode_text([text])[0, 0, 0])


def test_contexts_hold_the_right_text_for_view_and_background():
    config = config_lib.validate(object_config.get_config())
    contexts = texts.make_prompts(config, encode_text)
    assert contexts["text"].shape == (4, 3, 1, 1)
    side, grey = prompt.SIDE, 1
    expected = code("a red mushroom, side view, grey background")
    assert contexts["text"][side, grey, 0, 0] == expected
    assert contexts["score"][side, 2, 0, 0] == code("a red mushroom, black background")
    assert contexts["negative"][side, grey, 0, 0] == code("")


def test_the_prefix_stands_before_every_prompt_but_the_negative():
    config = geometry.get_config()
    config.mesh.source = "somewhere"
    contexts = texts.make_prompts(config_lib.validate(config), encode_text)
    # A normal map is on black by itself: no background is named.
    assert contexts["text"].shape == (4, 1, 1, 1)
    front = code("a normal map of a red mushroom, front view")
    assert contexts["text"][prompt.FRONT, 0, 0, 0] == front
    plain = code("a normal map of a red mushroom")
    assert contexts["score"][prompt.SIDE, 0, 0, 0] == plain
    assert contexts["negative"][prompt.SIDE, 0, 0, 0] == code("")


def test_environment_is_one_more_background():
    config = config_lib.validate(object_config.get_config("sd21"))
    colors, shares, words = Settings(config).background.table()
    assert colors.shape == (4, 3) and words[-1] == ""
    assert (colors[-1] < 0).all()
    np.testing.assert_allclose(shares, [1 / 6, 1 / 6, 1 / 6, 1 / 2], rtol=1e-5)
    config = config_lib.validate(object_config.get_config())
    colors, shares, _ = Settings(config).background.table()
    assert (colors >= 0).all() and shares.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("config", "low", "high"),
    [
        (object_config.get_config(), 2.4, 2.8),
        (scene.get_config("room"), 0.0, 0.25),
        (scene.get_config("object"), 0.55, 0.7),
    ],
    ids=["object", "room", "in_room"],
)
def test_cameras_follow_the_configuration(config, low, high):
    config = config_lib.validate(config)
    sample = make_camera_sampler(Settings(config).views.camera)
    cameras = jax.vmap(sample)(jax.random.split(jax.random.key(0), 64))
    offset = cameras.cam_to_world[:, :3, 3] - np.array(config.camera.target)[None]
    distance = np.linalg.norm(offset, axis=-1)
    assert low - 1e-5 <= distance.min() and distance.max() <= high + 1e-5
    assert np.ptp(cameras.azimuth_deg) > 180


def test_each_part_of_theta_has_its_learning_rate():
    config = object_config.get_config("smoke")
    config.optim.update(table_lr=0.5, decoder_lr=0.25)
    config = config_lib.validate(config)
    tx = Settings(config).tx
    params = {"table": jnp.zeros(2), "decoder": {"out": jnp.zeros(2)}}
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["table"], -0.5, rtol=1e-4)
    np.testing.assert_allclose(updates["decoder"]["out"], -0.25, rtol=1e-4)


def test_regularizers_that_are_off_cost_nothing_and_others_add_up():
    config = object_config.get_config()
    config.regularize.update(sparsity=2.0, entropy=3.0, opaque=1.0, opaque_start=10)
    config.regularize.update(z_variance=4.0, z_variance_start=10)
    settings = Settings(config_lib.validate(config))
    regularizer = make_regularizer(settings.regularizer)
    tiny_scene = stages.make_scene(
        config_lib.validate(image2d.get_config("smoke")), size=4
    )
    output = tiny_scene.render(
        {"pixels": jnp.zeros((64, 64, 3))}, {}, None, None, None, train=True
    ).replace(
        extras={"entropy": jnp.float32(0.5), "z_variance": jnp.float32(0.25)},
        opacity=jnp.full((4, 4), 0.5),
    )
    loss, terms = regularizer(output, jnp.int32(0))
    assert set(terms) == {"sparsity", "entropy", "opaque", "z_variance"}
    assert terms["entropy"] == 1.5 and terms["opaque"] == terms["z_variance"] == 0
    assert loss == pytest.approx(1.5 + 2 * np.sqrt(0.26), rel=1e-5)
    _, late = regularizer(output, jnp.int32(10))
    assert late["opaque"] == pytest.approx(np.log(2), rel=1e-5)
    assert late["z_variance"] == 1.0


def test_time_range_is_annealed_as_configured():
    config = object_config.get_config()
    config.update(num_steps=100)
    spec = Settings(config_lib.validate(config)).timesteps
    t_range = make_t_range(spec, np.ones(1000))
    assert tuple(map(int, t_range(jnp.int32(65)))) == (20, 980)
    assert tuple(map(int, t_range(jnp.int32(66)))) == (20, 500)


def test_dreamtime_gives_one_falling_timestep():
    config = object_config.get_config()
    config.update(num_steps=50)
    config.vsd.t_schedule = "dreamtime"
    abar = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))
    t_range = make_t_range(Settings(config_lib.validate(config)).timesteps, abar)
    pairs = [tuple(map(int, t_range(jnp.int32(step)))) for step in (0, 25, 49, 60)]
    assert all(low == high for low, high in pairs)
    assert pairs[0] > pairs[1] > pairs[2] == pairs[3]
    config.vsd.t_range = (0.3, 0.6)
    t_range = make_t_range(Settings(config_lib.validate(config)).timesteps, abar)
    found = [int(t_range(jnp.int32(step))[0]) for step in range(50)]
    assert (found[0], found[-1]) == (600, 300) and len(set(found)) > 10


def test_every_method_that_may_be_named_is_built():
    assert sections.choices()["vsd.method"] == tuple(METHODS)
    for name in METHODS:
        config = object_config.get_config("sd21")
        config.vsd.method = name
        config = config_lib.validate(config)
        prior = make_prior(NoiseModel(None, "epsilon"))
        method = Settings(config).method
        score = make_score(prior.model) if method.trains_score else None
        assert callable(bind(method, prior, score))
        prompts = texts.make_prompts(config, encode_text)
        assert {"text", "negative", "score", *method.texts} == set(prompts)
        if "empty" in method.texts:
            assert prompts["empty"][0, 0, 0, 0] == 0.0
        if "source" in method.texts:
            words = config.family.source_words
            assert prompts["source"][0, 0, 0, 0] == code(config.prompt + words)


@pytest.mark.parametrize("init", ["object", "scene", "object_in_scene"])
def test_density_starts_as_the_paper_says(init):
    config = object_config.get_config("sd21")
    config.field.init = init
    bias = make_density_bias(Settings(config_lib.validate(config)).field)
    middle, edge = bias(jnp.array([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0]]))
    assert float(middle) == (-10 if init == "scene" else 10)
    assert float(edge) == pytest.approx(-8 if init == "object" else -6.4, rel=1e-4)


@pytest.mark.parametrize("made", [object_config, geometry, texture, image2d])
@pytest.mark.parametrize("adapt", ["", "residual"])
def test_a_scene_first_made_under_a_trace_serves_outside_of_it(made, adapt):
    """Equal scenes are made once: none may keep what was a tracer where it was made."""
    config = made.get_config("smoke")
    config.mesh.source = "" if made in (object_config, image2d) else "somewhere"
    config.camera.adapt = "" if made is image2d else adapt
    config = config_lib.validate(config)
    for maker in (stages._make_nerf, stages._make_geometry, stages._make_texture):
        maker.cache_clear()

    def init(key):
        return stages.make_scene(config, size=8).init(key)

    with jax.checking_leaks():
        jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize(
    ("changes", "apart"),
    [
        ({}, False),
        ({"num_devices": 2, "num_particles": 2}, True),
        ({"num_shards": 2}, True),
    ],
)
def test_several_devices_take_their_weights_from_the_host(changes, apart, monkeypatch):
    seen = []

    def load(path, dtype, *, on_host, **options):
        seen.append(on_host)
        raise RunError("enough")

    monkeypatch.setattr(build, "load_prior", load)
    config = object_config.get_config("smoke")
    config.update(changes)
    with pytest.raises(RunError, match="enough"):
        build.build(config_lib.validate(config))
    assert seen == [apart]


@pytest.mark.parametrize("what", ["room", "object"])
@pytest.mark.parametrize("variant", ["sd21", "smoke"])
def test_scenes_are_judged_from_where_they_are_trained(what, variant):
    """From outside of a room its walls are seen from the side that nobody trained."""
    config = config_lib.validate(scene.get_config(f"{what},{variant}"))
    place = renders.judged_cameras(config, 16).cam_to_world[:, :3, 3]
    inside = config.camera.box_half_extent or config.render.half_extent
    assert jnp.abs(place).max() < inside


@pytest.mark.parametrize("what", ["room", "object"])
def test_walls_of_a_room_are_opaque_from_the_start(what):
    config = scene.get_config(what)
    config.field.update(num_levels=2, log2_table_size=8, max_resolution=32, hidden=8)
    config = config_lib.validate(config)
    built = stages.make_scene(config, size=16)
    params = built.init(jax.random.key(0))
    stats = built.init_stats(params)
    sample = make_camera_sampler(Settings(config).views.camera)

    @jax.jit
    def opacity(key):
        args = (sample(key), jnp.ones(3), key)
        return built.render(params, stats, *args, train=False).opacity

    for key in jax.random.split(jax.random.key(1), 6):
        assert opacity(key).min() > 0.95


def test_equal_scenes_are_one_so_that_they_are_compiled_once():
    def made(**changes):
        config = object_config.get_config("smoke")
        config.update_from_flattened_dict(changes)
        config = config_lib.validate(config)
        return stages.make_scene(config, size=8), stages.make_field(config)

    same = {"prompt": "a blue chair", "seed": 3, "vsd.method": "sds", "num_steps": 9}
    assert made() == made(**same)
    other = made(**{"field.density_scale": 3.0})
    assert all(a != b for a, b in zip(made(), other, strict=True))


def test_missing_weights_are_a_sentence():
    with pytest.raises(RunError, match="no such folder"):
        build.load_prior("/nowhere/at/all", "float32")


def test_another_method_takes_the_place_of_the_named_one(prior_folder):
    config = image2d.get_config("smoke")
    config.prior.path = str(prior_folder)
    config.vsd.method, config.vsd.guidance_scale = "sds", 100.0
    config = config_lib.validate(config)
    still = Method(
        lambda views: jnp.zeros_like(views.noise), "uniform", texts=("empty",)
    )
    run = build.build(config, still)
    assert "empty" in run.prompts and "empty" not in build.build(config).prompts
    state = run.init()
    before = jax.tree.map(np.array, state.particles.params)  # the step takes them
    state, _ = run.step(state, run.prior_params, run.prompts)
    jax.tree.map(np.testing.assert_array_equal, before, state.particles.params)


def test_score_network_from_scratch(prior_folder):
    config = object_config.get_config("smoke")
    config.prior.path = str(prior_folder)
    config.score.kind = "unet"
    prior, params, _ = build.load_prior(config.prior.path, "float32")
    score, unchanged = build.make_score(config, prior, params)
    assert score.model.prediction_type == "sample" and unchanged is params
    assert jax.tree.leaves(jax.eval_shape(score.init, jax.random.key(0), params))
    config.score.channels = (8, 9)
    with pytest.raises(RunError, match=r"score\.channels"):
        build.make_score(config, prior, params)


def test_score_network_on_another_prior(prior_folder, tmp_path):
    config = object_config.get_config("smoke")
    config.prior.path = str(prior_folder)
    other = shutil.copytree(prior_folder, tmp_path / "other")
    for weights in (other / "text_encoder").glob("*.safetensors"):
        weights.unlink()  # of the other one the U-Net alone is read
    config.score.path = other.as_posix()
    prior, params, _ = build.load_prior(config.prior.path, "float32")
    score, params = build.make_score(config, prior, params)
    assert set(params) == {"unet", "vae", "score"}
    found = jax.eval_shape(score.init, jax.random.key(0), params)
    assert found["lora"] and found["camera"]
    # What a resumed run compares: another base is another score network.
    marks = build.fingerprints(config)
    assert marks["prior.path"] == marks["score.path"]
    (weights,) = (other / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert build.fingerprints(config)["score.path"] != marks["score.path"]
    assert build.is_at_hand(config)
    config.vsd.method = "sds"
    assert build.fingerprints(config) == {"prior.path": marks["prior.path"]}
    config.score.path = "nobody/nothing"  # which SDS has no use for
    assert build.is_at_hand(config)
