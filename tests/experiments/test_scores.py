# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vsd_jax.experiments import scores
from vsd_jax.program.folder import writer
from vsd_jax.toybox import metrics


def test_pictures_are_read_as_they_were_written(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 64, 64, 3)) / 255.0
    sheet = writer.contact_sheet(images, tile_size=64, gap=0)
    writer.save_png(tmp_path / "a.png", sheet)
    found = scores.read_views(tmp_path / "a.png", 2)
    np.testing.assert_allclose(found, images, atol=1e-6)


def cell(value: float, shift: float = 0.0):
    features = np.random.default_rng(0).normal(size=(40, 1, 2)) + shift
    return {"saturation": value}, features, np.zeros((1, 1, 2, 2, 3))


def test_a_row_has_mean_and_spread_over_seeds():
    by_seed = {0: [cell(1.0), cell(3.0)], 1: [cell(4.0), cell(4.0)]}
    found = scores.row_scores(by_seed, [cell(0.0)], None)["saturation"]
    assert found["values"] == [2.0, 4.0] and found["mean"] == 3.0
    assert found["spread"] == pytest.approx(2**0.5)


def test_with_one_seed_the_spread_is_over_prompts():
    pair = [cell(1.0), cell(float("nan"))]
    found = scores.row_scores({0: pair}, [cell(0.0)] * 2, None)
    assert found["saturation"]["mean"] == 1.0
    assert found["saturation"]["spread"] is None
    assert found["frechet_truth"]["spread"] is None


def test_a_prompt_without_a_colour_stands_beside_one_that_has_one():
    numbers, features, images = cell(1.0)
    colored = (numbers | {"colour_precision": 0.5}, features, images)
    found = scores.row_scores({0: [cell(3.0), colored]}, [cell(0.0)], None)
    assert found["colour_precision"]["mean"] == 0.5
    assert found["saturation"]["values"] == [3.0, 1.0]


def test_distances_are_to_truth_and_to_the_reference_of_the_same_seed():
    by_seed = {seed: [cell(0.0, 2.0)] for seed in (0, 1)}
    reference = {0: [cell(0.0, 3.0)], 1: [cell(0.0, 5.0)]}
    found = scores.row_scores(by_seed, [cell(0.0)], reference)
    assert found["frechet_truth"]["values"] == pytest.approx([8.0, 8.0])
    assert found["frechet_reference"]["values"] == pytest.approx([2.0, 18.0])


def test_a_flat_images_background_is_its_borders():
    images = np.full((2, 8, 8, 3), [[[[0.7, 0.7, 0.7]]], [[[1.0, 1.0, 0.9]]]])
    images[:, 2:5, 2:5] = [1.0, 0.25, 0.25]
    images[0, 0, :3] = 0.0  # a few pixels of something at the border
    found = scores.border_colors(images)
    np.testing.assert_allclose(found[:, 0, 0], [[0.7] * 3, [1.0, 1.0, 0.9]])
    grey = metrics.saturation(images[:1, 1:, 1:], found[:1])
    assert grey == pytest.approx(0.75)
    assert metrics.saturation(images[:1], np.ones(3)) < 0.2
