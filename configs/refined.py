# SPDX-License-Identifier: Apache-2.0
"""An object from a text, then refined: two stages in one folder.

  python -m vsd_jax.main --config=configs/refined.py \
      --config.prompt="a red mushroom" --workdir=runs/mushroom

Stages as in `configs/textured_mesh.py`: WORKDIR/nerf has the settings of
`configs/object.py`, WORKDIR/refine those of `configs/refine.py`. Variants as there.
"""

from ml_collections import ConfigDict

from vsd_jax.program.settings import named


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` as above."""
    return named.refined(variant)
