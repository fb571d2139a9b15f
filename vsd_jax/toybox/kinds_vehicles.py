# SPDX-License-Identifier: Apache-2.0
"""Toybox kinds that travel: rocket, car and boat.

Each function takes (rng, colour) and returns a Part with the front towards +Z; size and
place do not matter, `objects.make_object` normalises.
"""

import numpy as np

from vsd_jax.toybox.kinds_made import (
    BLACK,
    DARK,
    GLASS,
    GREY,
    LIGHT,
    WHITE,
    WOOD,
)
from vsd_jax.toybox.parts import (
    RGB,
    Part,
    box,
    cylinder,
    ellipsoid,
    join,
    move,
    prism,
    revolve,
    rod,
    torus,
    turn,
)


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
