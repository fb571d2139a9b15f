# SPDX-License-Identifier: Apache-2.0
"""A method of the user's, from a Python file: found, tried on two views, described.

The file holds one public function of `NoisedViews` (`methods/noised_views.py`) or one
public `Method`; and, if it wants another schedule of t than the preset's,
`SETTINGS = {"vsd.t_schedule": "sqrt"}`. It is code, and it is run.
"""

import functools
import hashlib
import importlib.util
import inspect
import pathlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vsd_jax.experiments.leaderboard import passes
from vsd_jax.methods import Method, NoisedViews
from vsd_jax.methods.noised_views import MissingPromptError
from vsd_jax.methods.protocol import SIGMA_SQUARED
from vsd_jax.program.terminal.errors import ConfigError, RunError

Path = pathlib.Path
MAY_SET = (
    *("vsd.t_schedule", "vsd.t_range", "vsd.t_range_late"),
    *("family.dreamtime_middle", "family.dreamtime_width"),
)
"""Keys of `SETTINGS`: all else is the method's own business, or the world's."""


class OwnMethod(NamedTuple):
    """A method that was found and tried.

    Attributes:
      name: the file's, without its ending.
      method: what was found.
      settings: its `SETTINGS`.
      source: fingerprint of the file.
    """

    name: str
    method: Method
    settings: Mapping[str, Any]
    source: str


def read(path: Path) -> OwnMethod:
    """Finds the method of a file and tries it, in seconds.

    Raises:
      ConfigError: if there is no such file, no such function or several, or it does not
        do what a method does; says what was found.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--submit={path} cannot be read: {error}") from error
    source = hashlib.sha256(content).hexdigest()[:12]
    return _read(path.resolve(), source)


def require_texts(own: OwnMethod, path: Path) -> None:
    """Checks that a run of the program has the texts which the method asks for.

    Raises:
      ConfigError: it asks for one that it does not name, or for "source", which is of
        Bridge alone.
    """
    if "source" in own.method.texts:
        raise ConfigError(
            f"--submit={path}: the embedded prior has no words for texts=('source',);"
            " the worlds in closed form have."
        )
    try:
        passes.count(own.method, ("text", "negative", "score", *own.method.texts))
    except MissingPromptError as error:
        (name,) = error.args
        raise ConfigError(
            f"--submit={path} asks for the text {name!r}; on the embedded prior give a"
            f" vsd.Method with texts=({name!r},)."
        ) from error


def of(settings: Mapping[str, Any]) -> Method | None:
    """The method of the user's file that a cell's settings name; None without one.

    Raises:
      RunError: the file is another one by now.
    """
    if "exact.method" not in settings:
        return None
    path = Path(settings["exact.method"])
    found = read(path)
    if found.source != settings["exact.source"]:
        raise RunError(f"{path} was changed while it was run; run the command again.")
    return found.method


@functools.lru_cache(maxsize=8)
def _read(path: Path, source: str) -> OwnMethod:
    module = _run_file(path)
    found = _find(module, path)
    if not isinstance(found, Method):
        found = Method(found, SIGMA_SQUARED)
        found = found._replace(trains_score=_count(found, path).score > 0)
    elif _count(found, path).score > 0 and not found.trains_score:
        raise ConfigError(
            f"--submit={path} asks the score network (views.score) but says"
            " trains_score=False; give its Method trains_score=True."
        )
    return OwnMethod(path.stem, found, _settings(module, path), source)


def _run_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_submitted_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--submit={path} is no Python file: its name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # any: it is the user's code
        raise ConfigError(f"--submit={path} cannot be run: {_said(error)}") from error
    return module


def _find(module: ModuleType, path: Path) -> Method | Callable:
    """The one `Method`, else the one function; of several that named as the file."""
    public = {name: v for name, v in vars(module).items() if not name.startswith("_")}
    functions = {
        name: value
        for name, value in public.items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    made = {name: v for name, v in public.items() if isinstance(v, Method)}
    found = made or functions
    if path.stem in found:
        found = {path.stem: found[path.stem]}
    if len(found) != 1:
        names = ", ".join(found) or "none"
        raise ConfigError(
            f"--submit={path} must hold one public function of the noised views, def"
            f" {path.stem}(views), or one vsd.Method; there is {names}. Names that"
            " begin with _ are not looked at."
        )
    ((name, value),) = found.items()
    if not isinstance(value, Method):
        _refuse_other_arguments(name, value, path)
    return value


def _refuse_other_arguments(name: str, function: Callable, path: Path) -> None:
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        shown = inspect.signature(function)
        raise ConfigError(
            f"--submit={path}: {name}{shown} must take one argument, the noised views"
            f" (vsd_jax/methods/noised_views.py): {error}."
        ) from error


def _settings(module: ModuleType, path: Path) -> Mapping[str, Any]:
    settings = getattr(module, "SETTINGS", {})
    if not isinstance(settings, Mapping):
        raise ConfigError(f"--submit={path}: SETTINGS is no dictionary.")
    for key in settings:
        if key not in MAY_SET:
            raise ConfigError(
                f"--submit={path}: SETTINGS may not hold {key!r}; it may hold"
                f" {', '.join(MAY_SET)}. Guidance and w(t) are the method's own."
            )
    return dict(settings)


def _checked(method: Method, path: Path) -> Method:
    """The method with its direction watched: what is wrong is said in words."""
    shape = (passes.VIEWS, *passes.SHAPE)
    name = getattr(method.direction, "__name__", "direction")

    def direction(views: NoisedViews) -> jax.Array:
        try:
            found = method.direction(views)
        except Exception as error:  # any: it is the user's code
            raise ConfigError(
                f"--submit={path}: {name}(views) fails: {_said(error)}"
            ) from error
        if not isinstance(found, jax.Array):
            raise ConfigError(
                f"--submit={path}: {name}(views) returns {type(found).__name__}, not a"
                " JAX array [V, h, w, c] like views.noise."
            )
        if found.shape != shape:
            raise ConfigError(
                f"--submit={path}: {name}(views) returns shape {found.shape}; with"
                f" views.noise of shape {shape} it must be {shape} too."
            )
        if not jnp.isfinite(found).all():
            raise ConfigError(f"--submit={path}: {name}(views) is not finite.")
        return found

    return method._replace(direction=direction)


def _count(method: Method, path: Path) -> passes.Passes:
    """Passes of a method that does what it should, also where it is compiled."""
    found = passes.count(_checked(method, path))
    try:
        passes.trace(method)
    except Exception as error:  # any: it is the user's code
        raise ConfigError(
            f"--submit={path} cannot be compiled, where no number is known (use"
            f" jnp.where in place of if): {_said(error)}"
        ) from error
    return found


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
