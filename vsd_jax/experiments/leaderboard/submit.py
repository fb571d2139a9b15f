# SPDX-License-Identifier: Apache-2.0
"""A method of the user's beside the leaderboard's stored rows, in the same worlds.

On the embedded prior a run of the program trains with it; the run's own report names
the method whose score network it has, VSD or SDS.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from vsd_jax.experiments import cells, own_method, present
from vsd_jax.experiments.leaderboard import (
    board,
    page,
    records,
    seeds,
    tuned,
    worlds,
)
from vsd_jax.experiments.leaderboard.records import Board
from vsd_jax.experiments.leaderboard.worlds import Start
from vsd_jax.experiments.own_method import OwnMethod
from vsd_jax.experiments.plan import Row, slug
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError

Path = pathlib.Path
STORED = Path(__file__).with_name(records.FILE)
"""The package's own, where `--out` has none."""
_TERMS = ("form", "equal", "settings_of", "tuned")


def run(path: Path, names: Sequence[str], out: Path, *, jobs: int, command: str) -> str:
    """Runs the method where others were, and ranks it among them.

    Args:
      path: of the user's file, see `own_method`.
      names: of the worlds; empty = all that are stored and in closed form.
      out: where the method's cells go; its own leaderboard, if it has one, is the one
        that is compared with.
      jobs: processes at once.
      command: for the record.

    Returns:
      Where the method landed, in words.

    Raises:
      ConfigError: if the method, or a world, cannot be used; before any long work.
    """
    own = own_method.read(path)
    stored = read_stored(out)
    chosen = choose_worlds(names, stored)
    if not all(worlds.WORLDS[name].is_exact for name in chosen):
        own_method.require_texts(own, path)
    label = own.name
    if label in {cell["method"] for cell in stored["cells"]}:
        label += " (submitted)"
    folder = out / "submitted" / f"{slug(own.name)}_{own.source}"
    todo = [
        start
        for name in chosen
        for start in starts(name, stored["form"], own, path, label=label)
    ]
    progress.say(f"{own.name}: {_cost(own, todo)}. {len(todo)} runs.")
    done = {
        board.key(start): (start, result)
        for pairs in board.run_worlds(todo, folder, jobs)
        for start, result in pairs
    }
    results = [result for _, result in done.values()]
    differing = seeds.between_seeds(done.values(), folder)
    joined = join(stored, results, chosen, command=command, between_seeds=differing)
    page.save(folder, joined, page.pictures(todo, folder))
    return "\n".join([*landed(joined, label), f"{folder / 'leaderboard.html'}"])


def read_stored(out: Path) -> dict[str, Any]:
    """The leaderboard in `out`, or else the one that came with the package.

    Raises:
      ConfigError: if it has no budget of passes.
    """
    mine = out / records.FILE
    found = records.read(mine if mine.exists() else STORED)
    if found.get("equal", "passes") != "passes":
        raise ConfigError(
            f"{mine} is of equal {found['equal']}, and a submitted method is given the"
            " passes of the others. Give another --out."
        )
    return found


def choose_worlds(names: Sequence[str], stored: Board) -> list[str]:
    """The worlds where the method is run.

    Raises:
      ConfigError: if one is not stored, not finished, or was made with another budget
        than the code has now.
    """
    for name in worlds.find(names) if names else ():
        if name not in stored["worlds"]:
            raise ConfigError(
                f"--worlds={name} is not on the stored leaderboard, which has"
                f" {', '.join(stored['worlds'])}."
            )
    exact = [name for name, world in worlds.WORLDS.items() if world.is_exact]
    chosen = [name for name in worlds.WORLDS if name in names]
    chosen = chosen or [name for name in exact if name in stored["worlds"]]
    if not chosen:
        raise ConfigError(
            "--submit: no world of the stored leaderboard is in closed form; say with"
            f" --worlds which of {', '.join(stored['worlds'])} the method shall run in."
        )
    for name in chosen:
        made = {c["prior"] or "" for c in stored["cells"] if c["world"] == name}
        others = made - {tuned.prior_of(name)}
        if others:
            raise ConfigError(
                f"The stored leaderboard's world {name} has runs of another prior"
                f" ({', '.join(sorted(others))}) than is here"
                f" ({tuned.prior_of(name) or 'a closed form'}); run"
                " --name=leaderboard anew."
            )
        if "unfinished" in stored["worlds"][name]:
            raise ConfigError(
                f"The leaderboard's world {name} is not finished; run"
                " --name=leaderboard with its --out again, which goes on."
            )
        if stored["worlds"][name] != records.describe_world(name, stored["form"]):
            raise ConfigError(
                f"The stored leaderboard's world {name} has another budget or other"
                " scores than this version's; run --name=leaderboard anew."
            )
        is_usual = stored.get("settings_of", "authors") == "authors"
        if is_usual and _is_stale(name, stored):
            raise ConfigError(
                f"The stored leaderboard's world {name} has runs with other settings,"
                " or scored in another way, than this version's; run"
                " --name=leaderboard anew."
            )
    return chosen


def _is_stale(name: str, stored: Board) -> bool:
    """Whether a run of a world, as this version makes and scores it, is not there."""
    runs = [cell for cell in stored["cells"] if cell["world"] == name]
    methods = {cell["method"] for cell in runs}
    wanted = {
        cells.fingerprint(start.cell)
        for start in worlds.starts(name, stored["form"])
        if start.cell.row.name in methods
    }
    return not wanted <= {cell.get("run") for cell in runs}


def starts(
    world: str, form: str, own: OwnMethod, path: Path, *, label: str
) -> list[Start]:
    """The cells of the method in a world."""
    is_exact, trains = worlds.WORLDS[world].is_exact, own.method.trains_score
    settings = {
        **own.settings,
        "exact.method": str(path.resolve()),
        "exact.source": own.source,
    }
    if not is_exact:  # whose method it takes the place of decides the score network
        settings["vsd.method"] = "vsd" if trains else "sds"
    elif trains:
        settings |= {"exact.score": "mixture", "score.steps_per_step": 1}
    row = Row(name=label, kind="exact" if is_exact else "run", settings=settings)
    return worlds.starts_of(world, form, row, own.method)


def join(
    stored: Board,
    results: Sequence[Board],
    chosen: Sequence[str],
    *,
    command: str,
    between_seeds: Sequence[Board] = (),
) -> dict[str, Any]:
    """The stored leaderboard of these worlds with the new cells, ranked anew."""
    old = [cell for cell in records.with_truth(stored) if cell["world"] in chosen]
    terms = {name: stored[name] for name in _TERMS if name in stored}
    new = [{**result, "settings_of": "own"} for result in results]
    return records.collect(
        [*old, *new],
        names=chosen,
        command=command,
        terms=terms,
        between_seeds=[*stored.get("between_seeds", ()), *between_seeds],
    )


def landed(joined: Board, label: str) -> list[str]:
    """A sentence for each world: the place of the method, and who is next to it."""
    lines = []
    for world, ranked in joined["ranking"]["worlds"].items():
        main = joined["worlds"][world]["main"]
        rows = ranked[main]["methods"]
        place = next(i for i, row in enumerate(rows) if row["method"] == label)
        mine = rows[place]
        text = (
            f"{world}: place {place + 1} of {len(rows)} by {present.HEADS[main][0]}"
            f" ({present.number(mine, main)}), mean rank {mine['rank']:.1f}"
        )
        if place:
            text += f"; the one before it: {rows[place - 1]['method']}"
        if place + 1 < len(rows):
            text += f"; the next one: {rows[place + 1]['method']}"
        lines.append(text + ".")
    return lines


def _cost(own: OwnMethod, todo: Sequence[Start]) -> str:
    steps = {start.world: start.cell.settings["num_steps"] for start in todo}
    trains = "trains a score network" if own.method.trains_score else "no score network"
    shown = ", ".join(f"{number} steps in {world}" for world, number in steps.items())
    return f"{trains}; {shown}"
