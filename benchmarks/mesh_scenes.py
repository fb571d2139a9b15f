# SPDX-License-Identifier: Apache-2.0
"""Meshes, views and their capacities for `benchmarks/mesh.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vsd_jax.scene.camera import orbit_camera
from vsd_jax.scene.mesh import capacity, geometry, isosurface, raster, tet_grid
from vsd_jax.scene.mesh import view as mesh

MAX_OFFSET, NEAR = 0.2, 0.1


def view():
    """The camera of all parts."""
    return orbit_camera(30.0, 25.0, 3.0, 40.0)


def bumpy(resolution):
    """Distances [G] of a bumpy ball."""
    x = np.asarray(tet_grid.grid_positions(resolution), np.float64)
    bumps = 0.05 * np.sin(7 * x[0] + 1) * np.sin(6 * x[1]) * np.sin(8 * x[2] + 2)
    return jnp.asarray(0.6 - np.linalg.norm(x, axis=0) + bumps, jnp.float32)


def rings(resolution):
    """Distances [G] of two rings through each other."""
    x = np.asarray(tet_grid.grid_positions(resolution), np.float64)
    flat = np.hypot(np.hypot(x[0] + 0.25, x[2]) - 0.5, x[1])
    upright = np.hypot(np.hypot(x[0] - 0.25, x[1]) - 0.5, x[2])
    return jnp.asarray(0.16 - np.minimum(flat, upright), jnp.float32)


def fitted(make, sizes):
    """Repeats `make(capacities)` -> (result, counts) until nothing overflows."""
    while True:
        result, counts = make(sizes)
        enough = capacity.grow(counts, sizes)
        if enough == sizes:
            return result
        sizes = enough


def with_room(counts):
    """Capacities a third above the counts."""
    return type(counts)(*(int(1.33 * int(c)) + 64 for c in counts))


def march(params, resolution, sizes):
    """Our surface of {"sdf", "offsets"}."""
    marcher = geometry.make_marcher(
        resolution=resolution, max_offset=MAX_OFFSET, mesh_sizes=sizes
    )
    return marcher(params)


def start_params(sdf):
    """Distances with small random offsets."""
    offsets = 0.3 * jax.random.normal(jax.random.key(0), (3, sdf.size))
    return {"sdf": sdf, "offsets": offsets}


def fit_surface(params, resolution):
    """The surface and capacities a third above what it needs."""
    run = jax.jit(march, static_argnums=(1, 2))

    def make(sizes):
        found = run(params, resolution, sizes)
        return found, found.counts

    found = fitted(make, isosurface.guess_capacities(resolution))
    return found, with_room(found.counts)


def fit_view(found, size):
    """Capacities of one view of a surface, a third above what it needs."""

    run = jax.jit(draw, static_argnums=(1, 2))

    def make(sizes):
        _, counts = run(found, size, sizes)
        return counts, counts

    start = raster.guess_capacities(size, size, found.faces.shape[1])
    return with_room(fitted(make, start))


def make_adam_step(loss, params, learning_rate, *fixed):
    """`step()`: gradient of loss(params, *fixed), Adam in place; and its program."""
    tx = optax.adam(learning_rate)

    def step(params, state, *fixed):
        update, state = tx.update(jax.grad(loss)(params, *fixed), state)
        return optax.apply_updates(params, update), state

    carry = [params, tx.init(params)]
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*carry, *fixed).compile()

    def run():
        carry[:] = compiled(*carry, *fixed)
        return jax.block_until_ready(carry[0])

    return run, compiled


def draw(found, size, sizes):
    """(normals, mask [size, size]), counts."""
    out, counts = mesh.render_mesh(
        found,
        view(),
        mesh.shade_normals(jnp.zeros(3)),
        height=size,
        width=size,
        near=NEAR,
        capacities=sizes,
    )
    return (out.rgb, out.opacity), counts


def see(vertices, faces, size, sizes):
    """Visibility of one view and its counts."""
    options = dict(height=size, width=size)
    screen = raster.project(vertices, view(), near=NEAR, **options)
    return raster.find_visible(screen, faces, capacities=sizes, **options)
