# SPDX-License-Identifier: Apache-2.0
"""Types and bounds of settings dataclasses, written as annotations.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class LoraSpec:
        rank: Annotated[int, Within(1, 1024)]

A settings dataclass ("spec") stands beside the part that it describes: each field once,
with meaning and unit in its docstring and its bounds here. The numbers themselves stand
in `presets/`.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

UNBOUNDED = 1e9
"""Where nothing else bounds a number: what an int32 holds, since values meet JAX."""

Spec = TypeVar("Spec")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Within:
    """Inclusive bounds of a number, or of both ends of a (low, high) pair."""

    low: float
    high: float = UNBOUNDED


@dataclasses.dataclass(frozen=True)
class OneOf:
    """The values that a name may have."""

    choices: tuple[str, ...]


class FieldRule(NamedTuple):
    """Type and bounds of one field.

    Attributes:
      type: `float`, `int`, `bool`, `str` or `tuple`.
      rule: `Within`, `OneOf` or None.
      is_pair: whether the field is a (low, high) pair.
      items: of a tuple the types of its entries, as in its annotation.
    """

    type: type
    rule: Within | OneOf | None
    is_pair: bool
    items: tuple[Any, ...] = ()


def rules_of(spec: type) -> dict[str, FieldRule]:
    """Returns type and bounds of each field of a settings dataclass."""
    hints = typing.get_type_hints(spec, include_extras=True)
    return {name: rule_of(hint) for name, hint in hints.items()}


def rule_of(hint: Any) -> FieldRule:
    """Returns the type and bounds that an annotation states."""
    plain, rule = hint, None
    if typing.get_origin(hint) is typing.Annotated:
        plain, *notes = typing.get_args(hint)
        rule = next((n for n in notes if isinstance(n, Within | OneOf)), None)
    is_pair = plain == tuple[float, float] and isinstance(rule, Within)
    kind = typing.get_origin(plain) or plain
    items = typing.get_args(plain) if kind is tuple else ()
    return FieldRule(kind, rule, is_pair, items)


def pick(spec: type[Spec], values: Mapping[str, Any]) -> Spec:
    """Makes a settings dataclass from a mapping that may hold more than its fields.

    Raises:
      KeyError: if a field is missing.
      ValueError: if one is out of its bounds, or none of its names.
    """
    own = {field.name: values[field.name] for field in dataclasses.fields(spec)}
    for name, rule in rules_of(spec).items():
        check(name, own[name], rule)
    return spec(**own)


def check(name: str, value: Any, rule: FieldRule) -> None:
    """Raises ValueError for a value that its annotation rules out.

    Arrays pass, whose values a compiled program does not know.
    """
    bounds = rule.rule
    if isinstance(bounds, OneOf) and value not in bounds.choices:
        known = ", ".join(choice or '""' for choice in bounds.choices)
        raise ValueError(f"{name}={value!r} is unknown; use one of {known}.")
    if not isinstance(bounds, Within):
        return
    is_pair = rule.is_pair and isinstance(value, tuple)
    known = [n for n in (value if is_pair else (value,)) if isinstance(n, int | float)]
    if not all(bounds.low <= number <= bounds.high for number in known):
        raise ValueError(
            f"{name}={value!r} is out of range, which is {bounds.low:g} to"
            f" {bounds.high:g}."
        )
    if is_pair and (len(value) != 2 or known != sorted(known)):
        raise ValueError(f"{name}={value!r} is no range; give (low, high).")


def check_fields(spec: Any) -> None:
    """`check` of all fields of a settings dataclass, for its `__post_init__`."""
    for name, rule in rules_of(type(spec)).items():
        check(name, getattr(spec, name), rule)


def checked(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function with its annotated arguments checked (`check`) at each call."""
    hints = typing.get_type_hints(function, include_extras=True)
    rules = {name: rule_of(hint) for name, hint in hints.items() if name != "return"}

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Result:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        for name in given.keys() & rules.keys():
            check(name, given[name], rules[name])
        return function(*args, **kwargs)

    return wrapped
