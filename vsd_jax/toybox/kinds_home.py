# SPDX-License-Identifier: Apache-2.0
"""Table, chair, house, tree and lamp.

Each function draws one object of its kind: (generator, RGB of the named colour) ->
`Part` in units of its own. The named colour shows from every side and from above.
"""

import numpy as np

from vsd_jax.toybox import parts
from vsd_jax.toybox.palette import (
    BARK,
    CREAM,
    DARK,
    GLASS,
    GLOW,
    GREY,
    RGB,
    SILVER,
    STEEL,
    WHITE,
    WOOD,
    dim,
    tint,
)
from vsd_jax.toybox.parts import Part


def table(rng: np.random.Generator, colour: RGB) -> Part:
    """A square, long or round top with grooves or a runner, on legs or a foot."""
    shape = rng.integers(3)
    height = rng.uniform(0.85, 1.25)
    thick = rng.uniform(0.10, 0.16)
    depth = rng.uniform(1.3, 1.6)
    width = depth if shape != 1 else depth * rng.uniform(1.2, 1.5)
    if shape == 2:
        top = parts.cylinder(depth / 2, thick, (0, height, 0), colour, segments=30)
    else:
        top = parts.box((width, thick, depth), (0, height, 0), colour)
    pieces = [top, *_table_cover(rng, shape, width, depth, height + thick / 2, colour)]
    legs = colour if rng.random() < 0.6 else WOOD
    if shape == 2 and rng.random() < 0.6:
        foot = [(0, 0), (0.42, 0), (0.42, 0.07), (0.14, 0.16), (0.10, 0.5 * height)]
        foot += [(0.15, 0.7 * height), (0.24, height), (0, height)]
        return parts.join(*pieces, parts.revolve(foot, legs))
    if shape != 2:
        apron = (0.84 * width, 0.16, 0.84 * depth)
        pieces.append(parts.box(apron, (0, height - 0.12, 0), dim(colour, 0.8)))
    reach = 0.40 if shape != 2 else 0.27
    splay = rng.choice([0.0, 0.0, 0.1])
    leg = rng.uniform(0.06, 0.085)
    for x in (-1, 1):
        for z in (-1, 1):
            start = np.array([x * reach * width, height, z * reach * depth])
            end = start * (1 + splay, 0, 1 + splay) + (0, leg, 0)
            pieces.append(parts.rod(start, end, leg, legs, segments=8))
    return parts.join(*pieces)


def _table_cover(rng, shape, width, depth, y, colour) -> list[Part]:
    """Grooves between planks, or a white runner."""
    if shape != 2 and rng.random() < 0.3:
        return [parts.box((0.32 * width, 0.03, depth + 0.04), (0, y, 0), WHITE)]
    pieces = []
    for place in (-0.25, 0.0, 0.25):
        x = place * width
        length = depth if shape != 2 else 2 * np.sqrt(depth**2 / 4 - x**2)
        groove = (0.035, 0.02, 0.99 * length)
        pieces.append(parts.box(groove, (x, y, 0), dim(colour, 0.55)))
    return pieces


def chair(rng: np.random.Generator, colour: RGB) -> Part:
    """A seat on four legs with a back of boards, bars or slats, some with arms."""
    width, depth = rng.uniform(0.95, 1.15), rng.uniform(0.9, 1.1)
    seat, back = rng.uniform(0.8, 1.0), rng.uniform(0.95, 1.3)
    thick = rng.uniform(0.11, 0.17)
    pieces = [parts.box((width, thick, depth), (0, seat, 0), colour)]
    if rng.random() < 0.35:
        cushion = (0.8 * width, 0.13, 0.78 * depth)
        place = (0, seat + thick / 2 + 0.04, 0.04)
        pieces.append(parts.box(cushion, place, CREAM, taper=0.88))
    legs = colour if rng.random() < 0.6 else WOOD
    leg = rng.uniform(0.055, 0.08)
    splay = rng.choice([1.0, 1.0, 1.15])
    for x in (-1, 1):
        for z in (-1, 1):
            start = np.array([x * 0.42 * width, seat, z * 0.42 * depth])
            end = start * (splay, 0, splay) + (0, leg, 0)
            pieces.append(parts.rod(start, end, leg, legs, segments=8))
    rear = parts.join(*_chair_back(rng, width, back, colour))
    rear = parts.turn(rear, "x", -rng.uniform(3, 12))
    pieces.append(parts.move(rear, (0, seat, -0.45 * depth)))
    if rng.random() < 0.3:
        y = seat + rng.uniform(0.35, 0.45)
        arm = parts.box((0.13, 0.09, 0.9 * depth), (width / 2, y, -0.03), colour)
        post = (width / 2, (y + seat) / 2, 0.34 * depth)
        post = parts.cylinder(0.05, y - seat, post, colour, segments=8)
        arm = parts.join(arm, post)
        pieces += [arm, parts.mirror(arm)]
    return parts.join(*pieces)


def _chair_back(rng, width, height, colour) -> list[Part]:
    """Standing on y = 0 at z = 0."""
    style = rng.integers(4)
    if style == 0:
        return [parts.box((width, height, 0.12), (0, height / 2, 0), colour, taper=(0.88, 1))]
    if style == 1:
        angle = np.radians(np.linspace(0, 180, 13))
        arch = np.stack([np.cos(angle) * width / 2, height - 0.5 + 0.5 * np.sin(angle)], -1)
        outline = [(-width / 2, 0), (width / 2, 0), *arch]
        return [parts.prism(outline, 0.12, colour)]
    pieces = []
    for side in (-1, 1):
        x = side * 0.44 * width
        pieces.append(parts.rod((x, 0, 0), (x, height, 0), 0.075, colour, segments=8))
    if style == 2:
        for level in (0.42, 0.68, 0.95):
            size = (0.9 * width, 0.19 * height, 0.1)
            pieces.append(parts.box(size, (0, level * height, 0), colour))
        return pieces
    pieces.append(parts.box((0.98 * width, 0.2, 0.13), (0, height, 0), colour))
    for place in (-0.22, 0.0, 0.22):
        size = (0.11, height, 0.08)
        pieces.append(parts.box(size, (place * width, height / 2, 0), colour))
    return pieces


def house(rng: np.random.Generator, colour: RGB) -> Part:
    """Walls under a coloured roof; the door is in front, a chimney on top."""
    along_x = rng.random() < 0.6
    width, depth = rng.uniform(1.5, 1.9), rng.uniform(1.2, 1.5)
    walls, rise = rng.uniform(0.8, 1.15), rng.uniform(0.65, 0.95)
    plaster = (WHITE, CREAM, SILVER, tint(colour, 0.72))[rng.integers(4)]
    pieces = [parts.box((width, walls, depth), (0, walls / 2, 0), plaster)]
    plinth = (width + 0.06, 0.14, depth + 0.06)
    pieces.append(parts.box(plinth, (0, 0.07, 0), dim(colour, 0.7)))
    if rng.random() < 0.25:
        size = (1.2 * width, rise, 1.25 * depth)
        roof = parts.box(size, (0, walls + rise / 2, 0), colour, taper=(0.3, 0.06))
    else:
        roof = _gable_roof(width, depth, rise, colour)
        if not along_x:
            roof = parts.turn(_gable_roof(depth, width, rise, colour), "y", 90)
        roof = parts.move(roof, (0, walls, 0))
    pieces.append(roof)
    side = rng.choice([-1, 1])
    place = (side * 0.27 * width, walls + 0.72 * rise, -0.2 * depth)
    pieces.append(parts.box((0.24, 0.9 * rise, 0.24), place, GREY))
    cap = (place[0], place[1] + 0.45 * rise, place[2])
    pieces.append(parts.box((0.31, 0.09, 0.31), cap, STEEL))
    pieces += _house_openings(rng, width, depth, walls, colour)
    return parts.join(*pieces)


def _gable_roof(width, depth, rise, colour) -> Part:
    """Ridge along X over walls that end at y = 0; coloured gables below it."""
    half, over = depth / 2, 0.17
    drop = rise * over / half
    outer = [(-half - over, -drop), (half + over, -drop), (0, rise)]
    roof = parts.turn(parts.prism(outer, width + 2 * over, colour), "y", 90)
    inner = [(-half, 0.0), (half, 0.0), (0, rise * 0.86)]
    gable = parts.prism(inner, width + 2 * over + 0.02, tint(colour, 0.28))
    ridge = parts.box((width + 2 * over + 0.02, 0.09, 0.12), (0, rise, 0), dim(colour, 0.7))
    return parts.join(roof, parts.turn(gable, "y", 90), ridge)


def _house_openings(rng, width, depth, walls, colour) -> list[Part]:
    """Door, step and windows with shutters; the back has one small window."""
    front = depth / 2
    door_x = rng.choice([-0.26, 0.0, 0.26]) * width
    door = 0.72 * walls
    frame = (door_x, door / 2 + 0.05, front)
    pieces = [parts.box((0.42, door + 0.08, 0.07), frame, WHITE)]
    pieces.append(parts.box((0.31, door, 0.11), (door_x, door / 2, front), dim(colour, 0.8)))
    knob = (door_x + 0.1, 0.45 * door, front + 0.06)
    pieces.append(parts.ellipsoid(0.035, knob, GLOW, segments=8))
    pieces.append(parts.box((0.5, 0.12, 0.28), (door_x, 0.06, front + 0.14), GREY))
    spots = [x for x in (-0.3, 0.3) if abs(x * width - door_x) > 0.45]
    for x in spots or [0.3]:
        pieces += [
            parts.move(p, (x * width, 0.58 * walls, front))
            for p in _window(0.28, 0.34, colour, shutters=True)
        ]
    back = [parts.turn(p, "y", 180) for p in _window(0.3, 0.26, colour, shutters=False)]
    pieces += [parts.move(p, (0, 0.6 * walls, -front)) for p in back]
    for side in (-1, 1):
        pane = [parts.turn(p, "y", 90 * side) for p in _window(0.3, 0.32, colour, shutters=False)]
        pieces += [parts.move(p, (side * width / 2, 0.58 * walls, 0)) for p in pane]
    return pieces


def _window(width, height, colour, *, shutters) -> list[Part]:
    """In the plane z = 0, seen from +Z."""
    pieces = [parts.box((width + 0.08, height + 0.08, 0.06), (0, 0, 0), WHITE)]
    pieces.append(parts.box((width, height, 0.09), (0, 0, 0), dim(GLASS, 0.72)))
    if shutters:
        for side in (-1, 1):
            place = (side * (width / 2 + 0.1), 0, 0)
            pieces.append(parts.box((0.12, height + 0.08, 0.08), place, colour))
    else:
        pieces.append(parts.box((width, 0.04, 0.1), (0, 0, 0), WHITE))
    return pieces


def tree(rng: np.random.Generator, colour: RGB) -> Part:
    """A jagged fir, a lumpy crown, or a tall poplar in the named colour."""
    style = rng.integers(3)
    trunk = rng.uniform(0.5, 0.9)
    thick = rng.uniform(0.13, 0.2)
    bole = [(0, 0), (thick * 1.7, 0), (thick * 1.1, 0.2), (thick, trunk + 0.4)]
    pieces = [parts.revolve([*bole, (0, trunk + 0.5)], BARK, segments=10)]
    if style == 0:
        pieces += _fir_tiers(rng, trunk, colour)
    elif style == 1:
        pieces += _crown(rng, trunk, colour)
    else:
        radius = 0.62
        for k, level in enumerate((0.35, 0.85, 1.35, 1.8)):
            for turn in range(3):
                angle = np.radians(120 * turn + 60 * k + rng.uniform(-15, 15))
                size = radius * (1.0, 0.95, 0.8, 0.55)[k] * rng.uniform(0.8, 0.95)
                place = 0.42 * size * np.array([np.sin(angle), 0, np.cos(angle)])
                shade = dim(colour, rng.uniform(0.84, 1.0))
                ball = (size * 0.85, size, size * 0.85)
                place[1] = trunk + level
                pieces.append(parts.ellipsoid(ball, place, shade, segments=14))
    return parts.join(*pieces)


def _fir_tiers(rng, trunk, colour) -> list[Part]:
    tiers = rng.integers(3, 5)
    points = rng.integers(8, 11)
    pieces = []
    radius, y = rng.uniform(0.8, 0.95), trunk
    for k in range(tiers):
        height = rng.uniform(0.75, 0.9) * (1 - 0.1 * k)
        angle = (np.arange(2 * points) + k * 0.7) * np.pi / points
        ring = radius * np.where(np.arange(2 * points) % 2, 1.0, 0.74)
        drop = np.where(np.arange(2 * points) % 2, -0.08, 0.05)
        star = np.stack([ring * np.sin(angle), drop, ring * np.cos(angle)], -1)
        under, apex = star * 0 + (0, 0.12, 0), star * 0 + (0, height, 0)
        shade = dim(colour, 0.86 + 0.14 * k / (tiers - 1))
        cone = parts.surface([under, star, apex], shade, closed=True, crease_deg=15)
        pieces.append(parts.move(cone, (0, y, 0)))
        y += 0.52 * height
        radius *= rng.uniform(0.72, 0.80)
    return pieces


def _crown(rng, trunk, colour) -> list[Part]:
    centre = trunk + 0.75
    pieces = [parts.ellipsoid(0.66, (0, centre, 0), colour, segments=16)]
    count = rng.integers(6, 9)
    for k in range(count):
        angle = 2 * np.pi * (k + rng.uniform(-0.2, 0.2)) / count
        lift = rng.uniform(-0.3, 0.1) if k % 2 else rng.uniform(0.2, 0.45)
        place = (0.55 * np.sin(angle), centre + lift, 0.55 * np.cos(angle))
        shade = dim(colour, rng.uniform(0.82, 1.0))
        pieces.append(parts.ellipsoid(rng.uniform(0.34, 0.48), place, shade, segments=14))
    pieces.append(parts.ellipsoid(rng.uniform(0.36, 0.5), (0.1, centre + 0.55, 0), colour))
    return pieces


def lamp(rng: np.random.Generator, colour: RGB) -> Part:
    """A table lamp: a pleated or smooth shade over a bright bulb, on a foot."""
    tall, shade = rng.uniform(1.0, 1.5), rng.uniform(0.8, 1.0)
    wide, narrow = rng.uniform(0.85, 1.0), rng.uniform(0.42, 0.56)
    pleats = rng.random() < 0.5
    sides = 12 if pleats else 28
    bend = rng.choice([0.0, 0.14])
    level = np.linspace(0, 1, 5)
    radius = wide + (narrow - wide) * level - bend * np.sin(np.pi * level)
    outer = np.stack([radius, level * shade], -1)
    inner = np.stack([radius - 0.06, level * shade], -1)[::-1]
    crease = 20 if pleats else 42
    cloth = parts.revolve(outer, colour, segments=sides, crease_deg=crease)
    lining = parts.revolve([outer[-1], *inner, outer[0]], tint(colour, 0.35), segments=sides)
    bulb = parts.ellipsoid((0.24, 0.3, 0.24), (0, 0.42 * shade, 0), GLOW, segments=16)
    bar = parts.box((2 * narrow, 0.05, 0.07), (0, 0.92 * shade, 0), STEEL)
    pieces = [parts.move(p, (0, tall, 0)) for p in (cloth, lining, bulb, bar)]
    if rng.random() < 0.6:
        trim = parts.torus(wide, 0.05, (0, tall, 0), WHITE, segments=sides, sides=6)
        pieces.append(trim)
    return parts.join(*pieces, *_lamp_foot(rng, tall, colour))


def _lamp_foot(rng, tall, colour) -> list[Part]:
    style = rng.integers(3)
    top = tall + 0.4
    stem = parts.cylinder(0.07, top, (0, top / 2, 0), STEEL, segments=10)
    if style == 0:
        foot = [(0, 0), (0.55, 0), (0.55, 0.09), (0.12, 0.18), (0, 0.18)]
        return [stem, parts.revolve(foot, colour)]
    if style == 1:
        vase = [(0, 0), (0.3, 0), (0.34, 0.06), (0.46, 0.32 * tall), (0.36, 0.6 * tall)]
        vase += [(0.14, 0.78 * tall), (0.16, 0.84 * tall), (0, 0.84 * tall)]
        return [stem, parts.revolve(vase, colour)]
    feet = [parts.cylinder(0.06, 0.1, (0, 0.0, 0), DARK, segments=8)]
    for k in range(3):
        leg = parts.rod((0, 0.75 * tall, 0.03), (0, 0.05, 0.55), 0.07, WOOD, segments=8)
        feet.append(parts.turn(leg, "y", 120 * k + 60))
    ball = parts.ellipsoid(0.18, (0, 0.75 * tall, 0), colour, segments=14)
    return [stem, ball, *feet]
