# SPDX-License-Identifier: Apache-2.0
"""Configurations with random faults: accepted ones work, the others are refused.

A refusal is a sentence that names a key of the configuration and what to do; a
traceback from the depths is a fault of ours.
"""

import jax
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from configs import geometry, image2d, scene, texture
from configs import object as object_config
from vsd_jax.presets import Settings
from vsd_jax.program.build import stages
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError
from vsd_jax.scene.camera import make_camera_sampler
from vsd_jax.views import make_views

MAKERS = {
    "object": (object_config, "smoke"),
    "object:sd21": (object_config, "sd21"),
    "room": (scene, "room,smoke"),
    "in a room": (scene, "object,smoke"),
    "image2d": (image2d, "smoke"),
    "geometry": (geometry, "smoke"),
    "texture": (texture, "smoke"),
}
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 7, 0.5, 1e-9, 1e9, 2**31]),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    st.floats(-10, 10),
)
WORDS = st.sampled_from(
    ["", "nerf", "image", "latent", "vsd", "sds", "sqrt", "scene", "random", "a\n\x00b"]
)
ODD = st.one_of(
    NUMBERS, WORDS, st.booleans(), st.tuples(NUMBERS, NUMBERS), st.just(()), st.none()
)


def make(name):
    module, variant = MAKERS[name]
    config = module.get_config(variant)
    if name == "texture":
        config.mesh.source = "somewhere"
    return config


@st.composite
def mutations(draw):
    """A configuration's name, and one to three new values of its keys."""
    name = draw(st.sampled_from(sorted(MAKERS)))
    flat = config_lib.flatten(make(name))
    changes = {}
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(sorted(flat)))
        number = isinstance(flat[key], int | float)
        near = NUMBERS if number else WORDS if isinstance(flat[key], str) else ODD
        changes[key] = draw(st.one_of(near, near, near, ODD))
    return name, changes


def mutate(name, changes):
    """The configuration as the command line would make it; None if it refuses."""
    config = make(name)
    for key, value in changes.items():
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError):  # another type than the key has
            return None
    return config


def check_use(config):
    """What a run makes of its configuration before it computes anything."""
    shape = (8, 8, 4)
    found = Settings(config)
    made = stages.make_scene(config, size=8, latent_shape=shape)
    theta = jax.eval_shape(made.init, jax.random.key(0))
    jax.eval_shape(found.tx.init, theta)
    jax.eval_shape(make_camera_sampler(found.views.camera), jax.random.key(0))
    make_views(found.views)
    assert found.method and found.score and found.prompt


@seed(0)
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(mutations())
def test_mutations_work_or_are_refused_in_words(mutation):
    name, changes = mutation
    config = mutate(name, changes)
    if config is None:
        return
    try:
        valid = config_lib.validate(config)
    except ConfigError as error:
        parts = [part for key in changes for part in (key, key.rsplit(".", 1)[-1])]
        assert any(part in str(error) for part in parts), str(error)
        assert min(map(len, str(error).splitlines())) > 15
        return
    check_use(valid)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_unchanged_ones_work(name):
    check_use(config_lib.validate(make(name)))
