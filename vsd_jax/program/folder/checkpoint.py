# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the whole state (orbax), verified before they are trusted.

    checkpoints/step_000500/manifest.json      SHA-256 and size of every file below
                            particles/ score/ clock/     one orbax item each

An item is stored as a flat `{path: array}`, which restores into any pytree type. Orbax
reads most damaged files without a word, so the manifest is checked first and a
damaged checkpoint is passed over for the one before it. A checkpoint gets its name only
when it is complete; the older ones go only after that.

Of several hosts each writes its own particles into the same files, and the first does
the rest; what is written can be read by any number of them.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vsd_jax import parallel
from vsd_jax.program.devices import hosts
from vsd_jax.program.folder import writer
from vsd_jax.program.terminal.errors import RunError
from vsd_jax.types import Particles, PyTree, VSDState

Path = pathlib.Path
_NAME = re.compile(r"step_(\d+)$")
_MANIFEST = "manifest.json"
_ONE_WRITER = threading.Lock()
"""Orbax's own state is one for all threads: two that save at once lose each other's
metadata, or wait for ever."""


def save_state(
    folder: Path,
    state: VSDState,
    *,
    keep: int,
    score: float | None = None,
    metric: str = "",
) -> Path:
    """Saves a state as `folder/step_XXXXXX`; the last `keep` and the best one stay.

    Args:
      folder: the run's `checkpoints` folder; made if absent.
      state: the state, on one device (not replicated); of several hosts each gives
        its own particles, and all call this at the same step.
      keep: number of checkpoints that stay, >= 1.
      score: of this state; the one with the lowest is the best. None = not told.
      metric: what the score is; those of another one are not compared.

    Returns:
      The checkpoint's folder.

    Raises:
      OSError: if it cannot be written; earlier checkpoints are then untouched.
    """
    step = int(state.step)
    items = {
        "particles": state.particles,
        "score": state.score,
        "clock": {"step": state.step, "key": state.key},
    }
    folder = Path(folder).resolve()
    partial, final = folder / f".partial_{step:06d}", folder / f"step_{step:06d}"
    if hosts.is_first():
        _make_room(folder, partial)
    hosts.wait("save")
    try:
        _write_items(partial, items)
        if hosts.is_first():
            manifest = {"step": step, "score": score, "metric": metric}
            manifest["files"] = _digest(partial)
            writer.write_json(partial / _MANIFEST, manifest)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
    except (OSError, ValueError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _disk_fault(error) from error
    if hosts.is_first():
        # Later ones are damaged: the run went on from before them.
        best = find_best(folder, until=step)
        for old in [old for old in list_steps(folder) if old <= step][:-keep]:
            if old == best:
                continue
            shutil.rmtree(folder / f"step_{old:06d}", ignore_errors=True)
    hosts.wait("saved")  # who is told to stop must not leave before it is
    return final


def _disk_fault(error: OSError | ValueError) -> OSError:
    """Orbax, and Tensorstore below it, tell faults of the disk as long ValueErrors."""
    if isinstance(error, OSError):
        return error
    text = str(error)
    found = re.search(r"os_error_code='(\d+)'", text)
    code = int(found[1]) if found else errno.EIO
    return OSError(code, f"{os.strerror(code)}; {text.splitlines()[0][:100]}")


def _make_room(folder: Path, partial: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".partial_*"):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()


def list_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in `folder`, ascending (not verified)."""
    names = [path.name for path in Path(folder).glob("step_*") if path.is_dir()]
    return sorted(int(match[1]) for name in names if (match := _NAME.match(name)))


def find_best(folder: Path, *, until: int | None = None) -> int | None:
    """Step of the checkpoint with the lowest score; None if none has one.

    Compared are those of one metric, the newest's.

    Args:
      folder: of the checkpoints.
      until: the last one that counts; None = all do.
    """
    found: dict[str, dict[int, float]] = {}
    metric = ""
    for step in list_steps(folder):
        if until is not None and step > until:
            continue
        with contextlib.suppress(OSError, ValueError, AttributeError):
            manifest = writer.read_json(Path(folder) / f"step_{step:06d}" / _MANIFEST)
            if manifest.get("score") is not None:
                metric = manifest.get("metric", "")
                found.setdefault(metric, {})[step] = manifest["score"]
    scores = found.get(metric, {})
    return min(scores, key=scores.get) if scores else None


def load_state(
    folder: Path, target: VSDState, *, warn: Callable[[str], None]
) -> VSDState | None:
    """Restores the newest undamaged checkpoint.

    Args:
      folder: the run's `checkpoints` folder.
      target: the state's shapes and dtypes (`jax.eval_shape` of its making).
      warn: is told of each damaged checkpoint that was passed over.

    Returns:
      The state, or None if there is no checkpoint at all.

    Raises:
      RunError: if there are checkpoints but each of them is damaged.
    """
    items = {
        "particles": target.particles,
        "score": target.score,
        "clock": {"step": target.step, "key": target.key},
    }
    found = _load_newest(folder, items, warn=warn)
    if found is None:
        return None
    particles, score = found["particles"], found["score"]
    return VSDState(particles=particles, score=score, **found["clock"])


def load_particles(
    folder: Path,
    target: Particles,
    *,
    warn: Callable[[str], None],
    best: bool = False,
) -> tuple[Particles, int] | None:
    """As `load_state`, for the particles and the step alone: no prior is needed.

    `best` prefers the checkpoint of `find_best`, where there is one, to the newest.
    """
    step = jax.ShapeDtypeStruct((), "int32")
    key = jax.eval_shape(lambda: jax.random.key(0))
    items = {"particles": target, "clock": {"step": step, "key": key}}
    first = find_best(folder) if best else None
    if best and first is None and list_steps(folder):
        warn("No checkpoint has a score (log.best names what): the last one is taken.")
    found = _load_newest(folder, items, warn=warn, first=first)
    return found and (found["particles"], int(found["clock"]["step"]))


def load_score(folder: Path, step: int) -> dict[str, np.ndarray]:
    """Parameters of the score network in the checkpoint of a step, by dotted path.

    {} if the run has no score network. No prior is needed.
    """
    item = Path(folder).resolve() / f"step_{step:06d}" / "score"
    if not item.is_dir():
        return {}
    with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
        flat = checkpointer.restore(item)
    own = "params."
    return {
        name.removeprefix(own): np.asarray(leaf)
        for name, leaf in flat.items()
        if name.startswith(own)
    }


def find_damage(checkpoint: Path) -> str:
    """Says what is wrong with a checkpoint's files, or "" if nothing is."""
    checkpoint = Path(checkpoint)
    try:
        expected = writer.read_json(checkpoint / _MANIFEST)["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {_MANIFEST} cannot be read ({error})"
    for name, (size, digest) in expected.items():
        path = checkpoint / name
        if not path.resolve().is_relative_to(checkpoint.resolve()):
            return f"{name} is outside of it"
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if _sha256(path) != digest:
            return f"{name} has been changed"
    return ""


def _load_newest(
    folder: Path,
    items: Mapping[str, PyTree],
    *,
    warn: Callable[[str], None],
    first: int | None = None,
) -> dict[str, Any] | None:
    folder = Path(folder).resolve()
    steps = list_steps(folder)
    for step in sorted(steps, key=lambda each: (each == first, each), reverse=True):
        checkpoint = folder / f"step_{step:06d}"
        damage = find_damage(checkpoint)
        if not damage:
            return _read_items(checkpoint, items)
        warn(f"Checkpoint {checkpoint} is damaged: {damage}. Trying the one before.")
    if not steps:
        return None
    raise RunError(
        f"None of the checkpoints in {folder} can be read. Start anew with --overwrite,"
        " or put back a copy of one of them."
    )


def _flatten(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in leaves
    }


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _write_items(folder: Path, items: Mapping[str, PyTree]) -> None:
    with _ONE_WRITER, ocp.StandardCheckpointer() as checkpointer:
        for name, tree in items.items():
            flat = {
                path: jax.random.key_data(leaf) if _is_key(leaf) else leaf
                for path, leaf in _flatten(tree).items()
            }
            if hosts.are_several():
                # What is the same on all, orbax takes from the first, as plain arrays.
                join = parallel.join_hosts if name == "particles" else jax.device_get
                flat = join(flat)
            if flat:  # orbax refuses an item without arrays (SDS: no score network)
                checkpointer.save(folder / name, flat)
                checkpointer.wait_until_finished()


def _alone() -> ocp.options.MultiprocessingOptions:
    """Each process reads for itself: the first may do so while the others wait."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"read_{me}"
    )


def _read_items(folder: Path, items: Mapping[str, PyTree]) -> dict[str, Any]:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def stored(leaf: Any) -> jax.ShapeDtypeStruct:
        if _is_key(leaf):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    found = {}
    with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
        for name, tree in items.items():
            target = {path: stored(leaf) for path, leaf in _flatten(tree).items()}
            flat = checkpointer.restore(folder / name, target) if target else {}
            leaves = [
                jax.random.wrap_key_data(flat[path]) if _is_key(leaf) else flat[path]
                for path, leaf in _flatten(tree).items()
            ]
            found[name] = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    return found


def _digest(folder: Path) -> dict[str, tuple[int, str]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, _sha256(path))
        for path in files
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
