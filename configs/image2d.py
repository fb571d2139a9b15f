# SPDX-License-Identifier: Apache-2.0
"""The paper's 2D experiment: theta is an image, n of them are distilled together.

  python -m vsd_jax.main --config=configs/image2d.py --workdir=runs/2d
  python -m vsd_jax.main --config=configs/image2d.py --config.vsd.method=sds \
      --config.vsd.guidance_scale=100 --workdir=runs/2d_sds

ProlificDreamer (arXiv:2305.16213), Sec. 3 and App. G. VSD gives samples of the prior,
SDS one mode. Variants as in `configs/base.py`; with Stable Diffusion theta is a latent.
Numbers of steps and particles are those of prolific_dreamer2d @f9c42d7.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` is one of `base.VARIANTS`."""
    config = base.get_config(variant)
    latent = config.prior.path != "toybox"
    config.field.update(kind="latent" if latent else "image", environment=False)
    config.field.init_std = 1.0 if latent else 0.5
    config.render.environment_share = 0.0
    config.render.update(background_colors=((1.0, 1.0, 1.0),))
    config.render.update(background_words=("",), background_shares=(1.0,))
    # One fixed camera: the score network's camera input carries nothing.
    config.camera.update(elevation_deg=(0.0, 0.0), azimuth_deg=(0.0, 0.0))
    config.camera.update(radius=(1.0, 1.0), overhead_share=0.0, area_uniform_share=0.0)
    config.vsd.update(views_per_step=1, view_prompts=False)
    config.regularize.update(entropy=0.0)
    config.optim.b2 = 0.999
    # Two of 16 a step: eight updates of the score network for each of a particle. With
    # one it lags, and the particles are less diverse (docs/experiments.md).
    config.update(num_steps=1500, num_particles=16, particles_per_step=2)
    if variant == "smoke":
        config.update(num_steps=4, num_particles=3)
        config.particles_per_step = config.get_oneway_ref("num_particles") * 1
    return config
