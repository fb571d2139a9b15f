# SPDX-License-Identifier: Apache-2.0
"""What a mesh is compared with."""

import numpy as np
import pytest

pytest.importorskip("embreex")
trimesh = pytest.importorskip("trimesh")

from vsd_jax.experiments import truth  # noqa: E402


def test_what_lies_inside_is_not_seen():
    outer, inner = trimesh.creation.box((2, 2, 2)), trimesh.creation.box((1, 1, 1))
    both = trimesh.util.concatenate([outer, inner])
    points = np.concatenate([outer.triangles_center, inner.triangles_center])
    seen = truth.seen_from_outside(both, points)
    assert seen[:12].all() and not seen[12:].any()


def test_chamfer_distance_is_to_the_nearest_true_object(tmp_path, monkeypatch):
    ball = trimesh.creation.icosphere(3, radius=0.5)
    small, large = (ball.copy().apply_scale(scale) for scale in (0.9, 2.0))
    surfaces = tuple(truth.sample_surface(mesh, 0) for mesh in (small, large))
    monkeypatch.setattr(truth, "true_surfaces", lambda prompt: surfaces)
    ball.export(tmp_path / "a.ply")
    # The radii differ by 0.05; the gaps between 4,000 points add a little.
    assert 0.04 < truth.chamfer(tmp_path / "a.ply", "a red mushroom") < 0.08
    assert np.isnan(truth.chamfer(tmp_path / "b.ply", "a red mushroom"))
