# SPDX-License-Identifier: Apache-2.0
"""Writes docs/settings.md: every key with its defaults, meaning and bounds.

  python tools/write_settings.py            # write it
  python tools/write_settings.py --check    # exit with 1 if it is out of date

Meaning, type and bounds come from the settings dataclasses
(`vsd_jax/program/settings/sections.py`), the numbers from `vsd_jax/presets/`.
"""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout, where the package is not installed

from vsd_jax.presets import PartOf, join  # noqa: E402
from vsd_jax.presets.kinds import layers_of  # noqa: E402
from vsd_jax.presets.numbers import PAPER  # noqa: E402
from vsd_jax.program.settings import sections  # noqa: E402
from vsd_jax.spec import UNBOUNDED, FieldRule, OneOf, Within  # noqa: E402

PAGE = ROOT / "docs" / "settings.md"
HEAD = """# Settings

Every key of a configuration: `--config.KEY=VALUE`, or `preset.replace({"KEY": VALUE})`
for the library's parts (what only the program does, such as `eval` and `log`, has no
effect there). *Paper* is the value of the paper or of its published code, as far as
they state one: `vsd_jax/presets/numbers.py` gives the source of each. *Embedded* is
that of an object on the embedded prior, `--config=object`, where it differs. What
Stable Diffusion's weights, rooms, the refinement, mesh stages and images change: the
layers there and in `vsd_jax/presets/kinds.py`. A fraction of another key follows it
until it is set itself.

<!-- Written by tools/write_settings.py: do not edit. -->
"""
TITLES = {
    "": "The run",
    "field": "field: theta",
    "render": "render: images of it",
    "mesh": "mesh: the mesh stages",
    "camera": "camera: the distribution of cameras",
    "prior": "prior: the frozen diffusion model",
    "vsd": "vsd: method, guidance, timesteps, prompts",
    "family": "family: settings of single methods and schedules",
    "score": "score: the score network",
    "optim": "optim: Adam for theta",
    "regularize": "regularize: factors of the regularisers, 0 = off",
    "eval": "eval: what is rendered and measured at the end",
    "export": "export: the mesh files",
    "log": "log: what is written while a run goes on",
}


def number(value: float) -> str:
    """Six digits, which is more than any default has, but not 1e+06."""
    text = f"{value:.6g}"
    return f"{value:,.0f}" if "e+" in text else text


def shown(value: object) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, PartOf):
        share = f" * {value.numerator} / {value.denominator}"
        return f"`{value.key}`" + share * (value.numerator != value.denominator)
    if isinstance(value, str):
        return f"`{value!r}`" if len(value) < 40 else "a list of words"
    if isinstance(value, tuple):
        return f"`({', '.join(plain(part) for part in value)})`"
    return f"`{plain(value)}`"


def plain(value: object) -> str:
    """A value without its marks."""
    if isinstance(value, tuple):
        return f"({', '.join(plain(part) for part in value)})"
    if isinstance(value, float):
        return number(value) if value % 1 else f"{value:.1f}"
    return repr(value)


def sentence(about: str) -> str:
    """A meaning as a cell of the table."""
    return about.rstrip(".").replace("|", "\\|").replace("->", "to")


def bounds(rule: FieldRule) -> str:
    """Type and bounds in a few words."""
    match rule.rule:
        case OneOf(choices):
            return ", ".join(f"`{choice or '(empty)'}`" for choice in choices)
        case Within(low, high):
            kind = "two floats" if rule.is_pair else rule.type.__name__
            if high >= UNBOUNDED:
                return f"{kind} >= {number(low)}"
            return f"{kind} in [{number(low)}, {number(high)}]"
    return {str: "text", bool: "`True`, `False`", tuple: "a tuple"}.get(
        rule.type, rule.type.__name__
    )


def page() -> str:
    """The whole page."""
    embedded, keys = join(*layers_of("object", "")), sections.keys()
    lines = [HEAD]
    for section, values in PAPER.items():
        lines += [
            f"## {TITLES[section]}\n",
            "| key | paper | embedded | meaning | bounds |",
            "|---|---|---|---|---|",
        ]
        for name, value in values.items():
            full = f"{section}.{name}".lstrip(".")
            other = embedded[section][name]
            cells = [
                f"`{full}`",
                shown(value),
                shown(other) if other != value else "",
                sentence(keys[full].about),
                bounds(keys[full].rule),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Writes the page, or says that it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        PAGE.write_text(page())
        return 0
    if PAGE.is_file() and PAGE.read_text() == page():
        return 0
    print("docs/settings.md is out of date: run python tools/write_settings.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
