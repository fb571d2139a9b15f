# SPDX-License-Identifier: Apache-2.0
"""A textured mesh from a text: the three stages of ProlificDreamer in one folder.

  python -m vsd_jax.main --config=configs/textured_mesh.py \
      --config.prompt="a red mushroom" --workdir=runs/mushroom

NeRF -> geometry -> texture (arXiv:2305.16213, Sec. 4), each a run of its own in
WORKDIR/nerf, WORKDIR/geometry and WORKDIR/texture, with the settings of
`configs/object.py`, `geometry.py` and `texture.py`: --config.geometry.num_steps=800 and
so on. The same command goes on where it stopped. --config.prior.path=... gives all
stages one prior, --config.geometry.prior.path=... one stage its own. Variants as in
`configs/base.py`.
"""

from ml_collections import ConfigDict

from configs import geometry, object, texture

SHARED = (
    "prompt",
    "negative_prompt",
    "seed",
    "num_particles",
    "num_devices",
    "num_shards",
)
"""Keys that are the same in all stages."""

PRIOR = ("path", "variant", "sha256", "dtype")
"""Those of `prior`: the same in all stages, as long as a stage's own are not set."""

STAGES = {"nerf": object, "geometry": geometry, "texture": texture}


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` is one of `base.VARIANTS`."""
    stages = {name: module.get_config(variant) for name, module in STAGES.items()}
    config = ConfigDict()
    for key in SHARED:
        config[key] = stages["nerf"][key]
    config.prior = ConfigDict({key: stages["nerf"].prior[key] for key in PRIOR})
    for name, stage in stages.items():
        for key in PRIOR:
            stage.prior[key] = config.prior.get_oneway_ref(key)
        for key in SHARED:
            stage[key] = config.get_ref(key)
        config[name] = stage
    config.stages = tuple(STAGES)  # what is run, in this order
    return config
