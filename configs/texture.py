# SPDX-License-Identifier: Apache-2.0
"""The texture of a mesh: stage 3 of ProlificDreamer (arXiv:2305.16213).

  python -m vsd_jax.main --config=configs/texture.py \
      --config.mesh.source=runs/mushroom_shape --config.prompt="a red mushroom" \
      --workdir=runs/mushroom_textured

Goes on with the mesh in `mesh.source`, frozen, and with the colours of the NeRF that it
came from, by VSD. `configs/textured_mesh.py` runs all stages. Variants as in
`configs/object.py`.
"""

from ml_collections import ConfigDict

from vsd_jax.program.settings import named


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` is one of `presets.VARIANTS`."""
    return named.make_config("texture", variant)
