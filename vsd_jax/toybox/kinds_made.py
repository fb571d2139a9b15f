# SPDX-License-Identifier: Apache-2.0
"""Toybox kinds that people make: furniture, vehicles, houses and things.

Each function takes (rng, colour) and returns a Part with the front towards +Z; size and
place do not matter, `objects.make_object` normalises.
"""

import numpy as np

from vsd_jax.toybox.parts import (
    RGB,
    Part,
    box,
    cylinder,
    ellipsoid,
    join,
    mirror,
    move,
    prism,
    revolve,
    rod,
    torus,
    tube,
    turn,
)

WHITE, CREAM = (0.95, 0.95, 0.93), (0.93, 0.88, 0.76)
GREY, DARK, BLACK = (0.66, 0.67, 0.70), (0.24, 0.24, 0.27), (0.09, 0.09, 0.10)
WOOD, GLASS, LIGHT = (0.72, 0.56, 0.38), (0.60, 0.78, 0.88), (1.0, 0.96, 0.75)


def rocket(rng: np.random.Generator, colour: RGB) -> Part:
    """White or coloured hull, coloured nose, fins and band."""
    radius, height = rng.uniform(0.17, 0.23), rng.uniform(0.85, 1.1)
    hull = colour if rng.random() < 0.4 else WHITE
    trim = WHITE if hull is colour else colour
    bulge = rng.uniform(1.0, 1.2)
    profile = [
        (0.0, 0.0),
        (0.75 * radius, 0.0),
        (bulge * radius, 0.35 * height),
        (radius, 0.7 * height),
    ]
    nose_height = rng.uniform(0.25, 0.4)
    nose = [(radius, 0.0), (0.62 * radius, 0.55 * nose_height), (0.0, nose_height)]
    pieces = [
        revolve(profile, hull),
        move(revolve(nose, colour), (0.0, 0.7 * height, 0.0)),
        cylinder(0.6 * radius, 0.1, (0.0, -0.05, 0.0), DARK, top=0.45 * radius),
        torus(1.05 * radius, 0.03, (0, 0.68 * height, 0), trim),
    ]
    number, reach = int(rng.choice([3, 4])), rng.uniform(0.2, 0.32)
    fin = [(0.0, 0.0), (reach, -0.14), (reach, 0.06), (0.0, 0.32)]
    for k in range(number):
        blade = move(prism(fin, 0.05, colour), (0.7 * radius, 0.0, 0.0))
        pieces.append(turn(blade, "y", 360.0 * k / number + 45.0))
    for k in range(int(rng.integers(1, 3))):
        at = (0.0, (0.52 - 0.2 * k) * height, 0.98 * radius)
        pieces += [ellipsoid((0.085, 0.085, 0.05), at, DARK, segments=12)]
        pieces += [ellipsoid((0.06, 0.06, 0.06), at, GLASS, segments=12)]
    return join(*pieces)


def table(rng: np.random.Generator, colour: RGB) -> Part:
    """A coloured top, round or square, on four legs or one."""
    height, thick = rng.uniform(0.5, 0.75), rng.uniform(0.06, 0.1)
    wide, deep = rng.uniform(0.85, 1.2), rng.uniform(0.65, 0.9)
    if rng.random() < 0.35:
        radius = 0.5 * wide
        foot = cylinder(0.45 * radius, 0.06, (0, 0.03, 0), colour, top=0.2 * radius)
        stem = cylinder(0.09, height, (0, height / 2, 0), colour)
        plate = cylinder(radius, thick, (0, height, 0), colour, segments=28)
        return join(plate, stem, foot)
    pieces = [box((wide, thick, deep), (0, height, 0), colour)]
    leg, inset = rng.uniform(0.07, 0.11), rng.uniform(0.0, 0.06)
    for sx in (-1, 1):
        for sz in (-1, 1):
            at = (
                sx * (wide / 2 - leg / 2 - inset),
                height / 2,
                sz * (deep / 2 - leg / 2 - inset),
            )
            pieces.append(box((leg, height, leg), at, colour, taper=1.25))
    if rng.random() < 0.4:
        pieces.append(box((0.8 * wide, 0.05, 0.8 * deep), (0, 0.3 * height, 0), WOOD))
    return join(*pieces)


def chair(rng: np.random.Generator, colour: RGB) -> Part:
    """Seat, four legs and a back at -Z, so that it opens to the front."""
    wide, deep, seat = rng.uniform(0.5, 0.62), rng.uniform(0.48, 0.58), 0.46
    back, leg = rng.uniform(0.55, 0.75), rng.uniform(0.055, 0.085)
    pieces = [box((wide, 0.08, deep), (0, seat, 0), colour)]
    for sx in (-1, 1):
        for sz in (-1, 1):
            at = (sx * (wide - leg) / 2, seat / 2, sz * (deep - leg) / 2)
            pieces.append(box((leg, seat, leg), at, colour))
    rear = -(deep - 0.07) / 2
    if rng.random() < 0.5:
        pieces.append(box((wide, back, 0.07), (0, seat + back / 2, rear), colour))
    else:
        for sx in (-1, 1):
            at = (sx * (wide - leg) / 2, seat + back / 2, rear)
            pieces.append(box((leg, back, 0.06), at, colour))
        for k in range(3):
            at = (0, seat + back * (0.35 + 0.3 * k), rear)
            pieces.append(box((wide, 0.13, 0.05), at, colour))
    if rng.random() < 0.35:
        cushion = (0.88 * wide, 0.07, 0.85 * deep)
        pieces.append(box(cushion, (0, seat + 0.06, 0.02), CREAM, taper=0.9))
    if rng.random() < 0.35:
        for sx in (-1, 1):
            x = sx * (wide / 2 - 0.03)
            pieces.append(box((0.06, 0.05, deep), (x, seat + 0.25, 0), colour))
            pieces.append(box((0.05, 0.25, 0.05), (x, seat + 0.13, 0.2), colour))
    return join(*pieces)


def house(rng: np.random.Generator, colour: RGB) -> Part:
    """Pale walls, a coloured roof and door, windows, a chimney."""
    wide, deep, high = rng.uniform(0.7, 0.95), rng.uniform(0.6, 0.8), 0.5
    wall = (CREAM, WHITE)[rng.integers(2)]
    rise, over = rng.uniform(0.3, 0.5), 0.07
    pieces = [box((wide, high, deep), (0, high / 2, 0), wall)]
    if rng.random() < 0.6:
        gable = [(-wide / 2, 0.0), (wide / 2, 0.0), (0.0, rise)]
        pieces.append(move(prism(gable, deep, wall), (0, high, 0)))
        slope = float(np.degrees(np.arctan2(rise, wide / 2)))
        length = float(np.hypot(rise, wide / 2)) + 2 * over
        for sx in (-1, 1):
            slab = box((length, 0.07, deep + 2 * over), (0, 0, 0), colour)
            slab = turn(slab, "z", -sx * slope)
            pieces.append(move(slab, (sx * wide / 4, high + rise / 2 + 0.03, 0)))
    else:
        roof = (wide + 2 * over, rise, deep + 2 * over)
        top = (rng.uniform(0.02, 0.45), 0.05)
        pieces.append(box(roof, (0, high + rise / 2, 0), colour, taper=top))
    front, side = deep / 2, rng.choice([-1.0, 1.0]) * rng.choice([0.0, 0.2])
    pieces.append(box((0.19, 0.33, 0.04), (side, 0.165, front), colour))
    for x in (-0.27, 0.27):
        if abs(x - side) > 0.2:
            pieces.append(box((0.19, 0.19, 0.03), (x, 0.3, front), DARK))
            pieces.append(box((0.15, 0.15, 0.04), (x, 0.3, front), GLASS))
    for sx in (-1, 1):
        pieces.append(box((0.03, 0.17, 0.2), (sx * wide / 2, 0.3, 0), DARK))
    at = (rng.choice([-1, 1]) * 0.25 * wide, high + 0.75 * rise, -0.15)
    pieces.append(box((0.12, 0.36, 0.12), at, GREY))
    return join(*pieces)


def car(rng: np.random.Generator, colour: RGB) -> Part:
    """Body along Z with the bonnet, headlights and grille in front."""
    length, wide = rng.uniform(1.0, 1.2), rng.uniform(0.5, 0.58)
    cabin, roof = rng.uniform(0.45, 0.62) * length, rng.uniform(0.2, 0.27)
    shift = -rng.uniform(0.05, 0.14) * length
    body = box((wide, 0.22, length), (0, 0.26, 0), colour, taper=(0.94, 0.97))
    glass = box((0.9 * wide, roof, cabin), (0, 0.36 + roof / 2, shift), GLASS)
    top = box(
        (0.86 * wide, 0.06, 0.8 * cabin), (0, 0.36 + roof, shift), colour, taper=0.93
    )
    posts = [
        box((0.92 * wide, roof, 0.05), (0, 0.36 + roof / 2, shift + z), colour)
        for z in (-0.45 * cabin, 0.0)
    ]
    radius = rng.uniform(0.13, 0.16)
    wheel = join(
        turn(cylinder(radius, 0.1, (0, 0, 0), BLACK), "z", 90),
        turn(cylinder(0.5 * radius, 0.12, (0, 0, 0), GREY), "z", 90),
    )
    wheels = [
        move(wheel, (sx * wide / 2, radius, sz * 0.31 * length))
        for sx in (-1, 1)
        for sz in (-1, 1)
    ]
    nose, pieces = length / 2, []
    for sx in (-1, 1):
        lamp = (sx * 0.33 * wide, 0.29, nose - 0.01)
        pieces.append(ellipsoid((0.06, 0.06, 0.04), lamp, LIGHT, segments=12))
        rear = (sx * 0.34 * wide, 0.3, -nose + 0.01)
        pieces.append(box((0.1, 0.06, 0.03), rear, DARK))
    pieces.append(box((0.4 * wide, 0.08, 0.04), (0, 0.25, nose), DARK))
    pieces.append(box((wide, 0.06, 0.05), (0, 0.17, nose), GREY))
    pieces.append(box((wide, 0.06, 0.05), (0, 0.17, -nose), GREY))
    return join(body, glass, top, *posts, *wheels, *pieces)


def boat(rng: np.random.Generator, colour: RGB) -> Part:
    """Coloured hull with its bow towards +Z; a sail or a cabin (built facing -Z)."""
    length, wide, high = rng.uniform(1.0, 1.2), rng.uniform(0.38, 0.48), 0.26
    outline = np.array(
        [(0, 0.5), (0.32, 0.3), (0.5, 0.0), (0.46, -0.5), (-0.46, -0.5), (-0.5, 0.0)]
        + [(-0.32, 0.3)]
    ) * [wide, length]
    hull = turn(move(prism(outline * [1, -1], high, colour), (0, 0, high / 2)), "x", 90)
    hull = _flare(hull, 0.62)
    deck = turn(prism(outline * [0.85, -0.88], 0.03, WOOD), "x", 90)
    rim = turn(prism(outline * [1.04, -1.03], 0.05, colour), "x", 90)
    pieces = [hull, move(rim, (0, -0.03, 0)), move(deck, (0, 0.005, 0))]
    if rng.random() < 0.5:
        mast = rng.uniform(0.75, 0.95)
        pieces.append(rod((0, 0, 0.08), (0, mast, 0.08), 0.022, WOOD))
        sail = [(0.0, 0.0), (0.55 * length, 0.0), (0.0, 0.85 * mast)]
        cloth = turn(prism(sail, 0.03, colour), "y", 90)
        pieces.append(move(cloth, (0, 0.1, 0.05)))
        jib = [(0.0, 0.0), (0.0, 0.7 * mast), (-0.32 * length, 0.0)]
        pieces.append(move(turn(prism(jib, 0.03, WHITE), "y", 90), (0, 0.1, 0.11)))
    else:
        pieces.append(box((0.26, 0.22, 0.36), (0, 0.11, -0.1), WHITE))
        pieces.append(box((0.27, 0.09, 0.02), (0, 0.13, 0.08), GLASS))
        pieces.append(box((0.3, 0.04, 0.4), (0, 0.23, -0.1), colour))
        pieces.append(cylinder(0.06, 0.24, (0, 0.35, -0.18), colour))
        pieces.append(cylinder(0.063, 0.05, (0, 0.44, -0.18), BLACK))
    return turn(join(*pieces), "y", 180)


def _flare(part: Part, narrow: float) -> Part:
    """Narrows a part downwards, to `narrow` of its width at the lowest point."""
    triangles = part.triangles.copy()
    low = triangles[..., 1].min()
    share = 1.0 - (1.0 - narrow) * triangles[..., 1] / low
    triangles[..., 0] *= share
    triangles[..., 2] *= 0.5 * (1.0 + share)
    return part._replace(triangles=triangles)


def mug(rng: np.random.Generator, colour: RGB) -> Part:
    """A coloured cup with a handle on +X, full of something dark or pale."""
    radius, height = rng.uniform(0.36, 0.45), rng.uniform(0.75, 0.95)
    lower, wall = radius * rng.uniform(0.82, 1.0), 0.06
    outside = [
        (0, 0),
        (lower, 0),
        (radius, height),
        (radius - wall, height),
        (radius - wall - 0.01, 0.86 * height),
    ]
    fill = ((0.30, 0.17, 0.10), CREAM)[rng.integers(2)]
    drink = cylinder(radius - wall, 0.02, (0, 0.86 * height, 0), fill, segments=24)
    angle = np.radians(np.linspace(-80, 80, 13))
    reach, tall = rng.uniform(0.24, 0.32), rng.uniform(0.24, 0.3)
    x = radius * 0.9 + reach * np.cos(angle)
    path = np.stack([x, 0.5 * height + tall * np.sin(angle), 0 * x], -1)
    pieces = [revolve(outside, colour, segments=28), drink, tube(path, 0.055, colour)]
    if rng.random() < 0.4:
        band = 0.5 * (lower + radius) + 0.006
        pieces.append(cylinder(band, 0.1, (0, 0.5 * height, 0), WHITE, segments=28))
    return join(*pieces)


def lamp(rng: np.random.Generator, colour: RGB) -> Part:
    """A table lamp: coloured shade and foot, a thin stem."""
    height, shade = rng.uniform(0.55, 0.75), rng.uniform(0.32, 0.42)
    upper, tall = shade * rng.uniform(0.45, 0.75), rng.uniform(0.34, 0.46)
    cover = [
        (0.25 * upper, height + tall * 0.98),
        (shade - 0.03, height + 0.01),
        (shade, height),
        (upper, height + tall),
        (0.0, height + tall),
    ]
    foot = rng.uniform(0.2, 0.28)
    pieces = [
        revolve(cover[2:], colour, segments=24),
        cylinder(shade - 0.02, 0.02, (0, height + 0.01, 0), LIGHT, segments=24),
        torus(shade, 0.02, (0, height, 0), WHITE),
        rod((0, 0, 0), (0, height, 0), 0.035, GREY),
    ]
    if rng.random() < 0.5:
        pieces.append(ellipsoid((foot, 0.2, foot), (0, 0.18, 0), colour))
        pieces.append(cylinder(0.8 * foot, 0.05, (0, 0.02, 0), GREY))
    else:
        pieces.append(cylinder(foot, 0.09, (0, 0.045, 0), colour, top=0.75 * foot))
    pieces.append(ellipsoid(0.045, (0, height + tall + 0.03, 0), GREY, segments=10))
    return join(*pieces)


def robot(rng: np.random.Generator, colour: RGB) -> Part:
    """Coloured body with a panel, grey limbs, a head with eyes in front."""
    wide, deep, high = rng.uniform(0.42, 0.56), rng.uniform(0.28, 0.36), 0.5
    leg, steel = rng.uniform(0.28, 0.36), GREY
    body = box((wide, high, deep), (0, leg + high / 2, 0), colour, taper=1.12)
    panel = box((0.5 * wide, 0.2, 0.04), (0, leg + 0.28, deep / 2 + 0.02), WHITE)
    pieces = [body, panel]
    for k, light in enumerate((BLACK, GREY, BLACK)):
        at = ((k - 1) * 0.07, leg + 0.28, deep / 2 + 0.04)
        pieces.append(ellipsoid(0.026, at, light, segments=8))
    side = mirror
    arm_x, shoulder = wide / 2 + 0.12, leg + 0.42
    limb = join(
        rod((arm_x, shoulder, 0), (arm_x, leg + 0.08, 0.06), 0.06, steel),
        ellipsoid(0.09, (arm_x, shoulder, 0), colour, segments=12),
        ellipsoid(0.08, (arm_x, leg + 0.04, 0.07), colour, segments=12),
        box((0.15, leg, 0.16), (0.14, leg / 2, 0), steel),
        box((0.18, 0.09, 0.26), (0.14, 0.045, 0.05), DARK),
    )
    head, base = rng.uniform(0.26, 0.32), leg + high
    centre = (0, base + 0.06 + head / 2, 0)
    skull = box(
        (1.25 * head, head, head), centre, colour if rng.random() < 0.5 else steel
    )
    eyes = rng.uniform(0.055, 0.075)
    for sx in (-1, 1):
        at = np.array([sx * 0.3 * head, centre[1] + 0.1 * head, head / 2])
        pieces.append(ellipsoid((eyes, eyes, 0.03), at, WHITE, segments=12))
        pieces.append(ellipsoid((0.5 * eyes, 0.5 * eyes, 0.045), at, BLACK, segments=8))
    mouth = (0, centre[1] - 0.25 * head, head / 2)
    pieces.append(box((0.6 * head, 0.04, 0.03), mouth, BLACK))
    pieces.append(rod((0, base, 0), (0, base + 0.1, 0), 0.06, steel))
    tip = base + 0.06 + head + rng.uniform(0.08, 0.16)
    pieces.append(rod((0, base + head, 0), (0, tip, 0), 0.018, DARK))
    pieces.append(ellipsoid(0.045, (0, tip, 0), colour, segments=10))
    return join(skull, limb, side(limb), *pieces)
