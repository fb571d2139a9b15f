# SPDX-License-Identifier: Apache-2.0
"""All experiments by name."""

from vsd_jax.experiments import flat_tables, spatial_tables

EXPERIMENTS = {
    "plane": flat_tables.PLANE,
    "images": flat_tables.IMAGES,
    "image2d": flat_tables.IMAGE2D,
    "family": flat_tables.FAMILY,
    "ablation": spatial_tables.ABLATION,
    "presets": spatial_tables.PRESETS,
    "levers": spatial_tables.LEVERS,
    "family_objects": spatial_tables.FAMILY_OBJECTS,
    "adaptive": spatial_tables.ADAPTIVE,
    **spatial_tables.SWEEPS,
}
