# SPDX-License-Identifier: Apache-2.0
"""The run that another one goes on from: where it is now, and in which state it was.

`mesh.source` is what the user gives, seen from the current folder. In config.json a run
that lies beside its source holds "../NAME", so that both can be moved or renamed
together; of any other source it holds the absolute path. source.json holds a digest of
the checkpoint that the run began from.
"""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from vsd_jax.program.folder import checkpoint, writer

Path = pathlib.Path
RECORD = "source.json"
_STAGES = ("nerf", "refine", "geometry", "texture")


def given(source: str) -> str:
    """The absolute path of a `mesh.source` as a user gives it; "" stays ""."""
    return str(Path(source).expanduser().resolve()) if source else ""


def stored(source: str, folder: Path) -> str:
    """A given `mesh.source` as config.json of the run in `folder` holds it."""
    if not source:
        return ""
    path = Path(given(source))
    if path.parent == Path(folder).resolve().parent:
        return f"../{path.name}"
    return str(path)


def find(source: str, folder: Path) -> str:
    """Where the `mesh.source` in config.json of the run in `folder` is today.

    Runs of older versions hold a path from the folder in which they were started, and
    the stages of one an absolute path: a stage that is gone from there is looked for
    beside `folder`.

    Returns:
      An absolute path, of no run if there is none; "" stays "".
    """
    if not source:
        return ""
    here = Path(folder).resolve()
    places = [here / source, Path(source).expanduser()]
    if Path(source).name in _STAGES:
        places.append(here.parent / Path(source).name)
    for place in places:
        if (place / "config.json").is_file():
            return str(place.resolve())
    return str(places[0].resolve())


def replaced(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A nested configuration with another `mesh.source`, if it has one at all."""
    mesh = config.get("mesh", {})
    if "source" not in mesh:
        return dict(config)
    return dict(config) | {"mesh": dict(mesh) | {"source": source}}


def state_of(source: str | Path, *, best: bool = False) -> dict[str, Any]:
    """Which state of a run is gone on from: `{"step", "manifest": SHA-256}`; or {}.

    Args:
      source: folder of the run.
      best: its best checkpoint, where it has one, instead of the last.
    """
    checkpoints = Path(source) / "checkpoints"
    steps = checkpoint.list_steps(checkpoints)
    if not steps:
        return {}
    first = checkpoint.find_best(checkpoints) if best else None
    order = sorted(steps, key=lambda step: (step == first, step), reverse=True)
    paths = {step: checkpoints / f"step_{step:06d}" for step in order}
    # A damaged one is passed over, as where particles are read.
    sound = (step for step, path in paths.items() if not checkpoint.find_damage(path))
    return _describe(checkpoints, next(sound, order[0]))


def note(folder: Path, source: str, step: int) -> None:
    """Writes source.json of a run that begins from that step of `source`."""
    writer.write_json(
        Path(folder) / RECORD, _describe(Path(source, "checkpoints"), step)
    )


def noted(folder: Path) -> dict[str, Any]:
    """The state that the run in `folder` began from; {} if that is not known."""
    try:
        return writer.read_json(Path(folder) / RECORD)
    except (OSError, ValueError):
        return {}


def is_same(folder: Path, source: str) -> bool:
    """Whether `source` holds the checkpoint that the run in `folder` began from."""
    known = noted(folder)
    return bool(known) and known == _describe(
        Path(source, "checkpoints"), known.get("step", 0)
    )


def _describe(checkpoints: Path, step: int) -> dict[str, Any]:
    manifest = checkpoints / f"step_{step:06d}" / "manifest.json"
    try:
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError:
        digest = ""
    return {"step": step, "manifest": digest}
