# SPDX-License-Identifier: Apache-2.0
"""Several runs, each going on with the one before it, in one folder.

A configuration with `stages` holds one configuration for each; WORKDIR/<stage> is an
ordinary run. WORKDIR/report.html shows them side by side.
"""

import contextlib
import copy
import dataclasses
import os
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from vsd_jax.methods import Method
from vsd_jax.program.build import stages as scenes
from vsd_jax.program.devices import hosts
from vsd_jax.program.folder import (
    checkpoint,
    history,
    origin,
    paths,
    source,
    workdir,
    writer,
)
from vsd_jax.program.report import live, page, report
from vsd_jax.program.report.serve import serving
from vsd_jax.program.run import session
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import named
from vsd_jax.program.settings.idle import GRID
from vsd_jax.program.terminal import overrides as overrides_lib
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError, RunError
from vsd_jax.scene.nerf.field import FieldSpec

Path = pathlib.Path
ORDER = workdir.STAGES


def start(
    mode: str,
    config: ConfigDict | None,
    folder: str,
    *,
    overwrite: bool,
    command: Sequence[str],
    overrides: Sequence[str] = (),
    serve: int | None = None,
    method: Method | None = None,
) -> None:
    """Runs the program, one stage or several; arguments as in `session.start`.

    Args:
      serve: port on this machine where the report is shown while it trains; None =
        nowhere.
      method: as in `session.start`, of all stages.

    Raises:
      RunError: whatever the user can put right, in words.
    """
    if serve is not None and mode != "train":
        raise ConfigError(
            f"--serve shows a run while it trains; with --mode={mode} leave it out and"
            " open report.html in a browser."
        )
    options = {"overwrite": overwrite, "command": command, "method": method}
    folder = folder and str(paths.expand(folder, "--workdir"))
    with serving(folder, serve if hosts.is_first() and folder else None):
        if config is not None and "stages" in config:
            _start_stages(mode, config, folder, **options)
            return
        replaces = overwrite and mode == "train"
        staged = folder and (Path(folder) / "stages.json").exists()
        if staged and mode != "preflight" and not replaces:
            raise RunError(
                f"--workdir={folder} holds several stages; give the folder of one, for"
                f" example {Path(folder) / 'texture'}. (A run of one stage in their"
                " place needs --mode=train and --overwrite.)"
            )
        session.start(mode, config, folder, overrides=overrides, **options)


def _start_stages(mode: str, config: ConfigDict, folder: str, **options) -> None:
    if mode == "preflight":
        raise ConfigError(
            "--mode=preflight works on one stage: give --config=object, geometry or"
            " texture."
        )
    session.require_folder(folder)
    if mode != "train":
        raise ConfigError(
            f"--mode={mode} works on one stage: give --workdir={folder}/texture (or"
            " another stage) and no --config."
        )
    stages, overwrite = linked(config, Path(folder)), options["overwrite"]
    refuse_dropped(tuple(stages), options["command"])
    given = overrides_lib.keys(options["command"])
    for name, stage in stages.items():  # all of them before the first one starts
        own = [key.removeprefix(f"{name}.") for key in given]
        config_lib.refuse_idle(config_lib.validate(stage), own)
    if overwrite and any(Path(folder).glob("*.json")):
        session.require_readable([*stages.values()], Path(folder))
    if hosts.is_first():
        _begin(Path(folder), list(stages), overwrite=overwrite)
    names = list(stages)
    try:
        _train_stages(config, stages, folder, **options)
    except BaseException:  # a page of a run that has ended must not say that it trains
        if hosts.is_first():
            with contextlib.suppress(OSError):  # the first fault is the one to tell
                write_overview(Path(folder), config, names)
        raise
    if hosts.is_first():
        overview = write_overview(Path(folder), config, names)
        progress.say(f"\nAll stages: {overview}")


def _train_stages(config: ConfigDict, stages, folder: str, **options) -> None:
    overwrite = options["overwrite"]
    for number, (name, stage) in enumerate(stages.items(), 1):
        progress.say(f"\nStage {number} of {len(stages)}: {name}")
        if hosts.is_first():
            if not overwrite:
                set_aside(Path(folder) / name, stage)
            write_overview(Path(folder), config, list(stages), now=name)
        hosts.wait("stage")
        if not overwrite and is_finished(Path(folder) / name, stage):
            progress.say("Finished before.")
            continue
        session.start("train", stage, str(Path(folder) / name), **options)


def _begin(folder: Path, names: list[str], *, overwrite: bool) -> None:
    """Marks the folder as one of stages; what else was in it must be gone."""
    if not overwrite and (folder / "config.json").exists():
        raise ConfigError(
            f"--workdir={folder} holds a run of one stage. Give another --workdir, or"
            " --overwrite to delete it and start anew."
        )
    whole = workdir.Workdir(folder, create=True)
    try:
        if overwrite:
            whole.clear()
        writer.write_json(folder / "stages.json", {"stages": names})
    finally:
        whole.close()


def linked(config: ConfigDict, folder: Path) -> dict[str, ConfigDict]:
    """The stages' configurations; each but the first goes on with the one before.

    Raises:
      ConfigError: if the names of its stages are none, unknown or in another order, or
        one could not go on with the one before it.
    """
    names = tuple(config.stages)
    known = [name for name in ORDER if name in config]
    if not names or [name for name in known if name in names] != list(names):
        raise ConfigError(
            f"stages={names!r} must name some of {', '.join(known)}, in that order."
        )
    stages = {}
    config = copy.deepcopy(config)  # with its references: keys that follow num_steps
    for number, name in enumerate(names):
        stage = config[name]
        if number:
            _check_pair(names[number - 1], stages[names[number - 1]], name, stage)
            stage.mesh.source = str(folder.resolve() / names[number - 1])
        stages[name] = stage
    if "texture" in stages and len(names) > 2:  # it has the colours of the NeRF before
        first = names[names.index("texture") - 2]
        keys = [f"field.{key}" for key in GRID]
        _check_same(first, stages[first], "texture", stages["texture"], keys)
    return stages


def _check_pair(first: str, before: ConfigDict, second: str, after: ConfigDict) -> None:
    """Refuses a stage that could not go on with the one before it."""
    kind, wanted = before.field.kind, scenes.stage_of(after).goes_on_with
    if kind != wanted:
        raise ConfigError(
            f"stages: {second} goes on with field.kind={wanted}, and {first} before it"
            f" is field.kind={kind}; put the stage between them."
        )
    same = [f"mesh.{key}" for key in scenes.stage_of(after).same_mesh]
    if kind == after.field.kind:
        same += [f"field.{each.name}" for each in dataclasses.fields(FieldSpec)]
    _check_same(first, before, second, after, same)
    if before.num_particles != after.num_particles:
        raise ConfigError(
            f"{second}.num_particles={after.num_particles}, but {first} has"
            f" {before.num_particles}; give --config.num_particles for all stages."
        )


def _check_same(first: str, before, second: str, after, keys: Sequence[str]) -> None:
    mine, theirs = (config_lib.flatten(each) for each in (after, before))
    differing = [key for key in keys if mine[key] != theirs[key]]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"{second}.{key}={mine[key]!r}, but {first}.{key}={theirs[key]!r}, with"
            " which it goes on; give both the same."
        )


def refuse_dropped(names: tuple[str, ...], command: Sequence[str]) -> None:
    """Refuses settings of one stage that would act on all, or on none.

    Raises:
      ConfigError: naming each.
    """
    faults = []
    for key in overrides_lib.keys(command):
        stage, _, rest = key.partition(".")
        if stage not in ORDER:
            continue
        if rest in named.SHARED:
            faults.append(f"{key} is that of all stages; give --config.{rest}.")
        elif stage not in names:
            faults.append(
                f"{key} has no meaning, since stages={names!r} leaves {stage} out;"
                " leave it out too, or name that stage with --config.stages."
            )
        elif rest == "mesh.source" and stage != names[0]:
            faults.append(
                f"{key}: {stage} goes on with the stage before it; leave it out."
            )
    if faults:
        raise ConfigError("\n".join(faults))


def is_finished(folder: Path, config: ConfigDict) -> bool:
    """Whether a stage is trained to its end and its products are made as is asked.

    Raises:
      ConfigError: if it is finished, but with other settings or more steps.
    """
    steps = checkpoint.list_steps(folder / "checkpoints")
    done = bool(steps) and steps[-1] >= config.num_steps
    if not (done and (folder / "evaluation.json").exists()):
        return False
    held, _ = history.hold_schedules(config, folder)
    old = workdir.read_config(folder)
    before, after = (config_lib.flatten(each) for each in (old, held))
    remade = any(
        after[key] != before.get(key, after[key])
        for key in after
        if key.startswith(("eval.", "export."))
    )
    same = not workdir.check_same_run(folder, old, held, extend=True)
    return same and not remade


def set_aside(folder: Path, config: ConfigDict) -> None:
    """Renames a stage whose source has made more steps since, so that it starts anew.

    It was made on what the source was before, and stays as it is under another name.
    """
    known = origin.noted(folder)
    # A source that is gone is not needed to go on.
    source_folder = Path(config.mesh.source).expanduser()
    if not known or not (source_folder / "config.json").is_file():
        return
    best = source.read_config(config.mesh.source).eval.checkpoint == "best"
    if known == origin.state_of(config.mesh.source, best=best):
        return
    aside = folder.with_name(f"{folder.name}_of_step_{known['step']:06d}")
    number = 2
    while aside.exists():
        aside = folder.with_name(f"{folder.name}_of_step_{known['step']:06d}_{number}")
        number += 1
    held = workdir.Workdir(folder, create=False)  # not while another run uses it
    try:
        os.replace(folder, aside)
    finally:
        held.close()
    progress.say(
        f"{Path(config.mesh.source).name} has changed since this stage began from its"
        f" step {known['step']:,}: this stage starts anew. What it was is kept in"
        f" {aside}."
    )


def write_overview(
    folder: Path, config: ConfigDict, names: list[str], *, now: str = ""
) -> Path:
    """Writes a `report.html` that leads to those of the stages.

    Args:
      folder: of all stages.
      config: of all stages.
      names: the stages, in order.
      now: the one that trains; "" if all are finished.
    """
    cards, rows = [], []
    for name in names:
        films = report.of_particles(folder / name, "turntable_*.mp4")
        cards += [_card(name, number, film) for number, film in films]
        steps = config[name].num_steps
        rows.append(
            f"<tr><th>{name}</th><td>{steps:,} steps</td>"
            f"<td>{_state(folder, name, now)}</td></tr>"
        )
    models = sorted((folder / names[-1] / "mesh").glob("particle_*"))
    names_of_files = (path.relative_to(folder).as_posix() for path in models)
    links = "".join(f"<li>{page.download(name)}</li>" for name in names_of_files)
    parts = {
        "Stages": cards and f'<div class="grid">{"".join(cards)}</div>',
        "Numbers": f'<div class="scroll"><table>{"".join(rows)}</table></div>',
        "Files": links and f"<ul>{links}</ul>",
    }
    body = "".join(
        f"<section><h2>{title}</h2>{content}</section>"
        for title, content in parts.items()
        if content
    )
    return page.write_page(
        folder,
        prompt=config.prompt,
        chips="",
        body=body,
        script=live.SCRIPT if now else "",
        is_live=bool(now),
    )


def _state(folder: Path, name: str, now: str) -> str:
    """What is known of a stage, as HTML."""
    if name == now:
        return f'<a href="{name}/report.html">trains now</a>'
    try:
        found = writer.read_json(folder / name / "evaluation.json")
    except (OSError, ValueError):
        if (folder / name / "report.html").exists():  # it has begun, and has stopped
            return f'<a href="{name}/report.html">not finished</a>'
        return "not yet"
    numbers = {key: page.number(value) for key, value in found["mean"].items()}
    return ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in numbers.items())


def _card(name: str, number: int, film: Path) -> str:
    url = page.data_url(film, "video/mp4")
    return (
        '<figure class="card"><video class="stage" autoplay loop muted playsinline'
        f' controls src="{url}"></video><figcaption><a href="{name}/report.html">'
        f"{name}, particle {number}</a></figcaption></figure>"
    )
