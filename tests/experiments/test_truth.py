# SPDX-License-Identifier: Apache-2.0
"""What a mesh is compared with."""

import importlib.util

import numpy as np
import pytest

pytest.importorskip("embreex")
trimesh = pytest.importorskip("trimesh")

from ml_collections.config_flags import config_flags  # noqa: E402

from vsd_jax.experiments import plan, scores, truth  # noqa: E402
from vsd_jax.experiments.catalogue import EXPERIMENTS  # noqa: E402
from vsd_jax.program.run import renders  # noqa: E402
from vsd_jax.program.settings import config as config_lib  # noqa: E402
from vsd_jax.program.terminal.errors import ConfigError  # noqa: E402


def test_what_lies_inside_is_not_seen():
    outer, inner = trimesh.creation.box((2, 2, 2)), trimesh.creation.box((1, 1, 1))
    both = trimesh.util.concatenate([outer, inner])
    points = np.concatenate([outer.triangles_center, inner.triangles_center])
    seen = truth.seen_from_outside(both, points)
    assert seen[:12].all() and not seen[12:].any()


def test_without_a_renderer_nothing_long_begins(monkeypatch):
    find, plane = importlib.util.find_spec, EXPERIMENTS["plane"]
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "embreex" else find(name, *more),
    )
    truth.require_renderer(plan.cells(plane, plan.Budget()))
    for name in ("images", "image2d", "ablation"):
        with pytest.raises(ConfigError, match=r"pip install 'vsd_jax\[toybox\]'"):
            truth.require_renderer(plan.cells(EXPERIMENTS[name], plan.Budget()))


def test_flat_truth_is_as_the_prompt_says():
    images = [
        truth.flat_images(f"a red car{words}", 2, 5)
        for words in ("", ", black background")
    ]
    normals = truth.flat_images("a normal map of a red car", 2, 5)
    corner = [pictures[:, 0, 0, 0] for pictures in (*images, normals)]
    for found, value in zip(corner, (1.0, 0.0, 0.0), strict=True):
        np.testing.assert_array_equal(found, np.full((2, 3), value))
    red = [pictures[..., 0].mean() for pictures in (images[1], normals)]
    assert red[0] > 2 * images[1][..., 1:].mean() and red[1] < 1.5 * normals.mean()


BALL = trimesh.creation.icosphere(3, radius=0.5)


@pytest.fixture
def two_balls(monkeypatch):
    """Truth: balls with a radius of 0.45 and of 1."""
    meshes = (BALL.copy().apply_scale(scale) for scale in (0.9, 2.0))
    surfaces = tuple(truth.sample_surface(mesh, 0) for mesh in meshes)
    monkeypatch.setattr(truth, "true_surfaces", lambda prompt: surfaces)


def test_chamfer_distance_is_to_the_nearest_true_object(tmp_path, two_balls):
    BALL.export(tmp_path / "a.ply")
    # The radii differ by 0.05; the gaps between 4,000 points add a little.
    assert 0.04 < truth.chamfer(tmp_path / "a.ply", "a red mushroom") < 0.08
    assert np.isnan(truth.chamfer(tmp_path / "b.ply", "a red mushroom"))
    assert np.isnan(truth.chamfer(tmp_path / "a.ply", "a red room"))


def test_what_a_mesh_has_inside_does_not_count(tmp_path, two_balls):
    BALL.export(tmp_path / "a.ply")
    inside = trimesh.creation.box((0.3, 0.3, 0.3))
    trimesh.util.concatenate([BALL, inside]).export(tmp_path / "b.ply")
    empty, full = (
        truth.chamfer(tmp_path / f"{name}.ply", "a red mushroom") for name in "ab"
    )
    assert full == pytest.approx(empty, rel=0.06)  # with the box a quarter more
    both = trimesh.load(tmp_path / "b.ply", process=False)
    assert len(truth.sample_surface(both, 0).points) == truth.POINTS


def test_particles_are_right_one_by_one_or_as_a_set(tmp_path, two_balls):
    scales = {"small": 0.9, "large": 2.0}
    for name, scale in scales.items():
        BALL.copy().apply_scale(scale).export(tmp_path / f"{name}.ply")
    small, large, none = (tmp_path / f"{n}.ply" for n in ("small", "large", "none"))
    both = truth.shape_scores([small, large], "a red mushroom")
    same = truth.shape_scores([small, small], "a red mushroom")
    assert max(*both.values(), same["chamfer"]) < 0.03  # the gaps between points
    assert same["mmd"] == pytest.approx(0.55 / 2, abs=0.03)  # the larger is far
    assert truth.shape_scores([small, none], "a red mushroom") == pytest.approx(same)
    assert "mmd" not in truth.shape_scores([small], "a red mushroom")
    assert np.isnan([*truth.shape_scores([none] * 2, "a red mushroom").values()]).all()


def test_other_true_objects_are_the_floor():
    found = truth.true_shape_scores("a red mushroom", 4, seed=0)
    assert 0.01 < found["chamfer"] < found["mmd"] < 0.06
    assert found != truth.true_shape_scores("a red mushroom", 4, seed=1)
    assert "mmd" not in truth.true_shape_scores("a red mushroom", 1, seed=0)
    assert np.isnan([*truth.true_shape_scores("a red room", 2, seed=0).values()]).all()


@pytest.mark.parametrize("what", ["object.py", "scene.py:room", "scene.py:object"])
def test_truth_is_seen_by_the_cameras_that_judge(what):
    config = config_flags.ConfigFileFlagParser("config").parse(f"configs/{what}")
    config.eval.num_views = 3
    config = config_lib.validate(config)
    judged = renders.judged_cameras(config, 3)
    orbit = truth.Orbit.of(config.to_dict())
    for azimuth, pose in zip(orbit.azimuths, judged.cam_to_world, strict=True):
        view = orbit.view(azimuth)
        np.testing.assert_allclose(view.cam_to_world, pose, atol=1e-6)
    np.testing.assert_allclose(orbit.fov_deg, judged.fov_deg)


def test_a_true_room_fills_its_views_and_is_known_as_one():
    orbit = truth.Orbit(4, 0.0, 0.0, 75.0)
    rooms = truth.orbit_images("a blue room", orbit, 2, 9001)
    assert (np.abs(rooms - 1.0).max(-1) > 0.02).mean() > 0.95
    numbers, _, _ = scores.judge(rooms, "a blue room", orbit.view_words)
    assert numbers["kind_precision"] == numbers["colour_precision"] == 1.0
    assert "multi_face_index" not in numbers
