# SPDX-License-Identifier: Apache-2.0
"""A run folder that commit 9d1839c made, stopped at step 2 of 4, is still good.

By hand it was gone on with, and the state at step 4 was to the bit what 9d1839c itself
made of it; here its settings, its whole state and its renders are read.
"""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from simple_scene import make_prior

from vsd_jax.program.build import build, stages
from vsd_jax.program.folder import checkpoint, source, workdir
from vsd_jax.program.run import session
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import named
from vsd_jax.types import NoiseModel

OLD = pathlib.Path(__file__).parents[1] / "data" / "old_run"
CHANGES = {
    "score.kind": "unet",
    "score.channels": (4,),
    "score.num_groups": 2,
    "score.num_heads": 1,
    "num_particles": 2,
    "render.size": 8,
    # What presets had then.
    "field.image_sigmoid": True,
    "field.init_std": 0.5,
    "optim.decay": 0.0,
    "optim.image_lr": 0.03,
}


@pytest.fixture
def folder(tmp_path):
    return pathlib.Path(shutil.copytree(OLD, tmp_path / "run"))


def test_the_same_settings_go_on(folder):
    config = named.make_config("image2d", "smoke")
    config.update_from_flattened_dict(CHANGES)
    place = workdir.Workdir(str(folder), create=True)
    try:
        place.adopt(config_lib.validate(config), overwrite=False)
        assert place.resumed
    finally:
        place.close()


def test_a_metric_that_no_run_had_is_no_fault_of_an_old_one(folder):
    stored = json.loads((folder / "config.json").read_text())
    stored["vsd"]["method"], stored["log"]["best"] = "sds", "score/loss"
    (folder / "config.json").write_text(json.dumps(stored))
    assert source.read_config(folder).log.best == ""


def test_a_changed_setting_is_refused(folder):
    config = named.make_config("image2d", "smoke")
    config.update_from_flattened_dict(CHANGES | {"vsd.guidance_rescale": 0.5})
    place = workdir.Workdir(str(folder), create=True)
    try:
        with pytest.raises(config_lib.ConfigError, match=r"vsd\.guidance_rescale"):
            place.adopt(config_lib.validate(config), overwrite=False)
    finally:
        place.close()


def test_its_whole_state_is_read(folder):
    config = source.read_config(folder)
    prior = make_prior(NoiseModel(None, "sample"), (16, 16, 48))
    score, _ = build.make_score(config, prior, {})
    scene = stages.make_scene(config, size=config.render.size)
    run = build.join(config, scene, prior, score)
    target = jax.eval_shape(
        lambda: run.init(jax.random.key(0), {}, num_particles=config.num_particles)
    )
    state = checkpoint.load_state(folder / "checkpoints", target, warn=print)
    assert int(state.step) == 2
    for leaf in jax.tree.leaves((state.particles, state.score)):
        assert np.isfinite(leaf).all()
    assert any(np.any(leaf) for leaf in jax.tree.leaves(state.score.opt_state))


def test_it_is_rendered(folder):
    session.start("render", None, str(folder), overwrite=False, command=["test"])
    assert (folder / "views_00.png").exists()
    stored = json.loads((folder / "config.json").read_text())
    assert "guidance_rescale" not in stored["vsd"]  # it stays as it was made
