# SPDX-License-Identifier: Apache-2.0
"""Mushroom, donut, mug and cake.

Each function draws one object of its kind: (generator, RGB of the named colour) ->
`Part` in units of its own. The named colour shows from every side and from above.
"""

import numpy as np

from vsd_jax.toybox import parts
from vsd_jax.toybox.palette import BEIGE, CREAM, DARK, GLOW, RGB, SILVER, WHITE, dim, tint
from vsd_jax.toybox.parts import Part


def mushroom(rng: np.random.Generator, colour: RGB) -> Part:
    """A spotted cap on a pale stem, sometimes with a small one at its foot."""
    pieces = [_one_mushroom(rng, colour)]
    if rng.random() < 0.3:
        small = parts.stretch(_one_mushroom(rng, colour), rng.uniform(0.35, 0.45))
        angle = rng.uniform(0, 2 * np.pi)
        offset = np.array([np.sin(angle), 0.0, np.cos(angle)]) * rng.uniform(0.6, 0.75)
        pieces.append(parts.move(small, offset))
    return parts.join(*pieces)


def _one_mushroom(rng: np.random.Generator, colour: RGB) -> Part:
    stem_height = rng.uniform(0.7, 1.2)
    stem = rng.uniform(0.22, 0.34)
    cap_height = rng.uniform(0.6, 1.1)
    power = rng.choice([0.75, 1.0, 1.35])
    angle = np.radians(np.linspace(0, 90, 10))
    radius, height = np.cos(angle) ** power, cap_height * np.sin(angle)
    rim = [(0.86, -0.10), (0.97, -0.07)]
    cap_profile = np.concatenate([rim, np.stack([radius, height], -1)])
    cap = parts.revolve(cap_profile, colour, segments=26)
    gills = parts.revolve([(0, 0.06), (0.86, -0.10)], BEIGE, segments=26)
    pieces = [parts.move(p, (0, stem_height, 0)) for p in (cap, gills)]
    pieces.append(
        parts.revolve(
            [
                (0, 0),
                (stem * 1.25, 0),
                (stem * 1.35, 0.1 * stem_height),
                (stem, 0.55 * stem_height),
                (stem * 0.95, stem_height + 0.05),
            ],
            CREAM,
        )
    )
    if rng.random() < 0.5:
        skirt = [(stem * 1.7, -0.12), (stem * 1.6, -0.08), (stem * 0.9, 0.06)]
        skirt = parts.revolve(skirt, WHITE)
        pieces.append(parts.move(skirt, (0, 0.72 * stem_height, 0)))
    pieces += _cap_spots(rng, radius, height + stem_height)
    return parts.join(*pieces)


def _cap_spots(rng, radius, height) -> list[Part]:
    """White studs on a cap whose profile is (radius, height) from rim to top."""
    spots = []
    offset = rng.uniform(0, 360)
    rows = [(2.0, rng.integers(5, 8)), (5.2, rng.integers(3, 5))]
    places = [(8.9, 0.0)]
    for row, count in rows:
        for k in range(count):
            azimuth = offset + 37 * row + 360 * (k + rng.uniform(-0.15, 0.15)) / count
            places.append((row + rng.uniform(-0.7, 0.7), azimuth))
    index = np.arange(len(radius))
    for place, azimuth in places:
        r, y = np.interp(place, index, radius), np.interp(place, index, height)
        slope_r = np.interp(place + 0.3, index, radius) - r
        slope_y = np.interp(place + 0.3, index, height) - y
        size = rng.uniform(0.11, 0.19)
        stud = parts.ellipsoid((size, 0.05, size), (0, 0, 0), WHITE, segments=10)
        stud = parts.aim(stud, np.array([0.0, -slope_r, slope_y + 1e-6]))
        spots.append(parts.turn(parts.move(stud, (0, y, r)), "y", azimuth))
    return spots


def donut(rng: np.random.Generator, colour: RGB) -> Part:
    """A ring of dough with wavy icing and sprinkles, drizzle or sugar pearls."""
    thick = rng.uniform(0.30, 0.44)
    high = thick * rng.uniform(0.8, 1.05)
    pieces = [parts.torus(1.0, (thick, high), (0, 0, 0), BEIGE, segments=36)]
    azimuth = np.arange(36) * (2 * np.pi / 36)
    waves = rng.integers(5, 9)
    drip = 9 * np.sin(waves * azimuth + rng.uniform(0, 6)) + 6 * np.sin(
        (waves - 2) * azimuth + rng.uniform(0, 6)
    )
    edge = np.radians(-28.0 + drip)
    fraction = np.linspace(0, 1, 11)[:, None]
    angle = edge + fraction * (np.radians(205.0) - edge)
    swell = np.where((fraction == 0) | (fraction == 1), 0.99, 1.07)
    radius = 1.0 + thick * swell * np.cos(angle)
    icing = [radius * np.sin(azimuth), high * swell * np.sin(angle)]
    icing.append(radius * np.cos(azimuth))
    pieces.append(parts.surface(np.stack(icing, -1), colour, closed=True))
    style = rng.integers(3)
    count = (26, 7, 22)[style]
    for k in range(count):
        azimuth_deg = 360 * (k + rng.uniform(-0.3, 0.3)) / count
        if style == 1:
            piece = _drizzle(thick * 1.09, high * 1.09, rng.uniform(-6, 6))
        else:
            tilt = np.radians(rng.uniform(30, 150))
            piece = _sprinkle(rng, style)
            place = (1 + 1.08 * thick * np.cos(tilt), 1.08 * high * np.sin(tilt))
            piece = parts.turn(piece, "x", 90 - np.degrees(tilt))
            piece = parts.move(piece, (0, place[1], place[0]))
        pieces.append(parts.turn(piece, "y", azimuth_deg))
    return parts.join(*pieces)


def _sprinkle(rng: np.random.Generator, style: int) -> Part:
    if style == 2:
        return parts.ellipsoid(0.055, (0, 0, 0), WHITE, segments=8)
    shade = (WHITE, CREAM, tint(DARK, 0.12))[rng.integers(3)]
    piece = parts.rod((-0.05, 0, 0), (0.05, 0, 0), 0.032, shade, segments=6)
    return parts.turn(piece, "y", rng.uniform(0, 180))


def _drizzle(across: float, up: float, skew: float) -> Part:
    angle = np.radians(np.linspace(8, 172, 9))
    path = np.stack([0 * angle, up * np.sin(angle), 1 + across * np.cos(angle)], -1)
    path[:, 0] = 0.03 * skew * np.cos(angle)
    return parts.tube(path, 0.045, WHITE, segments=6)


def mug(rng: np.random.Generator, colour: RGB) -> Part:
    """A cup with a handle, filled with milk or cocoa, sometimes on a saucer."""
    height = rng.uniform(1.4, 2.0)
    bottom = rng.uniform(0.62, 0.85)
    belly = rng.choice([0.0, 0.0, 0.12])
    levels = np.linspace(0, 1, 7)
    wall = bottom + (0.85 - bottom) * levels + belly * np.sin(np.pi * levels)
    outside = np.stack([wall, levels * height], -1)
    inside = np.stack([wall - 0.15, 0.12 + levels * (height - 0.12)], -1)[::-1]
    cup = parts.revolve([(0, 0), *outside, *inside[:-1]], colour, segments=28)
    fill = (CREAM, (0.30, 0.24, 0.20))[rng.integers(2)]
    level = rng.uniform(0.70, 0.85)
    drink = np.interp(level, levels, wall) - 0.1
    drink = parts.cylinder(drink, 0.1, (0, level * height, 0), fill, segments=28)
    pieces = [cup, drink, _handle(rng, wall, height, colour)]
    if rng.random() < 0.5:
        pieces.append(_mug_pattern(rng, levels, wall, height))
    if rng.random() < 0.25:
        saucer = [(0, -0.12), (0.7, -0.12), (1.35, 0.08), (1.35, 0.13), (0.6, -0.02)]
        saucer.append((0, -0.02))
        pieces.append(parts.revolve(saucer, tint(colour, 0.15), segments=28))
    return parts.turn(parts.join(*pieces), "y", rng.uniform(-15, 15))


def _handle(rng, wall, height, colour) -> Part:
    low, high = 0.22, rng.uniform(0.76, 0.84)
    angle = np.radians(np.linspace(-90, 90, 13))
    if rng.random() < 0.25:
        angle = np.radians([-90, -62, -48, -20, 20, 48, 62, 90])
    reach = rng.uniform(0.45, 0.65)
    middle, half = (low + high) / 2 * height, (high - low) / 2 * height
    path = np.zeros((len(angle), 3))
    path[:, 0] = wall.mean() - 0.08 + reach * np.cos(angle) ** 0.7
    path[:, 1] = middle + half * np.sin(angle)
    return parts.tube(path, rng.uniform(0.1, 0.13), colour)


def _mug_pattern(rng, levels, wall, height) -> Part:
    """White rings or dots around the wall."""
    if rng.random() < 0.5:
        rings = []
        for level in (0.18, 0.30) if rng.random() < 0.5 else (0.5,):
            radius = np.interp(level, levels, wall) + 0.012
            centre = (0, level * height, 0)
            rings.append(parts.cylinder(radius, 0.11, centre, WHITE, segments=28))
        return parts.join(*rings)
    dots = []
    for k in range(7):
        dot = parts.ellipsoid((0.13, 0.13, 0.035), (0, 0, 0), WHITE, segments=10)
        level = 0.35 + 0.25 * (k % 2)
        radius = np.interp(level, levels, wall)
        dots.append(parts.turn(parts.move(dot, (0, level * height, radius)), "y", 45 * k + 68))
    return parts.join(*dots)


def cake(rng: np.random.Generator, colour: RGB) -> Part:
    """One to three tiers of coloured icing with cream, candles or a cherry, on a plate."""
    tiers = rng.integers(1, 4)
    height = (0.95, 0.7, 0.55)[tiers - 1] * rng.uniform(0.9, 1.15)
    plate = [(0, -0.14), (0.7, -0.14), (1.28, -0.05), (1.28, 0.0), (0, 0.0)]
    pieces = [parts.revolve(plate, SILVER, segments=28)]
    radius = 1.0
    for k in range(tiers):
        pieces.append(_tier(rng, radius, height, k * height, colour))
        if k < tiers - 1:
            radius *= rng.uniform(0.64, 0.72)
    top = tiers * height
    style = rng.integers(3) if tiers == 1 else rng.integers(2)
    if style == 0 or radius > 0.9:
        count = rng.integers(4, 8) if radius > 0.6 else 3
        for k in range(count):
            place = (0, top, radius * (0.5 if count > 3 else 0.35))
            candle = parts.move(_candle(rng), place)
            pieces.append(parts.turn(candle, "y", 360 * k / count))
    if style > 0:
        pieces.append(_topping(rng, top))
    return parts.join(*pieces)


def _tier(rng, radius, height, base, colour) -> Part:
    """A cylinder with soft edges; cream runs down from its rim or sits on it."""
    soft = 0.07
    profile = [(0, 0), (radius, 0), (radius, height - soft)]
    profile += [(radius - 0.3 * soft, height - 0.3 * soft), (radius - soft, height)]
    pieces = [parts.revolve([*profile, (0, height)], colour, segments=32)]
    if rng.random() < 0.5:
        count = round(13 * radius)
        for k in range(count):
            blob = parts.ellipsoid(0.13, (0, height + 0.02, radius - 0.13), WHITE, segments=10)
            pieces.append(parts.turn(blob, "y", 360 * k / count))
    else:
        azimuth = np.arange(32) * (2 * np.pi / 32)
        waves = rng.integers(5, 8)
        depth = height * (0.72 + 0.12 * np.sin(waves * azimuth + rng.uniform(0, 6)))
        rows = [(radius + 0.03, depth), (radius + 0.03, height), (radius - 0.06, height + 0.05)]
        rows.append((radius * 0.80, height + 0.04))
        drip = [
            np.stack([r * np.sin(azimuth), y + 0 * azimuth, r * np.cos(azimuth)], -1)
            for r, y in rows
        ]
        pieces.append(parts.surface(drip, WHITE, closed=True))
    if rng.random() < 0.6:
        count = round(16 * radius)
        for k in range(count):
            pearl = parts.ellipsoid(0.09, (0, 0.06, radius), CREAM, segments=8)
            pieces.append(parts.turn(pearl, "y", 360 * k / count))
    return parts.move(parts.join(*pieces), (0, base, 0))


def _candle(rng: np.random.Generator) -> Part:
    height = rng.uniform(0.36, 0.5)
    stick = parts.cylinder(0.06, height, (0, height / 2, 0), WHITE, segments=8)
    flame = [(0, 0), (0.07, 0.08), (0.05, 0.15), (0, 0.26)]
    flame = parts.move(parts.revolve(flame, GLOW, segments=8), (0, height, 0))
    return parts.join(stick, flame)


def _topping(rng: np.random.Generator, top: float) -> Part:
    """A swirl of cream with a dark berry."""
    swirl = [(0, 0), (0.30, 0.0), (0.32, 0.08), (0.2, 0.16), (0.22, 0.2), (0.08, 0.34)]
    swirl = parts.revolve([*swirl, (0, 0.36)], WHITE, segments=14)
    berry = parts.ellipsoid(rng.uniform(0.12, 0.16), (0, 0.42, 0), dim(DARK, 1.0))
    return parts.move(parts.join(swirl, berry), (0, top, 0))
