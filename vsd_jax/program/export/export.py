# SPDX-License-Identifier: Apache-2.0
"""From a density field to a coloured mesh file.

The surface is the level set of the density, found by marching cubes on a grid. Its
level is chosen against the renders, because users judge the mesh by them: a ray hits
the level set exactly when its largest density exceeds the level, so every candidate is
compared with the rendered opacity and depth without making a single mesh.

Colour: a scene's colours are sRGB values. PLY keeps them (uint8, the custom there);
glTF defines COLOR_0 as linear, so the GLB holds linear float32. The colours
contain the light of the renders, hence the unlit material. Axes: the world is glTF's
already (right-handed, +Y up, front +Z, `scene/camera.py`), one unit = one metre.
"""

import pathlib
from collections.abc import Callable

import numpy as np

from vsd_jax.program.export import sdf
from vsd_jax.program.folder import writer
from vsd_jax.program.terminal.errors import RunError
from vsd_jax.types import Mesh

DensityFn = Callable[[np.ndarray], np.ndarray]
"""`(points [N, 3]) -> density [N]`, per scene unit."""

ColorFn = Callable[[np.ndarray], np.ndarray]
"""`(points [N, 3]) -> sRGB colours [N, 3] in [0, 1]`."""


def density_grid(density: DensityFn, *, resolution: int, chunk: int) -> np.ndarray:
    """Density at the nodes of a regular grid over [-1, 1]^3.

    Args:
      density: the field; always called with `chunk` points, so that it compiles once.
      resolution: nodes along each axis.
      chunk: points in a call.

    Returns:
      [R, R, R] float32, indexed x, y, z.
    """
    axis = np.linspace(-1, 1, resolution, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return query(density, points, chunk=chunk).reshape((resolution,) * 3)


def query(
    field: Callable[[np.ndarray], np.ndarray], points: np.ndarray, *, chunk: int
) -> np.ndarray:
    """Evaluates a field on any number of points in calls of one fixed size."""
    values = []
    for start in range(0, len(points), chunk):
        part = points[start : start + chunk]
        padded = np.zeros((chunk, 3), np.float32)
        padded[: len(part)] = part
        values.append(np.asarray(field(padded), np.float32)[: len(part)])
    return np.concatenate(values) if values else np.zeros((0,), np.float32)


def choose_level(
    density: np.ndarray,
    tdist: np.ndarray,
    opacity: np.ndarray,
    depth: np.ndarray,
    *,
    num_levels: int = 96,
    level: float = 0.0,
) -> tuple[float, float]:
    """Chooses the level whose surface agrees best with the renders.

    The measure is the overlap (intersection over union) of the level set's silhouette
    with `opacity > 0.5`, less the mean distance between the first crossing and the
    rendered depth in scene units, over the rays that both call solid.

    Args:
      density: [R, S] along R rays of several views.
      tdist: [R, S] distances of the samples along the rays, ascending, scene units.
      opacity: [R] rendered, in [0, 1].
      depth: [R] rendered, scene units.
      num_levels: candidates, evenly spaced in the logarithm over three decades.
      level: the only candidate; 0 = these.

    Returns:
      (level, silhouette overlap in [0, 1]).

    Raises:
      RunError: if the renders show nothing, or the density is zero on every ray.
    """
    peak = density.max(axis=1)
    solid = opacity > 0.5
    if not solid.any() or not (peak > 0).any():
        raise RunError(
            "The scene is empty: no pixel of the test views is solid, so there is no"
            " surface to export. Train longer, or look at images/ for what went wrong."
        )
    highest = np.quantile(peak[peak > 0], 0.999)
    best = (-np.inf, 0.0, 0.0)
    # Not from the lowest peak on: in a room each ray ends deep inside a wall.
    spaced = np.geomspace(1e-3 * highest, highest * 0.98, num_levels)
    for each in [level] if level else spaced:
        hit = peak > each
        both = hit & solid
        overlap = both.sum() / max((hit | solid).sum(), 1)
        first = _first_crossing(density[both], tdist[both], each)
        error = np.abs(first - depth[both]).mean() if both.any() else np.inf
        best = max(best, (overlap - error, float(each), float(overlap)))
    return best[1], best[2]


def _first_crossing(density: np.ndarray, tdist: np.ndarray, level: float) -> np.ndarray:
    """Distance [R] where each ray first exceeds `level`, linear between samples."""
    rays = np.arange(len(density))
    after = (density > level).argmax(axis=1)
    before = np.maximum(after - 1, 0)
    low, high = density[rays, before], density[rays, after]
    # A ray that starts inside has before == after and no slope to follow.
    share = np.where(high > low, (level - low) / np.maximum(high - low, 1e-12), 0)
    start, end = tdist[rays, before], tdist[rays, after]
    return start + np.clip(share, 0, 1) * (end - start)


def extract_mesh(
    grid: np.ndarray,
    color: ColorFn,
    *,
    level: float,
    closed: bool,
    min_component: float,
    chunk: int,
) -> Mesh:
    """Makes the coloured level set of a density grid over [-1, 1]^3.

    Hollows that are not seen into are filled if it is `closed` (`sdf.enclosed`): their
    walls would take faces and texels.

    Args:
      grid: [R, R, R] density at the nodes.
      color: sRGB colours of points; asked for at the vertices.
      level: density of the surface.
      closed: whether the surface is capped where it leaves the cube. An object is; a
        room is left open, so that its inside can be seen from anywhere.
      min_component: pieces with fewer faces than this share of the largest are
        dropped as floaters.
      chunk: points in a call of `color`.

    Returns:
      The mesh, faces counter-clockwise seen from outside.

    Raises:
      RunError: if nothing reaches the level, or all of an open scene.
    """
    from skimage import measure

    # The logarithm straightens the steep rise of the density across a surface; linear
    # interpolation in the density itself leaves visible terraces.
    volume = np.log1p(grid) - np.log1p(level)
    if volume.max() <= 0:
        raise RunError(
            f"No point of the scene reaches the density {level:.3g}, so the mesh would"
            " be empty. Set --config.export.level to a lower one, or to 0 (automatic)."
        )
    if not closed and volume.min() >= 0:
        raise RunError(
            f"All of the scene is denser than {level:.3g}: there is no surface. Set"
            " --config.export.level to a higher one, or to 0 (automatic)."
        )
    if closed:
        hollow = sdf.enclosed(volume > 0)
        volume = np.where(hollow, np.maximum(np.abs(volume), 1e-6), volume)
    pad = 1 if closed else 0
    volume = np.pad(volume, pad, constant_values=-np.log1p(level))
    # "ascent" is what makes dense regions the inside, by the right-hand rule.
    vertices, faces, _, _ = measure.marching_cubes(
        volume, 0.0, gradient_direction="ascent"
    )
    vertices = (vertices - pad) * (2 / (grid.shape[0] - 1)) - 1
    vertices, faces = drop_floaters(vertices, faces, min_component)
    vertices = vertices.astype(np.float32)
    colors = np.clip(query(color, vertices, chunk=chunk), 0, 1)
    return Mesh(vertices=vertices, faces=faces.astype(np.int32), colors=colors)


def drop_floaters(
    vertices: np.ndarray, faces: np.ndarray, min_component: float
) -> tuple[np.ndarray, np.ndarray]:
    """Drops pieces with fewer faces than a share of the largest, and their vertices.

    Args:
      vertices: [V, 3].
      faces: [F, 3].
      min_component: the share, in [0, 1].

    Raises:
      RunError: if there is no face.
    """
    from scipy import sparse

    if not len(faces):
        raise RunError(
            "The mesh has no faces. Train longer, or look at images/ for what went"
            " wrong."
        )
    ones = np.ones(len(faces) * 2, bool)
    rows, columns = faces[:, [0, 1]].ravel("F"), faces[:, [1, 2]].ravel("F")
    shape = (len(vertices),) * 2
    graph = sparse.csr_array((ones, (rows, columns)), shape=shape)
    _, label = sparse.csgraph.connected_components(graph, directed=False)
    size = np.bincount(label[faces[:, 0]], minlength=label.max() + 1)
    faces = faces[(size >= min_component * size.max())[label[faces[:, 0]]]]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)


def srgb_to_linear(srgb: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1 transfer function, [0, 1] -> [0, 1]."""
    srgb = np.asarray(srgb, np.float32)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def save_ply(path: pathlib.Path, mesh: Mesh) -> None:
    """Writes a binary PLY with uint8 sRGB vertex colours."""
    import trimesh

    content = trimesh.Trimesh(
        mesh.vertices,
        mesh.faces,
        vertex_colors=writer.to_uint8(mesh.colors),
        process=False,
    ).export(file_type="ply")
    writer.write_bytes(path, content)


def save_glb(path: pathlib.Path, mesh: Mesh, *, double_sided: bool) -> None:
    """Writes a GLB with linear float32 COLOR_0, normals and an unlit material.

    Args:
      path: the file.
      mesh: what to write.
      double_sided: whether the back of a face is drawn (rooms: no, so that a viewer
        outside looks through the near wall).
    """
    import trimesh

    # trimesh writes vertex colours as 8 bits, too few for linear values in the dark:
    # they travel as an attribute of their own and get their glTF name at the end.
    shell = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    shell.vertex_attributes["_COLOR"] = srgb_to_linear(mesh.colors).astype(np.float32)

    def finish(tree: dict) -> None:
        material = {
            "name": "baked",
            "doubleSided": double_sided,
            "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
            "extensions": {"KHR_materials_unlit": {}},
        }
        tree["materials"] = [material]
        tree["extensionsUsed"] = ["KHR_materials_unlit"]
        for primitive in (p for m in tree["meshes"] for p in m["primitives"]):
            attributes = primitive["attributes"]
            attributes["COLOR_0"] = attributes.pop("_COLOR")
            primitive["material"] = 0

    content = trimesh.exchange.gltf.export_glb(
        shell.scene(), include_normals=True, tree_postprocessor=finish
    )
    writer.write_bytes(path, content)
