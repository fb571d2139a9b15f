# SPDX-License-Identifier: Apache-2.0
"""Files of textured meshes, read again by another program: place, colour, way up."""

import json
import struct

import numpy as np
import pytest
import trimesh
from PIL import Image

from vsd_jax.program.export import atlas, textured

SIZE = 64
SPHERE = trimesh.creation.icosphere(subdivisions=2, radius=0.8)


def place_color(points):
    return 0.5 + 0.5 * points


@pytest.fixture(scope="module")
def mesh():
    return textured.bake_mesh(
        SPHERE.vertices,
        SPHERE.faces,
        place_color,
        texture_size=SIZE,
        max_faces=0,
        chunk=500,
    )


def save(path, mesh):
    """Writes a GLB or OBJ and reads it again."""
    if path.suffix == ".glb":
        textured.save_textured_glb(path, mesh, double_sided=True)
        (loaded,) = trimesh.load(path, process=False).geometry.values()
        return loaded, loaded.visual.material.baseColorTexture
    textured.save_obj(path, mesh)
    loaded = trimesh.load(path, process=False)
    return loaded, loaded.visual.material.image


@pytest.fixture(params=[".glb", ".obj"])
def path(request, tmp_path):
    return tmp_path / f"mesh{request.param}"


def test_file_reloads_with_faces_texture_and_colours(path, mesh):
    loaded, image = save(path, mesh)
    assert len(loaded.faces) == len(SPHERE.faces)
    np.testing.assert_allclose(
        loaded.triangles, SPHERE.vertices[SPHERE.faces], atol=1e-6
    )
    assert loaded.volume > 0
    np.testing.assert_array_equal(np.asarray(image)[..., :3], mesh.texture)
    # trimesh reads the nearest texel; a texel is about 0.06 wide here.
    seen = loaded.visual.to_color().vertex_colors[:, :3] / 255
    assert np.abs(seen - place_color(loaded.vertices)).max() < 0.06
    outward = loaded.vertices / np.linalg.norm(loaded.vertices, axis=1)[:, None]
    assert (np.sum(loaded.vertex_normals * outward, axis=1) > 0.99).all()


def test_image_is_the_right_way_up_and_not_mirrored(path):
    """A square with its corners at the corners of an image of four colours."""
    place = np.array([[-1, 1, 0], [1, 1, 0], [-1, -1, 0], [1, -1, 0]], np.float32)
    uv = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    faces = np.array([[0, 2, 1], [1, 2, 3]])
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
    texture = colors.reshape(2, 2, 3).repeat(8, axis=0).repeat(8, axis=1)
    normals = textured.vertex_normals(place, faces)
    np.testing.assert_allclose(normals, [[0, 0, 1]] * 4)
    cut = atlas.Atlas(np.arange(4), faces, uv * 0.9 + 0.05, 16, 16)
    loaded, _ = save(path, textured.TexturedMesh(place, normals, cut, texture))
    seen = loaded.visual.to_color().vertex_colors[:, :3]
    for point, color in zip(place, colors, strict=True):
        (vertex,) = np.flatnonzero(np.abs(loaded.vertices - point).max(axis=1) < 1e-6)
        np.testing.assert_array_equal(seen[vertex], color)


def test_glb_says_what_the_standard_wants(tmp_path, mesh):
    textured.save_textured_glb(tmp_path / "m.glb", mesh, double_sided=False)
    content = (tmp_path / "m.glb").read_bytes()
    (length,) = struct.unpack("<I", content[12:16])
    tree = json.loads(content[20 : 20 + length])
    (primitive,) = tree["meshes"][0]["primitives"]
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "TEXCOORD_0"}
    (material,) = tree["materials"]
    assert material["extensions"] == {"KHR_materials_unlit": {}}
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert material["doubleSided"] is False
    (texture,) = tree["textures"]
    assert tree["images"][texture["source"]]["mimeType"] == "image/png"
    sampler = tree["samplers"][texture["sampler"]]
    assert sampler == {"magFilter": 9729, "minFilter": 9987} | {
        "wrapS": 33071,
        "wrapT": 33071,
    }


def test_glb_normals_are_the_smooth_ones_at_cuts_too(tmp_path, mesh):
    loaded, _ = save(tmp_path / "m.glb", mesh)
    stored = loaded.vertex_normals
    np.testing.assert_allclose(stored, mesh.normals[mesh.atlas.vertex_map], atol=1e-5)
    assert np.linalg.norm(stored, axis=1) == pytest.approx(1, abs=1e-5)


def test_obj_stays_closed_and_its_names_are_safe(tmp_path, mesh):
    path = tmp_path / "a red $mushroom.v2.obj"
    textured.save_obj(path, mesh)
    stem = "a_red__mushroom_v2"
    assert {p.name for p in tmp_path.iterdir()} == {
        *(path.name, f"{stem}.mtl", f"{stem}.png")
    }
    text = path.read_text()
    assert f"mtllib {stem}.mtl\n" in text
    assert f"map_Kd {stem}.png\n" in (tmp_path / f"{stem}.mtl").read_text()
    assert Image.open(tmp_path / f"{stem}.png").size == (SIZE, SIZE)
    rows = [line.split()[1:] for line in text.splitlines() if line.startswith("f ")]
    faces = np.array([[int(corner.split("/")[0]) for corner in row] for row in rows])
    np.testing.assert_array_equal(faces - 1, SPHERE.faces)
    assert text.count("\nv ") == len(SPHERE.vertices)


def test_normal_without_an_area_is_a_unit_vector():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]], float)
    normals = textured.vertex_normals(vertices, np.array([[0, 1, 2], [3, 3, 3]]))
    np.testing.assert_allclose(normals, [[0, 0, 1]] * 3 + [[0, 1, 0]])
