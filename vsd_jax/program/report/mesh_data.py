# SPDX-License-Identifier: Apache-2.0
"""A mesh in a few bytes for the viewer in `report.html`."""

import pathlib

import numpy as np

MAX_FACES = 60_000
"""More than a report needs; a finer mesh is thinned for the viewer alone."""


def pack(ply: pathlib.Path) -> bytes:
    """Reads a PLY with vertex colours and packs it for `templates/viewer.js`.

    Returns:
      uint32 V, F; uint16 positions [V, 3] over [-1, 1]; uint8 sRGB colours [V, 3];
      padding to 4 bytes; uint32 triangles [F, 3]; little-endian.
    """
    import trimesh

    mesh = trimesh.load(ply, process=False)
    vertices = np.asarray(mesh.vertices)
    faces = np.asarray(mesh.faces)
    colors = np.asarray(mesh.visual.vertex_colors)[:, :3]
    cells = 160
    while len(faces) > MAX_FACES:
        vertices, faces, colors = cluster(vertices, faces, colors, cells)
        cells = cells * 3 // 4
    position = np.round((np.clip(vertices, -1, 1) * 0.5 + 0.5) * 65535)
    head = np.array([len(vertices), len(faces)], "<u4").tobytes()
    body = position.astype("<u2").tobytes() + colors.astype(np.uint8).tobytes()
    padding = b"\0" * (-(len(head) + len(body)) % 4)
    return head + body + padding + faces.astype("<u4").tobytes()


def cluster(
    vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray, cells: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merges the vertices in each cell of a grid into their mean.

    Args:
      vertices: [V, 3] in [-1, 1].
      faces: [F, 3].
      colors: [V, 3].
      cells: of the grid along an axis.

    Returns:
      The same for the thinner mesh; triangles that collapsed are gone.
    """
    cell = np.floor((vertices * 0.5 + 0.5) * cells).astype(np.int64)
    _, group, size = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.zeros((len(size), 3))
        np.add.at(total, group, values)
        return total / size[:, None]

    faces = group[faces]
    a, b, c = faces.T
    return mean(vertices), faces[(a != b) & (b != c) & (c != a)], mean(colors)
