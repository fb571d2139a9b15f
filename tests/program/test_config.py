# SPDX-License-Identifier: Apache-2.0
"""Bad configurations are refused in sentences; sound ones survive JSON."""

import json

import pytest
from ml_collections import ConfigDict

from configs import object as object_config
from vsd_jax.methods import METHODS
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import config_rules, sections
from vsd_jax.program.terminal.errors import ConfigError


def changed(**changes) -> ConfigDict:
    """The object configuration; `vsd__method="x"` sets vsd.method."""
    config = object_config.get_config()
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    return config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_steps": 0}, ["num_steps=0", "at least 1"]),
        ({"vsd__method": "vds"}, ["vsd.method='vds'", "vsd, sds"]),
        ({"vsd__t_range": (0.98, 0.02)}, ["vsd.t_range", "low <= high"]),
        ({"vsd__t_range": (0.1, 0.2, 0.3)}, ["vsd.t_range"]),
        ({"vsd__t_range_late": (0.1, 0.5)}, ["same lower end"]),
        ({"camera__fov_deg": (0.0, 40.0)}, ["camera.fov_deg"]),
        ({"prompt": " "}, ["prompt is empty"]),
        ({"prior__variant": None}, ["prior.variant has no value"]),
        ({"negative_prompt": "a corgi"}, ["negative_prompt='a corgi'"]),
        ({"prompt_prefix": "a photo of "}, ["prompt_prefix='a photo of '"]),
        ({"num_particles": 2, "particles_per_step": 3}, ["particles_per_step=3"]),
        ({"num_particles": 3, "num_devices": 2}, ["num_devices=2", "multiple"]),
        ({"num_particles": 2, "num_devices": 3}, ["num_devices=3", "multiple"]),
        (
            {"num_particles": 2, "num_devices": 2, "num_shards": 2},
            ["num_shards=2", "set one of them to 1"],
        ),
        ({"vsd__views_per_step": 3, "num_devices": 2}, ["views_per_step (now 3)"]),
        ({"on_not_finite": "ignore"}, ["on_not_finite='ignore'", "stop, restart"]),
        (
            {"on_not_finite": "restart", "mesh__source": "run"},
            ["mesh.source=run", "on_not_finite=stop"],
        ),
        ({"render__capacity": 0.5, "render__occupancy_resolution": 0}, ["grid"]),
        ({"camera__adapt": "novelty"}, ["camera.adapt", "residual"]),
        (
            {"camera__adapt": "residual", "num_devices": 2},
            ["camera.adapt=residual", "at most num_particles=1"],
        ),
        (
            {"vsd__guidance_rescale": 0.5, "vsd__method": "csd"},
            ["guidance_rescale=0.5", "csd takes the term"],
        ),
        (
            {"vsd__guidance_rescale": 0.5, "vsd__guidance_t": (0.1, 0.5)},
            ["guidance_rescale=0.5", "guidance_t=(0.1, 0.5)"],
        ),
        ({"render__early_size": 64}, ["early_size=64", "render.size=64"]),
        ({"render__background_shares": (0.5, 0.25, 0.5)}, ["sum to 1"]),
        ({"render__background_words": ("",)}, ["same number"]),
        ({"eval__background": (1.0, 2.0, 0.0)}, ["no colour"]),
        ({"render__environment_share": 0.5}, ["field.environment=True"]),
        ({"field__max_resolution": 4}, ["field.min_resolution=16"]),
        ({"field__kind": "image"}, ["no views", "views_per_step=2"]),
        (
            {"field__kind": "image", "mesh__source": "run"},
            ["mesh.source='run' has no meaning"],
        ),
        ({"camera__law": "inside"}, ["view_prompts=False"]),
        ({"camera__target": (0.0, 3.0, 0.0)}, ["camera.target", "no point"]),
        ({"vsd__perp_neg": True, "vsd__view_prompts": False}, ["perp_neg"]),
        (
            {"vsd__not_overhead_deg": 30.0, "vsd__view_prompts": False},
            ["not_overhead_deg=30.0", "view_prompts=True"],
        ),
        ({"score__steps_per_step": 2, "vsd__method": "sds"}, ["no meaning"]),
        ({"score__steps_per_step": 2, "vsd__method": "csd"}, ["no meaning"]),
        ({"regularize__laplacian": 5.0}, ["regularize.laplacian", "nerf"]),
        ({"vsd__front_over_side": (1, 2)}, ["vsd.front_over_side=(1, 2)", "3 numbers"]),
        ({"score__channels": ("a",)}, ["score.channels", "whole numbers"]),
        ({"score__channels": (), "score__kind": "unet"}, ["score.channels=()"]),
        ({"score__channels": (0,), "score__kind": "unet"}, ["positive multiples"]),
        ({"score__num_heads": 7, "score__kind": "unet"}, ["score.num_heads=7"]),
        ({"render__background_words": (1, 2, 3)}, ["background_words", "texts"]),
        ({"log__best": "score/loss", "vsd__method": "sds"}, ["log.best", "no metric"]),
        (
            {"vsd__method": "esd", "score__camera_dropout": 1.0},
            ["score.camera_dropout=1.0", "with and without the camera"],
        ),
        ({"prompt": "a read mushroom"}, ["'read'", "red", "Stable Diffusion"]),
        ({"prompt": "a red mushroom, side view"}, ["adds those words itself"]),
        ({"prompt": "a blue room"}, ["--config=scene"]),
        ({"negative_prompt": "ugly"}, ["'ugly'"]),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, dict) else "",
)
def test_faults_are_named_with_value_and_remedy(changes, words):
    with pytest.raises(ConfigError) as error:
        config_lib.validate(changed(**changes))
    for word in words:
        assert word in str(error.value)


def test_all_faults_come_at_once():
    with pytest.raises(ConfigError) as error:
        config_lib.validate(changed(num_steps=0, vsd__method="x", seed=-1))
    assert len(str(error.value).splitlines()) == 3


def test_only_two_stages_have_a_late_range():
    early = {"vsd__t_range": (0.5, 0.98)}
    config_lib.validate(changed(**early, vsd__t_schedule="sqrt"))
    with pytest.raises(ConfigError, match="t_range_late"):
        config_lib.validate(changed(**early))


def test_every_method_that_trains_a_score_may_update_it_more_often():
    for name, method in METHODS.items():
        if method(guidance_scale=1.0).trains_score:
            config_lib.validate(changed(vsd__method=name, score__steps_per_step=2))


def test_any_text_goes_with_another_prior():
    config_lib.validate(changed(prompt="a corgi, side view", prior__path="some/model"))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("vsd.perp_neg", "yes", "True or False"),
        ("num_particles", 2.0, "a whole number"),
        ("field.num_levels", True, "a whole number"),
        ("prior.variant", 16, "a text"),
    ],
)
def test_types_are_those_of_the_specs(key, value, words):
    """Also where no ConfigDict guards them, as in a mapping read from a file."""
    flat = config_lib.flatten(object_config.get_config()) | {key: value}
    with pytest.raises(ConfigError) as error:
        config_lib.validate(ConfigDict(config_lib.nest(flat)))
    assert key in str(error.value) and words in str(error.value)


def test_every_number_has_bounds():
    flat = config_lib.flatten(object_config.get_config())
    numbers = {key for key, value in flat.items() if type(value) in (int, float)}
    free = {"field.object_strength", "field.scene_strength"}
    assert numbers - free == set(sections.ranges())
    assert set(sections.pairs()) | set(sections.choices()) <= set(flat)


@pytest.mark.parametrize(
    ("kind", "free", "of_nerf"),
    [
        ("geometry", "mesh.surface_capacity", set()),  # it has none
        ("texture", "render.capacity", {"render.capacity"}),
    ],
)
def test_a_mesh_stage_may_go_on_with_more_room(kind, free, of_nerf):
    old = config_lib.flatten(changed(field__kind=kind))
    for key in (free, "mesh.raster_capacity"):
        new = config_lib.nest(old | {key: 9.0})
        assert config_lib.differing_keys(config_lib.nest(old), new) == {}
    nerf = config_lib.nest(old | {"field.kind": "nerf"})
    more = config_lib.nest(old | {"field.kind": "nerf", free: 9.0})
    assert set(config_lib.differing_keys(nerf, more)) == of_nerf


def test_what_a_geometry_began_from_may_not_change_later():
    old = config_lib.flatten(changed(field__kind="geometry"))
    for key in ("export.level", "export.resolution"):
        new = config_lib.nest(old | {key: 77})
        assert set(config_lib.differing_keys(config_lib.nest(old), new)) == {key}
        nerf = {"field.kind": "nerf"}
        pair = config_lib.nest(old | nerf), config_lib.nest(old | nerf | {key: 77})
        assert config_lib.differing_keys(*pair) == {}


def test_flatten_and_nest_survive_json():
    config = object_config.get_config()
    flat = config_lib.flatten(config)
    nested = json.loads(json.dumps(config_lib.nest(flat)))
    assert config_lib.flatten(nested) == flat
    restored = ConfigDict(config_lib.as_tuples(nested))
    assert config_lib.flatten(config_lib.validate(restored)) == flat


def test_a_run_that_was_stopped_by_a_lost_particle_may_go_on_with_restart():
    old = config_lib.nest(config_lib.flatten(changed()))
    assert config_lib.differing_keys(old, changed(on_not_finite="restart")) == {}


def test_differing_keys_leave_out_what_only_reports():
    old = object_config.get_config()
    new = changed(vsd__guidance_scale=5.0, log__metrics_every=3, eval__fps=3.0)
    assert config_lib.differing_keys(old, new) == {"vsd.guidance_scale": (2.0, 5.0)}


def test_a_key_of_another_version_differs():
    old = config_lib.nest(config_lib.flatten(object_config.get_config()))
    del old["vsd"]["weighting"]
    differing = config_lib.differing_keys(old, object_config.get_config())
    assert differing == {"vsd.weighting": ("(absent)", "sigma_squared")}


def test_a_run_of_an_older_version_is_gone_on_with():
    now = object_config.get_config("sd21")
    old = config_lib.flatten(now)
    for key in config_lib.DEFAULTS_OF_OLD_RUNS:
        del old[key]
    old = config_lib.nest(old)
    assert config_lib.differing_keys(old, now) == {}
    now.camera.adapt = "residual"
    differing = config_lib.differing_keys(old, now)
    assert differing == {"camera.adapt": ("", "residual")}


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("vsd.guidence_scale", "vsd.guidance_scale"),
        ("guidance_scale", "vsd.guidance_scale"),
        ("promt", "prompt"),
        ("num_particle", "num_particles"),
    ],
)
def test_unknown_keys_get_a_suggestion(key, wanted):
    known = config_lib.flatten(object_config.get_config())
    assert wanted in config_rules.suggest(key, known)
