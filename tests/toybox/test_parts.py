# SPDX-License-Identifier: Apache-2.0
"""Primitives: closed, turned outwards, smooth where round and sharp at edges."""

import numpy as np
import pytest

from vsd_jax.toybox import parts

RED = (1.0, 0.0, 0.0)
ORIGIN = (0.0, 0.0, 0.0)
ANGLE = np.arange(12) * (2 * np.pi / 12)
DISC = np.stack([np.cos(ANGLE), np.sin(ANGLE)], -1)
SOLIDS = {
    "box": (parts.box((1, 2, 3), (5, 0, 0), RED), 6.0),
    "pyramid": (parts.box((1, 1, 1), ORIGIN, RED, taper=0.5), 0.583),
    "cylinder": (parts.cylinder(1, 2, (0, 3, 0), RED, segments=64), 2 * np.pi),
    "ball": (parts.ellipsoid((1, 2, 1), ORIGIN, RED, segments=48), 8 / 3 * np.pi),
    "torus": (parts.torus(1, 0.3, ORIGIN, RED, segments=64, sides=48), 1.777),
    "rod": (parts.rod(ORIGIN, (1, 1, 0), 0.2, RED, segments=48), 0.211),
    "prism": (parts.prism(DISC, 2.0, RED), 6.0),
    "loft": (parts.loft([np.c_[DISC, z + 0 * ANGLE] for z in (0, 2)], RED), 6.0),
    "mirrored": (parts.mirror(parts.box((1, 1, 1), (2, 0, 0), RED)), 1.0),
    "turned": (parts.turn(parts.box((1, 1, 1), (2, 0, 0), RED), "x", 30), 1.0),
    "aimed": (
        parts.aim(parts.cylinder(1, 2, ORIGIN, RED, segments=64), (1, 1, 0)),
        6.28,
    ),
}


def volume(part: parts.Part) -> float:
    a, b, c = np.moveaxis(part.triangles, 1, 0)
    return float(np.sum(a * np.cross(b, c)) / 6)


@pytest.mark.parametrize(("part", "expected"), SOLIDS.values(), ids=SOLIDS.keys())
def test_solids_face_outwards_and_have_their_volume(part, expected):
    assert volume(part) == pytest.approx(expected, rel=0.02)
    a, b, c = np.moveaxis(part.triangles, 1, 0)
    face = np.cross(b - a, c - a)
    face /= np.linalg.norm(face, axis=-1, keepdims=True)
    assert np.einsum("fi,fki->fk", face, part.normals).min() > 0.7
    np.testing.assert_allclose(np.linalg.norm(part.normals, axis=-1), 1.0, rtol=1e-9)


def test_round_surfaces_are_smooth():
    ball = parts.ellipsoid(2.0, ORIGIN, RED, segments=24)
    directions = ball.triangles / np.linalg.norm(ball.triangles, axis=-1, keepdims=True)
    assert np.sum(directions * ball.normals, -1).min() > 0.99


def test_edges_stay_sharp():
    normals = np.abs(parts.box((1, 1, 1), ORIGIN, RED).normals)
    np.testing.assert_allclose(normals.max(-1), 1.0)


def test_stretch_keeps_normals_upright_on_the_surface():
    flat = parts.stretch(parts.ellipsoid(1.0, ORIGIN, RED, segments=40), (1, 0.5, 2))
    gradient = flat.triangles / np.square([1, 0.5, 2])
    gradient /= np.linalg.norm(gradient, axis=-1, keepdims=True)
    assert np.sum(gradient * flat.normals, -1).min() > 0.98


def test_turns_are_right_handed():
    point = parts.box((0.1, 0.1, 0.1), (0, 0, 1), RED)
    turned = parts.turn(point, "y", 90).triangles.mean((0, 1))
    np.testing.assert_allclose(turned, (1, 0, 0), atol=1e-9)


def test_tube_follows_its_path():
    path = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    tube = parts.tube(path, 0.1, RED).triangles.reshape(-1, 3)
    assert tube.min(0)[2] == pytest.approx(-0.1, abs=0.02)
    assert tube.max(0)[0] == pytest.approx(1.1, abs=0.05)
