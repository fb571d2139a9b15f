# SPDX-License-Identifier: Apache-2.0
"""A surface with a baked texture, and its files: GLB, and OBJ with MTL and PNG.

It does not matter where the surface comes from: a level set, or tetrahedra. The colours
contain the light of the renders, so both materials are shown without light.
"""

import pathlib
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from vsd_jax.program.export import atlas, export
from vsd_jax.program.export.atlas import Atlas
from vsd_jax.program.folder import writer

_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE = 9729, 9987, 33071  # as in OpenGL


class TexturedMesh(NamedTuple):
    """A mesh with a texture.

    Attributes:
      vertices: [V, 3] float32, scene units.
      normals: [V, 3] float32, unit, outward, smooth.
      atlas: its faces, in the vertices of the atlas, and where they lie in the image.
      texture: [H, W, 3] uint8 sRGB, row 0 at the top.
    """

    vertices: np.ndarray
    normals: np.ndarray
    atlas: Atlas
    texture: np.ndarray


def bake_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    color: export.ColorFn,
    *,
    texture_size: int,
    max_faces: int,
    chunk: int,
    samples_per_axis: int = 1,
) -> TexturedMesh:
    """Thins a mesh, cuts it into charts and bakes a field into its texture.

    Args:
      vertices: [V, 3] scene units.
      faces: [F, 3], counter-clockwise seen from outside.
      color: sRGB colours of points; always called with `chunk` points.
      texture_size: side of the texture, texels.
      max_faces: faces that may be left; 0 = no limit.
      chunk: points in a call of `color`.
      samples_per_axis: samples along each side of a texel.

    Raises:
      RunError: if the mesh is empty, has no area, or the texture is too small for it.
    """
    vertices, faces = atlas.decimate(vertices, faces, max_faces)
    cut = atlas.unwrap(vertices, faces, texture_size)
    texture = atlas.bake(
        cut, vertices, color, chunk=chunk, samples_per_axis=samples_per_axis
    )
    return TexturedMesh(vertices, vertex_normals(vertices, faces), cut, texture)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[V, 3] unit normals: those of the faces around a vertex, weighted by angle.

    A vertex whose faces have no area points up, since formats want a unit vector.
    """
    import trimesh

    normals = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
    nowhere = np.linalg.norm(normals, axis=1, keepdims=True) < 0.5
    return np.where(nowhere, [[0.0, 1.0, 0.0]], normals).astype(np.float32)


def sample_surface(
    mesh: TexturedMesh, num_points: int, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Random points, evenly over the area.

    Returns:
      (points [N, 3] in scene units, uv [N, 2]).
    """
    random = np.random.default_rng(seed)
    corners = mesh.vertices[mesh.atlas.vertex_map[mesh.atlas.faces]].astype(np.float64)
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = random.choice(len(area), num_points, p=area / area.sum())
    weights = random.dirichlet((1, 1, 1), num_points)
    points = np.einsum("nc,ncd->nd", weights, corners[face])
    uv = np.einsum("nc,ncd->nd", weights, mesh.atlas.uv[mesh.atlas.faces[face]])
    return points.astype(np.float32), uv


def texture_error(
    mesh: TexturedMesh, color: export.ColorFn, *, chunk: int, num_points: int = 20_000
) -> dict[str, float]:
    """How far the texture is from the field that it was baked from.

    Args:
      mesh: the mesh.
      color: the field.
      chunk: points in a call of `color`.
      num_points: random points, evenly over the area.

    Returns:
      `median` and `p95` (95th percentile) over points and channels of the absolute
      difference between a bilinear lookup and the field; colours are in [0, 1].
    """
    points, uv = sample_surface(mesh, num_points)
    wanted = np.clip(export.query(color, points, chunk=chunk), 0, 1)
    difference = np.abs(atlas.lookup(mesh.texture, uv) - wanted)
    median, p95 = np.quantile(difference, [0.5, 0.95])
    return {"median": float(median), "p95": float(p95)}


def save_textured_glb(
    path: pathlib.Path, mesh: TexturedMesh, *, double_sided: bool
) -> None:
    """Writes a GLB with UVs, normals, the texture as PNG and an unlit material.

    Args:
      path: the file.
      mesh: what to write.
      double_sided: whether the back of a face is drawn (rooms: no, so that a viewer
        outside looks through the near wall).
    """
    import trimesh

    cut = mesh.atlas
    # trimesh counts v upwards and turns it over when it writes glTF.
    upward = np.stack([cut.uv[:, 0], 1 - cut.uv[:, 1]], axis=1)
    shell = trimesh.Trimesh(
        mesh.vertices[cut.vertex_map],
        cut.faces,
        vertex_normals=mesh.normals[cut.vertex_map],
        visual=trimesh.visual.TextureVisuals(
            uv=upward,
            material=trimesh.visual.material.PBRMaterial(
                name="baked",
                baseColorTexture=Image.fromarray(mesh.texture),
                doubleSided=double_sided,
                metallicFactor=0.0,
                roughnessFactor=1.0,
            ),
        ),
        process=False,
    )

    def finish(tree: dict) -> None:
        for material in tree["materials"]:
            material["extensions"] = {"KHR_materials_unlit": {}}
        tree["extensionsUsed"] = ["KHR_materials_unlit"]
        sampler = {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR}
        sampler |= {"wrapS": _CLAMP_TO_EDGE, "wrapT": _CLAMP_TO_EDGE}
        tree["samplers"] = [sampler]
        for texture in tree["textures"]:
            texture["sampler"] = 0

    content = trimesh.exchange.gltf.export_glb(
        shell.scene(), include_normals=True, tree_postprocessor=finish
    )
    writer.write_bytes(path, content)


def save_obj(path: pathlib.Path, mesh: TexturedMesh) -> None:
    """Writes an OBJ, and beside it the MTL and PNG that it names.

    A vertex on a cut stands once, so that a closed mesh stays closed. The names in the
    files are relative and have no blanks, which many readers cannot read.

    Args:
      path: the OBJ. The others have its name, in which anything but letters, digits,
        `-` and `_` becomes `_`.
      mesh: what to write.
    """
    cut, path = mesh.atlas, pathlib.Path(path)
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)
    upward = np.stack([cut.uv[:, 0], 1 - cut.uv[:, 1]], axis=1)  # OBJ's v points up
    corner = cut.vertex_map[cut.faces]
    index = np.stack([corner, cut.faces, corner], axis=2).reshape(-1, 9) + 1
    lines = [
        f"mtllib {stem}.mtl",
        "usemtl baked",
        *_rows("v %.6f %.6f %.6f", mesh.vertices),
        *_rows("vt %.6f %.6f", upward),
        *_rows("vn %.4f %.4f %.4f", mesh.normals),
        *_rows("f %d/%d/%d %d/%d/%d %d/%d/%d", index),
    ]
    # illum 0: the colour as it is.
    material = f"newmtl baked\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 0\nmap_Kd {stem}.png"
    writer.save_png(path.with_name(f"{stem}.png"), mesh.texture / np.float32(255))
    writer.write_bytes(path.with_name(f"{stem}.mtl"), f"{material}\n".encode())
    writer.write_bytes(path, ("\n".join(lines) + "\n").encode())


def _rows(form: str, values: np.ndarray) -> list[str]:
    return [form % tuple(row) for row in values.tolist()]
