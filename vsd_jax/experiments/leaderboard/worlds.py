# SPDX-License-Identifier: Apache-2.0
"""Who competes, in which worlds, with how much: data, and the cells that follow.

Settings of the methods are those of the tables `family` and `family_objects`: here
stands only which of their rows compete, under which name.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vsd_jax.experiments import cells, flat_tables, plan, spatial_tables
from vsd_jax.experiments.leaderboard import passes
from vsd_jax.experiments.plan import Budget, Cell, Experiment, Row
from vsd_jax.methods import Method
from vsd_jax.presets import Settings
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A method that competes; "" = not in worlds of that kind.

    Attributes:
      name: on the leaderboard.
      flat: its row of `family`, for priors in closed form.
      spatial: its row of `family_objects`, for the embedded prior.
      settings: what differs from the rows, so that guidance is the same in all worlds
        and each method has its authors' numbers.
    """

    name: str
    flat: str = ""
    spatial: str = ""
    settings: plan.Settings = dataclasses.field(default_factory=dict)


def _same(name: str, scale: str = " 7.5") -> Entry:
    return Entry(name=name, flat=name, spatial=f"{name}{scale}")


_AT_100 = {"vsd.guidance_scale": 100.0}
ENTRIES = (
    Entry(name="SDS", flat="SDS 100", spatial="SDS 100"),
    _same("VSD"),
    _same("CSD", ""),
    *(_same(name) for name in ("NFSD", "ESD", "ASD", "SDEdit")),
    Entry(
        name="SDI",
        flat="SDI",
        spatial="SDI 8.5",
        settings={"vsd.guidance_scale": 8.5},  # 7.5 with their formula
    ),
    _same("ISM"),
    Entry(name="Bridge", flat="Bridge"),
    _same("L2-VSD"),
    Entry(
        name="Consistent3D",
        flat="Consistent3D",
        spatial="Consistent3D 50",
        settings={"vsd.guidance_scale": 50.0},
    ),
    *(
        Entry(name=f"VSD, {what}", flat=f"VSD, {what}", spatial=f"VSD 7.5, {what}")
        for what in ("APG", "DMD's weight", "HiFA's t", "DreamTime's t")
    ),
    *(
        Entry(
            name=f"SDS, {whose} t",
            flat=f"SDS, {whose} t",
            spatial=f"SDS 100, {whose} t",
            settings=_AT_100,
        )
        for whose in ("HiFA's", "DreamTime's")
    ),
    Entry(name="VSD, interval .1 to .5", flat="VSD, interval .1 to .5"),
    Entry(name="VSD, guidance at t < .2", flat="VSD, guidance at t < .2"),
)
CONTROL = "standing still"
"""The particles as they begin: shown beside truth in each world, never ranked."""
PASSES_OF_VSD = 5
"""Of a step of VSD, in whose steps the budgets below are told."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """How much is run.

    Attributes:
      vsd_moves: the budget, as that many steps of VSD for each particle.
      seeds: from 0.
      prompts: of the world's, from the first.
      particles: of a run.
    """

    vsd_moves: int
    seeds: int
    prompts: int
    particles: int

    @property
    def passes(self) -> int:
        """The budget: network passes for a particle and a view."""
        return PASSES_OF_VSD * self.vsd_moves


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Where methods compete.

    Attributes:
      about: in a sentence.
      table: of which configuration and settings are taken.
      column: `flat` or `spatial`: which row of an entry competes.
      prompts: each is a block, with each seed.
      forms: by name.
      scores: score -> what is best: "high", "low", or "truth" (as truth has it).
      tuning: what is asked for where settings are tuned (`tuning.py`), never scored:
        prompts, and what differs from the world with each.
      rates: keys of the particles' learning rates.
      settings: what differs from the table, for all.
      own: the same for some entries.
    """

    about: str
    table: Experiment
    column: str
    prompts: Sequence[str]
    forms: Mapping[str, Form]
    scores: Mapping[str, str]
    tuning: Sequence[tuple[str, plan.Settings]]
    rates: Sequence[str] = ("optim.image_lr",)
    settings: plan.Settings = dataclasses.field(default_factory=dict)
    own: Mapping[str, plan.Settings] = dataclasses.field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        """Whether its prior is in closed form."""
        return self.column == "flat"


MAIN_SCORE = "frechet_truth"
"""By which a world's ranking is compared with another's."""
_DISTANCES = {MAIN_SCORE: "low", "kernel_truth": "low", "kind_precision": "high"}
_POINTS = {
    **_DISTANCES,
    "mode_error": "low",
    "within": "truth",
    "log_density": "truth",
    "diversity": "truth",
}
_OBJECT_PROMPTS = (
    *spatial_tables.PROMPTS,
    *("a green car", "an orange mug", "a brown bear", "a red house"),
    *("a purple donut", "an orange table", "a blue snowman", "a pink cake"),
)
_OBJECTS = World(
    about="objects in 3D on the embedded prior, which is told the camera",
    table=spatial_tables.FAMILY_OBJECTS,
    column="spatial",
    prompts=_OBJECT_PROMPTS,
    forms={
        "full": Form(vsd_moves=450, seeds=3, prompts=16, particles=1),
        "quick": Form(vsd_moves=225, seeds=1, prompts=2, particles=1),
    },
    scores=_DISTANCES
    | dict.fromkeys(("strict_precision", "colour_precision"), "high")
    | {"chamfer": "low"}
    | dict.fromkeys(("multi_face_index", "saturation", "covered"), "truth"),
    tuning=(("an orange boat", {}), ("a green lamp", {})),
    rates=("optim.table_lr", "optim.decoder_lr"),
)
WORLDS: Mapping[str, World] = {
    "plane": World(
        about="points in the plane; three of eight modes are wanted",
        table=flat_tables.PLANE,
        column="flat",
        prompts=flat_tables.PLANE.prompts,
        forms={
            "full": Form(vsd_moves=600, seeds=5, prompts=1, particles=128),
            "quick": Form(vsd_moves=600, seeds=2, prompts=1, particles=128),
        },
        scores=_POINTS,
        # Three modes at other distances from each other than those that are scored, so
        # that neither is a turned or mirrored form of them; the prompts are but names.
        tuning=(
            ("a duck", {"exact.world": "plane:1,4,6"}),
            ("a chair", {"exact.world": "plane:1,5,6"}),
        ),
    ),
    "images": World(
        about="26 images of 16 x 16 pixels, 12 of them wanted",
        table=flat_tables.IMAGES,
        column="flat",
        prompts=flat_tables.IMAGES.prompts,
        forms={
            "full": Form(vsd_moves=200, seeds=3, prompts=1, particles=64),
            "quick": Form(vsd_moves=100, seeds=1, prompts=1, particles=64),
        },
        scores=_POINTS | {"saturation": "truth"},
        tuning=(
            ("a duck", {"exact.world": "images:duck"}),
            ("a chair", {"exact.world": "images:chair"}),
        ),
        # As in the plane a fifteenth of |x_0|, which is about 25 here.
        own={"VSD, APG": {"vsd.apg_norm": 1.7}},
    ),
    "image2d": World(
        about="images of 64 x 64 pixels on the embedded prior",
        table=flat_tables.IMAGE2D,
        column="spatial",
        prompts=("a mushroom", "a blue chair", "a yellow duck"),
        forms={
            "full": Form(vsd_moves=100, seeds=3, prompts=3, particles=32),
            "quick": Form(vsd_moves=50, seeds=1, prompts=1, particles=16),
        },
        scores=_DISTANCES
        | {"strict_precision": "high"}
        | dict.fromkeys(("saturation", "sharpness", "diversity"), "truth"),
        tuning=(("a red boat", {}), ("a green lamp", {})),
        settings={"particles_per_step": 2},
    ),
    "objects": _OBJECTS,
    "objects_by_text": dataclasses.replace(
        _OBJECTS,
        about="objects in 3D on the embedded prior, told the view in words alone",
        forms={
            "full": Form(vsd_moves=450, seeds=3, prompts=4, particles=1),
            "quick": Form(vsd_moves=225, seeds=1, prompts=1, particles=1),
        },
        settings={"prior.tell_camera": False},
    ),
}
FORMS = ("full", "quick", "smoke")


def find(names: Sequence[str]) -> list[str]:
    """The worlds of these names, in order; all if there are none.

    Raises:
      ConfigError: for a name that is none.
    """
    for name in names:
        if name not in WORLDS:
            raise ConfigError(
                f"--worlds={name} is no world; there are {', '.join(WORLDS)}."
            )
    return [name for name in WORLDS if name in names or not names]


def rows(world: World) -> list[Row]:
    """The rows of the entries that compete in a world, under the entries' names."""
    family = flat_tables.FAMILY if world.is_exact else spatial_tables.FAMILY_OBJECTS
    known = {row.name: row for row in family.rows}
    found = []
    for entry in ENTRIES:
        name = getattr(entry, world.column)
        if name:
            own = world.own.get(entry.name, {})
            own = {**known[name].settings, **entry.settings, **own}
            row = dataclasses.replace(known[name], name=entry.name, settings=own)
            found.append(row)
    return found


def control(world: World) -> Row:
    """One step of the first entry at a rate of 0: what is scored is the start."""
    first = rows(world)[0]
    settings = first.settings | dict.fromkeys(world.rates, 0.0)
    return dataclasses.replace(first, name=CONTROL, settings=settings)


class Start(NamedTuple):
    """A cell of a world, and the network passes of each of its particles and views."""

    world: str
    cell: Cell
    passes: int


@functools.lru_cache(maxsize=16)
def starts(name: str, form: str) -> tuple[Start, ...]:
    """All cells of a world: each entry, prompt and seed, and the control's."""
    return all_starts(name, form, rows(WORLDS[name]))


def all_starts(
    name: str,
    form: str,
    rows: Sequence[Row],
    steps: Mapping[str, int] | None = None,
) -> tuple[Start, ...]:
    """The cells of these rows and of the control, a block after the other.

    All prompts of seed 0 come first, so that what is finished of a world that takes
    long ranks all methods on some prompts.

    Args:
      name: of the world.
      form: "full", "quick" or "smoke".
      rows: of the entries.
      steps: training steps of each row; None = those of the same number of passes.
    """
    given = {**(steps or {}), CONTROL: 1}
    found = [
        each
        for row in (*rows, control(WORLDS[name]))
        for each in starts_of(name, form, row, steps=given.get(row.name))
    ]
    prompts = WORLDS[name].prompts
    of = {prompt: number for number, prompt in enumerate(prompts)}
    return tuple(sorted(found, key=lambda s: (s.cell.seed, of[s.cell.prompt])))


def tuning_starts(name: str, form: str, row: Row) -> list[Start]:
    """A row's cells of what is asked for where settings are tuned, seed 0."""
    world = WORLDS[name]
    forms = {
        form: dataclasses.replace(sizes, seeds=1, prompts=1)
        for form, sizes in world.forms.items()
    }
    found = []
    for prompt, own in world.tuning:
        settings = {**world.settings, **own}
        asked = dataclasses.replace(
            world, forms=forms, prompts=(prompt,), settings=settings
        )
        found += starts_of(name, form, row, world=asked)
    return found


def starts_of(
    name: str,
    form: str,
    row: Row,
    method: Method | None = None,
    *,
    steps: int | None = None,
    world: World | None = None,
) -> list[Start]:
    """The cells of one row, with the steps that the world's budget gives it.

    Args:
      name: of the world.
      form: "full", "quick", or "smoke", which runs the table's two or three steps.
      row: of a method.
      method: what the row follows, where its settings cannot name it.
      steps: training steps; None = those of the world's number of passes.
      world: what is run there; None = `WORLDS[name]`.
    """
    is_smoke = form == "smoke"
    world = world or WORLDS[name]
    sizes = world.forms["quick" if is_smoke else form]
    table = dataclasses.replace(
        world.table,
        rows=(row,),
        prompts=world.prompts,
        settings={**world.table.settings, **world.settings},
    )
    budget = Budget(
        seeds=sizes.seeds,
        prompts=1 if is_smoke else sizes.prompts,
        particles=None if is_smoke else sizes.particles,
        smoke=is_smoke,
    )
    found = plan.cells(table, budget)
    config = config_lib.validate(cells.make_config(found[0]))
    cost = passes.of_move(config, method or Settings(config).method)
    if steps is None:
        moves = max(1, int(sizes.passes / cost))
        steps = config.num_steps if is_smoke else passes.num_steps(config, moves)
    spent = round(cost * passes.num_moves(config, steps))
    longer = {"num_steps": steps}
    return [
        Start(
            name,
            dataclasses.replace(cell, settings={**cell.settings, **longer}),
            spent,
        )
        for cell in found
    ]
