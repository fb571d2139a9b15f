# SPDX-License-Identifier: Apache-2.0
"""Truth renders: the camera convention, antialiasing, light, normals and depth."""

import builtins

import numpy as np
import pytest

from vsd_jax.scene import camera
from vsd_jax.toybox import parts, render
from vsd_jax.toybox.text import COLOURS

pytest.importorskip("embreex")
RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def orbit(azimuth_deg, elevation_deg, radius=3.0):
    return render.orbit_view(azimuth_deg, elevation_deg, radius=radius, fov_deg=40.0)


def centre_of(rgba, channel) -> np.ndarray:
    """(right, up) in [-1, 1] of the pixels in which one colour is alone."""
    others = np.delete(rgba[..., :3], channel, -1).max(-1)
    row, column = np.nonzero((rgba[..., channel] > 0.3) & (others < 0.1))
    size = len(rgba)
    place = [(column + 0.5) / size * 2 - 1, 1 - (row + 0.5) / size * 2]
    return np.array([p.mean() for p in place])


@pytest.fixture(scope="module")
def axes() -> parts.Part:
    """Boxes on +X (red), +Y (green) and +Z (blue)."""
    size = (0.2, 0.2, 0.2)
    return parts.join(
        parts.box(size, (0.6, 0, 0), RED),
        parts.box(size, (0, 0.6, 0), GREEN),
        parts.box(size, (0, 0, 0.6), BLUE),
    )


def test_from_the_front_x_is_right_and_y_is_up(axes):
    image = render.render(axes, [orbit(0, 0)]).rgba[0]
    right, up = centre_of(image, 0)
    assert right > 0.4 and abs(up) < 0.05
    right, up = centre_of(image, 1)
    assert up > 0.4 and abs(right) < 0.05
    np.testing.assert_allclose(centre_of(image, 2), 0, atol=0.05)


def test_azimuth_90_looks_from_plus_x_and_180_from_behind(axes):
    side, back = render.render(axes, [orbit(90, 0), orbit(180, 0)]).rgba
    assert centre_of(side, 2)[0] < -0.4
    assert centre_of(back, 0)[0] < -0.4


def test_elevation_is_above(axes):
    image = render.render(axes, [orbit(0, 80)]).rgba[0]
    assert centre_of(image, 2)[1] < -0.4


def test_orbit_poses_are_right_handed_and_look_at_the_target():
    target = np.array([0.1, -0.2, 0.3])
    for azimuth, elevation in ((0, 0), (37, -10), (-170, 85)):
        view = render.orbit_view(
            azimuth, elevation, radius=2.0, fov_deg=40.0, target=target
        )
        rotation, position = view.cam_to_world[:3, :3], view.cam_to_world[:3, 3]
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        np.testing.assert_allclose(position - 2.0 * rotation[:, 2], target, atol=1e-12)
        assert rotation[1, 1] > 0 and rotation[1, 0] == pytest.approx(0, abs=1e-12)


def test_cameras_and_rays_agree_with_those_of_the_scene():
    view = render.orbit_view(30, 20, radius=2.5, fov_deg=50.0)
    other = camera.orbit_camera(30.0, 20.0, 2.5, 50.0)
    np.testing.assert_allclose(view.cam_to_world, other.cam_to_world, atol=1e-6)
    origins, directions = render.pixel_rays(view, 8)
    origin, expected = camera.pixel_rays(other, 8, 8)
    np.testing.assert_allclose(directions, np.reshape(expected, (-1, 3)), atol=1e-6)
    np.testing.assert_allclose(origins[0], origin, atol=1e-6)


def test_alpha_is_antialiased_and_colours_are_premultiplied():
    ball = parts.ellipsoid(0.7, (0, 0, 0), COLOURS["orange"], segments=40)
    image = render.render(ball, [orbit(20, 10)])
    rgba = image.rgba[0]
    assert set(np.unique(rgba[..., 3] * 4)) == {0, 1, 2, 3, 4}
    assert (rgba[..., :3] <= rgba[..., 3:] + 1e-6).all()
    assert rgba[..., 3].mean() == pytest.approx(
        np.pi / 4 * (np.tan(np.arcsin(0.7 / 3)) / np.tan(np.radians(20))) ** 2, rel=0.02
    )


def test_normals_point_away_from_the_surface_and_depth_is_distance():
    ball = parts.ellipsoid(0.5, (0, 0, 0), RED, segments=40)
    image = render.render(ball, [orbit(0, 0)])
    normal = image.normal[0, 31:33, 31:33].mean((0, 1)) * 2 - 1
    np.testing.assert_allclose(normal, (0, 0, 1), atol=0.02)
    assert image.depth[0, 32, 32] == pytest.approx(2.5, abs=0.01)
    assert image.depth[0, 0, 0] == 0 and not image.normal[0, 0, 0].any()
    inside = image.rgba[0, ..., 3] == 1
    length = np.linalg.norm(image.normal[0][inside] * 2 - 1, axis=-1)
    assert length.min() > 0.9


def test_light_belongs_to_the_world_and_keeps_colours_nameable():
    directions = np.random.default_rng(0).normal(size=(2000, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    brightness = render.shade(directions)
    assert 0.57 < brightness.min() < 0.62 and 0.98 < brightness.max() < 1.06
    # A lit and an unlit colour are nearer to themselves than to another one.
    base = np.array(list(COLOURS.values()))
    for factor in (0.62, 0.8, 1.0):
        distance = np.linalg.norm(base[:, None] * factor - base[None] * factor, axis=-1)
        assert (distance + np.eye(len(base))).min() > 0.2


def test_thin_walls_are_lit_from_both_sides():
    sheet = parts.make_part([(-1, -1, 0), (1, -1, 0), (0, 1, 0)], [(0, 1, 2)], RED)
    front, back = render.render(sheet, [orbit(0, 0), orbit(180, 0)]).normal[:, 32, 32]
    np.testing.assert_allclose(front, (0.5, 0.5, 1.0), atol=1e-5)
    np.testing.assert_allclose(back, (0.5, 0.5, 0.0), atol=1e-5)


def test_without_embree_the_error_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments):
        if name.startswith("embreex"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'vsd_jax\[toybox\]'"):
        render.render(parts.box((1, 1, 1), (0, 0, 0), RED), [orbit(0, 0)])
