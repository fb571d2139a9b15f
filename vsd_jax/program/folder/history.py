# SPDX-License-Identifier: Apache-2.0
"""A run that goes on for more steps than it was begun with.

    config.json              its settings from now on
    settings_history.json    the former ones, each with the step until which they held
    at_step_000450/          what was made at an earlier end, a run's folder of its own

The steps after the change are those of the new settings, and the others stay as they
are. A switch between two stages stays where it was, since it may have passed: what
follows `num_steps` in a new run (`vsd.anneal_step`, `render.early_steps`) keeps its
value, unless it is set. What is written follows the new number (`log`), and so does a
timestep that falls over all of the run (`vsd.t_schedule`), and so do learning rates
that fall at its end (`optim.decay`): both fall once more.
"""

import copy
import datetime
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vsd_jax.program.folder import checkpoint, origin, writer
from vsd_jax.program.settings import config as config_lib

Path = pathlib.Path
HISTORY = "settings_history.json"
PRODUCTS = ("turntable_*", "views_*.png", "mesh", "lora", "evaluation.*")
"""What is made of a checkpoint, not by training."""

_ALSO_MOVED = ("report.html",)
_ALSO_COPIED = ("metrics.jsonl", "environment.json", "prior.json", origin.RECORD)


def steps_done(folder: Path) -> int:
    """The last step that is saved; 0 = none."""
    return max(checkpoint.list_steps(Path(folder) / "checkpoints"), default=0)


def read(folder: Path) -> list[dict[str, Any]]:
    """The changes of a run's settings, oldest first.

    Each has `until_step`, `date`, `changed` ({key: [before, after]}) and `settings`,
    the whole configuration up to that step.
    """
    try:
        return writer.read_json(Path(folder) / HISTORY)
    except (OSError, ValueError):
        return []


def hold_schedules(config: ConfigDict, folder: Path) -> tuple[ConfigDict, list[str]]:
    """Keeps what follows `num_steps` where the run in a folder has it.

    Args:
      config: with overrides applied, references not resolved.
      folder: of the run; may be absent.

    Returns:
      (configuration to train with, sentences about what was kept).
    """
    stored = Path(folder) / "config.json"
    if not stored.exists() or not steps_done(folder):
        return config, []
    try:
        old = config_lib.flatten(writer.read_json(stored))
    except (OSError, ValueError):
        return config, []  # told when the folder is opened
    is_longer = old.get("num_steps") != config.num_steps
    if not (is_longer or read(folder)):
        return config, []
    said, held = [], copy.deepcopy(config)
    for key in config_lib.followers(config):
        fresh = config_lib.flatten(config)[key]
        if key not in config_lib.SCHEDULE or old.get(key, fresh) == fresh:
            continue
        held.update_from_flattened_dict({key: old[key]})
        if config_lib.is_off(key, old):
            continue
        said.append(
            f"{key} stays {old[key]:,} (a new run of {config.num_steps:,} steps has"
            f" {fresh:,}); --config.{key}={fresh} changes it from here on."
        )
    falls = old.get("vsd.t_schedule", "two_stage") != "two_stage"
    if falls and is_longer:
        said.append(
            f"vsd.t_schedule={old['vsd.t_schedule']} is spread over"
            f" {config.num_steps:,} steps from here on: t rises once, and falls again."
        )
    return held, said if is_longer else []


def append(folder: Path, old: Mapping[str, Any], changed: Mapping[str, tuple]) -> None:
    """Records that the settings of a run change at its last checkpoint.

    Args:
      folder: of the run.
      old: its configuration until now.
      changed: {key: (before, after)}.
    """
    step, rows = steps_done(folder), read(folder)
    row = {
        "until_step": step,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "changed": {key: list(pair) for key, pair in changed.items()},
        "settings": old,
    }
    # A session that ended between this and config.json tells it a second time.
    rows = [each for each in rows if each["settings"] != old]
    writer.write_json(Path(folder) / HISTORY, [*rows, row])


def rewind(folder: Path, step: int) -> None:
    """Settings that changed after a step change at it: the run goes on from there."""
    rows = read(folder)
    if any(row["until_step"] > step for row in rows):
        rows = [row | {"until_step": min(row["until_step"], step)} for row in rows]
        writer.write_json(Path(folder) / HISTORY, rows)


def keep_products(folder: Path, step: int) -> Path | None:
    """Moves what was made at a step into a folder of its own, before more steps.

    It is a run's folder with the checkpoint of that step and its settings then, so that
    all modes but training go on working there. Where that checkpoint is damaged, and
    the run goes on from the one before it, it has none.

    Args:
      folder: of the run.
      step: from which it goes on; what was made tells by itself of which step it is.

    Returns:
      That folder; None if nothing had been made.
    """
    folder = Path(folder)
    found = [path for pattern in PRODUCTS for path in folder.glob(pattern)]
    if not found:
        return None
    step = _step_of_products(folder, step)
    kept = folder / f"at_step_{step:06d}"
    kept.mkdir(exist_ok=True)
    # What is moved goes last: until then the same call does all of it once more.
    for name in _ALSO_COPIED:
        if (folder / name).exists():
            shutil.copy2(folder / name, kept / name)
    _copy_checkpoint(folder, kept, step)
    former = [row["settings"] for row in read(folder) if row["until_step"] == step]
    config = former[-1] if former else writer.read_json(folder / "config.json")
    place = origin.find(config.get("mesh", {}).get("source", ""), folder)
    config = origin.replaced(config, origin.stored(place, kept))
    writer.write_json(kept / "config.json", config)
    for path in [*found, *(folder / name for name in _ALSO_MOVED)]:
        if path.exists():
            _move(path, kept / path.name)
    return kept


def _step_of_products(folder: Path, step: int) -> int:
    try:
        return int(writer.read_json(folder / "evaluation.json")["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return step


def _move(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)


def _copy_checkpoint(folder: Path, kept: Path, step: int) -> None:
    """Hard links where the file system has them: no second copy on the disk."""
    name = f"step_{step:06d}"
    source, target = folder / "checkpoints" / name, kept / "checkpoints" / name
    if not source.is_dir() or target.exists() or checkpoint.find_damage(source):
        return
    partial = target.with_name(f".partial_{step:06d}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=_link)
    os.replace(partial, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
