# SPDX-License-Identifier: Apache-2.0
"""Checks a configuration before any long work, and compares two of them.

ml_collections refuses unknown keys and wrong types by itself; what it lets through
(lengths of tuples, ranges, names, keys that do not go together) is refused here, all
faults at once, each in a sentence with key, value and remedy.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from vsd_jax.program import Config
from vsd_jax.program.build.stages import STAGES
from vsd_jax.program.settings import config_rules, idle
from vsd_jax.program.terminal.errors import ConfigError
from vsd_jax.program.terminal.progress import shorten
from vsd_jax.toybox import text

MAY_CHANGE = (
    "log.",
    "eval.",
    "export.",
    "mesh.raster_capacity",
    "num_devices",
    "num_shards",
    "on_not_finite",
    "render.keep_features",
    "render.max_rays",
)
"""Keys that do not touch what is learned: they may differ when a run is resumed. What
becomes of lost particles may too, since a run that they stopped tells to change it."""

DEFAULTS_OF_OLD_RUNS = {
    "camera.adapt": "",
    "camera.adapt_candidates": 8,
    "eval.prior_draws": 0,
    "eval.prior_t_range": (0.4, 0.8),
    "family.consistency_gap": (0.1, 0.3),
    "family.exact_below": 0.0,
    "family.inversion_noise": 0.0,
    "family.lookahead_rate": 0.01,
    "family.num_denoisings": 4,
    "family.overshoot": 0.0,
    "family.shared_noise": True,
    "family.t_shift": 0.1,
    "family.t_shift_from": 0.02,
    "field.density_scale": 1.0,
    "field.image_sigmoid": True,
    "log.inside": False,
    "log.tensorboard": False,
    "log.checkpoint_minutes": 0.0,
    "optim.decay": 0.0,
    "prior.image_size": 0,
    "prior.tell_camera": False,
    "regularize.z_variance_start": 0,
    "render.early_size": 0,
    "render.early_steps": 0,
    "render.keep_features": False,
    "score.pass_through": False,
    "score.prompt": True,
    "vsd.apg_norm": 0.0,
    "vsd.apg_parallel": 1.0,
    "vsd.guidance_interval": (0.0, 1.0),
    "vsd.guidance_rescale": 0.0,
    "vsd.guidance_t": (0.0, 0.0),
    "vsd.height_limits_deg": (15.0, 35.0),
    "vsd.height_prompts": False,
    "vsd.not_overhead_deg": -90.0,
}
"""Keys that runs of older versions lack, with the value that does what those did."""

SCHEDULE = (
    "num_steps",
    "vsd.anneal_step",
    "render.early_steps",
    "regularize.opaque_start",
    "regularize.z_variance_start",
)
"""Keys that may change when a run goes on for another number of steps: they say at
which step something ends or begins (`folder/history.py`)."""


def validate(config: ConfigDict) -> Config:
    """Checks every value and how they go together.

    Args:
      config: as a file in `configs/` makes it, with overrides applied.

    Returns:
      The configuration with references resolved, frozen.

    Raises:
      ConfigError: with one sentence for each fault.
    """
    flat = flatten(config)
    faults = [*config_rules.unknown_keys(flat), *config_rules.value_faults(flat)]
    # What goes together can only be judged when each value by itself is sound.
    faults = faults or [*config_rules.combination_faults(flat), *prompt_faults(flat)]
    if faults:
        raise ConfigError("\n".join(faults))
    return Config(config.copy_and_resolve_references())


def refuse_idle(config: Mapping[str, Any], given: Iterable[str]) -> None:
    """Refuses keys that were given but have no meaning beside the others.

    Args:
      config: validated.
      given: their names.

    Raises:
      ConfigError: with one sentence for each.
    """
    if faults := idle.faults(flatten(config), given):
        raise ConfigError("\n".join(faults))


def require_words(config: Mapping[str, Any]) -> None:
    """Refuses to begin a run of Bridge without words for how its renders look.

    Raises:
      ConfigError: with what to give.
    """
    flat = flatten(config)
    if flat["vsd.method"] == "bridge" and not flat["family.source_words"].strip():
        raise ConfigError(
            "vsd.method=bridge leads away from family.source_words, which is empty: say"
            " there how the renders look, such as ', oversaturated, smooth'. The"
            " embedded prior knows no such word; use another method with it."
        )


def prompt_faults(flat: Mapping[str, Any]) -> Iterator[str]:
    """What the embedded prior cannot read: the word, the nearest known ones, the
    grammar, and how to use Stable Diffusion instead."""
    if flat["prior.path"] != "toybox":
        return
    prompt, prefix = flat["prompt"], flat["prompt_prefix"]
    for key, words in (
        ("prompt", prompt),
        ("prompt_prefix", prefix and prefix + prompt),
        ("negative_prompt", flat["negative_prompt"]),
        *(
            ("render.background_words", word and "a mushroom" + word)
            for word in flat["render.background_words"]
        ),
    ):
        try:
            text.parse(words or "a mushroom")
        except text.UnknownPromptError as error:
            yield f"{key}={shorten(repr(flat[key]))}: {error}"
            return
    yield from _word_faults(flat)
    wanted = text.parse(prompt)
    if wanted.view or "background" in prompt.lower() or wanted.normal_map:
        yield (
            f"prompt={shorten(repr(prompt))} names a view, a background or a normal"
            " map. The program adds those words itself; give the object alone."
        )
    if wanted.room and (
        any(flat["render.background_words"]) or _asks_views(flat, wanted)
    ):
        yield (
            f"prompt={prompt!r} shows a room, which hides the background and has no"
            " front when alone; use --config=scene for it."
        )


def _word_faults(flat: Mapping[str, Any]) -> Iterator[str]:
    """Words of backgrounds that say something else, and texts made of several keys."""
    for word in flat["render.background_words"]:
        said = text.parse("a mushroom" + word)
        if said != text.Prompt(kind="mushroom", background=said.background):
            yield (
                f"render.background_words={flat['render.background_words']!r}: {word!r}"
                " says more than a background, such as ', grey background'."
            )
    source = flat["family.source_words"]
    is_used = source and flat["vsd.method"] == "bridge"
    made = [flat["prompt_prefix"] + flat["prompt"] + source] if is_used else []
    if flat["prompt_prefix"]:
        words = flat["render.background_words"]
        made += [flat["prompt_prefix"] + flat["prompt"] + word for word in words]
    for words in made:
        try:
            text.parse(words)
        except text.UnknownPromptError as error:
            yield (
                "prompt_prefix, prompt, family.source_words and render.background_words"
                f" make a text that is not known: {error}"
            )
            return


def _asks_views(flat: Mapping[str, Any], wanted: text.Prompt) -> bool:
    return wanted.kind == text.ROOM and flat["vsd.view_prompts"]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> `{"section.key": value}`, lists as tuples."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = as_tuples(value)
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    return nested


def as_tuples(value: Any) -> Any:
    """Lists, at any depth, as tuples: JSON knows no tuples, configurations no lists."""
    if isinstance(value, Mapping):
        return {key: as_tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(as_tuples(item) for item in value)
    return value


def differing_keys(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Keys by which two configurations would learn something else.

    Args:
      old: nested mapping, e.g. a `config.json`.
      new: the same, or a ConfigDict.

    Returns:
      `{key: (old value, new value)}` without those that may change; a key that
      one side lacks has "(absent)" there.
    """
    before, after = DEFAULTS_OF_OLD_RUNS | flatten(old), flatten(new)
    off = idle.idle(before).keys() & idle.idle(after).keys()
    return {
        key: (before.get(key, "(absent)"), after.get(key, "(absent)"))
        for key in sorted((before.keys() | after.keys()) - off)
        if not may_change(key, after)
        and before.get(key, "(absent)") != after.get(key, "(absent)")
    }


def may_change(key: str, flat: Mapping[str, Any]) -> bool:
    """Whether a key may be another in a run of this flat configuration."""
    stage = STAGES.get(flat.get("field.kind"))
    more, fixed = (stage.may_change, stage.began_from) if stage else ((), ())
    return key.startswith((*MAY_CHANGE, *more)) and key not in fixed


def is_off(key: str, flat: Mapping[str, Any]) -> bool:
    """Whether a key has no meaning beside the others of a flat configuration."""
    return key in idle.idle(flat)


def followers(config: Mapping[str, Any]) -> list[str]:
    """Keys that follow `num_steps`, since they were not set themselves.

    Args:
      config: with references not resolved; else nothing follows.
    """
    if not isinstance(config, ConfigDict) or isinstance(config, Config):
        return []
    moved, before = copy.deepcopy(config), flatten(config)
    moved.num_steps = config.num_steps + 10**6
    after = flatten(moved)
    return [key for key in before if key != "num_steps" and after[key] != before[key]]
