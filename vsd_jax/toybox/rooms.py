# SPDX-License-Identifier: Apache-2.0
"""Rooms of the Toybox, seen from inside, alone or around an object.

A room is a box inside the cube [-1, 1]^3: walls in the named colour, a wooden floor, a
pale ceiling, windows, a door and furniture along the walls, so that the middle is free
for the camera or for an object.
"""

from collections.abc import Callable

import numpy as np

from vsd_jax.toybox import parts
from vsd_jax.toybox.objects import make_object
from vsd_jax.toybox.parts import RGB, Part
from vsd_jax.toybox.text import COLOURS, ROOM, Prompt

_WHITE, _SKY, _DARK = (0.95, 0.95, 0.93), (0.62, 0.80, 0.95), (0.25, 0.25, 0.27)
_WOODS = ((0.72, 0.55, 0.36), (0.58, 0.42, 0.27), (0.80, 0.66, 0.46))
_OBJECT_RADIUS = 0.30
_UNIT_RADIUS = 0.70  # of objects as `make_object` returns them, about


def make_room(rng: np.random.Generator, prompt: Prompt) -> Part:
    """Builds a room, with the object of the prompt in its middle if there is one.

    Args:
      rng: consumed.
      prompt: `room` is True; for kind "room" `colour` is that of the walls, else
        `room_colour`; None is drawn.

    Returns:
      Part whose walls are inside [-1, 1]^3 (backs of frames reach 0.015 further, out
      of sight); floor at negative y.
    """
    alone = prompt.kind == ROOM
    name = prompt.colour if alone else prompt.room_colour
    colour = COLOURS[name or list(COLOURS)[rng.integers(len(COLOURS))]]
    half = np.array([rng.uniform(0.85, 0.98), 0.0, rng.uniform(0.85, 0.98)])
    half[1] = rng.uniform(0.55, 0.68)
    wood = _WOODS[rng.integers(len(_WOODS))]
    pieces = [_shell(rng, half, colour, wood), *_openings(rng, half)]
    pieces += _furniture(rng, half, colour, wood)
    if not alone:
        thing = make_object(rng, Prompt(kind=prompt.kind, colour=prompt.colour))
        thing = parts.stretch(thing, _OBJECT_RADIUS / _UNIT_RADIUS)
        floor = -half[1] - thing.triangles[..., 1].min()
        pieces.append(parts.move(thing, (0.0, floor, 0.0)))
    elif rng.random() < 0.6:
        radius = rng.uniform(0.25, 0.4)
        rug = COLOURS[list(COLOURS)[rng.integers(len(COLOURS))]]
        at = (0.0, -half[1] + 0.012, 0.0)
        pieces.append(parts.cylinder(radius, 0.02, at, rug, segments=24))
    return parts.join(*pieces)


def _tint(rng: np.random.Generator, colour: RGB, spread: float) -> RGB:
    return tuple(np.clip(np.asarray(colour) * rng.uniform(1 - spread, 1), 0.0, 1.0))


def _shell(rng, half, colour: RGB, wood: RGB) -> Part:
    """Four walls, floor and ceiling as thin slabs."""
    thick = 0.02
    x, y, z = half
    wide, deep = (2 * x, 2 * y, thick), (thick, 2 * y, 2 * z)
    walls = [
        parts.box(wide, (0, 0, z), _tint(rng, colour, 0.15)),
        parts.box(wide, (0, 0, -z), _tint(rng, colour, 0.15)),
        parts.box(deep, (x, 0, 0), _tint(rng, colour, 0.15)),
        parts.box(deep, (-x, 0, 0), _tint(rng, colour, 0.15)),
    ]
    floor = parts.box((2 * x, thick, 2 * z), (0, -y, 0), wood)
    ceiling = parts.box((2 * x, thick, 2 * z), (0, y, 0), _WHITE)
    skirting = [
        parts.turn(
            parts.box((2 * w, 0.06, 0.03), (0, -y + 0.03, d - 0.02), _WHITE), "y", a
        )
        for w, d, a in ((x, z, 0), (z, x, 90), (x, z, 180), (z, x, 270))
    ]
    return parts.join(*walls, floor, ceiling, *skirting)


def _on_wall(wall: int, half, part: Part) -> Part:
    """Moves a part made for the wall at -Z (facing +Z) to wall 0 ... 3."""
    depth = half[2] if wall % 2 == 0 else half[0]
    return parts.turn(parts.move(part, (0.0, 0.0, -depth)), "y", 90.0 * wall)


def _window(rng, half) -> Part:
    width, height = rng.uniform(0.45, 0.65), rng.uniform(0.4, 0.5)
    at = np.array([rng.uniform(-0.15, 0.15), 0.1, 0.0])
    frame = parts.box((width + 0.08, height + 0.08, 0.05), at, _WHITE)
    pane = parts.box((width, height, 0.06), at, _SKY)
    upright = parts.box((0.03, height, 0.07), at, _WHITE)
    across = parts.box((width, 0.03, 0.07), at, _WHITE)
    return parts.join(frame, pane, upright, across)


def _door(rng, half) -> Part:
    height = 1.5 * half[1]
    side = rng.choice([-0.3, 0.3])
    at = np.array([side, -half[1] + height / 2, 0.0])
    colour = _WOODS[rng.integers(len(_WOODS))]
    frame = parts.box((0.46, height + 0.06, 0.05), at + [0, 0.03, 0], _WHITE)
    leaf = parts.box((0.38, height, 0.07), at, colour)
    knob = parts.ellipsoid(0.03, at + [0.13, 0.0, 0.05], _DARK, segments=8)
    return parts.join(frame, leaf, knob)


def _openings(rng, half) -> list[Part]:
    """A door in one wall, windows in one or two others."""
    walls = rng.permutation(4)
    windows = 1 + int(rng.random() < 0.6)
    pieces = [_on_wall(int(walls[0]), half, _door(rng, half))]
    for wall in walls[1 : 1 + windows]:
        pieces.append(_on_wall(int(wall), half, _window(rng, half)))
    picture = parts.join(
        parts.box((0.38, 0.30, 0.04), (0, 0.12, 0), _DARK),
        parts.box((0.32, 0.24, 0.05), (0, 0.12, 0), _WHITE),
        parts.ellipsoid((0.08, 0.08, 0.02), (0, 0.12, 0.02), _WOODS[0], segments=8),
    )
    return [*pieces, _on_wall(int(walls[3]), half, picture)]


def _bed(rng, half, cloth: RGB, wood: RGB) -> Part:
    floor = -half[1]
    return parts.join(
        parts.box((0.8, 0.12, 0.4), (0, floor + 0.10, 0.22), wood),
        parts.box((0.76, 0.08, 0.38), (0, floor + 0.20, 0.22), cloth),
        parts.box((0.16, 0.06, 0.28), (-0.28, floor + 0.27, 0.22), _WHITE),
        parts.box((0.05, 0.36, 0.42), (-0.42, floor + 0.2, 0.22), wood),
    )


def _shelf(rng, half, cloth: RGB, wood: RGB) -> Part:
    floor, height = -half[1], rng.uniform(0.7, 0.95)
    boards = [
        parts.box((0.5, 0.03, 0.2), (0, floor + height * (k + 0.5) / 4, 0.11), wood)
        for k in range(4)
    ]
    sides = [
        parts.box((0.03, height, 0.2), (x, floor + height / 2, 0.11), wood)
        for x in (-0.25, 0.25)
    ]
    books = [
        parts.box(
            (rng.uniform(0.1, 0.3), 0.13, 0.13),
            (rng.uniform(-0.08, 0.08), floor + height * (k + 0.5) / 4 + 0.08, 0.11),
            (cloth, _WHITE, _DARK)[rng.integers(3)],
        )
        for k in range(3)
    ]
    return parts.join(*boards, *sides, *books)


def _desk(rng, half, cloth: RGB, wood: RGB) -> Part:
    floor = -half[1]
    legs = [
        parts.box((0.04, 0.4, 0.04), (x, floor + 0.2, z), wood)
        for x in (-0.3, 0.3)
        for z in (0.06, 0.3)
    ]
    lamp = parts.join(
        parts.rod((0.2, floor + 0.42, 0.15), (0.2, floor + 0.6, 0.15), 0.012, _DARK),
        parts.cylinder(0.09, 0.1, (0.2, floor + 0.64, 0.15), cloth, top=0.05),
    )
    top = parts.box((0.7, 0.04, 0.34), (0, floor + 0.42, 0.18), wood)
    return parts.join(*legs, top, lamp)


def _cupboard(rng, half, cloth: RGB, wood: RGB) -> Part:
    floor, height = -half[1], rng.uniform(0.8, 1.0)
    doors = [
        parts.box((0.23, height - 0.1, 0.02), (x, floor + height / 2, 0.27), cloth)
        for x in (-0.125, 0.125)
    ]
    body = parts.box((0.54, height, 0.26), (0, floor + height / 2, 0.14), wood)
    return parts.join(body, *doors)


_PIECES: tuple[Callable[..., Part], ...] = (_bed, _shelf, _desk, _cupboard)


def _furniture(rng, half, colour: RGB, wood: RGB) -> list[Part]:
    """Two or three pieces, each on a wall of its own, shifted sideways."""
    walls, kinds = rng.permutation(4), rng.permutation(len(_PIECES))
    pieces = []
    for wall, kind in list(zip(walls, kinds, strict=True))[: rng.integers(2, 4)]:
        part = _PIECES[kind](rng, half, _WHITE, _WOODS[rng.integers(len(_WOODS))])
        shift = rng.choice([-1.0, 1.0]) * rng.uniform(0.25, 0.4)
        pieces.append(_on_wall(int(wall), half, parts.move(part, (shift, 0.0, 0.0))))
    return pieces
