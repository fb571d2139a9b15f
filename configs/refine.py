# SPDX-License-Identifier: Apache-2.0
"""Goes on with a finished run of `configs/object.py`: towards denoised pictures.

  python -m vsd_jax.main --config=configs/refine.py \
      --config.prompt="a red mushroom" --config.mesh.source=runs/mushroom \
      --workdir=runs/refined

Each render is noised and denoised in several steps (SDEdit, arXiv:2108.01073), and the
scene follows the pictures (`vsd_jax/methods/denoised.py`). Not in the paper. Variants
as in `configs/object.py`; `configs/refined.py` makes both stages at once.
"""

from ml_collections import ConfigDict

from vsd_jax.program.settings import named


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` as above."""
    return named.make_config("refine", variant)
