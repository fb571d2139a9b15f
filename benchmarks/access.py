# SPDX-License-Identifier: Apache-2.0
"""Gathers and scatters of a lowered program, and which of them accelerators do slowly.

Read from StableHLO text, so that no device is needed. It is a rule on forms, not a
measurement: nothing here was timed on a GPU or TPU. `slow_accesses` finds

- a scatter with several results: XLA's GPU compiler makes it a serial loop;
- a scatter that combines by something else than one addition, minimum or maximum (or
  replaces): no atomic operation does that;
- a scatter that combines 16-bit floats at indices that may meet: two numbers share the
  word that an atomic operation swaps, and every sum is rounded;
- a gather or scatter of single numbers out of an array of two or more axes whose last
  axis the index addresses: nothing is read or written together, on a TPU each is an
  access of its own;
- a loop that writes a few numbers of a long array in a turn: the serial form of a
  scatter that a CPU wants.

Doubles are `lowering.faults`' matter. Not looked for: single numbers out of a vector
(there is nothing to read together; layouts like `[3, N]` are read along N by threads
that are neighbours), and float32 scatter-adds at indices that meet, which GPUs
do by atomic additions; a hash grid's gradient is made of those (arXiv:2201.05989).
"""

import math
import re
from typing import NamedTuple

FEW, MANY = 8, 256
"""A serial loop writes at most `FEW` numbers, into at least `MANY` times as many."""
_COMBINED = {"add", "minimum", "maximum"}
_TENSOR = re.compile(r"tensor<((?:\d+x)*)([a-z]+\d*)>")
_ACCESS = re.compile(
    r'"stablehlo\.(gather|scatter)"\([^)]*\) <\{(?P<how>.*?)\}>'
    r"(?P<body> \(\{.*?\n\s*\}\))? : (?P<types>[^\n]*)",
    re.DOTALL,
)
_WRITE = re.compile(r"stablehlo\.dynamic_update_slice [^\n]*? : (\([^\n]*)")


class Array(NamedTuple):
    """Shape and type of a value."""

    shape: tuple[int, ...]
    dtype: str


def arrays(types: str) -> list[Array]:
    """The tensors that a text names, in order."""
    return [
        Array(tuple(int(n) for n in shape.split("x")[:-1]), dtype)
        for shape, dtype in _TENSOR.findall(types)
    ]


def _numbers(how: str, name: str) -> list[int]:
    """An attribute that is a list of numbers; [] if it is not there."""
    found = re.search(rf"\b{name} = (?:array<i64: ([\d, ]*)>|\[([\d, ]*)\])", how)
    listed = (found[1] or found[2] or "") if found else ""
    return [int(n) for n in re.findall(r"\d+", listed)]


def _window(kind: str, how: str, given: list[Array]) -> int:
    """How many numbers one index reads or writes."""
    if kind == "gather":
        return math.prod(_numbers(how, "slice_sizes"))
    updates = given[2].shape
    return math.prod(updates[i] for i in _numbers(how, "update_window_dims"))


def _fault(found: re.Match) -> str:
    """Why an access is slow; "" if it is not."""
    kind, how, body = found[1], found["how"], found["body"] or ""
    given, result = (arrays(side) for side in found["types"].split(" -> "))
    source = given[0]
    combined = [op for op in re.findall(r"stablehlo\.(\w+)", body) if op != "return"]
    if len(result) > 1:
        return "several results at once"
    if combined and (len(combined) > 1 or not _COMBINED.issuperset(combined)):
        return f"combines by {', '.join(combined)}"
    meet = combined and "unique_indices = true" not in how
    if meet and source.dtype in ("bf16", "f16"):
        return f"combines {source.dtype} at indices that may meet"
    axes = sum(size > 1 for size in source.shape)
    if axes > 1 and source.shape[-1] > 1 and _window(kind, how, given) == 1:
        return "single numbers out of an array of several axes"
    return ""


def _serial(types: str) -> bool:
    """Whether a write is of a few numbers into a long array."""
    into, what, *_ = (math.prod(one.shape) for one in arrays(types))
    return what <= FEW and into >= MANY * what


def _without_decompositions(text: str) -> str:
    """The program less what stands in for operations that a backend has of its own.

    jax 0.12 writes a cumulative sum as such an operation, with a serial loop for
    backends that do not know it.
    """
    for name in set(re.findall(r"decomposition = @([\w.$]+)", text)):
        body = rf"^  func\.func private @{re.escape(name)}\(.*?^  \}}"
        text = re.sub(body, "", text, flags=re.DOTALL | re.MULTILINE)
    return text


def slow_accesses(text: str) -> list[str]:
    """What accelerators do slowly in a lowered program (StableHLO text), each once."""
    faults = []
    text = _without_decompositions(text)
    for found in _ACCESS.finditer(text):
        if why := _fault(found):
            shapes = " ".join(re.findall("tensor<[^>]*>", found["types"]))
            faults.append(f"{found[1]}: {why}: {shapes}")
    # Only a loop's turns write by `dynamic_update_slice` again and again.
    if "stablehlo.while" in text:
        writes = (found[1] for found in _WRITE.finditer(text))
        faults += [f"serial loop: {types}" for types in writes if _serial(types)]
    return sorted(set(faults))
