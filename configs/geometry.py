# SPDX-License-Identifier: Apache-2.0
"""The shape of an object as a mesh: stage 2 of ProlificDreamer (arXiv:2305.16213).

  python -m vsd_jax.main --config=configs/geometry.py \
      --config.mesh.source=runs/mushroom --config.prompt="a red mushroom" \
      --workdir=runs/mushroom_shape

Goes on with the NeRF in `mesh.source`: its level set, as a tetrahedral grid of signed
distances, follows SDS (on the embedded prior VSD) on renders of its normals.
`configs/textured_mesh.py` runs all stages. Variants as in `configs/object.py`.
"""

from ml_collections import ConfigDict

from vsd_jax.program.settings import named


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` is one of `presets.VARIANTS`."""
    return named.make_config("geometry", variant)
