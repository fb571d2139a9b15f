# SPDX-License-Identifier: Apache-2.0
"""What a configuration may say: names, bounds, and what goes with what.

Functions take the flat configuration `{"section.key": value}` and yield sentences.
"""

import difflib
import math
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from vsd_jax.diffusion.guidance import Guidance
from vsd_jax.diffusion.prompt import NEVER_DEG
from vsd_jax.program.build.stages import STAGES
from vsd_jax.program.folder import paths
from vsd_jax.program.settings import idle, sections
from vsd_jax.program.terminal.errors import ConfigError
from vsd_jax.program.terminal.progress import shorten
from vsd_jax.spec import UNBOUNDED

Flat = Mapping[str, Any]
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What could rewrite a terminal, break a line or turn the direction of what follows."""
_OF_THE_TERM = ("csd", "nfsd", "bridge")
"""Methods in which the term of guidance stands alone."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text_faults(flat: Flat) -> Iterator[str]:
    """Texts that cannot be stored, and homes of users that are not there."""
    for key, value in flat.items():
        texts = value if isinstance(value, tuple) else (value,)
        texts = [text for text in texts if isinstance(text, str)]
        fault = next(filter(None, map(paths.fault, texts)), "")
        if fault:
            yield f"{key}={shorten(repr(value))} {fault}."
    for key in ("prior.path", "score.path", "mesh.source"):
        value = flat.get(key)
        if not isinstance(value, str) or not value.startswith("~"):
            continue
        try:
            paths.expand(value, key)
        except ConfigError as error:
            yield str(error)


def unknown_keys(flat: Flat) -> Iterator[str]:
    """One sentence for each key that there is not, however it came in."""
    known = sections.keys()
    for key in flat:
        if key not in known:
            yield suggest(key, known)


def suggest(key: str, known: Mapping[str, Any]) -> str:
    """A sentence about an unknown key, with the nearest known ones."""
    names = {name.rsplit(".", 1)[-1]: name for name in known}
    near = difflib.get_close_matches(key, list(known), n=2, cutoff=0.6)
    end = key.rsplit(".", 1)[-1]
    last = difflib.get_close_matches(end, list(names), n=2, cutoff=0.7)
    found = list(dict.fromkeys([*near, *(names[name] for name in last)]))
    hint = f" Did you mean {' or '.join(found)}?" if found else ""
    return f"There is no key {key!r}.{hint} All keys: docs/settings.md."


def value_faults(flat: Flat) -> Iterator[str]:
    """One sentence for each value that is unknown, out of range or missing."""
    choices, ranges, pairs = sections.choices(), sections.ranges(), sections.pairs()
    for key in [*choices, *ranges, *pairs, "prompt", "prior.path"]:
        if key not in flat:
            yield f"The key {key} is missing; take --config=object as the start."
            continue
        value = flat[key]
        if key in choices and value not in choices[key]:
            known = ", ".join(choice or '""' for choice in choices[key])
            yield f"{key}={value!r} is unknown; use one of {known}."
        elif key in ranges and not _within(value, ranges[key]):
            yield f"{key}={value!r} is out of range; {_bounds(ranges[key])}."
        elif key in pairs and not _is_pair(value, pairs[key]):
            yield (
                f"{key}={value!r} is no range; give (low, high) with low <= high and"
                f" both in {list(pairs[key])}, in quotes on the command line:"
                f' --config.{key}="(low, high)".'
            )
        elif key in ("prompt", "prior.path") and not str(value or "").strip():
            yield f"{key} is empty; give it with --config.{key}=..."
    tuples = {k: v for k, v in sections.tuples().items() if k not in pairs}
    for key, value in flat.items():
        if value is None:
            yield f"{key} has no value (None); give one with --config.{key}=..."
        elif key in tuples and not isinstance(value, tuple):
            yield f'{key}={value!r} is no tuple; give one: --config.{key}="(..., ...)".'
        elif key in tuples and not _fits(value, tuples[key]):
            yield f"{key}={value!r} must be {_say_items(tuples[key])}."
    yield from _type_faults(flat)
    yield from _text_faults(flat)
    for key in ("prompt", "prompt_prefix", "negative_prompt", "family.source_words"):
        hidden = _HIDDEN.search(str(flat.get(key) or ""))
        if hidden:
            yield (
                f"{key}={shorten(flat[key])!r} holds the control character"
                f" {hidden[0]!r}, which no text needs; leave it out."
            )
    digest = str(flat.get("prior.sha256", ""))
    if digest and not re.fullmatch("[0-9a-fA-F]{64}", digest):
        yield (
            f"prior.sha256={digest!r} is no SHA-256; give its 64 hexadecimal digits, or"
            ' "" to accept any file.'
        )


def _fits(value: Any, items: tuple[Any, ...]) -> bool:
    """Whether a tuple has the entries that its annotation says."""
    if not isinstance(value, tuple):
        return False
    if items[-1] is ...:
        items = (items[0],) * len(value)
    return len(value) == len(items) and all(map(_is_item, value, items))


def _is_item(value: Any, kind: Any) -> bool:
    if inner := typing.get_args(kind):
        return _fits(value, inner)
    if kind is float:
        return _is_number(value) and math.isfinite(value)
    return isinstance(value, kind) and not isinstance(value, bool)


def _say_items(items: tuple[Any, ...]) -> str:
    """Such as "3 numbers", or "whole numbers"."""
    names = {float: "numbers", int: "whole numbers", str: "texts"}
    number = "" if items[-1] is ... else f"{len(items)} "
    inner = typing.get_args(items[0])
    return number + (f"tuples of {_say_items(inner)}" if inner else names[items[0]])


_TYPES = {bool: "True or False", int: "a whole number", str: "a text"}


def _type_faults(flat: Flat) -> Iterator[str]:
    """Values of another type than their spec says: True is no number, 2.5 no count."""
    for key, (rule, _) in sections.keys().items():
        value = flat.get(key)
        if value is None or rule.type not in _TYPES:
            continue
        sound = isinstance(value, rule.type)
        if not sound or (rule.type is int and isinstance(value, bool)):
            yield f"{key}={value!r} must be {_TYPES[rule.type]}."


def _within(value: Any, bounds: tuple[float, float]) -> bool:
    finite = _is_number(value) and math.isfinite(value)
    return finite and bounds[0] <= value <= bounds[1]


def _bounds(bounds: tuple[float, float]) -> str:
    low, high = bounds
    if high >= UNBOUNDED:
        return f"it must be a number of at least {low:g} (and at most {high:g})"
    return f"it must be a number from {low:g} to {high:g}"


def _is_pair(value: Any, bounds: tuple[float, float]) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(_within(item, bounds) for item in value)
        and value[0] <= value[1]
    )


def _is_triple(value: Any, bounds: tuple[float, float]) -> bool:
    is_tuple = isinstance(value, tuple) and len(value) == 3
    return is_tuple and all(_within(item, bounds) for item in value)


def combination_faults(flat: Flat) -> Iterator[str]:
    """One sentence for each set of keys that do not go together."""
    yield from _particle_faults(flat)
    yield from _restart_faults(flat)
    yield from _background_faults(flat)
    yield from _time_faults(flat)
    yield from _guidance_faults(flat)
    yield from _score_faults(flat)
    yield from _scene_faults(flat)
    yield from _camera_faults(flat)
    yield from STAGES[flat["field.kind"]].faults(flat)


def _particle_faults(flat: Flat) -> Iterator[str]:
    n, m = flat["num_particles"], flat["particles_per_step"]
    if m > n:
        yield (
            f"particles_per_step={m} is more than num_particles={n}; leave it out to"
            " update all of them in each step."
        )
    devices = flat["num_devices"]
    if devices > 1 and m != n:
        yield (
            f"num_devices={devices} needs particles_per_step (now {m}) to be all of"
            f" num_particles={n}."
        )
    if devices > 1 and flat["num_shards"] > 1:
        yield (
            f"num_shards={flat['num_shards']} splits the prior over devices, and"
            f" num_devices={devices} copies it; set one of them to 1."
        )
    shares, left = divmod(devices, n)
    views = flat["vsd.views_per_step"]
    if devices <= n and n % devices:
        yield (
            f"num_devices={devices} needs num_particles (now {n}) to be a multiple of"
            " it, or to divide it."
        )
    elif devices > n and (left or views % shares):
        yield (
            f"num_devices={devices} is more than num_particles={n}: it must be a"
            f" multiple of it, and vsd.views_per_step (now {views}) a multiple of"
            " num_devices / num_particles, for the views to be shared."
        )


def _restart_faults(flat: Flat) -> Iterator[str]:
    if flat["on_not_finite"] == "restart" and flat["mesh.source"]:
        yield (
            "on_not_finite=restart would give up what comes from mesh.source="
            f"{flat['mesh.source']}; set on_not_finite=stop."
        )


def _background_faults(flat: Flat) -> Iterator[str]:
    keys = ("background_colors", "background_words", "background_shares")
    colors, words, shares = (flat[f"render.{key}"] for key in keys)
    if not len(colors) == len(words) == len(shares) >= 1:
        yield (
            f"render.background_colors, render.background_words and"
            f" render.background_shares have {len(colors)}, {len(words)} and"
            f" {len(shares)} entries; give the same number to all."
        )
        return
    for color in (*colors, flat["eval.background"]):
        if not _is_triple(color, (0, 1)):
            yield f"The background {color!r} is no colour; give (r, g, b) in [0, 1]."
    sound = all(_within(share, (0, 1)) for share in shares)
    if not sound or abs(sum(shares) - 1) > 1e-3:
        yield f"render.background_shares={shares} must be in [0, 1] and sum to 1."
    if flat["render.environment_share"] > 0 and not flat["field.environment"]:
        yield (
            f"render.environment_share={flat['render.environment_share']} asks for a"
            " learned background; set field.environment=True, or the share to 0."
        )


def _time_faults(flat: Flat) -> Iterator[str]:
    low, late_high = flat["vsd.t_range"][0], flat["vsd.t_range_late"][1]
    if flat["vsd.t_schedule"] == "two_stage" and flat["vsd.t_range_late"][0] != low:
        yield (
            f"vsd.t_range and vsd.t_range_late start at {low} and"
            f" {flat['vsd.t_range_late'][0]}; only the upper end is annealed, so give"
            " both the same lower end."
        )
    if flat["vsd.t_schedule"] == "two_stage" and late_high <= low:
        yield f"vsd.t_range_late ends at {late_high}, below its start {low}; raise it."
    method = flat["vsd.method"]
    if idle.is_unscored(flat) and flat["score.steps_per_step"] != 1:
        yield (
            f"score.steps_per_step={flat['score.steps_per_step']} has no meaning with"
            f" vsd.method={method}, which has no score network; leave it out."
        )


def _guidance_faults(flat: Flat) -> Iterator[str]:
    rescale, own_t = flat["vsd.guidance_rescale"], flat["vsd.guidance_t"]
    decoupled = Guidance(guidance_t=own_t).is_decoupled
    if rescale and (decoupled or flat["vsd.method"] in _OF_THE_TERM):
        which = f"vsd.guidance_t={own_t}" if decoupled else flat["vsd.method"]
        yield (
            f"vsd.guidance_rescale={rescale} rescales a whole prediction, and {which}"
            " takes the term of guidance alone; set it to 0."
        )


def _score_faults(flat: Flat) -> Iterator[str]:
    method, best = flat["vsd.method"], flat["log.best"]
    if best.startswith("score/") and idle.is_unscored(flat):
        yield (
            f"log.best={best} is no metric of vsd.method={method}, which has no score"
            " network; give another one."
        )
    if method == "esd" and not 0.0 < flat["score.camera_dropout"] < 1.0:
        yield (
            f"score.camera_dropout={flat['score.camera_dropout']} is no share of both:"
            " vsd.method=esd asks the score network with and without the camera."
        )
    channels, groups = flat["score.channels"], flat["score.num_groups"]
    heads = flat["score.num_heads"]
    if flat["score.kind"] != "unet":
        return
    if not channels or any(each < 1 or each % groups for each in channels):
        yield (
            f"score.channels={channels} must be one or more positive multiples of"
            f" score.num_groups={groups}."
        )
    elif channels[-1] % heads:
        yield (
            f"score.num_heads={heads} must divide the last of"
            f" score.channels={channels}."
        )


def _scene_faults(flat: Flat) -> Iterator[str]:
    for key in ("camera.target", "field.init_centre"):
        if not _is_triple(flat[key], (-1, 1)):
            yield f"{key}={flat[key]!r} is no point; give (x, y, z) in [-1, 1]."
    if flat["field.max_resolution"] < flat["field.min_resolution"]:
        yield (
            f"field.max_resolution={flat['field.max_resolution']} is below"
            f" field.min_resolution={flat['field.min_resolution']}; raise it."
        )
    early, stage = flat["render.early_size"], STAGES[flat["field.kind"]]
    if early and (not stage.has_density or not 4 <= early < flat["render.size"]):
        yield (
            f"render.early_size={early} is for field.kind=nerf alone, at least 4 and"
            f" below render.size={flat['render.size']}; 0 renders at one size."
        )
    thins = stage.has_density and flat["render.capacity"] < 1
    if thins and flat["render.occupancy_resolution"] == 0:
        yield (
            f"render.capacity={flat['render.capacity']} skips samples, which needs an"
            " occupancy grid; set render.occupancy_resolution=32, or capacity to 1."
        )


def _camera_faults(flat: Flat) -> Iterator[str]:
    if flat["camera.law"] == "orbit" and flat["camera.radius"][1] <= 0:
        yield "camera.radius has no positive end; an orbit needs one, e.g. (1.0, 1.5)."
    if flat["camera.law"] == "inside" and flat["vsd.view_prompts"]:
        yield (
            "vsd.view_prompts=True has no meaning with camera.law=inside, since a room"
            " has no front; set vsd.view_prompts=False."
        )
    if flat["vsd.perp_neg"] and not flat["vsd.view_prompts"]:
        yield ("vsd.perp_neg=True pushes views apart and needs vsd.view_prompts=True.")
    if flat["vsd.height_prompts"] and not flat["vsd.view_prompts"]:
        yield (
            "vsd.height_prompts=True puts a word before that of the view and needs"
            " vsd.view_prompts=True."
        )
    not_overhead = flat["vsd.not_overhead_deg"]
    if not_overhead != NEVER_DEG and not flat["vsd.view_prompts"]:
        yield (
            f"vsd.not_overhead_deg={not_overhead} moves away from the overhead view's"
            " prompt and needs vsd.view_prompts=True; without view prompts set"
            f" vsd.not_overhead_deg={NEVER_DEG}."
        )
    adapt = flat["camera.adapt"]
    if adapt and flat["num_devices"] > flat["num_particles"]:
        yield (
            f"camera.adapt={adapt} learns from all views of a particle, which"
            f" num_devices={flat['num_devices']} would share out; set it to at most"
            f" num_particles={flat['num_particles']}."
        )
