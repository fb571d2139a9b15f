# SPDX-License-Identifier: Apache-2.0
"""What stands for truth in a table of objects."""

import numpy as np
import pytest

from vsd_jax.experiments import scores
from vsd_jax.experiments.plan import Cell, Row
from vsd_jax.program.folder import writer
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import named


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """A finished object of two particles; truth is drawn and judged as numbers."""
    config = named.NAMED["object"]("smoke")
    config.num_particles = config.particles_per_step = 2
    flat = config_lib.flatten(config_lib.validate(config))
    writer.write_json(tmp_path / "config.json", config_lib.nest(flat))
    row = Row(name="VSD", settings={})
    of = dict(prompt="a red mushroom", seed=1, config="configs/object.py")
    cell = Cell(row=row, settings={}, **of)

    def draw(prompt, orbit, number, seed):
        return np.full((number, 4, 1, 1, 3), float(seed))

    def judge(images, prompt, views):
        return {"objects": len(images)}, images[..., 0, 0, 0], images

    def shapes(prompt, number, seed):
        return {"shapes": number, "seed": seed}

    monkeypatch.setattr(scores.truth, "orbit_images", draw)
    monkeypatch.setattr(scores.truth, "true_shape_scores", shapes)
    monkeypatch.setattr(scores, "judge", judge)
    return cell, tmp_path


def test_its_numbers_are_of_many_objects_its_distances_of_as_many_as_a_run_has(judged):
    numbers, features, _ = scores.score_truth(*judged)
    assert numbers == {"objects": 8, "shapes": 2, "seed": 0} and len(features) == 8
    other, few, images = scores.score_truth(*judged, seed=1)
    assert other == numbers | {"seed": 1} and len(few) == len(images) == 2
    assert few[0, 0] != features[0, 0]  # another set
