# SPDX-License-Identifier: Apache-2.0
"""From a density field to the signed distances that the geometry stage starts with.

The peers' max(-1, min(1, density - level)) is nearly binary, so that its level set has
the stairs of the grid. Here the logarithm of the density, which is smooth across the
surface, is smoothed, freed of floaters and cavities, and turned into distances.
"""

import numpy as np

from vsd_jax.program.terminal.errors import RunError

NEAR = 2.5
"""Grid cells around the surface where its planes give the distance."""


def signed_distance(
    density: np.ndarray, level: float, *, smoothing: float, min_component: float
) -> np.ndarray:
    """Distance to the level set of a density grid over [-1, 1]^3.

    Small pieces are dropped and hollows are filled (`enclosed`): nothing outside shows
    them, and the geometry stage cannot remove them.

    Args:
      density: [R, R, R] at the nodes of a regular grid, see `export.density_grid`.
      level: density of the surface.
      smoothing: standard deviation of the Gaussian, grid cells; 0 = none.
      min_component: pieces with less volume than this share of the largest are dropped.

    Returns:
      [R, R, R] float32 scene units, > 0 inside.

    Raises:
      RunError: if nothing reaches the level.
    """
    from scipy import ndimage

    # As far below the level as above, or smoothing would move the surface.
    field = np.clip(np.log(np.maximum(density, 1e-9) / level), -0.5, 0.5)
    field = ndimage.gaussian_filter(field, smoothing) if smoothing else field
    if not (field > 0).any():
        raise RunError(
            f"No point of the scene reaches the density {level:.3g}: there is no"
            " surface to start from. Set --config.export.level to a lower one, or to 0"
            " (automatic)."
        )
    solid = _without_floaters(field > 0, min_component)
    field = np.where(solid == (field > 0), field, np.where(solid, 1.0, -1.0))
    far = ndimage.distance_transform_edt(solid) - ndimage.distance_transform_edt(~solid)
    # The surface runs half a cell before the first node on its other side.
    distance = far - 0.5 * np.sign(far)
    close = np.abs(far) < NEAR
    points = np.argwhere(close)
    near = _to_tangent_planes(field, points)
    distance[close] = np.where(solid[close], near, -near)
    return (distance * 2 / (density.shape[0] - 1)).astype(np.float32)


def _to_tangent_planes(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distances [N] of nodes [N, 3] to the level set's planes nearby, in cells.

    A plane at the nearest vertex is exact to second order, where the distance to the
    vertex itself is not even right to the first.
    """
    from scipy import spatial
    from skimage import measure

    padded = np.pad(field, 1, constant_values=min(field.min(), -1e-3))
    vertices, _, normals, _ = measure.marching_cubes(padded, 0.0)
    _, nearest = spatial.cKDTree(vertices - 1).query(points)
    away = points - (vertices - 1)[nearest]
    return np.abs(np.einsum("nc,nc->n", away, normals[nearest]))


def _without_floaters(inside: np.ndarray, min_component: float) -> np.ndarray:
    from scipy import ndimage

    label, _ = ndimage.label(inside)
    size = np.bincount(label.ravel())
    size[0] = 0  # what is outside
    kept = (size >= max(1, min_component * size.max()))[label]
    return kept | enclosed(kept)


def enclosed(solid: np.ndarray) -> np.ndarray:
    """Air that is not joined to the outside, or by nothing wider than two nodes.

    No camera looks there. A density field has such hollows, since nothing that is seen
    speaks against them: up to a third of the surface of a house.

    Args:
      solid: [R, R, R] bool.

    Returns:
      [R, R, R] bool.
    """
    from scipy import ndimage

    solid = np.pad(solid, 2)
    label, _ = ndimage.label(~ndimage.binary_dilation(solid))  # passages are closed
    outside = label == label[0, 0, 0]
    outside = ndimage.binary_dilation(outside, iterations=2, mask=~solid)
    return ~(solid | outside)[2:-2, 2:-2, 2:-2]


def sample_grid(grid: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of a grid over [-1, 1]^3 at points [3, N], linear between nodes, [N]."""
    from scipy import ndimage

    places = (np.asarray(points) * 0.5 + 0.5) * (grid.shape[0] - 1)
    values = ndimage.map_coordinates(grid, places, order=1, mode="nearest")
    return values.astype(np.float32)
