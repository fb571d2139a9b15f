# SPDX-License-Identifier: Apache-2.0
"""Toybox kinds that grow, live, melt or are eaten.

Each function takes (rng, colour) and returns a Part with the front towards +Z; size and
place do not matter, `objects.make_object` normalises.
"""

import numpy as np

from vsd_jax.toybox.parts import (
    RGB,
    Part,
    cylinder,
    ellipsoid,
    join,
    mirror,
    move,
    revolve,
    rod,
    stretch,
    surface,
    torus,
    turn,
)

WHITE, CREAM = (0.96, 0.96, 0.95), (0.94, 0.89, 0.78)
SNOW, COAL, CARROT = (0.93, 0.94, 0.97), (0.10, 0.10, 0.11), (0.85, 0.45, 0.15)
BARK, DOUGH, SPONGE = (0.45, 0.33, 0.22), (0.83, 0.63, 0.38), (0.93, 0.84, 0.66)
MUZZLE, BEAK = (0.90, 0.80, 0.66), (0.92, 0.62, 0.20)


def mushroom(rng: np.random.Generator, colour: RGB) -> Part:
    """A coloured cap with white dots on a pale stem."""
    cap, high = rng.uniform(0.42, 0.56), rng.uniform(0.26, 0.44)
    stem, tall = rng.uniform(0.11, 0.17), rng.uniform(0.4, 0.6)
    power = rng.uniform(0.75, 1.25)
    angle = np.radians(np.linspace(0, 90, 9))
    dome = np.stack([cap * np.cos(angle) ** power, high * np.sin(angle)], -1)
    rim = [(0.0, 0.03), (0.75 * cap, 0.0), (0.97 * cap, -0.03)]
    top = move(revolve(np.concatenate([rim, dome]), colour, segments=26), (0, tall, 0))
    below = [
        (0.0, 0.0),
        (stem * 1.35, 0.0),
        (stem, 0.4 * tall),
        (0.9 * stem, 1.05 * tall),
    ]
    pieces = [top, revolve([*below, (0.0, 1.05 * tall)], CREAM)]
    pieces.append(cylinder(0.8 * cap, 0.02, (0, tall - 0.005, 0), CREAM, segments=24))
    if rng.random() < 0.4:
        pieces.append(torus(stem * 1.15, 0.035, (0, 0.72 * tall, 0), WHITE))
    turns = rng.uniform(0, 360)
    for k in range(int(rng.integers(6, 10))):
        up = np.radians(rng.choice([22.0, 45.0]) + rng.uniform(-6, 6))
        at = (0.0, tall + high * np.sin(up), cap * np.cos(up) ** power)
        dot = rng.uniform(0.045, 0.07)
        spot = ellipsoid((dot, dot, 0.5 * dot), at, WHITE, segments=10)
        pieces.append(turn(spot, "y", turns + 137.5 * k))
    return join(*pieces, ellipsoid((0.07, 0.03, 0.07), (0, tall + high, 0), WHITE))


def snowman(rng: np.random.Generator, colour: RGB) -> Part:
    """Two or three balls, carrot nose, coal eyes, buttons; coloured hat and scarf."""
    low, head = rng.uniform(0.34, 0.42), rng.uniform(0.2, 0.24)
    y, front = 0.9 * low, low
    pieces = [ellipsoid(low, (0, y, 0), SNOW, segments=20)]
    if rng.random() < 0.7:
        middle = rng.uniform(0.26, 0.3)
        y, front = y + 0.75 * low + 0.6 * middle, middle
        pieces.append(ellipsoid(middle, (0, y, 0), SNOW, segments=20))
    for k in (-1, 0, 1):
        at = np.array([0, y + 0.1 * k * (front / 0.3), 0])
        at[2] = np.sqrt(front**2 - (at[1] - y) ** 2)
        pieces.append(ellipsoid(0.04, at, COAL, segments=8))
    for sx in (-1, 1):
        start, end = (
            (sx * 0.85 * front, y + 0.05, 0),
            (sx * (front + 0.28), y + 0.22, 0.05),
        )
        pieces.append(rod(start, end, 0.022, BARK))
    neck = y + 0.8 * front
    y = y + 0.75 * front + 0.7 * head
    pieces.append(ellipsoid(head, (0, y, 0), SNOW, segments=18))
    for sx in (-1, 1):
        at = (sx * 0.38 * head, y + 0.28 * head, 0.86 * head)
        pieces.append(ellipsoid(0.036, at, COAL, segments=8))
    nose = (0, y, 0.95 * head + rng.uniform(0.14, 0.22))
    pieces.append(rod((0, y, 0.85 * head), nose, 0.05, CARROT, radius_end=0.012))
    pieces.append(torus(0.85 * head, 0.07, (0, neck, 0), colour))
    tail = rod((0.1, neck, head), (0.15, neck - 0.25, front + 0.03), 0.055, colour)
    pieces.append(tail)
    top = y + 0.72 * head
    if rng.random() < 0.5:
        pieces.append(cylinder(1.2 * head, 0.04, (0, top, 0), colour))
        tall = rng.uniform(0.2, 0.3)
        pieces.append(cylinder(0.78 * head, tall, (0, top + tall / 2, 0), colour))
    else:
        cap = ellipsoid((1.06 * head, 0.75 * head, 1.06 * head), (0, 0, 0), colour)
        pieces.append(move(cap, (0, top - 0.1 * head, 0)))
        pieces.append(ellipsoid(0.075, (0, top + 0.68 * head, 0), colour, segments=10))
    return join(*pieces)


def tree(rng: np.random.Generator, colour: RGB) -> Part:
    """A trunk with coloured leaves: stacked cones, one ball or a cloud of balls."""
    trunk, tall = rng.uniform(0.07, 0.11), rng.uniform(0.32, 0.5)
    pieces = [cylinder(1.2 * trunk, tall, (0, tall / 2, 0), BARK, top=trunk)]
    style = rng.integers(3)
    if style == 0:
        radius, y = rng.uniform(0.38, 0.48), tall - 0.06
        for _ in range(int(rng.integers(2, 5))):
            high = rng.uniform(0.34, 0.42)
            turned = rng.uniform(0, 360)
            pieces.append(
                move(turn(_star(radius, high, colour), "y", turned), (0, y, 0))
            )
            y, radius = y + 0.58 * high, 0.78 * radius
    elif style == 1:
        wide, high = rng.uniform(0.36, 0.46), rng.uniform(0.36, 0.52)
        pieces.append(ellipsoid((wide, high, wide), (0, tall + 0.8 * high, 0), colour))
        for k in range(5):
            at = (0, tall + rng.uniform(0.5, 0.9) * high, 0.85 * wide)
            tuft = ellipsoid(0.36 * wide, at, colour, segments=12)
            pieces.append(turn(tuft, "y", 72.0 * k + rng.uniform(-9, 9)))
    else:
        pieces.append(ellipsoid(0.34, (0, tall + 0.32, 0), colour))
        for k in range(int(rng.integers(4, 7))):
            at = (0.26, tall + 0.32 + rng.uniform(-0.16, 0.22), 0.0)
            ball = ellipsoid(rng.uniform(0.18, 0.25), at, colour, segments=14)
            pieces.append(turn(ball, "y", 137.5 * k + rng.uniform(0, 40)))
    return join(*pieces)


def _star(radius: float, high: float, colour: RGB, points: int = 8) -> Part:
    """A fir's layer: a cone whose rim is a star."""
    around = np.arange(2 * points) * (np.pi / points)
    reach = radius * np.where(np.arange(2 * points) % 2, 0.66, 1.0)
    rings = [(0.0, 0.06), (1.0, 0.0), (1.0, 0.03), (0.0, high)]
    layers = [
        np.stack(
            [
                s * reach * np.sin(around),
                np.full_like(around, y),
                s * reach * np.cos(around),
            ],
            -1,
        )
        for s, y in rings
    ]
    return surface(np.stack(layers), colour, closed=True)


def donut(rng: np.random.Generator, colour: RGB) -> Part:
    """Dough with coloured icing that runs over its edge, and sprinkles."""
    ring, thick = rng.uniform(0.42, 0.5), rng.uniform(0.18, 0.23)
    flat = rng.uniform(0.75, 0.95)
    base = torus(ring, (thick, thick * flat), (0, 0, 0), DOUGH, segments=32)
    columns, rows = 36, 10
    around = np.arange(columns) * (2 * np.pi / columns)
    waves = int(rng.integers(5, 9))
    drip = np.radians(14) * np.cos(waves * around + rng.uniform(0, 6)) - np.radians(22)
    share = np.linspace(0, 1, rows)[:, None]
    angle = drip * (1 - share) + (np.pi - drip) * share
    out = 1.09 * thick
    radius, y = ring + out * np.cos(angle), flat * out * np.sin(angle)
    points = np.stack([radius * np.sin(around), y, radius * np.cos(around)], -1)
    pieces = [base, surface(points, colour, closed=True)]
    if rng.random() < 0.75:
        for k in range(int(rng.integers(10, 18))):
            up = np.radians(rng.uniform(40, 140))
            at = (0, flat * out * np.sin(up), ring + out * np.cos(up))
            bit = rod((-0.035, 0, 0), (0.035, 0, 0), 0.02, WHITE, segments=6)
            bit = move(turn(bit, "y", rng.uniform(0, 180)), at)
            pieces.append(turn(bit, "y", 137.5 * k))
    return join(*pieces)


def duck(rng: np.random.Generator, colour: RGB) -> Part:
    """A bath duck: coloured body and head, beak and eyes in front, tail behind."""
    body, head = rng.uniform(0.36, 0.42), rng.uniform(0.23, 0.28)
    long = rng.uniform(1.15, 1.35)
    shape = ellipsoid((0.92 * body, 0.72 * body, long * body), (0, 0, 0), colour)
    tail = rod(
        (0, 0.1, -0.8 * long * body),
        (0, 0.42, -1.25 * long * body),
        0.16,
        colour,
        radius_end=0.04,
    )
    at = np.array([0, 0.6 * body + 0.75 * head, 0.55 * long * body])
    pieces = [shape, tail, ellipsoid(head, at, colour)]
    pieces.append(rod((0, 0.2 * body, 0.4 * body), at, 0.75 * head, colour))
    beak = (0.5 * head, 0.2 * head, 0.5 * head)
    pieces.append(ellipsoid(beak, at + [0, -0.15 * head, 1.05 * head], BEAK))
    for sx in (-1, 1):
        eye = at + head * np.array([sx * 0.55, 0.35, 0.74])
        pieces.append(ellipsoid(0.055, eye, WHITE, segments=10))
        pieces.append(ellipsoid(0.035, eye + [sx * 0.012, 0.0, 0.03], COAL, segments=8))
        wing = ellipsoid((0.1, 0.6 * body, long * 0.6 * body), (0, 0, 0), colour)
        wing = turn(stretch(wing, (1, 0.7, 1)), "x", 18)
        pieces.append(move(wing, (sx * 0.9 * body, 0.08, -0.08)))
    if rng.random() < 0.3:
        pieces.append(torus(0.8 * head, 0.05, at - [0, 0.8 * head, 0.05], WHITE))
    return join(*pieces)


def bear(rng: np.random.Generator, colour: RGB) -> Part:
    """A sitting teddy: coloured fur, pale muzzle, belly and paws in front."""
    belly, head = rng.uniform(0.32, 0.38), rng.uniform(0.27, 0.32)
    up = 0.85 * belly + 0.85 * head
    face = np.array([0, up, 0.06])
    pieces = [
        ellipsoid((belly, 1.1 * belly, 0.9 * belly), (0, 0, 0), colour),
        ellipsoid((0.66 * belly, 0.75 * belly, 0.3), (0, -0.02, 0.66 * belly), MUZZLE),
        ellipsoid((1.05 * head, head, head), face, colour),
        ellipsoid(
            (0.46 * head, 0.36 * head, 0.4 * head),
            face + [0, -0.22 * head, 0.8 * head],
            MUZZLE,
        ),
        ellipsoid(
            (0.17 * head, 0.13 * head, 0.12), face + [0, -0.08 * head, 1.1 * head], COAL
        ),
        ellipsoid(0.1, (0, -0.5 * belly, -0.85 * belly), colour, segments=12),
    ]
    ear, wide = rng.uniform(0.11, 0.14), rng.uniform(0.7, 0.82)
    arm = rng.uniform(-0.15, 0.2)
    half = join(
        ellipsoid((ear, ear, 0.07), face + head * np.array([wide, 0.78, -0.1]), colour),
        ellipsoid(
            (0.6 * ear, 0.6 * ear, 0.05),
            face + head * np.array([wide, 0.78, 0.05]),
            MUZZLE,
            segments=10,
        ),
        ellipsoid(0.042, face + head * np.array([0.38, 0.2, 0.9]), COAL, segments=8),
        rod(
            (0.8 * belly, 0.5 * belly, 0.05),
            (1.3 * belly, arm, 0.25),
            0.11,
            colour,
            radius_end=0.12,
        ),
        rod(
            (0.55 * belly, -0.75 * belly, 0.1),
            (0.8 * belly, -0.85 * belly, 0.5),
            0.14,
            colour,
        ),
        ellipsoid((0.1, 0.1, 0.04), (0.82 * belly, -0.83 * belly, 0.62), MUZZLE),
    )
    return join(half, mirror(half), *pieces)


def cake(rng: np.random.Generator, colour: RGB) -> Part:
    """Round tiers of sponge with coloured icing, cream dots and candles."""
    radius, high = rng.uniform(0.45, 0.52), rng.uniform(0.26, 0.36)
    tiers, y, pieces = int(rng.integers(1, 4)), 0.0, []
    pieces.append(cylinder(1.25 * radius, 0.04, (0, -0.02, 0), WHITE, segments=28))
    for _ in range(tiers):
        pieces.append(cylinder(radius, high, (0, y + high / 2, 0), SPONGE, segments=28))
        icing = [
            (0, 0.42 * high),
            (1.035 * radius, 0.42 * high),
            (1.035 * radius, 1.02 * high),
            (0.96 * radius, 1.1 * high),
            (0, 1.1 * high),
        ]
        pieces.append(move(revolve(icing, colour, segments=28), (0, y, 0)))
        dots = 12 if radius > 0.35 else 8
        for k in range(dots):
            cream = ellipsoid(0.05, (0, y + 0.03, 1.03 * radius), WHITE, segments=8)
            pieces.append(turn(cream, "y", 360.0 * k / dots))
            if k % 2 == 0:
                cream = ellipsoid(
                    0.055, (0, y + 1.1 * high, 0.82 * radius), WHITE, segments=8
                )
                pieces.append(turn(cream, "y", 360.0 * k / dots))
        y, radius, high = y + 1.1 * high, 0.68 * radius, 0.85 * high
    spread, number = 0.75 * radius / 0.68 * 0.6, int(rng.integers(1, 6))
    for k in range(number):
        stick = cylinder(0.03, 0.2, (0, y + 0.1, 0), WHITE, segments=8)
        flame = ellipsoid((0.03, 0.06, 0.03), (0, y + 0.24, 0), BEAK, segments=8)
        candle = join(stick, flame)
        if number > 1:
            candle = turn(move(candle, (0, 0, spread)), "y", 360.0 * k / number)
        pieces.append(candle)
    return join(*pieces)
