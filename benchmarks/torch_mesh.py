# SPDX-License-Identifier: Apache-2.0
"""Marching tetrahedra in PyTorch, as a reference for speed and gradients.

Two of them on the same list of tetrahedra: `march_unique` finds the edges of the
crossed tetrahedra anew at every call, as public implementations do; `march_static`
looks them up in tables made once, a stronger reference.
"""

from typing import NamedTuple

import numpy as np
import torch

from vsd_jax.scene.mesh import tet_grid
from vsd_jax.scene.mesh.tet_grid import TET_EDGES


class Grid(NamedTuple):
    """An explicit tetrahedral grid.

    Attributes:
      positions: [G, 3] scene units.
      boundary: [G] bool.
      tets: [T, 4] int64.
      edges: [E, 2] int64, each edge once.
      tet_edges: [T, 6] int64.
    """

    positions: torch.Tensor
    boundary: torch.Tensor
    tets: torch.Tensor
    edges: torch.Tensor
    tet_edges: torch.Tensor


def make_grid(resolution: int, dtype=torch.float32) -> Grid:
    """Writes the grid of `vsd_jax.scene.mesh.tet_grid` out as lists."""
    tables, side = tet_grid.cell_tables(), resolution + 1
    cells = np.stack(np.meshgrid(*3 * [np.arange(resolution)], indexing="ij"), -1)
    cells = cells.reshape(-1, 1, 1, 3) @ [side**2, side, 1]
    corners = tables.corners @ [side**3, side**2, side, 1]
    tets = (cells + corners[tables.tets]).reshape(-1, 4)
    pairs = np.sort(tets[:, np.array(TET_EDGES)], axis=-1).reshape(-1, 2)
    codes, inverse = np.unique(pairs @ [2 * side**3, 1], return_inverse=True)
    edges = np.stack(np.divmod(codes, 2 * side**3), axis=-1)
    return Grid(
        torch.from_numpy(np.array(tet_grid.grid_positions(resolution)).T).to(dtype),
        torch.from_numpy(np.array(tet_grid.boundary_mask(resolution)).reshape(-1)),
        torch.from_numpy(tets),
        torch.from_numpy(edges),
        torch.from_numpy(inverse.reshape(-1, 6)),
    )


def march_unique(sdf, points, grid: Grid):
    """Vertices [V, 3] and faces [F, 3]; edges found by sorting, at every call."""
    tets, cases = _crossed(sdf, grid.tets)
    pairs = tets[:, torch.tensor(TET_EDGES)].reshape(-1, 2).sort(dim=1).values
    edges, inverse = torch.unique(pairs, dim=0, return_inverse=True)
    return _mesh(sdf, points, edges, inverse.reshape(-1, 6), cases)


def march_static(sdf, points, grid: Grid):
    """The same with the edges of the whole grid known."""
    inside = sdf > 0
    bits = inside[grid.tets].long() @ torch.tensor([1, 2, 4, 8])
    crossed = (bits > 0) & (bits < 15)
    return _mesh(sdf, points, grid.edges, grid.tet_edges[crossed], bits[crossed])


def _crossed(sdf, tets):
    bits = (sdf > 0)[tets].long() @ torch.tensor([1, 2, 4, 8])
    crossed = (bits > 0) & (bits < 15)
    return tets[crossed], bits[crossed]


def _mesh(sdf, points, edges, tet_edges, cases):
    crossed = (sdf > 0)[edges]
    crossed = crossed[:, 0] != crossed[:, 1]
    number = torch.cumsum(crossed, 0) - 1
    a, b = edges[crossed].unbind(1)
    share = (sdf[a] / (sdf[a] - sdf[b]))[:, None]
    vertices = points[a] + share * (points[b] - points[a])
    table = tet_grid.case_tables()
    triangles = torch.from_numpy(table.triangles)[cases]
    keep = torch.arange(2) < torch.from_numpy(table.count)[cases][:, None]
    corners = torch.gather(tet_edges, 1, triangles.reshape(-1, 6)).reshape(-1, 2, 3)
    return vertices, number[corners[keep]]


def volume(vertices, faces):
    """Enclosed volume, the same for any order of vertices and faces."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return (a * torch.linalg.cross(b, c)).sum() / 6


def value_and_gradient(march, sdf, offsets, grid: Grid, scale: float):
    """Volume and its gradients to sdf [G] and offsets [G, 3]."""
    sdf, offsets = sdf.detach().requires_grad_(), offsets.detach().requires_grad_()
    closed = torch.where(grid.boundary, sdf.clamp(max=-1e-6), sdf)
    points = grid.positions + scale * torch.tanh(offsets)
    value = volume(*march(closed, points, grid))
    value.backward()
    return value.detach(), sdf.grad, offsets.grad
