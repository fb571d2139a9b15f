# SPDX-License-Identifier: Apache-2.0
"""Keys that have no meaning beside the others of a configuration.

A run may go on with another value of such a key, and one that is given on the command
line is refused, unless a preset has that value too.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from vsd_jax.methods import METHODS, own_settings
from vsd_jax.presets import join
from vsd_jax.presets.kinds import KINDS, VARIANTS, layers_of

Flat = Mapping[str, Any]


class _Rule(NamedTuple):
    """Keys (or sections, with a full stop) that act only if `acts` of the key `by`."""

    by: str
    acts: Callable[[Any], Any]
    keys: tuple[str, ...]
    but: tuple[str, ...] = ()


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _names(keys: tuple[str, ...], key: str) -> bool:
    return key in keys or f"{key.partition('.')[0]}." in keys


def _trains_score(method: str) -> bool:
    return method not in METHODS or METHODS[method](guidance_scale=1.0).trains_score


GRID = (
    *("num_levels", "features", "log2_table_size", "min_resolution"),
    *("max_resolution", "smooth", "hidden", "environment"),
)
"""Keys of `field` that lay out a NeRF's hash grid and decoder."""
PERP_NEG = (
    *("vsd.front_over_side", "vsd.side_over_front"),
    *("vsd.side_over_back", "vsd.front_over_back"),
)
_ALONE = ("csd", "nfsd", "bridge")  # guidance away from a prompt of the method's own
_NO_OWN_T = ("ism", "sdi", "sdedit", "consistent3d")
_RULES = (
    _Rule("camera.adapt", bool, ("camera.adapt_candidates",)),
    _Rule("camera.law", _is("inside"), ("camera.position_radius",)),
    _Rule("camera.law", _is("orbit"), ("camera.radius",)),
    _Rule("eval.prior_draws", bool, ("eval.prior_t_range",)),
    _Rule("render.early_size", bool, ("render.early_steps",)),
    _Rule("vsd.t_schedule", _is("two_stage"), ("vsd.anneal_step", "vsd.t_range_late")),
    _Rule(
        "vsd.t_schedule",
        _is("dreamtime"),
        ("family.dreamtime_middle", "family.dreamtime_width"),
    ),
    _Rule("vsd.perp_neg", lambda on: not on, ("vsd.front_half_angle_deg",)),
    _Rule("vsd.perp_neg", bool, PERP_NEG),
    _Rule("vsd.height_prompts", bool, ("vsd.height_limits_deg",)),
    _Rule("vsd.method", lambda name: name not in _NO_OWN_T, ("vsd.guidance_t",)),
    _Rule(
        "vsd.method",
        lambda name: name not in _ALONE,
        ("vsd.not_overhead_deg",),
    ),
    _Rule("vsd.method", _trains_score, ("score.",)),
    _Rule(
        "score.kind",
        _is("lora"),
        (
            *("score.path", "score.rank", "score.lora_scale", "score.pass_through"),
            *("score.prompt", "score.zero_camera"),
        ),
    ),
    _Rule(
        "score.kind",
        _is("unet"),
        ("score.channels", "score.num_groups", "score.num_heads"),
    ),
    _Rule("field.kind", _is("nerf", "texture"), ("optim.table_lr", "optim.decoder_lr")),
    _Rule("field.kind", _is("geometry"), ("optim.sdf_lr", "optim.offset_lr")),
    _Rule("field.kind", _is("geometry", "texture"), ("mesh.",), but=("mesh.source",)),
    _Rule("field.kind", _is("image", "latent"), ("optim.image_lr", "field.init_std")),
    _Rule(
        "field.kind",
        _is("nerf", "texture"),
        tuple(f"field.{name}" for name in GRID),
    ),
    _Rule(
        "field.kind",
        _is("nerf"),
        (
            *("render.num_samples", "render.num_fine", "field.density_scale"),
            *("render.density_noise", "render.half_extent", "render.max_rays"),
            *("render.occupancy_resolution", "render.occupancy_threshold"),
            *("render.occupancy_decay", "render.occupancy_interval"),
            "render.keep_features",
        ),
    ),
    _Rule("field.kind", _is("nerf", "texture"), ("render.capacity",)),
    _Rule("field.kind", _is("geometry"), ("mesh.smoothing", "mesh.max_offset")),
    _Rule("field.kind", _is("nerf"), ("field.object_strength",)),
    _Rule("field.kind", _is("nerf", "geometry"), ("field.object_radius",)),
    _Rule(
        "field.init",
        _is("object", "object_in_scene"),
        ("field.object_strength", "field.object_radius", "field.init_centre"),
    ),
    _Rule(
        "field.init",
        _is("scene", "object_in_scene"),
        ("field.scene_strength", "field.scene_radius"),
    ),
    _Rule("field.init", _is("object_in_scene"), ("field.switch_radius",)),
    _Rule("field.environment", bool, ("optim.environment_lr",)),
    _Rule("field.kind", _is("nerf", "geometry"), ("export.resolution", "export.level")),
    _Rule(
        "field.kind",
        _is("nerf", "geometry", "texture"),
        (
            *("eval.turntable_frames", "eval.fps", "eval.num_views", "eval.radius"),
            *("eval.elevation_deg", "eval.fov_deg"),
            *("export.min_component", "export.chunk"),
        ),
    ),
    _Rule(
        "field.kind",
        _is("nerf", "texture"),
        ("export.texture_size", "export.max_faces"),
    ),
    _Rule("field.kind", _is("texture"), ("export.check_size",)),
)


def idle(flat: Flat) -> dict[str, str]:
    """The keys without meaning, each with the key that decides it."""
    found = {
        key: rule.by
        for rule in _RULES
        if rule.by in flat and not rule.acts(flat[rule.by])
        for key in flat
        if _names(rule.keys, key) and key not in rule.but
    }
    method = flat.get("vsd.method", "")
    if method in METHODS:
        every = {key for name in METHODS for key in own_settings(name)}
        others = every - own_settings(method).keys()
        found |= {f"family.{key}": "vsd.method" for key in others}
        if method != "bridge":
            found["family.source_words"] = "vsd.method"
    if flat.get("particles_per_step") == flat.get("num_particles"):
        found["subset"] = "particles_per_step"
    return {key: by for key, by in found.items() if key in flat}


def is_unscored(flat: Flat) -> bool:
    """Whether the method has no score network that is trained."""
    return not _trains_score(flat.get("vsd.method", "vsd"))


def faults(flat: Flat, given: Iterable[str]) -> list[str]:
    """A sentence for each given key that has no meaning and no preset's value."""
    found = idle(flat)
    return [
        f"{key}={flat[key]!r} has no meaning with {by}={flat[by]!r}; leave it out."
        for key, by in found.items()
        if key in set(given) and flat[key] not in _preset_values().get(key, ())
    ]


@functools.cache
def _preset_values() -> dict[str, list[Any]]:
    """The values of each key in all presets; what follows another key has none."""
    presets = [join(*layers_of(kind, each)) for kind in KINDS for each in VARIANTS]
    found: dict[str, list[Any]] = {}
    for preset in presets:
        for section, values in preset.items():
            for name, value in values.items():
                found.setdefault(f"{section}.{name}".lstrip("."), []).append(value)
    return found
