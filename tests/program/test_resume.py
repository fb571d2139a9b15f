# SPDX-License-Identifier: Apache-2.0
"""Every stage with a real step: saved, loaded and gone on with, bit for bit."""

import jax
import numpy as np
import pytest
import tiny_runs

from configs import textured_mesh
from vsd_jax.program.build import build
from vsd_jax.program.folder import checkpoint, source
from vsd_jax.program.run import pipeline
from vsd_jax.program.settings import config as config_lib

STAGES = ("nerf", "geometry", "texture")
SPLITS, STEPS = (1, 2), 3


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A finished chain of stages to start from, made without a prior."""
    folder = tmp_path_factory.mktemp("stages")
    config = textured_mesh.get_config("smoke")
    for name in STAGES:
        config[name].num_steps = 1
        config[name].eval.update(turntable_frames=2, num_views=2)
        config[name].export.resolution = 32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build", tiny_runs.make_run)
        pipeline.start(
            "train", config, str(folder), overwrite=False, command=["python"]
        )
    return folder


def bits(state) -> list[np.ndarray]:
    key = jax.random.key_data(state.key)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.replace(key=key),))]


@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.parametrize("stage", STAGES)
def test_any_split_of_the_steps_gives_the_same_bits(
    stage, stages, prior_folder, tmp_path
):
    config = textured_mesh.get_config("smoke")[stage]
    config.prior.path = str(prior_folder)
    before = {"geometry": "nerf", "texture": "geometry"}
    if stage in before:
        config.mesh.source = str(stages / before[stage])
    config = config_lib.validate(config)
    run = build.build(config)
    start = source.read_beginning(config).start

    def go_on(state, steps):
        for _ in range(steps):
            state, metrics = run.step(state, run.prior_params, run.prompts)
            assert not metrics["skipped"]
        return state

    fresh = bits(run.init(start))
    straight = bits(go_on(run.init(start), STEPS))
    assert any((a != b).any() for a, b in zip(fresh, straight, strict=True))
    for k in SPLITS:
        checkpoint.save_state(tmp_path, go_on(run.init(start), k), keep=1)
        target = jax.eval_shape(lambda: run.init(start))
        loaded = checkpoint.load_state(tmp_path, target, warn=pytest.fail)
        assert int(loaded.step) == k
        for a, b in zip(straight, bits(go_on(loaded, STEPS - k)), strict=True):
            np.testing.assert_array_equal(a, b)
