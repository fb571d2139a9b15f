# SPDX-License-Identifier: Apache-2.0
"""A textured mesh from a text: the three stages of ProlificDreamer in one folder.

  python -m vsd_jax.main --config=configs/textured_mesh.py \
      --config.prompt="a red mushroom" --workdir=runs/mushroom

NeRF -> geometry -> texture (arXiv:2305.16213, Sec. 4), each a run of its own in
WORKDIR/nerf, WORKDIR/geometry and WORKDIR/texture, with the settings of
`configs/object.py`, `geometry.py` and `texture.py`: --config.geometry.num_steps=800 and
so on. On the embedded prior the NeRF is refined first (WORKDIR/refine), which is not in
the paper; --config.stages="('nerf', 'geometry', 'texture')" leaves it out. The same
command goes on where it stopped. --config.prior.path=... gives all stages one prior,
--config.geometry.prior.path=... one stage its own. Variants as in `configs/object.py`.
"""

from ml_collections import ConfigDict

from vsd_jax.program.settings import named


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` as above."""
    return named.textured_mesh(variant)
