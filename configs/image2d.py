# SPDX-License-Identifier: Apache-2.0
"""The paper's 2D experiment: theta is an image, n of them are distilled together.

  python -m vsd_jax.main --config=configs/image2d.py --workdir=runs/2d
  python -m vsd_jax.main --config=configs/image2d.py --config.vsd.method=sds \
      --config.vsd.guidance_scale=100 --config.vsd.x0_limit=0 --workdir=runs/2d_sds

ProlificDreamer (arXiv:2305.16213), Sec. 3 and App. G. VSD gives samples of the prior,
SDS one mode. Variants as in `configs/object.py`; with Stable Diffusion theta is a
latent. Numbers of steps and particles are those of prolific_dreamer2d @f9c42d7.
"""

from ml_collections import ConfigDict

from vsd_jax.program.settings import named


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` is one of `presets.VARIANTS`."""
    return named.make_config("image2d", variant)
