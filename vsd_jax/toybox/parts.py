# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the Toybox's meshes: coloured, softly shaded primitives.

Notation: a `Part` is a soup of F triangles that carry a normal at every corner, so
that round surfaces shade smoothly and edges stay sharp; parts are united by `join`.
Normals point outwards. Angles are in degrees, lengths in any unit (objects are
normalised at the end); +Y is up, +Z is the front.
"""

from typing import NamedTuple

import numpy as np

RGB = tuple[float, float, float]

_CREASE_DEG = 42.0


class Part(NamedTuple):
    """A triangle soup.

    Attributes:
      triangles: [F, 3, 3] float64 corner positions, counter-clockwise from outside.
      normals: [F, 3, 3] float64 unit normals at the corners.
      colours: [F, 3] float64 in [0, 1].
    """

    triangles: np.ndarray
    normals: np.ndarray
    colours: np.ndarray


def make_part(vertices, faces, colour: RGB, *, crease_deg: float = _CREASE_DEG) -> Part:
    """Makes a part of an indexed mesh; normals are smoothed up to the crease angle.

    Args:
      vertices: [V, 3]; vertices at the same place count as one.
      faces: [F, 3] int; faces without area are dropped.
      colour: RGB in [0, 1].
      crease_deg: faces that meet at a larger angle keep a sharp edge.

    Returns:
      The Part.
    """
    triangles = np.asarray(vertices, np.float64)[np.asarray(faces)]
    areas = np.cross(
        triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    )
    size = np.linalg.norm(areas, axis=-1)
    keep = size > 1e-9
    triangles, areas, size = triangles[keep], areas[keep], size[keep]
    units = areas / size[:, None]
    normals = _smooth(triangles, areas, units, np.cos(np.radians(crease_deg)))
    colours = np.broadcast_to(np.asarray(colour, np.float64), units.shape)
    return Part(triangles, normals, colours)


def join(*parts: Part) -> Part:
    """Unites parts (concatenation; overlaps stay)."""
    return Part(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))


def move(part: Part, offset) -> Part:
    """Shifts by offset [3]."""
    return part._replace(triangles=part.triangles + np.asarray(offset, np.float64))


def turn(part: Part, axis: str, degrees: float) -> Part:
    """Turns about the "x", "y" or "z" axis, right-handed."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return _rotate(part, matrix)


def aim(part: Part, direction) -> Part:
    """Turns +Y onto direction [3] (of any length)."""
    direction = np.asarray(direction, np.float64)
    return _rotate(part, _frame(direction / np.linalg.norm(direction)))


def stretch(part: Part, factors) -> Part:
    """Scales along the axes by positive factors [3]."""
    factors = np.broadcast_to(np.asarray(factors, np.float64), (3,))
    normals = part.normals / factors
    normals = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    return part._replace(triangles=part.triangles * factors, normals=normals)


def mirror(part: Part) -> Part:
    """Mirrors left and right (x -> -x)."""
    flip = np.array([-1.0, 1.0, 1.0])
    triangles = (part.triangles * flip)[:, ::-1]
    return Part(triangles, (part.normals * flip)[:, ::-1], part.colours)


def box(size, centre, colour: RGB, *, taper=1.0) -> Part:
    """A box of size [3]; taper scales its top (one number, or one for x and for z)."""
    x, y, z = np.asarray(size, np.float64) / 2
    tx, tz = np.broadcast_to(taper, (2,))
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    vertices = [(a * x, -y, b * z) for a, b in corners]
    vertices += [(a * x * tx, y, b * z * tz) for a, b in corners]
    quads = [(0, 1, 2, 3), (7, 6, 5, 4), (0, 4, 5, 1), (1, 5, 6, 2), (2, 6, 7, 3)]
    quads.append((3, 7, 4, 0))
    faces = [(q[0], q[i], q[i + 1]) for q in quads for i in (1, 2)]
    return move(make_part(vertices, faces, colour, crease_deg=20.0), centre)


def surface(points, colour: RGB, *, closed: bool, crease_deg=_CREASE_DEG) -> Part:
    """A grid of points [M, N, 3] as a surface; closed joins last and first column.

    The outside is where the cross product of the row direction (along N) and the
    column direction (along M), in this order, points away from.
    """
    points = np.asarray(points, np.float64)
    num_rows, num_columns = points.shape[:2]
    i, j = np.meshgrid(
        np.arange(num_rows - 1),
        np.arange(num_columns if closed else num_columns - 1),
        indexing="ij",
    )
    i, j = i.ravel(), j.ravel()
    k = (j + 1) % num_columns
    a, b = i * num_columns + j, i * num_columns + k
    c, d = (i + 1) * num_columns + k, (i + 1) * num_columns + j
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    return make_part(points.reshape(-1, 3), faces, colour, crease_deg=crease_deg)


def revolve(profile, colour: RGB, *, segments=20, crease_deg=_CREASE_DEG) -> Part:
    """Turns a profile of (radius, y) pairs about the Y axis.

    Args:
      profile: [M, 2]; listed upwards along the outside, with the axis on the left.
      colour: RGB in [0, 1].
      segments: number of sides.
      crease_deg: see `make_part`.

    Returns:
      The Part; closed when the profile starts and ends on the axis.
    """
    profile = np.asarray(profile, np.float64)
    angle = np.arange(segments) * (2 * np.pi / segments)
    points = np.empty((len(profile), segments, 3))
    points[..., 0] = profile[:, :1] * np.sin(angle)
    points[..., 1] = profile[:, 1:]
    points[..., 2] = profile[:, :1] * np.cos(angle)
    return surface(points, colour, closed=True, crease_deg=crease_deg)


def cylinder(radius, height, centre, colour: RGB, *, top=None, segments=20) -> Part:
    """An upright closed cylinder, or cone frustum with another top radius."""
    top = radius if top is None else top
    profile = [(0, -height / 2), (radius, -height / 2), (top, height / 2)]
    profile.append((0, height / 2))
    return move(revolve(profile, colour, segments=segments), centre)


def ellipsoid(radii, centre, colour: RGB, *, segments=18) -> Part:
    """An ellipsoid with radii [3] (or one number)."""
    angle = np.linspace(-90.0, 90.0, segments // 2 + 1)
    profile = np.stack([np.cos(np.radians(angle)), np.sin(np.radians(angle))], -1)
    ball = revolve(profile, colour, segments=segments)
    return move(stretch(ball, radii), centre)


def torus(ring, tube, centre, colour: RGB, *, segments=28, sides=12) -> Part:
    """A torus around the Y axis; tube is its radius, or its two radii (across, up)."""
    across, up = np.broadcast_to(tube, (2,))
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    profile = np.stack([ring + across * np.cos(angle), up * np.sin(angle)], -1)
    return move(revolve(profile, colour, segments=segments), centre)


def rod(start, end, radius, colour: RGB, *, radius_end=None, segments=12) -> Part:
    """A stick with round ends from start [3] to end [3]."""
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    radius_end = radius if radius_end is None else radius_end
    length = float(np.linalg.norm(end - start))
    angle = np.radians(np.linspace(-90.0, 90.0, 7))
    rise, width = np.sin(angle), np.cos(angle)
    below = np.stack([radius * width, radius * rise], -1)[:4]
    above = np.stack([radius_end * width, length + radius_end * rise], -1)[3:]
    part = revolve(np.concatenate([below, above]), colour, segments=segments)
    return move(_rotate(part, _frame((end - start) / length)), start)


def tube(path, radius, colour: RGB, *, segments=10) -> Part:
    """A bent round bar along path [M, 3] (M >= 3, no full turns), open at its ends."""
    path = np.asarray(path, np.float64)
    ahead = np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
    across = np.cross(path[1] - path[0], path[-1] - path[0])
    if np.linalg.norm(across) < 1e-9:
        across = _frame(ahead[0])[:, 0]
    across = across / np.linalg.norm(across)
    other = np.cross(ahead, across)
    angle = np.arange(segments) * (2 * np.pi / segments)
    radius = np.broadcast_to(radius, (len(path),))[:, None, None]
    ring = (
        np.cos(angle)[None, :, None] * across
        + np.sin(angle)[None, :, None] * (other[:, None])
    )
    return surface(path[:, None] + radius * ring, colour, closed=True)


def prism(outline, depth, colour: RGB) -> Part:
    """Extrudes an outline [K, 2] in the XY plane by depth along Z, centred.

    The outline runs counter-clockwise and is star-shaped about its mean point.
    """
    outline = np.asarray(outline, np.float64)
    rings = np.empty((4, len(outline), 3))
    rings[..., :2] = outline
    rings[(0, 3), :, :2] = outline.mean(0)
    rings[:2, :, 2], rings[2:, :, 2] = -depth / 2, depth / 2
    return surface(rings, colour, closed=True)


def loft(sections, colour: RGB, *, crease_deg=_CREASE_DEG) -> Part:
    """Skins closed outlines [M, K, 3] that follow each other, and closes both ends.

    The outlines run counter-clockwise for an eye that the last one comes towards.
    """
    sections = np.asarray(sections, np.float64)
    ends = sections.mean(1, keepdims=True) + np.zeros_like(sections)
    rings = np.concatenate([ends[:1], sections, ends[-1:]])
    return surface(rings, colour, closed=True, crease_deg=crease_deg)


def _smooth(triangles, areas, units, crease_cos) -> np.ndarray:
    """Corner normals: mean of the faces at the same point within the crease angle."""
    corners = np.round(triangles.reshape(-1, 3) * 1e6).astype(np.int64)
    code = corners @ np.array([1, 7_368_787, 54_297_929_729_567], np.int64)
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=code[order[0]] - 1))
    counts = np.diff(starts, append=len(order))
    group = np.repeat(np.arange(len(starts)), counts)
    pairs = counts[group]
    mine = np.repeat(np.arange(len(order)), pairs)
    within = np.arange(len(mine)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    theirs = starts[group[mine]] + within
    mine, theirs = order[mine], order[theirs] // 3
    alike = np.einsum("ij,ij->i", units[mine // 3], units[theirs]) >= crease_cos
    mine, theirs = mine[alike], theirs[alike]
    sums = [np.bincount(mine, areas[theirs, i], len(order)) for i in range(3)]
    normals = np.stack(sums, -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return normals.reshape(-1, 3, 3)


def _frame(direction: np.ndarray) -> np.ndarray:
    """A rotation [3, 3] that takes +Y to the unit direction."""
    helper = np.eye(3)[np.argmin(np.abs(direction))]
    side = np.cross(direction, helper)
    side /= np.linalg.norm(side)
    return np.stack([side, direction, np.cross(side, direction)], -1)


def _rotate(part: Part, matrix: np.ndarray) -> Part:
    triangles = part.triangles @ matrix.T
    return part._replace(triangles=triangles, normals=part.normals @ matrix.T)
