# SPDX-License-Identifier: Apache-2.0
"""Stages that cannot follow each other, and settings that would be dropped."""

import pathlib

import pytest

from vsd_jax.program.run import pipeline
from vsd_jax.program.settings import named
from vsd_jax.program.terminal.errors import ConfigError

STAGES = ("nerf", "geometry", "texture")
FOLDER = pathlib.Path("x")


@pytest.fixture
def config():
    return named.NAMED["textured_mesh"]("smoke")


@pytest.mark.parametrize(
    ("stages", "word"),
    [
        (("geometry", "nerf"), "in that order"),
        (("nerf", "nerf"), "in that order"),
        (("prompt",), "some of nerf"),
        (("nerf", "texture"), "texture goes on with field.kind=geometry, and nerf"),
    ],
)
def test_stages_that_do_not_follow_each_other_are_refused(config, stages, word):
    config.stages = stages
    with pytest.raises(ConfigError, match=word):
        pipeline.linked(config, FOLDER)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("texture.mesh.surface_capacity", r"geometry\.mesh\.surface_capacity=2\.0"),
        ("refine.field.density_scale", r"nerf\.field\.density_scale="),
        ("texture.field.hidden", r"refine\.field\.hidden="),
    ],
)
def test_stages_that_do_not_fit_are_refused_before_the_first(config, key, word):
    config.stages = ("nerf", "refine", "geometry", "texture")
    pipeline.linked(config, FOLDER)
    config.update_from_flattened_dict({key: 3 if key.endswith("hidden") else 3.0})
    with pytest.raises(ConfigError, match=word):
        pipeline.linked(config, FOLDER)


def test_stages_have_one_number_of_particles(config):
    apart = config.copy_and_resolve_references()
    apart.texture.num_particles = 2
    with pytest.raises(ConfigError, match=r"texture\.num_particles=2, but geometry"):
        pipeline.linked(apart, FOLDER)


@pytest.mark.parametrize(
    ("argument", "word"),
    [
        ("--config.geometry.prompt=a blue car", r"give --config\.prompt"),
        ("--config.refine.num_steps=7", "leaves refine out"),
        ("--config.texture.mesh.source=x", "goes on with the stage before it"),
    ],
)
def test_settings_of_one_stage_are_not_dropped(argument, word):
    with pytest.raises(ConfigError, match=word):
        pipeline.refuse_dropped(STAGES, ["python", argument])
    pipeline.refuse_dropped(
        STAGES, ["--config.nerf.mesh.source=x", "--config.geometry.num_steps", "7"]
    )
