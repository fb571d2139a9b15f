# SPDX-License-Identifier: Apache-2.0
"""The sections of a configuration: which settings dataclass each key belongs to.

Types and ranges of keys are those of the dataclasses; so is what a key means.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from vsd_jax.adaptive import AdaptSpec
from vsd_jax.diffusion.guidance import Guidance
from vsd_jax.diffusion.lora import LoraSpec
from vsd_jax.diffusion.prompt import PromptSpec, ViewPromptSpec
from vsd_jax.diffusion.small_unet import SmallUnetSpec
from vsd_jax.distil import Population
from vsd_jax.methods import METHODS, MethodSpec, own_settings
from vsd_jax.particle import OptimSpec
from vsd_jax.presets.numbers import PAPER
from vsd_jax.program.build.stages import StageSpec
from vsd_jax.program.settings.program_specs import (
    EarlySpec,
    EvalSpec,
    ExportSpec,
    LogSpec,
    MeshStartSpec,
    PriorSpec,
    RunSpec,
    ScoreSourceSpec,
)
from vsd_jax.scene.camera import CameraSpec
from vsd_jax.scene.image import ImageSpec
from vsd_jax.scene.mesh.geometry import MeshSpec
from vsd_jax.scene.nerf.field import FieldSpec
from vsd_jax.scene.nerf.nerf import RenderSpec
from vsd_jax.scene.regularizers import RegularizerSpec
from vsd_jax.score_network import TrainingSpec
from vsd_jax.spec import FieldRule, OneOf, Within, rule_of, rules_of
from vsd_jax.timesteps import TimestepSpec
from vsd_jax.views import BackgroundSpec, ViewsSpec

OWNERS: dict[str, tuple[type, ...]] = {
    "": (RunSpec, PromptSpec, Population),
    "field": (StageSpec, FieldSpec, ImageSpec),
    "render": (RenderSpec, EarlySpec, BackgroundSpec),
    "mesh": (MeshStartSpec, MeshSpec),
    "camera": (CameraSpec, AdaptSpec),
    "prior": (PriorSpec,),
    "vsd": (MethodSpec, Guidance, TimestepSpec, PromptSpec, ViewPromptSpec, ViewsSpec),
    "family": (TimestepSpec, PromptSpec),
    "score": (ScoreSourceSpec, LoraSpec, SmallUnetSpec, TrainingSpec),
    "optim": (OptimSpec,),
    "regularize": (RegularizerSpec,),
    "eval": (EvalSpec,),
    "export": (ExportSpec,),
    "log": (LogSpec,),
}
"""The dataclasses that the keys of a section belong to; "" is the top level."""


class Key(NamedTuple):
    """What one key is.

    Attributes:
      rule: its type and bounds.
      about: what it means, with its unit.
    """

    rule: FieldRule
    about: str


@functools.cache
def keys() -> dict[str, Key]:
    """Every key of a configuration by its full name, such as "vsd.guidance_scale"."""
    return {
        f"{section}.{name}".lstrip("."): _key(section, name)
        for section, values in PAPER.items()
        for name in values
    }


def _key(section: str, name: str) -> Key:
    for owner in OWNERS[section]:
        rules = rules_of(owner)
        if name in rules:
            return Key(rules[name], _attribute(owner.__doc__, name))
    users = [method for method in METHODS if name in own_settings(method)]
    if section == "family" and users:
        parameter = own_settings(users[0])[name]
        about = _attribute(METHODS[users[0]].__doc__, name)
        return Key(rule_of(parameter.annotation), f"of {' and '.join(users)}: {about}")
    raise KeyError(f"No dataclass has {section}.{name}.")


def _attribute(docstring: str, name: str) -> str:
    """The description of one attribute or argument in a Google-style docstring."""
    end = r"^ +\w+: |^\s*$|\Z"
    found = re.search(rf"^ +{name}: (.*?)(?={end})", docstring, re.S | re.M)
    if found is None:
        raise KeyError(f"{name} is not described.")
    return " ".join(found[1].split())


def choices() -> dict[str, tuple[str, ...]]:
    """The keys that are one of some names."""
    return {name: rule.choices for name, rule, _ in _rules() if isinstance(rule, OneOf)}


def ranges() -> dict[str, tuple[float, float]]:
    """Inclusive bounds of single numbers."""
    return {
        name: (rule.low, rule.high)
        for name, rule, is_pair in _rules()
        if isinstance(rule, Within) and not is_pair
    }


def pairs() -> dict[str, tuple[float, float]]:
    """(low, high) tuples and the bounds of both ends."""
    return {name: (rule.low, rule.high) for name, rule, is_pair in _rules() if is_pair}


def tuples() -> dict[str, tuple[Any, ...]]:
    """Keys that hold several values, with the types of these (`spec.FieldRule`)."""
    return {n: key.rule.items for n, key in keys().items() if key.rule.type is tuple}


def _rules() -> Iterator[tuple[str, Within | OneOf | None, bool]]:
    for name, key in keys().items():
        yield name, key.rule.rule, key.rule.is_pair
