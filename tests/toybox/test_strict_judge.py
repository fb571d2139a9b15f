# SPDX-License-Identifier: Apache-2.0
"""The strict judge: what it learns from, its calibration, and what it says."""

import numpy as np
import pytest
from scipy import ndimage, special

from vsd_jax.toybox import batches, classifier, metrics, objects, render, strict_judge
from vsd_jax.toybox.text import COLOURS, KINDS, Prompt

NOTHING = strict_judge.ANSWERS.index(strict_judge.NOTHING)


def rgba_of(prompt, seed, azimuths=(20.0, 80.0, 160.0), elevation_deg=15.0):
    pytest.importorskip("embreex")
    part = objects.make_object(np.random.default_rng(seed), prompt)
    views = [
        render.orbit_view(azimuth, elevation_deg, radius=2.6, fov_deg=40.0)
        for azimuth in azimuths
    ]
    return render.render(part, views, size=64).rgba


def on_white(rgba):
    return rgba[..., :3] + 1.0 - rgba[..., 3:]


def said(images):
    return classifier.judge(strict_judge.load(), images)["kind"].argmax(-1)


@pytest.fixture(scope="module")
def renders():
    colours = list(COLOURS)
    return np.stack(
        [
            rgba_of(Prompt(kind=kind, colour=colours[i % 8]), 5 + i)
            for i, kind in enumerate(KINDS)
        ]
    )


def test_it_names_whole_objects_sharp_and_soft(renders):
    kinds = np.repeat(np.arange(len(KINDS)), renders.shape[1])
    images = on_white(renders).reshape(-1, 64, 64, 3)
    assert np.mean(said(images) == kinds) >= 0.93
    soft = strict_judge.soften(images, np.random.default_rng(0))
    assert np.mean(said(soft.astype(np.float32)) == kinds) >= 0.85


def test_it_rejects_lumps_and_melted_objects(renders):
    pytest.importorskip("embreex")
    lumps = strict_judge.lump_images(16, views=2, seed=77)
    assert np.mean(said(batches.composite(lumps, np.ones(3))) == NOTHING) >= 0.85
    rng = np.random.default_rng(3)
    melted = [strict_judge.melt(image, rng) for image in renders.reshape(-1, 64, 64, 4)]
    lost = np.stack([image for image, overlap in melted if overlap < 0.75])
    assert len(lost) >= 8
    assert np.mean(said(on_white(lost).astype(np.float32)) == NOTHING) >= 0.85


def test_a_chair_loses_its_silhouette_where_it_melts_and_a_disc_does_not(renders):
    chair = renders[KINDS.index("chair"), 0]
    melted, overlap = strict_judge.melt(chair, np.random.default_rng(0))
    assert overlap < 0.75
    blurred = ndimage.gaussian_filter(chair[..., 3], 5.0)

    def edge(alpha):
        return np.sum((alpha > 0.1) & (alpha < 0.9))

    assert edge(melted[..., 3]) < 0.6 * edge(blurred)
    assert np.all(melted[..., :3] <= melted[..., 3:] + 1e-5)
    disc = np.hypot(*(np.indices((64, 64)) - 31.5)) < 24
    same, overlap = strict_judge.melt(
        np.repeat(disc[..., None], 4, -1).astype(float), np.random.default_rng(1)
    )
    assert overlap > 0.9 and same[32, 32, 3] > 0.9


def test_a_cut_leaves_a_third_to_two_thirds(renders):
    rng = np.random.default_rng(0)
    for image in renders[:, 0]:
        share = (strict_judge.cut(image, rng)[..., 3] > 0.5).sum()
        assert 0.3 < share / (image[..., 3] > 0.5).sum() < 0.7


def test_the_temperature_undoes_a_scale():
    rng = np.random.default_rng(0)
    logits = 2.0 * rng.normal(size=(20_000, 5))
    drawn = special.softmax(logits, -1).cumsum(-1) > rng.random((len(logits), 1))
    labels = drawn.argmax(-1)
    assert strict_judge.temperature(3.0 * logits, labels) == pytest.approx(
        3.0, rel=0.05
    )
    params = {"kind": {"kernel": np.ones((2, 5)), "bias": np.ones(5)}, "features": {}}
    found = strict_judge.calibrate(params, 3.0 * logits, labels)["kind"]
    np.testing.assert_allclose(found["bias"], 1 / 3, rtol=0.05)


def test_calibration_error_in_closed_form():
    # Confidence .8 and right in half: .3; confidence .6 and always right: .4.
    probabilities = np.array([[0.8, 0.2]] * 4 + [[0.4, 0.6]] * 4)
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    found = metrics.calibration_error(probabilities, labels)
    assert found == pytest.approx(0.5 * 0.3 + 0.5 * 0.4)
    certain = np.eye(3)[[0, 1, 2]]
    assert metrics.calibration_error(certain, np.array([0, 1, 2])) == 0.0
