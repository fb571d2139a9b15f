# SPDX-License-Identifier: Apache-2.0
"""Trains runs that differ in prompt and seed alone at once, as an accelerator can.

Their states are stacked and one step is mapped over them (`distil.many_runs`): a small
scene does not fill a GPU. Each run's folder then has its metrics and the checkpoint of
its last step (no pictures, checkpoints or alarms on the way), and the program makes the
rest of it: turntable, mesh, judgement and report.
"""

import contextlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vsd_jax.distil import many_runs
from vsd_jax.experiments.cells import (
    TRAINED,
    Stopwatch,
    make_config,
    spent_before,
)
from vsd_jax.experiments.plan import Cell
from vsd_jax.program import Config
from vsd_jax.program.build import build, texts
from vsd_jax.program.folder import checkpoint, source, writer
from vsd_jax.program.folder.workdir import Workdir
from vsd_jax.program.judge import monitor
from vsd_jax.program.run import pipeline
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError, DivergedError
from vsd_jax.trees import all_finite
from vsd_jax.types import PyTree, VSDState

Path = pathlib.Path
_OWN = ("prompt", "seed", "mesh.source")


class Job(NamedTuple):
    """A run: its validated configuration and its folder."""

    config: Config
    folder: Path


def train_cells(todo: Sequence[Cell], out: Path, *, command: str) -> None:
    """Trains the cells of a table that have not begun, each row's at once.

    Rows that are no runs of the program, and stages on meshes, whose sizes differ, are
    left to be run one by one; so is a run that diverges, the others are saved.

    Args:
      todo: cells of any rows.
      out: the table's folder.
      command: for the record of each run.

    Raises:
      RunError: as `train`.
    """
    rows: dict[str, dict[Path, dict[str, Job]]] = {}
    for cell in todo:
        if cell.row.kind == "run":
            folder = out / cell.folder
            stages = stages_of(make_config(cell), folder)
            rows.setdefault(cell.row.name, {})[folder] = stages
    for name, runs in rows.items():
        fresh = [f for f, stages in runs.items() if not _have_begun(stages)]
        watch = Stopwatch()
        try:
            train_stages([*runs.values()], name, command=command)
        except DivergedError as error:  # run one by one, it is told when
            progress.say(str(error))
        for folder in filter(Path.exists, fresh):
            before = spent_before(folder)
            share = {
                key: spent / len(fresh) + before.get(key, 0.0)
                for key, spent in watch.spent().items()
            }
            writer.write_json(folder / TRAINED, share)


def _have_begun(stages: dict[str, Job]) -> bool:
    return any(has_begun(job.folder) for job in stages.values())


def stages_of(config: ConfigDict, folder: Path) -> dict[str, Job]:
    """The runs of a configuration by the name of their stage; "" = it has one alone."""
    found = {"": config}
    if "stages" in config:
        found = pipeline.linked(config, folder)
    return {
        name: Job(config_lib.validate(one), folder / name)
        for name, one in found.items()
    }


def train_stages(runs: Sequence[dict[str, Job]], name: str, *, command: str) -> None:
    """Trains stage after stage of runs that have not begun, all of them at once.

    It ends before a stage on a mesh.

    Args:
      runs: as `stages_of`, with the same stages.
      name: what they are, for the terminal and the record.
      command: for the record of each run.

    Raises:
      RunError: as `train`.
    """
    for stage in runs[0]:
        jobs = [each[stage] for each in runs]
        fresh = [job for job in jobs if not has_begun(job.folder)]
        if fresh and fresh[0].config.field.kind != "nerf":
            break
        if fresh:
            progress.say(f"\n{name}: {len(fresh)} runs at once")
            train(fresh, command=[command, f"# {name}"])


def has_begun(folder: Path) -> bool:
    """Whether a run has a checkpoint to go on from."""
    return bool(checkpoint.list_steps(folder / "checkpoints"))


def train(jobs: Sequence[Job], *, command: Sequence[str]) -> None:
    """Trains runs from their first step to their last; none may have begun.

    Args:
      jobs: configurations that differ in prompt, seed and `mesh.source` alone.
      command: for the record of each.

    Raises:
      ConfigError: if they differ in more, or one has begun.
      DivergedError: if a particle is not finite at the end; the other runs are saved.
      RunError: what loading the prior or a source raises.
    """
    check_alike([job.config for job in jobs])
    with contextlib.ExitStack() as opened:
        folders = [Workdir(job.folder, create=True) for job in jobs]
        for folder, job in zip(folders, jobs, strict=True):
            opened.callback(folder.close)
            _adopt(folder, job.config, command)
        state, rows = _train(jobs)
        diverged = []
        for index, folder in enumerate(folders):
            own = take_run(state, index)
            if not bool(all_finite(own.particles.params)):
                diverged.append(str(folder.path))
                continue
            keep = jobs[index].config.log.keep_checkpoints
            checkpoint.save_state(folder.checkpoints, own, keep=keep)
            log = writer.MetricsFile(folder.path / "metrics.jsonl", resume_step=0)
            window = monitor.Window(jobs[index].config.num_particles)
            for step, metrics in rows:
                window.add({name: values[index] for name, values in metrics.items()})
                log.write(step, window.flush())
    if diverged:
        raise DivergedError(
            f"The particles of {', '.join(diverged)} are not finite. The others are"
            " saved; run these by themselves, without --at_once, to see when."
        )


def check_alike(configs: Sequence[Config]) -> None:
    """Raises ConfigError if the configurations cannot be trained at once."""
    plain = [config_lib.flatten(config) for config in configs]
    for other in plain[1:]:
        keys = [k for k, v in other.items() if v != plain[0][k] and k not in _OWN]
        if keys:
            raise ConfigError(
                f"{keys[0]} is {plain[0][keys[0]]!r} in one run and {other[keys[0]]!r}"
                " in another: runs that are trained at once have all settings but"
                " prompt and seed in common. Train these one after the other."
            )


def take_run(state: VSDState, index: int) -> VSDState:
    """One run's state out of the stacked ones."""

    def take(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[index], tree)

    # Cloned: taking one of the keys is no use of it.
    key = take(jax.random.clone(state.key))
    particles, score = take(state.particles), take(state.score)
    return VSDState(particles=particles, score=score, step=state.step, key=key)


def _adopt(folder: Workdir, config: Config, command: Sequence[str]) -> None:
    folder.adopt(config, overwrite=False)
    if has_begun(folder.path):
        raise ConfigError(
            f"{folder.path} has begun already: go on with it by itself, or delete it."
        )
    folder.record(command)
    folder.note_weights(build.fingerprints(config))


def _train(jobs: Sequence[Job]) -> tuple[VSDState, list[tuple[int, PyTree]]]:
    """The states after the last step, and the metrics of some."""
    config = jobs[0].config
    run = build.build(config)
    _, _, encode_text = build.load_prior(**config.prior)
    prompts = _stack([texts.make_prompts(job.config, encode_text) for job in jobs])
    keys = jax.vmap(jax.random.key)(np.array([job.config.seed for job in jobs]))
    starts = [source.load_start(job.config, job.folder) for job in jobs]
    start = None if starts[0] is None else _stack(starts)
    state = jax.jit(jax.vmap(run.init))(start, keys)
    state = state.replace(step=jnp.zeros((), jnp.int32))
    step, early = many_runs(run.step), None
    if run.early_step is not None:
        early = many_runs(run.early_step)
    rows = []
    numbers = range(1, config.num_steps + 1)
    for number in progress.track(numbers, f"training {len(jobs)} runs", len(numbers)):
        update = early if number <= config.render.early_steps and early else step
        state, metrics = update(state, run.prior_params, prompts)
        if number % config.log.metrics_every == 0 or number == config.num_steps:
            rows.append((number, jax.device_get(metrics)))
    return state, rows


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
