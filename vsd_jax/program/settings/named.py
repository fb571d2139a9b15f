# SPDX-License-Identifier: Apache-2.0
"""Presets as configurations: the same numbers, as a `ConfigDict` that flags can change.

What follows another number (`presets.PartOf`) keeps following `--config.num_steps=...`
until it is set itself.
"""

from ml_collections import ConfigDict

from vsd_jax.presets import PartOf, join
from vsd_jax.presets.kinds import layers_of

SHARED = (
    "prompt",
    "negative_prompt",
    "seed",
    "num_particles",
    "num_devices",
    "num_shards",
)
"""Keys that are the same in all stages of `textured_mesh`."""

PRIOR = ("path", "variant", "sha256", "dtype")
"""Those of `prior`: the same in all stages that do not set their own."""

STAGES = {
    "nerf": "object",
    "refine": "refine",
    "geometry": "geometry",
    "texture": "texture",
}
"""The stages of `textured_mesh` and their presets."""


def make_config(kind: str, variant: str = "") -> ConfigDict:
    """All keys of a preset; see `presets.preset`.

    Raises:
      ValueError: if there is no such kind or variant.
    """
    sections = join(*layers_of(kind, variant))
    config = ConfigDict()
    # What is followed first, then what follows it.
    for key, value in sorted(sections.pop("").items(), key=_follows):
        config[key] = _value(config, value)
    for section, values in sections.items():
        config[section] = ConfigDict()
        for key, value in values.items():
            config[section][key] = _value(config, value)
    return config


def _follows(item) -> bool:
    return isinstance(item[1], PartOf)


def _value(config: ConfigDict, value):
    if not isinstance(value, PartOf):
        return value
    reference = config.get_oneway_ref(value.key)
    return reference * value.numerator // value.denominator


def scene(variant: str = "") -> ConfigDict:
    """`[room|object][,one of presets.VARIANTS]`: a room, or an object in one."""
    what, _, rest = variant.partition(",")
    if what not in ("room", "object"):
        what, rest = "room", variant
    return make_config("room" if what == "room" else "object_in_scene", rest)


def refined(variant: str = "") -> ConfigDict:
    """An object and its refinement in one folder, each with a configuration."""
    return _staged(("nerf", "refine"), variant, run=("nerf", "refine"))


def textured_mesh(variant: str = "") -> ConfigDict:
    """The three stages of the paper in one folder; on the embedded prior the NeRF is
    refined before its geometry, elsewhere and in the smoke form "refine" waits to be
    asked for: --config.stages="('nerf', 'refine', 'geometry', 'texture')".
    """
    whole = tuple(STAGES)
    paper = tuple(name for name in whole if name != "refine")
    return _staged(whole, variant, run=paper if variant else whole)


def _staged(
    names: tuple[str, ...], variant: str, *, run: tuple[str, ...]
) -> ConfigDict:
    stages = {name: make_config(STAGES[name], variant) for name in names}
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
    config.stages = run  # in this order
    return config


NAMED = {
    "object": lambda variant="": make_config("object", variant),
    "scene": scene,
    "refine": lambda variant="": make_config("refine", variant),
    "refined": refined,
    "geometry": lambda variant="": make_config("geometry", variant),
    "texture": lambda variant="": make_config("texture", variant),
    "textured_mesh": textured_mesh,
    "image2d": lambda variant="": make_config("image2d", variant),
}
"""What `--config=NAME[:variant]` may be without a file."""
