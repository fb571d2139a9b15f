# SPDX-License-Identifier: Apache-2.0
"""Meshes: marching tetrahedra, differentiable rasteriser, geometry and texture."""
