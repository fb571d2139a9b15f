# SPDX-License-Identifier: Apache-2.0
"""What the fields of a settings dataclass may be, written as annotations.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class LoraSpec:
        rank: Annotated[int, Within(1, 1024)]

A settings dataclass ("spec") stands beside the part that it describes: each field once,
with meaning and unit in its docstring and its bounds here. The numbers themselves stand
in `presets.py`.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

UNBOUNDED = 1e9
"""Where nothing else bounds a number: what an int32 holds, since values meet JAX."""

Spec = TypeVar("Spec")


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
    """What one field may be.

    Attributes:
      type: `float`, `int`, `bool`, `str` or `tuple`.
      rule: `Within`, `OneOf` or None.
      is_pair: whether the field is a (low, high) pair.
    """

    type: type
    rule: Within | OneOf | None
    is_pair: bool


def rules_of(spec: type) -> dict[str, FieldRule]:
    """The rule of each field of a settings dataclass."""
    hints = typing.get_type_hints(spec, include_extras=True)
    return {name: rule_of(hint) for name, hint in hints.items()}


def rule_of(hint: Any) -> FieldRule:
    """The rule that an annotation states."""
    plain, rule = hint, None
    if typing.get_origin(hint) is typing.Annotated:
        plain, *notes = typing.get_args(hint)
        rule = next((n for n in notes if isinstance(n, Within | OneOf)), None)
    is_pair = plain == tuple[float, float] and isinstance(rule, Within)
    return FieldRule(typing.get_origin(plain) or plain, rule, is_pair)


def pick(spec: type[Spec], values: Mapping[str, Any]) -> Spec:
    """A settings dataclass from a mapping that may hold more than its fields.

    Raises:
      KeyError: if a field is missing.
    """
    names = [field.name for field in dataclasses.fields(spec)]
    return spec(**{name: values[name] for name in names})
