# SPDX-License-Identifier: Apache-2.0
"""Goes on with a finished run of `configs/object.py`, at less noise.

  python -m vsd_jax.main --config=configs/refine.py \
      --config.prompt="a red mushroom" --config.mesh.source=runs/mushroom \
      --workdir=runs/refined

The embedded prior: VSD whose own score, where there is little noise, is exact and not
learned (`family.exact_below`). Stable Diffusion: each render is noised and denoised in
several steps, and the scene follows the pictures (SDEdit, arXiv:2108.01073,
`vsd_jax/methods/denoised.py`). Neither is in the paper. Variants as in
`configs/object.py`; `configs/refined.py` makes both stages at once.
"""

from ml_collections import ConfigDict

from vsd_jax.program.settings import named


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` as above."""
    return named.make_config("refine", variant)
