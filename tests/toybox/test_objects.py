# SPDX-License-Identifier: Apache-2.0
"""Objects and rooms: pure functions of seed and prompt that keep their promises."""

import numpy as np
import pytest

from vsd_jax.toybox import objects, rooms
from vsd_jax.toybox.text import COLOURS, KINDS, ROOM, Prompt


def make(prompt: Prompt, seed: int = 0):
    rng = np.random.default_rng(seed)
    return (rooms.make_room if prompt.room else objects.make_object)(rng, prompt)


def largest_difference(a, b) -> float:
    if a.triangles.shape != b.triangles.shape:
        return np.inf
    return max(np.abs(x - y).max() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(kind="mushroom", colour="red"),
        Prompt(kind=None),
        Prompt(kind=ROOM),
        Prompt(kind="bear", room=True),
    ],
    ids=lambda prompt: f"{prompt.kind}-{prompt.room}",
)
def test_the_same_seed_gives_the_same_mesh_and_another_another(prompt):
    assert largest_difference(make(prompt, 3), make(prompt, 3)) == 0.0
    assert largest_difference(make(prompt, 3), make(prompt, 4)) > 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_every_colour_is_normalised_and_shows_its_colour(kind):
    for seed, colour in enumerate(COLOURS):
        part = make(Prompt(kind=kind, colour=colour), seed)
        points = part.triangles.reshape(-1, 3)
        reach = np.linalg.norm(points, axis=-1).max()
        assert 0.66 - 1e-9 <= reach <= objects.MAX_RADIUS + 1e-9
        np.testing.assert_allclose(points.min(0), -points.max(0), atol=1e-9)
        assert 50 < len(part.triangles) < 15_000
        assert all(np.isfinite(leaf).all() for leaf in part)
        assert part.colours.min() >= 0.0 and part.colours.max() <= 1.0
        np.testing.assert_allclose(np.linalg.norm(part.normals, axis=-1), 1.0)
        distance = np.abs(part.colours - COLOURS[colour]).max(-1)
        a, b, c = np.moveaxis(part.triangles, 1, 0)
        area = np.linalg.norm(np.cross(b - a, c - a), axis=-1)
        assert area[distance < 0.15].sum() > 0.08 * area.sum()


def test_what_a_prompt_leaves_open_is_drawn():
    sizes = {len(make(Prompt(kind=None), seed).triangles) for seed in range(12)}
    assert len(sizes) > 4
    tops = {
        tuple(make(Prompt(kind="chair"), seed).colours[0].round(1))
        for seed in range(12)
    }
    assert len(tops) > 3


def test_trimesh_has_the_same_triangles_and_colours():
    part = make(Prompt(kind="car", colour="blue"))
    mesh = objects.to_trimesh(part)
    np.testing.assert_allclose(mesh.triangles, part.triangles)
    colours = np.asarray(mesh.visual.face_colors)[:, :3] / 255
    np.testing.assert_allclose(colours, part.colours, atol=0.003)


@pytest.mark.parametrize("seed", range(6))
def test_rooms_lie_in_the_domain_and_leave_their_middle_free(seed):
    points = make(Prompt(kind=ROOM, colour="green"), seed).triangles
    assert np.abs(points).max() <= 1.02
    near = np.linalg.norm(points.mean(1), axis=-1) < 0.25
    assert not near.any()


def test_walls_have_the_named_colour():
    part = make(Prompt(kind=ROOM, colour="purple"))
    walls = np.abs(part.triangles.mean(1)[:, [0, 2]]).max(-1) > 0.8
    like = np.abs(part.colours - COLOURS["purple"]).max(-1) < 0.15
    assert (walls & like).sum() >= 4 * 12


def test_the_object_stands_on_the_floor_in_the_middle():
    prompt = Prompt(kind="duck", colour="yellow", room=True, room_colour="blue")
    part = make(prompt)
    floor = part.triangles[..., 1].min()
    duck = np.abs(part.colours - COLOURS["yellow"]).max(-1) < 0.1
    points = part.triangles[duck].reshape(-1, 3)
    assert points[:, 1].min() == pytest.approx(floor, abs=0.05)
    assert np.abs(points[:, [0, 2]]).max() < 0.35
