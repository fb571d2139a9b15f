# SPDX-License-Identifier: Apache-2.0
"""Radiance fields: hash grid, samples on a ray, volume rendering."""
