# SPDX-License-Identifier: Apache-2.0
"""Methods of score distillation: VSD and SDS in `paper.py`, and what came since.

A method is a public function of a file in this folder that returns a `Method`: a new
file is found by itself, and its name and settings are then known to configurations.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Annotated, Any

from vsd_jax.diffusion.guidance import Guidance
from vsd_jax.diffusion.noise import WEIGHTINGS
from vsd_jax.methods.noised_views import NoisedViews
from vsd_jax.methods.protocol import Method, Residual, bind
from vsd_jax.spec import OneOf, Within, checked

COMMON = ("guidance_scale", "guidance", "weighting")
"""Arguments that every method has."""


def _methods_of(module: ModuleType) -> dict[str, Callable[..., Method]]:
    return {
        name: checked(value)
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and inspect.signature(value).return_annotation is Method
        and not name.startswith("_")
    }


def _find_methods() -> dict[str, Callable[..., Method]]:
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    names.sort(key=lambda name: name != "paper")  # the paper's first
    found: dict[str, Callable[..., Method]] = {}
    for name in names:
        found |= _methods_of(importlib.import_module(f"{__name__}.{name}"))
    return found


METHODS = _find_methods()
"""Every method by its name."""
globals().update(METHODS)

__all__ = [
    "METHODS",
    "Method",
    "MethodSpec",
    "NoisedViews",
    "Residual",
    "bind",
    *METHODS,
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """Settings that all methods have.

    Attributes:
      method: name of the method of distillation (`METHODS`).
      guidance_scale: s of classifier-free guidance, base + s (text - base).
      weighting: name of the weight w(t) (`diffusion.noise.w_t`).
    """

    method: Annotated[str, OneOf(tuple(METHODS))]
    guidance_scale: Annotated[float, Within(0, 1000)]
    weighting: Annotated[str, OneOf(WEIGHTINGS)]


def own_settings(name: str) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a method beside the common ones.

    Examples:
      >>> list(vsd.methods.own_settings("nfsd"))
      ['t_switch']
    """
    known = inspect.signature(METHODS[name]).parameters
    return {key: known[key] for key in known if key not in COMMON}


def make_method(
    spec: MethodSpec, guidance: Guidance, settings: Mapping[str, Any]
) -> Method:
    """Makes the method that `spec` names, with its own entries of `settings`.

    Examples:
      >>> preset = vsd.presets.toybox("a red mushroom")
      >>> preset.replace({"vsd.method": "sds"}).method.trains_score
      False
    """
    return METHODS[spec.method](
        guidance_scale=spec.guidance_scale,
        guidance=guidance,
        weighting=spec.weighting,
        **{key: settings[key] for key in own_settings(spec.method)},
    )
