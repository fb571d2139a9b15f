# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import mesh_shapes as shapes
import numpy as np
import pytest
import trimesh

from vsd_jax.scene.mesh import surface

N = 6


def all_of(found):
    normals = surface.vertex_normals(found)
    return {
        "normals": normals,
        "face": surface.face_consistency(found),
        "vertex": surface.vertex_consistency(found, normals),
        "laplacian": surface.laplacian(found),
    }


@jax.jit
def values_and_gradients(sdf, offsets):
    def total(sdf, offsets):
        out = all_of(shapes.marcher(N)(sdf, offsets))
        return out["face"] + out["vertex"] + out["laplacian"]

    found = shapes.marcher(N)(sdf, offsets)
    return found, all_of(found), jax.grad(total, (0, 1))(sdf, offsets)


def on(shape):
    sdf = getattr(shapes, shape)(N)
    offsets = 0.5 * shapes.random_offsets(N)
    return values_and_gradients(*(jnp.asarray(x, jnp.float32) for x in (sdf, offsets)))


@pytest.mark.parametrize("shape", ["ball", "noise"])
def test_regularisers_equal_their_definitions_over_unique_edges(shape):
    found, got, _ = on(shape)
    vertices, faces, _ = shapes.triangles(found)
    mesh = trimesh.Trimesh(vertices.astype(float), faces, process=False)
    edges = mesh.edges_unique
    a, b = vertices[edges].astype(float).transpose(1, 0, 2)
    steps = np.zeros_like(vertices, dtype=float)
    np.add.at(steps, edges[:, 0], a - b)
    np.add.at(steps, edges[:, 1], b - a)
    expected = np.linalg.norm(steps, axis=1).mean()
    np.testing.assert_allclose(got["laplacian"], expected, rtol=1e-5)

    normals = np.zeros_like(vertices, dtype=float)
    a, b, c = vertices[faces].astype(float).transpose(1, 0, 2)
    area = np.cross(b - a, c - a)
    for corner in faces.T:
        np.add.at(normals, corner, area)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    np.testing.assert_allclose(got["normals"].T[: len(vertices)], normals, atol=1e-4)
    ends = normals[edges]
    expected = 1 - np.einsum("ec,ec->e", ends[:, 0], ends[:, 1]).mean()
    np.testing.assert_allclose(got["vertex"], expected, rtol=1e-4)

    area /= np.linalg.norm(area, axis=1, keepdims=True)
    pairs = area[mesh.face_adjacency]
    expected = 1 - np.einsum("ec,ec->e", pairs[:, 0], pairs[:, 1]).mean()
    np.testing.assert_allclose(got["face"], expected, rtol=1e-3)


def test_normals_of_a_ball_are_radial_and_unit():
    found, got, _ = on("ball")
    vertices, _, _ = shapes.triangles(found)
    normals = np.asarray(got["normals"].T)[: len(vertices)]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-5)
    radial = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    assert np.einsum("vc,vc->v", normals, radial).min() > 0.8


def test_gradients_are_finite_and_not_zero():
    for leaf in on("noise")[2]:
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


def test_gradients_are_finite_without_any_face():
    size = shapes.ball(N).size
    _, got, gradients = values_and_gradients(-jnp.ones(size), jnp.zeros((3, size)))
    assert got["face"] == got["vertex"] == got["laplacian"] == 0
    for leaf in gradients:
        assert np.isfinite(leaf).all() and not np.asarray(leaf).any()
