# SPDX-License-Identifier: Apache-2.0
"""Rocket, car and boat (the latter two drive towards +Z).

Each function draws one object of its kind: (generator, RGB of the named colour) ->
`Part` in units of its own. The named colour shows from every side and from above.
"""

import numpy as np

from vsd_jax.toybox import parts
from vsd_jax.toybox.palette import (
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


def rocket(rng: np.random.Generator, colour: RGB) -> Part:
    """A bulged body with a nose cone, portholes and three or four fins."""
    height, radius = rng.uniform(2.3, 3.0), rng.uniform(0.52, 0.68)
    bold = rng.random() < 0.6
    skin, trim = (colour, SILVER) if bold else (WHITE, colour)
    levels = np.linspace(0, 1, 14)
    belly = rng.uniform(0.30, 0.42)
    width = np.where(
        levels < belly,
        0.68 + 0.32 * np.sin(levels / belly * np.pi / 2),
        np.cos((levels - belly) / (1 - belly) * np.pi / 2) ** 0.8,
    )
    outline = np.stack([radius * width, levels * height], -1)
    outline[-1, 0] = 0
    split = 10
    body = parts.revolve([(0, 0), *outline[: split + 1]], skin, segments=24)
    nose = parts.revolve(outline[split:], trim if not bold else dim(colour, 0.72))
    pieces = [body, nose, _nozzle(radius)]
    band = np.interp(0.12, levels, width) * radius + 0.015
    band = parts.cylinder(band, 0.16, (0, 0.12 * height, 0), trim, segments=24)
    pieces.append(band)
    if not bold:
        band = np.interp(0.36, levels, width) * radius + 0.012
        pieces.append(parts.cylinder(band, 0.34, (0, 0.36 * height, 0), colour, segments=24))
    for turn in (0, 180) if rng.random() < 0.5 else (0, 120, 240):
        y = 0.56
        place = (0, y * height, np.interp(y, levels, width) * radius)
        pieces.append(parts.turn(parts.move(_porthole(rng), place), "y", turn))
    pieces += _fins(rng, radius, height, trim)
    return parts.join(*pieces)


def _nozzle(radius: float) -> Part:
    bell = [(0, -0.05), (0.62 * radius, -0.3), (0.66 * radius, -0.28), (0.4 * radius, 0.05)]
    return parts.revolve(bell, STEEL)


def _porthole(rng: np.random.Generator) -> Part:
    size = rng.uniform(0.17, 0.23)
    ring = parts.turn(parts.torus(size, 0.06, (0, 0, 0), STEEL, segments=18), "x", 90)
    return parts.join(parts.ellipsoid((size, size, 0.07), (0, 0, 0), GLASS), ring)


def _fins(rng, radius, height, colour) -> list[Part]:
    span, rise = rng.uniform(0.5, 0.75), rng.uniform(0.32, 0.45) * height
    drop = rng.uniform(0.15, 0.45)
    inner = 0.6 * radius
    outline = [(inner, 0.05), (inner + span, -drop), (inner + 1.05 * span, 0.3 - drop)]
    outline += [(inner + 0.6 * span, 0.62 * rise), (inner, rise)]
    fin = parts.prism(outline, 0.13, colour)
    count = rng.integers(3, 5)
    return [parts.turn(fin, "y", 360 * (k + 0.5) / count + 90) for k in range(count)]


def car(rng: np.random.Generator, colour: RGB) -> Part:
    """A saloon, beetle, van or pickup with lamps in front and a plate behind."""
    style = rng.integers(4)
    width = rng.uniform(1.15, 1.35)
    length = rng.uniform(2.4, 2.8)
    wheel = rng.uniform(0.30, 0.37)
    deck = wheel + rng.uniform(0.32, 0.42)
    base = 0.6 * wheel
    body = (width, deck - base, length)
    pieces = [parts.box(body, (0, (deck + base) / 2, 0), colour, taper=(0.94, 0.95))]
    pieces += (_saloon, _beetle, _van, _pickup)[style](rng, width, length, deck, colour)
    tyre = parts.cylinder(wheel, 0.26, (0, 0, 0), DARK)
    hub = parts.cylinder(0.5 * wheel, 0.29, (0, 0, 0), SILVER, segments=12)
    tyre = parts.turn(parts.join(tyre, hub), "z", 90)
    for z in (-0.31 * length, 0.31 * length):
        for x in (-width / 2, width / 2):
            pieces.append(parts.move(tyre, (0.96 * x, wheel, z)))
    pieces += _car_ends(width, length, deck, base)
    return parts.join(*pieces)


def _car_ends(width, length, deck, base) -> list[Part]:
    """Bumpers, head lamps and grille in front, small dark lamps and a plate behind."""
    pieces = []
    lamp_y, nose = 0.62 * deck + 0.38 * base, length / 2
    for side in (-1, 1):
        place = (side * 0.34 * width, lamp_y, nose - 0.03)
        pieces.append(parts.ellipsoid((0.15, 0.13, 0.1), place, GLOW, segments=12))
        place = (side * 0.40 * width, lamp_y, 0.02 - nose)
        pieces.append(parts.box((0.16, 0.1, 0.1), place, STEEL))
    for side, shade in ((1, GREY), (-1, GREY)):
        place = (0, base + 0.06, side * nose)
        pieces.append(parts.box((0.98 * width, 0.13, 0.14), place, shade))
    grille = (0.36 * width, 0.14, 0.08)
    pieces.append(parts.box(grille, (0, lamp_y, nose - 0.01), DARK))
    pieces.append(parts.box((0.34 * width, 0.14, 0.08), (0, lamp_y, 0.01 - nose), WHITE))
    return pieces


def _cabin(size, centre, colour, *, taper, roof=0.12) -> list[Part]:
    """Glass between pillars under a roof in the car's colour."""
    x, y, z = size
    glass = parts.box(size, centre, dim(GLASS, 0.75), taper=taper)
    top = (x * taper[0] + 0.03, roof, z * taper[1] + 0.04)
    pieces = [glass, parts.box(top, (0, centre[1] + y / 2, centre[2]), colour, taper=0.93)]
    pillar = parts.box((x + 0.02, y, 0.1), centre, colour, taper=(taper[0], 1.0))
    return [*pieces, pillar]


def _saloon(rng, width, length, deck, colour) -> list[Part]:
    high, long = rng.uniform(0.45, 0.55), rng.uniform(0.50, 0.58) * length
    centre = (0, deck + high / 2, -0.05 * length)
    taper = (0.82, rng.uniform(0.62, 0.72))
    return _cabin((0.92 * width, high, long), centre, colour, taper=taper)


def _beetle(rng, width, length, deck, colour) -> list[Part]:
    high = rng.uniform(0.5, 0.58)
    shell = parts.ellipsoid((0.45 * width, high + 0.12, 0.40 * length), (0, deck - 0.1, 0), colour)
    glass = dim(GLASS, 0.75)
    windows = parts.ellipsoid((0.47 * width, 0.72 * high, 0.29 * length), (0, deck, 0), glass)
    front = parts.ellipsoid((0.33 * width, 0.74 * high, 0.42 * length), (0, deck, 0), glass)
    bonnet = (0.40 * width, 0.24, 0.46 * length)
    return [shell, windows, front, parts.ellipsoid(bonnet, (0, deck - 0.05, 0), colour)]


def _van(rng, width, length, deck, colour) -> list[Part]:
    high, long = rng.uniform(0.62, 0.75), rng.uniform(0.78, 0.86) * length
    back = -(length - long) / 2
    size = (0.94 * width, high, long)
    box = parts.box(size, (0, deck + high / 2, back), colour, taper=(0.92, 0.90))
    glass = dim(GLASS, 0.75)
    sides = (0.96 * width, 0.5 * high, 0.34 * long)
    sides = parts.box(sides, (0, deck + 0.55 * high, back + 0.22 * long), glass, taper=0.95)
    front = (0.76 * width, 0.6 * high, 0.1)
    front = parts.box(front, (0, deck + 0.55 * high, back + 0.46 * long), glass, taper=0.95)
    front = front._replace(triangles=front.triangles + (0, 0, 0.01))
    rack = [
        parts.box((0.7 * width, 0.07, 0.1), (0, deck + high + 0.02, back + z * long), STEEL)
        for z in (-0.25, 0.0, 0.25)
    ]
    return [box, sides, front, *rack]


def _pickup(rng, width, length, deck, colour) -> list[Part]:
    high, long = rng.uniform(0.52, 0.6), rng.uniform(0.34, 0.4) * length
    centre = (0, deck + high / 2, 0.08 * length)
    pieces = _cabin((0.92 * width, high, long), centre, colour, taper=(0.86, 0.8))
    bed = (0.80 * width, 0.06, 0.36 * length)
    pieces.append(parts.box(bed, (0, deck + 0.02, -0.29 * length), DARK))
    for side in (-1, 1):
        rail = (0.09, 0.2, 0.40 * length)
        place = (side * 0.44 * width, deck + 0.08, -0.29 * length)
        pieces.append(parts.box(rail, place, colour))
    pieces.append(parts.box((0.94 * width, 0.2, 0.09), (0, deck + 0.08, -0.48 * length), colour))
    return pieces


def boat(rng: np.random.Generator, colour: RGB) -> Part:
    """A sailing boat, a tug with cabin and funnel, or a rowing boat; bow at +Z."""
    style = rng.integers(3)
    length, width = rng.uniform(2.3, 2.7), rng.uniform(0.95, 1.15)
    depth = rng.uniform(0.5, 0.65)
    pieces = [_hull(length, width, depth, colour)]
    sole = _hull(0.86 * length, 0.76 * width, 0.1, WOOD)
    low = 0.1 if style < 2 else 0.2
    pieces.append(parts.move(sole, (0, depth - low, 0.01 * length)))
    pieces += (_sails, _wheelhouse, _benches)[style](rng, length, width, depth, colour)
    return parts.join(*pieces)


def _hull(length, width, depth, colour) -> Part:
    """An open trough with a thick rim; keel at y = 0, rim at y = depth (more at the bow)."""
    station = np.linspace(-1, 1, 11)
    beam = np.where(station < 0, 1 - 0.28 * station**2, 1 - np.abs(station) ** 2.4)
    along = station * length / 2
    sheer = depth * (1 + 0.28 * np.maximum(station, 0) ** 2 + 0.08 * station**2)
    rings = []
    for scale, keel, rake in ((0.0, 0.0, 0.72), (0.62, 0.0, 0.8), (0.92, 0.45, 0.92)):
        rings.append((scale, keel, rake))
    rings += [(1.0, 1.0, 1.0), (0.82, 1.0, 0.90), (0.78, 0.72, 0.86), (0.0, 0.72, 0.86)]
    layers = []
    for scale, level, rake in rings:
        half = scale * width / 2 * beam
        right = np.stack([half, level * sheer, rake * along], -1)
        left = np.stack([-half, level * sheer, rake * along], -1)[::-1]
        layers.append(np.concatenate([right, left]))
    # Counter-clockwise from above: up the right side to the bow would be clockwise.
    return parts.surface(np.stack(layers)[:, ::-1], colour, closed=True)


def _sails(rng, length, width, depth, colour) -> list[Part]:
    tall = rng.uniform(1.7, 2.2)
    z = rng.uniform(0.0, 0.12) * length
    mast = parts.rod((0, depth - 0.2, z), (0, depth + tall, z), 0.06, WOOD, segments=8)
    cloth, patch = (colour, WHITE) if rng.random() < 0.5 else (WHITE, colour)
    boom = 0.42 * length
    main = [(0.05, 0.3), (boom, 0.28), (0.05, tall)]
    jib = [(-0.06, 0.9 * tall), (-0.36 * length, 0.22), (-0.06, 0.24)]
    stripe = [(0.04, 0.55 * tall), (0.6 * boom, 0.5 * tall), (0.47 * boom, 0.62 * tall)]
    stripe.append((0.04, 0.70 * tall))
    sails = parts.join(
        parts.prism(main, 0.09, cloth),
        parts.prism(jib, 0.09, tint(cloth, 0.25)),
        parts.prism(stripe, 0.11, patch),
    )
    sails = parts.turn(parts.turn(sails, "y", 90), "y", rng.uniform(-12, 12))
    flag = parts.box((0.05, 0.17, 0.3), (0, depth + tall - 0.05, z - 0.17), colour)
    return [mast, parts.move(sails, (0, depth, z)), flag]


def _wheelhouse(rng, length, width, depth, colour) -> list[Part]:
    high, long = rng.uniform(0.55, 0.7), rng.uniform(0.32, 0.4) * length
    z = 0.04 * length
    size = (0.56 * width, high, long)
    cabin = parts.box(size, (0, depth + high / 2 - 0.05, z), WHITE, taper=0.94)
    roof = (0.64 * width, 0.1, 1.1 * long)
    pieces = [cabin, parts.box(roof, (0, depth + high - 0.02, z), colour)]
    band = (0.57 * width, 0.22, 0.8 * long)
    pieces.append(parts.box(band, (0, depth + 0.62 * high, z), dim(GLASS, 0.7)))
    pane = (0.40 * width, 0.24, 0.06)
    pieces.append(parts.box(pane, (0, depth + 0.62 * high, z + long / 2), dim(GLASS, 0.7)))
    funnel = rng.uniform(0.5, 0.75)
    place = (0, depth + high + funnel / 2, z - 0.2 * long)
    pieces.append(parts.cylinder(0.17, funnel, place, colour))
    pieces.append(parts.cylinder(0.18, 0.16, place + np.array([0, 0.3 * funnel, 0]), DARK))
    return pieces


def _benches(rng, length, width, depth, colour) -> list[Part]:
    pieces = []
    for z in (-0.28, 0.0, 0.24):
        size = (0.86 * width * (1 - 0.5 * max(z, 0)), 0.08, 0.17)
        pieces.append(parts.box(size, (0, 0.86 * depth, z * length), CREAM))
    swing = rng.uniform(-25, 25)
    oar = parts.rod((0.1, 0.1, 0), (1.2, -0.16, 0), 0.05, WOOD, segments=8)
    blade = parts.ellipsoid((0.26, 0.05, 0.13), (1.3, -0.19, 0), CREAM, segments=10)
    oar = parts.turn(parts.join(oar, blade), "y", swing)
    oar = parts.move(oar, (0.25 * width, depth + 0.05, -0.06 * length))
    if rng.random() < 0.6:
        pieces += [oar, parts.mirror(oar)]
    return pieces
