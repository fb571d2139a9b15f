# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import numpy as np
import pytest
from jitted import run

from vsd_jax.scene import camera as cameras

TOYBOX = dict(
    radius_range=(2.4, 2.8),
    fov_range_deg=(40.0, 40.0),
    elevation_range_deg=(-10.0, 50.0),
    azimuth_range_deg=(-180.0, 180.0),
    area_uniform_share=0.0,
    overhead_share=0.15,
    overhead_range_deg=(50.0, 85.0),
)


def draw(sampler, num, **kwargs):
    sample = jax.vmap(functools.partial(sampler, **kwargs))
    return run(lambda key: sample(jax.random.split(key, num)), jax.random.key(0))


orbit_camera = functools.partial(run, cameras.orbit_camera)


@pytest.mark.parametrize(
    "azimuth,elevation,position",
    [(0, 0, (0, 0, 2)), (90, 0, (2, 0, 0)), (180, 0, (0, 0, -2)), (0, 90, (0, 2, 0))],
)
def test_position_by_convention(azimuth, elevation, position):
    camera = orbit_camera(azimuth, elevation, 2.0, 40.0)
    np.testing.assert_allclose(camera.cam_to_world[:3, 3], position, atol=1e-6)


@pytest.mark.parametrize("elevation", [-90.0, -30.0, 0.0, 60.0, 90.0])
def test_poses_are_rotations_and_look_at_the_target(elevation):
    camera = orbit_camera(33.0, elevation, 1.7, 40.0, np.array([0.1, 0.2, 0]))
    rotation = np.asarray(camera.cam_to_world[:3, :3])
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-6)
    seen = camera.cam_to_world[:3, 3] - 1.7 * camera.cam_to_world[:3, 2]
    np.testing.assert_allclose(seen, [0.1, 0.2, 0], atol=1e-6)
    np.testing.assert_allclose(camera.cam_to_world[3], [0, 0, 0, 1])


def test_pixel_rays_convention():
    camera = orbit_camera(0.0, 0.0, 2.0, 90.0)
    origin, directions = run(cameras.pixel_rays, camera, height=4, width=4)
    np.testing.assert_allclose(origin, [0, 0, 2], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, atol=1e-6)
    expected = np.array([-0.75, 0.75, -1.0])  # row 0, column 0: left, up, away
    np.testing.assert_allclose(
        directions[0, 0], expected / np.linalg.norm(expected), atol=1e-6
    )
    assert directions[0, 3, 0] > 0 and directions[3, 0, 1] < 0


def test_projection_of_a_world_point_lands_on_its_pixel():
    camera = orbit_camera(70.0, 20.0, 2.5, 40.0)
    point = np.array([0.3, -0.2, 0.4, 1.0])
    x, y, z, _ = np.linalg.inv(np.asarray(camera.cam_to_world)) @ point
    slope = np.tan(np.deg2rad(20.0))
    column = (x / -z / slope + 1) / 2 * 64 - 0.5
    row = (1 - y / -z / slope) / 2 * 64 - 0.5
    origin, directions = run(cameras.pixel_rays, camera, height=64, width=64)
    towards = point[:3] - np.asarray(origin)
    towards /= np.linalg.norm(towards)
    best = np.unravel_index(np.argmax(directions @ towards), (64, 64))
    np.testing.assert_allclose(best, (row, column), atol=0.6)


def test_wrap_degrees():
    angles = np.array([-540.0, -180.0, 0.0, 180.0, 181.0, 720.0])
    np.testing.assert_allclose(
        run(cameras.wrap_degrees, angles), [180, 180, 0, 180, -179, 0], atol=1e-4
    )


def test_toybox_law():
    camera = draw(cameras.sample_orbit_camera, 4000, **TOYBOX)
    assert camera.cam_to_world.shape == (4000, 4, 4)
    np.testing.assert_allclose(camera.fov_deg, 40)
    assert 2.4 <= camera.radius.min() and camera.radius.max() <= 2.8
    elevation = np.asarray(camera.elevation_deg)
    assert -10 <= elevation.min() and elevation.max() <= 85
    np.testing.assert_allclose((elevation > 50).mean(), 0.15, atol=0.02)
    low = elevation[elevation <= 50]
    np.testing.assert_allclose(low.mean(), 20, atol=1.0)
    azimuth = np.asarray(camera.azimuth_deg)
    assert (np.abs(azimuth) <= 180).all() and abs(azimuth.mean()) < 6


def test_area_uniform_share():
    elevation = draw(
        cameras.sample_elevation,
        4000,
        elevation_range_deg=(0.0, 90.0),
        area_uniform_share=1.0,
    )
    np.testing.assert_allclose(
        np.quantile(np.sin(np.deg2rad(elevation)), [0.25, 0.5, 0.75]),
        [0.25, 0.5, 0.75],
        atol=0.03,
    )


def test_inside_law_stays_in_its_ball_and_looks_around():
    camera = draw(
        cameras.sample_inside_camera,
        500,
        position_radius=0.3,
        fov_range_deg=(60.0, 80.0),
        elevation_range_deg=(-20.0, 20.0),
        azimuth_range_deg=(-180.0, 180.0),
    )
    position = camera.cam_to_world[:, :3, 3]
    distance = np.linalg.norm(position, axis=-1)
    assert distance.max() <= 0.3
    np.testing.assert_allclose(camera.radius, distance, rtol=1e-5)
    back = run(cameras.back_axis, camera.azimuth_deg, camera.elevation_deg)
    np.testing.assert_allclose(camera.cam_to_world[:, :3, 2], back, atol=1e-6)


def test_target_jitter_and_a_box_that_keeps_orbits_inside_the_room():
    law = TOYBOX | dict(radius_range=(0.5, 3.0), target_std=0.1)
    camera = draw(cameras.sample_orbit_camera, 500, box_half_extent=0.9, **law)
    pose = camera.cam_to_world
    assert np.abs(pose[:, :3, 3]).max() <= 0.9 + 1e-5
    seen = pose[:, :3, 3] - camera.radius[:, None] * pose[:, :3, 2]
    np.testing.assert_allclose(seen.std(), 0.1, atol=0.01)


def test_the_box_holds_whatever_is_looked_at():
    law = TOYBOX | dict(radius_range=(0.5, 3.0), target=(0.0, -0.6, 0.2))
    camera = draw(cameras.sample_orbit_camera, 500, box_half_extent=0.9, **law)
    pose = camera.cam_to_world
    assert np.abs(pose[:, :3, 3]).max() <= 0.9 + 1e-5
    seen = pose[:, :3, 3] - camera.radius[:, None] * pose[:, :3, 2]
    np.testing.assert_allclose(seen, np.tile([0.0, -0.6, 0.2], (500, 1)), atol=1e-5)


def test_turntable_and_panorama():
    table = cameras.turntable(4, elevation_deg=15.0, radius=2.0, fov_deg=40.0)
    np.testing.assert_allclose(table.azimuth_deg, [0, 90, 180, -90], atol=1e-4)
    around = cameras.panorama(3, elevation_deg=0.0, fov_deg=70.0)
    np.testing.assert_allclose(around.cam_to_world[:, :3, 3], 0, atol=1e-7)
    assert jax.tree.leaves(around)[0].shape[0] == 3
