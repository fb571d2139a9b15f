# SPDX-License-Identifier: Apache-2.0
"""Toybox kinds that people make: furniture, houses, things and robots.

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


def table(rng: np.random.Generator, colour: RGB) -> Part:
    """A coloured top, round or square, on four legs or one."""
    height, thick = rng.uniform(0.5, 0.75), rng.uniform(0.06, 0.1)
    wide, deep = rng.uniform(0.85, 1.2), rng.uniform(0.65, 0.9)
    if rng.random() < 0.35:
        radius = 0.5 * wide
        foot = cylinder(0.45 * radius, 0.06, (0, 0.03, 0), colour, top=0.2 * radius)
        stem = cylinder(0.09, height, (0, height / 2, 0), colour)
        plate = cylinder(radius, thick, (0, height, 0), colour, segments=28)
        rim = height + thick / 2
        return join(plate, stem, foot, *_planks(radius, rim, round_top=True))
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
    rim = height + thick / 2
    return join(*pieces, *_planks(0.5 * deep, rim, 0.5 * wide))


def _planks(reach, y, half_length=0.0, *, round_top=False) -> list[Part]:
    """Dark joints along X on a table's top: they tell it from above."""
    strips = []
    for share in (-0.5, 0.0, 0.5):
        half = reach * np.sqrt(1 - share**2) if round_top else half_length
        size = (1.96 * half, 0.012, 0.05 * reach + 0.01)
        strips.append(box(size, (0.0, y, share * reach), DARK))
    return strips


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
    glow = (0, height + tall, 0)
    pieces = [
        revolve(cover[2:], colour, segments=24),
        cylinder(0.8 * upper, 0.02, glow, LIGHT, segments=24),
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
