# SPDX-License-Identifier: Apache-2.0
"""The texture of a mesh: stage 3 of ProlificDreamer (arXiv:2305.16213).

  python -m vsd_jax.main --config=configs/texture.py \
      --config.mesh.source=runs/mushroom_shape --config.prompt="a red mushroom" \
      --workdir=runs/mushroom_textured

Goes on with the mesh in `mesh.source`, frozen, and with the colours of the NeRF that it
came from, by VSD. `configs/textured_mesh.py` runs all stages. Variants as in
`configs/base.py`.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` is one of `base.VARIANTS`."""
    config = base.get_config(variant)
    config.field.kind = "texture"
    config.num_steps = 30_000  # [T], the flag of [O]
    config.vsd.anneal_step = config.get_oneway_ref("num_steps") // 6  # 5,000 [P][T]
    config.render.update(density_noise=0.0, occupancy_resolution=0, capacity=1.0)
    config.regularize.update(entropy=0.0, z_variance=0.0)
    config.camera.fov_deg = (30.0, 60.0)  # [O]
    if config.prior.path == "toybox":
        config.num_steps = 400
        config.mesh.resolution = 40
        config.render.update(size=128, capacity=0.7)
        config.camera.fov_deg = (40.0, 40.0)
    if variant == "smoke":
        config.num_steps = 4
        config.mesh.update(resolution=8, surface_capacity=2.0)
    return config
