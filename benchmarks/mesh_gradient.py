# SPDX-License-Identifier: Apache-2.0
"""How near the gradient of the antialiased mask is to that of the true image.

The truth: central differences of the mask of an image eight times finer each way,
averaged over the pixels, for eight smooth motions of the vertices.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.mesh_scenes import NEAR, fit_surface, fit_view, see, start_params, view
from vsd_jax.scene.mesh import capacity, raster
from vsd_jax.scene.mesh.antialias import antialias


def mask_loss(vertices, found, size, sizes):
    """Sum of a smooth pattern times the antialiased mask, and counts."""
    found, options = found.replace(vertices=vertices), dict(height=size, width=size)
    screen = raster.project(vertices, view(), near=NEAR, **options)
    seen, counts = raster.find_visible(screen, found.faces, capacities=sizes, **options)
    hard = (seen.face >= 0).astype(vertices.dtype)[None]
    image, more = antialias(hard, screen, found, seen, capacities=sizes, **options)
    return jnp.vdot(image[0], pattern(size)), jax.tree.map(jnp.add, counts, more)


def pattern(size):
    """Smooth weights [size^2]."""
    y, x = np.mgrid[:size, :size] / size
    return jnp.asarray((np.cos(5 * x + 2 * y) + np.sin(4 * y - 3 * x)).reshape(-1))


def motions(vertices):
    """Three translations, growth and four smooth warps [3, V]."""
    one, rng = np.ones_like(vertices[0]), np.random.default_rng(6)
    yield from (np.eye(3)[axis][:, None] * one for axis in range(3))
    yield vertices
    for _ in range(4):
        waves = rng.normal(scale=3, size=(3, 3)) @ vertices
        yield np.sin(waves + rng.uniform(0, 6, (3, 1)))


def gradients(make_sdf, resolution, size):
    """(name, slope, relative error) of the mask's gradient in eight directions."""
    found, _ = fit_surface(start_params(make_sdf(resolution)), resolution)
    sizes, fine = fit_view(found, size), 8 * size
    fine_sizes = raster.guess_capacities(fine, fine, 4 * found.faces.shape[1])
    weights = jnp.kron(pattern(size).reshape(size, size), jnp.ones((8, 8))) / 64
    loss = jax.jit(jax.grad(mask_loss, has_aux=True), static_argnums=(2, 3))
    gradient, counts = loss(found.vertices, found, size, sizes)
    capacity.check(counts, sizes)

    @jax.jit
    def truth(vertices):
        seen, counts = see(vertices, found.faces, fine, fine_sizes)
        return jnp.vdot(seen.face.reshape(fine, fine) >= 0, weights), counts

    step, got, expected = 0.8 / size, [], []
    for move in motions(np.asarray(found.vertices)):
        got.append(float(jnp.vdot(gradient, move)))
        ahead, counts = truth(found.vertices + step * move)
        behind, _ = truth(found.vertices - step * move)
        capacity.check(counts, fine_sizes)
        expected.append(float(ahead - behind) / (2 * step))
    got, expected = np.array(got), np.array(expected)
    slope = got @ expected / (expected @ expected)
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    name = f"{make_sdf.__name__}, {int(found.counts.faces)} faces, {size} px"
    return name, slope, error
