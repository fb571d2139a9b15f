# SPDX-License-Identifier: Apache-2.0
"""Flags -> configuration, with errors a person can act on.

ml_collections answers an unknown key with a traceback, and a configuration file that
does not exist only when it is used.
"""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections.config_flags import config_flags

from vsd_jax.program.devices import hosts
from vsd_jax.program.folder import paths
from vsd_jax.program.run import session
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import config_rules, from_package, named
from vsd_jax.program.terminal import overrides
from vsd_jax.program.terminal.errors import ConfigError

_HOSTS = hosts.Place._fields
DEFAULT_PORT = 8000
"""Of `--serve`."""


def define(values: flags.FlagValues) -> None:
    """Defines the program's flags in `values` (`flags.FLAGS` but for tests)."""
    about = (
        f"Settings: {', '.join(named.NAMED)}, or a file such as configs/object.py, with"
        " a variant after a colon (:sd21, :sd15, :smoke). Change a key with"
        " --config.KEY=VALUE; all keys: docs/settings.md. Only --mode=train"
        " and preflight need it; the others take --config.eval.KEY=VALUE (export, log)."
    )
    options = {"lock_config": True, "flag_values": values}
    with _flagfile_faults():  # ml_collections reads it now
        config_flags.DEFINE_config_file("config", None, about, **options)
    about = "Folder of the run; the same one goes on with it."
    flags.DEFINE_string("workdir", "", about, flag_values=values)
    about = (
        "train does all; render, export and evaluate make one thing anew from the last"
        " checkpoint; preflight tells memory and time before anything is loaded."
    )
    flags.DEFINE_enum("mode", "train", session.MODES, about, flag_values=values)
    about = "Delete an earlier run in --workdir and start anew."
    flags.DEFINE_bool("overwrite", False, about, flag_values=values)
    flags.DEFINE_flag(_serve_flag(), values)
    _define_hosts(values)
    # absl's --help shows only the flags of the file that was started.
    for name in (
        "config",
        "workdir",
        "mode",
        "overwrite",
        "serve",
        *_HOSTS,
        "distributed",
    ):
        values.register_key_flag_for_module(sys.argv[0], values[name])


class _PortParser(flags.ArgumentParser):
    """`--serve` alone, or with a port."""

    syntactic_help = "a port"

    def parse(self, argument: Any) -> int | None:
        """The port; None = nothing is served.

        Raises:
          ValueError: if it is no port.
        """
        text = str(argument).lower()
        if text in ("true", "false"):
            return DEFAULT_PORT if text == "true" else None
        if not text.isdecimal() or int(text) > 65535:
            raise ValueError(f"{argument!r} is no port; give 1 to 65535, or 0 for any")
        return int(text)


def _serve_flag() -> flags.Flag:
    about = (
        "While it trains, show its report, which reloads by itself, on this machine at"
        f" http://127.0.0.1:{DEFAULT_PORT}/ or another port: --serve=PORT (0 = any)."
    )
    return flags.Flag(
        _PortParser(), flags.ArgumentSerializer(), "serve", None, about, boolean=True
    )


def _define_hosts(values: flags.FlagValues) -> None:
    about = (
        "This is one process of several hosts (docs/scaling.md); SLURM, Kubernetes,"
        " Open MPI or the TPU pod tells where the others are."
    )
    flags.DEFINE_bool("distributed", False, about, flag_values=values)
    about = "As --distributed, by hand: HOST:PORT of process 0, the same for all."
    flags.DEFINE_string("coordinator", None, about, flag_values=values)
    about = "With --coordinator: how many processes there are."
    flags.DEFINE_integer("num_processes", None, about, flag_values=values)
    about = "With --coordinator: which one this is, from 0."
    flags.DEFINE_integer("process_id", None, about, flag_values=values)


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line, for `absl.app.run`.

    Returns:
      The program's name, then what changes the settings of a finished run.

    Raises:
      ConfigError: naming the key at fault and the nearest known ones.
    """
    with _flagfile_faults():
        argv = _expand(values.read_flags_from_files(list(argv), force_gnu=False))
    try:
        own, changes = overrides.split(argv)
        rest = values(own)
    except (AttributeError, KeyError) as error:
        # Overrides of keys that do not exist end up here.
        raise ConfigError(_explain(argv, error)) from error
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"--config: {_last_line(error)}") from error
    except flags.Error as error:
        raise ConfigError(f"{_short(error)}\nSee --help for all flags.") from error
    except Exception as error:  # whatever a user's own configuration file raises
        raise ConfigError(_file_fault(error)) from error
    if len(rest) > 1:
        raise ConfigError(
            f"{rest[1]!r} is no flag; values go with their flag, in quotes if they have"
            ' spaces: --config.prompt="a red mushroom".'
        )
    return [*rest, *changes]


@contextlib.contextmanager
def _flagfile_faults() -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--flagfile is not in {error.encoding} ({error}); save it as UTF-8."
            " (PYTHONUTF8=1 reads UTF-8, whatever the locale.)"
        ) from error
    except flags.Error as error:
        raise ConfigError(f"--flagfile: {error}") from error


def _expand(argv: Sequence[str]) -> list[str]:
    """The arguments with the path of `--config` written out.

    `~`, which no shell expands after `=`, and the names of presets, which are found in
    the package where there is no such file.
    """
    argv = list(argv)
    for place, argument in enumerate(argv[1:], 1):
        name, _, value = argument.partition("=")
        if fault := paths.fault(argument):
            raise ConfigError(f"{argument!r} {fault}.")
        if name.lstrip("-") == "config" and value:
            argv[place] = f"{name}={_config_path(value)}"
        elif argv[place - 1] in ("-config", "--config"):
            argv[place] = _config_path(argument)
    return argv


def _config_path(value: str) -> str:
    name, _, variant = value.partition(":")
    if name in named.NAMED and not os.path.isfile(name):
        return f"{from_package.__file__}:{value}"
    return str(paths.expand(value, "--config")) if value.startswith("~") else value


def read(values: flags.FlagValues, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The arguments of `session.start` that come from the command line.

    Args:
      values: parsed.
      changes: what `parse` returned after the program's name.

    Raises:
      ConfigError: if the configuration file does not exist.
    """
    try:
        config = values["config"].value
        if config is not None:
            config.keys()  # a file that is not there fails when it is used
    except OSError as error:
        raise ConfigError(
            f"--config: there is no such file, seen from the current folder, and no"
            f" preset of that name: {', '.join(named.NAMED)}. ({_last_line(error)})"
        ) from error
    names = {"mode": "mode", "folder": "workdir", "overwrite": "overwrite"}
    names["serve"] = "serve"
    found = {argument: values[flag].value for argument, flag in names.items()}
    if found["folder"]:
        found["folder"] = str(paths.expand(found["folder"], "--workdir"))
    return {"config": config, "overrides": tuple(changes)} | found


def read_hosts(values: flags.FlagValues) -> hosts.Place | None:
    """This process's place among several hosts; None if it is alone.

    Raises:
      ConfigError: if the flags do not go together.
    """
    place = hosts.Place(*(values[name].value for name in _HOSTS))
    given = [f"--{n}={v}" for n, v in zip(_HOSTS, place, strict=True) if v is not None]
    mode, detect = values["mode"].value, values["distributed"].value
    if not given and not detect:
        return None
    if mode != "train":
        raise ConfigError(
            f"--mode={mode} works on one host; leave {(*given, '--distributed')[0]} out"
            " and start it once."
        )
    if detect and given:
        raise ConfigError(
            f"--distributed lets the cluster tell what {given[0]} tells by hand; leave"
            " one of them out."
        )
    if not detect:
        _check_place(place, given)
    return place


def _check_place(place: hosts.Place, given: Sequence[str]) -> None:
    missing = [f"--{n}" for n, v in zip(_HOSTS, place, strict=True) if v is None]
    if missing:
        raise ConfigError(
            f"{' '.join(given)} needs {' and '.join(missing)} too; give all three, or"
            " --distributed alone where a cluster tells them."
        )
    host, _, port = place.coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"--coordinator={place.coordinator} is no HOST:PORT; give the address of"
            " process 0's host and a free port there, e.g. --coordinator=10.0.0.1:4321."
        )
    if place.num_processes < 1:
        raise ConfigError(
            f"--num_processes={place.num_processes} must be at least 1; give the number"
            " of processes that are started."
        )
    if not 0 <= place.process_id < place.num_processes:
        raise ConfigError(
            f"--process_id={place.process_id} must be from 0 to"
            f" {place.num_processes - 1} with --num_processes={place.num_processes};"
            " give each process its own."
        )


def _explain(argv: Sequence[str], error: Exception) -> str:
    try:
        known = config_lib.flatten(_load(argv))
    except (AttributeError, KeyError):  # the file itself is at fault
        return _file_fault(error)
    keys = overrides.keys(argv)
    sections = {key.rpartition(".")[0] for key in known}
    unknown = [key for key in keys if key not in known and key not in sections]
    if not unknown:
        return f"--config: {_last_line(error)}"
    return "\n".join(config_rules.suggest(key, known) for key in unknown)


def _load(argv: Sequence[str]) -> Any:
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        name, _, path = argument.lstrip("-").partition("=")
        path = path or following
        if name == "config" and path:
            return config_flags.ConfigFileFlagParser("config").parse(path)
    return {}


def _short(error: Exception) -> str:
    """What a configuration file raised in a line, without the library's traceback."""
    text = str(error)
    head, found, trace = text.partition("Traceback (most recent call last):")
    if not found:
        return text
    frames = re.findall(r'File "(.+?)", line (\d+)', trace)
    own = [(file, line) for file, line in frames if "ml_collections" not in file]
    reason = next(line for line in reversed(trace.splitlines()) if line.strip())
    kind, _, said = reason.partition(": ")
    if kind == "ValueError" and said:
        return f"--config: {said}"
    file, line = own[0] if own else frames[-1]
    return f"--config: {reason} ({file}, line {line})"


def _file_fault(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not re.search("ml_collections|absl", f.filename)]
    frame = (own or frames)[-1]
    return (
        f"--config: the file raised {type(error).__name__}: {_last_line(error)}"
        f" ({frame.filename}, line {frame.lineno})."
    )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else repr(error)
