# SPDX-License-Identifier: Apache-2.0
"""Snowman, robot, duck and bear: figures that look towards +Z.

Each function draws one object of its kind: (generator, RGB of the named colour) ->
`Part` in units of its own. The named colour shows from every side and from above.
"""

import numpy as np

from vsd_jax.toybox import parts
from vsd_jax.toybox.palette import (
    AMBER,
    BARK,
    BEIGE,
    CREAM,
    DARK,
    GREY,
    RGB,
    SILVER,
    SNOW,
    STEEL,
    WHITE,
    dim,
    tint,
)
from vsd_jax.toybox.parts import Part

CARROT = (0.95, 0.50, 0.12)


def snowman(rng: np.random.Generator, colour: RGB) -> Part:
    """Two or three balls of snow with hat, scarf, mittens and a carrot for a nose."""
    radii = [1.0, rng.uniform(0.70, 0.78), rng.uniform(0.5, 0.58)]
    if rng.random() < 0.3:
        radii = [1.0, rng.uniform(0.62, 0.7)]
    centres = [0.9]
    for below, above in zip(radii, radii[1:], strict=False):
        centres.append(centres[-1] + 0.75 * (below + above))
    pieces = [
        parts.ellipsoid(r, (0, y, 0), SNOW, segments=22)
        for r, y in zip(radii, centres, strict=True)
    ]
    head, head_y, chest, chest_y = radii[-1], centres[-1], radii[-2], centres[-2]
    pieces.append(_snow_face(head, head_y))
    for k in range(2 if len(radii) == 3 else 3):
        angle = np.radians(8 + 28 * k) if len(radii) == 3 else np.radians(30 - 26 * k)
        place = (0, chest_y + chest * np.sin(angle), chest * np.cos(angle))
        pieces.append(parts.ellipsoid(0.1, place, DARK, segments=8))
    hat = (_top_hat, _beanie, _bucket_hat)[rng.integers(3)](rng, head, colour)
    pieces.append(parts.move(hat, (0, head_y + 0.55 * head, 0)))
    pieces.append(_scarf(rng, head, head_y - 0.72 * head, colour))
    for side in (-1, 1):
        lift = rng.uniform(-0.1, 0.6)
        start = np.array([side * 0.85 * chest, chest_y + 0.2, 0.1])
        end = start + np.array([side * 0.62, lift, 0.12])
        pieces.append(parts.rod(start, end, 0.06, BARK, segments=8))
        pieces.append(parts.ellipsoid((0.19, 0.19, 0.17), end, colour, segments=12))
    return parts.join(*pieces)


def _snow_face(head: float, y: float) -> Part:
    nose = [(0.16 * head, 0), (0.1 * head, 0.4 * head), (0, 0.95 * head)]
    nose = parts.turn(parts.revolve(nose, CARROT, segments=10), "x", 90)
    pieces = [parts.move(nose, (0, y, 0.92 * head))]
    for side in (-1, 1):
        place = (side * 0.36 * head, y + 0.27 * head, 0.87 * head)
        pieces.append(parts.ellipsoid(0.14 * head, place, DARK, segments=10))
    for angle in (-44, -22, 0, 22, 44):
        x = 0.42 * np.sin(np.radians(angle)) * head
        drop = -0.28 - 0.14 * np.cos(np.radians(2 * angle))
        place = (x, y + drop * head, 0.86 * head)
        pieces.append(parts.ellipsoid(0.075 * head, place, DARK, segments=6))
    return parts.join(*pieces)


def _top_hat(rng, head, colour) -> Part:
    height = rng.uniform(0.8, 1.2) * head
    brim = parts.cylinder(1.35 * head, 0.13, (0, 0, 0), colour, segments=24)
    crown = (0, height / 2, 0)
    crown = parts.cylinder(0.82 * head, height, crown, colour, top=0.86 * head)
    band = parts.cylinder(0.87 * head, 0.15, (0, 0.16, 0), STEEL)
    return parts.join(brim, crown, band)


def _beanie(rng, head, colour) -> Part:
    dome = parts.ellipsoid((1.02 * head, 1.05 * head, 1.02 * head), (0, -0.1, 0), colour)
    rim = parts.torus(0.92 * head, (0.17, 0.17), (0, 0, 0), dim(colour, 0.8))
    ball = parts.ellipsoid(rng.uniform(0.2, 0.26), (0, 1.05 * head, 0), WHITE, segments=12)
    return parts.join(parts.stretch(dome, (1, 0.9, 1)), rim, ball)


def _bucket_hat(rng, head, colour) -> Part:
    height = rng.uniform(0.8, 1.0) * head
    crown = parts.cylinder(1.0 * head, height, (0, height / 2, 0), colour, top=0.72 * head)
    rim = parts.torus(1.0 * head, 0.09, (0, 0.02, 0), dim(colour, 0.75))
    return parts.turn(parts.join(crown, rim), "z", rng.uniform(-10, 10))


def _scarf(rng, head, y, colour) -> Part:
    ring = parts.torus(0.80 * head, (0.25, 0.21), (0, y, 0), colour)
    side = rng.choice([-1, 1])
    tail = parts.box((0.34, 0.85, 0.15), (0, -0.42, 0), colour, taper=0.8)
    fringe = parts.box((0.34, 0.1, 0.16), (0, -0.82, 0), tint(colour, 0.5))
    tail = parts.turn(parts.join(tail, fringe), "x", -14)
    return parts.join(ring, parts.move(tail, (side * 0.3 * head, y, 1.05 * head)))


def robot(rng: np.random.Generator, colour: RGB) -> Part:
    """A boxy or round robot: eyes and a panel in front, a pack on the back."""
    width, depth = rng.uniform(1.1, 1.5), rng.uniform(0.75, 1.0)
    height = rng.uniform(1.1, 1.5)
    legs = rng.uniform(0.45, 0.8)
    middle = legs + height / 2
    if rng.random() < 0.35:
        body = parts.cylinder(width / 2, height, (0, middle, 0), colour, segments=22)
        body = parts.stretch(body, (1, 1, depth / width * 1.15))
        depth = depth * 1.15
    else:
        body = (width, height, depth)
        body = parts.box(body, (0, middle, 0), colour, taper=rng.uniform(0.85, 1.1))
    pieces = [body, _robot_panel(rng, width, height, middle, depth)]
    pack = (0.55 * width, 0.55 * height, 0.3)
    pieces.append(parts.box(pack, (0, middle + 0.1, -depth / 2 - 0.1), GREY, taper=0.8))
    head = _robot_head(rng, colour)
    pieces.append(parts.move(head, (0, legs + height + 0.1, 0)))
    for arm in (_robot_arm(rng, colour),):
        arm = parts.move(arm, (width / 2 + 0.14, legs + 0.82 * height, 0))
        pieces += [arm, parts.mirror(arm)]
    pieces.append(_robot_feet(rng, width, depth, legs, colour))
    return parts.join(*pieces)


def _robot_panel(rng, width, height, middle, depth) -> Part:
    front = depth / 2 + 0.02
    size = (0.62 * width, 0.5 * height, 0.1)
    pieces = [parts.box(size, (0, middle + 0.05, front), CREAM)]
    style = rng.integers(2)
    for k in range(3):
        x = (k - 1) * 0.18 * width
        place = (x, middle - 0.06 * height, front + 0.05)
        shade = (DARK, STEEL, DARK)[k]
        pieces.append(parts.ellipsoid((0.09, 0.09, 0.05), place, shade, segments=10))
    if style == 0:
        bar = (0.45 * width, 0.11, 0.06)
        pieces.append(parts.box(bar, (0, middle + 0.18 * height, front + 0.04), DARK))
    else:
        dial = (0.2, 0.12, 0.05)
        place = (0, middle + 0.18 * height, front + 0.04)
        pieces.append(parts.ellipsoid(dial, place, STEEL, segments=12))
    return parts.join(*pieces)


def _robot_head(rng, colour) -> Part:
    """Stands on y = 0; silver or in the colour, with a coloured cap and antenna."""
    width, height, depth = rng.uniform(0.75, 0.95), rng.uniform(0.6, 0.75), 0.7
    skin = SILVER if rng.random() < 0.6 else colour
    neck = parts.cylinder(0.2, 0.3, (0, 0, 0), STEEL, segments=12)
    if rng.random() < 0.4:
        dome = [(0, 0), (width / 2, 0), (width / 2, 0.5 * height)]
        dome += [(0.36 * width, 0.9 * height), (0, 1.05 * height)]
        skull = parts.revolve(dome, skin)
    else:
        skull = parts.box((width, height, depth), (0, height / 2, 0), skin)
    pieces = [neck, skull]
    face = depth / 2 if len(skull.triangles) == 12 else width / 2 - 0.06
    visor = (0.82 * width, 0.42 * height, 0.14)
    pieces.append(parts.box(visor, (0, 0.58 * height, face), DARK))
    for side in (-1, 1):
        eye = (side * 0.22 * width, 0.58 * height, face + 0.07)
        pieces.append(parts.ellipsoid((0.11, 0.11, 0.06), eye, WHITE, segments=12))
        ear = parts.turn(parts.cylinder(0.13, 0.16, (0, 0, 0), colour, segments=12), "z", 90)
        pieces.append(parts.move(ear, (side * width / 2, 0.5 * height, 0)))
    mouth = (0.4 * width, 0.07, 0.08)
    pieces.append(parts.box(mouth, (0, 0.2 * height, face), STEEL))
    cap = parts.box((0.55 * width, 0.12, 0.4), (0, 1.03 * height, 0), colour)
    tip = height + rng.uniform(0.35, 0.5)
    pieces += [cap, parts.rod((0, height, 0), (0, tip, 0), 0.045, STEEL, segments=6)]
    pieces.append(parts.ellipsoid(0.13, (0, tip, 0), colour, segments=12))
    return parts.join(*pieces)


def _robot_arm(rng, colour) -> Part:
    """The right one (+X), hanging from the origin."""
    bend = rng.uniform(0.0, 0.5)
    elbow, hand = np.array([0.14, -0.42, 0.0]), np.array([0.16, -0.8, bend])
    pieces = [parts.ellipsoid(0.22, (0, 0, 0), colour, segments=14)]
    pieces.append(parts.rod((0.02, 0, 0), elbow, 0.11, GREY, segments=10))
    pieces.append(parts.rod(elbow, hand, 0.11, GREY, segments=10))
    for side in (-1, 1):
        claw = parts.box((0.09, 0.24, 0.16), hand + (side * 0.11, -0.15, 0), STEEL)
        pieces.append(claw)
    return parts.join(*pieces)


def _robot_feet(rng, width, depth, legs, colour) -> Part:
    if rng.random() < 0.3:
        track = parts.rod((0, 0.24, -0.4), (0, 0.24, 0.4), 0.24, STEEL)
        track = parts.stretch(track, (0.8, 1, 1))
        hub = parts.box((0.14, 0.12, 0.7), (0.2, 0.24, 0), colour)
        base = parts.box((0.6 * width, legs, 0.6 * depth), (0, legs / 2 + 0.1, 0), GREY)
        track = parts.move(parts.join(track, hub), (0.36 * width, 0, 0))
        return parts.join(base, track, parts.mirror(track))
    leg = parts.cylinder(0.14, legs, (0.27 * width, legs / 2, 0), GREY, segments=12)
    foot = parts.box((0.4, 0.2, 0.7), (0.27 * width, 0.1, 0.12), colour, taper=0.75)
    leg = parts.join(leg, foot)
    return parts.join(leg, parts.mirror(leg))


def duck(rng: np.random.Generator, colour: RGB) -> Part:
    """A bathtub duck: beak forward, tail up, sometimes with a bow tie or a cap."""
    long, wide, high = rng.uniform(1.05, 1.3), rng.uniform(0.75, 0.9), rng.uniform(0.6, 0.7)
    body = parts.ellipsoid((wide, high, long), (0, high, 0), colour, segments=24)
    tail = [(0.42, 0), (0.3, 0.3), (0.06, 0.62), (0, 0.64)]
    tail = parts.turn(parts.revolve(tail, colour, segments=16), "x", -rng.uniform(38, 55))
    tail = parts.stretch(tail, (1.1, 1.0, 0.9))
    pieces = [body, parts.move(tail, (0, high * 1.15, -0.62 * long))]
    head = rng.uniform(0.48, 0.58)
    neck, y, z = 0.42, 2 * high + rng.uniform(0.3, 0.5) * head, 0.5 * long
    pieces.append(parts.rod((0, high, 0.36 * long), (0, y, z), neck, colour))
    pieces.append(parts.ellipsoid(head, (0, y, z), colour, segments=22))
    pieces += [parts.move(p, (0, y, z)) for p in _duck_face(head)]
    wing = parts.ellipsoid((0.14, 0.36 * high * 1.3, 0.62 * long), (0, 0, 0), dim(colour, 0.8))
    wing = parts.turn(wing, "x", 14)
    wing = parts.move(wing, (0.95 * wide, 1.12 * high, -0.12 * long))
    pieces += [wing, parts.mirror(wing)]
    style = rng.integers(3)
    if style == 0:
        bow = parts.turn(parts.cylinder(0.05, 0.3, (0, 0.15, 0), WHITE, top=0.2), "z", -90)
        bow = parts.move(bow, (0, y - 0.95 * head, z + 0.55))
        pieces += [bow, parts.mirror(bow)]
    elif style == 1:
        crest = parts.ellipsoid((0.08, 0.2, 0.16), (0, y + head, z - 0.1), dim(colour, 0.8))
        pieces.append(parts.turn(crest, "x", -3))
    return parts.join(*pieces)


def _duck_face(head: float) -> list[Part]:
    """Beak and eyes around the centre of the head."""
    beak = parts.ellipsoid((0.5 * head, 0.14 * head, 0.55 * head), (0, 0, 0), AMBER)
    above = parts.move(parts.turn(beak, "x", -8), (0, -0.06 * head, 1.1 * head))
    below = parts.stretch(beak, (0.85, 0.9, 0.85))
    below = parts.move(parts.turn(below, "x", 10), (0, -0.24 * head, 1.0 * head))
    pieces = [above, below]
    for side in (-1, 1):
        place = np.array([side * 0.5, 0.33, 0.74]) * head
        pieces.append(parts.ellipsoid(0.22 * head, place, WHITE, segments=12))
        place = np.array([side * 0.56, 0.36, 0.87]) * head
        pieces.append(parts.ellipsoid(0.14 * head, place, DARK, segments=10))
    return pieces


def bear(rng: np.random.Generator, colour: RGB) -> Part:
    """A teddy, sitting or standing, with a pale muzzle, belly and soles."""
    sits = rng.random() < 0.6
    wide, high = rng.uniform(0.66, 0.8), rng.uniform(0.75, 0.88)
    base = 0.75 if sits else 1.15
    body = parts.ellipsoid((wide, high, 0.62), (0, base, 0), colour, segments=22)
    patch = parts.ellipsoid((0.66 * wide, 0.68 * high, 0.2), (0, base - 0.05, 0.47), BEIGE)
    tail = parts.ellipsoid(0.18, (0, base - 0.5 * high, -0.6), tint(colour, 0.3), segments=12)
    head_y = base + high + 0.36
    pieces = [body, patch, tail]
    pieces += [parts.move(p, (0, head_y, 0.08)) for p in _bear_head(rng, colour)]
    spread, lift = rng.uniform(0.3, 0.6), rng.uniform(-0.7, 0.1)
    shoulder = np.array([0.75 * wide, base + 0.45 * high, 0.05])
    hand = shoulder + np.array([spread, lift, 0.45])
    limbs = [parts.rod(shoulder, hand, 0.24, colour, radius_end=0.21, segments=14)]
    if sits:
        hip, foot = np.array([0.42, 0.28, 0.2]), np.array([0.42 + spread / 2, 0.27, 1.0])
        sole = parts.ellipsoid((0.19, 0.21, 0.08), foot + (0.02, 0, 0.25), BEIGE, segments=14)
    else:
        hip, foot = np.array([0.36, 0.7, 0.0]), np.array([0.42, 0.26, 0.08])
        sole = parts.ellipsoid((0.27, 0.22, 0.36), foot + (0, -0.05, 0.12), colour)
    limbs += [parts.rod(hip, foot, 0.27, colour, segments=14), sole]
    for limb in limbs:
        pieces += [limb, parts.mirror(limb)]
    if rng.random() < 0.45:
        bow = parts.turn(parts.cylinder(0.06, 0.36, (0, 0.18, 0), WHITE, top=0.22), "z", -90)
        bow = parts.move(bow, (0, base + 0.92 * high, 0.55))
        pieces += [bow, parts.mirror(bow)]
    return parts.join(*pieces)


def _bear_head(rng, colour) -> list[Part]:
    """Head pieces around its centre."""
    size = rng.uniform(0.58, 0.68)
    pieces = [parts.ellipsoid((1.1 * size, size, size), (0, 0, 0), colour, segments=22)]
    muzzle = (0.46 * size, 0.36 * size, 0.4 * size)
    pieces.append(parts.ellipsoid(muzzle, (0, -0.24 * size, 0.86 * size), CREAM))
    nose = (0.18 * size, 0.13 * size, 0.12 * size)
    pieces.append(parts.ellipsoid(nose, (0, -0.1 * size, 1.24 * size), DARK, segments=12))
    for side in (-1, 1):
        eye = np.array([side * 0.42, 0.2, 0.88]) * size
        pieces.append(parts.ellipsoid(0.12 * size, eye, DARK, segments=10))
        ear = np.array([side * 0.82, 0.78, 0.0]) * size
        pieces.append(parts.ellipsoid((0.36 * size, 0.36 * size, 0.2 * size), ear, colour))
        inner = ear + np.array([0, 0, 0.13 * size])
        inner_size = (0.22 * size, 0.22 * size, 0.12 * size)
        pieces.append(parts.ellipsoid(inner_size, inner, BEIGE, segments=12))
    return pieces
