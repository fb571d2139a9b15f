# SPDX-License-Identifier: Apache-2.0
"""The judge on truth renders, and the requests and counts of the prior's scores."""

from collections import Counter

import numpy as np
import pytest

from vsd_jax.toybox import classifier, evaluate, objects, render
from vsd_jax.toybox.text import COLOURS, HELD_OUT_PAIRS, KINDS, VIEWS, Prompt


@pytest.fixture(scope="module")
def renders():
    """One object of each kind, seen obliquely from the front and from the side."""
    wanted = [
        (kind, list(COLOURS)[i % len(COLOURS)], view)
        for i, kind in enumerate(KINDS)
        for view in ("front", "side")
    ]
    images = []
    for i, (kind, colour, view) in enumerate(wanted):
        prompt = Prompt(kind=kind, colour=colour)
        part = objects.make_object(np.random.default_rng([7, i // 2]), prompt)
        azimuth = {"front": 10.0, "side": 80.0}[view]
        camera = render.orbit_view(azimuth, 15.0, radius=2.6, fov_deg=40.0)
        rgba = render.render(part, [camera], size=64).rgba[0]
        images.append(rgba[..., :3] + 1.0 - rgba[..., 3:])
    return np.stack(images).astype(np.float32), wanted


@pytest.fixture(scope="module")
def judged(renders):
    return classifier.judge(classifier.load(), renders[0])


def test_judge_names_truth(renders, judged):
    found = evaluate.scores(judged, renders[1])
    assert found["colour"] >= 0.95 and found["kind"] >= 0.95 and found["view"] >= 0.75


def test_judge_gives_probabilities_whatever_the_batch(renders, judged):
    for name, size in classifier.HEADS.items():
        assert judged[name].shape == (len(renders[0]), size)
        np.testing.assert_allclose(judged[name].sum(-1), 1.0, atol=1e-5)
    few = classifier.judge(classifier.load(), renders[0][:5])
    np.testing.assert_allclose(few["features"], judged["features"][:5], atol=1e-4)


def test_scores_count_what_was_asked():
    wanted = [("chair", "red", "front"), ("duck", "blue", "back")]
    judged = {
        "kind": np.eye(17)[[KINDS.index("chair"), KINDS.index("chair")]],
        "colour": np.eye(8)[[list(COLOURS).index("red"), list(COLOURS).index("blue")]],
        "view": np.eye(4)[[1, 1]],
    }
    found = evaluate.scores(judged, wanted)
    assert found == {"kind": 0.5, "colour": 1.0, "view": 0.0} | {
        "kind, front": 1.0,
        "kind, back": 0.0,
    }


def test_requests_share_out_pairs_and_views():
    seen = evaluate.requests(held_out=False, number=1000)
    pairs = Counter(request[:2] for request in seen)
    assert len(pairs) == len(KINDS) * len(COLOURS) - len(HELD_OUT_PAIRS)
    assert max(pairs.values()) - min(pairs.values()) <= 1
    assert not set(pairs) & set(HELD_OUT_PAIRS)
    views = Counter(request[2] for request in seen)
    assert set(views) == set(VIEWS) and min(views.values()) > 200
    assert len(set(seen[: 4 * len(pairs)])) == 4 * len(pairs)
    unseen = evaluate.requests(held_out=True, number=64)
    assert {request[:2] for request in unseen} == set(HELD_OUT_PAIRS)


def test_truth_of_the_requests_is_what_they_ask_for():
    pytest.importorskip("embreex")
    wanted = [
        (kind, "red", view) for kind in ("car", "chair", "duck") for view in VIEWS
    ]
    images = evaluate.truth(wanted, seed=3)
    judged = classifier.judge(classifier.load(), images)
    found = evaluate.scores(judged, wanted)
    assert images.shape == (12, 64, 64, 3) and images.max() == 1.0
    assert found["kind"] >= 0.9 and found["colour"] == 1.0 and found["view"] >= 0.9
    assert np.abs(images - evaluate.truth(wanted, seed=4)).max() > 0.1
