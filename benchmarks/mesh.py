# SPDX-License-Identifier: Apache-2.0
"""Speed and exactness of the mesh path against PyTorch, ray casting and truth.

  OMP_WAIT_POLICY=passive python -m benchmarks.mesh [--rounds 9] [--size 512]
      [--resolution 52] [--parts march visibility gradient step texture]

Needs the `[bench]` and `[toybox]` extras (torch, embreex). `march`: marching tetrahedra
with gradient against two PyTorch ones, after a check that all three agree;
`visibility`: the rasteriser against embree on the same mesh; `gradient`: that of the
mask against finite differences of a finer image; `step`: a whole geometry step at 64
pixels and at `--size`; `texture`: a step of the texture stage. Prints Markdown for
`docs/performance.md`.
"""

import argparse
import os
import sys

if os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive":
    # As in benchmarks/nerf.py: spinning threads would make the comparison worthless.
    sys.exit("Run with OMP_WAIT_POLICY=passive in the environment.")

import jax
import jax.numpy as jnp
import numpy as np
import torch
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from benchmarks import measure, torch_mesh
from benchmarks.mesh_gradient import gradients
from benchmarks.mesh_scenes import (
    MAX_OFFSET,
    bumpy,
    draw,
    fit_surface,
    fit_view,
    make_adam_step,
    march,
    rings,
    see,
    start_params,
    view,
)
from benchmarks.mesh_texture import make_texture_step
from vsd_jax.scene.camera import pixel_rays
from vsd_jax.scene.mesh import surface, tet_grid
from vsd_jax.scene.nerf.encoding import encode, encode_differentiable


def our_volume(params, resolution, sizes):
    """Volume inside the mesh: a sum that no order of faces changes."""
    found = march(params, resolution, sizes)
    a, b, c = (found.vertices[:, corner] for corner in found.faces)
    return jnp.sum(a * jnp.cross(b, c, axis=0)) / 6


def marching(resolution, rounds):
    """Rows: ours against both references, forward and backward."""
    params = start_params(bumpy(resolution))
    _, sizes = fit_surface(params, resolution)
    ours = jax.jit(jax.value_and_grad(our_volume), static_argnums=(1, 2))
    ours = ours.lower(params, resolution, sizes).compile()
    check_equal(min(resolution, 24))
    grid = torch_mesh.make_grid(resolution)
    scale = MAX_OFFSET * tet_grid.cell_width(resolution)
    tensors = [torch.from_numpy(np.array(params[k].T)) for k in ("sdf", "offsets")]

    def reference(function, threads):
        def run():
            torch.set_num_threads(threads)
            return torch_mesh.value_and_gradient(function, *tensors, grid, scale)

        return run

    candidates = {"ours": lambda: jax.block_until_ready(ours(params))}
    for name in ("unique", "static"):
        function = getattr(torch_mesh, f"march_{name}")
        for threads in (1, 2):
            candidates[f"{name} {threads}"] = reference(function, threads)
    times = measure.median_cpu_ms(candidates, rounds)
    best = {n: min(times[f"{n} 1"], times[f"{n} 2"]) for n in ("unique", "static")}
    rows = [["ours", f"{times['ours']:.1f}", "", ""]]
    for name, bar in (("unique", 25), ("static", 6)):
        ratio = best[name] / times["ours"]
        row = [f"torch, {name} edges", f"{best[name]:.0f}", f"{ratio:.1f}"]
        rows.append([*row, at_least(ratio, bar)])
    return rows


def check_equal(resolution):
    """Stops if values or gradients in float64 differ by more than 1e-6 of the largest.

    In float32 single entries cancel to a few digits, where an edge is nearly parallel
    to the surface.
    """
    grid = torch_mesh.make_grid(resolution, torch.float64)
    scale = MAX_OFFSET * tet_grid.cell_width(resolution)
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64), start_params(bumpy(resolution))
        )
        _, sizes = fit_surface(params, resolution)
        value, gradient = jax.value_and_grad(our_volume)(params, resolution, sizes)
        ours = [np.array(x) for x in (value, gradient["sdf"], gradient["offsets"].T)]
        tensors = [torch.from_numpy(np.array(params[k].T)) for k in ("sdf", "offsets")]
    for function in (torch_mesh.march_unique, torch_mesh.march_static):
        theirs = torch_mesh.value_and_gradient(function, *tensors, grid, scale)
        for a, b in zip(ours, theirs, strict=True):
            b = b.numpy()
            if b.dtype != a.dtype or np.abs(a - b).max() > 1e-6 * np.abs(b).max():
                sys.exit("The marching tetrahedra of torch and of this project differ.")


def at_least(value, bar):
    """A bar from below, and whether it is kept."""
    return f">= {bar}: {'yes' if value >= bar else 'NO'}"


def at_most(value, bar):
    """A bar from above, and whether it is kept."""
    return f"<= {bar}: {'yes' if value <= bar else 'NO'}"


def visibility(resolution, size, rounds):
    """Rows: coverage, depth and time against embree, tracing alone."""
    found, _ = fit_surface(start_params(bumpy(resolution)), resolution)
    sizes = fit_view(found, size)
    ours = jax.jit(see, static_argnums=(2, 3))
    ours = ours.lower(found.vertices, found.faces, size, sizes).compile()
    seen, _ = ours(found.vertices, found.faces)
    num_vertices, num_faces = int(found.counts.vertices), int(found.counts.faces)
    solid = trimesh.Trimesh(
        np.asarray(found.vertices.T)[:num_vertices],
        np.asarray(found.faces.T)[:num_faces],
        process=False,
    )
    caster = RayMeshIntersector(solid, scale_to_box=False)
    origin, directions = (np.asarray(x) for x in pixel_rays(view(), size, size))
    directions = directions.reshape(-1, 3)
    origins = np.broadcast_to(origin, directions.shape).copy()
    hit = caster.intersects_first(origins, directions)
    face = np.asarray(seen.face)
    normal, middle = solid.face_normals[hit], solid.triangles_center[hit]
    distance = np.einsum("pc,pc->p", normal, middle - origins)
    distance /= np.einsum("pc,pc->p", normal, directions)
    depth = distance * -(directions @ np.asarray(view().cam_to_world)[:3, 2])
    both = (hit >= 0) & (face >= 0)
    wrong = np.abs(1 / np.asarray(seen.inverse_depth)[both] - depth[both]) > 1e-3
    uncovered = int(((hit >= 0) != (face >= 0)).sum())
    times = measure.median_cpu_ms(
        {
            "ours": lambda: jax.block_until_ready(ours(found.vertices, found.faces)),
            "embree": lambda: caster.intersects_first(origins, directions),
        },
        rounds,
    )
    ratio = times["ours"] / times["embree"]
    spent = f"{times['ours']:.1f} of {times['embree']:.1f} ms"
    return [
        [f"coverage, {num_faces} faces", f"{uncovered} px", at_most(uncovered, 0)],
        ["depth off by > 1e-3", f"{wrong.sum()} px", at_most(int(wrong.sum()), 0)],
        ["CPU time, projection included", spent, at_most(round(ratio, 2), 0.8)],
    ]


def gradient_row(make_sdf, resolution):
    """Row: slope and relative error of the mask's gradient at 128 pixels."""
    name, slope, error = gradients(make_sdf, resolution, 128)
    kept = 0.9 <= slope <= 1.1 and error <= 0.1
    bar = f"0.9 to 1.1, <= 0.1: {'yes' if kept else 'NO'}"
    return [name, f"{slope:.3f}", f"{error:.3f}", bar]


def make_step(resolution, size):
    """`step()`: march, draw, both penalties, backward, Adam; and temporary MB."""
    params = start_params(bumpy(resolution))
    found, mesh_sizes = fit_surface(params, resolution)
    sizes = fit_view(found, size)

    def loss(params):
        found = march(params, resolution, mesh_sizes)
        (rgb, mask), _ = draw(found, size, sizes)
        smooth = surface.vertex_consistency(found, surface.vertex_normals(found))
        return jnp.mean(rgb**2) + jnp.mean(mask) + smooth + surface.laplacian(found)

    run, compiled = make_adam_step(loss, params, 1e-4)
    return run, compiled.memory_analysis().temp_size_in_bytes / 1e6


def steps(resolution, size, rounds):
    """Rows: the geometry step at 64 pixels and at `size`."""
    runs = {s: make_step(resolution, s) for s in (64, size)}
    times = measure.median_cpu_ms({str(s): r for s, (r, _) in runs.items()}, rounds)
    ratio, megabytes = times[str(size)] / times["64"], runs[size][1]
    return [
        ["64 px", f"{times['64']:.0f} ms", ""],
        [f"{size} px", f"{times[str(size)]:.0f} ms", at_most(round(ratio, 1), 5)],
        [
            f"{size} px, temporary memory",
            f"{megabytes:.0f} MB",
            at_most(megabytes, 150),
        ],
    ]


def texture_steps(resolution, rounds):
    """Rows: the texture step at 64 pixels, and with plain autodiff of the grid."""
    runs = {
        "ours": make_texture_step(resolution, 64, encode),
        "plain": make_texture_step(resolution, 64, encode_differentiable),
    }
    times = measure.median_cpu_ms(runs, rounds)
    ratio = times["plain"] / times["ours"]
    return [
        ["ours", f"{times['ours']:.0f} ms", "", ""],
        [
            "plain autodiff of the hash grid",
            f"{times['plain']:.0f} ms",
            f"{ratio:.1f}",
            at_least(ratio, 4),
        ],
    ]


def main():
    """Runs the parts that are asked for and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--resolution", type=int, default=52)
    parser.add_argument("--size", type=int, default=512)
    known = ["march", "visibility", "gradient", "step", "texture"]
    parser.add_argument("--parts", nargs="+", choices=known, default=known)
    args = parser.parse_args()
    n, size, rounds = args.resolution, args.size, args.rounds
    print(measure.machine(), f"jax {jax.__version__}, torch {torch.__version__}")
    if "march" in args.parts:
        header = ["marching tetrahedra with gradient", "CPU ms", "times ours", "bar"]
        print("\n" + measure.table(header, marching(n, rounds)), flush=True)
    if "visibility" in args.parts:
        header = ["visibility against embree", "", "bar"]
        print("\n" + measure.table(header, visibility(n, size, rounds)), flush=True)
    if "gradient" in args.parts:
        header = ["gradient of the mask", "slope", "relative error", "bar"]
        rows = [gradient_row(f, r) for f in (bumpy, rings) for r in (n // 2, n)]
        print("\n" + measure.table(header, rows), flush=True)
    if "step" in args.parts:
        header = ["geometry step with Adam", "CPU", "bar"]
        print("\n" + measure.table(header, steps(n, size, rounds)), flush=True)
    if "texture" in args.parts:
        header = ["texture step with Adam, 64 px", "CPU", "times ours", "bar"]
        print("\n" + measure.table(header, texture_steps(n, rounds)), flush=True)
    print("\n" + measure.machine())


if __name__ == "__main__":
    main()
