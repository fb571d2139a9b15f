# SPDX-License-Identifier: Apache-2.0
"""Several runs, each going on with the one before it, in one folder.

A configuration with `stages` holds one configuration for each; WORKDIR/<stage> is an
ordinary run. WORKDIR/report.html shows them side by side.
"""

import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from vsd_jax.program.devices import hosts
from vsd_jax.program.folder import checkpoint, paths, workdir, writer
from vsd_jax.program.report import page, report
from vsd_jax.program.run import session
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError, RunError

Path = pathlib.Path
ORDER = workdir.STAGES


def start(
    mode: str,
    config: ConfigDict | None,
    folder: str,
    *,
    overwrite: bool,
    command: Sequence[str],
) -> None:
    """Runs the program, one stage or several; arguments as in `session.start`.

    Raises:
      RunError: whatever the user can put right, in words.
    """
    options = {"overwrite": overwrite, "command": command}
    folder = folder and str(paths.expand(folder, "--workdir"))
    if config is None or "stages" not in config:
        replaces = overwrite and mode == "train"
        if (Path(folder or ".") / "stages.json").exists() and not replaces:
            raise RunError(
                f"--workdir={folder} holds several stages; give the folder of one, for"
                f" example {Path(folder) / 'texture'}. (A run of one stage in their"
                " place needs --mode=train and --overwrite.)"
            )
        session.start(mode, config, folder, **options)
        return
    if mode == "preflight":
        raise ConfigError(
            "--mode=preflight works on one stage: give --config=configs/object.py,"
            " configs/geometry.py or configs/texture.py."
        )
    session.require_folder(folder)
    if mode != "train":
        raise ConfigError(
            f"--mode={mode} works on one stage: give --workdir={folder}/texture (or"
            " another stage) and no --config."
        )
    stages = _linked(config, Path(folder))
    for stage in stages.values():
        config_lib.validate(stage)  # all of them before the first one starts
    if hosts.is_first():
        _begin(Path(folder), list(stages), overwrite=overwrite)
    for number, (name, stage) in enumerate(stages.items(), 1):
        progress.say(f"\nStage {number} of {len(stages)}: {name}")
        if not overwrite and is_finished(Path(folder) / name, stage):
            progress.say("Finished before.")
            continue
        session.start("train", stage, str(Path(folder) / name), **options)
    if hosts.is_first():
        progress.say(
            f"\nAll stages: {write_overview(Path(folder), config, list(stages))}"
        )


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


def _linked(config: ConfigDict, folder: Path) -> dict[str, ConfigDict]:
    """The stages' configurations; each but the first goes on with the one before."""
    names = tuple(config.stages)
    unknown = [name for name in names if name not in config]
    if not names or unknown:
        known = [name for name in ORDER if name in config]
        raise ConfigError(
            f"stages={names!r} must name some of {', '.join(known)}, in that order."
        )
    stages = {}
    for number, name in enumerate(names):
        stage = config[name].copy_and_resolve_references()
        if number:
            # Absolute: however the folder is spelled, the run is the same.
            stage.mesh.source = str(folder.resolve() / names[number - 1])
        stages[name] = stage
    return stages


def is_finished(folder: Path, config: ConfigDict) -> bool:
    """Whether a stage is trained to its end and its products are made.

    Raises:
      ConfigError: if it is finished, but with other settings.
    """
    steps = checkpoint.list_steps(folder / "checkpoints")
    done = bool(steps) and steps[-1] >= config.num_steps
    if not (done and (folder / "evaluation.json").exists()):
        return False
    differing = config_lib.differing_keys(
        writer.read_json(folder / "config.json"), config
    )
    if differing:
        raise ConfigError(
            f"{folder} is finished, with other settings: {', '.join(differing)}. Give"
            " another --workdir, or --overwrite to start anew."
        )
    return True


def write_overview(folder: Path, config: ConfigDict, names: list[str]) -> Path:
    """Writes a `report.html` that leads to those of the stages."""
    cards, rows = [], []
    for name in names:
        films = sorted((folder / name).glob("turntable_*.mp4"))
        cards += [_card(name, film) for film in films[: report.MAX_SHOWN]]
        found = writer.read_json(folder / name / "evaluation.json")
        numbers = {key: f"{value:.3f}" for key, value in found["mean"].items()}
        cells = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in numbers.items())
        steps = config[name].num_steps
        rows.append(f"<tr><th>{name}</th><td>{steps:,} steps</td><td>{cells}</td></tr>")
    models = sorted((folder / names[-1] / "mesh").glob("particle_*"))
    links = "".join(_link(path.relative_to(folder).as_posix()) for path in models)
    body = (
        f'<section><h2>Stages</h2><div class="grid">{"".join(cards)}</div></section>'
        f'<section><h2>Numbers</h2><div class="scroll"><table>{"".join(rows)}</table>'
        f"</div></section><section><h2>Files</h2><ul>{links}</ul></section>"
    )
    return page.write_page(folder, prompt=config.prompt, chips="", body=body)


def _card(name: str, film: Path) -> str:
    url = page.data_url(film, "video/mp4")
    return (
        '<figure class="card"><video class="stage" autoplay loop muted playsinline'
        f' controls src="{url}"></video><figcaption><a href="{name}/report.html">'
        f"{name}, particle {int(film.stem[-2:])}</a></figcaption></figure>"
    )


def _link(path: str) -> str:
    return f'<li><a href="{page.escape(path)}" download>{page.escape(path)}</a></li>'
