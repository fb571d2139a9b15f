# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: its layout, its lock and its settings.

config.json environment.json command.txt      what ran, with what, where
settings_history.json at_step_XXXXXX/         what held before it went on (history.py)
prior.json source.json                        which weights, which run it began from
metrics.jsonl images/step_XXXXXX.png           while it runs
checkpoints/step_XXXXXX/                       the whole state
turntable_00.mp4 .gif  mesh/particle_00.glb .ply  lora/  evaluation.json .png
report.html
"""

import contextlib
import datetime
import errno
import fcntl
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax

from vsd_jax.program.devices import hosts
from vsd_jax.program.folder import history, origin, paths, writer
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError, RunError

Path = pathlib.Path
_PRODUCTS = (
    *("checkpoints", "metrics.jsonl", "images", "turntable_*", ".turntable_*.part.mp4"),
    *("views_*.png", "mesh", "lora", "evaluation.*", "report.html", "stages.json"),
    *("environment.json", "command.txt", "prior.json"),
    *("progress.json", "tensorboard", "source.json", "settings_history.json"),
    "at_step_*",
    "config.json",  # last: a folder that is cleared by half is still that run's
)
_WEIGHTS = (("prior.path", "unet"), ("score.path", "score_unet"))
"""Keys that name frozen weights, and their fingerprints' names in prior.json."""
STAGES = ("nerf", "refine", "geometry", "texture")
"""Folders that several stages in one folder may have, in their order."""

# What flock answers where another process holds the lock, and nothing else is wrong.
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml_collections", "numpy"),
    *("diffusers", "transformers", "trimesh", "scikit-image"),
)


class Workdir:
    """An open run folder; `close` lets others use it.

    Of several hosts the first locks it and writes its settings; the others find it so.

    Attributes:
      path: the folder.
      checkpoints: `path / "checkpoints"`.
      resumed: whether it held a run with the same configuration.
    """

    def __init__(self, path: str | Path, *, create: bool):
        """Opens and locks a folder.

        Args:
          path: the folder.
          create: make it if it is absent.

        Raises:
          RunError: if it is absent, cannot be written to, or another run uses it.
        """
        self.path = paths.expand(path, "--workdir")
        self.checkpoints = self.path / "checkpoints"
        self.resumed = False
        self._lock = None
        if not hosts.is_first():
            return
        if not create and not (self.path / "config.json").exists():
            raise RunError(
                f"--workdir={path} holds no run (there is no config.json). Train first:"
                " the same command with --mode=train and --config=object."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("a")
        except OSError as error:
            raise RunError(
                f"--workdir={path} cannot be written to ({error.strerror}). Give a"
                " folder of yours on a disk that is not read-only."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                self._lock.close()
                raise RunError(
                    f"Another run is using --workdir={path}. Wait for it, or give"
                    " another folder."
                ) from error
            progress.say(
                f"Warning: the file system of --workdir={path} has no locks"
                f" ({error.strerror}). The run goes on; start no second one in it."
            )

    def close(self) -> None:
        """Unlocks the folder."""
        if self._lock is not None:
            self._lock.close()

    def check(
        self, config: Mapping[str, Any], *, overwrite: bool, extend: bool = False
    ) -> None:
        """Compares with what the folder holds and sets `resumed`; changes nothing.

        Arguments and errors as of `adopt`.
        """
        if hosts.is_first():
            self.resumed = not overwrite and self._compare(config, extend) is not None
        self.resumed = bool(hosts.tell_all(self.resumed))

    def adopt(
        self, config: Mapping[str, Any], *, overwrite: bool, extend: bool = False
    ) -> None:
        """Compares with what the folder holds; sets `resumed`; writes config.json.

        Of several hosts the first does so, and the others wait for it.

        Args:
          config: validated configuration.
          overwrite: remove an earlier run, whatever its configuration.
          extend: the run may go on for another number of steps (`history.py`).

        Raises:
          ConfigError: naming the differing keys, if the folder holds another run, or
            one that has made more steps.
        """
        self.check(config, overwrite=overwrite, extend=extend)
        if hosts.is_first():
            self._adopt(config, overwrite=overwrite, extend=extend)
        hosts.wait("folder")

    def _adopt(
        self, config: Mapping[str, Any], *, overwrite: bool, extend: bool
    ) -> None:
        if overwrite:
            self.clear()
        elif self.resumed:
            changed = self._compare(config, extend)
            if changed and history.steps_done(self.path):
                history.append(self.path, read_config(self.path), changed)
        new = config_lib.nest(config_lib.flatten(config))
        source = origin.stored(new.get("mesh", {}).get("source", ""), self.path)
        writer.write_json(self.path / "config.json", origin.replaced(new, source))

    def _compare(
        self, config: Mapping[str, Any], extend: bool
    ) -> dict[str, Any] | None:
        """What differs from the run in the folder; None if there is none."""
        if (self.path / "config.json").exists():
            old = read_config(self.path)
            return check_same_run(self.path, old, config, extend=extend)
        if any(self.checkpoints.glob("step_*")):
            raise ConfigError(
                f"--workdir={self.path} holds checkpoints of a run whose config.json is"
                " gone. Put it back, give another --workdir, or --overwrite to delete"
                " them and start anew."
            )
        return None

    def clear(self) -> None:
        """Deletes what a run wrote, of one stage or several, whatever its method.

        Only that goes: the folder may hold other things.

        Raises:
          RunError: if another run uses the folder of a stage.
        """
        names = read_stages(self.path)
        found = [name for name in names if (self.path / name / "config.json").exists()]
        with contextlib.ExitStack() as opened:
            stages = [Workdir(self.path / name, create=False) for name in found]
            for stage in stages:
                opened.callback(stage.close)
            for stage in stages:  # none of them is used by another run
                stage.clear()
                (stage.path / ".lock").unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it holds other things
                    stage.path.rmdir()
        for product in _PRODUCTS:
            found = self.path.glob(product)
            for path in (*found, *self.path.glob(writer.partial_glob(product))):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def require_space(self, num_bytes: int) -> None:
        """Checks the disk before long work.

        Args:
          num_bytes: of the run's checkpoints and products; those that are there take
            none anew: they stay, or go before new ones are written.

        Raises:
          RunError: if less than `num_bytes` are free.
        """
        if not hosts.is_first():
            return
        try:
            free = shutil.disk_usage(self.path).free
            files = [path for path in self.checkpoints.rglob("*") if path.is_file()]
            free += sum(path.stat().st_size for path in files)
        except OSError:  # not every file system says
            return
        if free < num_bytes:
            raise RunError(
                f"The run needs about {num_bytes / 2**20:.0f} MiB for checkpoints and"
                f" images, but {self.path} has {free / 2**20:.0f} MiB free. Free some"
                " space, or give a --workdir on another disk."
            )

    def record(self, argv: Sequence[str]) -> None:
        """Appends the command to command.txt."""
        if not hosts.is_first():
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        options = {"encoding": "utf-8", "errors": "backslashreplace"}
        with (self.path / "command.txt").open("a", **options) as file:
            file.write(f"{shlex.join(argv)}  # {now}\n")

    def note_environment(self, method: str = "") -> None:
        """Writes environment.json: where steps are made, not where they are shown.

        Args:
          method: name of the one that was given from code, which no setting tells.
        """
        if hosts.is_first():
            found = describe_environment() | ({"method": method} if method else {})
            writer.write_json(self.path / "environment.json", found)

    def check_method(self, method: str) -> None:
        """Compares a method that was given from code with that of the run's steps.

        Args:
          method: its name; "" = the one that the configuration names.

        Raises:
          ConfigError: if the run in the folder has made steps with another.
        """
        path = self.path / "environment.json"
        if not self.resumed or not path.exists() or not history.steps_done(self.path):
            return
        before = writer.read_json(path).get("method", "")
        if before != method:
            named = "the one that its configuration names"
            raise ConfigError(
                f"--workdir={self.path} was trained with the method"
                f" {before or named}, and would go on with {method or named}. Give the"
                " same one, or another folder."
            )

    def note_weights(self, now: Mapping[str, str]) -> dict[str, str]:
        """Writes which frozen weights the run has; returns those of before.

        Args:
          now: fingerprints by the key that names the weights (`build.fingerprints`).
        """
        if not hosts.is_first():
            return {}
        path, before = self.path / "prior.json", {}
        if path.exists():
            stored = writer.read_json(path)
            before = {key: stored[name] for key, name in _WEIGHTS if name in stored}
        names = dict(_WEIGHTS)
        writer.write_json(path, {names[key]: mark for key, mark in now.items()})
        return before


def read_stages(path: Path) -> tuple[str, ...]:
    """Names of the stages that a folder holds; () if it is no folder of stages."""
    try:
        stored = writer.read_json(Path(path) / "stages.json")["stages"]
        return tuple(name for name in STAGES if name in stored)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def read_config(path: Path) -> dict[str, Any]:
    """The nested configuration of the run in a folder.

    Raises:
      RunError: if its config.json is not readable.
    """
    try:
        return writer.read_json(Path(path) / "config.json")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{Path(path) / 'config.json'} cannot be read ({error}). Give another"
            " --workdir, or --overwrite to start anew."
        ) from error


def check_same_run(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, extend: bool
) -> dict[str, tuple[Any, Any]]:
    """Refuses to go on with a run whose settings are others.

    Args:
      folder: of the run.
      old: its nested configuration (`read_config`).
      new: the one to go on with.
      extend: whether it may go on for another number of steps.

    Returns:
      What changes then, `{key: (before, after)}`, each in `config.SCHEDULE`.

    Raises:
      ConfigError: naming the differing keys, or the steps that are made.
    """
    source = new.get("mesh", {}).get("source", "")
    before = origin.find(old.get("mesh", {}).get("source", ""), folder)
    now = origin.given(source)
    if now and origin.is_same(folder, now):
        before = now  # wherever it was: the same checkpoint
    differing = config_lib.differing_keys(
        origin.replaced(old, before),
        origin.replaced(config_lib.nest(config_lib.flatten(new)), now),
    )
    changed = {}
    if extend and "num_steps" in differing:
        changed = {k: differing.pop(k) for k in config_lib.SCHEDULE if k in differing}
    if differing:
        lines = [f"  {k}: {a!r} there, {b!r} now" for k, (a, b) in differing.items()]
        raise ConfigError(
            f"--workdir={folder} holds a run with another configuration:\n"
            + "\n".join(lines)
            + "\nGive another --workdir, or the same settings to go on with it"
            + (", or --overwrite to delete it and start anew." if extend else ".")
        )
    done, wanted = history.steps_done(folder), new["num_steps"]
    if changed and wanted < done:
        raise ConfigError(
            f"num_steps={wanted:,}, but the run in --workdir={folder} has made"
            f" {done:,} steps of {old['num_steps']:,}. Give num_steps={done} or more to"
            " go on with it, or another --workdir."
        )
    return changed


def describe_environment() -> dict[str, Any]:
    """Versions, devices and commit: what another needs to repeat the run."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in ("vsd_jax", *_PACKAGES)},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _git_commit() -> str:
    """Commit of the source tree, "+changes" if it is edited; "" outside of git."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(
            command, capture_output=True, errors="replace", check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "-uno")
    except OSError:
        return ""
    return commit + ("+changes" if commit and changes else "")
