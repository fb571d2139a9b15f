# SPDX-License-Identifier: Apache-2.0
"""What an experiment is: rows, prompts, seeds, and the budget they are run with.

A cell is one row with one prompt and one seed. Everything here is data; nothing runs.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vsd_jax.program.terminal.errors import ConfigError
from vsd_jax.toybox import text

Settings = Mapping[str, Any]
"""Flattened keys of `presets/numbers.py`, such as {"vsd.guidance_scale": 7.5}."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    Attributes:
      name: as it stands in the table.
      settings: what differs from the experiment's own settings; for "sample" these are
        `guidance_scale` and `eta`.
      kind: "run" the program, "exact" the same method on a closed-form prior, "sample"
        the embedded prior or "exact_sample" a closed-form one.
      config: its own configuration file; "" = the experiment's.
      stages: of that file, those to run; the last one is scored. Its settings are then
        the row's alone, and name the stage: "texture.vsd.method".
    """

    name: str
    settings: Settings
    kind: str = "run"
    config: str = ""
    stages: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table.

    Attributes:
      about: what is claimed and where, in one or two sentences.
      config: the configuration file that the settings differ from.
      settings: common to all rows.
      rows: lines of the table.
      prompts: each is a cell of every row.
      seeds: how many by default.
      columns: names of scores, in the table's order.
      reference: row that the distance "to reference" is measured to; "" = none.
      smoke: settings of the smoke form, for the tests.
    """

    about: str
    config: str
    rows: Sequence[Row]
    prompts: Sequence[str]
    seeds: int
    columns: Sequence[str]
    settings: Settings = dataclasses.field(default_factory=dict)
    reference: str = ""
    smoke: Settings = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much of a table is run; None = as the table says.

    Attributes:
      seeds: number of seeds, from 0.
      prompts: number of prompts, from the first.
      texts: prompts of the Toybox in place of the table's own; empty = these.
      steps: training steps of each run.
      particles: of each run, and samples of each sampler.
      rows: names of the rows to run; empty = all.
      smoke: settings that make it run in seconds and mean nothing.
    """

    seeds: int | None = None
    prompts: int | None = None
    texts: tuple[str, ...] = ()
    steps: int | None = None
    particles: int | None = None
    rows: tuple[str, ...] = ()
    smoke: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a row, a prompt, a seed, and all settings with the budget applied."""

    row: Row
    prompt: str
    seed: int
    config: str
    settings: Settings

    @property
    def products(self) -> str:
        """Where its pictures and meshes are: in the last stage's folder."""
        return "/".join((self.folder, *self.row.stages[-1:]))

    @property
    def folder(self) -> str:
        """Where it stands below the experiment's folder."""
        return f"{slug(self.row.name)}/{slug(self.prompt)}_{self.seed}"

    @property
    def is_rendered(self) -> bool:
        """Whether its truth is rendered: all but points in the plane."""
        return not self.settings.get("exact.world", "").startswith("plane")


def slug(name: str) -> str:
    """Letters, digits and underscores only: "VSD, s = 7.5" -> "vsd_s_7_5"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def find(name: str, known: Mapping[str, Experiment]) -> Experiment:
    """The experiment of that name.

    Raises:
      ConfigError: if there is none; names those that there are.
    """
    if name not in known:
        raise ConfigError(
            f"--name={name} is no experiment; there are {', '.join(known)}, and"
            " leaderboard."
        )
    return known[name]


def chosen_rows(experiment: Experiment, budget: Budget) -> list[Row]:
    """The rows of the budget, in the table's order.

    Raises:
      ConfigError: if one is named that there is not.
    """
    names = [row.name for row in experiment.rows]
    unknown = [name for name in budget.rows if name not in names]
    if unknown:
        raise ConfigError(
            f"--rows={unknown[0]!r} is no row of this table; there are:\n  "
            + "\n  ".join(names)
        )
    wanted = budget.rows or names
    return [row for row in experiment.rows if row.name in wanted]


def chosen_prompts(experiment: Experiment, budget: Budget) -> list[str]:
    """The budget's own texts, or as many of the table's prompts as it says.

    Raises:
      ConfigError: if there are not so many, or a text has no truth to compare with.
    """
    if budget.texts:
        _refuse_without_truth(chosen_rows(experiment, budget), budget.texts)
        return list(dict.fromkeys(budget.texts))
    number = budget.prompts or (1 if budget.smoke else len(experiment.prompts))
    if number > len(experiment.prompts):
        raise ConfigError(
            f"--prompts={number}: this table has {len(experiment.prompts)}."
        )
    return list(experiment.prompts[:number])


def _refuse_without_truth(rows: Sequence[Row], texts: Sequence[str]) -> None:
    exact = [row.name for row in rows if row.kind.startswith("exact")]
    if exact:
        raise ConfigError(
            f"--texts={texts[0]!r}: row {exact[0]!r} has a prior in closed form, whose"
            " prompt is fixed. Leave --texts out."
        )
    for wanted in texts:
        try:
            parsed = text.parse(wanted)
        except text.UnknownPromptError as error:
            raise ConfigError(f"--texts={wanted!r}: {error}") from error
        if parsed.room and parsed.view == text.OVERHEAD:
            raise ConfigError(
                f"--texts={wanted!r}: an object in a room is never seen from overhead,"
                " so there is no truth to compare with. Leave the view out."
            )


def num_seeds(experiment: Experiment, budget: Budget) -> int:
    """How many seeds, from 0."""
    return budget.seeds or (1 if budget.smoke else experiment.seeds)


def cells(experiment: Experiment, budget: Budget) -> list[Cell]:
    """All cells, those of the first seed first, so that the table fills evenly.

    Raises:
      ConfigError: for a budget that rows of this table differ in, or one of `chosen_*`.
    """
    rows = chosen_rows(experiment, budget)
    _refuse_what_varies(experiment, rows, budget)
    return [
        Cell(
            row=row,
            prompt=prompt,
            seed=seed,
            config=(row.config or experiment.config) + ":smoke" * budget.smoke,
            settings=_settings(experiment, row, budget),
        )
        for seed in range(num_seeds(experiment, budget))
        for prompt in chosen_prompts(experiment, budget)
        for row in rows
    ]


def _refuse_what_varies(
    experiment: Experiment, rows: Sequence[Row], budget: Budget
) -> None:
    """A budget for all rows would make those alike that the table is about."""
    for flag, key in (("steps", "num_steps"), ("particles", "num_particles")):
        usual = experiment.settings.get(key, "the default")
        varied = {row.settings.get(key, usual) for row in rows if _reads(row, key)}
        given = getattr(budget, flag)
        if given is not None and len(varied) > 1 and not budget.smoke:
            raise ConfigError(
                f"--{flag}={given}: rows of this table differ in it"
                f" ({', '.join(sorted(map(str, varied)))}); choose some with --rows."
            )


def _reads(row: Row, key: str) -> bool:
    """Whether a row has that number: those that sample make no steps."""
    return key != "num_steps" or row.kind not in ("sample", "exact_sample")


def _settings(experiment: Experiment, row: Row, budget: Budget) -> dict[str, Any]:
    """All settings of a row's cells, the budget's last."""
    own = {"num_steps": budget.steps, "num_particles": budget.particles}
    own = {key: value for key, value in own.items() if value is not None}
    if budget.smoke:
        own = {**experiment.smoke, **own}
    if not row.stages:
        found = {**experiment.settings, **row.settings, **own}
        if "num_particles" in found:  # all of them, unless the row says otherwise
            found.setdefault("particles_per_step", found["num_particles"])
        return found
    # Each stage has its own number of steps; the particles are shared.
    found = {**row.settings, "stages": row.stages}
    for key, value in own.items():
        shared = key == "num_particles"
        names = [key] if shared else [f"{stage}.{key}" for stage in row.stages]
        found |= dict.fromkeys(names, value)
    return found
