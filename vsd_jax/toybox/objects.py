# SPDX-License-Identifier: Apache-2.0
"""Toybox objects: a seed and a prompt give a coloured mesh."""

import numpy as np
import trimesh

from vsd_jax.toybox import kinds_grown, kinds_made, kinds_vehicles, parts
from vsd_jax.toybox.parts import Part
from vsd_jax.toybox.text import COLOURS, KINDS, Prompt

MAX_RADIUS = 0.75
_KIND_MODULES = (kinds_grown, kinds_made, kinds_vehicles)
_BUILDERS = {
    name: next(getattr(m, name) for m in _KIND_MODULES if hasattr(m, name))
    for name in KINDS
}


def make_object(rng: np.random.Generator, prompt: Prompt) -> Part:
    """Builds one object.

    Args:
      rng: consumed; the same state gives the same object.
      prompt: its kind and colour; None is drawn.

    Returns:
      Part with its bounding box's centre at the origin, inside the sphere of radius
      0.75 (0.66 ... 0.75 of it reached), front towards +Z.
    """
    kind = prompt.kind or KINDS[rng.integers(len(KINDS))]
    name = prompt.colour or list(COLOURS)[rng.integers(len(COLOURS))]
    colour = np.asarray(COLOURS[name]) * rng.uniform(0.92, 1.0)
    colour = tuple(np.clip(colour + rng.uniform(-0.02, 0.02, 3), 0.0, 1.0))
    part = _BUILDERS[kind](rng, colour)
    return normalise(part, rng.uniform(0.66, MAX_RADIUS))


def normalise(part: Part, radius: float) -> Part:
    """Centres the part's bounding box at the origin, scaled to reach `radius`."""
    points = part.triangles.reshape(-1, 3)
    centred = parts.move(part, -0.5 * (points.min(0) + points.max(0)))
    reach = np.linalg.norm(centred.triangles, axis=-1).max()
    return parts.stretch(centred, radius / reach)


def to_trimesh(part: Part) -> trimesh.Trimesh:
    """The part as a trimesh with face colours (for export and geometry scores)."""
    vertices = part.triangles.reshape(-1, 3)
    faces = np.arange(len(vertices)).reshape(-1, 3)
    colours = np.round(np.clip(part.colours, 0, 1) * 255).astype(np.uint8)
    return trimesh.Trimesh(vertices, faces, face_colors=colours, process=False)
