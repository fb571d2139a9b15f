# SPDX-License-Identifier: Apache-2.0
"""A room seen from inside, or an object in a room (ProlificDreamer, Sec. 4).

  python -m vsd_jax.main --config=configs/scene.py --workdir=runs/room
  python -m vsd_jax.main --config=configs/scene.py:object --workdir=runs/in_room

A variant of `configs/base.py` follows after a comma: `scene.py:room,sd21`,
`scene.py:object,smoke`. Density starts hollow; for an object with a blob in the middle.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` is [room|object][,one of `base.VARIANTS`]."""
    what, _, rest = variant.partition(",")
    if what not in ("room", "object"):
        what, rest = "room", variant
    config = base.get_config(rest)
    config.camera.update(radius=(0.1, 2.3), box_half_extent=0.9)  # [T scene]
    config.regularize.update(entropy=0.0, z_variance=1.0)  # [T scene]
    config.vsd.anneal_step = config.get_oneway_ref("num_steps") * 2 // 5  # 10,000 [T]
    config.vsd.view_prompts = what == "object"  # a room has no front
    config.field.init = "scene" if what == "room" else "object_in_scene"
    config.render.environment_share = 0.0  # else it could paint the room on the sky
    config.field.environment = False
    if config.prior.path == "toybox":
        _embedded(config, what)
        if what == "room" and rest != "smoke":
            config.num_steps = 600
    return config


def _embedded(config: ConfigDict, what: str) -> None:
    """The cameras that the Toybox prior knows (`vsd_jax/toybox/dataset.py`)."""
    config.regularize.z_variance = 0.0
    config.render.update(near=0.05, capacity=0.5, background_words=("", "", ""))
    config.camera.update(overhead_share=0.0, box_half_extent=0.0)
    # The hollow of the paper is wider than this cube. Its walls are thin in the middle
    # of each side: they must be opaque there, or the background is seen through them.
    config.field.update(scene_strength=-60.0, scene_radius=0.7)
    # Most of what the prior knows is toys on white, which guidance leads away from.
    config.vsd.guidance_scale = 2.0
    if what == "room":
        config.prompt = "a blue room"
        # A room fills the cube: no empty space to skip, and nothing is thinned.
        config.render.update(occupancy_resolution=0, capacity=1.0, near=0.2)
        config.camera.update(law="inside", position_radius=0.25, fov_deg=(75.0, 75.0))
        config.camera.elevation_deg = (-20.0, 20.0)
        config.eval.update(fov_deg=75.0, elevation_deg=0.0)
        return
    config.prompt = "a red mushroom in a blue room"
    config.field.update(object_radius=0.3, switch_radius=0.5)
    config.field.update(scene_strength=-200.0, scene_radius=0.8)  # beyond the cameras
    config.field.init_centre = config.camera.target = (0.0, -0.3, 0.0)
    config.camera.update(radius=(0.55, 0.7), fov_deg=(70.0, 70.0))
    config.camera.elevation_deg = (5.0, 35.0)
    config.eval.update(radius=0.62, fov_deg=70.0, elevation_deg=20.0)
