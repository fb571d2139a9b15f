# SPDX-License-Identifier: Apache-2.0
"""The scenes of the mesh stages: `geometry`, then `texture` on a frozen mesh."""

from vsd_jax.scene.mesh.geometry import MeshSpec, geometry
from vsd_jax.scene.mesh.texture import texture

__all__ = ["MeshSpec", "geometry", "texture"]
